"""Select: from the candidates to the index map, one template for every cell."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hirez_mosaic.pixels.far_view import REACH, FarView, far_values
from hirez_mosaic.pixels.geometry import CELL, Box, CellGrid
from hirez_mosaic.stages.together import BLOCK, colour_of, improve, near_costs, repeat_prices


def select_chunk(best: Any, index_map: Any, box: Box) -> None:
    """Fill the write box of the index map (rows, columns) uint32 with each cell's best candidate.

    best: (rows, columns) of these, or (rows, columns, k) with all candidates, best first.
    """
    found = np.asarray(best[box.slices])
    index_map[box.slices] = found if found.ndim == 2 else found[..., 0]


def choose_block(
    grid: CellGrid,
    analysis: Any,
    candidates: Any,
    scores: Any,
    best: Any,
    index_map: Any,
    box: Box,
    *,
    values: Any,
    far: FarView,
    unit: float,
    gap: float,
    repeats: float,
    poses: int,
) -> None:
    """Fill the write box, a block, of the index map (rows, columns) uint32: its cells chosen together, see `together`.

    best: (rows, columns) each cell's best candidate, which stands for the blocks around whose turn comes later.
    candidates, scores: (rows, columns, k), see `decode`. unit: see `together.near_costs`. gap, repeats: see
    `together.repeat_prices`. The rest is as in `together.improve`.
    """
    read = box.grown(REACH, grid.box)
    window = np.asarray(best[read.slices]).astype(np.uint32)
    for other in neighbours(grid, box):
        if colour_of(other) < colour_of(box):
            shared = _common(other, read)
            window[shared.within(read).slices] = index_map[shared.slices]
    inner, near = box.within(read), near_costs(np.asarray(scores[read.slices]), unit)
    found, own = np.asarray(candidates[box.slices]), np.ascontiguousarray(near[inner.slices])
    prices = repeat_prices(near, gap, len(values) // poses, repeats)
    improve(window, inner, source_values(analysis, read), values, found, own, far, prices, poses)
    index_map[box.slices] = window[inner.slices]


def source_values(analysis: Any, box: Box) -> NDArray[np.float32]:
    """(rows, columns, 12) far values of the source in a box of cells, see `together.far_values`."""
    pixels = np.asarray(analysis[box.scaled(CELL).slices]).astype(np.float32) / np.float32(255)
    cells = pixels.reshape(box.height, CELL, box.width, CELL, 3).transpose(0, 2, 1, 3, 4).reshape(-1, CELL, CELL, 3)
    return far_values(cells).reshape(box.height, box.width, -1)


def neighbours(grid: CellGrid, box: Box) -> list[Box]:
    """The blocks beside and diagonal to a block."""
    around = box.grown(1, grid.box)
    return [block for block in grid.chunks_in(around, (BLOCK, BLOCK)) if block != box]


def _common(one: Box, other: Box) -> Box:
    """The rectangle that two boxes share, which is not empty."""
    return Box(
        max(one.top, other.top), min(one.bottom, other.bottom), max(one.left, other.left), min(one.right, other.right)
    )
