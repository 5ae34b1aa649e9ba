"""The pages of a wall: its sheets with their names and crop marks, and the plan of them all."""

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hirez_mosaic.outputs.printing.layout import Paper, Wall, name_of
from hirez_mosaic.outputs.printing.page import Drawing, Line, Page, Picture, Text, fitted
from hirez_mosaic.outputs.printing.px import Readable, bands
from hirez_mosaic.pixels.geometry import Box

_MARK = 5.0  # length of a crop mark, mm, where the margin has room for it
_OFF = 1.0  # distance of a crop mark from the picture, mm
_LETTERS = 3.0  # height of a label's letters, mm, where the margin has room for them
_TITLE = 12.0  # mm at the top of the plan
_LEAST = 1.0  # height of letters that can be read, mm


def sheet_pages(wall: Wall, picture: Readable) -> list[Page]:
    """A page for each sheet, row by row."""
    columns, rows = wall.grid
    return [_sheet(wall, picture, column, row) for row in range(rows) for column in range(columns)]


def _sheet(wall: Wall, picture: Readable, column: int, row: int) -> Page:
    box, bleed, density = wall.box(column, row), wall.bleed, wall.density
    shown = Box(box.top - bleed, box.bottom + bleed, box.left - bleed, box.right + bleed)
    margin = math.ceil(wall.paper.margin * density)
    place = margin, margin
    left, top = ((at + bleed) / density for at in place)
    trim = float(left), float(top), float(left + box.width / density), float(top + box.height / density)
    return Page(
        f"sheet-{name_of(column, row)}",
        wall.paper.size,
        density,
        partial(_marked, wall, column, row, trim),
        Picture(place, (shown.width, shown.height), partial(bands, picture, shown)),
        trim,
    )


def _marked(wall: Wall, column: int, row: int, trim: tuple[float, float, float, float]) -> Drawing:
    """The label of a sheet, and the marks of its corners and of the lines where its neighbours begin."""
    columns, rows = wall.grid
    left, top, right, bottom = trim
    lap = float(wall.overlap / wall.density)
    across = [left, right, *([left + lap] if column else []), *([right - lap] if column + 1 < columns else [])]
    down = [top, bottom, *([top + lap] if row else []), *([bottom - lap] if row + 1 < rows else [])]
    off = _OFF + float(wall.bleed / wall.density)
    margin = float(wall.paper.margin)
    words = f"{name_of(column, row)}   column {column + 1} of {columns}, row {row + 1} of {rows}"
    high = fitted(words, right - left - 2 * (lap + 2 * _OFF), min(_LETTERS, margin / 2))
    label = Text(left + lap + 2 * _OFF, bottom + off + 1.2 * high, high, words)
    lines = marks(across, down, trim, off, min(_MARK, margin - _OFF))
    return Drawing(lines, [label] if high >= _LEAST else [])


def marks(
    across: Sequence[float], down: Sequence[float], trim: tuple[float, float, float, float], off: float, length: float
) -> list[Line]:
    """Crop marks around a rectangle.

    across: x at which marks stand above and below it. down: y at which they stand beside it.
    trim: (left, top, right, bottom) of the rectangle.
    off: distance of the marks. length: of a mark. All in mm.
    """
    left, top, right, bottom = trim
    if length <= 0:
        return []
    upright = [
        Line((x, start), (x, start + length))
        for x in sorted(set(across))
        for start in (top - off - length, bottom + off)
    ]
    level = [
        Line((start, y), (start + length, y)) for y in sorted(set(down)) for start in (left - off - length, right + off)
    ]
    return upright + level


def plan_page(
    paper: Paper,
    title: Sequence[str],
    preview: NDArray[np.uint8],
    parts: Callable[[], Iterator[tuple[str, Box]]],
    whole: tuple[int, int],
) -> Page:
    """The first page: a preview of the mosaic under the outlines and names of its parts.

    title: lines of words at its top.
    preview: (height, width, 3) uint8.
    parts: makes the (name, box) of each part, in the unit of `whole`.
    whole: (width, height) of the mosaic, in px or in cells.
    """
    margin, (across, down) = paper.margin, paper.room
    high, wide = preview.shape[:2]
    top = min(Fraction(_TITLE), down / 4) + margin
    density = max(wide / across, high / (down + margin - top))
    place = int(margin * density), int(top * density)
    draw = partial(
        _plan, paper, title, (float(place[0] / density), float(top)), (wide / density, high / density), parts, whole
    )
    return Page("plan", paper.size, density, draw, Picture(place, (wide, high), lambda: iter((preview,))))


def _plan(
    paper: Paper,
    title: Sequence[str],
    place: tuple[float, float],
    size: tuple[Fraction, Fraction],
    parts: Callable[[], Iterator[tuple[str, Box]]],
    whole: tuple[int, int],
) -> Drawing:
    drawing, (left, top) = Drawing(), place
    step = (top - float(paper.margin)) / max(1, len(title))
    for number, words in enumerate(title):
        high = fitted(words, float(paper.room[0]), min(4.0, 0.7 * step))
        drawing.texts.append(Text(left, float(paper.margin) + (number + 0.7) * step, high, words))
    across, down = (float(side) / length for side, length in zip(size, whole, strict=True))
    placed = [(name, _corners(box, place, across, down)) for name, box in parts()]
    for wide, grey in ((0.5, 1.0), (0.2, 0.0)):  # black on white, which is seen on black px, too
        for _, corners in placed:
            drawing.lines.extend(_outline(corners, wide, grey))
    for name, (x, y, right, bottom) in placed:
        high = fitted(name, 0.7 * (right - x), min(5.0, 0.5 * (bottom - y)))
        drawing.texts.append(Text((x + right) / 2, (y + bottom + high) / 2, high, name, centred=True, boxed=True))
    return drawing


def _corners(box: Box, place: tuple[float, float], across: float, down: float) -> tuple[float, float, float, float]:
    left, top = place
    return left + box.left * across, top + box.top * down, left + box.right * across, top + box.bottom * down


def _outline(corners: tuple[float, float, float, float], wide: float, grey: float) -> list[Line]:
    left, top, right, bottom = corners
    level = [Line((left, y), (right, y), wide, grey) for y in (top, bottom)]
    return [*level, *(Line((x, top), (x, bottom), wide, grey) for x in (left, right))]


def sheet_parts(wall: Wall) -> Iterator[tuple[str, Box]]:
    """(name, box) of every sheet, px."""
    columns, rows = wall.grid
    for row in range(rows):
        for column in range(columns):
            yield name_of(column, row), wall.box(column, row)
