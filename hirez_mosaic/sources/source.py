"""A source picture: boxes of it as 8-bit sRGB, never the whole of it.

Every source ends as an array that can be read box by box: a Zarr array is one, a tiled TIFF is one through tifffile.
What can only be read from top to bottom (JPEG, PNG, WebP, TIFF in strips, ...) is first unpacked, once and in bands,
into a Zarr array on disk. A pyramid holds the picture at several sizes, its levels; the smallest that loses nothing is
read, see `Source.for_step`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray

from hirez_mosaic.errors import SettingError, SourceError, first_line
from hirez_mosaic.pixels.array_types import ChunkedArray
from hirez_mosaic.pixels.colour import CHANNELS, Colour, to_srgb
from hirez_mosaic.pixels.geometry import Box

_UNPACKED_SIDE = 512  # side of a chunk of the unpacked array, px
_UNPACKED_BYTES = 64 << 20  # of a row of its chunks, at most while that is 16 px or more
TURNS = {
    1: (0, False),
    2: (0, True),
    3: (2, False),
    4: (2, True),
    5: (3, True),
    6: (3, False),
    7: (1, True),
    8: (1, False),
}
"""EXIF orientation -> (quarter turns counter-clockwise, mirrored left to right afterwards)."""
_READ_BYTES = 16 << 20  # of chunks decoded at once, about, where a row of them is not more
_T = TypeVar("_T")
_LEVEL_PX = 4  # of a level for each px asked for, at least, in both directions; the tests tell what 2 would lose


@dataclass(frozen=True)
class Bands:
    """A picture that can only be read from top to bottom.

    open: starts reading; yields (rows, width, channels) arrays that follow one another.
    held: bytes of memory that reading holds, about.
    smaller: the picture so many times (2, 4 or 8, both ways) smaller, where its decoder makes that in less time.
    """

    open: Callable[[], Iterator[NDArray[Any]]]
    channels: int
    dtype: np.dtype[Any]
    held: int
    smaller: Callable[[int], "Level"] | None = None


@dataclass(frozen=True)
class Level:
    """The picture at one size, as stored.

    size: (width, height), px.
    array: samples, a Zarr array or what looks like one; None, or slow, while there are `bands`.
    axes: what the axes of `array` are: "Y" and "X", "S" for channels, any other letter for an axis of which one entry
        is taken.
    entries: which entry of such an axis, from 0, by letter; 0 for letters that are not in it.
    bands: how to unpack it, until it is.
    """

    size: tuple[int, int]
    array: ChunkedArray | None = None
    axes: str = "YXS"
    bands: Bands | None = None
    entries: Mapping[str, int] = field(default_factory=dict)

    @property
    def samples(self) -> ChunkedArray:
        """The array. Raises ValueError while there is none."""
        if self.array is None:
            raise ValueError("This level is not unpacked.")
        return self.array


@dataclass(frozen=True)
class Source:
    """A picture that can be read box by box.

    path: the file or folder it came from.
    kind: the format, for people.
    levels: the picture at full size, and smaller where the file holds it so; the largest first.
    orientation: EXIF orientation, 1 to 8, that leads from stored to displayed.
    file: what `close` closes.
    level: number of the level that boxes are read from, and in whose px they are.
    reopen: what opens it again, in another process; None where it is unpacked.
    named: whether its channels are what an instrument saw, as OME's are, and not colours and opacity.
    notes: what a person should know of how it is read: a phrase each, of which the picture is the subject.
    """

    path: Path
    kind: str
    levels: tuple[Level, ...]
    colour: Colour
    orientation: int = 1
    background: tuple[int, int, int] | None = (255, 255, 255)
    file: Any = None
    level: int = 0
    reopen: Callable[[], "Source"] | None = None
    named: bool = False
    notes: tuple[str, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """What was opened stays here; an array in a workspace travels as it is."""
        return vars(self) if self.reopen is None else {**vars(self), "levels": (), "file": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if not self.levels and self.reopen is not None:
            fresh = self.reopen()
            vars(self).update(levels=fresh.levels, file=fresh.file)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the whole picture, px, as displayed."""
        return self._displayed(self.levels[0].size)

    @property
    def shrink(self) -> tuple[Fraction, Fraction]:
        """Px of the whole picture per px of the level (horizontally, vertically), as displayed.

        A level that is a whole number of times smaller, rounded down or up, has its first px over the whole picture's
        first; where the picture is turned or mirrored, a level rounded down may therefore lie up to one of its px off.
        """
        (width, height), (narrow, low) = self.levels[0].size, self.stored_size
        return self._displayed((_times_smaller(width, narrow), _times_smaller(height, low)))

    @property
    def stored_size(self) -> tuple[int, int]:
        """(width, height) of the level as stored, px."""
        return self.levels[self.level].size

    @property
    def bands(self) -> Bands | None:
        """How to unpack the level, until it is."""
        return self.levels[self.level].bands

    def for_step(self, step: tuple[Fraction, Fraction]) -> "Source":
        """The source that reads from the smallest level with 4 px or more for each `step` px of the whole picture.

        step: (horizontally, vertically). With no such level it is the full size.
        """
        sources = [replace(self, level=number) for number in range(len(self.levels))]
        fine = [
            one
            for one in sources[1:]
            if all(px / times >= _LEVEL_PX for px, times in zip(step, one.shrink, strict=True))
        ]
        if not fine:
            return sources[0]
        return replace(fine[-1], kind=f"{self.kind}, level {fine[-1].level + 1} of {len(self.levels)}")

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
        return 8 if self.colour.plain and self.colour.model != "lab" else 90

    def chunk_bytes(self, height: int, width: int) -> int:
        """Bytes of chunks, encoded and decoded, that reading a box of (height, width) displayed px holds besides the
        box.
        """
        if self.bands:
            return 3 * _READ_BYTES
        level, across = self.levels[self.level], width if self.orientation < 5 else height
        lengths = dict(zip(level.axes, level.samples.chunks, strict=True))
        touched = min(-(-across // lengths["X"]) + 1, -(-level.size[0] // lengths["X"]))
        return 3 * max(_READ_BYTES, touched * math.prod(level.samples.chunks) * self.sample_type.itemsize)

    def close(self) -> None:
        """Close the file; nothing can be read from it afterwards."""
        if self.file is not None:
            self.file.close()

    @property
    def channels(self) -> int:
        """Of the picture as stored."""
        first = self.levels[0]
        return (
            first.bands.channels if first.bands else dict(zip(first.axes, first.samples.shape, strict=True)).get("S", 1)
        )

    @property
    def sample_type(self) -> np.dtype[Any]:
        """Of the level as stored."""
        return self.bands.dtype if self.bands else np.dtype(self.levels[self.level].samples.dtype)

    def _displayed(self, pair: tuple[_T, _T]) -> tuple[_T, _T]:
        return pair if self.orientation < 5 else (pair[1], pair[0])

    @property
    def _row_bytes(self) -> int:
        return self.stored_size[0] * self.bands.channels * self.bands.dtype.itemsize if self.bands else 1

    def read(self, box: Box) -> NDArray[np.uint8]:
        """The box, in px of the level as displayed, as (height, width, 3) uint8 sRGB; beyond the picture its edge px
        repeat.

        Raises SourceError when the file is damaged there.
        """
        width, height = self._displayed(self.stored_size)
        inside = Box(
            min(max(box.top, 0), height - 1),
            max(min(box.bottom, height), 1),
            min(max(box.left, 0), width - 1),
            max(min(box.right, width), 1),
        )
        pixels = to_srgb(self.samples(inside), self.colour, self.background)
        if inside == box:
            return pixels
        rows = max(0, inside.top - box.top), max(0, box.bottom - inside.bottom)
        columns = max(0, inside.left - box.left), max(0, box.right - inside.right)
        padded = np.pad(pixels, (rows, columns, (0, 0)), "edge")
        padded = padded[
            max(0, box.top - inside.top) :, max(0, box.left - inside.left) :
        ]  # of a box that lies beyond altogether
        return padded[: box.height, : box.width]

    def samples(self, box: Box) -> NDArray[np.generic]:
        """The samples of a box within the picture, (height, width, channels), turned as displayed."""
        turns, mirrored = TURNS[self.orientation]
        samples = np.rot90(self._stored(_stored_box(box, self.stored_size, turns, mirrored)), turns)
        return samples[:, ::-1] if mirrored else samples

    def _stored(self, box: Box) -> NDArray[np.generic]:
        """The samples of a box as stored, (height, width, channels)."""
        level = self.levels[self.level]
        try:
            samples = _read_in_bands(level, box)
        except (OSError, MemoryError):  # a disk or a network that fails is not the picture's fault
            raise
        except Exception as error:  # codecs raise whatever they like on damaged data
            raise SourceError(
                f"{self.path} is damaged or truncated near row {box.top}: {first_line(error)}."
            ) from error
        kept = [axis for axis in level.axes if axis in "YXS"]
        samples = samples.transpose([kept.index(axis) for axis in ("YXS" if "S" in kept else "YX")])
        return samples.reshape(box.height, box.width, -1)

    def chunk_samples(self, row: int, column: int) -> NDArray[np.generic]:
        """The samples of one chunk of the level's array, (height, width, channels), as stored."""
        level = self.levels[self.level]
        (width, height), lengths = level.size, dict(zip(level.axes, level.samples.chunks, strict=True))
        top, left = row * lengths["Y"], column * lengths["X"]
        return self._stored(Box(top, min(top + lengths["Y"], height), left, min(left + lengths["X"], width)))

    def stored_bands(self) -> Iterator[NDArray[np.generic]]:
        """All samples as stored, from top to bottom, as (rows, width, channels) arrays that follow one another."""
        if self.bands:
            yield from self.bands.open()
            return
        level = self.levels[self.level]
        (width, height), lengths = level.size, dict(zip(level.axes, level.samples.chunks, strict=True))
        step = lengths["Y"] * max(1, _READ_BYTES // (lengths["Y"] * width * level.samples.dtype.itemsize))
        for top in range(0, height, step):
            yield self._stored(Box(top, min(top + step, height), 0, width))


def _read_in_bands(level: Level, box: Box) -> NDArray[np.generic]:
    """The samples of a stored box, axes as they are; a few rows of chunks at a time, for Zarr holds all it decodes at
    once.
    """
    lengths = dict(zip(level.axes, level.samples.chunks, strict=True))
    row_bytes = math.prod(level.samples.chunks) * level.samples.dtype.itemsize * (box.width // lengths["X"] + 1)
    step = lengths["Y"] * max(1, _READ_BYTES // row_bytes)
    kept = [axis for axis in level.axes if axis in "YXS"]
    sides = {"Y": box.height, "X": box.width, "S": dict(zip(level.axes, level.samples.shape, strict=True)).get("S", 1)}
    samples = np.empty([sides[axis] for axis in kept], level.samples.dtype)
    for top in range(box.top // step * step, box.bottom, step):
        rows = slice(max(top, box.top), min(top + step, box.bottom))
        index = {"Y": rows, "X": box.slices[1], "S": slice(None)}
        band = np.asarray(level.samples[tuple(index.get(axis, level.entries.get(axis, 0)) for axis in level.axes)])
        samples[(slice(None),) * kept.index("Y") + (slice(rows.start - box.top, rows.stop - box.top),)] = band
    return samples


def unpack(source: Source, group: zarr.Group, name: str, progress: Callable[[int], None]) -> Source:
    """Write a picture of bands, the level that is read of it, into the array `name` of `group`; the source that reads
    from there.

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
    return unpacked(source, array)


def unpacked(source: Source, array: ChunkedArray) -> Source:
    """The source that reads its level from the array (rows, columns, channels) that the bands were unpacked into."""
    levels = [Level(level.size) for level in source.levels]
    levels[source.level] = Level(source.stored_size, array)
    return replace(source, levels=tuple(levels), file=None, reopen=None)


def proper_levels(levels: Sequence[Level]) -> tuple[Level, ...]:
    """The first level, and those of the rest that are the same picture: ever smaller, of its shape within a px, of its
    samples.
    """
    full = levels[0]
    kept = [full]
    for level in levels[1:]:
        smaller = 0 < level.size[0] * level.size[1] < kept[-1].size[0] * kept[-1].size[1]
        if smaller and _same_shape(full.size, level.size) and _samples_of(level) == _samples_of(full):
            kept.append(level)
    return tuple(kept)


def _samples_of(level: Level) -> tuple[Any, str, list[int]]:
    """What two levels of one picture have in common."""
    others = [length for axis, length in zip(level.axes, level.samples.shape, strict=True) if axis not in "YX"]
    return level.samples.dtype, level.axes, others


def _same_shape(full: tuple[int, int], small: tuple[int, int]) -> bool:
    """Whether one factor makes both sides of `full` those of `small`, each within a px."""
    (width, height), (narrow, low) = full, small
    return width * (low - 1) <= height * (narrow + 1) and height * (narrow - 1) <= width * (low + 1)


def _times_smaller(full: int, small: int) -> Fraction:
    """Px of the full length per px of the small one: a whole number where that, rounded down or up, gives the small
    length.
    """
    whole = round(full / small)
    return Fraction(whole) if small in (full // whole, -(-full // whole)) else Fraction(full, small)


def check_size(path: Path, size: tuple[int, int], most: int) -> None:
    """Raise SourceError when a header tells of no px, or of more than `most`."""
    if min(size) < 1:
        raise SourceError(f"{path} is damaged: its header tells of {size[0]} x {size[1]} px.")
    if size[0] * size[1] > most:
        raise SourceError(
            f"{path} claims to have {size[0]:,} x {size[1]:,} px, and more than {most:,} px are not believed; "
            "raise `max_source_px` if there are as many."
        )


def check_samples(path: Path, dtype: np.dtype[Any] | None) -> None:
    """Raise SourceError for samples that no `Colour` describes."""
    if dtype is None or dtype.kind not in "buif" or dtype.itemsize > 8:
        raise SourceError(f"{path} has samples of type {dtype}; use whole numbers, or floats of up to 64 bits.")


def for_channels(path: Path, colour: Colour, channels: int) -> Colour:
    """The colour of a picture of so many channels, without names: grey in 3 is red, green and blue, and one more is
    opacity.
    """
    if colour.model == "grey" and colour.palette is None and channels in (3, 4):
        return replace(colour, model="rgb", alpha="straight" if channels == 4 else "none")
    if colour.model == "grey" and channels == 2:
        return replace(colour, alpha="straight")
    if channels == CHANNELS[colour.model]:
        return colour
    raise SourceError(
        f"{path} has {channels} channels; use grey or RGB with or without opacity, or choose one by `channel`."
    )


def one_channel(source: Source, number: int) -> Source:
    """The source of which one channel, from 1, is shown, as grey. Raises SettingError where it has fewer."""
    if number > source.channels:
        raise SettingError(
            f"`channel` is {number} and {source.path} has {source.channels}; use 1 to {source.channels}."
        )
    colour = replace(source.colour, model="grey", alpha="none", icc=None, palette=None, opacity=None)
    return replace(source, levels=tuple(_channel_of(level, number - 1) for level in source.levels), colour=colour)


def _channel_of(level: Level, at: int) -> Level:
    """A level of one channel, from 0."""
    bands = level.bands
    if bands:
        whole = bands.open
        bands = replace(bands, open=lambda: (band[..., at : at + 1] for band in whole()), channels=1, smaller=None)
    return replace(level, bands=bands, axes=level.axes.replace("S", "K"), entries={**level.entries, "K": at})


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
