"""Select: from the candidates to the index map, one template for every cell."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hirez_mosaic.engine import arrays
from hirez_mosaic.engine.arrays import StoredArray
from hirez_mosaic.engine.store import Identity
from hirez_mosaic.pixels.far_view import REACH, FarView, far_values
from hirez_mosaic.pixels.geometry import CELL, Box, CellGrid
from hirez_mosaic.settings.spec import RenderSpec
from hirez_mosaic.stages.stage import Setup, Stage, Tools
from hirez_mosaic.stages.start import Together
from hirez_mosaic.stages.together import BLOCK, colour_of, improve, near_costs, projected_bytes


def select_chunk(box: Box, *, best: Any, index_map: Any) -> None:
    """Fill the write box of the index map (rows, columns) uint32 with each cell's best candidate.

    best: (rows, columns) the best candidates, or (rows, columns, k) all of them, best first.
    """
    found = np.asarray(best[box.slices])
    index_map[box.slices] = found if found.ndim == 2 else found[..., 0]


def choose_block(
    box: Box,
    *,
    grid: CellGrid,
    analysis: Any,
    candidates: Any,
    scores: Any,
    best: Any,
    index_map: Any,
    together: Together,
    far: FarView,
) -> None:
    """Fill the write box, a block, of the index map (rows, columns) uint32: choose its cells together, see `together`.

    candidates, scores: (rows, columns, k), see `decode`.
    best: (rows, columns) each cell's best candidate; in blocks around whose turn comes later, it counts as the choice.
    together: the terms of the objective.
    far: its far view.
    """
    read = box.grown(REACH, grid.box)
    window = np.asarray(best[read.slices]).astype(np.uint32)
    for other in neighbours(grid, box):
        if colour_of(other) < colour_of(box):
            shared = other.grown(0, read)
            window[shared.within(read).slices] = index_map[shared.slices]
    inner, near = box.within(read), near_costs(np.asarray(scores[read.slices]), together.unit)
    found, own = np.asarray(candidates[box.slices]), np.ascontiguousarray(near[inner.slices])
    prices = together.prices(near)
    improve(window, inner, source_values(analysis, read), together.values, found, own, far, prices, together.poses)
    index_map[box.slices] = window[inner.slices]


def source_values(analysis: Any, box: Box) -> NDArray[np.float32]:
    """(rows, columns, 12) far values of the source in a box of cells, see `far_values`."""
    pixels = np.asarray(analysis[box.scaled(CELL).slices]).astype(np.float32) / np.float32(255)
    cells = pixels.reshape(box.height, CELL, box.width, CELL, 3).transpose(0, 2, 1, 3, 4).reshape(-1, CELL, CELL, 3)
    return far_values(cells).reshape(box.height, box.width, -1)


def neighbours(grid: CellGrid, box: Box) -> list[Box]:
    """The blocks beside and diagonal to a block."""
    around = box.grown(1, grid.box)
    return [block for block in grid.chunks_in(around, (BLOCK, BLOCK)) if block != box]


class _Select(Stage):
    """The index map: one template for every cell."""

    name = "select"
    reads = (
        arrays.ANALYSIS.name,
        arrays.CANDIDATES.name,
        arrays.SCORES.name,
        arrays.BEST.name,
        arrays.REFINED.name,
        arrays.REFINED_BEST.name,
    )
    leaves = (arrays.INDEX_MAP.name,)
    follows = "decode"

    def chunk(self, setup: Setup) -> tuple[int, int] | None:
        return (BLOCK, BLOCK) if setup.spec.together else None

    def writes(self, setup: Setup) -> tuple[StoredArray, ...]:
        return (replace(arrays.INDEX_MAP, chunk=self.chunk(setup)),)

    def halo(self, setup: Setup) -> int:
        return REACH if setup.spec.together else 0

    def turn(self, setup: Setup) -> Callable[[Box], int] | None:
        return colour_of if setup.spec.together else None

    def memory(self, setup: Setup, chunk: tuple[int, int], workers: int) -> int:
        if not setup.spec.together:
            return 0
        held = workers * projected_bytes(setup.grid, chunk, setup.tools.candidates)
        return held + setup.far_bytes + setup.left_bytes

    def identity(self, spec: RenderSpec, tools: Tools) -> Identity:
        return {"together": spec.together, "refine": spec.refine_steps}


SELECT = _Select()
