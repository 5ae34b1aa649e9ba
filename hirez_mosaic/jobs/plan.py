"""The plan of a render, made before the first px is read: its chunks, how many run at a time, and their memory."""

import math
from dataclasses import dataclass, replace
from itertools import product

import psutil

from hirez_mosaic.engine.graph import Engine
from hirez_mosaic.engine.machine import OF_LIMIT, Room, free_memory
from hirez_mosaic.errors import BudgetError
from hirez_mosaic.jobs.stages import run_at_once, stages_of
from hirez_mosaic.pixels.geometry import CellGrid
from hirez_mosaic.stages.encode import ENCODE
from hirez_mosaic.stages.stage import Setup

_SIDES = (104, 96, 64, 48, 32, 24, 16, 8, 4, 2, 1)
"""Sides of chunks, cells. In larger chunks the halo's share is smaller, and smaller chunks need less memory."""
_LIBRARIES = 192 << 20  # code, reordered weights, and freed memory that the first chunks leave behind; measured
_PER_WORKER = 48 << 20  # the same, for each thread
_SLACK = 1.15  # memory of tensors, in parts of that of their elements; measured
_SMALL = 32  # smaller chunks spend more time on their halo than on themselves, so fewer run at a time instead
_OF_FREE = "The memory budget of {} (what this process has, and three quarters of what is free)"


def make_room(memory: int | None, engine: Engine, shares: int = 1) -> Room:
    """The memory that a render may take, in each process that runs chunks.

    memory: bytes. Where it is None, a quarter of what is free, or three quarters where that is too little.
    shares: renders at a time that share it.
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

    chunk: (rows, columns) of cells.
    workers: chunks at a time.
    overlaps: whether the mosaic is assembled while the last stage that chooses templates is still running.
    room: the memory that it may take.
    stage_bytes: bytes that tensors and pictures take in each stage, without the process and its libraries.
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
        """Bytes of memory at the peak of the whole render, and of the renders that run beside it."""
        return max(map(self.projected_of, self.stage_bytes))

    def projected_of(self, stage: str) -> int:
        """Bytes of memory at the peak of one stage, this process included."""
        last = "refine" if self.stage_bytes.get("refine") else "decode"
        beside = self.stage_bytes["assemble"] if self.overlaps and stage in (last, "select", "assemble") else 0
        at_once = {last} if beside and stage == "assemble" else run_at_once(stage)
        tensors = max(self.stage_bytes.get(name, 0) for name in at_once) + beside
        return self.room.process + _LIBRARIES + self.room.shares * _added(self.workers, tensors)

    @property
    def looking_bytes(self) -> int:
        """Bytes that unpacking and ingesting alone add to the process, one chunk at a time."""
        return _added(1, max(self.stage_bytes.get("unpack", 0), self.stage_bytes["ingest"] // self.workers))


def make_plan(setup: Setup, left: tuple[int, int] | None = None) -> Plan:
    """The largest chunk and the most workers within the budget.

    left: (rows, columns) of the chunks that an earlier start left; their size is kept, whatever the budget was then.

    Raises BudgetError where not even the smallest chunk fits, or the one that is asked for or left.
    """
    spec, grid, room = setup.spec, setup.grid, setup.tools.room
    given = left or (None if spec.chunk is None else (min(spec.chunk, grid.rows), min(spec.chunk, grid.columns)))
    overlapping = (False,) if spec.rules else (True, False)  # rules may change any cell until they end
    choices = _choices(given and max(given), setup.tools.engine.threads)
    for budget, (workers, side) in product(dict.fromkeys((room.budget, room.most)), choices):
        chunk = given or grid.even_chunk(side, workers, ENCODE.halo(setup), _SMALL)
        count = math.prod(grid.chunk_counts(chunk))
        if count < workers and given is None and side > _SMALL:
            continue  # smaller chunks keep all workers busy
        workers = min(workers, count)
        held = {stage.name: stage.memory(setup, chunk, workers) for stage in stages_of(setup)}
        for overlaps in overlapping:
            plan = Plan(grid, chunk, workers, overlaps, replace(room, budget=budget), held)
            if plan.projected <= budget:
                return plan
    fewer = "or fewer `jobs`" if room.shares > 1 else ""
    raise _too_small(plan, fewer or ("or `restart`" if left else "or a smaller `chunk`" if spec.chunk else ""))


def _added(workers: int, tensors: int) -> int:
    """Bytes that `workers` threads add to the process, which hold tensors of so many bytes together."""
    return workers * _PER_WORKER + int(_SLACK * tensors)


def _too_small(plan: Plan, chunk_remedy: str) -> BudgetError:
    room, stage = plan.room, max(plan.stage_bytes, key=lambda name: plan.stage_bytes[name])
    size = _whole_mib(plan.projected * 1.05 / (OF_LIMIT if room.of_workers else 1)).replace(" ", "")
    more = f"start them with --memory-limit {size}" if room.of_workers else f"use `memory={size}`"
    remedy = f"or `{stage}=0`" if stage in ("fit", "refine") else chunk_remedy
    return BudgetError(
        f"{room.told.format(_whole_mib(room.budget))} is too small: with one chunk of {plan.chunk[1]} x "
        f"{plan.chunk[0]} cells at a time the job takes {_whole_mib(plan.projected)}, {_whole_mib(room.process)} of it "
        f"this process as it stands and {_whole_mib(plan.stage_bytes[stage])} {stage}; {more} {remedy}".rstrip()
        + "."
    )


def _whole_mib(size: float) -> str:
    """`size` bytes in MiB, rounded up: a remedy must be enough, and two different sizes must look different."""
    return f"{math.ceil(size / (1 << 20))} MiB"


def _choices(asked: int | None, most: int) -> list[tuple[int, int]]:
    """(workers, side of a chunk) to be tried, from the quickest to the smallest. asked: the only side, if not None."""
    workers = sorted({most >> shift for shift in range(most.bit_length())}, reverse=True)
    if asked is not None:
        return [(count, asked) for count in workers]
    return [(count, side) for count in workers for side in _SIDES if side >= _SMALL] + [
        (1, side) for side in _SIDES if side < _SMALL
    ]
