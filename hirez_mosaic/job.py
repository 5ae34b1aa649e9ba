"""A render before it runs: its tools, its plan, what it may go on with, and who hears how it goes."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from hirez_mosaic import __version__
from hirez_mosaic.assemble import check_output
from hirez_mosaic.cache import cache_folder
from hirez_mosaic.choosing import Choice, choose_decoder, loss_network, window_objective
from hirez_mosaic.encode import stored_type
from hirez_mosaic.engine import Engine, Stage, Threads, cores
from hirez_mosaic.errors import ClusterError, TemplateError
from hirez_mosaic.fit import Objective
from hirez_mosaic.fresh import shortened
from hirez_mosaic.geometry import Box, CellGrid
from hirez_mosaic.nets.device import resolve_device, resolve_precision
from hirez_mosaic.nets.vgg import VGG16, make_encoder
from hirez_mosaic.nets.weights import resolve_weights
from hirez_mosaic.plan import DiskNeeded, Plan, Room, candidates_kept, disk_needed, make_plan, make_room, rules_of
from hirez_mosaic.sources import Reading, Source, files_of, flat_note, open_source
from hirez_mosaic.spec import RenderSpec, format_bytes
from hirez_mosaic.store import Identity, discard, held, stored_chunk
from hirez_mosaic.templates import TemplateSet, load_templates
from hirez_mosaic.templates.duplicates import count_copies, near_duplicates
from hirez_mosaic.tilemap import check_names, check_tile_map, read_ban, read_names, without

_log = logging.getLogger("hirez_mosaic")


class Listener:
    """Hears how a render goes; this one keeps quiet."""

    def note(self, line: str) -> None:
        """Something worth a line."""

    def unreadable(self, folder: Path, files: Sequence[tuple[str, str]]) -> None:
        """Files (name, reason) in a folder that are left out, because they cannot be read; people are told at the end."""

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

    Records have the attributes `picture` (None where all share it) and, some of them, `stage`, `chunk` ([top, bottom, left, right), cells),
    `bytes` (written) and `seconds`.
    """

    def __init__(self, heard: Listener, picture: Path | None) -> None:
        self._heard, self._picture = heard, None if picture is None else str(picture)

    def note(self, line: str) -> None:
        _log.warning(line, extra={"picture": self._picture})
        self._heard.note(line)

    def unreadable(self, folder: Path, files: Sequence[tuple[str, str]]) -> None:
        for name, why in files:
            _log.warning(f"{folder / name} cannot be read: {why}", extra={"picture": self._picture})
        self._heard.unreadable(folder, files)

    def planned(self, job: "Job") -> None:
        plan = job.plan
        told = f"planned: {plan.chunk_count} chunks of {plan.chunk[1]} x {plan.chunk[0]} cells, {plan.workers} at a time"
        _log.info(f"{told}, {format_bytes(plan.projected)} of memory projected", extra={"picture": self._picture})
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

    def disk_needed(self) -> DiskNeeded:
        """What it has yet to write."""
        feature_bytes = np.dtype(stored_type(self.tools.precision)).itemsize
        unpacked, k = self.source.unpacked_bytes, candidates_kept(self.spec, self.tools.templates)
        names = len(self.tools.templates.names)
        return disk_needed(self.spec, self.plan, self.place, feature_bytes, unpacked, self.tools.choice.decoder, k, names)


def prepare(spec: RenderSpec, listener: Listener, cleanup: ExitStack, tools: Tools | None = None) -> Job:
    """Open and check everything a render needs, from the cheapest to the dearest; writes nothing but the caches, and an empty workspace.

    cleanup: closes what was opened, and gives the workspace free. tools: that it shares with others; its own where None.
    """
    spec.check_places()
    for path in filter(None, (spec.output, spec.preview, spec.page)):
        check_output(path, spec.overwrite)
    if spec.tile_map is not None:
        check_output(spec.tile_map, spec.overwrite)
        check_tile_map(spec.tile_map)
    source = open_source(spec.source, spec.background, spec.max_source_px, reading_of(spec))
    cleanup.callback(source.close)
    for note in (*source.notes, flat_note(source)):
        if note:
            listener.note(f"{spec.source} {note}.")
    grid = CellGrid.over(source.size, spec.tile, spec.scale, spec.columns)
    source = source.for_step(grid.source_step)
    spec.check_mosaic_size(grid.mosaic_size)
    tools = tools or make_tools(spec, listener, cleanup)
    rules_of(spec).check(grid.rows, grid.columns, len(tools.templates.names))
    place = spec.workspace or str(hidden_workspace(spec.output))
    identity = _identity(spec, grid, tools)
    cleanup.enter_context(held(place))
    tools.engine.dismiss(place)
    left = None if spec.restart else stored_chunk(place, identity)
    choice = tools.choice
    plan = make_plan(spec, source, grid, tools.encoder, choice.decoder, tools.templates, tools.engine, tools.room, choice.fit_steps, left)
    job = Job(spec, source, tools, plan, place, identity)
    job.disk_needed().check(())
    if spec.restart:
        discard(place)
    return job


def hidden_workspace(output: Path) -> Path:
    """Where a render keeps what it has finished until its mosaic is there, unless it is told."""
    return output.with_name(f".{shortened(output.name)}.workspace")


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
    looks = choice.decoder.reads_features or spec.refine_steps > 0  # else no network is wanted
    weights = resolve_weights(spec.weights, cache_folder("weights"), listener.note) if looks else {}
    encoder = make_encoder(weights, device, precision) if looks else VGG16("pool3")
    return Tools(templates, weights, encoder, choice, device, precision, engine, make_room(spec.memory, engine, at_once), spec.far_weight)


def make_engine(scheduler: str | None, device: str, at_once: int = 1) -> Engine:
    """The engine of a job: threads of this process, or a Dask cluster: the one at an address, or of this host's GPUs where it has several.

    at_once: jobs of this process that share its cores. Raises ClusterError, DeviceError.
    """
    where = resolve_device("cpu" if scheduler else device)
    gpus = torch.cuda.device_count() if where.type == "cuda" and where.index is None else 0
    if scheduler is None and (gpus < 2 or find_spec("distributed") is None):
        return Threads(where, max(1, cores() // at_once))
    try:
        cluster = import_module("hirez_mosaic.cluster")  # of what need not be installed
    except ModuleNotFoundError as error:
        raise ClusterError("--scheduler takes the package distributed; install it with pip install 'hirez-mosaic[cluster]'.") from error
    made: Engine = cluster.Cluster(scheduler or cluster.one_worker_each(gpus), device)
    return made


def _identity(spec: RenderSpec, grid: CellGrid, tools: Tools) -> Identity:
    """All that the arrays of a workspace depend on."""
    return {
        "source": [str(spec.source.absolute()), files_of(spec.source)],
        "cells": [grid.columns, grid.rows],
        "scale": str(grid.scale),
        "reading": list(astuple(reading_of(spec))),
        **shared_identity(spec, tools),
    }


def reading_of(spec: RenderSpec) -> Reading:
    """What of its source a render reads."""
    return Reading(spec.source_page, spec.plane, spec.channel, spec.stretch)


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
        "refine": spec.refine_steps,
        "far weight": spec.far_weight if choice.fit_steps else None,
        "together": spec.together,
        "preferred": sorted(read_names(spec.prefer, "preferred")) if spec.prefer else None,
        "rules": list(astuple(rules_of(spec))),
        "candidates": candidates_kept(spec, tools.templates),
        "device": tools.device.type,
        "precision": str(tools.precision),
    }


def chosen_templates(spec: RenderSpec, listener: Listener) -> TemplateSet:
    """The templates a render chooses from: those of the folder without banned ones and near-duplicates, in all poses allowed."""
    banned = frozenset() if spec.ban is None else read_ban(spec.ban)
    every = cached_templates(spec.templates, spec.tile, spec.background, spec.crop, listener, spec.jobs, spec.exclude, spec.strict)
    found = without(every, banned)
    if spec.dedupe is None and (copies := count_copies(found.blocks())):
        listener.note(f"{copies:,} of {len(found):,} templates are the same as others in a cell; --dedupe 0 leaves them out.")
    if spec.dedupe is not None:
        first = near_duplicates(found.at_cell_size(), spec.dedupe)
        kept = np.flatnonzero(first == np.arange(len(first)))
        listener.note(f"{len(first) - len(kept):,} of {len(first):,} templates are near-duplicates of others and are left out.")
        found = found.subset(kept)
    if spec.prefer is not None:
        check_names(found, read_names(spec.prefer, "preferred"), "preferred")
    return found.in_poses(mirror=spec.mirror, rotate=spec.rotate)


def cached_templates(
    folder: Path,
    tile: tuple[int, int],
    background: tuple[int, int, int],
    crop: str,
    listener: Listener,
    jobs: int | None = None,
    exclude: Sequence[str] = (),
    strict: bool = False,
) -> TemplateSet:
    """The templates of a folder out of the cache or decoded into it; the listener hears what was skipped and left out.

    Raises TemplateError, besides what `load_templates` raises, where `strict` and a file cannot be read.
    """
    templates = load_templates(
        folder,
        tile,
        background=background,
        crop=crop,
        exclude=exclude,
        cache=cache_folder("templates"),
        jobs=jobs or cores(),
        stage=lambda total: listener.stage("templates", total, "templates"),
    )
    if templates.left_out:
        listener.note(f"{templates.left_out} in {folder} were left out.")
    check_readable(folder, templates.skipped, listener, strict)
    return templates


def check_readable(folder: Path, unreadable: Sequence[tuple[str, str]], listener: Listener, strict: bool) -> None:
    """Tell the listener of files (name, reason) that cannot be read. Raises TemplateError where `strict` and there is one."""
    if unreadable and strict:
        name, why = unreadable[0]
        raise TemplateError(
            f"{len(unreadable)} of the files in {folder} cannot be read, {name} for one ({why}); remove them, or leave out --strict."
        )
    listener.unreadable(folder, unreadable)
