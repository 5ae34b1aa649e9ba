"""Template sets cut out of pictures: the sprites of sheets, and random crops. Colours and transparency stay.

Of an animation or a document the first page counts. Pictures are opened one at a time.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyvips
from numpy.typing import NDArray

from hirez_mosaic.errors import SourceError, TemplateError
from hirez_mosaic.pixels.vips import fetch
from hirez_mosaic.sources import open_whole, size_of
from hirez_mosaic.templates.making import Named


@dataclass(frozen=True)
class Grid:
    """How sprites lie in a sheet; what is left over at the right and at the bottom is no sprite.

    sprite: (width, height), px.
    margin: px left of and above the first sprite.
    spacing: px between two sprites.
    """

    sprite: tuple[int, int]
    margin: int = 0
    spacing: int = 0

    def counts(self, sheet: Path) -> tuple[int, int]:
        """(rows, columns) of sprites in a sheet. Raises TemplateError for what is no picture or too small."""
        try:
            size = size_of(sheet)
        except SourceError as error:
            raise TemplateError(str(error)) from error
        columns, rows = (
            (side - self.margin + self.spacing) // (one + self.spacing)
            for side, one in zip(size, self.sprite, strict=True)
        )
        if rows < 1 or columns < 1:
            raise TemplateError(
                f"The sheet {sheet} is {size[0]} x {size[1]} px, too small for a sprite of "
                f"{self.sprite[0]} x {self.sprite[1]} px and a margin of {self.margin} px; "
                "use a smaller `grid` or `margin`."
            )
        return rows, columns


def sprites(
    sheets: Sequence[Path], grid: Grid, *, tile: tuple[int, int] | None = None, keep_empty: bool = False
) -> Iterator[Named]:
    """(name, (height, width, 3 or 4) uint8) of each sprite, row by row.

    tile: (width, height), px, to scale sprites to; as they are where None. Whole multiples repeat px; other sizes are
        cut to the tile's shape around the centre and resampled by Lanczos.
    keep_empty: whether sprites that are transparent or of one colour count.

    Raises TemplateError for a sheet that cannot be read, is too small, or holds only empty sprites.
    """
    for number, sheet in enumerate(sheets):
        rows, columns = grid.counts(sheet)
        (width, height), full = grid.sprite, 0
        with _opened(sheet) as image:
            for row, column in np.ndindex(rows, columns):
                left, top = (
                    grid.margin + at * (one + grid.spacing) for at, one in zip((column, row), grid.sprite, strict=True)
                )
                sprite = image.crop(left, top, width, height)
                pixels = fetch(sprite, width, height)
                if keep_empty or not _is_empty(pixels):
                    full += 1
                    yield f"{number:03d}-{row:04d}-{column:04d}.png", pixels if tile is None else _at_tile(sprite, tile)
        if not full:
            raise TemplateError(
                f"All {rows * columns} sprites of {width} x {height} px in {sheet} are empty, "
                "transparent or of one colour; use another `grid`, or `keep_empty`."
            )


def random_crops(pictures: Sequence[Path], tile: tuple[int, int], count: int, seed: int) -> Iterator[Named]:
    """(name, (height, width, 3 or 4) uint8) of crops at random places, about as many of each picture.

    Crops are from the tile's own size up to half the picture, log-uniform; a picture smaller than the tile is enlarged.
    The same seed gives the same crops.

    tile: (width, height) of a crop, px.
    count: crops in all.

    Raises TemplateError for a picture that cannot be read.
    """
    for first, path in enumerate(pictures):
        with _opened(path) as image:
            most = min(image.width / tile[0], image.height / tile[1])
            for number in range(first, count, len(pictures)):
                rng = np.random.default_rng([seed, number])
                scale = min(most, max(1, most / 2) ** rng.uniform(0, 1))
                width, height = (max(1, int(side * scale)) for side in tile)
                left, top = (int(rng.integers(0, most + 1)) for most in (image.width - width, image.height - height))
                yield f"{number:06d}.png", _at_tile(image.crop(left, top, width, height), tile)


@contextmanager
def _opened(path: Path) -> Iterator[pyvips.Image]:
    """The picture with its transparency. Raises TemplateError where it cannot be read."""
    try:
        yield open_whole(path, background=None)
    except SourceError as error:
        raise TemplateError(str(error)) from error


def _is_empty(pixels: NDArray[np.uint8]) -> bool:
    transparent = pixels.shape[2] == 4 and not pixels[..., 3].any()
    return transparent or bool((pixels == pixels[0, 0]).all())


def _at_tile(image: pyvips.Image, tile: tuple[int, int]) -> NDArray[np.uint8]:
    factor = tile[0] // image.width
    if (factor * image.width, factor * image.height) == tile:
        return fetch(image.zoom(factor, factor), *tile)
    return fetch(image.thumbnail_image(tile[0], height=tile[1], size="both", crop="centre").cast("uchar"), *tile)
