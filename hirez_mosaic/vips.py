"""libvips, set up for this program: no operation cache, and what every user of it needs."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyvips
from numpy.typing import NDArray
from PIL import Image, ImageDraw

# libvips would remember files by their name, and hand out the old px of one that has changed since.
pyvips.cache_set_max(0)
# libvips would take a table of numbers, such as labels.csv beside the pictures, for a picture.
pyvips.operation_block_set("VipsForeignLoadCsv", True)
pyvips.operation_block_set("VipsForeignLoadMatrix", True)

_FLOWING = ("jpegload", "pngload", "svgload", "tiffload", "webpload")  # loaders that shrink a picture without holding all of it
_SAMPLE_BYTES = {"uchar": 1, "ushort": 2}
_MOST_PX = 500_000_000
_MOST_HELD = 512 << 20


def fetch(image: pyvips.Image, width: int, height: int) -> NDArray[np.uint8]:
    """The first rows and columns of an 8-bit image as (height, width, bands), computed in this thread alone."""
    data = pyvips.Region.new(image).fetch(0, 0, width, height)
    return np.frombuffer(data, np.uint8).reshape(height, width, image.bands)


def open_upright(path: Path) -> pyvips.Image:
    """The first page or frame of a picture as 8-bit sRGB, by its profile where it has one, upright; 3 bands, or 4 with alpha.

    Px are computed when they are asked for, anywhere. Raises pyvips.Error for what cannot be read, UnicodeEncodeError for a name not UTF-8.
    """
    image = pyvips.Image.new_from_file(str(path), fail_on="truncated").autorot()
    if image.get_typeof("icc-profile-data"):
        image = image.icc_transform("srgb", embedded=True, black_point_compensation=True)
    return image.colourspace("srgb")[: 4 if image.hasalpha() else 3].cast("uchar")


def opaque(image: pyvips.Image, background: Sequence[int]) -> pyvips.Image:
    """A picture as sRGB of 3 bands over `background`; channels beside its colours and alpha, as a TIFF may have, do not count."""
    image = image.colourspace("srgb")
    image = image[: 4 if image.hasalpha() else 3]
    return image.flatten(background=list(background)) if image.hasalpha() else image


def captioned(image: pyvips.Image, text: str) -> pyvips.Image:
    """An 8-bit sRGB image under a line of black text on white."""
    band = Image.new("RGB", (image.width, 30), "white")
    ImageDraw.Draw(band).text((8, 4), text, fill="black", font_size=18)  # Pillow's own font: a server may have none
    return pyvips.Image.new_from_array(np.asarray(band)).copy(interpretation="srgb").join(image, "vertical")


def too_large(image: pyvips.Image) -> str:
    """Why a picture is not shrunk to a template or to train on, from its header alone; empty if it may be.

    500 Mpx are the most; and 512 MiB of px where its decoder holds all of them, as those of progressive JPEG and interlaced PNG do.
    """
    px = image.width * image.height
    flows = image.get("vips-loader") in _FLOWING and not image.get_typeof("interlaced")
    held = 0 if flows else px * image.bands * _SAMPLE_BYTES.get(image.format, 4)
    return f"{image.width} x {image.height} px are too many" if px > _MOST_PX or held > _MOST_HELD else ""


def vips_reason(error: pyvips.Error) -> str:
    """libvips' own words for what went wrong, on one line."""
    detail = (error.detail or error.message).strip().splitlines()
    return re.sub(r"^\w+: ", "", detail[-1].strip().rstrip(".")) if detail else "no reason given"
