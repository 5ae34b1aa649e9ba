"""From the samples a file holds to 8-bit sRGB: palettes, bit depths, ICC profiles, CMYK and alpha.

Every conversion works px by px, so a box converted alone equals the same box of the converted picture.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyvips
from numpy.typing import NDArray

from hirez_mosaic.errors import SourceError
from hirez_mosaic.vips import fetch, vips_reason

Model = Literal["grey", "rgb", "cmyk"]
Alpha = Literal["none", "straight", "associated"]

CHANNELS: dict[Model, int] = {"grey": 1, "rgb": 3, "cmyk": 4}
_INTERPRETATION = {
    ("grey", 1): "b-w",
    ("grey", 2): "grey16",
    ("rgb", 1): "srgb",
    ("rgb", 2): "rgb16",
    ("cmyk", 1): "cmyk",
    ("cmyk", 2): "cmyk",
}


@dataclass(frozen=True)
class Colour:
    """What the samples of a picture mean.

    model: the colour model of the first 1, 3 or 4 channels.
    alpha: whether a channel of opacity follows, and whether colours are already multiplied by it ("associated").
    bits: significant bits of an integer sample; samples are right-aligned. Floats run from 0 to 1.
    icc: the embedded profile.
    palette: (entries, 3) uint8 sRGB that samples index.
    inverted: 0 is white.
    """

    model: Model
    alpha: Alpha = "none"
    bits: int = 8
    icc: bytes | None = None
    palette: NDArray[np.uint8] | None = None
    inverted: bool = False


def to_srgb(samples: NDArray[Any], colour: Colour, background: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Samples (h, w, channels) as sRGB (h, w, 3) uint8, alpha flattened over `background`."""
    if colour.palette is not None:
        index = np.minimum(samples[..., 0].astype(np.intp), len(colour.palette) - 1)
        return colour.palette[index]
    whole = _full_range(samples, colour.bits)
    channels = CHANNELS[colour.model]
    colours: NDArray[Any] = whole[..., :channels]
    if colour.inverted:
        colours = np.iinfo(whole.dtype).max - colours
    if colour.alpha == "none":
        return _convert(colours, colour)
    opacity = whole[..., channels : channels + 1].astype(np.float32) / np.iinfo(whole.dtype).max
    if colour.alpha == "associated":
        straight = colours / np.maximum(opacity, 1e-6)
        colours = np.minimum(np.round(straight), np.iinfo(whole.dtype).max).astype(whole.dtype)
    over = _convert(colours, colour) * opacity + np.array(background, np.float32) * (1 - opacity)
    return np.round(over).astype(np.uint8)


def to_lab(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.float32]:
    """(h, w, 3) sRGB as CIELAB float32 (D65; L from 0 to 100): distances are about what the eye sees, 2 the least of it."""
    return _retold(pixels, "srgb" if pixels.dtype == np.uint8 else "rgb16", "lab").numpy()


def from_lab(lab: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The reverse; what sRGB does not hold is clipped."""
    return _retold(lab, "lab", "srgb").numpy()


def _retold(values: NDArray[Any], from_model: str, to_model: str) -> pyvips.Image:
    return pyvips.Image.new_from_array(np.ascontiguousarray(values), interpretation=from_model).colourspace(to_model)


def _full_range(samples: NDArray[Any], bits: int) -> NDArray[Any]:
    """Samples stretched to all of uint8 or uint16."""
    if samples.dtype == np.bool_ or bits == 1:
        return (samples != 0).astype(np.uint8) * np.uint8(255)
    if samples.dtype.kind == "f":
        unit = np.clip(np.nan_to_num(samples.astype(np.float32)), 0, 1)
        return np.round(unit * 65535).astype(np.uint16)
    kind = np.uint8 if samples.dtype.itemsize == 1 else np.uint16
    if bits == 8 * kind().itemsize:
        return samples.astype(kind, copy=False)
    return np.round(samples.astype(np.float32) * (np.iinfo(kind).max / ((1 << bits) - 1))).astype(kind)


def _convert(colours: NDArray[Any], colour: Colour) -> NDArray[np.uint8]:
    """Colour channels alone to sRGB (h, w, 3) uint8."""
    if colour.model == "rgb" and colour.icc is None and colours.dtype == np.uint8:
        return colours.astype(np.uint8, copy=False)
    interpretation = _INTERPRETATION[colour.model, colours.dtype.itemsize]
    image = pyvips.Image.new_from_array(np.ascontiguousarray(colours), interpretation=interpretation)
    height, width = colours.shape[:2]
    try:
        if colour.icc is not None:
            return fetch(_through_profile(image, colour.icc), width, height)
        return fetch(image.colourspace("srgb"), width, height)
    except pyvips.Error as error:
        raise SourceError(f"The picture's colours cannot be converted to sRGB: {vips_reason(error)}.") from error


def _through_profile(image: pyvips.Image, icc: bytes) -> pyvips.Image:
    """The image in sRGB by its profile; by libvips' own reading of the colour model where the profile does not fit it."""
    tagged = image.copy()
    tagged.set_type(pyvips.GValue.blob_type, "icc-profile-data", icc)
    try:
        return tagged.icc_transform("srgb", embedded=True, intent="relative", black_point_compensation=True, depth=8)
    except pyvips.Error:
        return image.colourspace("srgb")
