"""libvips, set up for this program: without its operation cache, and with what every user of it needs."""

import re

import numpy as np
import pyvips
from numpy.typing import NDArray
from PIL import Image, ImageDraw


def settle_readers() -> None:
    """Set libvips and Pillow up for this program, for the whole process; `engine.machine.settle_process` does it."""
    # libvips would remember files by their name, and hand out the old px of one that has changed since.
    pyvips.cache_set_max(0)
    # libvips would take a table of numbers, such as labels.csv beside the pictures, for a picture.
    pyvips.operation_block_set("VipsForeignLoadCsv", True)
    pyvips.operation_block_set("VipsForeignLoadMatrix", True)
    # Pillow would warn of large pictures, and refuse larger ones; `check_size` and the memory budget do that.
    Image.MAX_IMAGE_PIXELS = None


def fetch(image: pyvips.Image, width: int, height: int) -> NDArray[np.uint8]:
    """(height, width, bands) uint8: the first rows and columns of an 8-bit image, computed in this thread alone."""
    data = pyvips.Region.new(image).fetch(0, 0, width, height)
    return np.frombuffer(data, np.uint8).reshape(height, width, image.bands)


def shrunk(pixels: NDArray[np.uint8], times: int) -> NDArray[np.uint8]:
    """A picture (h, w, bands) uint8, shrunk to the means of squares of `times` px a side.

    A rest at the right and at the bottom is dropped.
    """
    height, width = (length // times for length in pixels.shape[:2])
    whole = np.ascontiguousarray(pixels[: height * times, : width * times])
    return fetch(pyvips.Image.new_from_array(whole).shrink(times, times), width, height)


def captioned(image: pyvips.Image, text: str) -> pyvips.Image:
    """An 8-bit sRGB image below a line of black text on white."""
    band = Image.new("RGB", (image.width, 30), "white")
    ImageDraw.Draw(band).text((8, 4), text, fill="black", font_size=18)  # Pillow's own font: a server may have none
    return pyvips.Image.new_from_array(np.asarray(band)).copy(interpretation="srgb").join(image, "vertical")


def vips_reason(error: pyvips.Error) -> str:
    """libvips' own message of what went wrong, on one line."""
    detail = (error.detail or error.message).strip().splitlines()
    return re.sub(r"^\w+: ", "", detail[-1].strip().rstrip(".")) if detail else "no reason given"
