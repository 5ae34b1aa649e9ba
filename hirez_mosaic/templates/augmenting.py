"""Template sets cut out of pictures at random places, sizes and angles, with shifted colours: many from a few pictures.

The paper's Fig. 5 is made of 17,500 such templates, cut out of a hundred pictures of the Hubble Space Telescope.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil, hypot
from pathlib import Path

import numpy as np
import pyvips
from numpy.typing import NDArray

from hirez_mosaic.errors import SourceError, TemplateError
from hirez_mosaic.pixels.colour import from_lab, to_lab
from hirez_mosaic.pixels.vips import fetch
from hirez_mosaic.settings.places import check_there
from hirez_mosaic.sources import open_whole, reason
from hirez_mosaic.templates.loading import list_files
from hirez_mosaic.templates.making import Named

_BATCH_BYTES = 64 << 20  # of templates that wait to be written, about
_FINE = 2  # a crop is turned at so many times the template's size


@dataclass(frozen=True)
class Augmentation:
    """How templates are cut out of a picture.

    tile: (width, height) of a template, px.
    colour_shift: how far, from 0 to 1, a mean colour may move towards a random one, in CIELAB; contrast changes by up
        to 0.6 of that.
    mirror: whether half of them are mirrored.
    rotate: whether all are turned by any angle.
    seed: of all that is random.
    """

    tile: tuple[int, int]
    colour_shift: float = 0.5
    mirror: bool = True
    rotate: bool = True
    seed: int = 0

    def __call__(self, picture: pyvips.Image, number: int) -> NDArray[np.uint8]:
        """(height, width, 3) uint8: a template, the same for the same picture, settings and number.

        picture: 8-bit sRGB without alpha.
        """
        rng = np.random.default_rng([self.seed, number])
        pixels = self._crop(picture, rng)
        if self.mirror and rng.integers(2):
            pixels = pixels[:, ::-1]
        return self._shifted(pixels, rng) if self.colour_shift else np.ascontiguousarray(pixels)

    def _crop(self, picture: pyvips.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
        """A crop whose size is between the template's own and half the picture's, and at most the picture's."""
        width, height = self.tile
        # The circle within this square holds the template at any angle, and 2 px around it: no corner is empty.
        around = (ceil(hypot(width, height)) + 4,) * 2 if self.rotate else self.tile
        most = min(picture.width / around[0], picture.height / around[1])
        scale = rng.uniform(min(1, most), max(most / 2, min(1, most)))
        wide, high = (max(1, int(side * scale)) for side in around)
        left, top = (int(rng.integers(0, free + 1)) for free in (picture.width - wide, picture.height - high))
        crop = picture.crop(left, top, wide, high)
        if self.rotate:
            fine = crop.thumbnail_image(_FINE * around[0], height=_FINE * around[1], size="force")
            turned = fine.similarity(angle=rng.uniform(0, 360), interpolate=pyvips.Interpolate.new("bicubic"))
            inner = _FINE * width, _FINE * height
            crop = turned.crop((turned.width - inner[0]) // 2, (turned.height - inner[1]) // 2, *inner)
        return fetch(crop.thumbnail_image(width, height=height, size="force").cast("uchar"), width, height)

    def _shifted(self, pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """The crop with another mean colour and another contrast."""
        lab = to_lab(pixels)
        mean = lab.mean((0, 1))
        wanted = to_lab(rng.integers(0, 256, (1, 1, 3), np.uint8))[0, 0]
        wanted[1:] *= rng.uniform(0, 1)  # as many dull ones as bright ones
        contrast = 1 + 0.6 * self.colour_shift * rng.uniform(-1, 1)
        way = rng.uniform(0, self.colour_shift)  # part of the way from its own mean colour to the random one
        return from_lab((mean + contrast * (lab - mean) + way * (wanted - mean)).astype(np.float32))


def pictures_at(places: Sequence[Path], exclude: Sequence[str] = ()) -> list[Path]:
    """Files, and the files below folders that may be pictures, each once.

    places: files and folders.
    exclude: patterns of files to leave out of the folders.

    Raises TemplateError for a place that is not there, and for a folder without files.
    """
    found: dict[Path, None] = {}
    for place in places:
        check_there(place, error=TemplateError)
        files = [place / name for name, _, _ in list_files(place, exclude)] if place.is_dir() else [place]
        if not files:
            raise TemplateError(f"The folder of pictures {place} holds no files.")
        found |= dict.fromkeys(files)
    return list(found)


def augmented(
    pictures: Sequence[Path], count: int, augment: Augmentation, *, jobs: int, skip: Callable[[Path, str], None]
) -> Iterator[Named]:
    """(name, (height, width, 3) uint8) of templates, about as many of each picture; transparent px are white.

    One picture is in memory at a time.

    count: templates in all.
    jobs: threads that cut; any number gives the same templates.
    skip: called with each file that cannot be read and the reason.

    Raises TemplateError where no file can be read.
    """
    waiting = [pictures[at] for at in np.random.default_rng(augment.seed).permutation(len(pictures))]
    made = 0
    with ThreadPoolExecutor(jobs) as pool:
        while made < count:  # once, unless the last of the pictures cannot be read
            readable = []
            for place, path in enumerate(waiting):
                share = ceil((count - made) / (len(waiting) - place))
                if not share:
                    break
                picture = _load(path)
                if isinstance(picture, str):
                    skip(path, picture)
                    continue
                readable.append(path)
                yield from _cut(picture, range(made, made + share), augment, pool, jobs)
                made += share
            if not readable:
                raise TemplateError(f"None of the {len(pictures)} files is a readable picture, {pictures[0]} for one.")
            waiting = readable


def _cut(
    picture: pyvips.Image, numbers: range, augment: Augmentation, pool: ThreadPoolExecutor, jobs: int
) -> Iterator[Named]:
    """The templates of these numbers, out of one picture."""
    step = max(jobs, min(1024, _BATCH_BYTES // (3 * augment.tile[0] * augment.tile[1])))
    for start in range(0, len(numbers), step):
        batch = numbers[start : start + step]
        for number, pixels in zip(batch, pool.map(lambda number: augment(picture, number), batch), strict=True):
            yield f"{number:06d}.png", pixels


def _load(path: Path) -> pyvips.Image | str:
    """The picture in memory, or the reason why there is none."""
    try:
        return open_whole(path)
    except SourceError as error:
        return reason(error, path)
