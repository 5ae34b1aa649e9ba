"""One list of options: what the command line, the Python functions and RenderSpec know can not drift apart.

Recipes take their keys from the command line; `test_recipe` makes sure that every option goes through one and comes out
the same.
"""

import inspect
import re
import typing
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from hirez_mosaic.cli.main import main
from hirez_mosaic.jobs import batch as batching
from hirez_mosaic.jobs import compare as comparing
from hirez_mosaic.jobs import page as paging
from hirez_mosaic.jobs import print as printing
from hirez_mosaic.jobs import remake as assembling
from hirez_mosaic.jobs import render as rendering
from hirez_mosaic.jobs import train as training
from hirez_mosaic.jobs import view as viewing
from hirez_mosaic.settings.shared import Shared, SharedSettings
from hirez_mosaic.settings.spec import RenderSettings, RenderSpec, parse_settings

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "render": rendering.render,
    "batch": batching.batch,
    "train": training.train,
    "compare": comparing.compare,
    "assemble": assembling.assemble_tile_map,
    "page": paging.make_pages,
    "print": printing.print_sheets,
    "view": viewing.view,
}
ONLY_ON_THE_COMMAND_LINE = {"as_json", "quiet", "print_recipe", "log_file", "verbose"}
ARGUMENTS = {"source", "sources", "folder", "mosaics", "mosaic", "file"}
REQUIRED = object()
COMMAS = {"scales", "selections"}
"""Sequences in Python that are words with commas on the command line."""


class Heard(Exception):  # noqa: N818 (no error)
    """What a command calls its function with."""


for_each_function = pytest.mark.parametrize("name", FUNCTIONS)


def options(name: str) -> dict[str, click.Parameter]:
    return {
        str(option.name): option for option in main.commands[name].params if option.name not in ONLY_ON_THE_COMMAND_LINE
    }


@dataclass(frozen=True)
class Parameter:
    """What a function can be told. default: `REQUIRED` where there is none. hint: its type."""

    default: Any
    hint: Any


def parameters(name: str) -> dict[str, Parameter]:
    """What a function takes, those that its typed list of settings names included: their defaults are the spec's."""
    hints = typing.get_type_hints(FUNCTIONS[name])
    defaults = {field.name: field.default for field in fields(RenderSpec)}
    found: dict[str, Parameter] = {}
    for key, one in inspect.signature(FUNCTIONS[name]).parameters.items():
        if one.kind is one.VAR_KEYWORD:
            (settings,) = typing.get_args(hints[key])
            found.update(
                {word: Parameter(defaults[word], hint) for word, hint in typing.get_type_hints(settings).items()}
            )
        elif key != "listener":
            found[key] = Parameter(REQUIRED if one.default is one.empty else one.default, hints[key])
    return found


@for_each_function
def test_command_and_function_have_the_same_settings(name: str) -> None:
    assert set(options(name)) == set(parameters(name))


@for_each_function
def test_what_one_requires_the_other_requires(name: str) -> None:
    required = {key for key, option in options(name).items() if option.required}
    # on the command line the output of an assembly is an option, and must be given all the same
    assert required == {key for key, one in parameters(name).items() if one.default is REQUIRED}


@for_each_function
def test_a_plain_call_means_the_same_on_the_command_line_and_in_python(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x").touch()  # what is read must be there
    places = [
        key for key, one in inspect.signature(FUNCTIONS[name]).parameters.items() if one.kind is not one.VAR_KEYWORD
    ]

    def hear(*values: Any, **settings: Any) -> None:
        raise Heard({**dict(zip(places, values, strict=False)), **settings})

    monkeypatch.setattr(inspect.getmodule(FUNCTIONS[name]), FUNCTIONS[name].__name__, hear)
    required = {key: "x" for key, option in options(name).items() if option.required}
    words = [word for key in required for word in ([] if key in ARGUMENTS else [f"--{key.replace('_', '-')}", "x"])]
    words += ["x"] if required.keys() & ARGUMENTS else []
    result = CliRunner().invoke(main, [name, *words])
    assert isinstance(result.exception, Heard), result.output
    heard = result.exception.args[0]
    assert set(heard) - {"listener"} == set(parameters(name))
    for key, one in parameters(name).items():
        if one.default is not REQUIRED:
            assert meaning(key, heard[key]) == meaning(key, one.default), key


def meaning(key: str, value: Any) -> Any:
    """A setting as the spec has it, whether it was given as text or number, list or tuple."""
    return plain(value if isinstance(value, bool) else parse_settings({key: value}).get(key))


def plain(value: Any) -> Any:
    """A default, whether text or number, list or tuple."""
    return tuple(map(str, value)) if isinstance(value, list | tuple) else None if value is None else str(value)


@for_each_function
def test_the_kinds_agree(name: str) -> None:
    hints = {key: one.hint for key, one in parameters(name).items()}
    for key, option in options(name).items():
        kinds = {hints[key], *typing.get_args(hints[key])} - {...}
        if isinstance(option, click.Option) and option.is_flag:
            assert hints[key] is bool, key
            continue
        assert bool not in kinds, key
        if option.multiple if isinstance(option, click.Option) else option.nargs == -1:
            (inner,) = typing.get_args(hints[key])
            kinds = set(typing.get_args(inner)) or {inner}
        if isinstance(option.type, click.Path):
            assert {str, Path} <= kinds, key
        elif isinstance(option.type, click.types.IntParamType):
            assert kinds & {int, float, str} == {int}, key
        elif isinstance(option.type, click.types.FloatParamType):
            assert kinds & {int, float, str} == {float}, key
        else:
            assert str in kinds or key in COMMAS, key


@for_each_function
def test_every_parameter_stands_in_the_docstring(name: str) -> None:
    text = inspect.getdoc(FUNCTIONS[name]) or ""
    if "The rest is as in `render`" in text:
        text += inspect.getdoc(rendering.render) or ""
    listed = {
        word for line in re.findall(r"(?:^|[.;)] |`)((?:\w+, )*\w+):", text, re.MULTILINE) for word in line.split(", ")
    }
    named = set(re.findall(r"`(\w+)`", text))
    assert set(parameters(name)) - listed - named == set()


GIVEN = {
    "source": "a.png",
    "templates": "t",
    "tile": "48x32",
    "output": "m.png",
    "scale": "0.1",
    "memory": "2GiB",
    "scheduler": "tcp://host:8786",
    "workspace": "work",
    "background": "black",
    "decoder": "d.safetensors",
    "choose": "alone",
    "crop": "attention",
    "effort": "best",
    "exclude": ("*.txt",),
    "source_page": 2,
    "plane": 2,
    "page": "wall",
}


def test_what_train_and_compare_share_with_a_render_means_the_same_there() -> None:
    renders, hints = {field.name: field for field in fields(RenderSpec)}, typing.get_type_hints(RenderSettings)
    assert typing.get_type_hints(SharedSettings) == {field.name: hints[field.name] for field in fields(Shared)}
    for field in fields(Shared):
        assert (field.default, field.type) == (renders[field.name].default, renders[field.name].type), field.name


def test_every_setting_of_render_reaches_the_spec_in_its_own_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "run_render", lambda spec, listener: spec)
    hints = typing.get_type_hints(RenderSpec)
    assert {field.name for field in fields(RenderSpec)} == set(parameters("render"))
    for key in parameters("render"):
        kinds = {hints[key], *typing.get_args(hints[key])} - {...}
        value = GIVEN.get(key) or (
            "x.png" if Path in kinds else True if bool in kinds else 0.5 if float in kinds else 1
        )
        value = {
            "device": "cpu",
            "precision": "float32",
            "compression": "lzw",
            "iiif": "http://a.org",
            "dpi": 72.0,
        }.get(key, value)
        given = {"source": "a.png", "templates": "t", "tile": 9, key: value}
        if key == "far_weight":
            given["refine"] = 1  # without it there is no far view
        if key == "iiif":
            given["output"] = "a.iiif"  # alone takes it
        spec = rendering.render(**given)
        default = next(field.default for field in fields(RenderSpec) if field.name == key)
        assert getattr(spec, key) != default, key
        assert isinstance(getattr(spec, key), tuple(typing.get_origin(kind) or kind for kind in kinds)), key
    plainly = rendering.render("a.png", "t")
    for field in fields(RenderSpec):
        if field.default is not MISSING:
            assert getattr(plainly, field.name) == field.default, field.name
    assert rendering.render("a.png", "t", scale="0.1", memory="2GiB").scale == Fraction(1, 10)
