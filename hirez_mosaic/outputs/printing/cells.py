"""The pages of a mosaic that people stick together: numbered stickers to cut out, and a grid with the numbers."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from hirez_mosaic.errors import SettingError
from hirez_mosaic.outputs.printing.layout import MOST_PAGES, Paper, count, name_of, part
from hirez_mosaic.outputs.printing.page import Drawing, Line, Page, Picture, Text, fitted
from hirez_mosaic.outputs.printing.sheets import marks
from hirez_mosaic.pixels.geometry import Box
from hirez_mosaic.settings.lengths import format_size
from hirez_mosaic.stages.assemble import Mosaic
from hirez_mosaic.stages.tint import tinted

_STRIP = 4  # mm below a sticker, for its number
_GAP = 2  # mm beside a sticker
_SQUARE = (6, 20)  # side of a square of the grid, mm: at least, so that it can be read, and at most
_HEADING = 6  # mm for the names of columns and rows
_GRID_DENSITY = Fraction(6)  # px a mm of a page that has no picture
_PAGE_TITLE = 6  # mm for the name of a page


@dataclass(frozen=True)
class StickerPaper:
    """How stickers lie on their paper.

    tile: (width, height) of a sticker, px.
    density: px a mm.
    cells: (columns, rows) of the mosaic.
    """

    tile: tuple[int, int]
    density: Fraction
    cells: tuple[int, int]
    paper: Paper

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of a sticker with what is beside and below it, px."""
        return self.tile[0] + round(_GAP * self.density), self.tile[1] + round(_STRIP * self.density)

    @property
    def fitting(self) -> tuple[int, int]:
        """(columns, rows) of stickers on a page."""
        across, down = (int(side * self.density) for side in self.paper.room)
        return (across + round(_GAP * self.density)) // self.size[0], down // self.size[1]

    @property
    def pages(self) -> int:
        """How many pages of stickers there are."""
        return -(-self.cells[0] * self.cells[1] // (self.fitting[0] * self.fitting[1]))

    @property
    def grid_pages(self) -> int:
        """How many pages the grid takes."""
        return math.prod(map(count, self.cells, grid_fitting(self.paper)))

    @property
    def px(self) -> int:
        """How many px all pages have together."""
        return math.prod((*self.cells, *self.size))

    @property
    def margin(self) -> int:
        """Margin of the paper, px."""
        return math.ceil(self.paper.margin * self.density)


def fewest(
    tile: tuple[int, int], density: Fraction, cells: tuple[int, int], paper: Paper, turnable: bool
) -> StickerPaper:
    """Stickers on paper as it is, or turned where that takes fewer pages.

    Raises SettingError where no sticker or no square of the grid fits, or where there are too many pages.
    """
    ways = [StickerPaper(tile, density, cells, one) for one in (paper, paper.turned)[: 1 + turnable]]
    fitting = [way for way in ways if min(*way.fitting, *grid_fitting(way.paper)) > 0]
    if not fitting:
        raise SettingError(
            f"A sticker of {format_size((tile[0] / density, tile[1] / density))} with its number, or the grid, does "
            f"not fit between the margins of {format_size(paper.size)}; use larger paper, or a smaller print."
        )
    best = min(fitting, key=lambda way: way.pages)
    if best.pages + best.grid_pages > MOST_PAGES:
        raise SettingError(
            f"{math.prod(cells):,} stickers take {best.pages + best.grid_pages:,} pages and {MOST_PAGES:,} are the "
            "most; use larger paper."
        )
    return best


@dataclass(frozen=True)
class Stickers:
    """A mosaic as stickers on paper."""

    layout: StickerPaper
    mosaic: Mosaic

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """(rows, columns): the number of each cell's sticker, from 1.

        Cells with the same px have the same number. In a tinted mosaic each cell has its own.
        """
        index_map = np.asarray(self.mosaic.index_map)
        if self.mosaic.tint is not None:
            return np.arange(1, index_map.size + 1).reshape(index_map.shape)
        return np.unique(index_map, return_inverse=True)[1].reshape(index_map.shape) + 1

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """(cells,): the cells, numbered row by row from 0, in the order of their stickers."""
        return np.argsort(self.numbers, axis=None, kind="stable")

    @property
    def distinct(self) -> int:
        """How many different stickers there are."""
        return int(self.numbers.max())

    def on_page(self, page: int) -> NDArray[np.int64]:
        """The cells whose stickers are on a page."""
        most = math.prod(self.layout.fitting)
        return self.order[page * most : (page + 1) * most]


def grid_fitting(paper: Paper) -> tuple[int, int]:
    """(columns, rows) of the grid's squares on a page, at most."""
    across, down = paper.room
    return int((across - _HEADING) / _SQUARE[0]), int((down - _HEADING - _PAGE_TITLE) / _SQUARE[0])


def grid_parts(paper: Paper, columns: int, rows: int) -> Iterator[tuple[str, Box]]:
    """(name, box of cells) of each page of the grid."""
    across, down = grid_fitting(paper)
    for row in range(count(rows, down)):
        for column in range(count(columns, across)):
            (left, right), (top, bottom) = part(column, columns, across), part(row, rows, down)
            yield f"grid-{name_of(column, row)}", Box(top, bottom, left, right)


def grid_pages(stickers: Stickers) -> list[Page]:
    """Tables that tell the number of every cell's sticker."""
    paper, parts = stickers.layout.paper, grid_parts(stickers.layout.paper, *stickers.layout.cells)
    return [Page(name, paper.size, _GRID_DENSITY, partial(_table, stickers, name, box)) for name, box in parts]


def _table(stickers: Stickers, name: str, box: Box) -> Drawing:
    (across, down), margin = map(float, stickers.layout.paper.room), float(stickers.layout.paper.margin)
    fit = (across - _HEADING) / box.width, (down - _HEADING - _PAGE_TITLE) / box.height
    side = min(_SQUARE[1], *fit)
    left, top = margin + _HEADING, margin + _HEADING + _PAGE_TITLE
    right, bottom = left + side * box.width, top + side * box.height
    lines = [Line((left + at * side, top), (left + at * side, bottom), grey=0.5) for at in range(box.width + 1)]
    lines += [Line((left, top + at * side), (right, top + at * side), grey=0.5) for at in range(box.height + 1)]
    texts = [Text(left, margin + 0.7 * _PAGE_TITLE, 4.0, f"{name}: the number of the sticker in each place")]

    def centred(column: float, row: float, words: str, most: float) -> Text:
        high = fitted(words, 0.9 * side, most)
        return Text(left + (column + 0.5) * side, top + (row + 0.5) * side + 0.35 * high, high, words, centred=True)

    for column in range(box.width):
        letters = name_of(box.left + column, 0)[:-1]
        texts.append(centred(column, -0.5 - 0.5 * _HEADING / side, letters, 3.0))
    for row in range(box.height):
        texts.append(centred(-0.5 - 0.5 * _HEADING / side, row, str(box.top + row + 1), 3.0))
    for (row, column), number in np.ndenumerate(stickers.numbers[box.slices]):
        texts.append(centred(column, row, str(number), 0.4 * side))
    return Drawing(lines, texts)


def sticker_pages(stickers: Stickers) -> list[Page]:
    """The pages of stickers, in the order of their numbers; each sticker is there as often as it is used."""
    return [_page(stickers, number) for number in range(stickers.layout.pages)]


def _page(stickers: Stickers, number: int) -> Page:
    layout, cells = stickers.layout, len(stickers.on_page(number))
    across, (width, height) = layout.fitting[0], layout.size
    size = min(cells, across) * width - round(_GAP * layout.density), -(-cells // across) * height
    picture = Picture((layout.margin, layout.margin), size, partial(_bands, stickers, number, size[0]))
    draw = partial(_labels, stickers, number)
    return Page(f"stickers-{number + 1}", layout.paper.size, layout.density, draw, picture)


def _bands(stickers: Stickers, page: int, width: int) -> Iterator[NDArray[np.uint8]]:
    """The stickers of a page, a row of them at a time."""
    layout, cells = stickers.layout, stickers.on_page(page)
    (wide, high), (step, height), across = layout.tile, layout.size, layout.fitting[0]
    for first in range(0, len(cells), across):
        px = _px(stickers.mosaic, cells[first : first + across])
        band = np.full((height, width, 3), 255, np.uint8)
        for at in range(px.shape[1] // wide):
            band[:high, at * step : at * step + wide] = px[:, at * wide : (at + 1) * wide]
        yield band


def _px(mosaic: Mosaic, cells: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(height, cells x width, 3) the px of cells, side by side."""
    choices = np.asarray(mosaic.index_map).reshape(-1)[cells]
    taken = mosaic.templates.take(choices)
    mosaic.templates.release()
    px = taken.reshape(len(taken), -1, 3)
    if mosaic.tint is None:
        return px
    strength = np.asarray(mosaic.tint.strength, np.float32).reshape(-1)[cells]
    return tinted(px, mosaic.tint.moves(choices, np.asarray(mosaic.tint.colours).reshape(-1, 3)[cells], strength))


def _labels(stickers: Stickers, page: int) -> Drawing:
    """The number and the place of each sticker, which stand below it, and the marks that show where to cut."""
    layout, cells = stickers.layout, stickers.on_page(page)
    across, columns, density = layout.fitting[0], layout.cells[0], float(layout.density)
    margin, off = layout.margin / density, 1.0
    (wide, high), (step, down) = ([length / density for length in size] for size in (layout.tile, layout.size))
    drawing = Drawing()
    for at, cell in enumerate(cells.tolist()):
        row, column = divmod(at, across)
        words = f"{stickers.numbers.flat[cell]} {name_of(cell % columns, cell // columns)}"
        letters = fitted(words, step - 0.5, 0.6 * _STRIP)
        x, y = margin + column * step + wide / 2, margin + row * down + high + 0.5 + letters
        drawing.texts.append(Text(x, y, letters, words, centred=True))
    lefts = [margin + at * step for at in range(min(across, len(cells)))]
    tops = [margin + at * down for at in range(-(-len(cells) // across))]
    sides = [x + more for x in lefts for more in (0, wide)], [y + more for y in tops for more in (0, high)]
    around = margin, margin, lefts[-1] + wide, tops[-1] + down
    drawing.lines.extend(marks(*sides, around, off, min(4.0, float(layout.paper.margin) - off)))
    return drawing
