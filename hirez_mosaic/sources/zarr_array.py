"""Zarr arrays and groups, OME-Zarr among them, in folders or zipped."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from hirez_mosaic.errors import SettingError, SourceError, first_line
from hirez_mosaic.pixels.colour import Colour
from hirez_mosaic.sources.source import Level, Source, check_samples, check_size, for_channels, proper_levels


def open_zarr(path: Path, max_px: int, page: int = 0, plane: int = 0) -> Source:
    """Open a Zarr array, an OME-Zarr picture with its levels, or the only array of a group.

    path: a folder, or a zip file.
    max_px: the most px that the description may claim.
    page: which picture of a group of bioformats2raw, from 0.
    plane: which entry of the axes that are no rows, columns or channels, from 0.
    Raises SourceError for anything else, SettingError for a page or plane that is not there.
    """
    store = zarr.storage.ZipStore(path, mode="r") if path.is_file() else path
    try:
        node = zarr.open(store, mode="r")
    except Exception as error:  # zarr raises many kinds on folders that hold no array
        what = "zip file" if path.is_file() else "folder"
        raise SourceError(f"The {what} {path} holds no Zarr array or group; the source must be one picture.") from error
    kind = "Zarr"
    if isinstance(node, zarr.Group):
        node = _picture_of(path, node, page)
    elif page:
        raise SettingError(f"`source_page` is {page + 1} and {path} has 1; leave it out.")
    scales = _multiscales(node) if isinstance(node, zarr.Group) else {}
    try:
        if isinstance(node, zarr.Array):
            array, smaller = node, []
        elif scales:
            kind = "OME-Zarr"
            array = _first_level(path, node, scales)
            smaller = _smaller_levels(node, scales, array.shape)
        else:
            array, smaller = _only_array(path, node), []
        axes = _zarr_axes(path, scales.get("axes"), array)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise SourceError(
            f"{path} describes its picture in a way that is not OME-Zarr's: {first_line(error)}."
        ) from error
    check_samples(path, array.dtype)
    shape = dict(zip(axes, array.shape, strict=True))
    if not shape["X"] or not shape["Y"]:
        raise SourceError(f"{path} is empty: its shape is {array.shape}.")
    check_size(path, (shape["X"], shape["Y"]), max_px)
    colour, channels = Colour("grey", bits=8 * array.dtype.itemsize), shape.get("S", 1)
    entries = _entries(path, {axis: length for axis, length in shape.items() if axis not in "YXS"}, plane)
    named = bool(scales.get("axes")) and channels not in (1, 3)
    levels = [
        Level((one.shape[axes.index("X")], one.shape[axes.index("Y")]), one, axes, entries=entries)
        for one in (array, *smaller)
        if one.ndim == array.ndim
    ]
    return Source(
        path, kind, proper_levels(levels), colour if named else for_channels(path, colour, channels), named=named
    )


def _picture_of(path: Path, group: zarr.Group, page: int) -> zarr.Group:
    """The group of a picture: the group itself, or of bioformats2raw's layout the one of that number."""
    attributes = dict(group.attrs)
    ome = attributes.get("ome", attributes)
    if not isinstance(ome, dict) or "bioformats2raw.layout" not in ome:
        if page:
            raise SettingError(f"`source_page` is {page + 1} and {path} has 1; leave it out.")
        return group
    found = group.get(str(page))
    if not isinstance(found, zarr.Group):
        raise SettingError(f"`source_page` is {page + 1} and {path} has no such picture; use a smaller one.")
    return found


def _entries(path: Path, sizes: dict[str, int], plane: int) -> dict[str, int]:
    """Which entry of every other axis a plane, from 0, is."""
    planes = math.prod(sizes.values())
    if plane >= planes:
        raise SettingError(f"`plane` is {plane + 1} and {path} has {planes}; use 1 to {planes}.")
    return (
        dict(zip(sizes, (int(index) for index in np.unravel_index(plane, tuple(sizes.values()))), strict=True))
        if sizes
        else {}
    )


def _multiscales(group: zarr.Group) -> dict[str, Any]:
    """The first OME-Zarr multiscale image of a group, {} where there is none."""
    attributes = dict(group.attrs)
    ome = attributes.get("ome", attributes)
    found = ome.get("multiscales") if isinstance(ome, dict) else None
    return found[0] if found else {}


def _first_level(path: Path, group: zarr.Group, scales: dict[str, Any]) -> zarr.Array[Any]:
    name = scales["datasets"][0]["path"]
    array = group.get(name)
    if not isinstance(array, zarr.Array):
        raise SourceError(f"The Zarr group {path} names {name!r} as its picture, but holds no such array.")
    return array


def _smaller_levels(group: zarr.Group, scales: dict[str, Any], full: tuple[int, ...]) -> list[zarr.Array[Any]]:
    """The other datasets that are there, but for those whose own scale is not that of their size."""
    first, *others = scales["datasets"]
    found = []
    for dataset in others:
        array = group.get(dataset["path"])
        if not isinstance(array, zarr.Array) or array.ndim != len(full):
            continue
        factors = [
            small / large for small, large in zip(_scale(dataset, len(full)), _scale(first, len(full)), strict=True)
        ]
        known = all(factors) and factors != [1.0] * len(full)
        sizes = zip(full, factors, array.shape, strict=True)
        if not known or all(abs(length / factor - small) <= 1 for length, factor, small in sizes):
            found.append(array)
    return found


def _scale(dataset: dict[str, Any], axes: int) -> list[float]:
    """The size of a px along every axis, 1 where the dataset names none."""
    scales = [one["scale"] for one in dataset.get("coordinateTransformations", []) if one["type"] == "scale"]
    return [float(length) for length in scales[0]] if scales else [1.0] * axes


def _only_array(path: Path, group: zarr.Group) -> zarr.Array[Any]:
    arrays = dict(group.arrays())
    if len(arrays) != 1:
        raise SourceError(
            f"The Zarr group {path} holds {len(arrays)} arrays; name one of them: "
            f"{', '.join(sorted(arrays)) or 'none'}."
        )
    return next(iter(arrays.values()))


def _zarr_axes(path: Path, named: list[Any] | None, array: zarr.Array[Any]) -> str:
    """Axes by OME-Zarr's own word, else by shape: (Y, X), (Y, X, up to 4 channels), (up to 4 channels, Y, X), leading
    1s.
    """
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
