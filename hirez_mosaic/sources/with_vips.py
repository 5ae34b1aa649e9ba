"""Sources that libvips reads from top to bottom: JPEG, PNG, WebP, GIF, HEIF, SVG and more."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyvips
from numpy.typing import NDArray

from hirez_mosaic.colour import CHANNELS, Alpha, Colour, Model
from hirez_mosaic.errors import SourceError
from hirez_mosaic.sources.source import Bands, Level, Source, check_size
from hirez_mosaic.vips import vips_reason

_FETCH_BYTES = 2 << 20  # asked of libvips at once, about: it buffers up to 32 times that; measured
_VIPS_DTYPES = {"uchar": "u1", "ushort": "u2", "float": "f4"}
_PLAIN = ("b-w", "grey16", "srgb", "rgb16", "cmyk")


def open_vips(path: Path, max_px: int) -> Source:
    """The first page or frame of a picture as bands. Raises SourceError for what libvips cannot read."""
    try:
        image = pyvips.Image.new_from_file(str(path), access="sequential", fail_on="truncated")
    except pyvips.Error as error:
        raise SourceError(f"{path} is not a picture that can be read: {vips_reason(error)}.") from error
    except UnicodeEncodeError as error:
        raise SourceError(f"{str(path)!r} cannot be opened: its name is not UTF-8; rename it.") from error
    check_size(path, (image.width, image.height), max_px)
    colour, channels = _vips_colour(image)
    orientation = image.get("orientation") if image.get_typeof("orientation") else 1
    bands = Bands(lambda: _vips_bands(path), channels, np.dtype(_VIPS_DTYPES[_plain(image).format]), _held(image))
    kind = image.get("vips-loader").removesuffix("load").upper()
    return Source(path, kind, (Level((image.width, image.height), bands=bands),), colour, orientation)


def _held(image: pyvips.Image) -> int:
    """Bytes that libvips holds while it reads; some decoders want the whole picture, twice over."""
    whole = image.get_typeof("interlaced") or image.get("vips-loader") not in ("jpegload", "pngload", "tiffload")
    sizes = {"uchar": 1, "ushort": 2}
    return 32 * _FETCH_BYTES + (2 * image.width * image.height * image.bands * sizes.get(image.format, 4) if whole else 0)


def _plain(image: pyvips.Image) -> pyvips.Image:
    """The image in one of the colour models of `Colour` and a sample format we store."""
    if _unit_floats(image):
        return image.copy(interpretation="b-w" if image.bands < 3 else "srgb")
    if image.interpretation not in _PLAIN:
        return image.colourspace("srgb").cast("uchar")
    return image if image.format in ("uchar", "ushort") else image.cast("uchar")


def _unit_floats(image: pyvips.Image) -> bool:
    """Whether samples are a TIFF's floats: 0 to 1 like tifffile's, though libvips takes them for linear light or 0 to 255."""
    return image.format == "float" and image.interpretation in ("b-w", "grey16", "scrgb") and image.get("vips-loader") == "tiffload"


def _vips_colour(image: pyvips.Image) -> tuple[Colour, int]:
    """(what the samples of the plain image mean, its number of channels)."""
    icc = image.get("icc-profile-data") if image.get_typeof("icc-profile-data") else None
    plain = _plain(image)
    models: dict[str, Model] = {"b-w": "grey", "grey16": "grey", "cmyk": "cmyk"}
    model = models.get(plain.interpretation, "rgb")
    alpha: Alpha = "straight" if plain.bands > CHANNELS[model] else "none"
    if image.interpretation not in _PLAIN and not _unit_floats(image):
        icc = None  # the profile told of the colours before
    return Colour(model, alpha, 16 if plain.format == "ushort" else 8, icc), plain.bands


def _vips_bands(path: Path) -> Iterator[NDArray[np.generic]]:
    """The picture from top to bottom; decoded as it is asked for, in this thread."""
    try:
        image = _plain(pyvips.Image.new_from_file(str(path), access="sequential", fail_on="truncated"))
        region = pyvips.Region.new(image)
        dtype = np.dtype(_VIPS_DTYPES[image.format])
        rows = max(1, _FETCH_BYTES // (image.width * image.bands * dtype.itemsize))
        for top in range(0, image.height, rows):
            height = min(rows, image.height - top)
            data = region.fetch(0, top, image.width, height)
            yield np.frombuffer(data, dtype).reshape(height, image.width, image.bands)
    except pyvips.Error as error:
        raise SourceError(f"{path} is damaged or truncated: {vips_reason(error)}.") from error
