"""A source picture: boxes of it as 8-bit sRGB, never the whole of it.

Every source ends as an array that can be read box by box: a Zarr array is one, a tiled TIFF is one through tifffile. What can only
be read from top to bottom (JPEG, PNG, WebP, TIFF in strips, ...) is first unpacked, once and in bands, into a Zarr array on disk.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from hirez_mosaic.colour import CHANNELS, Colour, to_srgb
from hirez_mosaic.errors import SourceError
from hirez_mosaic.geometry import Box

_UNPACKED_SIDE = 512  # side of a chunk of the unpacked array, px
_UNPACKED_BYTES = 64 << 20  # of a row of its chunks, at most while that is 16 px or more
TURNS = {1: (0, False), 2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False)}
"""EXIF orientation -> (quarter turns counter-clockwise, mirrored left to right afterwards)."""


@dataclass(frozen=True)
class Source:
    """A picture that can be read box by box.

    path: the file or folder it came from.
    kind: the format, for people.
    array: samples as stored, anything with numpy indexing; None while there are only `bands`.
    axes: what the axes of `array` are: "Y" and "X", "S" for channels, any other letter for an axis of which entry 0 is taken.
    size: (width, height) in px, as displayed.
    orientation: EXIF orientation, 1 to 8, that leads from stored to displayed.
    bands: how to unpack it, until it is. file: what `close` closes.
    """

    path: Path
    kind: str
    array: Any
    axes: str
    size: tuple[int, int]
    colour: Colour
    orientation: int = 1
    background: tuple[int, int, int] = (255, 255, 255)
    bands: "Bands | None" = None
    file: Any = None

    @property
    def stored_size(self) -> tuple[int, int]:
        """(width, height) as stored, px."""
        return self.size if self.orientation < 5 else (self.size[1], self.size[0])

    @property
    def unpacked_bytes(self) -> int:
        """Bytes on disk that unpacking takes; 0 where boxes can be read from the file itself."""
        return self.stored_size[1] * self._row_bytes if self.bands else 0

    @property
    def unpacking_memory(self) -> int:
        """Bytes of memory that unpacking holds at most: a band, and a row of chunks; 0 where there is none."""
        return self.bands.held + self.unpacked_rows * self._row_bytes if self.bands else 0

    @property
    def unpacked_rows(self) -> int:
        """Height of a chunk of the unpacked array, px."""
        return min(_UNPACKED_SIDE, self.stored_size[1], max(16, _UNPACKED_BYTES // self._row_bytes))

    @property
    def px_bytes(self) -> int:
        """Bytes that reading and resampling hold for each px, in all its forms; measured."""
        plain = self.colour.alpha == "none" and self._sample_type.itemsize == 1
        return 16 if plain else 90

    @property
    def chunk_bytes(self) -> int:
        """Bytes of the decoded chunks of the array itself that reading a box holds besides."""
        chunks = (0,) if self.bands else self.array.chunks
        return 4 * math.prod(chunks) * self._sample_type.itemsize

    def close(self) -> None:
        """Close the file; nothing can be read from it afterwards."""
        if self.file is not None:
            self.file.close()

    @property
    def _sample_type(self) -> np.dtype[Any]:
        return self.bands.dtype if self.bands else self.array.dtype

    @property
    def _row_bytes(self) -> int:
        return self.stored_size[0] * self.bands.channels * self.bands.dtype.itemsize if self.bands else 1

    def read(self, box: Box) -> NDArray[np.uint8]:
        """The box, in displayed px, as (height, width, 3) uint8 sRGB; beyond the picture its edge px repeat.

        Raises SourceError when the file is damaged there.
        """
        width, height = self.size
        inside = Box(
            min(max(box.top, 0), height - 1),
            max(min(box.bottom, height), 1),
            min(max(box.left, 0), width - 1),
            max(min(box.right, width), 1),
        )
        pixels = to_srgb(self.samples(inside), self.colour, self.background)
        if inside == box:
            return pixels
        rows = np.clip(np.arange(box.top, box.bottom), inside.top, inside.bottom - 1) - inside.top
        columns = np.clip(np.arange(box.left, box.right), inside.left, inside.right - 1) - inside.left
        return pixels[rows[:, None], columns[None, :]]

    def samples(self, box: Box) -> NDArray[np.generic]:
        """The samples of a box within the picture, (height, width, channels), turned as displayed."""
        turns, mirrored = TURNS[self.orientation]
        stored = _stored_box(box, self.stored_size, turns, mirrored)
        index = {"Y": stored.slices[0], "X": stored.slices[1], "S": slice(None)}
        try:
            samples = np.asarray(self.array[tuple(index.get(axis, 0) for axis in self.axes)])
        except Exception as error:  # codecs raise whatever they like on damaged data
            raise SourceError(f"{self.path} is damaged or truncated near row {stored.top}: {first_line(error)}.") from error
        kept = [axis for axis in self.axes if axis in "YXS"]
        samples = samples.transpose([kept.index(axis) for axis in ("YXS" if "S" in kept else "YX")])
        samples = np.rot90(samples.reshape(stored.height, stored.width, -1), turns)
        return samples[:, ::-1] if mirrored else samples


@dataclass(frozen=True)
class Bands:
    """A picture that can only be read from top to bottom.

    open: starts reading; yields (rows, width, channels) arrays that follow one another.
    held: bytes of memory that reading holds, about.
    """

    open: Callable[[], Iterator[NDArray[Any]]]
    channels: int
    dtype: np.dtype[Any]
    held: int


def unpack(source: Source, group: zarr.Group, name: str, progress: Callable[[int], None]) -> Source:
    """Write a picture of bands into the array `name` of `group`; the source that reads from there.

    Holds `source.unpacking_memory`. progress: called with the px of each band.
    Raises SourceError when the file is damaged; nothing is taken of a truncated picture.
    """
    if source.bands is None:
        return source
    width, height = source.stored_size
    array = group.create_array(
        name,
        shape=(height, width, source.bands.channels),
        chunks=(source.unpacked_rows, min(_UNPACKED_SIDE, width), source.bands.channels),
        dtype=source.bands.dtype,
        compressors=None,
        overwrite=True,
    )
    waiting = np.empty((source.unpacked_rows, width, source.bands.channels), source.bands.dtype)
    top = filled = 0
    for band in source.bands.open():
        progress(band.shape[0] * width)
        taken = 0
        while taken < len(band):
            rows = min(len(band) - taken, len(waiting) - filled)
            waiting[filled : filled + rows] = band[taken : taken + rows]
            taken, filled = taken + rows, filled + rows
            if filled == len(waiting) or top + filled == height:
                array[top : top + filled] = waiting[:filled]
                top, filled = top + filled, 0
    return replace(source, array=array, axes="YXS", bands=None)


def check_samples(path: Path, dtype: np.dtype[Any] | None) -> None:
    """Raise SourceError for samples that no `Colour` describes."""
    if dtype is None or dtype.kind not in "buf" or dtype.itemsize > (8 if dtype.kind == "f" else 2):
        raise SourceError(f"{path} has samples of type {dtype}; use 8-bit, 16-bit or floating-point samples.")


def for_channels(path: Path, colour: Colour, channels: int) -> Colour:
    """The colour of a picture of so many channels; grey in 3 channels (OME, Zarr) is red, green and blue."""
    if colour.model == "grey" and channels in (3, 4):
        return replace(colour, model="rgb", alpha="straight" if channels == 4 else "none")
    if colour.model == "grey" and channels == 2:
        return replace(colour, alpha=colour.alpha if colour.alpha != "none" else "straight")
    if channels in (CHANNELS[colour.model], CHANNELS[colour.model] + 1):
        return colour
    raise SourceError(f"{path} has {channels} channels; use grey, RGB or CMYK with or without alpha.")


def _stored_box(box: Box, stored_size: tuple[int, int], turns: int, mirrored: bool) -> Box:
    """Where a displayed box lies in the stored picture that is turned, then mirrored, to display it."""
    width, height = stored_size
    shown_width = height if turns % 2 else width
    top, bottom, left, right = box.top, box.bottom, box.left, box.right
    if mirrored:
        left, right = shown_width - right, shown_width - left
    if turns == 1:  # np.rot90 once: displayed [i, j] is stored [j, width - 1 - i]
        return Box(left, right, width - bottom, width - top)
    if turns == 2:
        return Box(height - bottom, height - top, width - right, width - left)
    if turns == 3:  # displayed [i, j] is stored [height - 1 - j, i]
        return Box(height - right, height - left, top, bottom)
    return Box(top, bottom, left, right)


def first_line(error: Exception) -> str:
    """The first line of another library's message, without its full stop; the error's kind where there is none."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
