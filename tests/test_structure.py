"""Imports go one way, and the words of the project do not drift."""

import ast
import itertools
import re
import shlex
from pathlib import Path

import click
import pytest
from conftest import leaves

import hirez_mosaic
from hirez_mosaic.cli.main import main

ROOT = Path(hirez_mosaic.__file__).parent
LEVELS = [
    "errors",
    "files",
    "pixels",
    "settings",
    "nets",
    "sources",
    "templates",
    "engine",
    "stages",
    "outputs",
    "jobs",
    "cli",
]
LEVEL = {room: level for level, room in enumerate(LEVELS)}


def own_imports(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("hirez_mosaic"):
            below = node.module.split(".")[1:2]
            names += below or [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("hirez_mosaic.")]
    return [name for name in names if name in LEVEL]


def by_name(tree: ast.AST) -> list[str]:
    """What `import_module` imports."""
    words = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return [word.split(".")[1] for word in words if re.fullmatch(r"hirez_mosaic(\.\w+)+", word)]


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_down_and_stand_at_the_top(file: Path) -> None:
    room = file.relative_to(ROOT).parts[0].removesuffix(".py")
    if room.startswith("__"):
        pytest.skip("the package's own front")
    tree = ast.parse(file.read_text())
    for name in own_imports(tree) + by_name(tree):
        assert name == room or LEVEL[name] < LEVEL[room], f"{room} imports {name}"
    if room != "cli":
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                assert not own_imports(function), f"{function.name} imports inside"


def test_only_the_command_line_knows_click_and_rich() -> None:
    for file in ROOT.rglob("*.py"):
        if file.relative_to(ROOT).parts[0] != "cli" and file.name != "__main__.py":
            imported: list[str] = []
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ImportFrom):
                    imported.append(node.module or "")
                elif isinstance(node, ast.Import):
                    imported += [alias.name for alias in node.names]
            assert not {"click", "rich"} & {name.split(".")[0] for name in imported}, file


def test_all_is_complete() -> None:
    for name in hirez_mosaic.__all__:
        assert getattr(hirez_mosaic, name) is not None
    raised = {name for name in dir(hirez_mosaic.errors) if name.endswith("Error") and name[0].isupper()}
    assert raised == set(hirez_mosaic.errors.__all__)


def test_every_error_stands_in_the_tree_that_is_drawn() -> None:
    for name in hirez_mosaic.errors.__all__:
        assert name in (hirez_mosaic.errors.__doc__ or "")


def commands() -> dict[str, click.Command]:
    """Every command that does something, by the words that call it."""
    return {f"hirez-mosaic {label.replace('.', ' ')}": command for label, command in leaves(main)}


def test_every_command_and_option_has_help() -> None:
    for words, command in commands().items():
        assert command.help, words
        assert all(parameter.help for parameter in command.params if isinstance(parameter, click.Option)), words


def documented() -> list[str]:
    """Every line that shows a call: in the READMEs and the guides, and in the commands' own help."""
    places = [ROOT.parent / place for place in ("README.md", "pipelines/README.md", "benchmarks/README.md")]
    texts = [place.read_text("utf-8") for place in [*places, *(ROOT.parent / "docs").rglob("*.md")]]
    texts += ["    " + line.strip() for command in commands().values() for line in (command.help or "").splitlines()]
    lines = [line.strip() for text in texts for line in text.splitlines() if line.startswith("    hirez-mosaic ")]
    return sorted(set(lines))


@pytest.mark.parametrize("line", documented())
def test_what_the_documents_call_can_be_called(line: str) -> None:
    words = shlex.split(line, comments=True)
    words = list(itertools.takewhile(lambda word: word not in (">", "|"), words))
    name = next(name for name in commands() if words[: len(name.split())] == name.split())
    command, given = commands()[name], words[len(name.split()) :]
    with command.make_context(
        name, given
    ) as context:  # raises UsageError for an option that is not there, or an argument that lacks
        assert context.params


def test_many_calls_are_documented() -> None:
    assert len(documented()) > 20


STILL_LONG = {("settings/spec.py", "__post_init__")}
"""Functions of more than 60 lines that wait to be cut."""


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its signature and docstring."""
    first, end = function.body[0], function.end_lineno or 0
    return end - (first.end_lineno or 0) if ast.get_docstring(function) is not None else end - first.lineno + 1


def test_functions_are_short() -> None:
    found = [
        (body_lines(node), file.relative_to(ROOT).as_posix(), node.name)
        for file in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert {(file, name) for lines, file, name in found if lines > 60} <= STILL_LONG
    lengths = sorted(lines for lines, _, _ in found)
    assert lengths[len(lengths) // 2] <= 6
    assert lengths[len(lengths) * 9 // 10] <= 20


def test_no_half_of_a_string_stands_alone() -> None:
    """A string that was broken over two lines without brackets loses its second half in silence."""
    folders = ("hirez_mosaic", "benchmarks", "pipelines", "tests")
    for file in (path for folder in folders for path in (ROOT.parent / folder).rglob("*.py")):
        for function in ast.walk(ast.parse(file.read_text())):
            if isinstance(function, ast.FunctionDef):
                lone = [
                    node.lineno
                    for node in ast.walk(function)
                    if isinstance(node, ast.Expr)
                    and node is not function.body[0]
                    and (isinstance(node.value, ast.JoinedStr) or isinstance(getattr(node.value, "value", None), str))
                    and not is_docstring_within(function, node)
                ]
                assert not lone, f"{file}: {function.name}, line {lone}"


def is_docstring_within(function: ast.FunctionDef, node: ast.Expr) -> bool:
    """Whether it documents a function or class inside, or a field of such a class."""
    inner = (
        one for one in ast.walk(function) if isinstance(one, ast.FunctionDef | ast.ClassDef) and one is not function
    )
    return any(node in one.body for one in inner)
