"""What every benchmark here shares: machine facts, child processes with their peak memory, tables."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
import pyvips
import torch
import zarr

import hirez_mosaic


@dataclass(frozen=True)
class Run:
    """One finished process: wall and processor seconds, peak resident bytes, standard output."""

    wall: float
    cpu: float
    peak: int
    output: str


_LAUNCH = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([done.returncode, time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss, done.stdout, done.stderr]))
"""


def run(command: Sequence[str | Path], **environment: str) -> Run:
    """Run a command to its end, in a launcher of its own so that its peak memory is its alone; stops the benchmark if it fails."""
    launched = subprocess.run(
        [sys.executable, "-c", _LAUNCH, *map(str, command)], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    code, wall, cpu, peak, output, error = json.loads(launched.stdout)
    if code:
        sys.exit(f"{' '.join(map(str, command))} failed with {code}: {error[-2000:]}")
    return Run(wall, cpu, peak * (1 if platform.system() == "Darwin" else 1024), output)


def machine_facts() -> str:
    """One line a result is worth nothing without."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    bfloat16 = "avx512_bf16" in flags or "amx_bf16" in flags
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, zarr {zarr.__version__}, numpy {numpy.__version__}"
    vips = ".".join(str(pyvips.version(part)) for part in range(3))
    return (
        f"{platform.machine()}, {cores} cores, {memory:.0f} GiB, {'with' if bfloat16 else 'without'} bfloat16 instructions, {gpu}; "
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


def scaled_source(source: Path, width: int, height: int, folder: Path) -> Path:
    """The picture as a tiled, deflated TIFF of width x height px, scaled where it has another size."""
    made = folder / f"{source.stem}_{width}x{height}.tif"
    if not made.exists():
        image = pyvips.Image.new_from_file(str(source)).colourspace("srgb")[:3]
        image = image.thumbnail_image(width, height=height, size="force")
        image.tiffsave(str(made), tile=True, compression="deflate", predictor="horizontal", bigtiff=True)
    return made
