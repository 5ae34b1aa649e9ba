"""A mosaic as a picture that libvips reads, while it is made, and saves.

libvips reads an uncompressed TIFF, of which no file exists: `MosaicStream` answers its reads from the index map, one
strip of px at a time. So the mosaic never exists in memory or on disk before it is compressed. (libvips' own
`arrayjoin` of one image per cell is some 90 times slower, `mapim` over an atlas of the templates about 5 times.)
"""

import os
import shutil
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pyvips

from hirez_mosaic.errors import DiskSpaceError, OutputError
from hirez_mosaic.pixels.vips import vips_reason
from hirez_mosaic.stages.assemble import Mosaic, MosaicReader, Progress

_STRIP_BYTES = 8 << 20  # of px that are made at once, about; never more than a row of cells
_FULL = 1 << 20  # a disk is full where fewer bytes are free


class PxStream:
    """A picture as an uncompressed BigTIFF that is made while it is read.

        header | offset of every strip | length of every strip | strip 0 | strip 1 | ...

    A strip has the full width. A subclass makes the strips, in their order.

    size: (width, height), px. rows: of px in a strip; the height is a multiple of it.
    """

    def __init__(self, size: tuple[int, int], rows: int) -> None:
        self.failure: Exception | None = None
        self._stopped = False
        self._image: pyvips.Image | None = None
        width, height = size
        self._strip_bytes = width * 3 * rows
        self._header = _tiff_header(width, height, rows)
        self._size = len(self._header) + width * 3 * height
        self._position = 0
        self._current, self._strip = -1, memoryview(b"")

    def open(self) -> pyvips.Image:
        """The picture as a libvips image, to be read once from top to bottom."""
        source = pyvips.SourceCustom()
        source.on_read(self._read)
        source.on_seek(self._seek)
        self._image = pyvips.Image.new_from_source(source, "", access="sequential")
        return self._image

    def stop(self) -> None:
        """Make libvips give up: else it goes on writing a picture whose px have ended."""
        self._stopped = True
        if self._image is not None:
            self._image.set_kill(True)

    def _read(self, length: int) -> bytes | memoryview:
        """The next bytes, at most `length`, which the next call may overwrite; none at the end."""
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
        except Exception as error:  # libvips sees the end of a file; `save_stream` raises the error
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
            self._strip, self._current = self._made(number), number
        return self._strip

    def _made(self, number: int) -> memoryview:
        """The bytes of a strip."""
        raise NotImplementedError


class MosaicStream(PxStream):
    """A mosaic that is made while it is read.

    The height of a strip divides that of a template, so no strip lies in two rows of cells.
    """

    def __init__(self, mosaic: Mosaic, progress: Progress) -> None:
        self._reader, self._columns = MosaicReader(mosaic), mosaic.index_map.shape[1]
        self._progress = progress
        height = mosaic.templates.tile[1]
        self._rows = strip_rows(height, mosaic.size[0])
        self._per_cell = height // self._rows
        super().__init__(mosaic.size, self._rows)

    def _made(self, number: int) -> memoryview:
        row, part = divmod(number, self._per_cell)
        px = self._reader.px(row, lines=slice(part * self._rows, (part + 1) * self._rows))
        if part == self._per_cell - 1:
            self._progress(self._columns)
        return px.data.cast("B")


def strip_rows(tile_height: int, width: int) -> int:
    """Rows of a strip: the largest divisor of a template's height at which it stays below 8 MiB, or 1.

    width: of the strip, px.
    """
    fitting = (
        rows for rows in range(tile_height, 0, -1) if tile_height % rows == 0 and rows * width * 3 <= _STRIP_BYTES
    )
    return next(fitting, 1)


def _tiff_header(width: int, height: int, rows: int) -> bytes:
    """Header, directory and strip tables of a BigTIFF; its strips, 8-bit RGB, follow directly."""
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


def save_stream(stream: PxStream, output: Path, save: Callable[[pyvips.Image], None]) -> None:
    """Save a picture in a thread of its own, because libvips would keep the interpreter from noticing Ctrl-C.

    output: the file or folder, whose disk is looked at after a failure.
    save: writes the image that it is called with.

    Raises OutputError, DiskSpaceError, and what making the px raised.
    """
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
        # Where two fail at the same time, libvips gives one of them both reasons and the other none.
        full = "o space" in reason or shutil.disk_usage(output.parent).free < _FULL
        kind = DiskSpaceError if full else OutputError
        raise kind(f"The mosaic could not be written: {reason}.") from error
