"""Sources that libvips reads from top to bottom: JPEG, PNG, WebP, GIF, AVIF, SVG, and TIFF in high strips."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from hirez_mosaic.errors import SourceError
from hirez_mosaic.pixels.colour import CHANNELS, Alpha, Colour, Model
from hirez_mosaic.pixels.vips import vips_reason
from hirez_mosaic.sources.png import png_profile
from hirez_mosaic.sources.source import Bands, Level, Source, check_size

_FETCH_BYTES = 2 << 20  # asked of libvips at once, about: it buffers up to 32 times that; measured
_VIPS_DTYPES = {"uchar": "u1", "ushort": "u2"}
_PLAIN = ("b-w", "grey16", "srgb", "rgb16", "cmyk")
_FLOWING = ("jpegload", "pngload", "tiffload")  # these hold a few rows only
_SMALLER = {"jpegload": "shrink", "webpload": "scale"}


@dataclass(frozen=True)
class Loader:
    """One of libvips' loaders. libvips is not left to guess, for it takes brackets in a file's name for options.

    name: of the loader, as libvips has it.
    kind: the format, for people.
    pages: whether a file may hold several.
    """

    name: str
    kind: str
    pages: bool = False

    def __call__(self, path: Path, page: int, times: int = 1) -> pyvips.Image:
        """Open a page to be read from top to bottom.

        page: from 0.
        times: by how many times the decoder makes it smaller: 1, or for JPEG and WebP 2, 4 or 8.
        Raises pyvips.Error.
        """
        # libjpeg counts as errors what every other reader forgives; libtiff, libpng and the rest do not
        settings: dict[str, Any] = {
            "access": "sequential",
            "fail_on": "truncated" if self.name == "jpegload" else "error",
        }
        if self.pages:
            settings["page"] = page
        if times > 1:
            settings[_SMALLER[self.name]] = times if self.name == "jpegload" else 1 / times
        return getattr(pyvips.Image, self.name)(str(path), **settings)


def open_vips(path: Path, max_px: int, loader: Loader, page: int = 0) -> Source:
    """Open a picture as bands.

    max_px: the most px that its header may claim.
    page: or frame, from 0.
    Raises SourceError for what libvips cannot read.
    """
    try:
        image = loader(path, page)
    except pyvips.Error as error:
        raise SourceError(f"{path} is not a picture that can be read: {vips_reason(error)}.") from error
    except UnicodeEncodeError as error:
        raise SourceError(f"{str(path)!r} cannot be opened: its name is not UTF-8; rename it.") from error
    check_size(path, (image.width, image.height), max_px)
    colour, channels = _vips_colour(path, image)
    orientation = image.get("orientation") if image.get_typeof("orientation") else 1
    level = _level(path, image, loader, page, channels, 1)
    return Source(path, loader.kind, (level,), colour, orientation)


def _level(path: Path, image: pyvips.Image, loader: Loader, page: int, channels: int, times: int) -> Level:
    def smaller(times: int) -> Level:
        return _level(path, loader(path, page, times), loader, page, channels, times)

    can = times == 1 and loader.name in _SMALLER
    dtype = np.dtype(_VIPS_DTYPES[_plain(image).format])
    bands = Bands(
        lambda: _vips_bands(path, loader, page, times), channels, dtype, _held(image), smaller if can else None
    )
    return Level((image.width, image.height), bands=bands)


def _held(image: pyvips.Image) -> int:
    """Bytes that libvips holds while it reads; some decoders want the whole picture, twice over."""
    whole = image.get_typeof("interlaced") or image.get("vips-loader") not in _FLOWING
    sizes = {"uchar": 1, "ushort": 2}
    return 32 * _FETCH_BYTES + (
        2 * image.width * image.height * image.bands * sizes.get(image.format, 4) if whole else 0
    )


def _plain(image: pyvips.Image) -> pyvips.Image:
    """The image in one of the colour models of `Colour` and a sample format we store."""
    if image.interpretation not in _PLAIN:
        return image.colourspace("srgb").cast("uchar")
    return image if image.format in _VIPS_DTYPES else image.cast("uchar")


def _vips_colour(path: Path, image: pyvips.Image) -> tuple[Colour, int]:
    """(what the samples of the plain image mean, its number of channels)."""
    icc = image.get("icc-profile-data") if image.get_typeof("icc-profile-data") else None
    plain = _plain(image)
    models: dict[str, Model] = {"b-w": "grey", "grey16": "grey", "cmyk": "cmyk"}
    model = models.get(plain.interpretation, "rgb")
    alpha: Alpha = "straight" if plain.bands > CHANNELS[model] else "none"
    if image.interpretation not in _PLAIN:
        icc = None  # the profile is that of the colours before
    elif image.get("vips-loader") == "pngload":
        icc = png_profile(path, icc, grey=model == "grey")
    return Colour(model, alpha, 16 if plain.format == "ushort" else 8, icc), plain.bands


def _vips_bands(path: Path, loader: Loader, page: int, times: int) -> Iterator[NDArray[np.generic]]:
    """The picture from top to bottom; decoded as it is asked for, in this thread."""
    try:
        image = _plain(loader(path, page, times))
        region = pyvips.Region.new(image)
        dtype = np.dtype(_VIPS_DTYPES[image.format])
        rows = max(1, _FETCH_BYTES // (image.width * image.bands * dtype.itemsize))
        for top in range(0, image.height, rows):
            height = min(rows, image.height - top)
            data = region.fetch(0, top, image.width, height)
            yield np.frombuffer(data, dtype).reshape(height, image.width, image.bands)
    except pyvips.Error as error:
        raise SourceError(f"{path} is damaged or truncated: {vips_reason(error)}.") from error
