"""libvips, set up for this program: no operation cache, and two helpers every user of it needs."""

import re

import numpy as np
import pyvips
from numpy.typing import NDArray

# libvips would remember files by their name, and hand out the old px of one that has changed since.
pyvips.cache_set_max(0)
# libvips would take a table of numbers, such as labels.csv beside the pictures, for a picture.
pyvips.operation_block_set("VipsForeignLoadCsv", True)
pyvips.operation_block_set("VipsForeignLoadMatrix", True)


def fetch(image: pyvips.Image, width: int, height: int) -> NDArray[np.uint8]:
    """The first rows and columns of an 8-bit image as (height, width, bands), computed in this thread alone."""
    data = pyvips.Region.new(image).fetch(0, 0, width, height)
    return np.frombuffer(data, np.uint8).reshape(height, width, image.bands)


def vips_reason(error: pyvips.Error) -> str:
    """libvips' own words for what went wrong, on one line."""
    detail = (error.detail or error.message).strip().splitlines()
    return re.sub(r"^\w+: ", "", detail[-1].strip().rstrip(".")) if detail else "no reason given"
