"""Assemble: from the index map and the templates to the px of the mosaic, one row of cells at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hirez_mosaic.stages.tint import Tint, tinted
from hirez_mosaic.templates import RESIDENT, TemplateSet

Progress = Callable[[int], None]
"""Called with the number of cells just done."""


@dataclass(frozen=True)
class Mosaic:
    """What is assembled: an index map (rows, columns) uint32 of choices from a template set, perhaps tinted."""

    index_map: Any
    templates: TemplateSet
    tint: Tint | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), px."""
        (rows, columns), (width, height) = self.index_map.shape, self.templates.tile
        return columns * width, rows * height


class MosaicReader:
    """The px of a mosaic, cell row by cell row; arrays on disk are read a row of chunks at a time."""

    def __init__(self, mosaic: Mosaic) -> None:
        self._templates, self._tint = mosaic.templates, mosaic.tint
        self._index_map = _Bands(mosaic.index_map)
        self._taken, self._placed = 0, np.empty((0, 0, 0, 3), np.uint8)
        if mosaic.tint is not None:
            self._colours = _Bands(mosaic.tint.colours)
            self._strength = _Bands(
                np.broadcast_to(np.asarray(mosaic.tint.strength, np.float32), mosaic.index_map.shape)
            )

    def px(self, row: int, columns: slice = slice(None), lines: slice = slice(None)) -> NDArray[np.uint8]:
        """The px of one row of cells.

        columns: which cells of the row. lines: which lines of px of each cell.
        Returns (lines, columns x width, 3) uint8, which the next call may overwrite.
        """
        choices = self._index_map[row][columns]
        (width, height), count = self._templates.tile, len(choices)
        shape = len(range(*lines.indices(height))), count, width, 3
        if self._placed.shape != shape:  # memory that is new each time would be cleared each time
            self._placed = np.empty(shape, np.uint8)
        pixels = self._templates.take(choices, lines, self._placed).reshape(-1, count * width, 3)
        self._taken += pixels.nbytes
        if self._taken > RESIDENT:
            self._templates.release()
            self._taken = 0
        if self._tint is None:
            return pixels
        moves = self._tint.moves(choices, self._colours[row][columns], self._strength[row][columns])
        return tinted(pixels, moves) if moves.any() else pixels


class _Bands:
    """The rows of an array, read a row of chunks at a time."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self._step = getattr(array, "chunks", (1,))[0]
        self._band, self._top = np.empty((0,)), 0

    def __getitem__(self, row: int) -> NDArray[Any]:
        if not self._top <= row < self._top + len(self._band):
            self._top = row // self._step * self._step
            self._band = np.asarray(self._array[self._top : self._top + self._step])
        return self._band[row - self._top]
