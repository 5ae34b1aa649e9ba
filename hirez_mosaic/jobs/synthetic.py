"""Synthetic pictures for measuring: a source of any size and templates, the same for the same seed.

They are built like photos: a power spectrum that falls with the square of the frequency, three channels that mostly go
together, flat discs with sharp edges, and grain in every px. So codecs and the choice of templates have about as much
work as with photos. Noise alone would not compress; flat areas would cost nothing.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyvips
from numpy.typing import NDArray

from hirez_mosaic.errors import OutputError
from hirez_mosaic.pixels.vips import vips_reason
from hirez_mosaic.templates.making import Named, write_templates

_BASE = 1024  # side of the picture that a source is enlarged from, px
_GRAIN = 512, 4.0  # (side, px; standard deviation, levels of 255) of the patch of grain that is laid over a source
_DISCS = 40


def picture(side: int, seed: int) -> NDArray[np.uint8]:
    """(side, side, 3) uint8, the same for the same seed."""
    rng = np.random.default_rng(seed)
    down, across = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    falling = 1 / np.maximum(np.hypot(down, across), 1 / side)
    fields = np.stack(
        [np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side, side))) * falling, (side, side)) for _ in range(3)], -1
    )
    fields /= fields.std((0, 1))
    contrasts = np.array([[1, 1, 1], [0.4, 0, -0.4], [-0.2, 0.4, -0.2]])  # lightness, and two weaker ones of colour
    pixels = 120 + 50 * (fields @ contrasts)
    y, x = np.mgrid[:side, :side]
    for _ in range(_DISCS):
        centre, radius = rng.uniform(0, side, 2), side * rng.uniform(0.01, 0.08)
        inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
        pixels[inside] = 0.3 * pixels[inside] + 0.7 * rng.uniform(0, 255, 3)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def write_source(path: Path, size: tuple[int, int], seed: int = 0) -> None:
    """Write a source of `size` (width, height) px, a tiled and deflated BigTIFF.

    It is a picture of 1,024 px a side, enlarged, under grain. Memory does not grow with the size.

    Raises OutputError.
    """
    width, height = size
    base = pyvips.Image.new_from_array(picture(_BASE, seed)).copy(interpretation="srgb")
    large = base.resize(width / _BASE, vscale=height / _BASE, kernel="cubic").crop(0, 0, width, height)
    side, strength = _GRAIN
    grain = np.random.default_rng([seed, 1]).normal(0, strength, (side, side, 1)).astype(np.float32)
    laid = pyvips.Image.new_from_array(grain).replicate(-(-width // side), -(-height // side)).crop(0, 0, width, height)
    try:
        whole = (large + laid).cast("uchar").copy(interpretation="srgb")
        whole.tiffsave(
            str(path),
            tile=True,
            tile_width=256,
            tile_height=256,
            compression="deflate",
            predictor="horizontal",
            bigtiff=True,
        )
    except pyvips.Error as error:
        raise OutputError(f"The synthetic source {path} cannot be written: {vips_reason(error)}.") from error


def write_set(folder: Path, count: int, tile: tuple[int, int], seed: int = 0) -> None:
    """Write `count` templates of `tile` (width, height) px as PNG files into a new folder.

    They are random crops of one picture, with shifted mean colours.
    """
    width, height = tile
    whole = picture(max(_BASE, 2 * max(tile)), seed + 1).astype(np.float32)

    def crops() -> Iterator[Named]:
        for number in range(count):
            rng = np.random.default_rng([seed, 2, number])
            top, left = (int(rng.integers(0, free + 1)) for free in (len(whole) - height, len(whole) - width))
            crop = whole[top : top + height, left : left + width]
            shifted = crop + rng.uniform(0, 1) * (rng.uniform(0, 255, 3) - crop.mean((0, 1)))
            yield f"{number:06d}.png", np.clip(shifted, 0, 255).astype(np.uint8)

    write_templates(crops(), folder, overwrite=False)
