"""Recipes: jobs written down in TOML, with the options of the command line as keys.

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

The commands' own click options are the only list of keys there is. A recipe becomes the words of a command line, so it
can do what a command line can do and no more; `--print-recipe` turns the words into a recipe again.
"""

import difflib
import glob
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from hirez_mosaic.errors import SettingError
from hirez_mosaic.settings.parsing import is_url
from hirez_mosaic.settings.places import check_there

Table = dict[str, Any]
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_KINDS = {bool: "true or false", dict: "a table", list: "a list within a list"}


class FileOr(click.types.StringParamType):
    """The name of a file, or one of some words that have a meaning of their own."""

    name = "file or word"

    def __init__(self, *words: str) -> None:
        self.words = words

    def shell_complete(self, context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
        """The words that begin so; where none does, files."""
        found = [CompletionItem(word) for word in self.words if word.startswith(begun)]
        return found or [CompletionItem(begun, type="file")]


class There(click.Path):
    """A path that is read, and so must be there when the command runs: not before, as a job of a recipe may make it.

    It is checked before the libraries load that would read it, which takes seconds.
    """

    def __init__(self, what: str = "file or folder", path_type: type[Path] | None = None) -> None:
        super().__init__(path_type=path_type)
        self.what = what

    def check(self, value: Any) -> None:
        """Raise SourceNotFoundError where one of the paths, or the only one, is not there; the library refuses URLs."""
        for path in value if isinstance(value, tuple) else [value]:
            if path is not None and not is_url(str(path)):
                check_there(Path(path), self.what)


class RecipeCommand(click.Command):
    """A command that can be a job of a recipe. With --print-recipe it only prints the recipe of its call."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.params.append(
            click.Option(
                ["--print-recipe"],
                is_flag=True,
                help="Print this call as a recipe for `hirez-mosaic run`; do nothing else.",
            )
        )

    def invoke(self, context: click.Context) -> Any:
        if context.params.pop("print_recipe"):
            click.echo(recipe_of(context), nl=False)  # as bytes: a recipe is UTF-8, whatever the terminal is
            return None
        for parameter in self.params:
            if isinstance(parameter.type, There):
                parameter.type.check(context.params[str(parameter.name)])
        return super().invoke(context)


@dataclass(frozen=True)
class RecipeJob:
    """One table of a recipe.

    label: its name, "render" or "templates.glyphs".
    make: returns `words`.
    """

    label: str
    make: Callable[[], list[str]]

    @property
    def words(self) -> list[str]:
        """The words after the command; patterns stand for the files that are there now, as earlier jobs left them."""
        return self.make()

    @property
    def line(self) -> list[str]:
        """The command line without the program's name."""
        return [*self.label.split("."), *self.words]


def parameters_of(command: click.Command) -> dict[str, click.Parameter]:
    """The keys of a job: each option by its long name without dashes, each argument by its name."""
    return {_key(parameter): parameter for parameter in command.params if parameter.name != "print_recipe"}


def _key(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Argument):
        return str(parameter.name)
    return max(parameter.opts, key=len).removeprefix("--")


def _placed(value: str, parameter: click.Parameter, folder: Path) -> str:
    """A path, which is relative to `folder`, as seen from the current folder; an address (s3://...) as it is."""
    kind, place = parameter.type, folder / value
    is_path = isinstance(kind, click.Path) or (
        isinstance(kind, FileOr) and value not in kind.words and os.path.isfile(place)  # noqa: PTH113
    )
    if not is_path or _ADDRESS.match(value):
        return value
    plain = Path(os.path.normpath(place))
    # "a/../b" is another place than "b" where a is a link.
    return str(plain if plain.resolve() == place.resolve() else place)


# From words to a recipe


def recipe_of(context: click.Context) -> bytes:
    """The recipe, UTF-8, of a call that click has parsed: what differs from the defaults, with absolute paths.

    Raises SettingError for a name that no TOML file can hold.
    """
    lines = [f"[{'.'.join(context.command_path.split()[1:])}]"]
    for key, parameter in parameters_of(context.command).items():
        name = str(parameter.name)
        value, default = context.params[name], parameter.default
        given = context.get_parameter_source(name) is not ParameterSource.DEFAULT
        if given and value != (tuple(default) if isinstance(default, list) else default):
            lines.append(f"{key} = {_toml(value, parameter)}")
    return "".join(f"{line}\n" for line in lines).encode()


def _toml(value: object, parameter: click.Parameter) -> str:
    """A parameter's value in TOML, whose strings and whole numbers are JSON's, but for the character DEL."""
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(one, parameter) for one in value)}]"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str | os.PathLike):
        text = _placed(os.fspath(value), parameter, Path.cwd())
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise SettingError(f"The name {text!r} is no UTF-8, and TOML is; rename the file.")
        return json.dumps(text, ensure_ascii=False).replace("\x7f", r"\u007f")
    return json.dumps(value)


# From a recipe to words


def read_recipe(path: Path, commands: Mapping[str, click.Command]) -> list[RecipeJob]:
    """The jobs of a recipe, in their order.

    path: of the recipe.
    commands: by the names of their tables.

    Raises SettingError, which names the line, for whatever is no job, key or value.
    """
    try:
        text = path.read_text("utf-8-sig")
        tomllib.loads(text)
    except OSError as error:
        raise SettingError(f"The recipe {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise SettingError(f"The recipe {path} is no UTF-8 text; save it as such.") from error
    except (ValueError, RecursionError) as error:  # RecursionError: of arrays within arrays
        raise SettingError(f"The recipe {path} is no TOML: {error}.") from error
    jobs = [job for piece in _pieces(path, text) for job in piece.jobs(commands)]
    if not jobs:
        raise SettingError(f"The recipe {path} holds no job; begin one with [render].")
    return jobs


@dataclass(frozen=True)
class _Piece:
    """A part of a recipe that is TOML by itself: at most one header, and what stands below.

    path: of the recipe.
    first: number of its first line, from 1.
    lines: its lines.
    tables: what they hold.
    """

    path: Path
    first: int
    lines: Sequence[str]
    tables: Table

    def jobs(self, commands: Mapping[str, click.Command]) -> Iterator[RecipeJob]:
        """The jobs of this piece."""
        yield from self._jobs(self.tables, commands, ())

    def _jobs(
        self, tables: Table, commands: Mapping[str, click.Command], above: tuple[str | int, ...]
    ) -> Iterator[RecipeJob]:
        for name, found in tables.items():
            at = (*above, name)
            label = _label(at)
            if name not in commands:
                raise self._wrong(at, f"there is no job [{label}]; {_nearest(name, commands)}.")
            command = commands[name]
            for number, table in enumerate(found if isinstance(found, list) else [found]):
                if not isinstance(table, dict):
                    raise self._wrong(at, f"{label} is no table; write [{label}] and its options below.")
                within = (*at, number) if isinstance(found, list) else at
                if isinstance(command, click.Group):
                    yield from self._jobs(table, command.commands, within)
                else:
                    job = RecipeJob(label, partial(self._words, table, command, within))
                    job.make()  # raises what is wrong before the first job runs
                    yield job

    def _words(self, table: Table, command: click.Command, at: tuple[str | int, ...]) -> list[str]:
        """The words of a table on the command line, after the command. Raises SettingError for what click refuses."""
        known = parameters_of(command)
        options: list[str] = []
        arguments: list[str] = []
        for key, value in table.items():
            parameter = known.get(key)
            if parameter is None:
                raise self._wrong((*at, key), f"{_label(at)} has no option {key}; {_nearest(key, known)}.")
            if isinstance(parameter, click.Option):
                options += self._option_words(key, value, parameter, (*at, key))
            else:
                arguments += self._argument_words(value, parameter, (*at, key))
        words = [*options, "--", *arguments] if arguments else options
        try:
            command.make_context(str(command.name), list(words)).close()
        except click.ClickException as error:
            named = getattr(error, "param", None)
            at = (*at, _key(named)) if named is not None and _key(named) in table else at
            raise self._wrong(at, error.format_message()) from error
        return words

    def _option_words(self, key: str, value: object, option: click.Option, at: tuple[str | int, ...]) -> list[str]:
        if option.is_flag:
            if not isinstance(value, bool):
                raise self._wrong(at, f"{key} is {value!r}; use true or false.")
            return [f"--{key}"] if value else option.secondary_opts[:1]
        values = [self._word(one, option, at) for one in _as_list(value)]
        if option.multiple:
            return [word for one in values for word in (f"--{key}", one)]
        if isinstance(value, list) and option.type is not click.STRING:
            raise self._wrong(at, f"{key} is a list; write one value.")
        return [f"--{key}", ",".join(values)]

    def _argument_words(self, value: object, argument: click.Parameter, at: tuple[str | int, ...]) -> list[str]:
        words = [(str(one), self._word(one, argument, at)) for one in _as_list(value)]
        return [name for pattern, word in words for name in self._expanded(pattern, word, argument)]

    def _word(self, value: object, parameter: click.Parameter, at: tuple[str | int, ...]) -> str:
        """A value as on the command line; a path, which is relative to the recipe, as seen from the current folder."""
        wrong = None
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            wrong = f"is {_KINDS.get(type(value), 'a date or time')}; write text or a number"
        elif "\0" in str(value):
            wrong = "holds a null character; leave it out"
        elif value == "" and isinstance(parameter.type, click.Path):
            wrong = "is empty; name a path"
        if wrong is not None:
            raise self._wrong(at, f"{at[-1]} {wrong}.")
        return _placed(str(value), parameter, self.path.parent)

    def _expanded(self, value: str, word: str, parameter: click.Parameter) -> list[str]:
        """The files that a pattern in the recipe's folder names, sorted.

        word: the pattern as on the command line; it stands for itself where it names a file, or where no file matches.
        """
        if os.path.lexists(word):
            return [word]
        return sorted(glob.glob(_placed(value, parameter, Path(glob.escape(str(self.path.parent)))))) or [word]  # noqa: PTH207 (may be absolute)

    def _wrong(self, at: tuple[str | int, ...], sentence: str) -> SettingError:
        """An error that names the line where a table or key begins.

        It begins after the longest beginning of the piece that is TOML without it.
        """
        before = 0
        for end in range(1, len(self.lines) + 1):
            tables = _parsed(self.lines[:end])
            if tables is not None and _holds(tables, at):
                break
            before = before if tables is None else end
        return SettingError(f"{self.path}, line {self.first + before}: {sentence}")


def _pieces(path: Path, text: str) -> Iterator[_Piece]:
    """A valid recipe, cut before its headers.

    TOML itself does not keep the lines of tables, nor the order of tables of different names.
    """
    lines = text.split("\n")
    start = 0
    for end in range(1, len(lines) + 1):
        if end == len(lines) or lines[end].lstrip().startswith("["):
            tables = _parsed(lines[start:end])
            if tables is not None:  # otherwise the bracket stands within a value
                yield _Piece(path, start + 1, lines[start:end], tables)
                start = end


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _parsed(lines: Sequence[str]) -> Table | None:
    """The tables of these lines; None where they are no TOML."""
    try:
        return tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError:
        return None


def _holds(tables: Any, at: tuple[str | int, ...]) -> bool:
    """Whether there is something at these keys and numbers."""
    try:
        for step in at:
            tables = tables[step]
    except (KeyError, IndexError):
        return False
    return True


def _label(at: tuple[str | int, ...]) -> str:
    return ".".join(step for step in at if isinstance(step, str))


def _nearest(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean {close[0]}" if close else f"use some of {', '.join(sorted(known))}"
