"""Batch: a mosaic of every picture in a folder, unattended.

What does not depend on the picture is loaded once. While one picture is worked on, the next is ingested into its own
workspace, as by an earlier start of its render. What is finished stands in the journal, so the same call goes on where
one was broken off, and makes again what changed.
"""

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from threading import Condition, Event, Lock
from typing import Any, Unpack

from hirez_mosaic.engine.machine import settled
from hirez_mosaic.engine.threads import shared_cores, threads
from hirez_mosaic.errors import (
    DiskSpaceError,
    HirezMosaicError,
    OtherJobError,
    OutputExistsError,
    SettingError,
    SourceNotFoundError,
    sentence,
)
from hirez_mosaic.files.fresh import fresh
from hirez_mosaic.jobs.job import Job
from hirez_mosaic.jobs.journal import FAILED, MADE, STARTED, UNCHANGED, Journal, digest, open_journal, state
from hirez_mosaic.jobs.listener import Listener, Logged
from hirez_mosaic.jobs.prepare import make_tools
from hirez_mosaic.jobs.preview import ENDING as PREVIEW
from hirez_mosaic.jobs.preview import default_preview
from hirez_mosaic.jobs.render import RenderResult, forget_killed, look_ahead, run_render
from hirez_mosaic.jobs.stages import identity_of
from hirez_mosaic.outputs.appearing import check_output
from hirez_mosaic.outputs.pages import Shown, write_gallery
from hirez_mosaic.settings.formats import FORMATS, NAMES, parts_of
from hirez_mosaic.settings.parsing import is_url
from hirez_mosaic.settings.spec import MakingSettings, RenderSpec, make_spec
from hirez_mosaic.settings.writing import TILE_MAPS
from hirez_mosaic.sources.folder import Listing, list_pictures, stems_of_mosaics
from hirez_mosaic.stages.stage import Tools

REPORT = "report.json"
GALLERY = "index.html"
_GRACE = 60  # seconds in which chunks that are under way should end
_PAGE = ".page"
_log = logging.getLogger("hirez_mosaic")


@dataclass(frozen=True)
class Outcome:
    """What became of one picture.

    source, output: relative to the folder of pictures, and to that of mosaics. status: "made", "unchanged" or "failed".
    error: a sentence, where it failed; then all that was not found out is None.
    source_size, size: (width, height) of picture and mosaic, px. cells: (columns, rows). seconds: wall time, when it
        was made.
    bytes, sha256: of the mosaic's file; of a folder, all files together, and the names and SHA-256 of them.
    """

    source: str
    status: str
    output: str
    error: str | None = None
    source_size: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    cells: tuple[int, int] | None = None
    seconds: float | None = None
    mpx_per_second: float | None = None
    bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class BatchResult:
    """What became of all. left_out: files that are no pictures. report: the file that tells the same. seconds: of the
    whole.
    """

    pictures: tuple[Outcome, ...]
    left_out: tuple[str, ...]
    report: Path
    seconds: float

    @property
    def counts(self) -> dict[str, int]:
        """How many were made, are unchanged, failed, and were left out."""
        found = Counter(one.status for one in self.pictures)
        return {**{status: found[status] for status in (MADE, UNCHANGED, FAILED)}, "left out": len(self.left_out)}


class BatchListener(Listener):
    """Hears how a batch goes; this one keeps quiet. What is called for one picture comes from any thread."""

    def begun(self, pictures: int) -> None:
        """Work on so many pictures begins."""

    @contextmanager
    def picture(self, source: str) -> Iterator[Listener]:
        """One picture is worked on within; yields what hears how that goes."""
        yield Listener()

    def ended(self, outcome: Outcome) -> None:
        """One picture is through."""


@settled
def batch(
    folder: str | Path,
    templates: str | Path,
    output: str | Path,
    tile: int | str | tuple[int, int] = 32,
    *,
    glob: str = "*",
    recursive: bool = False,
    format: str = "tif",  # noqa: A002 (the name of the option)
    jobs: int = 1,
    preview: bool = False,
    tile_map: str | None = None,
    page: bool = False,
    listener: BatchListener | None = None,
    **settings: Unpack[MakingSettings],
) -> BatchResult:
    """Make a photomosaic of every picture in `folder`, in the folder `output`, which mirrors it.

    What an earlier call with the same `output` made and neither picture nor settings have changed since, by content, is
    left as it is; what failed is tried again. A picture that fails does not stop the others. `output` may lie inside
    `folder`; it then holds report.json, too.

    glob: which files, by name; with a slash, by path below `folder`. recursive: subfolders count.
    format: of the mosaics: tif, dzi, png, jpg, webp, zarr or iiif. A mosaic is called as its picture with the other
        suffix, or with both suffixes where two pictures would have the same mosaic.
    preview: write NAME.preview.jpg of small mosaics, too. tile_map: also write NAME.csv, NAME.json or NAME.parquet: one
        of these suffixes without its dot.
    page: also write the folders NAME.page, and index.html, a gallery of them.
    workspace: folder, or URL, in which each picture has a workspace of its own, that is kept.
    overwrite: make every mosaic again, and replace files that no earlier batch made, which else fail.
    jobs: pictures at a time, which share memory and cores; several are quicker where the pictures are small.
    exclude: patterns of files to leave out, pictures and templates.
    The rest is as in `render`; templates are decoded by all cores.

    Raises a subclass of HirezMosaicError for what is wrong with the settings, before the first picture;
    KeyboardInterrupt as soon as what is running has dropped its work since the last finished chunk. The same call then
    goes on.
    """
    folder, output, listener, start = Path(folder), Path(output), listener or BatchListener(), time.perf_counter()
    _check(folder, output, format, tile_map, jobs)
    shared = make_spec(folder, templates, tile, output / f"all.{format}", settings)
    kinds = _Kinds(format, preview, shared.no_preview, tile_map, page)
    listing = _listed(folder, output, shared, glob, recursive)
    stems = stems_of_mosaics(listing.pictures, kinds.endings, taken=(REPORT, GALLERY))
    specs = {picture.as_posix(): kinds.spec(shared, folder / picture, output / stem) for picture, stem in stems.items()}
    next(iter(specs.values())).check_places("picture")
    with open_journal(output) as journal, ExitStack() as cleanup:
        if journal.is_new and not shared.overwrite:
            for own_file in (REPORT, GALLERY)[: 1 + page]:
                check_output(output / own_file, overwrite=False)
        tools = make_tools(shared, Logged(listener, None), cleanup, jobs)
        made = _Batch(specs, tools, output, journal, listener).run(jobs)
        left_out = tuple(name.as_posix() for name in listing.left_out)
        result = BatchResult(made, left_out, output / REPORT, time.perf_counter() - start)
        try:
            _write_report(result, folder)
            if page:
                _write_gallery(result, folder, specs)
        except OSError as error:  # a full disk; the journal tells the same
            listener.note(f"The report could not be written: {sentence(error)}")
    return result


def _listed(folder: Path, output: Path, shared: RenderSpec, glob: str, recursive: bool) -> Listing:
    """The pictures of a batch. Raises SourceNotFoundError where there are none."""
    apart = [output, shared.templates]
    if shared.workspace is not None and not is_url(shared.workspace):
        apart.append(Path(shared.workspace))
    listing = list_pictures(folder, glob, recursive, {path.resolve() for path in apart}, shared.exclude)
    if not listing.pictures:
        others = f" ({len(listing.left_out)} other files were left out)" if listing.left_out else ""
        raise SourceNotFoundError(
            f"The folder {folder} holds no pictures that match {glob}{others}; use another `glob`, or `recursive`."
        )
    return listing


def _check(folder: Path, output: Path, format: str, tile_map: str | None, jobs: int) -> None:  # noqa: A002
    """Raise an error for what is wrong with a batch's own settings."""
    if not folder.is_dir():
        raise SourceNotFoundError(f"There is no folder {folder}; for one picture use render.")
    there, below = output.resolve(), folder.resolve()
    if there == below or there in below.parents:
        raise SettingError(
            f"The mosaics of {folder} would lie among the pictures in {output}; name another output folder."
        )
    if output.exists() and not output.is_dir():
        raise OutputExistsError(f"The output {output} is a file; name a folder.")
    if format not in NAMES:
        raise SettingError(f"The format is {format!r}; use one of {', '.join(NAMES)}.")
    if tile_map not in (None, *TILE_MAPS):
        raise SettingError(f"The tile map is {tile_map!r}; use one of {', '.join(TILE_MAPS)}.")
    if jobs < 1:
        raise SettingError(f"The number of jobs is {jobs}; use 1 or more.")


@dataclass(frozen=True)
class _Kinds:
    """What is written of every picture. tile_map: its suffix without the dot, None for none."""

    format: str
    preview: bool
    no_preview: bool
    tile_map: str | None
    page: bool

    @property
    def endings(self) -> list[str]:
        """How the names of what is written end."""
        beside = [found.folder for found in FORMATS if found.name == self.format]
        endings = [f".{self.format}", *filter(None, beside)]
        endings += [] if self.no_preview else [PREVIEW]
        endings += [_PAGE] * self.page
        return endings if self.tile_map is None else [*endings, f".{self.tile_map}"]

    def spec(self, shared: RenderSpec, source: Path, stem: Path) -> RenderSpec:
        """The spec of one picture. stem: the path of its mosaic without its suffix."""

        def place(ending: str) -> Path:
            return stem.with_name(stem.name + ending)

        mosaic, workspace = place(f".{self.format}"), shared.workspace
        if workspace is not None:
            workspace = f"{workspace.rstrip('/')}/{mosaic.relative_to(shared.output.parent).as_posix()}"
        return replace(
            shared,
            source=source,
            output=mosaic,
            preview=place(PREVIEW) if self.preview else None,
            page=place(_PAGE) if self.page else None,
            tile_map=None if self.tile_map is None else place(f".{self.tile_map}"),
            workspace=workspace,
        )


def _write_report(result: BatchResult, folder: Path) -> None:
    told = {
        "folder": str(folder),
        "seconds": round(result.seconds, 3),
        "counts": result.counts,
        "left_out": result.left_out,
    }
    with fresh(result.report) as file:
        file.write_text(json.dumps({**told, "pictures": [asdict(one) for one in result.pictures]}, indent=1), "utf-8")


def _write_gallery(result: BatchResult, folder: Path, specs: dict[str, RenderSpec]) -> None:
    shown = []
    for one in result.pictures:
        page = specs[one.source].page
        if one.cells is not None and page is not None:
            title = Path(one.source).with_suffix("").as_posix()
            shown.append(
                Shown(
                    title,
                    page.relative_to(result.report.parent).as_posix(),
                    f"{one.cells[0]:,} x {one.cells[1]:,} pictures",
                )
            )
    with fresh(result.report.with_name(GALLERY)) as file:
        write_gallery(file, folder.absolute().name, shown)


class _StoppedError(Exception):
    """A render was told to stop. An Exception, for libvips' callbacks let nothing else through."""


class _Stoppable(Listener):
    """Passes on what it hears of one picture, and ends its render by an error where `stops` says so of the running
    stage.
    """

    def __init__(
        self, heard: Listener, stops: Callable[[str], bool], planned: Callable[[Job], None] = lambda job: None
    ) -> None:
        self._heard, self._stops, self._planned = heard, stops, planned

    def note(self, line: str) -> None:
        if not self._stops(""):  # the batch has told how to go on
            self._heard.note(line)

    def planned(self, job: Job) -> None:
        self._heard.planned(job)
        self._planned(job)

    def status(self, line: str) -> None:
        self._heard.status(line)

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        with self._heard.stage(name, total, unit) as progress:

            def checked(done: int) -> None:
                progress(done)
                if self._stops(name):
                    raise _StoppedError

            yield checked


class _Batch:
    """The pictures of one batch, their turns, and what became of them. specs: by the names of pictures, in the order of
    their turns.
    """

    def __init__(
        self, specs: dict[str, RenderSpec], tools: Tools, output: Path, journal: Journal, listener: BatchListener
    ) -> None:
        self._specs, self._tools, self._output, self._journal, self._listener = specs, tools, output, journal, listener
        self._names, self._settings = list(specs), _settings_digest(next(iter(specs.values())), tools)
        self._turns, self._turn = iter(range(len(specs))), Lock()
        self._contents: dict[str, str | None] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._stop, self._my_turn = Event(), Event()
        self._running: dict[str, Job] = {}
        self._through, self._ended = 0, Condition()
        self._ahead: Future[None] | None = None

    def run(self, jobs: int) -> tuple[Outcome, ...]:
        """Give every picture its turn, `jobs` at a time. Raises KeyboardInterrupt when nothing runs any more."""
        self._listener.begun(len(self._names))
        with shared_cores(jobs), threads(1) as ahead, threads(jobs) as pool:
            first = self._specs[self._names[0]]
            alone = jobs == 1 and first.scheduler is None and not first.restart
            try:
                with (
                    self._turn
                ):  # nobody begins before all are there: an interrupted pool forgets the thread that it was starting
                    workers = [pool.submit(self._take_turns, ahead if alone else None) for _ in range(jobs)]
                while wait(workers, timeout=0.5).not_done:  # without a timeout some systems would not hear of Ctrl-C
                    pass
            except BaseException:
                self._stop.set()
                told = f"{len(self._outcomes)} of {len(self._names)} pictures are through, and what else is finished "
                "is kept"
                self._listener.note(f"Interrupted: {told}; the same command goes on from there.")
                try:
                    wait(workers, timeout=_GRACE)
                finally:
                    if not all(worker.done() for worker in workers):
                        self._tools.engine.close()  # a cluster without workers would never come back
                raise
        for worker in workers:
            worker.result()
        return tuple(self._outcomes[name] for name in self._names)

    def _take_turns(self, ahead: ThreadPoolExecutor | None) -> None:
        try:
            while not self._stop.is_set():
                with self._turn:
                    number = next(self._turns, None)
                if number is None:
                    return
                self._my_turn.set()
                if self._ahead is not None:
                    wait([self._ahead])
                self._my_turn.clear()
                look = None if ahead is None else partial(self._begin_ahead, ahead, number + 1)
                outcome = self._outcomes[self._names[number]] = self._outcome(self._names[number], look)
                self._listener.ended(outcome)
        except _StoppedError:
            pass
        except BaseException:
            self._stop.set()
            raise

    def _outcome(self, name: str, look: Callable[[Job], None] | None) -> Outcome:
        """Make the mosaic of a picture, unless it is there; whatever goes wrong is its failure."""
        output = self._specs[name].output.relative_to(self._output).as_posix()
        told: dict[str, Any] = {"picture": str(self._specs[name].source)}
        with self._listener.picture(name) as heard:
            try:
                stoppable = _Stoppable(heard, lambda stage: self._stop.is_set(), partial(self._planned, name, look))
                outcome = self._unchanged(name)
                if outcome is None:
                    outcome = self._made(name, output, stoppable)
                else:
                    forget_killed(self._specs[name], self._tools)
                _log.info(outcome.status, extra={**told, "bytes": outcome.bytes, "seconds": outcome.seconds})
                return outcome
            except _StoppedError:
                raise
            except Exception as error:
                if self._stop.is_set():
                    raise _StoppedError from error
                known = isinstance(error, HirezMosaicError | OSError | MemoryError)
                _log.error(sentence(error), exc_info=None if known else error, extra=told)
                outcome = Outcome(name, FAILED, output, sentence(error))
                gone = [file for file in self._files(name) if not (self._output / file).exists()]
                with suppress(OSError):  # a full disk; what is not recorded is tried again
                    self._journal.append({**asdict(outcome), "gone": gone})
                return outcome
            finally:
                with self._ended:
                    self._running.pop(name, None)
                    self._through += 1
                    self._ended.notify_all()

    def _content(self, name: str) -> str | None:
        """Digest of a picture's content, None where it cannot be read."""
        if name not in self._contents:
            try:
                self._contents[name] = digest("blake2b", self._specs[name].source)
            except OSError:
                self._contents[name] = None
        return self._contents[name]

    def _unchanged(self, name: str) -> Outcome | None:
        """What an earlier start made of a picture, None where it must be made."""
        spec, last = self._specs[name], self._journal.last(name)
        if spec.overwrite or last is None or last["status"] != MADE or last["settings"] != self._settings:
            return None
        files = parts_of(spec.output)
        if last["content"] != self._content(name) or not all(path.exists() for path in spec.outputs):
            return None
        if state(*files) != last["state"] and digest("sha256", *files) != last["sha256"]:
            return None
        return replace(_recorded(last), status=UNCHANGED)

    def _made(self, name: str, output: str, heard: Listener) -> Outcome:
        """Make the mosaic of a picture, and say so in the journal before and afterwards."""
        spec = self._may_write(name)
        record: dict[str, Any] = {
            "source": name,
            "output": output,
            "content": self._content(name),
            "settings": self._settings,
            "files": self._files(name),
        }
        self._journal.append({**record, "status": STARTED})
        start = time.perf_counter()

        def finished(result: RenderResult) -> None:
            outcome = self._outcomes[name] = _outcome_of(name, output, result, time.perf_counter() - start)
            preview = [] if result.preview is None else [self._named(result.preview)]
            files = list(dict.fromkeys([*record["files"], *preview]))
            self._journal.append({**asdict(outcome), **record, "files": files, "state": state(*parts_of(spec.output))})

        self._render(name, spec, heard, finished)
        return self._outcomes[name]

    def _render(
        self, name: str, spec: RenderSpec, heard: Listener, finished: Callable[[RenderResult], None]
    ) -> RenderResult:
        """Render; where the disk was too small, again when another picture, which was under way, is through: it may
        have made room.
        """
        while True:
            through = self._through
            try:
                try:
                    return run_render(spec, heard, self._tools, finished)
                except OtherJobError:  # left by a start before picture or settings changed
                    return run_render(replace(spec, restart=True), heard, self._tools, finished)
            except DiskSpaceError:
                with self._ended:
                    self._running.pop(name, None)
                    if not self._running and self._through == through:
                        raise
                    while self._through == through:
                        if self._stop.is_set():
                            raise _StoppedError from None
                        self._ended.wait(0.5)

    def _may_write(self, name: str) -> RenderSpec:
        """The spec of a picture, which may replace what a batch made. Raises OutputError."""
        spec = self._specs[name]
        spec.output.parent.mkdir(parents=True, exist_ok=True)
        for file in self._files(name):
            check_output(self._output / file, spec.overwrite or self._journal.owns(file))
        preview = default_preview(spec.output)
        is_others = preview.exists() and not (spec.overwrite or self._journal.owns(self._named(preview)))
        return replace(spec, overwrite=True, no_preview=spec.no_preview or (is_others and spec.preview is None))

    def _named(self, path: Path) -> str:
        """A path relative to the output folder."""
        return path.relative_to(self._output).as_posix()

    def _files(self, name: str) -> list[str]:
        """All that the render of a picture leaves, relative to the output folder."""
        return [self._named(path) for path in self._specs[name].outputs]

    def _planned(self, name: str, look: Callable[[Job], None] | None, job: Job) -> None:
        """Raise DiskSpaceError where the disk has no room for this picture beside what those under way have yet to
        write.
        """
        with self._ended:
            if self._running:  # else it has been checked
                job.disk_needed().check([other.disk_needed() for other in self._running.values()])
            self._running[name] = job
        if look is not None:
            look(job)

    def _begin_ahead(self, pool: ThreadPoolExecutor, number: int, beside: Job) -> None:
        self._ahead = pool.submit(self._look_ahead, number, beside)

    def _look_ahead(self, number: int, beside: Job) -> None:
        """Ingest the next picture that must be made, until it is its turn; what goes wrong will do so again then."""

        def stops(stage: str) -> bool:
            return self._stop.is_set() or (
                self._my_turn.is_set() and stage != "unpack"
            )  # which cannot go on in the middle

        with suppress(Exception):
            for name in self._names[number:]:
                if stops(""):
                    return
                if self._unchanged(name) is None:
                    look_ahead(self._may_write(name), _Stoppable(Listener(), stops), self._tools, beside)
                    return


def _settings_digest(spec: RenderSpec, tools: Tools) -> str:
    """Of all that the mosaics of a batch depend on but their pictures. spec: of any of them."""
    made = [
        spec.scale,
        spec.columns,
        spec.tint,
        spec.encoding,
        spec.output.suffix,
        spec.preview and PREVIEW,
    ]
    shown = None if spec.page is None else [spec.anonymous, spec.thumbnails]
    told = [*map(str, made), spec.tile_map and spec.tile_map.suffix, shown, identity_of(spec, tools)]
    return hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=16).hexdigest()


def _recorded(record: dict[str, Any]) -> Outcome:
    """An outcome from its record, where tuples are lists."""
    values: dict[str, Any] = {field.name: record[field.name] for field in fields(Outcome)}
    values.update({name: tuple(value) for name, value in values.items() if isinstance(value, list)})
    return Outcome(**values)


def _outcome_of(name: str, output: str, result: RenderResult, seconds: float) -> Outcome:
    files = parts_of(result.output)
    return Outcome(
        source=name,
        status=MADE,
        output=output,
        source_size=result.source_size,
        size=result.size,
        cells=result.cells,
        seconds=round(seconds, 3),
        mpx_per_second=round(result.size[0] * result.size[1] / 1e6 / seconds, 3),
        bytes=sum(size for _, size, _ in state(*files)),
        sha256=digest("sha256", *files),
    )
