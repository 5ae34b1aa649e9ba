"""From the samples of a file to 8-bit sRGB: palettes, ranges, ICC profiles, CMYK, YCbCr, CIELAB and opacity.

This is the only way from samples to sRGB. Every conversion works px by px, so a box that is converted alone equals the
same box of the converted picture.
"""

from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any, Literal

import numpy as np
import pyvips
from numpy.typing import NDArray
from PIL import ImageCms

from hirez_mosaic.errors import SourceError
from hirez_mosaic.pixels.vips import fetch, vips_reason

Model = Literal["grey", "rgb", "cmyk", "ycbcr", "lab"]
Alpha = Literal["none", "straight", "associated"]

CHANNELS: dict[Model, int] = {"grey": 1, "rgb": 3, "cmyk": 4, "ycbcr": 3, "lab": 3}
_INTERPRETATION = {
    ("grey", 1): "b-w",
    ("grey", 2): "grey16",
    ("rgb", 1): "srgb",
    ("rgb", 2): "rgb16",
    ("cmyk", 1): "cmyk",
    ("cmyk", 2): "cmyk",
}
_LEAST_GAMUT = 1e-4  # determinant of the primaries in CIE XYZ; that of sRGB is 0.16
_D50 = np.array([0.9642, 1.0, 0.8251])
_D50_TO_SRGB = np.array(
    [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
)
_BAND_PX = 1 << 20  # px whose CIELAB is computed at once


@dataclass(frozen=True)
class Colour:
    """What the samples of a picture mean.

    model: the colour model of the first 1, 3 or 4 channels. "lab" is CIELAB under D50.
    alpha: "none", or whether colours are already multiplied by the opacity ("associated") or not ("straight").
    bits: significant bits of an integer sample; samples are right-aligned.
    icc: the embedded profile.
    palette: (entries, 3) uint8 sRGB that samples are indices of.
    inverted: whether 0 is white.
    limits: samples (black, white) of floats, of signed and 32-bit integers, and of samples to be stretched; None where
        they are the least and the largest of `bits`.
    linear: whether samples are amounts of light.
    opacity: number of the channel with the opacity; the one after the colours where None.
    nodata: the sample of px without a picture, which show the background. NaN stands for NaN.
    offset: whether the two last channels of CIELAB are shifted to be positive, as in ICC profiles.
    """

    model: Model
    alpha: Alpha = "none"
    bits: int = 8
    icc: bytes | None = None
    palette: NDArray[np.uint8] | None = None
    inverted: bool = False
    limits: tuple[float, float] | None = None
    linear: bool = False
    opacity: int | None = None
    nodata: float | None = None
    offset: bool = False

    @property
    def plain(self) -> bool:
        """Whether 8-bit samples are sRGB or grey without any conversion, and all px are opaque."""
        return (
            self.alpha == "none"
            and self.bits == 8
            and self.palette is None
            and self.limits is None
            and self.nodata is None
        )


def to_srgb(samples: NDArray[Any], colour: Colour, background: tuple[int, int, int] | None) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 sRGB of samples over a background; without one (h, w, 4), with the opacity, if there is any.

    samples: (h, w, channels).
    colour: what the samples mean.
    background: sRGB; None to keep the opacity.

    Raises SourceError where libvips cannot convert them.
    """
    channels = CHANNELS[colour.model]
    colours = samples[..., :channels]
    opacity = _opacity(samples, colour)
    if colour.alpha == "associated" and opacity is not None:
        colours = _straight(colours, opacity, colour)
    made = _opaque(colours, colour)
    if opacity is None:
        return made
    if background is None:
        return np.dstack([made, np.round(opacity * 255).astype(np.uint8)])
    return np.round(made * opacity + np.array(background, np.float32) * (1 - opacity)).astype(np.uint8)


def _opacity(samples: NDArray[Any], colour: Colour) -> NDArray[np.float32] | None:
    """(h, w, 1) opacity from 0 to 1; None where all px are opaque."""
    opacity: NDArray[np.float32] | None = None
    if colour.alpha != "none":
        at = CHANNELS[colour.model] if colour.opacity is None else colour.opacity
        alone = replace(
            colour, linear=False, limits=(0.0, 1.0) if samples.dtype.kind == "f" else _opacity_limits(samples.dtype)
        )
        whole = _full_range(samples[..., at : at + 1], alone)
        opacity = whole.astype(np.float32) / np.float32(np.iinfo(whole.dtype).max)
    if colour.nodata is not None:
        colours = samples[..., : CHANNELS[colour.model]]
        empty = np.isnan(colours) if np.isnan(colour.nodata) else colours == colours.dtype.type(colour.nodata)
        there = ~empty.all(-1, keepdims=True)
        opacity = there.astype(np.float32) if opacity is None else (opacity * there).astype(np.float32)
    return opacity


def _opacity_limits(kind: np.dtype[Any]) -> tuple[float, float] | None:
    """(transparent, opaque) of samples that `bits` does not describe; None for those that it does."""
    return None if kind.kind in "bu" and kind.itemsize <= 2 else (0.0, float(np.iinfo(kind).max))


def _straight(colours: NDArray[Any], opacity: NDArray[np.float32], colour: Colour) -> NDArray[Any]:
    """Colours that were multiplied by the opacity, without it."""
    straight = colours / np.maximum(opacity, 1e-6)
    if colours.dtype.kind == "f":
        return straight.astype(np.float32)
    return np.minimum(np.round(straight), (1 << colour.bits) - 1).astype(colours.dtype)


def _opaque(colours: NDArray[Any], colour: Colour) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 sRGB of the colour channels alone."""
    if colour.palette is not None:
        return colour.palette[np.minimum(colours[..., 0].astype(np.intp), len(colour.palette) - 1)]
    if colour.model == "lab":
        return _from_cielab(colours, colour)
    whole = _full_range(colours, colour)
    if colour.inverted:
        whole = np.iinfo(whole.dtype).max - whole
    return _convert(_from_ycbcr(whole) if colour.model == "ycbcr" else whole, colour)


def to_lab(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.float32]:
    """(h, w, 3) float32 CIELAB (D65; L from 0 to 100) of sRGB. The eye sees distances from about 2 on."""
    return _in_model(pixels, "srgb" if pixels.dtype == np.uint8 else "rgb16", "lab").numpy()


def from_lab(lab: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 sRGB of CIELAB, the reverse of `to_lab`; colours outside sRGB are clipped."""
    return _in_model(lab, "lab", "srgb").numpy()


def _in_model(values: NDArray[Any], from_model: str, to_model: str) -> pyvips.Image:
    return pyvips.Image.new_from_array(np.ascontiguousarray(values), interpretation=from_model).colourspace(to_model)


def _full_range(samples: NDArray[Any], colour: Colour) -> NDArray[Any]:
    """Samples stretched to the whole range of uint8 or uint16."""
    if samples.dtype == np.bool_ or (colour.bits == 1 and colour.limits is None):
        return (samples != 0).astype(np.uint8) * np.uint8(255)
    if colour.limits is not None or samples.dtype.kind == "f":
        black, white = colour.limits or (0.0, 1.0)
        with np.errstate(invalid="ignore"):  # of signalling NaNs, which count as 0 like the others
            values = np.nan_to_num(samples.astype(np.float64 if samples.dtype.itemsize > 2 else np.float32))
        unit = np.clip((values - black) / max(white - black, 1e-30), 0, 1)
        return np.round((_encoded(unit) if colour.linear else unit) * 65535).astype(np.uint16)
    kind = np.uint8 if samples.dtype.itemsize == 1 else np.uint16
    if colour.bits == 8 * kind().itemsize:
        return samples.astype(kind, copy=False)
    return np.round(samples.astype(np.float32) * (np.iinfo(kind).max / ((1 << colour.bits) - 1))).astype(kind)


def _encoded(light: NDArray[Any]) -> NDArray[Any]:
    """sRGB values, 0 to 1, of amounts of light from 0 to 1, IEC 61966-2-1."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055)


def _from_ycbcr(whole: NDArray[Any]) -> NDArray[Any]:
    """RGB of YCbCr of the full range, by ITU-R BT.601, the default of TIFF and JPEG."""
    most = np.iinfo(whole.dtype).max
    luma, blue, red = (whole[..., at].astype(np.float32) for at in range(3))
    blue, red = blue - (most + 1) // 2, red - (most + 1) // 2
    channels = [luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue]
    return np.clip(np.round(np.stack(channels, -1)), 0, most).astype(whole.dtype)


def _from_cielab(samples: NDArray[Any], colour: Colour) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 sRGB of CIELAB under D50, as TIFF stores it in 8 or 16 bits or as floats.

    It is computed in bands of rows, because it takes floats.
    """
    made = np.empty(samples.shape, np.uint8)
    rows = max(1, _BAND_PX // max(1, samples.shape[1]))
    for top in range(0, len(samples), rows):
        band = samples[top : top + rows]
        light, green_red, blue_yellow = (_lab_channel(band[..., at], at > 0, colour.offset) for at in range(3))
        y = (light + 16) / 116
        roots = np.stack([y + green_red / 500, y, y - blue_yellow / 200], -1)
        xyz = np.where(roots > 6 / 29, roots**3, (roots - 4 / 29) * 3 * (6 / 29) ** 2) * _D50
        made[top : top + rows] = np.round(_encoded(np.clip(xyz @ _D50_TO_SRGB.T, 0, 1)) * 255)
    return made


def _lab_channel(samples: NDArray[Any], chroma: bool, offset: bool) -> NDArray[np.float64]:
    """L from 0 to 100, or a or b from -128 to 127, of one channel as it is stored. chroma: whether it is a or b."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float64)
    size = samples.dtype.itemsize
    if not chroma:
        return samples.astype(np.float64) * (100 / (255 if size == 1 else 65280 if offset else 65535))
    if offset:
        return samples.astype(np.float64) / (1 if size == 1 else 256) - 128
    return samples.view(np.int8 if size == 1 else np.int16).astype(np.float64) / (1 if size == 1 else 256)


def _convert(colours: NDArray[Any], colour: Colour) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 sRGB of grey, RGB or CMYK of the full range."""
    model: Model = "rgb" if colour.model == "ycbcr" else colour.model
    if model == "rgb" and colour.icc is None and colours.dtype == np.uint8:
        return colours.astype(np.uint8, copy=False)
    image = pyvips.Image.new_from_array(
        np.ascontiguousarray(colours), interpretation=_INTERPRETATION[model, colours.dtype.itemsize]
    )
    height, width = colours.shape[:2]
    try:
        converted = image.colourspace("srgb") if colour.icc is None else _through_profile(image, colour.icc)
        return fetch(converted, width, height)
    except pyvips.Error as error:
        raise SourceError(f"The picture's colours cannot be converted to sRGB: {vips_reason(error)}.") from error


def _through_profile(image: pyvips.Image, icc: bytes) -> pyvips.Image:
    """The image converted to sRGB by its profile."""
    tagged = image.copy()
    tagged.set_type(pyvips.GValue.blob_type, "icc-profile-data", icc)
    return tagged.icc_transform("srgb", embedded=True, intent="relative", black_point_compensation=True, depth=8)


def fits(colour: Colour) -> bool:
    """Whether the profile is valid and of the colour model; libvips would use one of another model without an error."""
    spaces = {"grey": "GRAY", "rgb": "RGB ", "ycbcr": "RGB ", "cmyk": "CMYK"}
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(colour.icc or b"")).profile
        if profile.xcolor_space != spaces[colour.model] or not _tells_colours_apart(profile):
            return False
        _convert(np.zeros((1, 1, CHANNELS[colour.model]), np.uint8), colour)
    except Exception:  # LittleCMS raises whatever it likes
        return False
    return True


def _tells_colours_apart(profile: Any) -> bool:
    """Whether the primaries of a profile are three colours; noise comes out of one whose primaries lie on a line.

    profile: LittleCMS's, as Pillow shows it.
    """
    primaries = profile.red_colorant, profile.green_colorant, profile.blue_colorant
    if not profile.is_matrix_shaper or any(one is None for one in primaries):
        return True
    return abs(float(np.linalg.det([xyz for xyz, _ in primaries]))) > _LEAST_GAMUT
