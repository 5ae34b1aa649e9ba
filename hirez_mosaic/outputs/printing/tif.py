"""Pages as TIFF files, one a page, whole papers with their white margins at the resolution of their picture."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyvips
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from hirez_mosaic.outputs.printing.page import Drawing, Page
from hirez_mosaic.outputs.printing.px import Ink, check_sides, save
from hirez_mosaic.stages.assemble import Progress

_BAND_ROWS = 256
_CLASSIC_BYTES = 3 << 30  # of px, not compressed, beyond which a TIFF is a BigTIFF


def paper_px(page: Page) -> tuple[int, int]:
    """(width, height) of a page, px."""
    width, height = (max(1, round(side * page.density)) for side in page.paper)
    return width, height


def write_tifs(
    pages: Sequence[Page], folder: Path, progress: Progress, ink: Ink, compression: str, quality: int
) -> None:
    """Write each page to NAME.tif in a new folder. progress: called with pages done.

    Raises OutputError, and DiskSpaceError when the disk is full.
    """
    folder.mkdir()
    for page in pages:
        size, file = paper_px(page), folder / f"{page.name}.tif"
        check_sides(size, compression)
        density = float(page.density)
        settings = {"compression": compression, "Q": quality, "resunit": "inch"}
        settings["predictor"] = "horizontal" if compression == "deflate" else "none"
        settings["bigtiff"] = size[0] * size[1] * ink.channels > _CLASSIC_BYTES

        def write(
            image: pyvips.Image, to: str = str(file), how: dict[str, object] = settings, dots: float = density
        ) -> None:
            ink.mixed(image).copy(xres=dots, yres=dots).tiffsave(to, **how)

        save(size, partial(_bands, page, size), file, write)
        progress(1)


def _bands(page: Page, size: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """The paper from top to bottom."""
    drawing, feed, density = page.draw(), _Feed(page), float(page.density)
    for top in range(0, size[1], _BAND_ROWS):
        band = np.full((min(_BAND_ROWS, size[1] - top), size[0], 3), 255, np.uint8)
        feed.lay(band, top)
        yield _drawn(band, drawing, density, top)


class _Feed:
    """The picture of a page, which is laid on one band after the other."""

    def __init__(self, page: Page) -> None:
        self._picture = page.picture
        self._bands = iter(()) if page.picture is None else page.picture.bands()
        self._rest = np.empty((0, 0, 3), np.uint8)

    def lay(self, band: NDArray[np.uint8], top: int) -> None:
        if self._picture is None:
            return
        (left, first), (width, height) = self._picture.place, self._picture.size
        row, stop = max(first, top), min(first + height, top + len(band))
        while row < stop:
            if not len(self._rest):
                self._rest = next(self._bands)
            taken = self._rest[: stop - row]
            shown = taken[:, : band.shape[1] - left]  # the paper's px are rounded
            band[row - top : row - top + len(taken), left : left + width] = shown
            row, self._rest = row + len(taken), self._rest[len(taken) :]


def _drawn(band: NDArray[np.uint8], drawing: Drawing, density: float, top: int) -> NDArray[np.uint8]:
    """A band of the paper, whose first row is `top`, with the part of a drawing that lies there."""
    image = Image.fromarray(band)
    canvas, bottom = ImageDraw.Draw(image), top + len(band)
    for line in drawing.lines:
        half, grey = max(0.5, line.wide * density / 2), round(255 * line.grey)
        (x, y), (right, low) = ((at * density for at in end) for end in (line.start, line.stop))
        across, down = (half, 0) if x == right else (0, half)
        if y - down < bottom and low + down > top:
            corners = (x - across, y - down - top, right + across - 1, low + down - top - 1)
            canvas.rectangle([*map(round, corners)], fill=(grey, grey, grey))
    for text in drawing.texts:
        left, low, right, high = (side * density for side in text.box)
        if high < bottom and low > top:
            if text.boxed:
                canvas.rectangle((left, high - top, right, low - top), fill="white")
            place, anchor = (text.x * density, text.y * density - top), "ms" if text.centred else "ls"
            canvas.text(place, text.words, fill="black", font_size=max(1.0, text.high * density), anchor=anchor)
    return np.asarray(image)
