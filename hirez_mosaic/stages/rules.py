"""Rules: limits on repeating templates, kept on the whole map.

A template may have a least and a largest number of uses, and a least distance between two uses.

The rules are first kept by a greedy choice, and the search of `ruled_search` goes on from its map. Templates that must
be used are placed first, in the cells that lose least by it. Then the other cells choose, one after another. Those with
the most to lose choose first: their last candidate is furthest behind their first. Each cell takes the best of its
candidates that the rules still allow. Cells that have no such candidate choose afterwards, in the same order, among all
templates that are left. `Rules.check` has made sure that there always is one: at most (2 D + 1)^2 - 1 other cells lie
around a cell, so at most as many templates are too near, and the others have enough uses for all cells.

Where a small map that was not refined has only a limit of uses, an assignment solver finds the largest sum of scores.

All of it follows from candidates and scores. The order of the cells depends on neither chunks nor workers.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hirez_mosaic.engine import arrays
from hirez_mosaic.engine.arrays import StoredArray
from hirez_mosaic.engine.store import Identity
from hirez_mosaic.nets.decoders import Decoder, Score, TrunkNorm
from hirez_mosaic.nets.scoring import best_k, box_queries, keys_of
from hirez_mosaic.pixels.colour import to_lab
from hirez_mosaic.pixels.far_view import FarView, in_channels
from hirez_mosaic.pixels.geometry import Box, CellGrid
from hirez_mosaic.settings.rules import Rules
from hirez_mosaic.settings.spec import RenderSpec
from hirez_mosaic.stages import ruled_search
from hirez_mosaic.stages.ruled_search import Counts
from hirez_mosaic.stages.select import source_values
from hirez_mosaic.stages.stage import Setup, Stage, Tools
from hirez_mosaic.stages.start import Together
from hirez_mosaic.templates import release

KEPT = 32
"""Choices per cell that are kept for the rules."""
WINDOW = 64
"""Side of the windows, cells, in which queries are made again for cells that had no candidate left.

It does not depend on the chunks.
"""
_LISTED = 64  # cells among which a template that must be used chooses, at first
_BATCH = 8192  # cells whose candidates are in memory at once
_LATE = 1024  # cells without candidates that choose at once, at most
_RANKED = 1 << 20  # templates that are ranked for all of them, at most
_EXACT = 1 << 22  # cells x uses up to which the best assignment is computed
_SOLVER = 48 << 20  # bytes of scipy.optimize once it is imported; measured 40 MiB

Queries = Callable[[Box], torch.Tensor]
"""Gives the (cells, D) queries of a box of cells, row-major."""


class RuledMap:
    """An index map that is filled under rules.

    choices: how many there are, templates x poses.
    query: length of a query.
    index_map: (rows, columns) uint32, in memory.
    """

    def __init__(self, rules: Rules, grid: CellGrid, choices: int, poses: int, query: int) -> None:
        self._query = query
        self._rules, self._grid, self._poses = rules, grid, poses
        self._left = np.full(choices // poses, rules.max_uses or grid.cells, np.int64)
        self._templates = np.full((grid.rows, grid.columns), -1, np.int32)
        self.index_map = np.zeros((grid.rows, grid.columns), np.uint32)

    @property
    def counts(self) -> Counts:
        """What the rules still allow when the map is filled."""
        used = np.bincount(self._templates.ravel(), minlength=len(self._left))
        return Counts(self._left.copy(), used - self._rules.min_uses, self._rules.min_distance)

    def place_required(self, first: Any, seen: NDArray[np.float32], own: NDArray[np.float32]) -> Iterator[int]:
        """Give every template the uses that it must have, in the cells that lose least by it.

        The templates with the most to lose choose first, each among the free cells in which least is lost. That is
        repeated until all are placed. Yields numbers of cells done.

        first: (rows, columns) the choice that each cell would have without rules.
        seen: (cells, channels) mean colours of the source.
        own: (templates, channels) mean colours of the templates, upright.
        """
        missing = np.full(len(own), self._rules.min_uses)
        cells, keys = self._grid.cells, torch.from_numpy(seen)
        lost = np.square(own[np.asarray(first[:]).ravel() // self._poses] - seen).sum(1)  # by the cell's own choice
        bias = torch.from_numpy((lost - np.square(seen).sum(1)).astype(np.float32))
        listed = _LISTED + self._rules.min_uses * (2 * self._rules.min_distance + 1) ** 2
        while missing.any():
            lacking = np.flatnonzero(missing)
            free = torch.zeros(cells).masked_fill_(torch.from_numpy(self._templates.ravel() >= 0), -torch.inf)
            score = partial(_distances, keys, bias + free)
            found, values = best_k(torch.from_numpy(own[lacking]), score, cells, min(cells, listed))
            loss = np.square(own[lacking]).sum(1) - values[:, 0].numpy()
            before = int(missing.sum())
            for number in np.argsort(-loss, kind="stable").tolist():
                template = int(lacking[number])
                for cell in found[number].tolist():
                    if not missing[template]:
                        break
                    if self._templates.flat[cell] < 0 and self._take_first(cell, [template * self._poses]):
                        missing[template] -= 1
            yield before - int(missing.sum())
            listed *= 2

    def fill(
        self,
        first: Any,
        candidates: Any,
        scores: Any,
        boxes: list[Box],
        queries: Queries,
        score: Score,
        folder: Path,
        *,
        refined: bool,
    ) -> Iterator[int]:
        """Choose for all cells that are still empty; yields numbers of cells done.

        first: (rows, columns) the choice that each cell would have without rules.
        candidates, scores: (rows, columns, k), see `decode`.
        boxes: the chunks of these arrays.
        folder: for what must not be in memory.
        refined: whether `first` is better than the choice of the best score.
        """
        cells, choices = self._grid.cells, len(self._left) * self._poses
        refined = refined or self._rules.min_uses > 0
        if not refined and not self._rules.min_distance and cells * choices * min(int(self._left[0]), cells) <= _EXACT:
            yield from self._assign(queries, score, choices)
            return
        k = candidates.shape[-1] + 1
        ranked = _on_disk(folder / "ranked", np.uint32, (self._grid.rows, self._grid.columns, k))
        loss = np.empty((self._grid.rows, self._grid.columns), np.float32)
        for box in boxes:
            own = np.asarray(scores[box.slices])
            loss[box.slices] = own[..., 0] - own[..., -1]
            ranked[box.slices] = np.concatenate(
                [np.asarray(first[box.slices])[..., None], np.asarray(candidates[box.slices])], -1
            )
            release(ranked)
        order = np.argsort(-loss.ravel(), kind="stable")
        order = order[self._templates.ravel()[order] < 0]
        flat = ranked.reshape(cells, k)
        waiting = np.zeros(cells, np.bool_)
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            near = flat[batch]
            release(ranked)
            for cell, found in zip(batch.tolist(), near.tolist(), strict=True):
                waiting[cell] = not self._take_first(cell, found)
            yield len(batch) - int(waiting[batch].sum())
        del flat, ranked
        (folder / "ranked").unlink()
        late = order[waiting[order]]
        if len(late):
            yield from self._late(late, waiting, queries, score, folder)

    def _take_first(self, cell: int, found: list[int]) -> bool:
        """Give a cell the first of these choices that the rules allow; returns whether there is one."""
        row, column = divmod(cell, self._grid.columns)
        distance = self._rules.min_distance
        near: set[int] = set()
        if distance:
            around = Box(row, row + 1, column, column + 1).grown(distance, self._grid.box)
            near.update(self._templates[around.slices].ravel().tolist())
        for choice in found:
            template = choice // self._poses
            if template not in near and self._left[template] > 0:
                self._left[template] -= 1
                self._templates[row, column] = template
                self.index_map[row, column] = choice
                return True
        return False

    def _late(
        self, late: NDArray[np.int64], waiting: NDArray[np.bool_], queries: Queries, score: Score, folder: Path
    ) -> Iterator[int]:
        """Let the cells `late`, in this order, choose among all templates that are left.

        waiting: (cells,) whether a cell is one of these.
        """
        place = np.zeros(self._grid.cells, np.int32)
        place[late] = np.arange(len(late))
        asked: NDArray[np.float32] = _on_disk(folder / "asked", np.float32, (len(late), self._query))
        for box in self._grid.chunks((WINDOW, WINDOW)):
            rows, columns = np.nonzero(waiting.reshape(self.index_map.shape)[box.slices])
            if len(rows):
                found = queries(box)[torch.from_numpy(rows * box.width + columns)]
                asked[place[(rows + box.top) * self._grid.columns + columns + box.left]] = found.cpu().numpy()
                release(asked)
        at_once = _late_at_once(self._rules)
        for start in range(0, len(late), at_once):
            yield from self._rounds(
                late[start : start + at_once], torch.from_numpy(asked[start : start + at_once]).to(found), score
            )
            release(asked)
        del asked
        (folder / "asked").unlink()

    def _rounds(self, cells: NDArray[np.int64], asked: torch.Tensor, score: Score) -> Iterator[int]:
        """Let cells choose among all templates that are left, in rounds.

        The first cell of a round always finds one, so the rounds end.

        asked: (cells, D) the queries of the cells.
        """
        poses, templates = self._poses, len(self._left)
        k = min(templates, _ranked(self._rules))
        while len(cells):
            gone = torch.zeros(templates, device=asked.device).masked_fill_(
                torch.from_numpy(self._left <= 0).to(asked.device), -torch.inf
            )
            found = best_k(asked, partial(_in_best_pose, score, gone, poses), templates, k)[0].mul(poses).tolist()
            left = []
            for number, cell in enumerate(cells.tolist()):
                if not self._take_first(cell, found[number]):
                    left.append(number)
                elif poses > 1:
                    taken = int(self.index_map.flat[cell])
                    pose = score(asked[number : number + 1], slice(taken, taken + poses)).argmax()
                    self.index_map.flat[cell] = taken + int(pose)
            yield len(cells) - len(left)
            asked, cells = asked[left], cells[left]

    def _assign(self, queries: Queries, score: Score, choices: int) -> Iterator[int]:
        """Choose the assignment with the largest sum of scores: of as many copies of a template as it has uses."""
        from scipy.optimize import linear_sum_assignment  # slow to import, takes 40 MiB, and is needed here alone

        values = score(queries(self._grid.box), slice(0, choices)).unflatten(1, (-1, self._poses))
        best, pose = values.max(2)
        copies = int(min(self._left[0], self._grid.cells))
        cells, taken = linear_sum_assignment(np.repeat(best.double().cpu().numpy(), copies, axis=1), maximize=True)
        templates = taken // copies
        chosen = templates * self._poses + pose.cpu().numpy()[cells, templates]
        self.index_map.flat[cells] = chosen
        yield len(cells)


def _distances(
    keys: torch.Tensor, bias: torch.Tensor, queries: torch.Tensor, block: slice, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Squared distances with a minus, up to a constant of the query. keys: (n, D). bias: (n,)."""
    return torch.addmm(bias[block], queries, keys[block].T, alpha=2, out=out)


def _ranked(rules: Rules) -> int:
    """How many templates a late cell ranks: one more than may lie around it, so that one at least is not too near."""
    return max(KEPT, (2 * rules.min_distance + 1) ** 2)


def _late_at_once(rules: Rules) -> int:
    """How many late cells choose at once."""
    return max(1, min(_LATE, _RANKED // _ranked(rules)))


def _in_best_pose(
    score: Score, gone: torch.Tensor, poses: int, query: torch.Tensor, block: slice, out: torch.Tensor | None = None
) -> torch.Tensor:
    """(cells, templates) scores of the best pose of each template.

    gone: (templates,) -inf for those that are used up, else 0.
    """
    return score(query, _posed(block, poses)).unflatten(1, (-1, poses)).amax(2) + gone[block]


def _posed(templates: slice, poses: int) -> slice:
    """The choices of templates."""
    return slice(templates.start * poses, templates.stop * poses)


def scratch_bytes(grid: CellGrid, query: int, k: int) -> int:
    """Bytes on disk that keeping the rules takes while it runs: ranked candidates, and the queries of all cells."""
    return 4 * grid.cells * (k + 1 + query)


def projected_bytes(rules: Rules, grid: CellGrid, query: int, choices: int, poses: int) -> int:
    """Bytes that keeping the rules holds at most.

    These are the map and its order, a window's queries, the ranks of late cells, and a block of scores.

    query: length of a query. choices: templates x poses.
    """
    window = min(WINDOW, grid.rows) * min(WINDOW, grid.columns)
    exact = 3 * 8 * _EXACT + _SOLVER if grid.cells * choices <= _EXACT else 0
    return (
        grid.cells * (4 + 4 + 4 + 8 + 8 + 4 + 1 + (12 + 12 + 4 * 5 if rules.min_uses else 0))
        + window * query * 4 * 4
        + _late_at_once(rules) * (query * 4 * 2 + min(choices, _ranked(rules)) * 100)
        + 3 * 4 * 1024 * min(2048 * poses, choices)
        + _BATCH * KEPT * 80
        + exact
    )


def _on_disk(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> "np.memmap[Any, Any]":
    """An array in a new file, whose room on the disk is reserved.

    On a full disk, writing to a mapped hole of a file would kill the process.

    Raises OSError.
    """
    made = np.memmap(path, dtype, mode="w+", shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, made.nbytes)
    return made


@dataclass(frozen=True)
class Found:
    """What the stages before have left: arrays of the workspace, see `engine.arrays`.

    final: the candidates' scores, refined where they were.
    """

    analysis: Any
    colours: Any
    candidates: Any
    scores: Any
    final: Any
    index_map: Any


@torch.inference_mode()
def keep_rules(
    setup: Setup,
    found: Found,
    ruled_map: Any,
    *,
    decoder: Decoder,
    norm: TrunkNorm | None,
    features: Any,
    bonus: NDArray[np.float32] | None,
    together: Together | None,
    boxes: Sequence[Box],
    folder: Path,
    progress: Callable[[int], None],
) -> tuple[float, float]:
    """Fill `ruled_map` (rows, columns) uint32 with the index map under the rules.

    bonus: see `decoding`.
    together: terms of the objective, None where cells are chosen alone.
    boxes: the chunks of the arrays.
    folder: for what must not be in memory.
    progress: called with cells done.

    Returns how far the templates' mean colours are from those of their cells, Delta E in CIELAB: (without rules, under
    them).
    """
    grid, templates, asked = setup.grid, setup.tools.templates, setup.spec.rules
    queries = partial(box_queries, decoder, norm, grid.box, analysis=found.analysis, features=features)
    ruled = RuledMap(asked, grid, len(templates), len(templates.poses), decoder.query_length)
    own = templates.mean_colours()
    if asked.min_uses:
        seen = np.concatenate([np.asarray(found.colours[box.slices]).reshape(-1, 3) for box in _bands(grid, boxes)])
        upright = own[:: len(templates.poses)]
        for done in ruled.place_required(found.index_map, in_channels(seen), in_channels(upright)):
            progress(done)
    refined = setup.spec.together or setup.spec.refine_steps > 0
    candidates, scores, score = found.candidates, found.scores, decoder.score()
    for done in ruled.fill(found.index_map, candidates, scores, list(boxes), queries, score, folder, refined=refined):
        progress(done)
    if together:
        far, keys = FarView.of_weight(together.far), keys_of(decoder, bonus)
        terms = ruled_search.Terms(
            together.values, far, together.unit, together.gap, together.repeats, together.poses, keys
        )
        for done in ruled_search.improve_ruled(
            ruled.index_map,
            ruled.counts,
            terms,
            grid,
            candidates,
            found.final,
            partial(source_values, found.analysis),
            lambda box: queries(box).cpu().numpy(),
        ):
            progress(done)
    for box in boxes:
        ruled_map[box.slices] = ruled.index_map[box.slices]
    lab = to_lab(own[None])[0]
    first, second = (_mean_delta_e(of, found.colours, lab, boxes) for of in (found.index_map, ruled.index_map))
    return first, second


def _bands(grid: CellGrid, boxes: Sequence[Box]) -> Iterator[Box]:
    """The grid in bands of whole rows, as high as the chunks are."""
    return grid.chunks((boxes[0].height, grid.columns))


def _mean_delta_e(index_map: Any, colours: Any, own: NDArray[np.float32], boxes: Sequence[Box]) -> float:
    """How far the mean colours of the choices are from those of their cells, Delta E: the mean over all cells.

    own: (choices, 3) CIELAB.
    """
    total = 0.0
    for box in boxes:
        wanted = to_lab(np.asarray(colours[box.slices]))
        total += float(np.linalg.norm(own[np.asarray(index_map[box.slices])] - wanted, axis=2).sum(dtype=np.float64))
    return total / sum(box.area for box in boxes)


class _Rules(Stage):
    """The index map under the rules for repeating templates."""

    name = "rules"
    reads = (
        arrays.ANALYSIS.name,
        arrays.COLOURS.name,
        arrays.CANDIDATES.name,
        arrays.SCORES.name,
        arrays.REFINED.name,
        arrays.INDEX_MAP.name,
        arrays.DECODER,
    )
    leaves = (arrays.RULED_MAP.name,)

    def runs(self, setup: Setup) -> bool:
        return bool(setup.spec.rules)

    def writes(self, setup: Setup) -> tuple[StoredArray, ...]:
        return (arrays.RULED_MAP,)

    def memory(self, setup: Setup, chunk: tuple[int, int], workers: int) -> int:
        templates, decoder, asked = setup.tools.templates, setup.tools.choice.decoder, setup.spec.rules
        length = decoder.query_length
        held = projected_bytes(asked, setup.grid, length, len(templates), len(templates.poses)) + decoder.scoring_bytes
        if setup.spec.together:
            k, apart = setup.tools.candidates, asked.min_distance
            held += setup.far_bytes + ruled_search.projected_bytes(setup.grid, chunk, k, apart, length)
        return held

    def scratch(self, setup: Setup) -> int:
        return scratch_bytes(setup.grid, setup.tools.choice.decoder.query_length, setup.tools.candidates)

    def identity(self, spec: RenderSpec, tools: Tools) -> Identity:
        return {"rules": list(astuple(spec.rules))}


RULES = _Rules()
