"""Tiled pyramidal TIFF, written tile by tile.

The ordinary layout holds the levels as SubIFDs, so that viewers show one picture:

    header | tiles of all levels, as they are made | directories of the levels | directory of the mosaic

The Cloud Optimized layout holds every directory at its beginning, and the largest level last:

    header | directory of the mosaic | directories of the levels | tiles of the smallest level | ... | tiles of the
    mosaic

Below 4 GiB a file is classic TIFF, from there on BigTIFF. (libvips is not used here: from quality 90 on it writes JPEG
as RGB, which takes twice the bytes of YCbCr, and it has no Cloud Optimized layout.)
"""

import struct
from array import array
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import BinaryIO

import imagecodecs
import numpy as np

from hirez_mosaic.outputs.metadata import srgb_profile, xmp
from hirez_mosaic.outputs.pyramid import Px, Tile, encoded, level_sizes
from hirez_mosaic.settings.formats import Encoding
from hirez_mosaic.settings.record import SOFTWARE
from hirez_mosaic.stages.assemble import Mosaic, Progress

SIDE = 256
"""Side of a tile, px."""
FULL_COLOUR_FROM = 90  # quality from which JPEG holds colour at full resolution, as libvips' .jpg does
_HEADER = 16  # bytes; a classic one takes 8 of them
_CLASSIC = 2**32  # bytes that a classic TIFF must stay below
_LEVEL = 6  # of Deflate
_CODES = {"none": 1, "lzw": 5, "jpeg": 7, "deflate": 8, "webp": 50001}
_SHORT, _LONG, _RATIONAL, _BYTE, _ASCII, _UNDEFINED, _LONG8 = 3, 4, 5, 1, 2, 7, 16
_SIZES = {_BYTE: 1, _ASCII: 1, _SHORT: 2, _LONG: 4, _RATIONAL: 8, _UNDEFINED: 1, _LONG8: 8}
_LETTERS = {_SHORT: "H", _LONG: "I", _LONG8: "Q"}

Entry = tuple[int, int, bytes]
"""A tag, the type of its values, and the values."""


@dataclass
class _Tiles:
    """Where the tiles of one level lie in a file, row by row."""

    size: tuple[int, int]
    offsets: "array[int]" = field(default_factory=lambda: array("Q"))
    lengths: "array[int]" = field(default_factory=lambda: array("Q"))


def save_tiff(mosaic: Mosaic, path: Path, progress: Progress, encoding: Encoding) -> None:
    """Write a mosaic as TIFF. progress: called with cells done. Raises OSError."""
    levels = [_Tiles(size) for size in level_sizes(mosaic.size, SIDE)]
    encode, tables = _encoder(encoding)
    made = path.with_name(f"{path.name}.tiles") if encoding.cog else path
    with made.open("wb") as file, closing(encoded(mosaic, (SIDE, SIDE), progress, encode)) as tiles:
        file.write(bytes(_HEADER))
        for tile, data in tiles:
            levels[tile.level].offsets.append(file.tell())
            levels[tile.level].lengths.append(len(data))
            file.write(data)
        describe = partial(_entries, encoding=encoding, tables=tables)
        if not encoding.cog:
            _end_ordinary(file, levels, describe)
    if encoding.cog:
        with made.open("rb") as tiles_file, path.open("wb") as file:
            _write_cog(file, tiles_file, levels, describe)
        made.unlink()


# Tiles


def _encoder(encoding: Encoding) -> tuple[Callable[[Tile, Px], bytes], bytes]:
    """(the function that encodes the px of a tile, the tables of JPEG that all tiles share)."""
    if encoding.compression != "jpeg":
        return lambda tile, px: _CODECS[encoding.compression](_whole(px), encoding.quality), b""
    sampling = "444" if encoding.quality >= FULL_COLOUR_FROM else "420"
    encode = partial(imagecodecs.jpeg8_encode, level=encoding.quality, subsampling=sampling)
    tables = _cut_jpeg(bytes(encode(np.zeros((SIDE, SIDE, 3), np.uint8))))[0]
    return lambda tile, px: _cut_jpeg(bytes(encode(_whole(px))))[1], tables


def _whole(px: Px) -> Px:
    """The px of a whole tile; beyond the edge of the picture its last px are repeated."""
    down, across = SIDE - px.shape[0], SIDE - px.shape[1]
    return np.pad(px, ((0, down), (0, across), (0, 0)), "edge") if down or across else px


def _cut_jpeg(data: bytes) -> tuple[bytes, bytes]:
    """(the tables of a JPEG file, the rest of it), each a stream of its own."""
    tables, rest, at = [b"\xff\xd8"], [b"\xff\xd8"], 2
    while (marker := data[at + 1]) != 0xDA:  # start of scan
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (0xDB, 0xC4):  # quantisation and Huffman tables
            tables.append(data[at:end])
        elif marker != 0xE0:  # JFIF's own header says nothing that the TIFF does not
            rest.append(data[at:end])
        at = end
    return b"".join(tables) + b"\xff\xd9", b"".join(rest) + data[at:]


def _differences(px: Px) -> Px:
    """Each px minus the one to its left, which compresses better: TIFF's horizontal predictor."""
    made = px.copy()
    made[:, 1:] -= px[:, :-1]
    return made


_CODECS: dict[str, Callable[[Px, int], bytes]] = {
    "none": lambda px, quality: px.tobytes(),
    "deflate": lambda px, quality: bytes(
        imagecodecs.deflate_encode(_differences(px).tobytes(), level=_LEVEL, raw=False)
    ),
    "lzw": lambda px, quality: bytes(imagecodecs.lzw_encode(_differences(px).tobytes())),
    "webp": lambda px, quality: bytes(imagecodecs.webp_encode(px, level=quality, lossless=False)),
}


# Directories

Describe = Callable[[_Tiles, bool], list[Entry]]
"""Gives the entries of a level, without the places of its tiles, from (tiles, whether it is the mosaic itself)."""


def _entries(tiles: _Tiles, whole: bool, *, encoding: Encoding, tables: bytes) -> list[Entry]:
    jpeg = encoding.compression == "jpeg"
    entries = [
        (254, _LONG, _packed(_LONG, 0 if whole else 1)),
        (256, _LONG, _packed(_LONG, tiles.size[0])),
        (257, _LONG, _packed(_LONG, tiles.size[1])),
        (258, _SHORT, _packed(_SHORT, 8, 8, 8)),
        (259, _SHORT, _packed(_SHORT, _CODES[encoding.compression])),
        (262, _SHORT, _packed(_SHORT, 6 if jpeg else 2)),  # YCbCr or RGB
        (277, _SHORT, _packed(_SHORT, 3)),
        (284, _SHORT, _packed(_SHORT, 1)),  # channels together
        (322, _LONG, _packed(_LONG, SIDE)),
        (323, _LONG, _packed(_LONG, SIDE)),
    ]
    if encoding.compression in ("deflate", "lzw"):
        entries.append((317, _SHORT, _packed(_SHORT, 2)))
    if jpeg:
        sampling = 1 if encoding.quality >= FULL_COLOUR_FROM else 2
        entries += [(347, _UNDEFINED, tables), (530, _SHORT, _packed(_SHORT, sampling, sampling))]
    if whole:
        dots = Fraction(encoding.dpi).limit_denominator(10_000)
        inch = struct.pack("<2I", dots.numerator, dots.denominator)
        entries += [
            (282, _RATIONAL, inch),
            (283, _RATIONAL, inch),
            (296, _SHORT, _packed(_SHORT, 2)),
            (305, _ASCII, SOFTWARE.encode("ascii") + b"\0"),
            (700, _BYTE, xmp(encoding.record)),
            (34675, _UNDEFINED, srgb_profile()),
        ]
    return entries


def _packed(kind: int, *values: int) -> bytes:
    return struct.pack(f"<{len(values)}{_LETTERS[kind]}", *values)


def _with_tiles(entries: list[Entry], tiles: _Tiles, big: bool) -> list[Entry]:
    """The entries, with the places of the tiles."""
    kind, dtype = (_LONG8, "<u8") if big else (_LONG, "<u4")
    places = {324: tiles.offsets, 325: tiles.lengths}
    tables = [(tag, kind, np.frombuffer(table, np.uint64).astype(dtype).tobytes()) for tag, table in places.items()]
    return entries + tables


def _directory(entries: Sequence[Entry], at: int, following: int, big: bool) -> bytes:
    """A directory that lies at byte `at`, with its values behind it. following: where the next one lies, 0 for none."""
    room = 8 if big else 4
    table = struct.pack("<Q" if big else "<H", len(entries))
    values, behind = b"", at + len(table) + len(entries) * (12 + 2 * (room - 4)) + room
    for tag, kind, data in sorted(entries):
        table += struct.pack("<HHQ" if big else "<HHI", tag, kind, len(data) // _SIZES[kind])
        if len(data) <= room:
            table += data.ljust(room, b"\0")
        else:
            table += struct.pack("<Q" if big else "<I", behind + len(values))
            values += data + b"\0" * (-len(data) % 8)
    table += struct.pack("<Q" if big else "<I", following)
    return table + values


def _header(first: int, big: bool) -> bytes:
    return struct.pack("<2sHHHQ", b"II", 43, 8, 0, first) if big else struct.pack("<2sHI8x", b"II", 42, first)


def _aligned(file: BinaryIO) -> int:
    """The place in the file, which is padded to a multiple of 8."""
    file.write(b"\0" * (-file.tell() % 8))
    return file.tell()


def _end_ordinary(file: BinaryIO, levels: Sequence[_Tiles], describe: Describe) -> None:
    """Write the directories behind the tiles: first those of the levels, then the mosaic's, which names them."""
    big = file.tell() + _directory_bytes(levels, describe) >= _CLASSIC
    inner = []
    for tiles in levels[1:]:
        at = _aligned(file)
        inner.append(at)
        file.write(_directory(_with_tiles(describe(tiles, False), tiles, big), at, 0, big))
    entries = _with_tiles(describe(levels[0], True), levels[0], big)
    if inner:
        kind = _LONG8 if big else _LONG
        entries.append((330, kind, _packed(kind, *inner)))
    first = _aligned(file)
    file.write(_directory(entries, first, 0, big))
    file.seek(0)
    file.write(_header(first, big))


def _directory_bytes(levels: Sequence[_Tiles], describe: Describe) -> int:
    """Bytes that the directories take at most."""
    made = (_directory(_with_tiles(describe(tiles, tiles is levels[0]), tiles, True), 0, 0, True) for tiles in levels)
    return sum(len(one) + 8 * 32 for one in made)


def _write_cog(file: BinaryIO, tiles_file: BinaryIO, levels: Sequence[_Tiles], describe: Describe) -> None:
    """Write directories, then tiles from the smallest level to the largest, as they lie in another file."""
    data = sum(sum(tiles.lengths) for tiles in levels)
    big = _HEADER + _directory_bytes(levels, describe) + data >= _CLASSIC
    placed, start = [], _HEADER
    for tiles in levels:  # the length of a directory does not depend on where its tiles lie
        placed.append(start)
        length = len(_directory(_with_tiles(describe(tiles, tiles is levels[0]), tiles, big), 0, 0, big))
        start += length + -length % 8
    moved: list[_Tiles] = []
    for tiles in reversed(levels):
        lengths = np.frombuffer(tiles.lengths, np.uint64)
        offsets = np.uint64(start) + np.concatenate(([0], np.cumsum(lengths)[:-1])).astype(np.uint64)
        moved.insert(0, _Tiles(tiles.size, array("Q", offsets.tobytes()), tiles.lengths))
        start += int(lengths.sum())
    file.write(_header(placed[0], big))
    for at, following, tiles in zip(placed, [*placed[1:], 0], moved, strict=True):
        _aligned(file)
        file.write(_directory(_with_tiles(describe(tiles, tiles is moved[0]), tiles, big), at, following, big))
    _aligned(file)
    for tiles in reversed(levels):
        for offset, length in zip(tiles.offsets, tiles.lengths, strict=True):
            tiles_file.seek(offset)
            file.write(tiles_file.read(length))
