"""A whole picture, upright, as 8-bit sRGB: what templates, sheets, crops and photos to train on are made from."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyvips
from numpy.typing import NDArray

from hirez_mosaic.errors import SourceError
from hirez_mosaic.pixels.colour import to_srgb
from hirez_mosaic.pixels.vips import shrunk
from hirez_mosaic.settings.running import MAX_SOURCE_PX
from hirez_mosaic.sources.opening import open_source
from hirez_mosaic.sources.source import TURNS, Source

_MOST_PX = 500_000_000
_MOST_HELD = (1 << 30) + (64 << 20)  # bytes that a decoder may hold, what libvips holds of any picture included
_IN_MEMORY = 128 << 20  # bytes of a whole picture; a larger one lies in a file without a name
_SPARE = 2  # px, both ways, that a decoder leaves for each px asked for
_AVERAGED = 8  # that averages leave, which drop a rest at the edge


def open_whole(
    path: Path,
    least: tuple[int, int] | None = None,
    background: tuple[int, int, int] | None = (255, 255, 255),
    most_px: int = _MOST_PX,
    notes: list[str] | None = None,
) -> pyvips.Image:
    """Read a whole picture, upright, as an 8-bit sRGB image of 3 bands in memory; by `open_source`, as everything is.

    least: (width, height) px; a picture that is far larger may be made smaller, to twice that at least. Its own size
        where None.
    background: sRGB under transparent px; where it is None, transparent pictures have a fourth band.
    most_px: that are opened; 500 million unless given.
    notes: gets what a person should know of how the picture is read.
    Raises SourceError for what cannot be read, is damaged, or has more px than that, or than its decoder should hold.
    """
    source = open_source(path, background, MAX_SOURCE_PX)
    try:
        _check_room(source, most_px)
        if notes is not None:
            notes += source.notes
        source, times = _reduced(source, least)
        return _assembled(source, times)
    finally:
        source.close()


def size_of(path: Path, most_px: int = _MOST_PX) -> tuple[int, int]:
    """Read the (width, height) of a picture as displayed, px.

    most_px: that it may have.
    Raises SourceError where `open_whole` would refuse it for its header.
    """
    source = open_source(path)
    try:
        _check_room(source, most_px)
        return source.size
    finally:
        source.close()


def _check_room(source: Source, most_px: int) -> None:
    width, height = source.size
    if width * height > most_px or (source.bands is not None and source.bands.held > _MOST_HELD):
        raise SourceError(f"{source.path} is too large: {width} x {height} px.")


def reason(error: SourceError, path: Path) -> str:
    """Say what is wrong with a picture, without its name: a phrase that stands behind the name."""
    return str(error).replace(repr(str(path)), "").replace(str(path), "").strip().rstrip(".")


def _reduced(source: Source, least: tuple[int, int] | None) -> tuple[Source, int]:
    """(the source at the smallest size that decodes to enough px, how many times smaller averages are to make it)."""
    if least is None:
        return source, 1
    stored = least if source.orientation < 5 else least[::-1]
    fine = [number for number, level in enumerate(source.levels) if _times(level.size, stored, _SPARE) >= 1]
    source = replace(source, level=max(fine, default=0))
    bands, times = source.bands, _times(source.stored_size, stored, _SPARE)
    if bands is not None and bands.smaller is not None and times > 1:
        source = replace(
            source, level=0, levels=(bands.smaller(next(factor for factor in (8, 4, 2) if factor <= times)),)
        )
    return source, max(1, _times(source.stored_size, stored, _AVERAGED))


def _times(size: tuple[int, int], least: tuple[int, int], spare: int) -> int:
    """How many times smaller, both ways, a size may become."""
    return min(length // (spare * wanted) for length, wanted in zip(size, least, strict=True))


def _assembled(source: Source, times: int) -> pyvips.Image:
    width, height = source.stored_size
    wide, high = width // times, height // times
    made, filled = None, 0
    for band in _whole_rows(source, times):
        pixels = to_srgb(band, source.colour, source.background)
        pixels = shrunk(pixels, times)[:, :wide] if times > 1 else pixels
        if made is None:
            made = _room((high, wide, pixels.shape[2]))
        made[filled : filled + len(pixels)] = pixels
        filled += len(pixels)
    if made is None or filled != high:
        raise SourceError(f"{source.path} is truncated: {filled * times} of its {height} rows are there.")
    turns, mirrored = TURNS[source.orientation]
    turned = np.rot90(made, turns)
    return pyvips.Image.new_from_array(np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)).copy(
        interpretation="srgb"
    )


def _whole_rows(source: Source, times: int) -> Iterator[NDArray[np.generic]]:
    """The stored bands cut so that each has a multiple of `times` rows; what is left over at the bottom is dropped."""
    left: NDArray[np.generic] | None = None
    for band in source.stored_bands():
        whole = band if left is None else np.concatenate([left, band])
        rows = len(whole) // times * times
        left = whole[rows:] if rows < len(whole) else None
        if rows:
            yield whole[:rows]


def _room(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    if np.prod(shape) <= _IN_MEMORY:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.uint8, mode="w+", shape=shape)
