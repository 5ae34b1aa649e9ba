"""Where a picture of another shape than the tile's is cut: around its centre, its most salient part, or its faces."""

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
_FACE_DETAIL = 256  # px of the shorter side at which faces are searched, if the picture has as many
_EYES = 1 / 3  # of the tile's height, from its top: where eyes should lie
_HAIR, _CHIN, _EARS = 0.4, 0.1, 0.15  # of a face's height or width: how far the head goes beyond the face


@dataclass(frozen=True)
class Crop:
    """A way to cut pictures.

    corner: returns the corner of the part that stays, from an upright sRGB picture (height, width, 3) and the size
        (width, height) of this part, px.
    detail: px of the shorter side that `corner` needs.
    """

    corner: Callable[[NDArray[np.uint8], tuple[int, int]], Corner]
    detail: int = 1

    def least(self, tile: tuple[int, int]) -> tuple[int, int]:
        """(width, height), px: the least size to open a picture at that is cut to a tile (width, height), px."""
        return max(tile[0], self.detail // 2), max(tile[1], self.detail // 2)


def cropping(name: str) -> Crop:
    """The way of that name, one of `spec.CROPS`.

    Raises SettingError for another name, SettingError and WeightsError where the detector of faces cannot be used.
    """
    check_crop(name)
    if name == "faces":
        find = face_finder(cache_folder("weights"))
        return Crop(lambda pixels, size: around_faces(find(pixels), pixels.shape[1::-1], size), _FACE_DETAIL)
    return Crop({"centre": _centre, "attention": _attention}[name])


def cut(pixels: NDArray[np.uint8], tile: tuple[int, int], crop: Crop) -> NDArray[np.uint8]:
    """(height, width, 3) uint8: the largest part of a picture that has the tile's shape, at the tile's size.

    pixels: (h, w, 3) uint8 sRGB of the whole picture, upright.
    tile: (width, height), px.
    crop: where to cut.
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
    """The corner of the part that holds the largest heads whole, as many as fit, with eyes a third below its top.

    It moves along one axis only, because on the other it is as long as the picture. Without faces it is in the centre.

    picture: (width, height) of the whole, px.
    size: (width, height) of the part that stays, px.
    """
    if not faces:
        return (picture[0] - size[0]) / 2, (picture[1] - size[1]) / 2
    across = [_Head(one.left, one.width, _EARS, _EARS, one.middle, one.area) for one in faces]
    down = [_Head(one.top, one.height, _HAIR, _CHIN, one.eyes, one.area) for one in faces]
    left, top = _along(across, 0.5, size[0]), _along(down, _EYES, size[1])
    return min(max(left, 0), picture[0] - size[0]), min(max(top, 0), picture[1] - size[1])


class _Head:
    """A head on one axis, px.

    face: (start, end) of the face.
    begin, end: of the head around it.
    point: what should lie at a certain part of the tile, such as the eyes.
    weight: the larger, the more `point` counts.
    """

    def __init__(self, start: float, length: float, before: float, behind: float, point: float, weight: float) -> None:
        self.face = start, start + length
        self.begin, self.end = start - before * length, start + (1 + behind) * length
        self.point, self.weight = point, weight


def _along(heads: list[_Head], aim: float, length: float) -> float:
    """Where a part of a picture begins on one axis, px.

    The points of the heads lie at `aim` of it, 0 to 1, if that cuts none of the heads.

    length: of the part, px.
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
