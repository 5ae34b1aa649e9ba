"""What a person at the terminal sees of a render, a batch and a comparison: the plan, bars, the summary."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Self

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from hirez_mosaic.cli.words import spelled
from hirez_mosaic.jobs.batch_result import BatchResult, Outcome
from hirez_mosaic.jobs.batch_run import BatchListener
from hirez_mosaic.jobs.job import Job
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.jobs.pace import Pace, effort_seconds
from hirez_mosaic.jobs.render import RenderResult
from hirez_mosaic.nets.device import device_name
from hirez_mosaic.nets.metrics import SIGMAS, SIZES
from hirez_mosaic.settings.choosing import EFFORTS
from hirez_mosaic.settings.parsing import format_bytes, format_seconds

if TYPE_CHECKING:
    from hirez_mosaic.jobs.compare import Row


_MOST_NAMED = 50  # unreadable pictures that are named, at most
_WORTH_WAITING = 1024  # cells from which the plan shows how long more effort would take


class _Rate(ProgressColumn):
    """Units per second since the stage began."""

    def render(self, task: Task) -> Text:
        rate = task.completed / task.elapsed if task.elapsed else 0.0
        return Text(f"{rate:,.{0 if rate >= 10 else 1}f} {task.fields['unit']}/s" if rate else "")


_COLUMNS = (
    TextColumn("{task.description:<9}"),
    BarColumn(),
    TaskProgressColumn(),
    MofNCompleteColumn(),
    _Rate(),
    TimeRemainingColumn(elapsed_when_finished=True),
    TextColumn("{task.fields[status]}"),
)


def _decoder(job: Job) -> str:
    """What scores the templates, and whether cells are chosen together."""
    refined = f"; refined in {job.spec.refine_steps} steps" if job.spec.refine_steps else ""
    return f"{job.tools.choice.told}{refined}; cells chosen {'together' if job.spec.together else 'alone'}"


def _effort(job: Job) -> str:
    """How long more effort would take on this machine; empty where the job has enough, or is small."""
    spec, grid, tools = job.spec, job.plan.grid, job.tools
    some = tools.choice.fit_steps or spec.refine_steps
    if some or spec.scheduler or grid.cells < _WORTH_WAITING or not tools.choice.started_for_picture:
        return ""
    step = Pace(tools.device, tools.precision).step_seconds()
    others = ((name, sum(effort_seconds(grid, *steps, step))) for name, steps in EFFORTS.items() if any(steps))
    return f"{spec.effort}; " + ", ".join(
        f"{name} would take about {format_seconds(seconds)} more" for name, seconds in others
    )


def _time(job: Job) -> str:
    """How long the job takes on this machine, in all and by the stages that take a tenth of it."""
    if job.spec.scheduler:
        return ""
    stages = Pace(job.tools.device, job.tools.precision).seconds(job)
    known = {name: seconds for name, seconds in stages.items() if seconds is not None}
    if not known:
        return "known from the second mosaic on this machine on"
    whole = sum(known.values())
    parts = [f"{name} {format_seconds(seconds)}" for name, seconds in known.items() if seconds >= whole / 10]
    new = [name for name in stages if name not in known]
    more = f", and what {' and '.join(new)} take, which no earlier mosaic tells" if new else ""
    left = ", less what is finished" if job.begun else ""
    return f"about {format_seconds(whole)} ({', '.join(parts)}){more}{left}"


def _disk(job: Job) -> str:
    """What the job has yet to write."""
    needed = job.disk_needed()
    return f"{format_bytes(needed.work)} for the workspace meanwhile, {format_bytes(needed.mosaic)} for the mosaic"


class _Bars(Progress):
    """Bars; where standard error is no terminal, a line a minute for every stage that runs.

    every: seconds between two lines.
    """

    every = 60.0

    def __init__(self, console: Console, transient: bool = False) -> None:
        super().__init__(*_COLUMNS, console=console, transient=transient, disable=not console.is_terminal)
        self._ended = Event()

    def start(self) -> None:
        super().start()
        if self.disable:
            Thread(target=self._tell, daemon=True).start()

    def stop(self) -> None:
        self._ended.set()
        super().stop()

    def _tell(self) -> None:
        while not self._ended.wait(self.every):
            for task in self.tasks:
                if not task.finished and task.total and task.elapsed:
                    self.console.print(Text(_line(task, task.total, task.elapsed)), soft_wrap=True)


def _line(task: Task, total: float, elapsed: float) -> str:
    """Stage, share done, time left."""
    named = f"{task.description}: " + (f"{task.fields['status']}: " if task.fields["status"] else "")
    done = task.completed / total
    left = f", about {format_seconds(elapsed / done - elapsed)} left" if done else ""
    return f"{named}{done:.0%} after {format_seconds(elapsed)}{left}"


class ConsoleListener(Listener):
    """Writes to standard error, so that standard output stays free for --json."""

    def __init__(self) -> None:
        width = None if sys.stderr.isatty() else 120  # a log file has no width
        self.console = Console(stderr=True, highlight=False, width=width)
        self._bars: Progress | None = None
        self._unreadable: list[str] = []
        context = click.get_current_context(silent=True)
        if context is not None:
            context.call_on_close(self.print_unreadable)  # at the end of whatever command it is
        self._task = TaskID(0)

    def note(self, line: str) -> None:
        self.console.print(Text(spelled(line), style="yellow"))

    def unreadable(self, folder: Path, files: Sequence[tuple[str, str]]) -> None:
        self._unreadable += [f"{folder / name} {spelled(why)}" for name, why in files]

    def print_unreadable(self) -> None:
        """The pictures that could not be read, with the reason, at the end of a command."""
        count = len(self._unreadable)
        if count:
            self.console.print(
                Text("1 file was left out:" if count == 1 else f"{count:,} files were left out:", style="yellow")
            )
        for line in self._unreadable[:_MOST_NAMED]:
            self.console.print(Text(f"    {line}", style="yellow"))
        if len(self._unreadable) > _MOST_NAMED:
            self.console.print(Text(f"    and {len(self._unreadable) - _MOST_NAMED:,} more", style="yellow"))

    def planned(self, job: Job) -> None:
        plan, grid, templates = job.plan, job.plan.grid, job.tools.templates
        width, height = grid.mosaic_size
        poses = f", in {len(templates.poses)} poses" if len(templates.poses) > 1 else ""
        rows = {
            "source": f"{job.source.path} ({job.source.kind}, {job.source.size[0]:,} x {job.source.size[1]:,} px)",
            "templates": f"{len(templates.names):,} of {grid.tile[0]} x {grid.tile[1]} px" + poses,
            "cells": f"{grid.columns:,} x {grid.rows:,} = {grid.cells:,}",
            "mosaic": f"{job.spec.output} ({width:,} x {height:,} px, {width * height / 1e6:,.1f} Mpx)",
            "decoder": _decoder(job),
            "effort": _effort(job),
            "device": f"{device_name(job.tools.device)}, {str(job.tools.precision).removeprefix('torch.')}",
            "chunks": f"{plan.chunk_count:,} of {plan.chunk[1]} x {plan.chunk[0]} cells, {plan.workers} at a time",
            "memory": f"{format_bytes(plan.projected)} projected, {format_bytes(plan.budget)} allowed",
            "disk": _disk(job),
            "time": _time(job),
        }
        table = Table.grid(padding=(0, 2))
        for name, value in rows.items():
            if value:
                table.add_row(Text(name, style="bold"), Text(value))
        self.console.print(table)

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        with ExitStack() as last:
            if self._bars is None:  # stages that run together share it
                self._bars = last.enter_context(_Bars(self.console))
                last.callback(setattr, self, "_bars", None)
            bars = self._bars
            task = self._task = bars.add_task(name, total=total, status="", unit=unit)
            yield lambda done: bars.advance(task, done)
            bars.update(task, completed=total)

    def status(self, line: str) -> None:
        if self._bars is not None:
            self._bars.update(self._task, status=line)


class BatchConsole(ConsoleListener, BatchListener):
    """One bar for the whole batch, and one for each running picture, which shows its stages in turn.

    The bars vanish when the context is left.
    """

    def __init__(self) -> None:
        super().__init__()
        self._whole = _Bars(self.console, transient=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._whole.stop()

    def begun(self, pictures: int) -> None:
        self._pictures = self._whole.add_task("pictures", total=pictures, status="", unit="pictures")
        self._whole.start()

    @contextmanager
    def picture(self, source: str) -> Iterator[Listener]:
        task = self._whole.add_task(source, total=None, status=source, unit="cells")
        try:
            yield _OnePicture(self._whole, task, source)
        finally:
            self._whole.remove_task(task)

    def ended(self, outcome: Outcome) -> None:
        self._whole.advance(self._pictures)
        if outcome.error is not None:
            self.console.print(Text(f"{outcome.source}: {spelled(outcome.error)}", style="red"))


class _OnePicture(Listener):
    """The bar of one picture."""

    def __init__(self, bars: Progress, task: TaskID, source: str) -> None:
        self._bars, self._task, self._source, self._stage = bars, task, source, ""

    def note(self, line: str) -> None:
        self._bars.console.print(Text(f"{self._source}: {spelled(line)}", style="yellow"))

    def status(self, line: str) -> None:
        self._bars.update(self._task, status=f"{self._source}  {line}")

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        self._stage = name
        self._bars.reset(self._task, total=total, description=name, status=self._source, unit=unit)

        def progress(done: int) -> None:
            if self._stage == name:  # of stages that run together only the last one is shown
                self._bars.advance(self._task, done)

        yield progress


def print_report(console: Console, result: BatchResult) -> None:
    """Print a line for each picture of a batch, and how many there are of each status."""
    table = Table(box=None)
    for heading in ("picture", "status", "px", "cells", "s", "Mpx/s", "MB", "mosaic"):
        table.add_column(
            heading, justify="left" if heading in ("picture", "status", "mosaic") else "right", overflow="fold"
        )
    for one in result.pictures:
        table.add_row(*_report_row(one))
    console.print(table)
    console.print(
        ", ".join(f"{count:,} {status}" for status, count in result.counts.items()) + f", in {result.seconds:,.0f} s"
    )
    console.print(Text(str(result.report), style="bold green"))


def _report_row(one: Outcome) -> list[Text]:
    """The cells of a picture's line."""
    begin = [Text(one.source), Text(one.status, style="red" if one.error else "")]
    if one.size is None or one.cells is None or one.bytes is None:
        return [*begin, *5 * [Text()], Text(spelled(one.error or ""))]
    figures = (
        f"{one.size[0]:,} x {one.size[1]:,}",
        f"{one.cells[0] * one.cells[1]:,}",
        f"{one.seconds:.1f}",
        f"{one.mpx_per_second:.1f}",
        f"{one.bytes / 1e6:,.1f}",
    )
    return [*begin, *map(Text, figures), Text(one.output)]


def print_summary(console: Console, result: RenderResult) -> None:
    """Print the time of each stage, the rate, the distinct templates, and where the mosaic is."""
    table = Table.grid(padding=(0, 2))
    for name, seconds in result.seconds.items():
        table.add_row(name, f"{seconds:8.2f} s")
    table.add_row("total", f"{result.total_seconds:8.2f} s, {result.mpx_per_second:,.1f} Mpx/s")
    console.print(table)
    console.print(f"{format_bytes(max(result.peak_bytes.values()))} of memory at the peak")
    console.print(f"{result.distinct_templates:,} of {result.templates:,} templates used")
    if result.rules_cost is not None:
        console.print(
            "mean colours are off by Delta E {1:.1f} under the rules, {0:.1f} without".format(*result.rules_cost)
        )
    made = [
        str(path) for path in (result.output, result.preview, result.tile_map, result.page_folder) if path is not None
    ]
    console.print(Text(" and ".join(made), style="bold green"))


def print_comparison(console: Console, means: "dict[str, Row]", sources: int) -> None:
    """Print a comparison's means over all sources.

    means: by selection. The ratio is that of Eq. 3 to the better of the baselines among them.
    """
    baseline = min((means[name].judgement.eq3 for name in ("L2", "SSIM") if name in means), default=None)
    table = Table(
        title=f"Means over {sources} pictures; lower is better, except for JOD", title_justify="left", box=None
    )
    half, sigma = list(SIZES).index("half"), 8
    columns: dict[str, Callable[[Row], str]] = {
        "Eq. 3": lambda row: f"{row.judgement.eq3:.3f}",
        "ratio": lambda row: "" if baseline is None else f"{row.judgement.eq3 / baseline:.3f}",
        "LPIPS": lambda row: _formatted(row.judgement.lpips, ".3f"),
        "cell means": lambda row: f"{row.judgement.cell_means:.5f}",
        f"dE {sigma} px": lambda row: f"{row.judgement.delta_e[SIGMAS.index(sigma)]:.2f}",
        "JOD half": lambda row: _formatted(row.judgement.jod[half], ".2f"),
        "FLIP half": lambda row: _formatted(row.judgement.flip[half], ".3f"),
        "equal neighbours": lambda row: _formatted(row.judgement.equal_neighbours, ".1%"),
        "distinct": lambda row: _formatted(row.distinct, ","),
        "seconds": lambda row: f"{row.seconds:.1f}",
    }
    table.add_column("selection")
    for heading in columns:
        table.add_column(heading, justify="right")
    for name, row in means.items():
        table.add_row(name, *(cell_of(row) for cell_of in columns.values()))
    console.print(table)


def _formatted(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
