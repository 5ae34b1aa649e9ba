"""Bench: how fast this machine renders, stage by stage, against the bare work, and what a job of another size will
take.

Seconds of every stage are a line over the cells, fixed + per cell x cells: least squares over the sizes measured,
neither part below zero. A projection is the sum of these lines at the cells of the job named. Fitting is a fixed cost,
decoding goes with the number of templates as well, loading with that alone. What was not measured (rules, refining,
other formats) is not in it.
"""

import math
import multiprocessing
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import psutil
from safetensors.torch import save_file

from hirez_mosaic.engine.machine import cores
from hirez_mosaic.engine.store import bytes_below
from hirez_mosaic.errors import BudgetError, SettingError
from hirez_mosaic.files.cache import cache_folder
from hirez_mosaic.files.fresh import fresh
from hirez_mosaic.jobs import synthetic
from hirez_mosaic.jobs.floor import render_floor, thumbnail_floor
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.jobs.render import RenderResult, render
from hirez_mosaic.nets.weights import resolve_weights
from hirez_mosaic.outputs import mosaic_file
from hirez_mosaic.outputs.appearing import check_output
from hirez_mosaic.pixels.geometry import CELL, CellGrid
from hirez_mosaic.settings.parsing import parse_bytes, parse_scale, parse_tile
from hirez_mosaic.templates import load_templates
from hirez_mosaic.templates.loading import list_files

SIZES = (2.0, 8.0, 24.0)
"""Mpx of the mosaics that are made unless told otherwise: a minute or two in all on 2 cores."""
_FIXED = ("fit",)  # stages that cost the same at any size

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Loading:
    """Templates decoded into an empty cache. cached_bytes: what the cache holds of them. floor: seconds of libvips
    alone.
    """

    templates: int
    seconds: float
    floor: float
    cached_bytes: int


@dataclass(frozen=True)
class Measured:
    """One render in a process of its own.

    start_up: seconds from the start of the process to its end that are no stage's. floor: seconds by stage of the bare
        work, see `floor`.
    workspace_bytes, mosaic_bytes: on disk, when it had finished.
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
        """How much a stage had to do, and in which unit: source Mpx, analysis Mpx, cells or mosaic Mpx."""
        if stage in ("unpack", "ingest"):
            return math.prod(self.source_size) / 1e6, "source Mpx"
        if stage == "encode":
            return self.cells * CELL * CELL / 1e6, "analysis Mpx"
        return (self.mosaic_mpx, "mosaic Mpx") if stage in ("assemble", "total") else (self.cells, "cells")


@dataclass(frozen=True)
class Projection:
    """What a job of another size will take on this machine.

    size: (width, height), px. seconds: by stage, "start-up" and "templates" among them. memory: bytes at the peak,
        never above the budget.
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

    available: templates there would be; more than were loaded where the folder holds more. synthetic: whether they were
        made up.
    budget: bytes of memory allowed.
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
        """(fixed, per cell) seconds of the start-up and of every stage; see the module's docstring."""
        cells = [run.cells for run in self.runs]
        lines = {"start-up": (float(np.median([run.start_up for run in self.runs])), 0.0)}
        for stage in self.runs[-1].result.seconds:
            took = [run.result.seconds.get(stage, 0.0) for run in self.runs]
            lines[stage] = (float(np.mean(took)), 0.0) if stage in _FIXED else line(cells, took)
        return lines

    def project(self, size: tuple[int, int], templates: int | None = None) -> Projection:
        """What a mosaic of `size` (width, height) px, rounded up to whole cells, of so many templates, all available
        where None, will take.

        Memory: a line over the mosaic's width, since strips of it are what grows, up to the budget; at least what
        assembling so wide a mosaic adds to the process. Bytes on disk: per cell, and per template, those of the largest
        run.
        """
        count = self.available if templates is None else templates
        columns, rows = (-(-side // of) for side, of in zip(size, self.tile, strict=True))
        cells, more, largest = columns * rows, count / self.loading.templates, self.runs[-1]
        seconds = {"templates": self.loading.seconds * more}
        for stage, (fixed, per_cell) in self.lines().items():
            seconds[stage] = (fixed + per_cell * cells) * (more if stage == "decode" else 1)
        process = min(self.runs[0].result.peak_bytes.values())
        peaks = [max(run.result.peak_bytes.values()) for run in self.runs]
        fixed, per_px = line([run.result.size[0] for run in self.runs], peaks)
        strips = mosaic_file.projected_bytes(CellGrid(rows, columns, self.tile, Fraction(1)), Path("bench.tif"))
        return Projection(
            size=(columns * self.tile[0], rows * self.tile[1]),
            cells=cells,
            templates=count,
            seconds=seconds,
            memory=max(min(self.budget, int(fixed + per_px * columns * self.tile[0])), process + strips),
            workspace_bytes=int(largest.workspace_bytes * cells / largest.cells),
            mosaic_bytes=int(largest.mosaic_bytes * cells / largest.cells),
            cache_bytes=int(self.loading.cached_bytes * more),
        )

    def told(self, job: Projection | None = None) -> dict[str, Any]:
        """All of it for JSON, with the rates: units per second of each stage of each run, and templates scored per
        second.
        """
        rates = []
        for run in self.runs:
            per_second = {stage: run.work(stage)[0] / took for stage, took in run.result.seconds.items() if took}
            scored = {"templates scored": per_second["decode"] * run.result.templates} if "decode" in per_second else {}
            rates.append(per_second | {"total": run.mosaic_mpx / run.result.total_seconds} | scored)
        derived = {
            "lines": self.lines(),
            "templates_per_second": self.loading.templates / self.loading.seconds,
            "rates": rates,
        }
        projection = (
            {} if job is None else asdict(job) | {"total_seconds": job.total_seconds, "disk_bytes": job.disk_bytes}
        )
        return asdict(self) | derived | {"projection": projection or None}


def bench(
    sizes: Sequence[float] = SIZES,
    *,
    templates: str | Path | None = None,
    count: int = 5000,
    tile: int | str | tuple[int, int] = 32,
    scale: float | str | Fraction = 1,
    fit: int = 0,
    device: str = "auto",
    precision: str = "auto",
    memory: int | str = "2GiB",
    folder: str | Path | None = None,
    seed: int = 0,
    listener: Listener | None = None,
) -> BenchResult:
    """Measure renders of growing size, each in a process of its own, and their floors.

    sizes: of the mosaics, Mpx; about square. Sources are synthetic, see `synthetic`: so many px that `scale` gives the
        mosaic.
    templates: folder, of which at most `count`, evenly spread, are used; `count` synthetic ones where None. fit: steps.
    folder: for sources, workspaces and mosaics, which are deleted; the system's temporary one where None.
    The rest is as in `render`. Processes begin anew: a script that calls this does so below `if __name__ ==
    "__main__"`.
    Raises a subclass of HirezMosaicError.
    """
    listener, shape, factor, budget = listener or Listener(), parse_tile(tile), parse_scale(scale), parse_bytes(memory)
    grids = [_grid(mpx, shape, factor) for mpx in sizes]
    if not grids or sorted(set(grids)) != grids:
        raise SettingError(
            f"The sizes are {', '.join(f'{mpx:g}' for mpx in sizes) or 'none'} Mpx; name some that grow."
        )
    if count < 1:
        raise SettingError(f"The number of templates is {count}; use 1 or more.")
    if folder is not None:
        check_output(Path(folder) / "bench.tif", overwrite=True)
    with tempfile.TemporaryDirectory(prefix="hirez-mosaic-bench-", dir=folder) as temporary:
        place = Path(temporary)
        found = _some_templates(place, templates, count, shape, seed)
        weights = place / "weights.safetensors"
        apart(_keep_weights, weights)
        cache = {"HIREZ_MOSAIC_CACHE": str(place / "cache")}
        loading = apart(_load, place / "templates", shape, environment=cache)
        runs = []
        for columns, rows in grids:
            with listener.stage(f"{columns * shape[0] * rows * shape[1] / 1e6:.3g} Mpx", 3, "steps") as progress:
                source = place / "source.tif"
                size = max(1, math.floor(columns * shape[0] / factor)), max(1, math.floor(rows * shape[1] / factor))
                synthetic.write_source(source, size, seed)
                progress(1)
                settings = {"fit": fit, "device": device, "precision": precision, "memory": budget, "weights": weights}
                start = time.perf_counter()
                made = apart(
                    render,
                    *(source, place / "templates", shape, place / "mosaic.tif"),
                    **{"scale": factor, "workspace": place / "workspace", "overwrite": True, "no_preview": True}
                    | settings,
                    environment=cache,
                )
                start_up = time.perf_counter() - start - made.total_seconds
                progress(1)
                bare = {
                    "device": device,
                    "precision": precision,
                    "weights": weights,
                    "encoded": "encode" in made.seconds,
                }
                floor = apart(
                    render_floor,
                    source,
                    place / "mosaic.tif",
                    place / "templates",
                    shape,
                    made.chunk,
                    **bare,
                    environment=cache,
                )
                progress(1)
                sizes_on_disk = bytes_below(place / "workspace"), (place / "mosaic.tif").stat().st_size
                runs.append(Measured(size, made, start_up, floor, *sizes_on_disk))
                shutil.rmtree(place / "workspace")
    first = runs[0].result
    total = psutil.virtual_memory().total
    return BenchResult(
        *(
            cores(),
            total,
            first.device,
            first.precision,
            shape,
            float(factor),
            templates is None,
            found,
            budget,
            loading,
            tuple(runs),
        )
    )


def apart(work: Callable[P, T], *arguments: Any, environment: dict[str, str] | None = None, **settings: Any) -> T:
    """What `work` returns in a process of its own, so that time to start and peak memory are its alone.

    environment: variables that are set there. Raises what `work` raises, BudgetError where the process was killed.
    """
    # Not begun by this process, whose memory would count as theirs, but by a small one.
    context = multiprocessing.get_context(
        "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    )
    with ProcessPoolExecutor(1, mp_context=context, initializer=_enter, initargs=(environment or {},)) as pool:
        try:
            return pool.submit(work, *arguments, **settings).result()
        except BrokenProcessPool as error:
            raise BudgetError(
                "A process that was measured was killed, by the system for its memory perhaps; use smaller sizes."
            ) from error


def _enter(environment: dict[str, str]) -> None:
    os.environ.update(environment)


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) px of a mosaic. Raises SettingError.

    >>> parse_size("100000x80000")
    (100000, 80000)
    """
    match = re.fullmatch(r"([1-9]\d{0,7})[xX]([1-9]\d{0,7})", text.strip())
    if match is None:
        raise SettingError(
            f"The size to project is {text!r}; use WxH in px such as 100000x100000, below 100000000 a side."
        )
    return int(match[1]), int(match[2])


def line(counts: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """(fixed, slope) of the line by least squares through the values at these counts; neither is below zero.

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


def _grid(mpx: float, tile: tuple[int, int], scale: Fraction) -> tuple[int, int]:
    """(columns, rows) of about a square of so many mosaic Mpx."""
    if not 0 < mpx <= 1e5:
        raise SettingError(f"A size of {mpx:g} Mpx cannot be measured; use more than 0 and at most 100000.")
    columns, rows = (max(1, round(math.sqrt(mpx * 1e6) / side)) for side in tile)
    if min(columns * tile[0] / scale, rows * tile[1] / scale) < 1:
        raise SettingError(
            f"At scale {float(scale):g} a mosaic of {mpx:g} Mpx has a source of less than 1 px; use larger sizes."
        )
    return columns, rows


def _some_templates(place: Path, folder: str | Path | None, count: int, tile: tuple[int, int], seed: int) -> int:
    """Make place/templates: synthetic ones, or links to at most `count` of the folder's files; how many there are in
    all.
    """
    ours = place / "templates"
    if folder is None:
        synthetic.write_set(ours, count, tile, seed)
        return count
    whole = Path(folder)
    if not whole.is_dir() or not (names := [name for name, _, _ in list_files(whole)]):
        load_templates(whole, tile, cache=place, jobs=1)  # raises, in its words
    ours.mkdir()
    chosen = np.unique(np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int))
    for number, at in enumerate(chosen):
        path = (whole / names[at]).resolve()
        (ours / f"{number:07d}{path.suffix}").symlink_to(path)
    return len(names)


def _keep_weights(path: Path) -> None:
    save_file(resolve_weights(None, cache_folder("weights")), path)


def _load(folder: Path, tile: tuple[int, int]) -> Loading:
    """Decode a folder of templates, in the page cache, into an empty cache."""
    floor = thumbnail_floor([folder / name for name, _, _ in list_files(folder)], tile)
    start = time.perf_counter()
    found = load_templates(folder, tile, cache=cache_folder("templates"), jobs=cores())
    return Loading(len(found), time.perf_counter() - start, floor, bytes_below(cache_folder("templates")))


def duration(seconds: float) -> str:
    """For people.

    >>> duration(8.4), duration(200), duration(40_000)
    ('8.4 s', '3 min 20 s', '11 h 6 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600:,} h {whole % 3600 // 60} min"


def check_plot(path: Path, overwrite: bool) -> None:
    """Raise SettingError for a plot that cannot be drawn, OutputError for one that cannot be written, before any work
    is done.
    """
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise SettingError(f"The plot {path} has no known suffix; use .png, .svg or .pdf.")
    _figure()
    check_output(path, overwrite)


def write_plot(result: BenchResult, path: Path) -> None:
    """Draw seconds (dashed: the floor) and peak memory of each stage against the size of the mosaic."""
    figure = _figure()(figsize=(11, 4.5), layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    mpx = [run.mosaic_mpx for run in result.runs]
    for number, stage in enumerate(result.runs[-1].result.seconds):
        took = [run.result.seconds[stage] for run in result.runs]
        if max(took) < 0.02 * result.runs[-1].result.total_seconds:
            continue  # too little to be seen
        time_axes.plot(mpx, took, "o-", color=f"C{number}", label=stage)
        if stage in result.runs[-1].floor:
            time_axes.plot(mpx, [run.floor[stage] for run in result.runs], "--", color=f"C{number}")
        peaks = [run.result.peak_bytes[stage] / 2**30 for run in result.runs]
        memory_axes.plot(mpx, peaks, "o-", color=f"C{number}", label=stage)
    memory_axes.axhline(result.budget / 2**30, color="black", linestyle=":", label="allowed")
    time_axes.set(
        title="Seconds by stage; dashed the floor", xlabel="mosaic, Mpx", ylabel="s", xscale="log", yscale="log"
    )
    memory_axes.set(
        title="Peak memory up to the end of each stage",
        xlabel="mosaic, Mpx",
        ylabel="GiB",
        xscale="log",
        ylim=(0, None),
    )
    for axes in (time_axes, memory_axes):
        axes.set_xticks(mpx, [f"{one:.3g}" for one in mpx])
        axes.minorticks_off()
        axes.legend()
    with fresh(path) as made:
        figure.savefig(made, dpi=120)


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SettingError(
            "A plot needs matplotlib, which is not installed; pip install 'hirez-mosaic[bench]', or leave -o out."
        ) from error
    return Figure
