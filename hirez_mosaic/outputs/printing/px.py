"""The px of prints: read box by box, converted to the colours of the print, and written to files."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import pyvips
from numpy.typing import NDArray
from PIL import ImageCms

from hirez_mosaic.errors import OutputError, SettingError
from hirez_mosaic.outputs.stream import PxStream, save_stream
from hirez_mosaic.pixels.geometry import Box
from hirez_mosaic.stages.assemble import Mosaic, MosaicReader

COMPRESSIONS = ("jpeg", "deflate")
_BAND_BYTES = 8 << 20
_LEAST_ROWS = 256  # of a band: tiles of a TIFF are decoded once for each band that they lie in
_STRIP_ROWS = 64
_JPEG_SIDE = 65_500  # the largest that libjpeg writes, px

Bands = Callable[[], Iterator[NDArray[np.uint8]]]


class Readable(Protocol):
    """A picture whose px can be read anywhere, such as a `Source`."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), px."""

    def read(self, box: Box) -> NDArray[np.uint8]:
        """(height, width, 3) sRGB."""


class MosaicPx:
    """The px of a mosaic, which are made from its templates when they are read."""

    def __init__(self, mosaic: Mosaic) -> None:
        self._reader, self._tile, self.size = MosaicReader(mosaic), mosaic.templates.tile, mosaic.size

    def read(self, box: Box) -> NDArray[np.uint8]:
        """(height, width, 3) the px of a box, which lies within the mosaic."""
        width, height = self._tile
        first = box.left // width
        columns, px = slice(first, -(-box.right // width)), np.empty((box.height, box.width, 3), np.uint8)
        for row in range(box.top // height, -(-box.bottom // height)):
            top, bottom = max(box.top, row * height), min(box.bottom, (row + 1) * height)
            lines = self._reader.px(row, columns, slice(top - row * height, bottom - row * height))
            px[top - box.top : bottom - box.top] = lines[:, box.left - first * width : box.right - first * width]
        return px


def bands(picture: Readable, box: Box) -> Iterator[NDArray[np.uint8]]:
    """The px of a box in bands of rows; beyond the picture its edge px repeat."""
    step = max(_LEAST_ROWS, _BAND_BYTES // (3 * box.width))
    for top in range(box.top, box.bottom, step):
        yield _read(picture, Box(top, min(top + step, box.bottom), box.left, box.right))


def _read(picture: Readable, box: Box) -> NDArray[np.uint8]:
    width, height = picture.size
    (top, bottom), (left, right) = _inside(box.top, box.bottom, height), _inside(box.left, box.right, width)
    px = picture.read(Box(top, bottom, left, right))
    if px.shape[:2] == (box.height, box.width):
        return px
    rows = np.clip(np.arange(box.top, box.bottom), top, bottom - 1) - top
    columns = np.clip(np.arange(box.left, box.right), left, right - 1) - left
    return px[rows[:, None], columns]


def _inside(start: int, stop: int, length: int) -> tuple[int, int]:
    return min(max(start, 0), length - 1), max(min(stop, length), 1)


@dataclass(frozen=True)
class Ink:
    """The colours in which a file is written: sRGB, or those of a CMYK profile. profile: its file; None for sRGB."""

    profile: Path | None = None

    @property
    def channels(self) -> int:
        """How many channels there are: 3, or 4 for CMYK."""
        return 3 if self.profile is None else 4

    @property
    def icc(self) -> bytes:
        """The profile's bytes."""
        return _SRGB if self.profile is None else self.profile.read_bytes()

    def check(self) -> None:
        """Raise SettingError for a file that is no profile of CMYK."""
        if self.profile is None:
            return
        try:
            space = ImageCms.ImageCmsProfile(BytesIO(self.icc)).profile.xcolor_space.strip()
            if space == "CMYK":
                self.mixed(pyvips.Image.black(1, 1, bands=3).copy(interpretation="srgb")).avg()
        except (OSError, ImageCms.PyCMSError, pyvips.Error) as error:
            reason = getattr(error, "strerror", None) or "it is no colour profile that px can be converted to"
            raise SettingError(f"The profile {self.profile} cannot be used: {reason}; name another.") from error
        if space != "CMYK":
            raise SettingError(f"The profile {self.profile} is one of {space} and not of CMYK; name that of a press.")

    def mixed(self, image: pyvips.Image) -> pyvips.Image:
        """An sRGB image in these colours, with their profile."""
        if self.profile is not None:
            how = {"intent": "relative", "black_point_compensation": True}
            return image.icc_transform(str(self.profile), input_profile="srgb", **how)
        tagged = image.copy()
        tagged.set_type(pyvips.GValue.blob_type, "icc-profile-data", self.icc)
        return tagged


_SRGB = bytes(pyvips.Operation.call("profile_load", "srgb"))


class BandStream(PxStream):
    """Bands as a picture. libvips reads a whole number of strips, so `open` cuts off the rows that are too many."""

    def __init__(self, size: tuple[int, int], bands: Iterator[NDArray[np.uint8]]) -> None:
        self._wanted, self._bands, self._rest = size, bands, np.empty((0, size[0], 3), np.uint8)
        super().__init__((size[0], -(-size[1] // _STRIP_ROWS) * _STRIP_ROWS), _STRIP_ROWS)

    def open(self) -> pyvips.Image:
        """The picture, to be read once from top to bottom."""
        return super().open().crop(0, 0, *self._wanted)

    def _made(self, number: int) -> memoryview:
        px, filled = np.zeros((_STRIP_ROWS, self._wanted[0], 3), np.uint8), 0
        while filled < min(_STRIP_ROWS, self._wanted[1] - number * _STRIP_ROWS):
            if not len(self._rest):
                self._rest = next(self._bands)
            taken = self._rest[: _STRIP_ROWS - filled]
            px[filled : filled + len(taken)] = taken
            filled, self._rest = filled + len(taken), self._rest[len(taken) :]
        return px.data.cast("B")


def save(size: tuple[int, int], bands: Bands, file: Path, write: Callable[[pyvips.Image], None]) -> None:
    """Write a picture of `size` (width, height) px. Raises OutputError, and DiskSpaceError when the disk is full."""
    save_stream(BandStream(size, bands()), file, write)


def check_sides(size: tuple[int, int], compression: str) -> None:
    """Raise OutputError for a side that is too long for JPEG."""
    if compression == "jpeg" and max(size) > _JPEG_SIDE:
        raise OutputError(
            f"A sheet has {size[0]:,} x {size[1]:,} px and JPEG ends at {_JPEG_SIDE:,} a side; "
            "use `compression=deflate`, or smaller paper."
        )


def deflate(image: pyvips.Image, to: BinaryIO) -> None:
    """Write px as zlib packs them, each as its difference to the one at its left: the predictor of TIFF and of PDF."""
    packer, region = zlib.compressobj(6), pyvips.Region.new(image)
    step = max(1, _BAND_BYTES // (image.width * image.bands))
    for top in range(0, image.height, step):
        rows = min(step, image.height - top)
        data = region.fetch(0, top, image.width, rows)
        px = np.frombuffer(data, np.uint8).reshape(rows, image.width, image.bands)
        to.write(packer.compress(np.diff(px, axis=1, prepend=np.uint8(0)).tobytes()))
    to.write(packer.flush())
