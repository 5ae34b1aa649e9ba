"""The plot of `hirez-mosaic bench`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hirez_mosaic.errors import SettingError
from hirez_mosaic.files.fresh import fresh
from hirez_mosaic.jobs.bench_result import BenchResult, Measured
from hirez_mosaic.outputs.appearing import check_output

_SEEN = 0.02  # share of the whole time below which a stage is not drawn


def check_plot(path: Path, overwrite: bool) -> None:
    """Raise SettingError for a plot that cannot be drawn, OutputError for one that cannot be written."""
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise SettingError(f"The plot {path} has no known suffix; use .png, .svg or .pdf.")
    _figure()
    check_output(path, overwrite)


def write_plot(result: BenchResult, path: Path) -> None:
    """Draw seconds (dashed: the floor) and peak memory of each stage against the size of the mosaic."""
    figure = _figure()(figsize=(11, 4.5), layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    mpx, largest = [run.mosaic_mpx for run in result.runs], result.runs[-1].result
    for number, stage in enumerate(largest.seconds):
        if max(run.result.seconds[stage] for run in result.runs) >= _SEEN * largest.total_seconds:
            _draw_stage(result.runs, stage, f"C{number}", time_axes, memory_axes)
    memory_axes.axhline(result.budget / 2**30, color="black", linestyle=":", label="allowed")
    time_axes.set(title="Seconds by stage; dashed the floor", ylabel="s", yscale="log")
    memory_axes.set(title="Peak memory up to the end of each stage", ylabel="GiB", ylim=(0, None))
    for axes in (time_axes, memory_axes):
        axes.set(xlabel="mosaic, Mpx", xscale="log")
        axes.set_xticks(mpx, [f"{one:.3g}" for one in mpx])
        axes.minorticks_off()
        axes.legend()
    with fresh(path) as made:
        figure.savefig(made, dpi=120)


def _draw_stage(runs: Sequence[Measured], stage: str, colour: str, time_axes: Any, memory_axes: Any) -> None:
    mpx = [run.mosaic_mpx for run in runs]
    time_axes.plot(mpx, [run.result.seconds[stage] for run in runs], "o-", color=colour, label=stage)
    if stage in runs[-1].floor:
        time_axes.plot(mpx, [run.floor[stage] for run in runs], "--", color=colour)
    memory_axes.plot(mpx, [run.result.peak_bytes[stage] / 2**30 for run in runs], "o-", color=colour, label=stage)


def _figure() -> Any:
    """matplotlib's class of figures. Raises SettingError where it is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SettingError(
            "A plot needs matplotlib, which is not installed; pip install 'hirez-mosaic[bench]', or leave -o out."
        ) from error
    return Figure
