"""The search of `together` under rules: moves and swaps that keep the rules at every step.

A move gives a cell another template. It needs a template that may be used once more there, and one in the cell that may
lose a use. Where a move is not allowed, two cells may swap, which keeps every count. So a map that keeps the rules at
the start keeps them to the end. The counts are those of the whole map, so blocks are improved one after another here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hirez_mosaic.pixels.compiled import compiled, dot
from hirez_mosaic.pixels.far_view import HALF_PX, REACH, FarView
from hirez_mosaic.pixels.geometry import CELL, Box, CellGrid
from hirez_mosaic.stages import together
from hirez_mosaic.stages.together import BLOCK, _far, _move, _pull, _repeats, near_costs, repeat_prices

PASSES = 2
"""Over the map."""
_SWEEPS = 2  # of a block each
_PARTNERS = 4  # cells at random that a cell tries to swap with


@dataclass
class Counts:
    """What the rules still allow.

    left: (templates,) int64, how many more uses each may have.
    spare: (templates,) int64, how many uses each may lose.
    distance: cells that must lie between two uses, in every direction.
    """

    left: NDArray[np.int64]
    spare: NDArray[np.int64]
    distance: int


@dataclass(frozen=True)
class Terms:
    """What the search minimises, see `together`; values, unit, gap, repeats and poses as there.

    keys: (choices, D) keys and (choices,) bias, by which choices that are no candidates are scored. Where it is None,
        such a choice counts as the worst candidate.
    """

    values: NDArray[np.float32]
    far: FarView
    unit: float
    gap: float
    repeats: float
    poses: int
    keys: tuple[NDArray[np.float32], NDArray[np.float32]] | None


class _Block(NamedTuple):
    """A block at work, for the compiled functions. The first five change.

    window: choices of the block and of the cells around it.
    field: (3, 2 rows, 2 columns) K * errors of the block.
    left, spare: see `Counts`.
    holder: (templates,) the number of a cell of the block that holds, or lately held, each template; -1 for none.
    top, first: row and column of the block in the window.
    source: (rows, columns, 12) far values.
    candidates, near: (rows, columns, k).
    best: (rows, columns) each cell's best score.
    queries: (cells, D), or (0, D) without keys.
    prices: of repeats, at the cells of the window.
    """

    window: Any
    field: Any
    left: Any
    spare: Any
    holder: Any
    top: int
    first: int
    source: Any
    candidates: Any
    near: Any
    best: Any
    queries: Any
    keys: Any
    bias: Any
    values: Any
    kernel: Any
    own: Any
    unit: Any
    prices: Any
    poses: int
    distance: int


def improve_ruled(
    index_map: NDArray[np.uint32],
    counts: Counts,
    terms: Terms,
    grid: CellGrid,
    candidates: Any,
    scores: Any,
    source: Callable[[Box], NDArray[np.float32]],
    queries: Callable[[Box], NDArray[np.float32]],
) -> Iterator[int]:
    """Improve in place, block after block, a map (rows, columns) that keeps the rules.

    Yields numbers of cells done; every cell counts `PASSES` times.

    candidates, scores: (rows, columns, k), see `decode`.
    source: gives the (rows, columns, 12) far values of the source in a box.
    queries: gives the (cells, D) queries of a box.
    """
    holder = np.empty(len(counts.left), np.int64)
    keys, bias = terms.keys or (np.zeros((0, 0), np.float32), np.zeros(0, np.float32))
    for number in range(PASSES):
        for box in grid.chunks((BLOCK, BLOCK)):
            read = box.grown(max(REACH, counts.distance), grid.box)
            window, inner, seen = index_map[read.slices].copy(), box.within(read), source(read)
            scored = np.asarray(scores[read.slices])
            near = near_costs(scored, terms.unit)
            block = _Block(
                window,
                terms.far.field_of(window, inner, seen, terms.values),
                counts.left,
                counts.spare,
                holder,
                inner.top,
                inner.left,
                np.ascontiguousarray(seen[inner.slices]),
                np.asarray(candidates[box.slices]),
                np.ascontiguousarray(near[inner.slices]),
                np.ascontiguousarray(scored[inner.slices].max(-1)),
                keys[:0] if terms.keys is None else queries(box),
                keys,
                bias,
                terms.values,
                terms.far.kernel,
                terms.far.own,
                np.float32(terms.unit / HALF_PX),
                repeat_prices(near, terms.gap, len(counts.left), terms.repeats),
                terms.poses,
                counts.distance,
            )
            order = np.random.default_rng(number).permutation(box.area)
            for _ in range(_SWEEPS):
                if not _sweep_ruled(block, order):
                    break
            index_map[box.slices] = window[inner.slices]
            yield box.area


@compiled
def _sweep_ruled(block, order):  # type: ignore[no-untyped-def]
    """Let each cell, in this order, move or else swap, where that lowers E and keeps the rules.

    Returns the number of changes.
    """
    rows, columns, count = block.candidates.shape
    block.holder[:] = -1
    for place in range(rows * columns):
        block.holder[_held(block, place) // block.poses] = place
    changed, state = 0, np.uint64(88172645463325252)
    costs = np.empty(count, np.float32)
    for place in order:
        row, column = place // columns, place % columns
        old = _held(block, place)
        pull = _pull_of(block, row, column, old)
        present = _cost(block, row, column, old, pull)
        for i in range(count):
            choice = block.candidates[row, column, i]
            costs[i] = _cost_near(block, row, column, choice, pull, block.near[row, column, i])
        if _moves(block, place, costs, present):
            changed += 1
            continue
        for i in range(count):  # with a cell that holds one of its candidates
            wanted = block.candidates[row, column, i]
            partner = block.holder[wanted // block.poses]
            if costs[i] < present and partner >= 0 and _swaps(block, place, partner, wanted, pull, costs[i] - present):
                changed += 1
                break
        else:
            for _ in range(_PARTNERS):
                state ^= state << np.uint64(13)  # xorshift
                state ^= state >> np.uint64(7)
                state ^= state << np.uint64(17)
                partner = np.int64(state % np.uint64(rows * columns))
                wanted = _held(block, partner)
                if _swaps(block, place, partner, wanted, pull, _cost(block, row, column, wanted, pull) - present):
                    changed += 1
                    break
    return changed


@compiled
def _moves(block, place, costs, present):  # type: ignore[no-untyped-def]
    """Give a cell its best candidate that the rules allow, where that is better than its choice.

    costs: (k,) of its candidates. present: cost of its choice. Returns whether the choice changed.
    """
    columns = block.candidates.shape[1]
    row, column = place // columns, place % columns
    old = _held(block, place)
    mine = old // block.poses
    least, best = present, old
    for i in range(len(costs)):
        if costs[i] < least:
            choice = block.candidates[row, column, i]
            template = choice // block.poses
            allowed = template == mine or (block.left[template] > 0 and block.spare[mine] > 0)
            if allowed and (template == mine or _apart(block, row, column, template, row, column)):
                least, best = costs[i], choice
    if best == old:
        return False
    template = best // block.poses
    block.left[mine] += 1
    block.spare[mine] -= 1
    block.left[template] -= 1
    block.spare[template] += 1
    block.holder[template] = place
    _put(block, row, column, old, best)
    return True


@compiled
def _swaps(block, place, partner, wanted, pull, gain):  # type: ignore[no-untyped-def]
    """Swap the templates of two cells where that lowers E and keeps the rules; returns whether they were swapped.

    wanted: the choice for the first cell. pull: on that cell. gain: by how much E grows there, the other cell aside.
    """
    columns = block.candidates.shape[1]
    row, column, down, right = place // columns, place % columns, partner // columns, partner % columns
    old, theirs = _held(block, place), _held(block, partner)
    mine, template = old // block.poses, theirs // block.poses
    if template != wanted // block.poses or template == mine:
        return False
    far = max(abs(row - down), abs(column - right)) > REACH
    if far:
        other = _pull_of(block, down, right, theirs)
        if gain + _cost(block, down, right, old, other) - _cost(block, down, right, theirs, other) >= 0:
            return False
    if not (_apart(block, row, column, template, down, right) and _apart(block, down, right, mine, row, column)):
        return False
    _put(block, row, column, old, wanted)
    if not far:  # what one cell changes changes the pull on the other
        other = _pull_of(block, down, right, theirs)
        if gain + _cost(block, down, right, old, other) - _cost(block, down, right, theirs, other) >= 0:
            _put(block, row, column, wanted, old)
            return False
    _put(block, down, right, theirs, old)
    block.holder[template], block.holder[mine] = place, partner
    return True


@compiled
def _held(block, place):  # type: ignore[no-untyped-def]
    """The choice of a cell of the block, by number."""
    columns = block.candidates.shape[1]
    return block.window[place // columns + block.top, place % columns + block.first]


@compiled
def _put(block, row, column, old, new):  # type: ignore[no-untyped-def]
    """Give a cell another choice."""
    block.window[row + block.top, column + block.first] = new
    _move(block.field, block.kernel, block.values, row, column, old, new)


@compiled
def _pull_of(block, row, column, old):  # type: ignore[no-untyped-def]
    pull = np.empty(block.own.shape[0], np.float32)
    _pull(block.field, block.own, block.values[old], block.source[row, column], row, column, pull)
    return pull


@compiled
def _cost(block, row, column, choice, pull):  # type: ignore[no-untyped-def]
    """The part of E that depends on a cell, if it had this choice."""
    return _cost_near(block, row, column, choice, pull, _near(block, row, column, choice))


@compiled
def _cost_near(block, row, column, choice, pull, near):  # type: ignore[no-untyped-def]
    """The same, for a near term that is known."""
    repeats = _repeats(
        block.window, block.prices, row + block.top, column + block.first, choice // block.poses, block.poses
    )
    far = _far(block.own, pull, block.values[choice], block.source[row, column])
    return near + far + repeats


@compiled
def _near(block, row, column, choice):  # type: ignore[no-untyped-def]
    """The near term of any choice in a cell; of one that is no candidate by its score, where there are keys."""
    worst = np.float32(0)
    for i in range(block.candidates.shape[2]):
        if block.candidates[row, column, i] == choice:
            return block.near[row, column, i]
        worst = max(worst, block.near[row, column, i])
    if len(block.bias) == 0:
        return worst
    score = dot(block.queries[row * block.candidates.shape[1] + column], block.keys[choice]) + block.bias[choice]
    return max(worst, (block.best[row, column] - score) * block.unit)


@compiled
def _apart(block, row, column, template, other_row, other_column):  # type: ignore[no-untyped-def]
    """Whether no cell too near to this one holds the template; the cell itself and one other do not count."""
    window, distance = block.window, block.distance
    down, right = row + block.top, column + block.first
    low, across = other_row + block.top, other_column + block.first
    for line in range(max(0, down - distance), min(window.shape[0], down + distance + 1)):
        for at in range(max(0, right - distance), min(window.shape[1], right + distance + 1)):
            if (
                window[line, at] // block.poses == template
                and (line != down or at != right)
                and (line != low or at != across)
            ):
                return False
    return True


def projected_bytes(grid: CellGrid, chunk: tuple[int, int], k: int, distance: int, query: int) -> int:
    """Bytes that improving one block holds at most.

    distance: see `Counts`. query: length of a query. The rest is as in `together.projected_bytes`.
    """
    extra = [min(length, BLOCK + 2 * max(REACH, distance)) for length in (grid.rows, grid.columns)]
    return (
        together.projected_bytes(grid, chunk, k)
        + extra[0] * extra[1] * (4 + 16 * 3 * CELL * CELL)
        + 4 * query * BLOCK**2
    )
