"""Boxes, the cell grid and its chunks: integers and fractions only.

Two units occur: *cells* (positions of the output grid) and *px* (of the analysis image, 8 to a cell, or of the source).
A `Box` is in one of them; `Box.scaled` changes the unit. All bounds are half-open: the start belongs to the box, the
stop does not.

    source px ── x (tile / (8 scale)) ──  analysis px ── 8 ──  cell ── tile ──  mosaic px
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

from hirez_mosaic.errors import SettingError

CELL = 8
"""Side of a cell in the analysis image, px: the stride of VGG-16 at pool3 (paper, section 2.1)."""


@dataclass(frozen=True, slots=True)
class Box:
    """The rectangle of rows [top, bottom) and columns [left, right).

    >>> Box(0, 4, 2, 6).grown(1, Box(0, 5, 0, 9))
    Box(top=0, bottom=5, left=1, right=7)
    """

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left

    @property
    def area(self) -> int:
        """Rows x columns."""
        return self.height * self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of this box in an array whose first axes are (rows, columns)."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def scaled(self, factor: int) -> "Box":
        """The same rectangle in a unit `factor` times finer."""
        return Box(self.top * factor, self.bottom * factor, self.left * factor, self.right * factor)

    def grown(self, halo: int, bounds: "Box") -> "Box":
        """The read box of this write box: larger by `halo` on every side, clipped at `bounds`."""
        return Box(
            max(self.top - halo, bounds.top),
            min(self.bottom + halo, bounds.bottom),
            max(self.left - halo, bounds.left),
            min(self.right + halo, bounds.right),
        )

    def within(self, outer: "Box") -> "Box":
        """This box in the coordinates of `outer`'s first row and column."""
        return Box(self.top - outer.top, self.bottom - outer.top, self.left - outer.left, self.right - outer.left)

    def overlaps(self, other: "Box") -> bool:
        """Whether the boxes share a row and a column."""
        return (
            self.top < other.bottom and other.top < self.bottom and self.left < other.right and other.left < self.right
        )

    def halves(self) -> tuple["Box", "Box"]:
        """The box cut in two across its longer side."""
        if self.height >= self.width:
            middle = self.top + self.height // 2
            return Box(self.top, middle, self.left, self.right), Box(middle, self.bottom, self.left, self.right)
        middle = self.left + self.width // 2
        return Box(self.top, self.bottom, self.left, middle), Box(self.top, self.bottom, middle, self.right)


@dataclass(frozen=True, slots=True)
class CellGrid:
    """The output grid of one job: how many cells, and how the source lies under them.

    rows, columns: cells of the mosaic.
    tile: (width, height) of a template, px.
    scale: mosaic px per source px, exact.
    """

    rows: int
    columns: int
    tile: tuple[int, int]
    scale: Fraction

    @classmethod
    def over(
        cls,
        size: tuple[int, int],
        tile: tuple[int, int],
        scale: Fraction | None = None,
        columns: int | None = None,
    ) -> "CellGrid":
        """The grid over a source: ceil(size x scale / tile) cells.

        size: (width, height) of the source, px.
        tile: (width, height) of a template, px.
        scale: mosaic px per source px; 1 where None.
        columns: cells across, which settle the scale instead.

        >>> CellGrid.over((5280, 3960), (32, 32), Fraction(2)).mosaic_size
        (10560, 7936)

        Raises SettingError where the grid would have no cell, or more than 10,000,000 px a side.
        """
        (width, height), (tile_width, tile_height) = size, tile
        if columns is not None:
            scale = Fraction(columns * tile_width, width)
        elif scale is None:
            scale = Fraction(1)
        if scale <= 0 or width * scale < 1 or height * scale < 1:
            raise SettingError(
                f"A source of {width} x {height} px at scale {float(scale):g} gives no cell of "
                f"{tile_width} x {tile_height} px; use a larger `scale`, or `columns`."
            )
        grid = cls(-(-height * scale // tile_height), -(-width * scale // tile_width), tile, scale)
        if max(grid.mosaic_size) > 10_000_000:
            raise SettingError(
                f"The mosaic would be {grid.mosaic_size[0]} x {grid.mosaic_size[1]} px, "
                "and 10000000 px a side is the most; use fewer `columns`, or a smaller `scale` or `tile`."
            )
        return grid

    @property
    def box(self) -> Box:
        """All cells."""
        return Box(0, self.rows, 0, self.columns)

    @property
    def cells(self) -> int:
        """Number of cells."""
        return self.rows * self.columns

    @property
    def mosaic_size(self) -> tuple[int, int]:
        """(width, height) of the mosaic, px."""
        return self.columns * self.tile[0], self.rows * self.tile[1]

    @property
    def source_step(self) -> tuple[Fraction, Fraction]:
        """Source px per analysis px (horizontally, vertically)."""
        return self.tile[0] / (CELL * self.scale), self.tile[1] / (CELL * self.scale)

    def even_chunk(self, side: int, workers: int = 1, halo: int = 0, least: int = 1) -> tuple[int, int]:
        """The shape (rows, columns) of about equal chunks, as large as possible.

        With several workers, it is the shape with which they finish soonest, among those with a few more chunks. With 9
        chunks one of two workers would wait for the other's last.

        side: of a chunk, cells, at most.
        workers: take chunks in turn.
        halo: cells that a worker reads around each chunk.
        least: side of the chunks if there are more of them, cells.

        >>> grid = CellGrid(248, 330, (32, 32), Fraction(2))
        >>> grid.even_chunk(112), grid.even_chunk(112, workers=2, halo=3)
        ((83, 110), (62, 110))
        """

        def sides(length: int) -> list[int]:
            fewest = -(-length // side)
            first, *more = (-(-length // count) for count in range(fewest, fewest + workers))
            return [first, *(one for one in more if one >= least)]

        def read_in_turn(chunk: tuple[int, int]) -> int:
            turns = -(-math.prod(self.chunk_counts(chunk)) // workers)
            return turns * (chunk[0] + 2 * halo) * (chunk[1] + 2 * halo)

        return min(product(sides(self.rows), sides(self.columns)), key=read_in_turn)

    def chunk_counts(self, chunk: tuple[int, int]) -> tuple[int, int]:
        """Number of chunks of (rows, columns) cells (down, across).

        >>> CellGrid(248, 330, (32, 32), Fraction(2)).chunk_counts((124, 110))
        (2, 3)
        """
        return -(-self.rows // chunk[0]), -(-self.columns // chunk[1])

    def chunks(self, chunk: tuple[int, int]) -> Iterator[Box]:
        """The write boxes: chunks of (rows, columns) cells in row-major order; they partition the grid."""
        return self.chunks_in(self.box, chunk)

    def chunks_in(self, box: Box, chunk: tuple[int, int]) -> Iterator[Box]:
        """The write boxes that overlap `box`."""
        for top in range(box.top // chunk[0] * chunk[0], box.bottom, chunk[0]):
            for left in range(box.left // chunk[1] * chunk[1], box.right, chunk[1]):
                yield Box(top, min(top + chunk[0], self.rows), left, min(left + chunk[1], self.columns))
