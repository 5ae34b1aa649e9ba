"""What every benchmark here shares: machine facts, child processes with their peak memory, tables."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyvips
import torch
import zarr
from numpy.typing import NDArray

import hirez_mosaic
from hirez_mosaic.files.cache import cache_folder
from hirez_mosaic.nets.loss import MultiScaleLoss, loss_network
from hirez_mosaic.nets.metrics import Eye, Judge, Judgement, mean_judgement
from hirez_mosaic.nets.scoring import as_images
from hirez_mosaic.nets.weights import resolve_alexnet, resolve_weights
from hirez_mosaic.pixels.geometry import CELL, CellGrid


@dataclass(frozen=True)
class Run:
    """One finished process: wall and processor seconds, peak resident bytes, standard output."""

    wall: float
    cpu: float
    peak: int
    output: str


_LAUNCH = """
import json, os, resource, signal, subprocess, sys, time
seconds, memory, command = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
limit = (lambda: resource.setrlimit(resource.RLIMIT_AS, (memory, memory))) if memory else None
start = time.perf_counter()
pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
job = subprocess.Popen(command, preexec_fn=limit, start_new_session=True, **pipes)
try:
    output, error = job.communicate(timeout=seconds or None)
except subprocess.TimeoutExpired:
    os.killpg(job.pid, signal.SIGKILL)
    output, error = job.communicate()
    error += f"\\nstopped after {seconds:.0f} s"
used = resource.getrusage(resource.RUSAGE_CHILDREN)
took = time.perf_counter() - start
print(json.dumps([job.returncode, took, used.ru_utime + used.ru_stime, used.ru_maxrss, output, error]))
"""


@dataclass
class BrokenRunError(Exception):
    """A process that failed: how far it got, s and bytes, and the end of what it said."""

    wall: float
    peak: int
    said: str


def attempt(
    command: Sequence[str | Path], *, seconds: float = 0, memory: int = 0, environment: Mapping[str, str] | None = None
) -> Run:
    """Run a command to its end, in a launcher of its own so that its peak memory is its alone. Raises BrokenRunError.

    seconds, memory: it may take so long, and map so many bytes; 0 for no limit.
    """
    launched = subprocess.run(
        [sys.executable, "-c", _LAUNCH, str(seconds), str(memory), *map(str, command)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **(environment or {})},
    )
    code, wall, cpu, peak, output, error = json.loads(launched.stdout)
    peak *= 1 if platform.system() == "Darwin" else 1024
    if code:
        raise BrokenRunError(wall, peak, error[-2000:].strip() or f"exit code {code}")
    return Run(wall, cpu, peak, output)


def run(command: Sequence[str | Path], **environment: str) -> Run:
    """Run a command to its end; stops the benchmark if it fails."""
    try:
        return attempt(command, environment=environment)
    except BrokenRunError as broken:
        sys.exit(f"{' '.join(map(str, command))} failed: {broken.said}")


def machine_facts() -> str:
    """One line a result is worth nothing without."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    bfloat16 = "avx512_bf16" in flags or "amx_bf16" in flags
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    versions = (
        f"Python {platform.python_version()}, torch {torch.__version__}, zarr {zarr.__version__}, "
        f"numpy {np.__version__}"
    )
    vips = ".".join(str(pyvips.version(part)) for part in range(3))
    return (
        f"{platform.machine()}, {cores} cores, {memory:.0f} GiB, {'with' if bfloat16 else 'without'} bfloat16 "
        f"instructions, {gpu}; "
        f"{versions}, libvips {vips}, hirez-mosaic {hirez_mosaic.__version__}; {time.strftime('%Y-%m-%d')}"
    )


def spread(values: Sequence[float], digits: int = 2) -> str:
    """median (least to most)."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table with padded columns."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |", flush=True)


def render_command(picture: Path, templates: Path, tile: int, output: Path, *more: str) -> list[str]:
    """The command line of a render, without a fit, that says how it went as JSON."""
    words = [
        sys.executable,
        "-m",
        "hirez_mosaic",
        "render",
        picture,
        "--templates",
        templates,
        "--tile",
        tile,
        "--fit",
        0,
    ]
    return [str(word) for word in [*words, "-o", output, "--no-preview", "--overwrite", "--quiet", "--json", *more]]


def make_judge(edge: str) -> Judge:
    """What judges by all measures, on the processor. edge: see `MultiScaleLoss`."""
    cache, cpu = cache_folder("weights"), torch.device("cpu")
    loss = MultiScaleLoss(loss_network(resolve_weights(None, cache), cpu, torch.float32), edge=edge)
    return Judge(loss, resolve_alexnet(cache), Eye(cpu))


def judged(source: Path, mosaic: Path, columns: int) -> Judgement:
    """How far a mosaic with `columns` square cells across is from its picture: the means over windows of 64 x 64 cells.

    Both are shrunk to 8 px a cell by area averages, the mosaic in one pass over its file, whatever its size; a mosaic
    of another shape is compared from the top left corner as far as both go. The measures are those of `hirez-mosaic
    compare`, in float32; but for equal neighbours, which are those that look alike: at most 2 levels of 255 apart, on
    average.
    """
    small = [_shrunk(path, columns * CELL) for path in (source, mosaic)]
    rows, across = (min(one.shape[axis] for one in small) // CELL for axis in (0, 1))
    judge = make_judge("replicate")
    windows = CellGrid(rows, across, (CELL, CELL), Fraction(1)).chunks((min(64, rows), min(64, across)))
    whole = [box.scaled(CELL).slices for box in windows if box.height >= min(64, rows) and box.width >= min(64, across)]
    pairs = ([as_images(one[part], torch.device("cpu")) for one in small] for part in whole)
    found = mean_judgement([judge(picture, made) for picture, made in pairs])
    return replace(found, equal_neighbours=_alike(small[1][: rows * CELL, : across * CELL]))


def _alike(pixels: NDArray[np.uint8]) -> float:
    """The share of cells with a common side that look alike; pixels: (8 rows, 8 columns, 3)."""
    height, width = pixels.shape[:2]
    cells = pixels.reshape(height // CELL, CELL, width // CELL, CELL, 3).astype(np.int16)
    across, down = np.abs(np.diff(cells, axis=2)), np.abs(np.diff(cells, axis=0))
    return float((np.concatenate([of.mean((1, 3, 4)).ravel() for of in (across, down)]) <= 2).mean())


def _shrunk(path: Path, width: int) -> NDArray[np.uint8]:
    """(rows, width, 3) uint8 of a picture, by area averages."""
    image = pyvips.Image.new_from_file(str(path), access="sequential").colourspace("srgb")[:3]
    factor = image.width / width
    return np.asarray(image.shrink(factor, factor) if factor >= 1 else image.resize(1 / factor))[:, :width]


def scaled_source(source: Path, width: int, height: int, folder: Path) -> Path:
    """The picture as a tiled, deflated TIFF of width x height px, scaled where it has another size."""
    made = folder / f"{source.stem}_{width}x{height}.tif"
    if not made.exists():
        image = pyvips.Image.new_from_file(str(source)).colourspace("srgb")[:3]
        image = image.thumbnail_image(width, height=height, size="force")
        image.tiffsave(str(made), tile=True, compression="deflate", predictor="horizontal", bigtiff=True)
    return made
