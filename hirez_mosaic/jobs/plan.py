"""The plan of a render: what will be made, in which chunks, within how many bytes; settled before the first px is read."""

import math
from dataclasses import dataclass, replace
from itertools import product

import psutil

from hirez_mosaic.engine.graph import Engine
from hirez_mosaic.engine.machine import OF_LIMIT, free_memory
from hirez_mosaic.errors import BudgetError
from hirez_mosaic.nets import fitting
from hirez_mosaic.nets import objective as fit
from hirez_mosaic.nets.decoders import CELL_VALUES, Decoder
from hirez_mosaic.nets.vgg import VGG16
from hirez_mosaic.outputs import mosaic_file, pages
from hirez_mosaic.pixels import far_view
from hirez_mosaic.pixels.geometry import CELL, CellGrid
from hirez_mosaic.settings.parsing import format_bytes
from hirez_mosaic.settings.spec import RenderSpec
from hirez_mosaic.sources import Source
from hirez_mosaic.stages import decode, encode, ingest, refine, rules, together
from hirez_mosaic.stages import ruled_search as ruled
from hirez_mosaic.templates import RESIDENT, TemplateSet

_SIDES = (
    104,
    96,
    64,
    48,
    32,
    24,
    16,
    8,
    4,
    2,
    1,
)  # of a chunk, cells: larger halve the halo's share, smaller the memory
_LIBRARIES = (
    192 << 20
)  # code, reordered weights and freed but not returned memory that the first chunks leave behind; measured
_PER_WORKER = 48 << 20  # the same for each thread
_LEARNED = 80 << 20  # what fitting, refining and the judging of rules leave behind; measured
_SLACK = 1.15  # what tensors take beyond the sum of their elements; measured
_TOGETHER = (("ingest", "encode"), ("decode", "select"))  # stages whose chunks the same workers run
_SMALL = 32  # chunks below this spend more on their halo than on themselves; rather run fewer at a time


_OF_FREE = "The memory budget of {} (what this process has, and three quarters of what is free)"


@dataclass(frozen=True)
class Room:
    """The memory that a render is planned in.

    process: bytes of this process as it stands. budget: bytes allowed, those included. most: the same for a job that
        does not fit into it.
    shares: renders at a time, each of which is taken to need as much as the one that is planned.
    told: where the limit comes from, with a place for its bytes. of_workers: whether it is that of a cluster's workers.
    """

    process: int
    budget: int
    most: int
    shares: int = 1
    told: str = "The memory budget of {}"
    of_workers: bool = False


def make_room(memory: int | None, engine: Engine, shares: int = 1) -> Room:
    """Room within `memory` bytes; where processes of a cluster run the chunks, in each.

    Where nothing is said a quarter of what is free, or three quarters if that is too little.
    """
    process = psutil.Process().memory_info().rss
    if engine.memory is not None and (memory is None or engine.memory < memory):
        return Room(
            process,
            engine.memory,
            engine.memory,
            shares,
            "The workers' memory, of which {} may be taken,",
            of_workers=True,
        )
    if memory is not None:
        return Room(process, memory, memory, shares)
    free = free_memory()
    return Room(process, process + free // 4, process + 3 * free // 4, shares, _OF_FREE)


@dataclass(frozen=True)
class Plan:
    """How one render will run.

    chunk: (rows, columns) of cells. workers: chunks at a time.
    overlaps: whether the mosaic is assembled while the last stage that chooses templates is still running.
    stage_bytes: bytes that the tensors and pictures of each stage take besides what the process and its libraries do.
    """

    grid: CellGrid
    chunk: tuple[int, int]
    workers: int
    overlaps: bool
    room: Room
    stage_bytes: dict[str, int]

    @property
    def chunk_count(self) -> int:
        """Chunks in all."""
        return math.prod(self.grid.chunk_counts(self.chunk))

    @property
    def budget(self) -> int:
        """Bytes allowed."""
        return self.room.budget

    @property
    def projected(self) -> int:
        """Bytes of memory at the peak of the whole render, and of those at its side."""
        return max(map(self.projected_of, self.stage_bytes))

    def projected_of(self, stage: str) -> int:
        """Bytes of memory at the peak of one stage, this process included; stages that hold next to nothing have no
        entry.
        """
        last = "refine" if self.stage_bytes["refine"] else "decode"
        beside = self.stage_bytes["assemble"] if self.overlaps and stage in (last, "select", "assemble") else 0
        together = next((names for names in _TOGETHER if stage in names), (stage,))
        if beside and stage == "assemble":
            together = (last,)
        tensors = max(self.stage_bytes.get(name, 0) for name in together) + beside
        return self.room.process + _LIBRARIES + self.room.shares * _added(self.workers, tensors)

    @property
    def looking_bytes(self) -> int:
        """Bytes that unpacking and ingesting alone add to the process, one chunk at a time."""
        return _added(1, max(self.stage_bytes["unpack"], self.stage_bytes["ingest"] // self.workers))


def make_plan(
    spec: RenderSpec,
    source: Source,
    grid: CellGrid,
    encoder: VGG16,
    decoder: Decoder,
    templates: TemplateSet,
    engine: Engine,
    room: Room,
    fit_steps: int,
    left: tuple[int, int] | None = None,
) -> Plan:
    """The largest chunk and the most workers within the budget.

    left: (rows, columns) of the chunks that an earlier start left, which are gone on with whatever the budget then was.
    Raises BudgetError when not even the smallest chunk (or the one asked for, or left) fits.
    """
    given = left or (None if spec.chunk is None else (min(spec.chunk, grid.rows), min(spec.chunk, grid.columns)))
    overlapping = (False,) if rules_of(spec) else (True, False)  # rules change cells anywhere, to the last
    choices = _choices(given and max(given), engine.threads)
    for budget, (workers, side) in product(dict.fromkeys((room.budget, room.most)), choices):
        chunk = given or grid.even_chunk(side, workers, -(-encoder.halo // CELL), _SMALL)
        count = math.prod(grid.chunk_counts(chunk))
        if count < workers and given is None and side > _SMALL:
            continue  # smaller chunks keep all workers busy
        workers = min(workers, count)
        stages = _stage_bytes(spec, source, grid, encoder, decoder, templates, chunk, workers, fit_steps)
        for overlaps in overlapping:
            plan = Plan(grid, chunk, workers, overlaps, replace(room, budget=budget), stages)
            if plan.projected <= budget:
                return plan
    fewer = "or fewer --jobs" if room.shares > 1 else ""
    raise _too_small(plan, fewer or ("or --restart" if left else "or a smaller --chunk" if spec.chunk else ""))


def _added(workers: int, tensors: int) -> int:
    """Bytes that `workers` threads add to the process, which hold tensors of so many bytes together."""
    return workers * _PER_WORKER + int(_SLACK * tensors)


def _too_small(plan: Plan, chunk_remedy: str) -> BudgetError:
    room, stage = plan.room, max(plan.stage_bytes, key=lambda name: plan.stage_bytes[name])
    wanted = plan.projected * 1.05 / (OF_LIMIT if room.of_workers else 1)
    more = f"{'start them with --memory-limit' if room.of_workers else 'use --memory'} {format_bytes(wanted).replace(' ', '')}"
    remedy = f"or --{stage} 0" if stage in ("fit", "refine") else chunk_remedy
    return BudgetError(
        f"{room.told.format(format_bytes(room.budget))} is too small: with one chunk of {plan.chunk[1]} x {plan.chunk[0]} cells at a "
        f"time the job takes {format_bytes(plan.projected)}, {format_bytes(room.process)} of it this process as it stands and "
        f"{format_bytes(plan.stage_bytes[stage])} {stage}; {more} {remedy}".rstrip()
        + "."
    )


def _choices(asked: int | None, most: int) -> list[tuple[int, int]]:
    """(workers, chunk side) from the quickest to the smallest."""
    workers = sorted({most >> shift for shift in range(most.bit_length())}, reverse=True)
    if asked is not None:
        return [(count, asked) for count in workers]
    return [(count, side) for count in workers for side in _SIDES if side >= _SMALL] + [
        (1, side) for side in _SIDES if side < _SMALL
    ]


def _stage_bytes(
    spec: RenderSpec,
    source: Source,
    grid: CellGrid,
    encoder: VGG16,
    decoder: Decoder,
    templates: TemplateSet,
    chunk: tuple[int, int],
    workers: int,
    fit_steps: int,
) -> dict[str, int]:
    itemsize = next(encoder.parameters()).element_size()
    window = min(fitting.WINDOW, grid.rows), min(fitting.WINDOW, grid.columns)
    networks = {
        "encode": workers * encode.projected_bytes(chunk, encoder.halo, itemsize) if decoder.reads_features else 0,
        "fit": fit.projected_bytes(*window, itemsize, len(templates)) if fit_steps else 0,
        "refine": refine.projected_bytes(grid, itemsize) + fit.objective_bytes(len(templates)) + decoder.scoring_bytes
        if spec.refine_steps
        else 0,
    }
    values = 4 * far_view.VALUES * len(templates) if spec.together else 0
    k, kept = candidates_kept(spec, templates), rules_of(spec)
    searching = 0
    if kept and spec.together:
        searching = values + ruled.projected_bytes(grid, chunk, k, kept.min_distance, decoder.query_length)
    mapped = min(
        templates.pixels.nbytes, RESIDENT + grid.columns * grid.tile[0] * grid.tile[1] * 3
    )  # of templates, resident when used
    deciding = workers * decode.projected_bytes(chunk, decoder.query_length, len(templates), k) + decoder.scoring_bytes
    deciding += values
    if decoder.template_keys() is not None and k > 1:
        deciding += (
            2 * 4 * CELL_VALUES * len(templates)
        )  # of the start with a rich set, and of the templates that it is made from
    learned = _LEARNED if fit_steps or spec.refine_steps else 0
    if learned:
        deciding += fit.objective_bytes(len(templates))
    writing = mosaic_file.projected_bytes(grid, spec.output, tinted=spec.tint > 0) + mapped + learned
    return {
        "unpack": source.unpacking_memory,
        "ingest": workers * ingest.projected_bytes(source, chunk, grid),
        **networks,
        "decode": deciding,
        "select": workers * together.projected_bytes(grid, chunk, k) + values if spec.together else 0,
        "rules": rules.projected_bytes(kept, grid, decoder.query_length, len(templates), len(templates.poses))
        + searching
        + decoder.scoring_bytes
        if kept
        else 0,
        "assemble": writing,
        "tile map": chunk[0] * grid.columns * (8 * k + 7) + writing
        if spec.tile_map is not None
        else 0,  # some of which is still held
        "preview": writing if spec.preview is not None else 0,
        "page": mapped + pages.projected_bytes(grid.columns, grid.tile, workers, tinted=spec.tint > 0)
        if spec.page is not None
        else 0,
    }


def rules_of(spec: RenderSpec) -> rules.Rules:
    """The rules for repeating templates."""
    distance = max(spec.min_distance, int(spec.no_repeat_neighbours))
    return rules.Rules(1 if spec.unique else spec.max_uses, distance, spec.least_uses)


def candidates_kept(spec: RenderSpec, templates: TemplateSet) -> int:
    """Choices per cell that decode keeps."""
    ruled = rules.CANDIDATES if rules_of(spec) else 1
    mapped = (
        1 if spec.tile_map is None else 2 * (1 + spec.mirror) * (1 + 3 * spec.rotate)
    )  # the runner-up is another template
    poses = 2 if len(templates.poses) > 1 else 1  # of which several of one template may be among the best
    near = together.CANDIDATES * poses if spec.together else 1
    return min(len(templates), max(refine.CANDIDATES if spec.refine_steps else 1, ruled, mapped, near))
