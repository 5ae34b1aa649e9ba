"""`hirez-mosaic bench`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hirez_mosaic.cli.options import DEVICE, JSON, QUIET, precision, tile
from hirez_mosaic.cli.recipe import RecipeCommand
from hirez_mosaic.errors import SettingError
from hirez_mosaic.settings.parsing import format_bytes

if TYPE_CHECKING:
    from hirez_mosaic.jobs.bench import BenchResult, Projection


@click.command(cls=RecipeCommand, short_help="Measure this machine, and project a job.")
@click.option("--sizes", default="2,8,24", show_default=True, help="Mosaics to make, Mpx, growing.")
@click.option("--templates", type=click.Path(), help="Folder of pictures to make them of.  [default: synthetic ones]")
@click.option(
    "--count",
    type=int,
    default=5000,
    show_default=True,
    help="Templates: so many synthetic ones, or at most so many of the folder.",
)
@tile(32, "Size of a template in the mosaic")
@click.option("--scale", default="1", show_default=True, help="Mosaic px per source px.")
@click.option(
    "--fit", type=click.IntRange(0), default=0, show_default=True, help="Steps of fitting, a cost that no size changes."
)
@click.option("--project", metavar="WxH", help="End with time, memory and disk of a mosaic of this size, px.")
@click.option(
    "--project-templates",
    type=click.IntRange(1),
    help="Of so many templates.  [default: all of the folder; as many as are measured]",
)
@DEVICE
@precision("Of the encoder.")
@click.option("--memory", default="2GiB", show_default=True, help="Memory budget.")
@click.option(
    "--folder",
    type=click.Path(),
    help="For sources and mosaics, which are deleted.  [default: the system's temporary one]",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Another seed, other sources and templates."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Plot to draw: .png, .svg or .pdf.")
@click.option("--overwrite", is_flag=True, help="Replace a plot that is there.")
@JSON
@QUIET
def bench(
    sizes: str,
    project: str | None,
    project_templates: int | None,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Measure how fast this machine makes mosaics of growing size, stage by stage, and project a job of any size.

    \b
    hirez-mosaic bench --project 100000x100000 -o bench.png
    hirez-mosaic bench --templates photos/ --tile 64 --project 60000x40000
    """
    from hirez_mosaic.cli.console import ConsoleListener
    from hirez_mosaic.jobs import bench as benching
    from hirez_mosaic.jobs.listener import Listener

    try:
        mpx = [float(one) for one in sizes.split(",")]
    except ValueError as error:
        raise SettingError(f"The sizes are {sizes!r}; use numbers of Mpx such as 2,8,24.") from error
    if project_templates is not None and project is None:
        raise SettingError(
            "--project-templates are those of the mosaic that --project names; name its size: --project 60000x40000."
        )
    wanted = None if project is None else benching.parse_size(project)
    if output is not None:
        benching.check_plot(output, overwrite)
    listener = Listener() if quiet else ConsoleListener()
    result = benching.bench(mpx, listener=listener, **settings)
    job = None if wanted is None else result.project(wanted, project_templates)
    if output is not None:
        benching.write_plot(result, output)
    if isinstance(listener, ConsoleListener):
        listener.console.print(
            "\n".join(_report(result) + ([] if job is None else _projected(result, job))), soft_wrap=True, markup=False
        )
        if output is not None:
            listener.console.print(str(output), style="bold green")
    if as_json:
        click.echo(json.dumps(result.told(job), default=str))


def _report(result: "BenchResult") -> list[str]:
    """The lines of the report."""
    load, tile = result.loading, f"{result.tile[0]} x {result.tile[1]} px"
    kind = "synthetic ones " if result.synthetic else ""
    lines = [
        "",
        f"machine    {result.cores} cores, {format_bytes(result.memory)}; networks on {result.device} in {result.precision}",
        f"templates  {load.templates:,} {kind}of {tile}, decoded at {load.templates / load.seconds:,.0f}/s; "
        f"floor {load.templates / load.floor:,.0f}/s, ratio {load.seconds / load.floor:.2f}",
        "",
        f"{'seconds':<10}"
        + "".join(f"{f'{run.mosaic_mpx:,.3g} Mpx':>11}" for run in result.runs)
        + f"{'rate':>26}{'floor':>9}{'ratio':>7}{'peak':>11}",
    ]
    largest = result.runs[-1]
    stages = largest.result.seconds
    for stage, took in stages.items():
        if took >= 0.005:
            each = "".join(f"{run.result.seconds[stage]:>11.2f}" for run in result.runs)
            lines.append(
                f"{stage:<10}{each}{_rate(largest.work(stage), took)}{_floor(took, largest.floor.get(stage))}"
                f"{format_bytes(largest.result.peak_bytes[stage]):>11}"
            )
    whole = largest.result.total_seconds
    peak = format_bytes(max(largest.result.peak_bytes.values()))
    totals = "".join(f"{run.result.total_seconds:>11.2f}" for run in result.runs)
    lines.append(
        f"{'total':<10}{totals}{_rate(largest.work('total'), whole)}{_floor(whole, sum(largest.floor.values()))}{peak:>11}"
    )
    lines.append(f"{'start-up':<10}" + "".join(f"{run.start_up:>11.2f}" for run in result.runs))
    lines.append(
        f"{'peak':<10}" + "".join(f"{format_bytes(max(run.result.peak_bytes.values())):>11}" for run in result.runs)
    )
    if "decode" in stages:
        lines.append(
            f"decode scores {largest.cells * load.templates / stages['decode'] / 1e6:,.0f} million templates a second"
        )
    lines.append(
        "Rate, floor, ratio and peak are those of the largest; the floor is the same networks and libvips alone."
    )
    return lines


def _rate(work: tuple[float, str], seconds: float) -> str:
    per_second = work[0] / seconds
    digits = 0 if per_second >= 100 else 1 if per_second >= 10 else 2
    return f"{f'{per_second:,.{digits}f} {work[1]}/s':>26}"


def _floor(seconds: float, floor: float | None) -> str:
    return " " * 16 if floor is None else f"{floor:>9.2f}{seconds / floor:>7.2f}"


def _projected(result: "BenchResult", job: "Projection") -> list[str]:
    from hirez_mosaic.jobs.bench import duration

    parts = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in job.seconds.items() if seconds >= 0.5)
    disk = {"workspace": job.workspace_bytes, "mosaic": job.mosaic_bytes, "template cache": job.cache_bytes}
    return [
        "",
        f"projected  {job.size[0]:,} x {job.size[1]:,} px, {job.cells:,} cells, {job.templates:,} templates",
        f"time       {duration(job.total_seconds)}: {parts}",
        f"disk       {format_bytes(job.disk_bytes)}: "
        + ", ".join(f"{name} {format_bytes(count)}" for name, count in disk.items()),
        f"memory     {format_bytes(job.memory)}, {format_bytes(result.budget)} allowed"
        + (
            f"; give it --memory {format_bytes(job.memory * 1.1).replace(' ', '')}"
            if job.memory > result.budget
            else ""
        ),
        "Seconds of each stage are a line over the cells through the sizes measured (decode: times the share of templates);",
        "memory is a line over the width, up to --memory or what the assembly takes; bytes on disk go with the cells.",
        "Not measured: "
        + ("" if "fit" in result.lines() else "fitting, a cost that no size changes (add --fit 100); ")
        + "rules, refining, other formats.",
    ]
