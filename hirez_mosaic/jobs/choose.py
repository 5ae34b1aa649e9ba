"""Choose: the stages of a render from its source to the index map, run in a workspace."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from hirez_mosaic.engine import arrays
from hirez_mosaic.engine.graph import StageRun
from hirez_mosaic.engine.store import Workspace
from hirez_mosaic.engine.threads import shared_cores
from hirez_mosaic.files.cache import cache_folder
from hirez_mosaic.jobs.clock import Clock
from hirez_mosaic.jobs.job import Job
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.jobs.reach import reach_note
from hirez_mosaic.nets.decoders import FEATURES, Decoder, TrunkNorm, load_decoder
from hirez_mosaic.nets.decoders.base import POOR, RICH, Looks
from hirez_mosaic.nets.objective import Picture
from hirez_mosaic.pixels.array_types import ChunkedArray
from hirez_mosaic.pixels.far_view import FarView
from hirez_mosaic.sources import Source, unpack, unpacked
from hirez_mosaic.stages import decode, encode, ingest, refine, select
from hirez_mosaic.stages.decode import DECODE
from hirez_mosaic.stages.encode import ENCODE
from hirez_mosaic.stages.fit import FIT, fitted_decoder
from hirez_mosaic.stages.ingest import INGEST, UNPACK
from hirez_mosaic.stages.refine import REFINE
from hirez_mosaic.stages.ruled_search import PASSES
from hirez_mosaic.stages.rules import RULES, Found, keep_rules
from hirez_mosaic.stages.select import SELECT
from hirez_mosaic.stages.start import START, Together, is_rich, preferred_bonus, together_of


@dataclass(frozen=True)
class Chosen:
    """What is in the workspace when every cell has its template.

    index_map: (rows, columns) uint32.
    candidates, scores: (rows, columns, k) uint32 and float32, best first.
    colours: (rows, columns, 3) uint8, the mean colours of the source's cells.
    rules_cost: see `RenderResult`.
    left: the stages that must still run until the index map is there; the mosaic is assembled at the same time.
    """

    index_map: Any
    candidates: Any
    scores: Any
    colours: Any
    rules_cost: tuple[float, float] | None = None
    left: tuple[StageRun, ...] = ()


@dataclass(frozen=True)
class _Scoring:
    """What the templates are scored by for this picture.

    norm, features: None for a decoder that reads no features.
    together: terms of the objective; None where no stage needs them.
    bonus: (choices,) float32, to be added to scores; None where no templates are preferred.
    """

    decoder: Decoder
    norm: TrunkNorm | None
    features: Any
    together: Together | None
    bonus: NDArray[np.float32] | None


def choose(job: Job, workspace: Workspace, clock: Clock, listener: Listener) -> Chosen:
    """Run all stages up to the index map, except those that may run while the mosaic is assembled."""
    analysis, colours = INGEST.arrays(workspace, job)
    picture = _encode(job, workspace, clock)
    if not job.spec.tint and (note := reach_note(colours, job.tools.templates.mean_colours())):
        listener.note(note)
    scoring = _scoring(job, workspace, clock, picture, listener)
    candidates, scores, *first = DECODE.arrays(workspace, job)
    left: tuple[StageRun, ...] = (_decode_stage(job, workspace, scoring),)
    final, best, together = scores, first[0] if first else candidates, scoring.together
    if together and REFINE.runs(job):
        clock.run(*left, workers=job.plan.workers)
        final, best = _refine(job, workspace, clock, together)
        together, left = together.refined(final, job.grid), ()
    if not job.spec.together:
        together = None
    left += (_select_stage(job, workspace, best, final, together),)
    (index_map,) = SELECT.arrays(workspace, job)
    if job.plan.overlaps:
        return Chosen(index_map, candidates, scores, colours, left=left)
    clock.run(*left, workers=job.plan.workers)
    if not RULES.runs(job):
        return Chosen(index_map, candidates, scores, colours)
    found = Found(analysis, colours, candidates, scores, final, index_map)
    return _rule(job, workspace, clock, scoring, together, found)


def ingest_stage(job: Job, workspace: Workspace, clock: Clock) -> StageRun:
    """The stage that ingests the source, which is unpacked first where it must be."""
    source = _unpacked(job.source, workspace, clock, job) if UNPACK.runs(job) else job.source
    analysis, colours = INGEST.arrays(workspace, job)
    task = partial(ingest.ingest_chunk, source=source, grid=job.grid, analysis=analysis, colours=colours)
    return INGEST.run(workspace, job, task)


def _unpacked(source: Source, workspace: Workspace, clock: Clock, job: Job) -> Source:
    """The source in the workspace, where it is unpacked unless an earlier start did that."""
    marks = workspace.marks(UNPACK.name, UNPACK.chunk(job))
    if marks.has(workspace.grid.box):
        return unpacked(source, cast("ChunkedArray", workspace.group[arrays.SOURCE]))
    with clock.timed(UNPACK.name, "px", math.prod(source.stored_size)) as progress:
        source = unpack(source, workspace.group, arrays.SOURCE, progress)
    marks.set(workspace.grid.box)
    return source


def _encode(job: Job, workspace: Workspace, clock: Clock) -> Picture | None:
    """Ingest and, for a decoder that reads features, encode. Returns what such a decoder reads, else None."""
    ingesting = ingest_stage(job, workspace, clock)
    if not ENCODE.runs(job):
        clock.run(ingesting, workers=job.plan.workers)
        return None
    (analysis, _), (features, moments) = INGEST.arrays(workspace, job), ENCODE.arrays(workspace, job)
    task = partial(
        encode.encode_chunk,
        grid=job.grid,
        analysis=analysis,
        features=features,
        moments=moments,
        chunk=job.plan.chunk,
    )
    encoding = ENCODE.run_on(workspace, job, partial(encode.encoding, task=task, encoder=job.tools.encoder))
    clock.run(ingesting, encoding, workers=job.plan.workers)
    with clock.timed("moments", "chunks", job.plan.chunk_count) as progress:
        return Picture(analysis, features, gather_moments(moments, progress))


def gather_moments(moments: Any, progress: Callable[[int], None]) -> torch.Tensor:
    """(257, 257) float64: the whole picture's second moments, the sum of its chunks'.

    moments: (chunk rows, chunk columns, 257, 257) float64.
    """
    total = torch.zeros(FEATURES + 1, FEATURES + 1, dtype=torch.float64)
    for row in range(moments.shape[0]):
        for column in range(moments.shape[1]):
            total += torch.from_numpy(np.asarray(moments[row, column]))
            progress(1)
    return total


def _scoring(job: Job, workspace: Workspace, clock: Clock, picture: Picture | None, listener: Listener) -> _Scoring:
    """The decoder of this picture, and all that scoring needs besides."""
    spec, tools = job.spec, job.tools
    analysis, _ = INGEST.arrays(workspace, job)
    decoder = tools.choice.decoder
    if FIT.runs(job) and picture is not None:
        decoder = _fitted(job, workspace, clock, picture, listener)
    decoder, looks = _started(job, clock, decoder, analysis)
    features, norm = None, None
    if picture is not None:
        features = picture.features
        with torch.no_grad():
            norm = decoder.trunk_norm(picture.moments)
    together = None
    if spec.together or spec.prefer or REFINE.runs(job):
        with shared_cores(1, tools.engine.cores):
            together = together_of(decoder, norm, features, analysis, tools.templates, job.grid, looks)
    bonus = preferred_bonus(spec.prefer, tools.templates, together) if together and spec.prefer else None
    return _Scoring(decoder, norm, features, together, bonus)


def _fitted(job: Job, workspace: Workspace, clock: Clock, picture: Picture, listener: Listener) -> Decoder:
    """The decoder, fitted to this picture.

    Where an earlier start left a fitted decoder, it is taken, because chunks may have been decoded with it.
    """
    tools = job.tools
    with (
        clock.timed(FIT.name, "steps", tools.choice.fit_steps) as progress,
        shared_cores(1, tools.engine.cores),
        workspace.file(arrays.DECODER) as kept,
    ):
        if kept.exists():
            return load_decoder(kept, len(tools.templates), tools.templates.fingerprint).to(tools.device)
        cache = cache_folder("decoders")
        fitted = fitted_decoder(tools.choice, picture, job.grid, tools.objective, cache, progress, listener.note)
        fitted.save(kept)
        return fitted


def _started(job: Job, clock: Clock, decoder: Decoder, analysis: Any) -> tuple[Decoder, Looks]:
    """(the decoder before it is fitted to this picture, how templates of this set are compared with it)."""
    templates, choice = job.tools.templates, job.tools.choice
    if not (job.spec.together or choice.started_for_picture):
        return decoder, POOR
    with clock.timed(START.name, "templates", len(templates)), shared_cores(1, job.tools.engine.cores):
        looks = RICH if is_rich(templates, job.grid, analysis) else POOR
        if decoder.starts_for_picture and looks is not POOR:
            decoder = decoder.started_for(looks, torch.from_numpy(templates.at_cell_size())).to(job.tools.device)
    return decoder, looks


def _decode_stage(job: Job, workspace: Workspace, scoring: _Scoring) -> StageRun:
    """The stage that finds the best templates of each cell."""
    (analysis, _), (candidates, scores, *first) = INGEST.arrays(workspace, job), DECODE.arrays(workspace, job)
    task = partial(
        decode.decode_chunk,
        grid=job.grid,
        analysis=analysis,
        features=scoring.features,
        candidates=candidates,
        scores=scores,
        best=first[0] if first else None,
    )
    make = partial(
        decode.decoding,
        task=task,
        decoder=scoring.decoder,
        norm=scoring.norm,
        bonus=scoring.bonus,
        k=job.tools.candidates,
    )
    return DECODE.run_on(workspace, job, make)


def _refine(job: Job, workspace: Workspace, clock: Clock, together: Together) -> tuple[Any, Any]:
    """Refine the scores of the candidates: (the scores, the best candidate of each cell)."""
    (analysis, _), (candidates, scores, *_) = INGEST.arrays(workspace, job), DECODE.arrays(workspace, job)
    refined, best = REFINE.arrays(workspace, job)
    task = partial(
        refine.refine_window,
        grid=job.grid,
        analysis=analysis,
        candidates=candidates,
        scores=scores,
        refined=refined,
        best=best,
        together=together,
        steps=job.spec.refine_steps,
    )
    make = partial(refine.refining, task=task, objective=job.tools.objective)
    clock.run(REFINE.run_on(workspace, job, make), workers=1)
    return refined, best


def _select_stage(job: Job, workspace: Workspace, best: Any, scores: Any, together: Together | None) -> StageRun:
    """The stage that chooses one template for each cell.

    best: the best candidate of each cell. scores: of the candidates. together: None where cells are chosen alone.
    """
    (index_map,) = SELECT.arrays(workspace, job)
    if together is None:
        return SELECT.run(workspace, job, partial(select.select_chunk, best=best, index_map=index_map))
    analysis, candidates = INGEST.arrays(workspace, job)[0], DECODE.arrays(workspace, job)[0]
    task = partial(
        select.choose_block,
        grid=job.grid,
        analysis=analysis,
        candidates=candidates,
        scores=scores,
        best=best,
        index_map=index_map,
        together=together,
        far=FarView.of_weight(together.far),
    )
    return SELECT.run(workspace, job, task)


def _rule(
    job: Job, workspace: Workspace, clock: Clock, scoring: _Scoring, together: Together | None, found: Found
) -> Chosen:
    """Keep the rules for repeating templates. together: None where cells are chosen alone."""
    (ruled_map,) = RULES.arrays(workspace, job)
    total = job.grid.cells * (1 + (PASSES if together else 0))
    with (
        clock.timed(RULES.name, total=total) as progress,
        shared_cores(job.plan.workers, job.tools.engine.cores),
        workspace.scratch() as scratch,
    ):
        cost = keep_rules(
            job,
            found,
            ruled_map,
            decoder=scoring.decoder,
            norm=scoring.norm,
            features=scoring.features,
            bonus=scoring.bonus,
            together=together,
            boxes=list(job.grid.chunks(job.plan.chunk)),
            folder=scratch,
            progress=progress,
        )
    return Chosen(ruled_map, found.candidates, found.scores, found.colours, cost)
