"""What mkdocs adds to the pages: the reference, made from the program, and the benchmarks' results.

A page asks for a part with a comment, `<!-- commands -->`; `PARTS` has them all.
"""

import ast
import inspect
import re
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import hirez_mosaic
from hirez_mosaic.cli.main import main
from hirez_mosaic.cli.recipe import RecipeCommand, parameters_of

ROOT = Path(__file__).parent.parent
WIDTH = 88
"""Of the help, characters."""


def leaves(group: click.Group, above: str = "") -> Iterator[tuple[str, click.Command]]:
    """(words that call it, command) of every command that does something, in alphabetical order."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from leaves(command, f"{above}{name} ")
        else:
            yield f"{above}{name}", command


def commands() -> str:
    """The help of every command, as the terminal shows it."""
    shown = []
    for words, command in leaves(main):
        context = click.Context(command, info_name=f"hirez-mosaic {words}", terminal_width=WIDTH)
        shown.append(f"## {words}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(shown)


def recipe_keys() -> str:
    """A table for each job: key, default, meaning."""
    shown = []
    for words, command in leaves(main):
        if isinstance(command, RecipeCommand) and words != "completion":
            rows = [_row(key, parameter) for key, parameter in parameters_of(command).items()]
            table = "\n".join(["| key | kind | meaning |", "| --- | --- | --- |", *rows])
            shown.append(f"## [{words.replace(' ', '.')}]\n\n{table}\n")
    return "\n".join(shown)


def _row(key: str, parameter: click.Parameter) -> str:
    kind = "flag" if getattr(parameter, "is_flag", False) else _kind(parameter)
    kind = f"list of {kind}" if getattr(parameter, "multiple", False) or parameter.nargs == -1 else kind
    told = parameter.help if isinstance(parameter, click.Option) else "The argument of that name."
    return f"| `{key}` | {kind}{', required' if parameter.required else ''} | {_cell(told or '')} |"


def _kind(parameter: click.Parameter) -> str:
    if isinstance(parameter.type, click.Choice):
        return ", ".join(f"`{one}`" for one in parameter.type.choices)
    name = parameter.type.name
    return {"integer range": "integer", "float range": "float", "file or word": "path or word"}.get(name, name)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("  [", " [").replace("\n", " ")


def python() -> str:
    """Every public name with its signature and docstring."""
    shown = []
    for name in sorted(hirez_mosaic.__all__, key=str.lower):
        found = getattr(hirez_mosaic, name)
        if inspect.isclass(found) or inspect.isfunction(found):
            shown.append(f"## {name}\n\n{_signature(name, found)}\n\n{_told(found)}\n")
        if inspect.isclass(found):
            shown += [
                f"### {name}.{method}\n\n{_signature(method, member)}\n\n{_told(member)}\n"
                for method, member in vars(found).items()
                if not method.startswith("_") and inspect.isfunction(member) and member.__doc__
            ]
    return "\n".join([*shown, f"## errors\n\n{_told(hirez_mosaic.errors)}\n"])


def _signature(name: str, found: Any) -> str:
    """The call, with the types' module names left out."""
    if inspect.isclass(found) and issubclass(found, Exception):
        return f"```python\n{name}(message)\n```"
    given = [one for one in inspect.signature(found).parameters.values() if one.name != "self"]
    after = next((number for number, one in enumerate(given) if one.kind is one.KEYWORD_ONLY), len(given))
    lines = [_parameter(one) for one in given]
    words = ",\n    ".join([*lines[:after], "*", *lines[after:]] if after < len(given) else lines)
    return f"```python\n{name}(\n    {words},\n)\n```" if words else f"```python\n{name}()\n```"


def _parameter(one: inspect.Parameter) -> str:
    """A parameter; in place of settings that a typed list names, that list."""
    if one.kind is one.VAR_KEYWORD:
        (settings,) = typing.get_args(one.annotation)
        return ",\n    ".join(f"{name}=..." for name in typing.get_type_hints(settings))
    return re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Z])", "", str(one))


def _told(found: Any) -> str:
    """A docstring as Markdown: parameters become a list, what is indented stays as it is."""
    blocks = (inspect.getdoc(found) or "").split("\n\n")
    return "\n\n".join(f"```text\n{block}\n```" if block.startswith("    ") else _listed(block) for block in blocks)


def _listed(block: str) -> str:
    """A paragraph, and the list of the parameters that stand in it as `name: what it is`."""
    named = re.sub(r"(?:^|(?<=\. ))([a-z]\w*(?:, [a-z]\w*)*): ", r"\n- **\1**: ", block, flags=re.MULTILINE)
    return re.sub(r"\n *(?!- \*\*)", " ", re.sub(r" *\n+(?=- )", "\n", named)).strip()


def drawing(module: str) -> Callable[[], str]:
    """The first indented part of a module's docstring, which draws a format; the module is not imported."""

    def shown() -> str:
        text = ast.get_docstring(ast.parse((ROOT / "hirez_mosaic" / module).read_text("utf-8"))) or ""
        lines = re.findall(r"(?:^(?: {4,}|index\.html|viewer/|tiles/|index/|templates/).*\n?)+", text, re.MULTILINE)
        return f"```text\n{inspect.cleandoc(lines[0])}\n```\n"

    return shown


def results() -> str:
    """A list of the benchmarks' results, by the first line of each."""
    files = sorted((ROOT / "benchmarks" / "results").glob("*.md"))
    return "\n".join(f"- [{_title(path)}](results/{path.name})" for path in files) + "\n"


def _title(path: Path) -> str:
    first = path.read_text("utf-8").splitlines()[0]
    return first.removeprefix("# ") if first.startswith("# ") else path.stem


PARTS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "recipe keys": recipe_keys,
    "python": python,
    "results": results,
    "tile map": drawing("outputs/tile_map.py"),
    "workspace": drawing("engine/store.py"),
    "page": drawing("outputs/pages/page.py"),
    "blocks": drawing("outputs/pages/blocks.py"),
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the benchmarks' results, which lie outside docs/."""
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.md")):
        files.append(File.generated(config, f"results/{path.name}", content=path.read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the parts in the places that ask for them."""
    return re.sub(rf"<!-- ({'|'.join(PARTS)}) -->", lambda found: PARTS[found[1]](), markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Keep options whole where a command wraps, which would else break behind their dashes."""

    def whole(found: re.Match[str]) -> str:
        return re.sub(r"(?<=\s)--[\w-]+", r'<span class="flag">\g<0></span>', found[0])

    return re.sub(r"<pre><code>.*?</code></pre>", whole, html, flags=re.DOTALL)
