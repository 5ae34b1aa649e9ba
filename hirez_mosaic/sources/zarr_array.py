"""Zarr arrays and groups, OME-Zarr among them."""

from pathlib import Path
from typing import Any

import zarr

from hirez_mosaic.colour import Colour
from hirez_mosaic.errors import SourceError
from hirez_mosaic.sources.source import Source, check_samples, for_channels


def open_zarr(path: Path) -> Source:
    """A Zarr array, the first level of an OME-Zarr picture, or the only array of a group. Raises SourceError for anything else."""
    try:
        node = zarr.open(path, mode="r")
    except Exception as error:  # zarr raises many kinds on folders that hold no array
        raise SourceError(f"The folder {path} holds no Zarr array or group; the source must be one picture.") from error
    array = node if isinstance(node, zarr.Array) else _array_of(path, node)
    axes = _zarr_axes(path, node, array)
    check_samples(path, array.dtype)
    shape = dict(zip(axes, array.shape, strict=True))
    if not shape["X"] or not shape["Y"]:
        raise SourceError(f"{path} is empty: its shape is {array.shape}.")
    colour = for_channels(path, Colour("grey", bits=8 * array.dtype.itemsize), shape.get("S", 1))
    return Source(path, "Zarr", array, axes, (shape["X"], shape["Y"]), colour)


def _multiscales(group: zarr.Group) -> dict[str, Any]:
    """The first OME-Zarr multiscale image of a group, {} where there is none."""
    attributes = dict(group.attrs)
    ome = attributes.get("ome", attributes)
    found = ome.get("multiscales") if isinstance(ome, dict) else None
    return found[0] if found else {}


def _array_of(path: Path, group: zarr.Group) -> zarr.Array[Any]:
    scales = _multiscales(group)
    names = [scales["datasets"][0]["path"]] if scales else [name for name, _ in group.arrays()]
    if len(names) != 1:
        raise SourceError(f"The Zarr group {path} holds {len(names)} arrays; name one of them: {', '.join(sorted(names)) or 'none'}.")
    array = group.get(names[0])
    if not isinstance(array, zarr.Array):
        raise SourceError(f"The Zarr group {path} names {names[0]!r} as its picture, but holds no such array.")
    return array


def _zarr_axes(path: Path, node: Any, array: zarr.Array[Any]) -> str:
    """Axes by OME-Zarr's own word, else by shape: (Y, X), (Y, X, up to 4 channels), (up to 4 channels, Y, X), leading 1s."""
    named = _multiscales(node).get("axes") if isinstance(node, zarr.Group) else None
    if named:
        letters = "".join((axis["name"] if isinstance(axis, dict) else axis).upper()[0] for axis in named)
        axes = letters.replace("C", "S")
    else:
        shape = array.shape
        leading = max(0, len(shape) - 3)
        last, first = (len(shape) > 2 and shape[place] <= 4 for place in (-1, -3))
        core = "YX" if len(shape) == 2 else "YXS" if last else "SYX" if first else ""
        axes = "TZPQVW"[:leading] + core if all(entries == 1 for entries in shape[:leading]) else ""
    if len(axes) != array.ndim or "Y" not in axes or "X" not in axes or len(set(axes)) != len(axes):
        raise SourceError(f"{path} has the shape {array.shape}; use (rows, columns) or (rows, columns, channels).")
    return axes
