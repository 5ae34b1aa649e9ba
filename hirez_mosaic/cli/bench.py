"""`hirez-mosaic bench`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from hirez_mosaic.cli.options import DEVICE, JSON, QUIET, precision, tile
from hirez_mosaic.cli.recipe import RecipeCommand, There
from hirez_mosaic.errors import SettingError
from hirez_mosaic.settings.parsing import format_bytes

if TYPE_CHECKING:
    from hirez_mosaic.jobs.bench_result import BenchResult, Projection


_SHORTEST = 0.005  # seconds below which a stage has no line in the report


class BenchOptions(TypedDict):
    """The options that go to `jobs.bench.bench` as they are."""

    templates: str | None
    count: int
    tile: str
    scale: str
    fit: int
    device: str
    precision: str
    memory: str
    folder: str | None
    seed: int


@click.command(cls=RecipeCommand, short_help="Measure this machine, and project a job.")
@click.option("--sizes", default="2,8,24", show_default=True, help="Sizes of the mosaics to make, Mpx, growing.")
@click.option(
    "--templates",
    type=There("folder of templates"),
    help="Folder of pictures to make the mosaics of.  [default: synthetic ones]",
)
@click.option(
    "--count",
    type=int,
    default=5000,
    show_default=True,
    help="Number of synthetic templates, or the most to take from the folder.",
)
@tile(32, "Size of a template in the mosaic")
@click.option("--scale", default="1", show_default=True, help="Mosaic px per source px.")
@click.option(
    "--fit",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Steps of fitting, which cost the same at any size.",
)
@click.option("--project", metavar="WxH", help="Project time, memory and disk of a mosaic of this size, px.")
@click.option(
    "--project-templates",
    type=click.IntRange(1),
    help="Project it for so many templates.  [default: all of the folder; as many as are measured]",
)
@DEVICE
@precision("Number format of the encoder.")
@click.option("--memory", default="2GiB", show_default=True, help="Memory budget.")
@click.option(
    "--folder",
    type=click.Path(),
    help="Folder for sources and mosaics, which are deleted.  [default: the system's temporary one]",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of sources and templates.")
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
    **options: Unpack[BenchOptions],
) -> None:
    """Measure how fast this machine makes mosaics of growing size, stage by stage, and project a job of any size.

    \b
    hirez-mosaic bench --project 100000x100000 -o bench.png
    hirez-mosaic bench --templates photos/ --tile 64 --project 60000x40000
    """
    from hirez_mosaic.cli.console import ConsoleListener
    from hirez_mosaic.jobs import bench as benching
    from hirez_mosaic.jobs.bench_plot import check_plot, write_plot
    from hirez_mosaic.jobs.listener import Listener

    mpx = _parsed_sizes(sizes)
    if project_templates is not None and project is None:
        raise SettingError(
            "--project-templates are those of the mosaic that --project names; name its size: --project 60000x40000."
        )
    wanted = None if project is None else benching.parse_size(project)
    if output is not None:
        check_plot(output, overwrite)
    listener = Listener() if quiet else ConsoleListener()
    result = benching.bench(mpx, listener=listener, **options)
    job = None if wanted is None else result.project(wanted, project_templates)
    if output is not None:
        write_plot(result, output)
    if isinstance(listener, ConsoleListener):
        lines = _report(result) + ([] if job is None else _projection_lines(result, job))
        listener.console.print("\n".join(lines), soft_wrap=True, markup=False)
        if output is not None:
            listener.console.print(str(output), style="bold green")
    if as_json:
        click.echo(json.dumps(result.to_json(job), default=str))


def _parsed_sizes(text: str) -> list[float]:
    try:
        return [float(one) for one in text.split(",")]
    except ValueError as error:
        raise SettingError(f"The sizes are {text!r}; use numbers of Mpx such as 2,8,24.") from error


def _report(result: "BenchResult") -> list[str]:
    """The lines of the report."""
    lines = ["", *_machine_lines(result), "", *_stage_lines(result)]
    largest, stages = result.runs[-1], result.runs[-1].result.seconds
    if "decode" in stages:
        scored = largest.cells * result.loading.templates / stages["decode"] / 1e6
        lines.append(f"decode scores {scored:,.0f} million templates a second")
    lines.append(
        "Rate, floor, ratio and peak are those of the largest; the floor is the same networks and libvips alone."
    )
    return lines


def _machine_lines(result: "BenchResult") -> list[str]:
    load, tile = result.loading, f"{result.tile[0]} x {result.tile[1]} px"
    kind = "synthetic ones " if result.synthetic else ""
    return [
        f"machine    {result.cores} cores, {format_bytes(result.memory)}; "
        f"networks on {result.device} in {result.precision}",
        f"templates  {load.templates:,} {kind}of {tile}, decoded at {load.templates / load.seconds:,.0f}/s; "
        f"floor {load.templates / load.floor:,.0f}/s, ratio {load.seconds / load.floor:.2f}",
    ]


def _stage_lines(result: "BenchResult") -> list[str]:
    """The table: seconds of every stage of every run; rate, floor, ratio and peak of the largest."""
    runs, largest = result.runs, result.runs[-1]
    sizes = "".join(f"{f'{run.mosaic_mpx:,.3g} Mpx':>11}" for run in runs)
    lines = [f"{'seconds':<10}{sizes}{'rate':>26}{'floor':>9}{'ratio':>7}{'peak':>11}"]
    for stage, seconds in largest.result.seconds.items():
        if seconds >= _SHORTEST:
            each = "".join(f"{run.result.seconds[stage]:>11.2f}" for run in runs)
            rate, floor = _rate(largest.work(stage), seconds), _floor(seconds, largest.floor.get(stage))
            lines.append(f"{stage:<10}{each}{rate}{floor}{format_bytes(largest.result.peak_bytes[stage]):>11}")
    whole = largest.result.total_seconds
    totals = "".join(f"{run.result.total_seconds:>11.2f}" for run in runs)
    peaks = [f"{format_bytes(max(run.result.peak_bytes.values())):>11}" for run in runs]
    rate, floor = _rate(largest.work("total"), whole), _floor(whole, sum(largest.floor.values()))
    return [
        *lines,
        f"{'total':<10}{totals}{rate}{floor}{peaks[-1]}",
        f"{'start-up':<10}" + "".join(f"{run.start_up:>11.2f}" for run in runs),
        f"{'peak':<10}" + "".join(peaks),
    ]


def _rate(work: tuple[float, str], seconds: float) -> str:
    per_second = work[0] / seconds
    digits = 0 if per_second >= 100 else 1 if per_second >= 10 else 2
    return f"{f'{per_second:,.{digits}f} {work[1]}/s':>26}"


def _floor(seconds: float, floor: float | None) -> str:
    return " " * 16 if floor is None else f"{floor:>9.2f}{seconds / floor:>7.2f}"


def _projection_lines(result: "BenchResult", job: "Projection") -> list[str]:
    """What the report says of a job of another size."""
    parts = ", ".join(f"{stage} {_duration(seconds)}" for stage, seconds in job.seconds.items() if seconds >= 0.5)
    disk = {"workspace": job.workspace_bytes, "mosaic": job.mosaic_bytes, "template cache": job.cache_bytes}
    needed = f"; give it --memory {format_bytes(job.memory * 1.1).replace(' ', '')}"
    fit = "" if "fit" in result.lines() else "fitting, a cost that no size changes (add --fit 100); "
    return [
        "",
        f"projected  {job.size[0]:,} x {job.size[1]:,} px, {job.cells:,} cells, {job.templates:,} templates",
        f"time       {_duration(job.total_seconds)}: {parts}",
        f"disk       {format_bytes(job.disk_bytes)}: "
        + ", ".join(f"{name} {format_bytes(count)}" for name, count in disk.items()),
        f"memory     {format_bytes(job.memory)}, {format_bytes(result.budget)} allowed"
        + (needed if job.memory > result.budget else ""),
        "Seconds of each stage are a line over the cells through the sizes measured "
        "(decode: times the share of templates);",
        "memory is a line over the width, up to --memory or what the assembly takes; bytes on disk go with the cells.",
        f"Not measured: {fit}rules, refining, other formats.",
    ]


def _duration(seconds: float) -> str:
    """A time for people.

    >>> _duration(8.4), _duration(200), _duration(40_000)
    ('8.4 s', '3 min 20 s', '11 h 6 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600:,} h {whole % 3600 // 60} min"
