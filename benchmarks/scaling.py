"""Time and memory against size, from 0.01 to 1 Gpx.

    python benchmarks/scaling.py --templates hubble/

Method: `hirez_mosaic.jobs.bench.bench` (see there), at sizes that grow by the square root of 10: for each a synthetic
source of the mosaic's size, a tiled, deflated BigTIFF, is rendered in a process of its own, templates cached, and the
floor measured in another. "Line" is the least-squares line through the times of all sizes (all stages, start-up left
out), "off it" how far each size is from that, in per cent of the line; a line through sizes so different is settled by
the largest, so the smaller ones show what is fixed. "Per Mpx" is the same without a model. Memory is the peak resident
memory of the whole process, and the ratio to that of the size before. Temporary files below --folder: about 7 GB at 1
Gpx.
"""

from pathlib import Path

import click
from common import machine_facts, print_table

from hirez_mosaic.cli.console import ConsoleListener
from hirez_mosaic.jobs.bench import bench
from hirez_mosaic.jobs.bench_result import line


@click.command()
@click.option("--sizes", default="10,31.6,100,316,1000", show_default=True, help="Mosaics, Mpx.")
@click.option("--templates", type=click.Path(exists=True, path_type=Path), help="[default: synthetic ones]")
@click.option("--count", default=17500, show_default=True, help="Templates at most.")
@click.option("--tile", default="32", show_default=True)
@click.option("--memory", default="2GiB", show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Folder for temporary files.  [default: the system's]")
def main(sizes: str, templates: Path | None, count: int, tile: str, memory: str, folder: Path | None) -> None:
    """Print a row for each size, and the line."""
    mpx = [float(one) for one in sizes.split(",")]
    result = bench(
        mpx, templates=templates, count=count, tile=tile, memory=memory, folder=folder, listener=ConsoleListener()
    )
    runs = result.runs
    totals, cells = [run.result.total_seconds for run in runs], [run.cells for run in runs]
    fixed, slope = line(cells, totals)
    peaks = [max(run.result.peak_bytes.values()) for run in runs]
    rows = []
    for number, (run, took, peak) in enumerate(zip(runs, totals, peaks, strict=True)):
        on_line, floor = fixed + slope * run.cells, sum(run.floor.values())
        rows.append(
            [
                f"{run.mosaic_mpx:,.1f}",
                f"{run.cells:,}",
                f"{took:.2f}",
                f"{on_line:.2f}",
                f"{100 * (took / on_line - 1):+.1f} %",
                f"{1000 * took / run.mosaic_mpx:.1f}",
                f"{floor:.2f}",
                f"{took / floor:.2f}",
                f"{peak / 2**20:,.0f}",
                f"{peak / peaks[number - 1]:.2f}" if number else "",
                f"{run.result.projected_bytes / 2**20:,.0f}",
            ]
        )
    kind = "synthetic templates" if result.synthetic else "templates"
    print(f"{result.loading.templates:,} {kind} of {tile} px, {result.device}, {result.precision}, --memory {memory}.")
    print(machine_facts() + "\n")
    header = [
        "mosaic, Mpx",
        "cells",
        "job, s",
        "line, s",
        "off it",
        "per Mpx, ms",
        "floor, s",
        "ratio",
        "peak, MiB",
        "ratio",
        "projected, MiB",
    ]
    print_table(header, rows)
    print(f"\nLine: {fixed:.2f} s + {slope * 1e6:.2f} s per million cells.")
    print("\nBy stage, s:\n")
    stages = [stage for stage, took in runs[-1].result.seconds.items() if took >= 0.005]
    by_stage = [
        [f"{run.mosaic_mpx:,.1f}", *(f"{run.result.seconds[stage]:.2f}" for stage in stages), f"{run.start_up:.2f}"]
        for run in runs
    ]
    print_table(["mosaic, Mpx", *stages, "start-up"], by_stage)


if __name__ == "__main__":
    main()
