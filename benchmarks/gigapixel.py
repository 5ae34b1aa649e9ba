"""A gigapixel source to a gigapixel mosaic in 2 GiB, and a mosaic of 7 Gpx out of up to 300,000 templates in 4 GiB.

    python benchmarks/gigapixel.py --templates hubble/ --wall-templates photos/

First job: `hirez_mosaic.jobs.bench.bench` (see there) at 100 and 1,000 Mpx. A synthetic source of the mosaic's size, a
tiled, deflated BigTIFF, is rendered at scale 1 with templates of 32 px in a process of its own, templates cached; the
floor is measured in another. The claims to check: the peak of the whole process against --memory and against that of
the smaller job, all stages against the sum of the floors, and seconds per cell against the smaller job's. Temporary
files below --folder: about 7 GB.

Second job: a synthetic source of 16 px a cell, 782 x 489 cells, to a mosaic of 105,570 x 66,015 px, templates of 135
px, --memory 4GiB, as one process: `hirez-mosaic render`, from an empty template cache below --folder unless
$HIREZ_MOSAIC_CACHE names another. What users of other programs report for this job: 78 to 156 GB of memory
(image-collage-maker, issue 24). With 300,000 templates the cache takes 16.6 GB, workspace and mosaic about 12 GB. What
the file says of itself is compared with what was asked for; the px are tests' matter.
"""

import json
import os
import tempfile
from pathlib import Path

import click
import pyvips
from common import machine_facts, print_table, render_command, run

from hirez_mosaic.cli.console import ConsoleListener
from hirez_mosaic.files.cache import cache_folder
from hirez_mosaic.jobs import synthetic
from hirez_mosaic.jobs.bench import bench
from hirez_mosaic.jobs.bench_result import BenchResult
from hirez_mosaic.settings.parsing import parse_bytes

WALL_TILE, WALL_SOURCE = 135, 16  # px of a template, and of a source's cell


@click.command()
@click.option(
    "--templates", type=click.Path(exists=True, path_type=Path), help="Of the first job.  [default: synthetic ones]"
)
@click.option("--count", default=17500, show_default=True, help="Of these at most.")
@click.option(
    "--sizes", default="100,1000", show_default=True, help="Mosaics of the first job, Mpx; empty to leave it out."
)
@click.option("--memory", default="2GiB", show_default=True, help="Budget of the first job.")
@click.option(
    "--wall-templates",
    type=click.Path(exists=True, path_type=Path),
    help="Of the second job.  [default: synthetic ones]",
)
@click.option("--wall-count", default=300_000, show_default=True, help="So many synthetic ones.")
@click.option(
    "--wall-cells", default="782x489", show_default=True, help="Cells of the second job; empty to leave it out."
)
@click.option("--wall-memory", default="4GiB", show_default=True, help="Budget of the second job.")
@click.option("--folder", type=click.Path(path_type=Path), help="Folder for temporary files.  [default: the system's]")
def main(
    templates: Path | None,
    count: int,
    sizes: str,
    memory: str,
    wall_templates: Path | None,
    wall_count: int,
    wall_cells: str,
    wall_memory: str,
    folder: Path | None,
) -> None:
    """Run both jobs and print what they took."""
    print(machine_facts())
    if sizes:
        mpx = [float(one) for one in sizes.split(",")]
        report(
            bench(
                mpx, templates=templates, count=count, tile=32, memory=memory, folder=folder, listener=ConsoleListener()
            )
        )
    if wall_cells:
        columns, rows = map(int, wall_cells.split("x"))
        with tempfile.TemporaryDirectory(dir=folder) as place:
            wall(Path(place), wall_templates, wall_count, (columns, rows), wall_memory)


def report(result: BenchResult) -> None:
    """The largest job by stage, and against the smallest."""
    small, large = result.runs[0], result.runs[-1]
    width, height = large.result.size
    print(f"\n## {large.mosaic_mpx / 1000:,.3g} Gpx to {large.mosaic_mpx / 1000:,.3g} Gpx\n")
    print(
        f"Source {large.source_size[0]:,} x {large.source_size[1]:,} px, mosaic {width:,} x {height:,} px, "
        f"{large.cells:,} cells,"
    )
    print(
        f"{result.loading.templates:,} templates, {result.precision}, chunks of {large.result.chunk[0]} x "
        f"{large.result.chunk[1]} cells.\n"
    )
    rows = []
    for stage, took in large.result.seconds.items():
        floor = large.floor.get(stage)
        told = ["", ""] if floor is None else [f"{floor:.2f}", f"{took / floor:.2f}"]
        rows.append(
            [
                stage,
                f"{small.result.seconds[stage]:.2f}",
                f"{took:.2f}",
                *told,
                f"{large.result.peak_bytes[stage] / 2**20:,.0f}",
            ]
        )
    totals = [run.result.total_seconds for run in (small, large)]
    floor, peaks = sum(large.floor.values()), [max(run.result.peak_bytes.values()) for run in (small, large)]
    rows.append(
        [
            "total",
            f"{totals[0]:.2f}",
            f"{totals[1]:.2f}",
            f"{floor:.2f}",
            f"{totals[1] / floor:.2f}",
            f"{peaks[1] / 2**20:,.0f}",
        ]
    )
    rows.append(["start-up", f"{small.start_up:.2f}", f"{large.start_up:.2f}", "", "", ""])
    sizes = [f"{run.mosaic_mpx:,.3g} Mpx, s" for run in (small, large)]
    print_table(["stage", *sizes, "floor, s", "ratio", "peak so far, MiB"], rows)
    print(f"\nPeak resident memory {peaks[1] / 2**20:,.0f} MiB, {large.result.projected_bytes / 2**20:,.0f} projected,")
    print(
        f"{result.budget / 2**20:,.0f} allowed; {peaks[1] / peaks[0]:.2f} times that of the smaller job "
        f"({peaks[0] / 2**20:,.0f} MiB)."
    )
    print(
        f"Seconds per cell are {totals[1] / large.cells / (totals[0] / small.cells):.2f} times those of the smaller "
        "job."
    )
    print(f"On disk: workspace {large.workspace_bytes / 1e9:.1f} GB, mosaic {large.mosaic_bytes / 1e9:.1f} GB.")


def wall(place: Path, templates: Path | None, count: int, cells: tuple[int, int], memory: str) -> None:
    """Render the second job and print what it took."""
    source, mosaic = place / "source.tif", place / "wall.tif"
    synthetic.write_source(source, (cells[0] * WALL_SOURCE, cells[1] * WALL_SOURCE))
    if templates is None:
        templates = place / "templates"
        synthetic.write_set(templates, count, (WALL_TILE, WALL_TILE))
    weights = cache_folder("weights") / "vgg16-imagenet.safetensors"
    command = render_command(
        source, templates, WALL_TILE, mosaic, "--columns", str(cells[0]), "--memory", memory, "--weights", str(weights)
    )
    cache = os.environ.get("HIREZ_MOSAIC_CACHE", str(place / "cache"))
    done = run(command, HIREZ_MOSAIC_CACHE=cache)
    told = json.loads(done.output)
    image = pyvips.Image.new_from_file(str(mosaic))
    asked = [cells[0] * WALL_TILE, cells[1] * WALL_TILE]
    if [image.width, image.height] != asked or told["size"] != asked:
        raise SystemExit(f"The mosaic is {image.width} x {image.height} px instead of {asked[0]} x {asked[1]}.")
    total = told["total_seconds"]
    print(f"\n## {asked[0]:,} x {asked[1]:,} px out of {told['templates']:,} templates\n")
    print(
        f"{cells[0]} x {cells[1]} cells of {WALL_TILE} px, {told['distinct_templates']:,} templates used, "
        f"{told['precision']},"
    )
    print(f"chunks of {told['chunk'][0]} x {told['chunk'][1]} cells.\n")
    rows = [
        [stage, f"{took:.1f}", f"{told['peak_bytes'][stage] / 2**20:,.0f}"] for stage, took in told["seconds"].items()
    ]
    before = done.wall - total
    rows += [
        ["all stages", f"{total:.1f}", ""],
        ["before them", f"{before:.1f}", ""],
        ["whole process", f"{done.wall:.1f}", ""],
    ]
    print_table(["stage", "s", "peak so far, MiB"], rows)
    print("\nBefore the stages: imports, weights, and the decoding of templates that are not in the cache.")
    print(f"Peak resident memory {done.peak / 2**20:,.0f} MiB, {told['projected_bytes'] / 2**20:,.0f} projected,")
    print(f"{parse_bytes(memory) / 2**20:,.0f} allowed. The mosaic takes {mosaic.stat().st_size / 1e9:.2f} GB.")


if __name__ == "__main__":
    main()
