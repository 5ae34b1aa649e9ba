"""A render before it runs: its checks, its tools, its plan, and what it may take over from an earlier start."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch

from hirez_mosaic.engine.graph import Engine
from hirez_mosaic.engine.holding import held
from hirez_mosaic.engine.machine import cores
from hirez_mosaic.engine.store import Identity, differences, discard, discard_stages, stored_job
from hirez_mosaic.engine.threads import Threads
from hirez_mosaic.errors import ClusterError, OtherJobError
from hirez_mosaic.files.cache import cache_folder
from hirez_mosaic.jobs.decoder import choose_decoder
from hirez_mosaic.jobs.job import Job, hidden_workspace
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.jobs.plan import make_plan, make_room
from hirez_mosaic.jobs.preview import preview_of
from hirez_mosaic.jobs.stages import candidates_kept, identity_of, stages_of, stale_stages
from hirez_mosaic.jobs.template_sets import chosen_templates
from hirez_mosaic.nets.device import resolve_device, resolve_precision
from hirez_mosaic.nets.vgg import VGG16, make_encoder
from hirez_mosaic.nets.weights import resolve_weights
from hirez_mosaic.outputs.appearing import check_output
from hirez_mosaic.outputs.tile_map import check_tile_map
from hirez_mosaic.pixels.geometry import CellGrid
from hirez_mosaic.settings.spec import RenderSpec
from hirez_mosaic.sources import Reading, Source, files_of, flat_note, open_source
from hirez_mosaic.stages.ingest import INGEST, UNPACK
from hirez_mosaic.stages.stage import Setup, Tools


def prepare(spec: RenderSpec, listener: Listener, cleanup: ExitStack, tools: Tools | None = None) -> Job:
    """Open and check everything that a render needs, from the cheapest to the dearest check.

    Writes nothing but the caches. Discards what an earlier start left and this one cannot use.

    cleanup: closes what was opened, and releases the workspace.
    tools: those that it shares with other renders; its own where None.

    Raises a subclass of HirezMosaicError.
    """
    spec.check_places()
    for path in filter(None, (spec.output, spec.preview, spec.page)):
        check_output(path, spec.overwrite)
    if spec.tile_map is not None:
        check_output(spec.tile_map, spec.overwrite)
        check_tile_map(spec.tile_map)
    source = _opened(spec, listener, cleanup)
    grid = CellGrid.over(source.size, spec.tile, spec.scale, spec.columns)
    source = source.for_step(grid.source_step)
    spec.check_mosaic_size(grid.mosaic_size)
    spec = replace(spec, preview=preview_of(spec, grid.mosaic_size, partial(_check_preview, spec), listener))
    tools = tools or make_tools(spec, listener, cleanup)
    spec.rules.check(grid.rows, grid.columns, len(tools.templates.names))
    setup = Setup(spec, source, grid, tools)
    place = spec.workspace or str(hidden_workspace(spec.output))
    identity = _identity(setup)
    cleanup.enter_context(held(place))
    tools.engine.dismiss(place)
    left = _Left() if spec.restart else _left(setup, place, identity)
    plan = make_plan(setup, left.chunk)
    job = Job(spec, source, grid, tools, plan, place, identity, begun=left.chunk is not None)
    job.disk_needed().check(())
    if spec.restart or (left.stale and left.chunk is None):
        discard(place)
    elif left.stale:
        discard_stages(place, left.stale, identity)
    if left.note:
        listener.note(left.note)
    return job


@dataclass(frozen=True)
class _Left:
    """What an earlier start left.

    chunk: (rows, columns) of cells in its chunks; None where nothing of it is of use.
    stale: names of what is of no use to this start, by stage.
    note: what to say about that.
    """

    chunk: tuple[int, int] | None = None
    stale: Mapping[str, Sequence[str]] = field(default_factory=dict)
    note: str = ""


def _left(setup: Setup, place: str, identity: dict[str, Identity]) -> _Left:
    """What an earlier start left in the workspace.

    From a hidden workspace, a start with other settings takes over the stages that are the same.

    Raises OtherJobError for a workspace that was named and belongs to another job, and for one of another version.
    """
    found = stored_job(place)
    if found is None:
        return _Left()
    stored, chunk = found
    different = differences(stored, identity)
    if not different:
        return _Left(chunk)
    names = ", ".join(sorted(set().union(*different.values())))
    stale = stale_stages(different)
    if setup.spec.workspace is not None:
        raise OtherJobError(
            f"The workspace {place} is that of another job: {names} differ; "
            "use `restart` to discard it, or name another `workspace`."
        )
    kept = [stage.name for stage in stages_of(setup) if stage.leaves and stage.name not in stale]
    if not kept:
        return _Left(None, stale, f"What an earlier start left is discarded: {names} differ.")
    serves = f"What an earlier start left of {', '.join(kept)} is kept, the rest is made anew: {names} differ."
    return _Left(chunk, stale, serves)


def _check_preview(spec: RenderSpec, preview: Path) -> None:
    """Raise SettingError where the preview would be in the way of something else."""
    replace(spec, preview=preview).check_places()


def _opened(spec: RenderSpec, listener: Listener, cleanup: ExitStack) -> Source:
    """The source, and notes of what is unusual about it."""
    source = open_source(spec.source, spec.background, spec.max_source_px, reading_of(spec))
    cleanup.callback(source.close)
    for note in (*source.notes, flat_note(source)):
        if note:
            listener.note(f"{spec.source} {note}.")
    return source


def make_tools(spec: RenderSpec, listener: Listener, cleanup: ExitStack, at_once: int = 1) -> Tools:
    """Load everything that a render needs and that does not depend on its source.

    cleanup: closes what was opened.
    at_once: renders at a time that share memory and cores.
    """
    engine = make_engine(spec.scheduler, spec.device, at_once)
    cleanup.callback(engine.close)
    device = resolve_device("cpu" if spec.scheduler else spec.device)  # on a cluster the networks run on its workers
    precision = resolve_precision(spec.precision, device)
    templates = chosen_templates(spec, listener)
    choice = choose_decoder(spec, templates, cache_folder("decoders"))
    choice.decoder.to(device)
    if choice.note:
        listener.note(choice.note)
    needs_network = choice.decoder.reads_features or spec.refine_steps > 0
    weights = resolve_weights(spec.weights, cache_folder("weights"), listener.note) if needs_network else {}
    encoder = make_encoder(weights, device, precision) if needs_network else VGG16("pool3")
    return Tools(
        templates,
        weights,
        encoder,
        choice,
        device,
        precision,
        engine,
        make_room(spec.memory, engine, at_once),
        spec.far_weight,
        candidates_kept(spec, templates),
    )


def make_engine(scheduler: str | None, device: str, at_once: int = 1) -> Engine:
    """The engine of a job: threads of this process, or a Dask cluster.

    The cluster is the one at an address, or one of this host's GPUs, where there are several.

    scheduler: the address; None for none.
    at_once: jobs of this process that share its cores.

    Raises ClusterError, DeviceError.
    """
    where = resolve_device("cpu" if scheduler else device)
    gpus = torch.cuda.device_count() if where.type == "cuda" and where.index is None else 0
    if scheduler is None and (gpus < 2 or find_spec("distributed") is None):
        return Threads(where, max(1, cores() // at_once))
    try:
        cluster = import_module("hirez_mosaic.engine.cluster")  # it imports what need not be installed
    except ModuleNotFoundError as error:
        raise ClusterError(
            "`scheduler` takes the package distributed; install it with pip install 'hirez-mosaic[cluster]'."
        ) from error
    made: Engine = cluster.Cluster(scheduler or cluster.one_worker_each(gpus), device)
    return made


def _identity(setup: Setup) -> dict[str, Identity]:
    """What decides each stage, the picture included."""
    spec, grid = setup.spec, setup.grid
    shared = identity_of(spec, setup.tools)
    source = {
        "source": [str(spec.source.absolute()), files_of(spec.source)],
        "reading": list(astuple(reading_of(spec))),
    }
    cells = {"cells": [grid.columns, grid.rows], "scale": str(grid.scale)}
    first, second = UNPACK.name, INGEST.name
    return {**shared, first: {**source, **shared[first]}, second: {**cells, **shared[second]}}


def reading_of(spec: RenderSpec) -> Reading:
    """What a render reads of its source."""
    return Reading(spec.source_page, spec.plane, spec.channel, spec.stretch)
