"""A render before it runs: its tools, its plan, what it may go on with, and who hears how it goes."""

from contextlib import ExitStack
from dataclasses import astuple
from importlib import import_module
from importlib.util import find_spec

import torch

from hirez_mosaic import __version__
from hirez_mosaic.engine.graph import Engine
from hirez_mosaic.engine.holding import held
from hirez_mosaic.engine.machine import cores
from hirez_mosaic.engine.store import Identity, discard, stored_chunk
from hirez_mosaic.engine.threads import Threads
from hirez_mosaic.errors import ClusterError
from hirez_mosaic.files.cache import cache_folder
from hirez_mosaic.jobs.decoder import choose_decoder
from hirez_mosaic.jobs.job import Job, Tools, hidden_workspace
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.jobs.plan import candidates_kept, make_plan, make_room, rules_of
from hirez_mosaic.jobs.preview import with_preview
from hirez_mosaic.jobs.template_sets import chosen_templates
from hirez_mosaic.nets.device import resolve_device, resolve_precision
from hirez_mosaic.nets.vgg import VGG16, make_encoder
from hirez_mosaic.nets.weights import resolve_weights
from hirez_mosaic.outputs.appearing import check_output
from hirez_mosaic.outputs.tile_map import check_tile_map
from hirez_mosaic.pixels.geometry import CellGrid
from hirez_mosaic.settings.spec import RenderSpec
from hirez_mosaic.sources import Reading, files_of, flat_note, open_source
from hirez_mosaic.templates.names import read_names


def prepare(spec: RenderSpec, listener: Listener, cleanup: ExitStack, tools: Tools | None = None) -> Job:
    """Open and check everything a render needs, from the cheapest to the dearest; writes nothing but the caches, and an
    empty workspace.

    cleanup: closes what was opened, and gives the workspace free. tools: that it shares with others; its own where
        None.
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
    spec = with_preview(spec, grid.mosaic_size, "source", listener)
    tools = tools or make_tools(spec, listener, cleanup)
    rules_of(spec).check(grid.rows, grid.columns, len(tools.templates.names))
    place = spec.workspace or str(hidden_workspace(spec.output))
    identity = _identity(spec, grid, tools)
    cleanup.enter_context(held(place))
    tools.engine.dismiss(place)
    left = None if spec.restart else stored_chunk(place, identity)
    choice = tools.choice
    plan = make_plan(
        spec,
        source,
        grid,
        tools.encoder,
        choice.decoder,
        tools.templates,
        tools.engine,
        tools.room,
        choice.fit_steps,
        left,
    )
    job = Job(spec, source, tools, plan, place, identity)
    job.disk_needed().check(())
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
        listener.note(
            "The paper's decoder is untrained: its Xavier weights choose templates at random. Name a trained file instead."
        )
    looks = choice.decoder.reads_features or spec.refine_steps > 0  # else no network is wanted
    weights = resolve_weights(spec.weights, cache_folder("weights"), listener.note) if looks else {}
    encoder = make_encoder(weights, device, precision) if looks else VGG16("pool3")
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
    )


def make_engine(scheduler: str | None, device: str, at_once: int = 1) -> Engine:
    """The engine of a job: threads of this process, or a Dask cluster: the one at an address, or of this host's GPUs
    where it has several.

    at_once: jobs of this process that share its cores. Raises ClusterError, DeviceError.
    """
    where = resolve_device("cpu" if scheduler else device)
    gpus = torch.cuda.device_count() if where.type == "cuda" and where.index is None else 0
    if scheduler is None and (gpus < 2 or find_spec("distributed") is None):
        return Threads(where, max(1, cores() // at_once))
    try:
        cluster = import_module("hirez_mosaic.engine.cluster")  # of what need not be installed
    except ModuleNotFoundError as error:
        raise ClusterError(
            "--scheduler takes the package distributed; install it with pip install 'hirez-mosaic[cluster]'."
        ) from error
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
