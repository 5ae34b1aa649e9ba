"""Where a picture that is not of the tile's shape is cut: around its centre, where libvips sees most, or so that heads
stay on.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyvips
from numpy.typing import NDArray
from PIL import Image

from hirez_mosaic.files.cache import cache_folder
from hirez_mosaic.settings.parsing import check_crop
from hirez_mosaic.templates.faces import Face, face_finder

Corner = tuple[float, float]
"""(left, top) of the part that stays, px."""
_FINDING = 256  # px of the shorter side at which faces are looked for, at least where the picture has them
_EYES = 1 / 3  # of the tile's height, from its top: where eyes should lie
_HAIR, _CHIN, _EARS = 0.4, 0.1, 0.15  # of a face's height and width: what belongs to the head around it


@dataclass(frozen=True)
class Crop:
    """A way to cut.

    corner: of an upright sRGB picture (height, width, 3) and the size (width, height) of the part that stays, px, its
        (left, top).
    detail: px of the shorter side that it should see.
    """

    corner: Callable[[NDArray[np.uint8], tuple[int, int]], Corner]
    detail: int = 1

    def least(self, tile: tuple[int, int]) -> tuple[int, int]:
        """(width, height), px: what a picture that is cut to this tile should be opened at, at least."""
        return max(tile[0], self.detail // 2), max(tile[1], self.detail // 2)


def cropping(name: str) -> Crop:
    """The way of that name, one of `spec.CROPS`. Raises SettingError and WeightsError where its detector is not to be
    had.
    """
    check_crop(name)
    if name == "faces":
        find = face_finder(cache_folder("weights"))
        return Crop(lambda pixels, size: around_faces(find(pixels), pixels.shape[1::-1], size), _FINDING)
    return Crop({"centre": _centre, "attention": _attention}[name])


def cut(pixels: NDArray[np.uint8], tile: tuple[int, int], crop: Crop) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 of the tile (width, height): the largest part of its shape, where `crop` says, shrunk or
    enlarged.

    pixels: (h, w, 3) uint8 sRGB of a whole picture, upright.
    """
    high, wide = pixels.shape[:2]
    scale = min(wide / tile[0], high / tile[1])
    width, height = tile[0] * scale, tile[1] * scale
    left, top = 0.0, 0.0
    if (whole := (round(width), round(height))) != (wide, high):
        left, top = crop.corner(pixels, whole)
    left, top = min(left, wide - width), min(top, high - height)
    return np.asarray(
        Image.fromarray(pixels).resize(tile, Image.Resampling.LANCZOS, box=(left, top, left + width, top + height))
    )


def _centre(pixels: NDArray[np.uint8], size: tuple[int, int]) -> Corner:
    return (pixels.shape[1] - size[0]) / 2, (pixels.shape[0] - size[1]) / 2


def _attention(pixels: NDArray[np.uint8], size: tuple[int, int]) -> Corner:
    """libvips' smartcrop: edges, skin and saturated colours."""
    image = pyvips.Image.new_from_array(np.ascontiguousarray(pixels)).copy(interpretation="srgb")
    seen = image.smartcrop(*size, interesting="attention")
    return float(-seen.xoffset), float(-seen.yoffset)


def around_faces(faces: list[Face], picture: tuple[int, int], size: tuple[int, int]) -> Corner:
    """(left, top): the largest heads whole, as many as fit, their eyes a third below the top; the centre where there
    are none.

    picture, size: (width, height) of all and of what stays, px. It moves along one side alone, for the other is as long
        as the picture's.
    """
    if not faces:
        return (picture[0] - size[0]) / 2, (picture[1] - size[1]) / 2
    across = [_Head(one.left, one.width, _EARS, _EARS, one.middle, one.area) for one in faces]
    down = [_Head(one.top, one.height, _HAIR, _CHIN, one.eyes, one.area) for one in faces]
    left, top = _along(across, 0.5, size[0]), _along(down, _EYES, size[1])
    return min(max(left, 0), picture[0] - size[0]), min(max(top, 0), picture[1] - size[1])


class _Head:
    """What a face takes of one axis: `begin` and `end` with the head around it; `point` should lie at a certain part of
    the tile.
    """

    def __init__(self, start: float, length: float, before: float, behind: float, point: float, weight: float) -> None:
        self.face = start, start + length
        self.begin, self.end = start - before * length, start + (1 + behind) * length
        self.point, self.weight = point, weight


def _along(heads: list[_Head], aim: float, length: float) -> float:
    """Where a part of that length begins on one axis, so that the heads' points lie at `aim` of it, 0 to 1, if that
    cuts none of them.
    """
    largest, *others = sorted(heads, key=lambda head: -head.weight)
    kept, begin, end = [largest], largest.begin, largest.end
    for head in others:
        if max(end, head.end) - min(begin, head.begin) <= length:
            kept, begin, end = [*kept, head], min(begin, head.begin), max(end, head.end)
    if end - begin > length:
        begin, end = largest.face
    wished = sum(head.point * head.weight for head in kept) / sum(head.weight for head in kept) - aim * length
    return wished if end - begin > length else min(max(wished, end - length), begin)
