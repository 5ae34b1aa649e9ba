"""How a mosaic was made, in words that the mosaic itself can carry."""

from collections.abc import Mapping
from dataclasses import fields
from fractions import Fraction
from pathlib import Path

from hirez_mosaic import __version__
from hirez_mosaic.settings.choosing import Choosing
from hirez_mosaic.settings.spec import RenderSpec
from hirez_mosaic.settings.writing import Writing

SOFTWARE = f"hirez-mosaic {__version__}"
_NOT_TOLD = {"device", "exclude", "precision"}
"""Of `Choosing`: what does not change which px a mosaic has, or may name other people's things."""


def record_of(spec: RenderSpec) -> dict[str, str]:
    """What decided which px a mosaic has, where it is not the default; of paths the last name alone.

    Where templates are anonymous, no name of a file or folder is among them.
    """
    names = {one.name: one.default for one in fields(Choosing) if one.name not in _NOT_TOLD} | {"tint": 0.0}
    return record(
        {name: getattr(spec, name) for name, default in names.items() if getattr(spec, name) != default}, spec
    )


def record(values: Mapping[str, object], writing: Writing) -> dict[str, str]:
    """Values by name as a mosaic tells them: None is left out, and where it is anonymous so are paths."""
    told = {name: value for name, value in values.items() if value is not None}
    return {
        name: _text(name, value) for name, value in told.items() if not (writing.anonymous and isinstance(value, Path))
    }


def _text(name: str, value: object) -> str:
    if isinstance(value, Path) or name == "decoder":
        return Path(str(value)).name
    if isinstance(value, tuple):
        return ("x" if name == "tile" else ",").join(map(str, value))
    if isinstance(value, Fraction):
        return str(float(value))
    return str(value).lower() if isinstance(value, bool) else str(value)
