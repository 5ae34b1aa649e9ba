"""Choosing together: one objective for the whole map, and the search that lowers it cell by cell.

A mosaic is looked at from several distances. Close by, each cell is seen alone. From afar the eye mixes neighbouring
cells, so a cell that is too light makes up for one beside it that is too dark. What is minimised, over the choices of
all cells, is

    E = sum over cells of near(cell, choice)
      + sum over distances and channels of weight |G * (M - S)|^2
      + sum over pairs of cells with equal templates of the mean of their prices / (their distance in cells)^2

near     how much worse the decoder scores the choice than the cell's best, in squared px errors of half a cell's side
         squared: see `near_costs`.
M, S     mosaic and source as the means of half cells, 4 x 4 px, in a luma and two chroma channels (`OPPONENT`).
G        a Gaussian: what the eye mixes at a viewing distance. `DISTANCES` holds their sigmas, and the weights of the
         channels: fine errors are seen in luma, coarse ones in colour as well.
price    of a repeat at a cell, in its own units: a multiple of the gap between its best and tenth choice, and at least
         the set's (`repeat_prices`). Where a set lacks a cell's colours its choices lie far apart, and a price for the
         set would be nothing there.

The search is direct binary search, known from halftoning (Analoui and Allebach, 1992), with templates for dots. A move
changes one cell. |G * (M - S)|^2 is a quadratic form with the kernel K = G * G. So what a move changes follows from the
present error at the cell and from K * (M - S) there, which is kept up to date. A candidate costs a dozen
multiplications, whatever the kernel's size.

The result depends on the order of the moves. Blocks of `BLOCK` cells at fixed places of the whole map take turns in
four colours, as on a chequered floor: no two blocks at work at one time touch. So neither chunks nor workers nor
restarts change it.
"""

import numpy as np
from numpy.typing import NDArray

from hirez_mosaic.pixels.compiled import compiled
from hirez_mosaic.pixels.far_view import HALF_PX, REACH, VALUES, FarView, half_cells
from hirez_mosaic.pixels.geometry import CELL, Box, CellGrid

BLOCK = 64
"""Side of a block, cells."""
KEPT = 32
"""Candidates of a cell."""
RANK = 10
"""The gap between a cell's best choice and this one is the unit of `REPEATS`."""
REPEATS = 0.75
"""Price of an equal template next to a cell, in gaps of that cell."""
_FEW = 50  # templates to each rank of the gap
_SWEEPS = 2  # of a block, one after another
_REPEAT_RADIUS = 3  # cells


def near_costs(scores: NDArray[np.float32], unit: float) -> NDArray[np.float32]:
    """(..., k) the near term of choices, from their scores (..., k): 0 for the best.

    The far view's errors are those of means over half cells, so these are divided by the px of a half cell. An even
    error of a cell then costs the same near as far, if its neighbours have the same error.

    unit: what 1 of score is in squared px errors of a cell, px being in [0, 1], summed over its 8 x 8 x 3 values.
    """
    return (scores.max(-1, keepdims=True) - scores) * np.float32(unit / HALF_PX)


def choice_gap(scores: NDArray[np.float32], unit: float, templates: int) -> float:
    """How much worse a cell's tenth best choice is than its best: the median of a sample of cells.

    Where templates are few, the tenth best is far off, so a better one takes its place. The gap is rounded to three
    digits, so that rounding elsewhere does not show in it.

    scores: (cells, k) of the sample.
    """
    return float(f"{float(np.median(_gaps(near_costs(scores, unit), templates))):.2e}")


def repeat_prices(
    near: NDArray[np.float32], gap: float, templates: int, repeats: float = REPEATS
) -> NDArray[np.float32]:
    """(...) float32 the price of repeats at cells, from the near term of their choices (..., k).

    Repeats of fewer than 100 templates are free: a page of 62 letters repeats them.

    gap: of the set, see `choice_gap`; the gap of a cell counts for no less.
    repeats: see `REPEATS`.
    """
    if templates < 2 * _FEW:
        return np.zeros(near.shape[:-1], np.float32)
    return np.float32(repeats) * np.maximum(_gaps(near, templates), np.float32(gap))


def _gaps(near: NDArray[np.float32], templates: int) -> NDArray[np.float32]:
    """(...) of near terms (..., k) that of the tenth best choice, or of a better one where templates are few."""
    rank = min(max(2, min(RANK, templates // _FEW)), near.shape[-1]) - 1
    return np.ascontiguousarray(np.partition(near, rank, -1)[..., rank])


def colour_of(box: Box) -> int:
    """0 to 3: whose turn a block is; blocks of one colour do not touch."""
    return 2 * (box.top // BLOCK % 2) + box.left // BLOCK % 2


def improve(
    window: NDArray[np.uint32],
    inner: Box,
    source: NDArray[np.float32],
    values: NDArray[np.float32],
    candidates: NDArray[np.uint32],
    near: NDArray[np.float32],
    far: FarView,
    prices: NDArray[np.float32],
    poses: int,
) -> None:
    """Improve the choices of a block's cells in place; the cells around it keep theirs.

    window: (rows, columns) choices of the block and, up to the picture's edge, `REACH` cells around it.
    inner: the block in the window.
    source: (rows, columns, 12) far values of the source in the window.
    values: (choices, 12) far values of every choice.
    candidates, near: (block rows, block columns, k) choices and their near terms.
    prices: (rows, columns) of repeats at the cells of the window.
    poses: choices to a template.
    """
    field = far.field_of(window, inner, source, values)
    own = np.ascontiguousarray(source[inner.slices])
    order = np.random.default_rng(0).permutation(inner.area)
    offset = inner.top, inner.left
    for _ in range(_SWEEPS):
        if not _sweep(window, offset, own, field, far.kernel, far.own, values, candidates, near, order, prices, poses):
            break


@compiled
def _sweep(window, offset, source, field, kernel, own, values, candidates, near, order, prices, poses):  # type: ignore[no-untyped-def]
    """Let each cell, in this order, take the candidate of the least E; returns the number of cells that changed.

    field: (3, 2 rows, 2 columns) K * errors of the block, which is kept up to date.
    """
    columns, count = candidates.shape[1], candidates.shape[2]
    pull = np.empty(own.shape[0], np.float32)
    changed = 0
    for place in order:
        row, column = place // columns, place % columns
        down, right = row + offset[0], column + offset[1]
        old = window[down, right]
        _pull(field, own, values[old], source[row, column], row, column, pull)
        least, best = np.float32(np.inf), old
        for i in range(count):
            choice = candidates[row, column, i]
            cost = near[row, column, i] + _far(own, pull, values[choice], source[row, column])
            if cost < least and prices[down, right] > 0:
                cost += _repeats(window, prices, down, right, choice // poses, poses)
            if cost < least:
                least, best = cost, choice
        if best != old:
            changed += 1
            window[down, right] = best
            _move(field, kernel, values, row, column, old, best)
    return changed


@compiled
def _pull(field, own, old, source, row, column, pull):  # type: ignore[no-untyped-def]
    """Fill `pull` (12,) with the field at a cell, without the cell's own part.

    old, source: (12,) far values of its choice, and of the source.
    """
    for channel in range(3):
        a, b = field[channel, 2 * row, 2 * column], field[channel, 2 * row, 2 * column + 1]
        c, d = field[channel, 2 * row + 1, 2 * column], field[channel, 2 * row + 1, 2 * column + 1]
        first = 4 * channel
        pull[first] = np.float32(0.5) * (a + b + c + d)
        pull[first + 1] = np.float32(0.5) * (a - b + c - d)
        pull[first + 2] = np.float32(0.5) * (a + b - c - d)
        pull[first + 3] = np.float32(0.5) * (a - b - c + d)
    for j in range(own.shape[0]):
        pull[j] -= own[j] * (old[j] - source[j])


@compiled
def _far(own, pull, values, source):  # type: ignore[no-untyped-def]
    """The far term of a cell with these far values (12,), without what does not depend on them."""
    cost = np.float32(0)
    for j in range(own.shape[0]):
        error = values[j] - source[j]
        cost += error * (own[j] * error + np.float32(2) * pull[j])
    return cost


@compiled
def _repeats(window, prices, row, column, template, poses):  # type: ignore[no-untyped-def]
    """The price that a cell pays for a template which cells around it hold, in whatever pose."""
    total = np.float32(0)
    for down in range(max(0, row - _REPEAT_RADIUS), min(window.shape[0], row + _REPEAT_RADIUS + 1)):
        for right in range(max(0, column - _REPEAT_RADIUS), min(window.shape[1], column + _REPEAT_RADIUS + 1)):
            if (down != row or right != column) and window[down, right] // poses == template:
                mean = np.float32(0.5) * (prices[row, column] + prices[down, right])
                total += mean / np.float32((down - row) ** 2 + (right - column) ** 2)
    return total


@compiled
def _move(field, kernel, values, row, column, old, new):  # type: ignore[no-untyped-def]
    """Bring the field up to date when a cell of the block changes its choice."""
    radius = kernel.shape[1] // 2
    for channel in range(3):
        first = 4 * channel
        a, b = values[new, first] - values[old, first], values[new, first + 1] - values[old, first + 1]
        c, d = values[new, first + 2] - values[old, first + 2], values[new, first + 3] - values[old, first + 3]
        for half in range(4):
            across, down = half % 2, half // 2
            error = np.float32(0.5) * (a + (-b if across else b) + (-c if down else c) + (d if across == down else -d))
            y, x = 2 * row + down, 2 * column + across
            left, right = max(0, x - radius), min(field.shape[2], x + radius + 1)
            for line in range(max(0, y - radius), min(field.shape[1], y + radius + 1)):
                for at in range(left, right):
                    field[channel, line, at] += error * kernel[channel, line - y + radius, at - x + radius]


def energy(
    index_map: NDArray[np.uint32],
    source: NDArray[np.float32],
    values: NDArray[np.float32],
    near: NDArray[np.float32],
    far: FarView,
    prices: NDArray[np.float32],
    poses: int,
) -> float:
    """E of a whole map (rows, columns), computed at once, for checks.

    near, prices: (rows, columns) the near terms of its choices, and the prices of repeats.
    """
    errors = half_cells(values[index_map] - source)
    total = float(near.sum(dtype=np.float64)) + float((errors * far.field(errors)).sum(dtype=np.float64))
    templates = index_map.astype(np.int64) // poses
    for down in range(_REPEAT_RADIUS + 1):
        for right in range(-_REPEAT_RADIUS, _REPEAT_RADIUS + 1):
            if (down, right) > (0, 0):
                one = np.s_[down:, max(0, right) : templates.shape[1] + min(0, right)]
                other = np.s_[: len(templates) - down, max(0, -right) : templates.shape[1] + min(0, -right)]
                mean = (prices[one] + prices[other]) / 2
                total += float(mean[templates[one] == templates[other]].sum()) / (down**2 + right**2)
    return total


def projected_bytes(grid: CellGrid, chunk: tuple[int, int], k: int) -> int:
    """Bytes that improving one block holds at most: what is read in whole chunks, and the block's tables.

    chunk: (rows, columns) of cells of the arrays read. k: candidates a cell.
    """
    rows, columns = (min(BLOCK + 2 * REACH, length) for length in (grid.rows, grid.columns))
    touched = [
        min(length, side + 2 * of)
        for length, side, of in zip((grid.rows, grid.columns), (rows, columns), chunk, strict=True)
    ]
    read = touched[0] * touched[1] * (8 * k + 3 * CELL * CELL)
    tables = rows * columns * (8 * 4 * k + 5 * 4 * 3 * CELL * CELL + 12 * 8 * VALUES)
    return read + tables
