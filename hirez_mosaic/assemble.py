"""Assemble: from the index map and the templates to the mosaic file.

libvips writes the file, and reads the mosaic as an uncompressed TIFF that nobody wrote: `MosaicStream` answers its reads from the
index map, one strip of px at a time. So the mosaic never exists in memory or on disk before it is compressed. (libvips' own
`arrayjoin` of one image per cell is some 90 times slower, `mapim` over an atlas of the templates about 5 times.)
"""

import errno
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
import zarr
from numpy.typing import NDArray

from hirez_mosaic.errors import DiskSpaceError, OutputError, OutputExistsError
from hirez_mosaic.fresh import flush, private, remove
from hirez_mosaic.geometry import CELL, CellGrid
from hirez_mosaic.spec import parts_of
from hirez_mosaic.templates import RESIDENT, TemplateSet
from hirez_mosaic.tint import Tint, tinted
from hirez_mosaic.vips import vips_reason

_STRIP_BYTES = 8 << 20  # of px made at once, about; never more than a row of cells
STORAGE_TILE = 256  # side of a tile inside a TIFF, px
_FULL = 1 << 20  # bytes free of a disk that is full
_DOTS_PER_MM = 300 / 25.4  # what printers expect; libvips' own 25.4 dots an inch would make posters of postcards
_ZARR_SIDE = 1024  # side of a chunk of a Zarr mosaic, px, about
_PREVIEW_SIDE = 1600
_PREVIEW_FROM_PX = 100_000_000  # larger mosaics are previewed from templates at 8 x 8 px
_PAGE = {"index.html", "page.js", "pages", "small.jpg", "viewer", "tiles", "source", "index", "uses", "names", "search", "templates"}
_BYTES_PER_PX = {"jpeg": 1.7, "webp": 1.0, "deflate": 3.0, "lzw": 4.5, "none": 3.6}

Progress = Callable[[int], None]
"""Called with the number of cells just done."""


@dataclass(frozen=True)
class Mosaic:
    """What is assembled: an index map (rows, columns) uint32 of choices from a template set, perhaps tinted."""

    index_map: Any
    templates: TemplateSet
    tint: Tint | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), px."""
        (rows, columns), (width, height) = self.index_map.shape, self.templates.tile
        return columns * width, rows * height


class _Reader:
    """The px of a mosaic, cell row by cell row; arrays on disk are read a row of chunks at a time."""

    def __init__(self, mosaic: Mosaic) -> None:
        self._templates, self._tint = mosaic.templates, mosaic.tint
        self._index_map = _Bands(mosaic.index_map)
        self._taken, self._placed = 0, np.empty((0, 0, 0, 3), np.uint8)
        if mosaic.tint is not None:
            self._colours = _Bands(mosaic.tint.colours)
            self._strength = _Bands(np.broadcast_to(np.asarray(mosaic.tint.strength, np.float32), mosaic.index_map.shape))

    def px(self, row: int, columns: slice = slice(None), lines: slice = slice(None)) -> NDArray[np.uint8]:
        """(lines, columns x width, 3) uint8: those lines of the cells of a row; the next call may overwrite them."""
        choices = self._index_map[row][columns]
        (width, height), count = self._templates.tile, len(choices)
        shape = len(range(*lines.indices(height))), count, width, 3
        if self._placed.shape != shape:  # memory that is new each time would be cleared each time
            self._placed = np.empty(shape, np.uint8)
        pixels = self._templates.take(choices, lines, self._placed).reshape(-1, count * width, 3)
        self._taken += pixels.nbytes
        if self._taken > RESIDENT:
            self._templates.release()
            self._taken = 0
        if self._tint is None:
            return pixels
        moves = self._tint.moves(choices, self._colours[row][columns], self._strength[row][columns])
        return tinted(pixels, moves) if moves.any() else pixels


class _Bands:
    """The rows of an array, read a row of chunks at a time."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self._step = getattr(array, "chunks", (1,))[0]
        self._band, self._top = np.empty((0,)), 0

    def __getitem__(self, row: int) -> NDArray[Any]:
        if not self._top <= row < self._top + len(self._band):
            self._top = row // self._step * self._step
            self._band = np.asarray(self._array[self._top : self._top + self._step])
        return self._band[row - self._top]


def assemble(mosaic: Mosaic, output: Path, progress: Progress, *, compression: str = "jpeg", quality: int = 90) -> None:
    """Write a mosaic to a file, which appears, or replaces what is there, when it is complete: see `write_mosaic` and `Appearing`."""
    with Appearing(output) as made:
        write_mosaic(mosaic, made, progress, compression=compression, quality=quality)


def write_mosaic(mosaic: Mosaic, made: Path, progress: Progress, *, compression: str = "jpeg", quality: int = 90) -> None:
    """Write a mosaic under the name that `Appearing` gave.

    made: its suffix chooses the format: tiled pyramidal BigTIFF, Deep Zoom, PNG, JPEG, WebP or Zarr.
    Reads the index map from top to bottom, each chunk once, and returns when the file is on the disk.
    Raises OutputError, and DiskSpaceError when the disk is full.
    """
    save = _save_zarr if made.suffix.lower() == ".zarr" else _save_vips
    with writing():
        save(mosaic, made, progress, compression, quality)
        for part in parts_of(made):
            if part.is_file():
                flush(part)


@contextmanager
def writing(what: str = "mosaic") -> Iterator[None]:
    """Within, an OSError becomes an OutputError, or a DiskSpaceError, that tells what could not be written."""
    try:
        yield
    except OSError as error:
        kind = DiskSpaceError if error.errno == errno.ENOSPC else OutputError
        raise kind(f"The {what} could not be written: {error.strerror or error}.") from error


def write_preview(mosaic: Mosaic, output: Path) -> None:
    """Write the mosaic at 1,600 px on its longer side; of more than 100 Mpx from templates at 8 x 8 px, where these have so many."""
    width, height = mosaic.size
    if width * height > _PREVIEW_FROM_PX and CELL * max(mosaic.index_map.shape) >= _PREVIEW_SIDE:
        mosaic = replace(mosaic, templates=mosaic.templates.shrunk())
    factor = min(1.0, _PREVIEW_SIDE / max(width, height))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    stream = MosaicStream(mosaic, lambda cells: None)
    _run(stream, output, lambda image: image.thumbnail_image(size[0], height=size[1], size="force").write_to_file(str(output)))


def check_output(output: Path, overwrite: bool) -> None:
    """Raise OutputError when `output` cannot be written, before any work is done."""
    folder = output.absolute().parent
    if not folder.is_dir():
        raise OutputError(f"The output folder {folder} is not there; make it first.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"The output folder {folder} cannot be written to.")
    for path in parts_of(output):
        if path.exists() and not overwrite:
            raise OutputExistsError(f"{path} is there already; use --overwrite (in Python overwrite=True) to replace it.")
        if path.is_dir() and not _is_mosaic(path):
            raise OutputError(f"{path} is a folder that no mosaic was written to; name another place.")


def _is_mosaic(folder: Path) -> bool:
    """Whether a folder holds what a mosaic consists of, and nothing else: a Zarr array, levels of a Deep Zoom pyramid, a page or more."""
    names = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")} - {"Thumbs.db", "desktop.ini"}  # of file managers
    if folder.suffix.lower() == ".zarr":
        return names <= {"zarr.json", "c"}
    if "index.html" in names:
        return names <= _PAGE and bool(names & {"page.js", "pages"})
    return folder.name.endswith("_files") and all(name.isdigit() or name == "vips-properties.xml" for name in names)


def output_bytes(size: tuple[int, int], output: Path, compression: str, quality: int) -> int:
    """Bytes on disk that a mosaic of `size` (width, height) px takes, by rule of thumb: enough for grainy photos, not for pure noise."""
    suffix = output.suffix.lower()
    kind = {".png": "none", ".zarr": "none", ".webp": "webp"}.get(suffix, "jpeg" if suffix not in (".tif", ".tiff") else compression)
    levels = 4 / 3 if suffix in (".tif", ".tiff", ".dzi") else 1
    finest = 2.5 if kind in ("jpeg", "webp") and quality > 95 else 1
    return int(size[0] * size[1] * _BYTES_PER_PX[kind] * levels * finest)


def projected_bytes(grid: CellGrid, output: Path, *, tinted: bool = False) -> int:
    """Bytes that assembly holds at most: strips on their way in, and the rows of storage tiles each level of a pyramid collects."""
    width, height = grid.mosaic_size
    strip = width * 3 * strip_rows(grid.tile[1], width) * (3 if tinted else 1)
    suffix = output.suffix.lower()
    if suffix == ".webp":
        return 8 * width * height  # its encoder wants the whole picture
    if suffix == ".zarr":
        return 4 * strip + 3 * 3 * (_ZARR_SIDE + grid.tile[0]) * (_ZARR_SIDE + grid.tile[1])
    levels = 2 if suffix in (".tif", ".tiff", ".dzi") else 1
    return 4 * strip + levels * 3 * STORAGE_TILE * width * 3 + (64 << 20)


class MosaicStream:
    """A mosaic as an uncompressed BigTIFF that is made while it is read.

        header | offset of every strip | length of every strip | strip 0 | strip 1 | ...

    A strip is the full width and a divisor of the template's height, so none straddles two rows of cells.
    """

    def __init__(self, mosaic: Mosaic, progress: Progress) -> None:
        self.failure: Exception | None = None
        self._stopped = False
        self._image: pyvips.Image | None = None
        self._reader, self._columns = _Reader(mosaic), mosaic.index_map.shape[1]
        self._progress = progress
        width, height = mosaic.size
        self._rows = strip_rows(mosaic.templates.tile[1], width)
        self._per_cell = mosaic.templates.tile[1] // self._rows
        self._strip_bytes = width * 3 * self._rows
        self._header = _tiff_header(width, height, self._rows)
        self._size = len(self._header) + width * 3 * height
        self._position = 0
        self._current, self._strip = -1, memoryview(b"")

    def open(self) -> pyvips.Image:
        """The mosaic as a libvips image, to be read once from top to bottom."""
        source = pyvips.SourceCustom()
        source.on_read(self._read)
        source.on_seek(self._seek)
        self._image = pyvips.Image.new_from_source(source, "", access="sequential")
        return self._image

    def stop(self) -> None:
        """Make libvips give up; it would go on writing a mosaic whose px have ended."""
        self._stopped = True
        if self._image is not None:
            self._image.set_kill(True)

    def _read(self, length: int) -> bytes | memoryview:
        """At most so many bytes more, which the next call may overwrite; none at the end."""
        try:
            data: bytes | memoryview
            if self._stopped:
                return b""
            if self._position < len(self._header):
                data = self._header[self._position : self._position + length]
            elif self._position >= self._size:
                return b""
            else:
                number, offset = divmod(self._position - len(self._header), self._strip_bytes)
                data = self._strip_of(number)[offset : offset + length]
        except Exception as error:  # libvips sees the end of a file; whoever started it sees the error
            self.failure = error
            self.stop()
            return b""
        self._position += len(data)
        return data

    def _seek(self, offset: int, whence: int) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def _strip_of(self, number: int) -> memoryview:
        if number != self._current:
            row, part = divmod(number, self._per_cell)
            self._strip = self._reader.px(row, lines=slice(part * self._rows, (part + 1) * self._rows)).data.cast("B")
            self._current = number
            if part == self._per_cell - 1:
                self._progress(self._columns)
        return self._strip


def strip_rows(tile_height: int, width: int) -> int:
    """The largest divisor of the template's height at which a strip of `width` px stays below 8 MiB; 1 at least."""
    fitting = (rows for rows in range(tile_height, 0, -1) if tile_height % rows == 0 and rows * width * 3 <= _STRIP_BYTES)
    return next(fitting, 1)


def _tiff_header(width: int, height: int, rows: int) -> bytes:
    """Header, directory and strip tables of a BigTIFF of 8-bit RGB strips that follow at once."""
    strips = height // rows
    tags = 10
    tables = 16 + 8 + tags * 20 + 8
    first = tables + 16 * strips
    length = rows * width * 3

    def tag(code: int, kind: int, count: int, value: bytes) -> bytes:
        return struct.pack("<HHQ", code, kind, count) + value.ljust(8, b"\0")

    def number(code: int, value: int) -> bytes:
        return tag(code, 4, 1, struct.pack("<I", value))

    def table(code: int, at: int, single: int) -> bytes:
        return tag(code, 16, strips, struct.pack("<Q", at if strips > 1 else single))

    directory = [
        number(256, width),
        number(257, height),
        tag(258, 3, 3, struct.pack("<3H", 8, 8, 8)),
        number(259, 1),  # not compressed
        number(262, 2),  # RGB
        table(273, tables, first),
        number(277, 3),
        number(278, rows),
        table(279, tables + 8 * strips, length),
        number(284, 1),  # channels together
    ]
    offsets = first + length * np.arange(strips, dtype="<u8")
    lengths = np.full(strips, length, "<u8")
    head = struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, tags)
    return head + b"".join(directory) + bytes(8) + offsets.tobytes() + lengths.tobytes()


def _save_vips(mosaic: Mosaic, fresh: Path, progress: Progress, compression: str, quality: int) -> None:
    suffix = fresh.suffix.lower()

    def save(stream: pyvips.Image) -> None:
        image = stream.copy(xres=_DOTS_PER_MM, yres=_DOTS_PER_MM)
        if suffix in (".tif", ".tiff"):
            storage = {"tile": True, "tile_width": STORAGE_TILE, "tile_height": STORAGE_TILE, "pyramid": True, "bigtiff": True}
            predictor = "horizontal" if compression in ("deflate", "lzw") else "none"
            image.tiffsave(str(fresh), compression=compression, Q=quality, predictor=predictor, profile="srgb", **storage)
        elif suffix == ".dzi":
            plain = fresh.with_name("mosaic")  # libvips would read suffixes and options from the name
            image.dzsave(str(plain), suffix=f".jpg[Q={quality}]", container="fs")
            (plain.with_name("mosaic_files") / "vips-properties.xml").unlink(
                missing_ok=True
            )  # of no use, and never twice the same: it is dated
            for made, part in zip((plain.with_name("mosaic_files"), plain.with_suffix(".dzi")), parts_of(fresh), strict=True):
                made.rename(part)
        elif suffix == ".png":
            image.pngsave(str(fresh), profile="srgb")
        elif suffix == ".webp":
            image.webpsave(str(fresh), Q=quality, profile="srgb")
        else:
            image.jpegsave(str(fresh), Q=quality, profile="srgb")

    _run(MosaicStream(mosaic, progress), fresh, save)


def _run(stream: MosaicStream, output: Path, save: Callable[[pyvips.Image], None]) -> None:
    """Save to `output` in a thread of its own, since libvips would keep the interpreter from hearing Ctrl-C."""
    with ThreadPoolExecutor(1) as pool:
        try:
            work = pool.submit(lambda: save(stream.open()))
            while not wait([work], timeout=0.2).done:
                pass
        except BaseException:
            stream.stop()
            raise
    if stream.failure is not None:
        raise stream.failure
    try:
        work.result()
    except pyvips.Error as error:
        reason = vips_reason(error)
        # of two that fail at a time, libvips tells one the reasons of both and the other none
        full = "o space" in reason or shutil.disk_usage(output.parent).free < _FULL
        kind = DiskSpaceError if full else OutputError
        raise kind(f"The mosaic could not be written: {reason}.") from error


def _save_zarr(mosaic: Mosaic, fresh: Path, progress: Progress, compression: str, quality: int) -> None:
    (rows, columns), (width, height) = mosaic.index_map.shape, mosaic.templates.tile
    down, across = max(1, _ZARR_SIDE // height), max(1, _ZARR_SIDE // width)
    chunks = (min(down, rows) * height, min(across, columns) * width, 3)
    array = zarr.create_array(fresh, shape=(rows * height, columns * width, 3), chunks=chunks, dtype="u1")
    reader = _Reader(mosaic)
    for top in range(0, rows, down):
        band = range(top, min(top + down, rows))
        for left in range(0, columns, across):
            px = np.empty((len(band) * height, min(across, columns - left) * width, 3), np.uint8)
            for number, row in enumerate(band):
                px[number * height : (number + 1) * height] = reader.px(row, slice(left, left + across))
            array[top * height : top * height + px.shape[0], left * width : left * width + px.shape[1]] = px
        progress(len(band) * columns)


class Appearing:
    """A private folder beside the output in which it is made; on success its parts move to their final names, at once each.

    Raises OutputError, and DiskSpaceError when the disk is full.
    """

    def __init__(self, output: Path) -> None:
        self._output = output.absolute()

    def __enter__(self) -> Path:
        try:
            self._folder = private(self._output)
            self._folder.mkdir()
        except OSError as error:
            raise OutputError(f"The output folder {self._output.parent} cannot be written to: {error.strerror}.") from error
        return self._folder / self._output.name

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        try:
            if kind is None:
                with writing():
                    self._move()
        finally:
            remove(self._folder)

    def _move(self) -> None:
        for part in parts_of(self._output):
            made = self._folder / part.name
            if part.exists() and (part.is_dir() or made.is_dir()):  # only a file can replace, and only a file
                part.rename(self._folder / f"old-{part.name}")
            made.replace(part)
