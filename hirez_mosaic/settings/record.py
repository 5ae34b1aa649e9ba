"""How a mosaic was made, in words that the mosaic itself can carry."""

from dataclasses import fields
from fractions import Fraction
from pathlib import Path

from hirez_mosaic import __version__
from hirez_mosaic.settings.spec import RenderSpec

SOFTWARE = f"hirez-mosaic {__version__}"
_OF_THE_RUN = {
    "anonymous",
    "chunk",
    "compression",
    "device",
    "dpi",
    "exclude",
    "iiif",
    "jobs",
    "max_source_px",
    "memory",
    "no_preview",
    "output",
    "overwrite",
    "page",
    "precision",
    "preview",
    "quality",
    "restart",
    "scheduler",
    "strict",
    "thumbnails",
    "tile_map",
    "weights",
    "workspace",
    "cog",
}
"""Settings that do not change which px a mosaic has, or that its file tells by itself, or that may name other people's things."""


def record_of(spec: RenderSpec) -> dict[str, str]:
    """The settings that made a mosaic what it is, where they are not the defaults; of paths the last name alone.

    Where templates are anonymous, no name of a file or folder is among them.
    """
    record = {}
    for one in fields(spec):
        value = getattr(spec, one.name)
        if one.name in _OF_THE_RUN or value == one.default or (spec.anonymous and isinstance(value, Path)):
            continue
        record[one.name] = _told(one.name, value)
    return record


def _told(name: str, value: object) -> str:
    if isinstance(value, Path) or name == "decoder":
        return Path(str(value)).name
    if isinstance(value, tuple):
        return ("x" if name == "tile" else ",").join(map(str, value))
    if isinstance(value, Fraction):
        return str(float(value))
    return str(value).lower() if isinstance(value, bool) else str(value)
