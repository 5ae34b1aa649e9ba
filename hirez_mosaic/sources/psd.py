"""Photoshop's PSD and PSB: the flat picture that lies beside the layers, a few rows at a time."""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from hirez_mosaic.errors import SourceError, first_line
from hirez_mosaic.pixels.colour import CHANNELS, Colour, Model
from hirez_mosaic.sources.source import Bands, Level, Source, check_size

_MODES: dict[int, Model] = {0: "grey", 1: "grey", 2: "grey", 3: "rgb", 4: "cmyk", 8: "grey", 9: "lab"}
_BITMAP, _INDEXED, _DUOTONE = 0, 2, 8
_DTYPES = {1: "u1", 8: "u1", 16: ">u2", 32: ">f4"}
_PROFILE, _TRANSPARENT = 1039, 1047  # resources: the ICC profile, the index that is transparent
_MERGED = (b"Mtrn", b"Mt16", b"Mt32")  # blocks that say that the flat picture has opacity
_LONG = (b"LMsk", b"Lr16", b"Lr32", b"Layr", b"Alph", b"FMsk", b"lnk2", b"FEid", b"FXid", b"PxSD")  # of 8 bytes in PSB
_MOST_RESOURCES = 64 << 20  # bytes
_BAND_BYTES = 16 << 20


@dataclass(frozen=True)
class _Flat:
    """How the flat picture lies in its file: channel by channel, each row by row.

    size: (width, height), px.
    mode: Photoshop's number of the colour model.
    depth: bits of a sample.
    channels: how many there are, of which those beyond colours and opacity are left out.
    opacity: whether the channel after the colours tells opacity; colours lie over white then, as CIELAB, which is left
        there, does anyhow.
    packed: whether rows are packed; their lengths, of so many bytes each, come before them. 0 for px as they are.
    start: of the px, or of the lengths.
    """

    size: tuple[int, int]
    mode: int
    depth: int
    channels: int
    opacity: bool
    packed: int
    start: int

    @property
    def colours(self) -> int:
        """Channels that are colours."""
        return CHANNELS[_MODES[self.mode]]

    @property
    def row_bytes(self) -> int:
        """Of a row of one channel."""
        return -(-self.size[0] * self.depth // 8)


def open_psd(path: Path, max_px: int) -> Source:
    """The flat picture of a PSD or PSB of 1, 8, 16 or 32 bits.

    max_px: that the header may claim.
    Raises SourceError for what is damaged, of many inks, or has its flat picture compressed by ZIP.
    """
    with path.open("rb") as file:
        try:
            flat, colour = _header(path, file)
        except (struct.error, KeyError, ValueError) as error:
            raise SourceError(f"{path} is not a PSD that can be read: its header is damaged.") from error
    check_size(path, flat.size, max_px)
    needed = flat.start + flat.channels * flat.size[1] * (flat.packed or flat.row_bytes)
    if needed > path.stat().st_size:
        raise SourceError(f"{path} is truncated: its flat picture takes {needed:,} bytes and more.")
    kept = flat.colours + flat.opacity
    held = 5 * max(_BAND_BYTES, kept * flat.row_bytes) + 40 * flat.channels * flat.size[1]
    bands = Bands(partial(_bands, path, flat), kept, np.dtype(_DTYPES[flat.depth]).newbyteorder("="), held)
    notes = ("is a duotone, which is shown as grey",) if flat.mode == _DUOTONE else ()
    return Source(path, "PSD", (Level(flat.size, bands=bands),), colour, notes=notes)


def _header(path: Path, file: BinaryIO) -> tuple[_Flat, Colour]:
    version, channels, height, width, depth, mode = struct.unpack(">4xH6xHIIHH", file.read(26))
    if mode not in _MODES:
        raise SourceError(f"{path} is a PSD of many inks, which is not supported; convert it to RGB or CMYK.")
    wide = 8 if version == 2 else 4  # bytes of a length
    palette = file.read(_number(file, 4))
    resources = _resources(file.read(min(_number(file, 4), _MOST_RESOURCES)))
    after = _number(file, wide) + file.tell()
    merged = _has_opacity(file, wide, after)
    file.seek(after)
    compression = _number(file, 2)
    if compression > 1:
        raise SourceError(f"{path} is a PSD whose flat picture is compressed by ZIP, which is not supported.")
    colours = CHANNELS[_MODES[mode]]
    if channels < colours:
        raise ValueError
    opacity = merged and channels > colours and _MODES[mode] in ("rgb", "cmyk", "grey") and depth > 1
    flat = _Flat((width, height), mode, depth, channels, opacity, compression * wide // 2, file.tell())
    return flat, _colour(flat, palette, resources)


def _has_opacity(file: BinaryIO, wide: int, end: int) -> bool:
    """Whether the section of layers, which ends at a place, says that the flat picture's first further channel is its
    opacity: by a negative number of layers, or a block of its own.
    """
    if file.tell() == end:
        return False
    length = _number(file, wide)
    start = file.tell()
    if length and int.from_bytes(file.read(2), signed=True) < 0:
        return True
    file.seek(start + length)
    if file.tell() + 4 > end:
        return False
    file.seek(_number(file, 4), 1)  # the mask of all layers
    while file.tell() + 12 <= end and (head := file.read(8))[:4] in (b"8BIM", b"8B64"):
        if head[4:] in _MERGED:
            return True
        file.seek((_number(file, 8 if wide == 8 and head[4:] in _LONG else 4) + 3) // 4 * 4, 1)
    return False


def _number(file: BinaryIO, length: int) -> int:
    """Read a number of so many bytes. Raises ValueError where the file ends, or counts more bytes than it has."""
    data = file.read(length)
    number = int.from_bytes(data)
    if len(data) < length or number > os.fstat(file.fileno()).st_size:
        raise ValueError
    return number


def _resources(data: bytes) -> dict[int, bytes]:
    """The image resources by their number."""
    found: dict[int, bytes] = {}
    at = 0
    while data[at : at + 4] == b"8BIM" and at + 12 <= len(data):
        number = int.from_bytes(data[at + 4 : at + 6])
        start = at + 6 + (data[at + 6] + 2) // 2 * 2  # after a name, padded
        length = int.from_bytes(data[start : start + 4])
        found[number] = data[start + 4 : start + 4 + length]
        at = start + 4 + (length + 1) // 2 * 2
    return found


def _colour(flat: _Flat, palette: bytes, resources: dict[int, bytes]) -> Colour:
    alpha: Any = "straight" if flat.opacity else "none"
    if _DTYPES[flat.depth] == ">f4":
        return Colour(_MODES[flat.mode], alpha, 32, linear=True)
    if flat.mode == _INDEXED:
        clear = int.from_bytes(resources[_TRANSPARENT]) if _TRANSPARENT in resources else None
        return Colour("grey", palette=np.frombuffer(palette[:768], np.uint8).reshape(3, 256).T, nodata=clear)
    model = _MODES[flat.mode]
    icc = resources.get(_PROFILE) if model != "lab" else None
    inverted = flat.mode == _BITMAP or model == "cmyk"
    return Colour(model, alpha, flat.depth, icc, inverted=inverted, offset=model == "lab")


def _bands(path: Path, flat: _Flat) -> Iterator[NDArray[Any]]:
    """The px from top to bottom."""
    height, kept = flat.size[1], flat.colours + flat.opacity
    rows = max(1, _BAND_BYTES // (flat.row_bytes * kept))
    with path.open("rb") as file:
        places = _places(path, file, flat)
        for top in range(0, height, rows):
            count = min(rows, height - top)
            band = [_samples(path, file, flat, places[channel, [top, top + count]], count) for channel in range(kept)]
            made = np.stack(band, -1)
            yield _straight(made, flat) if flat.opacity else made


def _places(path: Path, file: BinaryIO, flat: _Flat) -> NDArray[np.int64]:
    """(channels, rows + 1): where each row begins, and where the last one ends."""
    lengths = np.full(flat.channels * flat.size[1], flat.row_bytes, np.int64)
    start = flat.start
    if flat.packed:
        file.seek(start)
        data = file.read(len(lengths) * flat.packed)
        lengths = np.frombuffer(data, f">u{flat.packed}").astype(np.int64)
        start += len(data)
    ends = start + np.cumsum(lengths)
    if ends[-1] > path.stat().st_size:
        raise SourceError(f"{path} is truncated: its flat picture ends at byte {ends[-1]:,}.")
    begins = (ends - lengths).reshape(flat.channels, -1)
    return np.concatenate([begins, ends.reshape(flat.channels, -1)[:, -1:]], 1)


def _samples(path: Path, file: BinaryIO, flat: _Flat, place: NDArray[np.int64], rows: int) -> NDArray[Any]:
    """(rows, width) of one channel, which lie between two places of the file."""
    begin, end = (int(one) for one in place)
    file.seek(begin)
    data = file.read(end - begin)
    if flat.packed:
        try:
            data = bytes(imagecodecs.packbits_decode(data))
        except RuntimeError as error:
            raise SourceError(f"{path} is damaged: {first_line(error)}.") from error
    if len(data) != rows * flat.row_bytes:
        raise SourceError(f"{path} is damaged or truncated: {len(data)} bytes of {rows * flat.row_bytes} are there.")
    if flat.depth == 1:
        return np.unpackbits(np.frombuffer(data, np.uint8).reshape(rows, -1), axis=1)[:, : flat.size[0]]
    kind = np.dtype(_DTYPES[flat.depth])
    return np.frombuffer(data, kind).reshape(rows, -1).astype(kind.newbyteorder("="), copy=False)


def _straight(samples: NDArray[Any], flat: _Flat) -> NDArray[Any]:
    """Samples whose colours lie over white, with the colours that they would have where they are opaque."""
    white = 1.0 if flat.depth == 32 else float((1 << flat.depth) - 1)
    opacity = samples[..., -1:].astype(np.float64) / white
    colours = white + (samples[..., :-1] - white) / np.maximum(opacity, 1e-6)
    colours = np.where(opacity > 0, colours, white).clip(0, None if flat.depth == 32 else white)
    colours = colours if flat.depth == 32 else np.round(colours)
    return np.concatenate([colours.astype(samples.dtype), samples[..., -1:]], -1)
