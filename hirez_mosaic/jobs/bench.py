"""Bench: how fast this machine renders, stage by stage, against the bare work, and what another job will take.

The seconds of every stage are a line over the cells: fixed + per cell x cells, by least squares over the sizes that
were measured, neither part below zero. A projection is the sum of these lines at the cells of the job. Fitting is a
fixed cost. Decoding also goes with the number of templates; loading goes with that number alone. A projection leaves
out what was not measured: rules, refining, other formats.
"""

import math
import multiprocessing
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
from safetensors.torch import save_file

from hirez_mosaic.engine.machine import cores, settle_process, settled
from hirez_mosaic.engine.store import bytes_below
from hirez_mosaic.errors import BudgetError, SettingError
from hirez_mosaic.files.cache import cache_folder
from hirez_mosaic.jobs import synthetic
from hirez_mosaic.jobs.bench_result import BenchResult, Loading, Measured
from hirez_mosaic.jobs.floor import render_floor, thumbnail_floor
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.jobs.render import RenderResult, render
from hirez_mosaic.nets.weights import resolve_weights
from hirez_mosaic.outputs.appearing import check_output
from hirez_mosaic.settings.parsing import parse_bytes, parse_scale, parse_tile
from hirez_mosaic.templates import load_templates
from hirez_mosaic.templates.loading import list_files

MOSAIC_MPX = (2.0, 8.0, 24.0)
"""Mpx of the mosaics that are made by default: a minute or two in all on 2 cores."""

T = TypeVar("T")


@settled
def bench(
    sizes: Sequence[float] = MOSAIC_MPX,
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

    sizes: of the mosaics, Mpx, growing; mosaics are about square. Sources are synthetic, see `synthetic`; `scale` gives
        their size.
    templates: folder of which at most `count` files, evenly spread, are used; synthetic ones where None.
    count: templates, 1 or more.
    fit: steps of fitting.
    folder: for sources, workspaces and mosaics, which are deleted; the system's temporary one where None.
    seed: of synthetic sources and templates.
    The rest is as in `render`.

    The processes are started anew, so a script calls this below `if __name__ == "__main__"`.

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
        shared = _Bench(Path(temporary), shape, factor, fit, device, precision, budget, seed)
        available = _some_templates(shared.folder, templates, count, shape, seed)
        in_own_process(partial(_keep_weights, shared.weights))
        loading = in_own_process(partial(_load, shared.templates, shape), shared.environment)
        runs = [shared.measure(columns, rows, listener) for columns, rows in grids]
    return BenchResult(
        cores=cores(),
        memory=psutil.virtual_memory().total,
        device=runs[0].result.device,
        precision=runs[0].result.precision,
        tile=shape,
        scale=float(factor),
        synthetic=templates is None,
        available=available,
        budget=budget,
        loading=loading,
        runs=tuple(runs),
    )


@dataclass(frozen=True)
class _Bench:
    """What the renders of a bench share.

    folder: for all files.
    tile: (width, height), px.
    scale: mosaic px per source px.
    fit: steps of fitting.
    memory: bytes allowed.
    """

    folder: Path
    tile: tuple[int, int]
    scale: Fraction
    fit: int
    device: str
    precision: str
    memory: int
    seed: int

    @property
    def templates(self) -> Path:
        return self.folder / "templates"

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the processes that are measured: a cache of their own."""
        return {"HIREZ_MOSAIC_CACHE": str(self.folder / "cache")}

    def measure(self, columns: int, rows: int, listener: Listener) -> Measured:
        """Write a source, render a mosaic of so many cells, and measure its floor."""
        source, mosaic, workspace = (self.folder / name for name in ("source.tif", "mosaic.tif", "workspace"))
        width, height = columns * self.tile[0], rows * self.tile[1]
        size = max(1, math.floor(width / self.scale)), max(1, math.floor(height / self.scale))
        with listener.stage(f"{width * height / 1e6:.3g} Mpx", 3, "steps") as progress:
            synthetic.write_source(source, size, self.seed)
            progress(1)
            result, start_up = self._rendered(source, mosaic, workspace)
            progress(1)
            floor = self._floor(source, mosaic, result)
            progress(1)
        sizes_on_disk = bytes_below(workspace), mosaic.stat().st_size
        shutil.rmtree(workspace)
        return Measured(size, result, start_up, floor, *sizes_on_disk)

    def _rendered(self, source: Path, mosaic: Path, workspace: Path) -> tuple[RenderResult, float]:
        """(what a render in a process of its own returned, seconds of the process that belong to no stage)."""
        start = time.perf_counter()
        work = partial(
            render,
            *(source, self.templates, self.tile, mosaic),
            scale=self.scale,
            workspace=workspace,
            overwrite=True,
            no_preview=True,
            fit=self.fit,
            device=self.device,
            precision=self.precision,
            memory=self.memory,
            weights=self.weights,
        )
        result = in_own_process(work, self.environment)
        return result, time.perf_counter() - start - result.total_seconds

    def _floor(self, source: Path, mosaic: Path, result: RenderResult) -> dict[str, float]:
        work = partial(
            render_floor,
            *(source, mosaic, self.templates, self.tile, result.chunk),
            device=self.device,
            precision=self.precision,
            weights=self.weights,
            encoded="encode" in result.seconds,
        )
        return in_own_process(work, self.environment)


def in_own_process(work: Callable[[], T], environment: Mapping[str, str] | None = None) -> T:
    """Call `work` in a process of its own, so that start-up and peak memory are its alone; returns what it returns.

    work: what can be pickled; `functools.partial` of a function gives it arguments.
    environment: variables to set in the process.

    Raises what `work` raises, and BudgetError where the process was killed.
    """
    # A small process starts it, not this one, whose memory would count as its own.
    context = multiprocessing.get_context(
        "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    )
    with ProcessPoolExecutor(1, mp_context=context, initializer=_enter, initargs=(environment or {},)) as pool:
        try:
            return pool.submit(work).result()
        except BrokenProcessPool as error:
            raise BudgetError(
                "A process that was measured was killed, by the system for its memory perhaps; use smaller sizes."
            ) from error


def _enter(environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    settle_process()


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) of a mosaic, px, from text such as 100000x80000. Raises SettingError.

    >>> parse_size("100000x80000")
    (100000, 80000)
    """
    match = re.fullmatch(r"([1-9]\d{0,7})[xX]([1-9]\d{0,7})", text.strip())
    if match is None:
        raise SettingError(
            f"The size to project is {text!r}; use WxH in px such as 100000x100000, below 100000000 a side."
        )
    return int(match[1]), int(match[2])


def _grid(mpx: float, tile: tuple[int, int], scale: Fraction) -> tuple[int, int]:
    """(columns, rows) of a mosaic of so many Mpx that is about square. Raises SettingError."""
    if not 0 < mpx <= 1e5:
        raise SettingError(f"A size of {mpx:g} Mpx cannot be measured; use more than 0 and at most 100000.")
    columns, rows = (max(1, round(math.sqrt(mpx * 1e6) / side)) for side in tile)
    if min(columns * tile[0] / scale, rows * tile[1] / scale) < 1:
        raise SettingError(
            f"At scale {float(scale):g} a mosaic of {mpx:g} Mpx has a source of less than 1 px; use larger sizes."
        )
    return columns, rows


def _some_templates(place: Path, folder: str | Path | None, count: int, tile: tuple[int, int], seed: int) -> int:
    """Make place/templates, of synthetic templates or of links to files of a folder; returns how many there are in all.

    folder: None for synthetic ones.
    count: templates at most.
    """
    ours = place / "templates"
    if folder is None:
        synthetic.write_set(ours, count, tile, seed)
        return count
    whole = Path(folder)
    if not whole.is_dir() or not (names := [name for name, _, _ in list_files(whole)]):
        load_templates(whole, tile, cache=place, jobs=1)  # raises the error that a render would raise
    ours.mkdir()
    chosen = np.unique(np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int))
    for number, at in enumerate(chosen):
        path = (whole / names[at]).resolve()
        (ours / f"{number:07d}{path.suffix}").symlink_to(path)
    return len(names)


def _keep_weights(path: Path) -> None:
    save_file(resolve_weights(None, cache_folder("weights")), path)


def _load(folder: Path, tile: tuple[int, int]) -> Loading:
    """Decode a folder of templates, which the system holds in memory, into an empty cache."""
    floor = thumbnail_floor([folder / name for name, _, _ in list_files(folder)], tile)
    start = time.perf_counter()
    found = load_templates(folder, tile, cache=cache_folder("templates"), jobs=cores())
    return Loading(len(found), time.perf_counter() - start, floor, bytes_below(cache_folder("templates")))
