"""What `bench` measures, and what follows from it: lines, rates, and projections to other sizes."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from hirez_mosaic.jobs.render import RenderResult
from hirez_mosaic.outputs import mosaic_file
from hirez_mosaic.pixels.geometry import CELL, CellGrid

_FIXED = ("fit",)  # stages that cost the same at any size


@dataclass(frozen=True)
class Loading:
    """How long it took to decode templates into an empty cache.

    templates: how many.
    seconds: of decoding them.
    floor: seconds that libvips alone takes.
    cached_bytes: bytes that the cache holds of them.
    """

    templates: int
    seconds: float
    floor: float
    cached_bytes: int


@dataclass(frozen=True)
class Measured:
    """One render in a process of its own.

    source_size: (width, height), px.
    start_up: seconds of the process that belong to no stage.
    floor: seconds by stage of the bare work, see `floor`.
    workspace_bytes, mosaic_bytes: on disk, when the render had finished.
    """

    source_size: tuple[int, int]
    result: RenderResult
    start_up: float
    floor: dict[str, float]
    workspace_bytes: int
    mosaic_bytes: int

    @property
    def cells(self) -> int:
        return math.prod(self.result.cells)

    @property
    def mosaic_mpx(self) -> float:
        return math.prod(self.result.size) / 1e6

    def work(self, stage: str) -> tuple[float, str]:
        """(how much a stage had to do, in which unit): source Mpx, analysis Mpx, cells or mosaic Mpx.

        stage: a stage's name, or "total".
        """
        if stage in ("unpack", "ingest"):
            return math.prod(self.source_size) / 1e6, "source Mpx"
        if stage == "encode":
            return self.cells * CELL * CELL / 1e6, "analysis Mpx"
        return (self.mosaic_mpx, "mosaic Mpx") if stage in ("assemble", "total") else (self.cells, "cells")


@dataclass(frozen=True)
class Projection:
    """What a job of another size will take on this machine.

    size: (width, height) of the mosaic, px.
    cells: of the mosaic.
    templates: how many.
    seconds: by stage, "start-up" and "templates" among them.
    memory: bytes at the peak, at most the budget unless assembly takes more.
    workspace_bytes, mosaic_bytes, cache_bytes: on disk.
    """

    size: tuple[int, int]
    cells: int
    templates: int
    seconds: dict[str, float]
    memory: int
    workspace_bytes: int
    mosaic_bytes: int
    cache_bytes: int

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())

    @property
    def disk_bytes(self) -> int:
        return self.workspace_bytes + self.mosaic_bytes + self.cache_bytes


@dataclass(frozen=True)
class BenchResult:
    """What was measured.

    cores: of this machine.
    memory: bytes of this machine.
    device, precision: of the networks.
    tile: (width, height), px.
    scale: mosaic px per source px.
    synthetic: whether the templates were synthetic.
    available: templates in the folder, of which perhaps not all were loaded.
    budget: bytes of memory allowed.
    loading: of the templates.
    runs: the renders, the smallest first.
    """

    cores: int
    memory: int
    device: str
    precision: str
    tile: tuple[int, int]
    scale: float
    synthetic: bool
    available: int
    budget: int
    loading: Loading
    runs: tuple[Measured, ...]

    def lines(self) -> dict[str, tuple[float, float]]:
        """(fixed, per cell) seconds of the start-up and of every stage, see the docstring of `bench`'s module."""
        cells = [run.cells for run in self.runs]
        lines = {"start-up": (float(np.median([run.start_up for run in self.runs])), 0.0)}
        for stage in self.runs[-1].result.seconds:
            took = [run.result.seconds.get(stage, 0.0) for run in self.runs]
            lines[stage] = (float(np.mean(took)), 0.0) if stage in _FIXED else line(cells, took)
        return lines

    def project(self, size: tuple[int, int], templates: int | None = None) -> Projection:
        """What a mosaic of another size will take.

        size: (width, height), px, rounded up to whole cells.
        templates: how many; all available where None.

        Bytes on disk follow from those of the largest run, per cell and per template.
        """
        count = self.available if templates is None else templates
        columns, rows = (-(-side // of) for side, of in zip(size, self.tile, strict=True))
        cells, largest = columns * rows, self.runs[-1]
        return Projection(
            size=(columns * self.tile[0], rows * self.tile[1]),
            cells=cells,
            templates=count,
            seconds=self._projected_seconds(cells, count / self.loading.templates),
            memory=self._projected_memory(rows, columns),
            workspace_bytes=int(largest.workspace_bytes * cells / largest.cells),
            mosaic_bytes=int(largest.mosaic_bytes * cells / largest.cells),
            cache_bytes=int(self.loading.cached_bytes * count / self.loading.templates),
        )

    def _projected_seconds(self, cells: int, share: float) -> dict[str, float]:
        """By stage. share: templates per template that was measured."""
        seconds = {"templates": self.loading.seconds * share}
        for stage, (fixed, per_cell) in self.lines().items():
            seconds[stage] = (fixed + per_cell * cells) * (share if stage == "decode" else 1)
        return seconds

    def _projected_memory(self, rows: int, columns: int) -> int:
        """Bytes at the peak: a line over the mosaic's width, since strips of it are what grows, up to the budget.

        It is at least what assembling so wide a mosaic adds to the process.
        """
        process = min(self.runs[0].result.peak_bytes.values())
        strips = mosaic_file.projected_bytes(CellGrid(rows, columns, self.tile, Fraction(1)), Path("bench.tif"))
        peaks = [max(run.result.peak_bytes.values()) for run in self.runs]
        fixed, per_px = line([run.result.size[0] for run in self.runs], peaks)
        return max(min(self.budget, int(fixed + per_px * columns * self.tile[0])), process + strips)

    def to_json(self, job: Projection | None = None) -> dict[str, Any]:
        """All that was measured and projected, for JSON, with rates.

        Rates are units per second of each stage of each run, and templates scored per second.
        """
        derived = {
            "lines": self.lines(),
            "templates_per_second": self.loading.templates / self.loading.seconds,
            "rates": [_rates(run) for run in self.runs],
        }
        totals = {} if job is None else {"total_seconds": job.total_seconds, "disk_bytes": job.disk_bytes}
        return asdict(self) | derived | {"projection": None if job is None else asdict(job) | totals}


def _rates(run: Measured) -> dict[str, float]:
    rates = {stage: run.work(stage)[0] / seconds for stage, seconds in run.result.seconds.items() if seconds}
    rates["total"] = run.mosaic_mpx / run.result.total_seconds
    if "decode" in rates:
        rates["templates scored"] = rates["decode"] * run.result.templates
    return rates


def line(counts: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """(fixed, slope) of the line of least squares through the values at these counts; neither is below zero.

    >>> [round(one, 6) for one in line([1, 2, 4], [3, 5, 9])]
    [1.0, 2.0]
    >>> line([1, 2], [1, 3]), line([1, 2], [3, 1]), line([2], [3])
    ((0.0, 1.4), (2.0, 0.0), (0.0, 1.5))
    """
    x, y = np.asarray(counts, float), np.asarray(values, float)
    through_origin = 0.0, max(0.0, float(x @ y / (x @ x)))
    if len(x) == 1:
        return through_origin
    slope, fixed = (float(one) for one in np.polyfit(x, y, 1))
    if slope < 0:
        return max(0.0, float(y.mean())), 0.0
    return (fixed, slope) if fixed >= 0 else through_origin
