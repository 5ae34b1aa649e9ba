"""OME-Zarr 0.5: a group with an array (channel, row, column) for each level, and metadata that tie them together."""

from contextlib import closing
from pathlib import Path
from typing import Any

import zarr

from hirez_mosaic.outputs.pyramid import Px, Tile, encoded, level_sizes
from hirez_mosaic.settings.formats import Encoding
from hirez_mosaic.settings.record import SOFTWARE
from hirez_mosaic.stages.assemble import Mosaic, Progress

CHUNK = (1024, 256)
"""(width, height) of a chunk, px; it holds all channels."""
_AXES = ("c", "y", "x")


def save_zarr(mosaic: Mosaic, path: Path, progress: Progress, encoding: Encoding) -> None:
    """Write a mosaic as OME-Zarr. progress: called with cells done. Raises OSError."""
    sizes = level_sizes(mosaic.size, CHUNK[1])
    group = zarr.create_group(path, zarr_format=3, attributes={"ome": _described(path.stem, len(sizes), encoding)})
    arrays = [_array(group, str(level), size) for level, size in enumerate(sizes)]

    def write(tile: Tile, px: Px) -> None:
        top, left = tile.row * CHUNK[1], tile.column * CHUNK[0]
        arrays[tile.level][:, top : top + px.shape[0], left : left + px.shape[1]] = px.transpose(2, 0, 1)

    with closing(encoded(mosaic, CHUNK, progress, write)) as tiles:
        for _ in tiles:
            pass


def _array(group: zarr.Group, name: str, size: tuple[int, int]) -> "zarr.Array[Any]":
    width, height = size
    chunks = (3, min(CHUNK[1], height), min(CHUNK[0], width))
    return group.create_array(name, shape=(3, height, width), chunks=chunks, dtype="u1", dimension_names=_AXES)


def _described(name: str, levels: int, encoding: Encoding) -> dict[str, Any]:
    """The metadata of OME-Zarr.

    The centre of a smaller level's first px lies between the centres of the px that it is made of.
    """
    axes = [{"name": "c", "type": "channel"}, *({"name": name, "type": "space"} for name in "yx")]
    datasets = []
    for level in range(levels):
        step, shift = float(2**level), (2**level - 1) / 2
        scale = {"type": "scale", "scale": [1.0, step, step]}
        shifted = {"type": "translation", "translation": [0.0, shift, shift]}
        datasets.append({"path": str(level), "coordinateTransformations": [scale, shifted]})
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    colours = {"red": "FF0000", "green": "00FF00", "blue": "0000FF"}
    channels = [
        {"label": label, "color": colour, "window": window, "active": True} for label, colour in colours.items()
    ]
    made = {"method": SOFTWARE, **encoding.record}
    scales = {"name": name, "axes": axes, "datasets": datasets, "type": "mean", "metadata": made}
    return {
        "version": "0.5",
        "multiscales": [scales],
        "omero": {"channels": channels, "rdefs": {"model": "color"}},
    }
