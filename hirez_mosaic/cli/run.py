"""`hirez-mosaic run`: jobs written down in TOML, with the options of the command line as keys.

    [[train]]                       # a table a job, named after its command; [[...]] where there are several
    templates = "emoji"             # paths are relative to the recipe
    images = "photos"
    output = "emoji.safetensors"

    [templates.edges]
    output = "edges"

    [compare]
    sources = ["photos/*.png"]      # patterns are expanded
    templates = "emoji"
    far-weight = 2

The commands' own click options are the only list of keys there is: a recipe becomes the words of a command line.
"""

import difflib
import glob
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import click

from hirez_mosaic.errors import SettingError

_MAY_NAME_FILES = ("decoder", "chars")  # beside the words that these options know


@click.command(short_help="Run the jobs of a recipe.")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.pass_context
def run(context: click.Context, recipe: Path) -> None:
    """Run the jobs described in the file RECIPE (TOML), in their order."""
    group = context.find_root().command
    if not isinstance(group, click.Group):
        raise TypeError("run belongs to a group of commands.")
    commands = {name: command for name, command in group.commands.items() if name != "run"}
    for label, words in read_recipe(recipe, commands):
        line = [*label.split("."), *words]
        click.echo(f"hirez-mosaic {shlex.join(line)}", err=True)
        group.main(line, prog_name="hirez-mosaic", standalone_mode=False)


def read_recipe(path: Path, commands: dict[str, click.Command]) -> list[tuple[str, list[str]]]:
    """The name ("render", "templates.glyphs") and the words of each job.

    Raises SettingError, with the line, for whatever is no job, key or value.
    """
    try:
        text = path.read_text()
        tables = tomllib.loads(text)
    except OSError as error:
        raise SettingError(f"The recipe {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"The recipe {path} is no TOML: {error}.") from error
    if not tables:
        raise SettingError(f"The recipe {path} holds no job; begin one with [render].")
    return [(label, words) for _, label, words in sorted(_jobs(path, text, tables, commands, ""), key=lambda job: job[0])]


def _jobs(
    path: Path, text: str, tables: dict[str, Any], commands: dict[str, click.Command], above: str
) -> list[tuple[int, str, list[str]]]:
    """(line, label, words) of each table's job; TOML itself forgets in which order tables of different names stand."""
    jobs: list[tuple[int, str, list[str]]] = []
    for name, found in tables.items():
        label = above + name
        if name not in commands:
            raise SettingError(f"{path}, line {_line(text, label)}: there is no job [{label}]; {_nearest(name, list(commands))}.")
        command = commands[name]
        for number, table in enumerate(found if isinstance(found, list) else [found]):
            if not isinstance(table, dict):
                raise SettingError(f"{path}, line {_line(text, label)}: {label} is no table; write [{label}] and its options below.")
            if isinstance(command, click.Group):
                jobs += _jobs(path, text, table, dict(command.commands), f"{label}.")
            else:
                jobs.append((_line(text, label, number), label, _words(path, text, command, label, number, table)))
    return jobs


def _words(path: Path, text: str, command: click.Command, label: str, number: int, table: dict[str, Any]) -> list[str]:
    parameters = {_key(parameter): parameter for parameter in command.params}
    options: list[str] = []
    arguments: list[str] = []
    for key, value in table.items():
        place = f"{path}, line {_line(text, label, number, key)}"
        parameter = parameters.get(key)
        if parameter is None:
            raise SettingError(f"{place}: {label} has no option {key}; {_nearest(key, list(parameters))}.")
        values = [_word(one, parameter, path.parent) for one in (value if isinstance(value, list) else [value])]
        if isinstance(parameter, click.Argument):
            arguments += [name for one in values for name in _expanded(one)]
        elif parameter.is_flag:  # type: ignore[attr-defined]
            if not isinstance(value, bool):
                raise SettingError(f"{place}: {key} is {value!r}; use true or false.")
            options += [f"--{key}"] if value else parameter.secondary_opts[:1]
        elif parameter.multiple:
            options += [word for one in values for word in (f"--{key}", one)]
        else:
            options += [f"--{key}", ",".join(values)]
    words = [*options, "--", *arguments] if arguments else options
    try:
        command.make_context(str(command.name), list(words)).close()
    except click.ClickException as error:
        wrong = getattr(error, "param", None)
        at = _line(text, label, number, _key(wrong) if wrong is not None else None)
        raise SettingError(f"{path}, line {at}: {error.format_message()}") from error
    return words


def _expanded(pattern: str) -> list[str]:
    """The files a pattern names, sorted; itself where it names none."""
    return sorted(glob.glob(pattern)) or [pattern]  # noqa: PTH207 (may be absolute)


def _key(parameter: click.Parameter) -> str:
    """An option's long name without its dashes, an argument's name."""
    if isinstance(parameter, click.Argument):
        return str(parameter.name)
    return max(parameter.opts, key=len).removeprefix("--")


def _word(value: Any, parameter: click.Parameter, folder: Path) -> str:
    """A value as on the command line; a path, or what names a file beside the recipe, from where the recipe lies."""
    beside = folder / str(value)
    return str(beside) if isinstance(parameter.type, click.Path) or (parameter.name in _MAY_NAME_FILES and beside.is_file()) else str(value)


def _line(text: str, table: str, number: int = 0, key: str | None = None) -> int:
    """The line of the number-th table of this name, or of a key in it; of the first line that could be it."""
    lines = text.splitlines()
    heads = [at for at, line in enumerate(lines) if re.match(rf"\s*\[{{1,2}}\s*{re.escape(table)}\s*\]|\s*{re.escape(table)}\s*=", line)]
    at = heads[min(number, len(heads) - 1)] if heads else 0
    if key is not None:
        at = next((later for later in range(at, len(lines)) if re.match(rf"\s*\"?{re.escape(key)}\"?\s*=", lines[later])), at)
    return at + 1


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean {close[0]}" if close else f"use some of {', '.join(sorted(known))}"
