"""A whole render: from a picture and a folder of templates to a mosaic file."""

import errno
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hirez_mosaic.engine.graph import StageRun
from hirez_mosaic.engine.store import Workspace, discard, open_workspace
from hirez_mosaic.engine.threads import shared_cores
from hirez_mosaic.errors import DiskSpaceError, HirezMosaicError, SourceError, WorkspaceError
from hirez_mosaic.files.cache import cache_folder
from hirez_mosaic.files.fresh import fresh
from hirez_mosaic.jobs.clock import Clock
from hirez_mosaic.jobs.job import Job, Tools, hidden_workspace
from hirez_mosaic.jobs.listener import Listener, Logged
from hirez_mosaic.jobs.notebook import MosaicView, ShownPage, page_of
from hirez_mosaic.jobs.plan import candidates_kept, rules_of
from hirez_mosaic.jobs.prepare import prepare
from hirez_mosaic.nets.decoders import FEATURES, Decoder, LearnedDecoder, load_decoder
from hirez_mosaic.nets.device import device_name
from hirez_mosaic.nets.objective import Picture
from hirez_mosaic.nets.scoring import Keys, box_queries, keys_of
from hirez_mosaic.outputs.appearing import Appearing
from hirez_mosaic.outputs.mosaic_file import write_mosaic, write_preview
from hirez_mosaic.outputs.pages import Contents, write_page
from hirez_mosaic.outputs.tile_map import cells_of, write_tile_map
from hirez_mosaic.pixels.colour import to_lab
from hirez_mosaic.pixels.far_view import OPPONENT, REACH, FarView
from hirez_mosaic.pixels.geometry import CELL, Box
from hirez_mosaic.settings.record import record_of
from hirez_mosaic.settings.spec import FAR_WEIGHT, MAX_SOURCE_PX, RenderSpec
from hirez_mosaic.sources import Source, unpack, unpacked
from hirez_mosaic.stages.assemble import Mosaic
from hirez_mosaic.stages.encode import stored_type
from hirez_mosaic.stages.fit import fitted_decoder
from hirez_mosaic.stages.refine import WINDOW
from hirez_mosaic.stages.ruled_search import PASSES, Terms, improve_ruled
from hirez_mosaic.stages.rules import Queries, RuledMap
from hirez_mosaic.stages.select import source_values
from hirez_mosaic.stages.start import (
    POOR,
    RICH,
    Looks,
    Together,
    is_rich,
    preferred_bonus,
    together_of,
    unfitted_decoder,
)
from hirez_mosaic.stages.tasks import choosing_together, decoding, encoding, ingesting, refining, selecting
from hirez_mosaic.stages.tint import Tint
from hirez_mosaic.stages.together import BLOCK, colour_of

_REFINED = (WINDOW, WINDOW)  # of what is refined, (rows, columns) of cells in a chunk
_BLOCK = (BLOCK, BLOCK)  # of the index map, where cells are chosen together


@dataclass(frozen=True)
class RenderResult:
    """What came out.

    output: the mosaic. size, source_size: its (width, height), and the source's, px. cells: (columns, rows).
    chunk: (columns, rows) of cells.
    distinct_templates: how many were used. projected_bytes: of memory, before the work.
    rules_cost: (without, under) the rules for repeating templates, how far the templates' mean colours are from their
        cells', Delta E in CIELAB, a mean over all cells.
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
    page_folder: Path | None
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

    @property
    def _view(self) -> MosaicView:
        (width, height), (columns, rows) = self.size, self.cells
        figures = {
            "mosaic": str(self.output),
            "size": f"{width:,} x {height:,} px, {width * height / 1e6:,.1f} Mpx",
            "cells": f"{columns:,} x {rows:,}",
            "templates": f"{self.distinct_templates:,} of {self.templates:,} used",
            "time": f"{self.total_seconds:,.1f} s, {self.mpx_per_second:,.1f} Mpx/s",
        }
        return MosaicView(self.output, self.size, self.preview, figures)

    def _repr_png_(self) -> bytes | None:
        return self._view.png()

    def _repr_html_(self) -> str:
        return self._view.html()

    def page(
        self,
        folder: str | Path | None = None,
        *,
        templates: str | Path | None = None,
        height: int = 600,
        overwrite: bool = False,
    ) -> ShownPage:
        """The page of this mosaic, which a notebook shows in a frame of so many px.

        The page that the render wrote where it did; else one is written.
        folder: where to; NAME.page beside the mosaic where None. templates: their folder, with which the page knows
            every cell, where the render wrote a tile map. overwrite: replace a page that is there.

        Raises a subclass of HirezMosaicError where no page can be made.
        """
        if self.page_folder is not None and folder is None:
            return ShownPage(self.page_folder, height)
        tile = self.size[0] // self.cells[0], self.size[1] // self.cells[1]
        return ShownPage(page_of(self.output, self.tile_map, tile, folder, templates, overwrite), height)


def render(
    source: str | Path,
    templates: str | Path,
    tile: int | str | tuple[int, int] = 32,
    output: str | Path | None = None,
    *,
    scale: float | str | Fraction | None = None,
    columns: int | None = None,
    decoder: str | Path = "auto",
    choose: str = "auto",
    effort: str = "quick",
    fit: int | None = None,
    refine: int | None = None,
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
    crop: str = "centre",
    compression: str | None = None,
    quality: int | None = None,
    dpi: float | None = None,
    cog: bool = False,
    iiif: str | None = None,
    preview: str | Path | None = None,
    no_preview: bool = False,
    max_uses: int | None = None,
    min_distance: int = 0,
    unique: bool = False,
    min_uses: int = 0,
    use_all: bool = False,
    prefer: str | Path | None = None,
    no_repeat_neighbours: bool = False,
    tint: float = 0.0,
    mirror: bool = False,
    rotate: bool = False,
    tile_map: str | Path | None = None,
    ban: str | Path | None = None,
    dedupe: float | None = None,
    jobs: int | None = None,
    max_source_px: int = MAX_SOURCE_PX,
    source_page: int = 1,
    plane: int = 1,
    channel: int | None = None,
    stretch: bool = False,
    exclude: Sequence[str] = (),
    strict: bool = False,
    weights: str | Path | None = None,
    page: str | Path | None = None,
    anonymous: bool = False,
    thumbnails: int | None = None,
    listener: Listener | None = None,
) -> RenderResult:
    """Make a photomosaic of `source` from the pictures in the folder `templates`.

    source: a picture: TIFF of any kind, Zarr array or group, or anything libvips reads.
    tile: template size, px: 32, "32" or "48x32", or (width, height).
    output: its suffix chooses the format (.tif .dzi .png .jpg .webp .zarr .iiif); SOURCE-stem.mosaic.tif here where None.
    scale: mosaic px per source px, 1 where None; cells = ceil(source px x scale / tile). columns: cells across,
        instead.
    decoder: "auto" (a trained one of these templates from the cache, else "residual"), "residual" (nearest template as
        the eye sees it, which a fit adapts to the source), "l2" or "ssim" (nearest neighbours), "paper" (untrained:
        Xavier weights) or a decoder file.
    choose: "together" (each cell with its neighbours, see `together`), "alone" (each cell's best score), or "auto":
        together, but for the decoders "l2" and "ssim".
    effort: "quick", "better" (refine=15) or "best" (fit=100, refine=15), for those of the next two that are None.
    fit: steps of fitting the residual decoder to the source.
    refine: steps of optimising the scores of each cell's 64 best templates.
    far_weight: of the far view in fitting; 0 is the paper's loss.
    device: "auto", "cpu", "cuda" or "cuda:N". precision: of the encoder: "auto", "float32" or "bfloat16".
    chunk: cells a side of a chunk; as large as the memory budget allows where None.
    memory: bytes, or "2GiB"; a quarter of what is free where None.
    workspace: folder, or URL that fsspec knows, to keep what every stage left; where None a hidden folder beside the
        output, removed when the mosaic is made. A render that finds what an earlier start of the same job left there
        goes on with its last finished chunk.
    restart: discard what an earlier start left.
    scheduler: address of a Dask cluster whose workers run the chunks, such as "tcp://host:8786"; threads of this
        process where None.
    overwrite: replace an output that is there.
    background: under transparent px of source and templates: a name, "#rrggbb" or (r, g, b).
    crop: what stays of templates that are not of the tile's shape: "centre"; "attention", as libvips sees it; or
        "faces", their eyes in the upper third.
    compression: of a TIFF: "jpeg" (the default), "deflate", "lzw", "webp" or "none". quality: of JPEG and WebP, 90
        where None.
    dpi: dots an inch that the file tells, 300 where None.
    cog: lay a TIFF out as a Cloud Optimized GeoTIFF, whose levels are pages of their own.
    iiif: address of the folder in which a .iiif will be served; "http://localhost:8000" where None.
    preview: also write the mosaic at 1,600 px on its longer side. Of more than 50 Mpx it is written in any case, to
        NAME.preview.jpg beside the output, where no such file is. no_preview: not even then.
    max_uses: of one template. min_distance: cells that lie between two uses of it in every direction.
    unique: the same as max_uses=1. no_repeat_neighbours: as min_distance=1. See `rules` for how these are kept.
    min_uses: of every template. use_all: the same as min_uses=1.
    prefer: text file of templates that are wanted most, one path below the template folder a line; they are taken where
        they are nearly as good as others.
    tint: how far each placed template's mean colour moves towards the source's, in CIELAB, 0 to 1.
    mirror, rotate: use templates mirrored left to right, and turned by quarters, too.
    tile_map: .csv, .json or .parquet file to write the tile map to, see `tilemap`.
    ban: text file of templates to leave out, one path below the template folder a line.
    dedupe: leave out templates that are at most so many levels of 255 (RMS at 8 x 8 px) from an earlier one.
    jobs: threads that decode templates; all cores where None.
    max_source_px: that a source's header may claim.
    source_page: of a source that holds several pictures: page of a document, frame of an animation, image of a
        microscope's file; from 1.
    plane: of a source that is a stack in depth or time; from 1, in the file's order.
    channel: of a source, from 1, to be shown as grey. Where it is None, 1 or 3 channels are grey or RGB; of others that
        are no opacity the first is shown, and noted.
    stretch: make nearly the darkest samples of a source black and nearly the lightest white; for data of science.
    exclude: patterns of template files to leave out, by name, or with a slash by path below the folder.
    strict: raise TemplateError for a template file that cannot be read, instead of a note.
    weights: file with VGG-16's weights; cache, package index and model hub where None.
    page: folder to write a page to, in which a browser shows the mosaic and knows every template in it.
    anonymous: leave the names of templates out of it. thumbnails: px at which it shows a template, at most, on the
        longer side; where None 160, or as large as in the mosaic.
    listener: hears plan and progress.

    Raises a subclass of HirezMosaicError for whatever is wrong with the input; then no output is touched.
    """
    settings = dict(locals())  # the parameters and nothing else, for nothing else has a name yet
    heard = settings.pop("listener") or Listener()
    return run_render(RenderSpec.parse(**settings), heard)


def run_render(
    spec: RenderSpec,
    listener: Listener,
    tools: Tools | None = None,
    finished: Callable[[RenderResult], None] = lambda result: None,
) -> RenderResult:
    """Prepare, plan and run one render, or go on with one that was broken off.

    tools: that it shares with others; its own where None. finished: called when the mosaic is there, before the
        workspace is removed.
    """
    listener = Logged(listener, spec.source)
    with ExitStack() as cleanup:
        job = prepare(spec, listener, cleanup, tools)
        listener.planned(job)
        workspace = open_workspace(job.place, job.identity, job.plan.grid, job.plan.chunk)
        try:
            result = _run_stages(job, workspace, listener)
        except SourceError:
            _forget(job, listener)
            raise
        except (Exception, KeyboardInterrupt) as error:
            listener.note(
                f"What is finished is kept in {job.place}: the same command goes on from there, --restart begins anew."
            )
            if isinstance(error, DiskSpaceError) or (
                isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            ):
                job.disk_needed().check(())  # tells how many bytes are missing
                place = getattr(error, "filename", None) or job.place
                raise DiskSpaceError(
                    f"The disk of {place} is full; free some space, and the same command goes on."
                ) from error
            raise
        try:
            finished(result)
        except OSError:  # a disk that is full may not be so without the workspace
            _forget(job, listener)
            finished(result)
        _forget(job, listener)
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
            job.disk_needed().check((beside.disk_needed(),))
            workspace, clock = (
                open_workspace(job.place, job.identity, job.plan.grid, job.plan.chunk),
                Clock(job, listener),
            )
            clock.run(_ingest(job, workspace, clock), workers=1)


def _forget(job: Job, listener: Listener) -> None:
    """Remove a workspace that nobody asked for."""
    if job.spec.workspace is None:
        try:
            discard(job.place)
        except WorkspaceError as error:
            listener.note(str(error))


def forget_killed(spec: RenderSpec, tools: Tools) -> None:
    """Remove the workspace of a render whose mosaic is there, which was killed before it could do so."""
    if spec.workspace is None and hidden_workspace(spec.output).exists():
        with (
            suppress(HirezMosaicError),
            ExitStack() as cleanup,
        ):  # such as that it is another job's, which may want to go on
            discard(prepare(replace(spec, overwrite=True), Listener(), cleanup, tools).place)


@dataclass(frozen=True)
class _Chosen:
    """What is in the workspace when every cell has its template; see `store`.

    left: the stages that have yet to run until the index map is there, `workers` chunks at a time, where it is
        assembled meanwhile.
    """

    index_map: Any
    candidates: Any
    scores: Any
    colours: Any
    rules_cost: tuple[float, float] | None
    left: tuple[StageRun, ...]
    workers: int


def _run_stages(job: Job, workspace: Workspace, listener: Logged) -> RenderResult:
    """Choose and assemble."""
    spec, clock, templates = job.spec, Clock(job, listener), job.tools.templates
    encoding = replace(spec.encoding, record=record_of(spec))
    chosen = _choose(job, workspace, clock, listener)
    tint = Tint.of(templates, chosen.colours, spec.tint) if spec.tint else None
    with ExitStack() as appearing:  # all at the end, so that a start that was broken off finds none of them there
        tile_map, preview = (path and appearing.enter_context(fresh(path)) for path in (spec.tile_map, spec.preview))
        page = None if spec.page is None else appearing.enter_context(Appearing(spec.page))
        made = appearing.enter_context(Appearing(spec.output))  # the last in is the first to appear

        def write(index_map: Any, progress: Callable[[int], None]) -> None:
            growing = Mosaic(index_map, templates, tint)
            write_mosaic(growing, made, progress, encoding)

        if chosen.left:
            clock.run_beside(*chosen.left, workers=chosen.workers, index_map=chosen.index_map, write=write)
        else:
            with clock.timed("assemble") as progress:
                write(chosen.index_map, progress)
        if tile_map is not None:
            with clock.timed("tile map") as progress:
                cells = cells_of(
                    chosen.index_map, chosen.candidates, chosen.scores, chosen.colours, templates, spec.tint
                )
                write_tile_map(_heard(cells, progress), tile_map)
        mosaic = Mosaic(chosen.index_map, templates, tint)
        if preview is not None:
            with clock.timed("preview"):
                write_preview(mosaic, preview)
        if page is not None:
            with clock.timed("page") as progress:
                seen = _looked(workspace)[0]
                contents = Contents(
                    mosaic, spec.source.stem, seen, spec.background, spec.crop, spec.anonymous, spec.thumbnails
                )
                write_page(contents, page, progress, job.plan.workers)
    return _result(job, chosen, clock)


def _choose(job: Job, workspace: Workspace, clock: Clock, listener: Listener) -> _Chosen:
    """Everything up to the index map, but for what runs while it is assembled."""
    spec, plan, grid, tools = job.spec, job.plan, job.plan.grid, job.tools
    analysis, colours = _looked(workspace)
    picture = _encode(job, workspace, clock, analysis)
    decoder, looks = _learn(job, workspace, clock, picture, listener)
    features, norm = None, None
    if picture is not None and isinstance(decoder, LearnedDecoder):
        features = picture.features
        with torch.no_grad():
            norm = decoder.trunk_norm(picture.moments)
    together = None
    if spec.together or spec.prefer or spec.refine_steps:
        with shared_cores(1, tools.engine.cores):
            together = together_of(decoder, norm, features, analysis, tools.templates, grid, looks)
    bonus = preferred_bonus(spec, tools.templates, together) if together and spec.prefer else None
    k = candidates_kept(spec, tools.templates)
    candidates, scores = workspace.add("candidates", "u4", channels=k), workspace.add("scores", "f4", channels=k)
    best = workspace.add("best", "u4") if spec.together and not spec.refine_steps else None
    decode = partial(decoding, decoder, norm, bonus, grid, analysis, features, candidates, scores, best)
    last: tuple[StageRun, ...] = (
        StageRun("decode", decode, grid, workspace.marks("decode"), cell_bytes=8 * k + (0 if best is None else 4)),
    )
    optimised = scores
    if together and spec.refine_steps:
        clock.run(*last, workers=plan.workers)
        optimised, best = _refine(job, workspace, clock, together, analysis, candidates, scores)
        together, last = together.refined(optimised, grid), ()
    together = together if spec.together else None
    if together:
        index_map = workspace.add("index_map", "u4", chunk=_BLOCK)
        select = partial(choosing_together, together, grid, analysis, candidates, optimised, best, index_map)
        last += (StageRun("select", select, grid, workspace.marks("select", _BLOCK), REACH, 4, colour_of),)
    else:
        index_map = workspace.add("index_map", "u4")
        last += (
            StageRun(
                "select",
                partial(selecting, candidates if best is None else best, index_map),
                grid,
                workspace.marks("select"),
                cell_bytes=4,
            ),
        )
    chosen = _Chosen(index_map, candidates, scores, colours, None, last, plan.workers)
    if plan.overlaps:
        return chosen
    clock.run(*last, workers=plan.workers)
    chosen = replace(chosen, left=())
    if rules_of(spec):
        queries = partial(box_queries, decoder, norm, grid.box, analysis, features)
        return _ruled(job, workspace, clock, chosen, queries, decoder, together, keys_of(decoder, bonus), optimised)
    return chosen


def _refine(
    job: Job, workspace: Workspace, clock: Clock, together: Together, analysis: Any, candidates: Any, scores: Any
) -> tuple[Any, Any]:
    """(scores of the candidates when they are refined, the best of each cell)."""
    grid, steps = job.plan.grid, job.spec.refine_steps
    refined = workspace.add("refined", "f4", channels=candidates.shape[-1], chunk=_REFINED)
    best = workspace.add("best", "u4", chunk=_REFINED)
    refine = partial(refining, job.tools.objective, grid, analysis, candidates, scores, refined, best, together, steps)
    clock.run(
        StageRun("refine", refine, grid, workspace.marks("refine", _REFINED), cell_bytes=4 * candidates.shape[-1] + 4),
        workers=1,
    )
    return refined, best


def _encode(job: Job, workspace: Workspace, clock: Clock, analysis: Any) -> Picture | None:
    """Ingest and, for a decoder that looks at features, encode: what such a decoder sees."""
    grid, tools = job.plan.grid, job.tools
    ingest = _ingest(job, workspace, clock)
    if not tools.choice.decoder.reads_features:
        clock.run(ingest, workers=job.plan.workers)
        return None
    features = workspace.add("features", np.dtype(stored_type(tools.precision)).str, channels=FEATURES)
    moments = workspace.add_per_chunk("moments", "f8", (FEATURES + 1, FEATURES + 1))
    encode = partial(encoding, tools.encoder, grid, analysis, features, moments, job.plan.chunk)
    halo, written = -(-tools.encoder.halo // CELL), FEATURES * features.dtype.itemsize
    clock.run(
        ingest, StageRun("encode", encode, grid, workspace.marks("encode"), halo, written), workers=job.plan.workers
    )
    with clock.timed("moments", "chunks", job.plan.chunk_count) as progress:
        return Picture(analysis, features, gather_moments(moments, progress))


def _learn(
    job: Job, workspace: Workspace, clock: Clock, picture: Picture | None, listener: Listener
) -> tuple[Decoder, Looks]:
    """The decoder of this picture: fitted to it, started for it, or as it was chosen; and how this set is looked at."""
    tools, grid, analysis = job.tools, job.plan.grid, _looked(workspace)[0]
    choice, decoder = tools.choice, tools.choice.decoder
    alone = partial(shared_cores, 1, tools.engine.cores)
    if choice.fit_steps and picture is not None:
        objective = tools.objective
        with (
            clock.timed("fit", "steps", choice.fit_steps) as progress,
            alone(),
            workspace.file("decoder.safetensors") as kept,
        ):
            if kept.exists():  # of a start that was broken off: the chunks decoded since are its
                decoder = load_decoder(kept, len(tools.templates), tools.templates.fingerprint).to(tools.device)
            else:
                fitted = fitted_decoder(
                    choice, picture, grid, objective, cache_folder("decoders"), progress, listener.note
                )
                fitted.save(kept)
                decoder = fitted
    if not (job.spec.together or choice.started_for_picture):
        return decoder, POOR
    with clock.timed("start", "templates", len(tools.templates)), alone():
        looks = RICH if is_rich(tools.templates, grid, analysis) else POOR
        if choice.started_for_picture and looks is not POOR:
            decoder = unfitted_decoder(tools.templates, looks).to(tools.device)
    return decoder, looks


def _ruled(
    job: Job,
    workspace: Workspace,
    clock: Clock,
    chosen: _Chosen,
    queries: Queries,
    decoder: Decoder,
    together: Together | None,
    keys: Keys | None,
    optimised: Any,
) -> _Chosen:
    """The same under the rules for repeating templates.

    queries: of a box, see `decode.box_queries`. keys: see `decode.keys_of`. optimised: the candidates' scores, refined
        where they were.
    """
    spec, plan, grid, tools = job.spec, job.plan, job.plan.grid, job.tools
    analysis, rules, templates = _looked(workspace)[0], rules_of(spec), tools.templates
    index_map, boxes = workspace.add("ruled_map", "u4"), list(grid.chunks(plan.chunk))
    total = grid.cells * (1 + (PASSES if together else 0))
    with (
        clock.timed("rules", total=total) as progress,
        shared_cores(plan.workers, tools.engine.cores),
        workspace.scratch() as scratch,
        torch.inference_mode(),
    ):
        ruled = RuledMap(rules, grid, len(templates), len(templates.poses), decoder.query_length)
        candidates, scores = chosen.candidates, chosen.scores
        if rules.min_uses:
            step = range(0, grid.rows, plan.chunk[0])
            seen = np.concatenate(
                [np.asarray(chosen.colours[top : top + plan.chunk[0]]).reshape(-1, 3) for top in step]
            )
            own = templates.mean_colours()[:: len(templates.poses)]
            for done in ruled.place_required(chosen.index_map, _in_channels(seen), _in_channels(own)):
                progress(done)
        refined = spec.together or spec.refine_steps > 0
        for done in ruled.fill(
            chosen.index_map, candidates, scores, boxes, queries, decoder.score(), scratch, refined=refined
        ):
            progress(done)
        if together:
            terms = Terms(
                together.values,
                FarView.of_weight(together.far),
                together.unit,
                together.gap,
                together.repeats,
                together.poses,
                keys,
            )
            counts, source = ruled.counts, partial(source_values, analysis)
            for done in improve_ruled(
                ruled.index_map,
                counts,
                terms,
                grid,
                candidates,
                optimised,
                source,
                lambda box: queries(box).cpu().numpy(),
            ):
                progress(done)
        for box in boxes:
            index_map[box.slices] = ruled.index_map[box.slices]
        own = to_lab(templates.mean_colours()[None])[0]
        cost = (_mean_delta_e(of, chosen.colours, own, boxes) for of in (chosen.index_map, ruled.index_map))
    return replace(chosen, index_map=index_map, rules_cost=(next(cost), next(cost)))


def _mean_delta_e(index_map: Any, colours: Any, own: NDArray[np.float32], boxes: Sequence[Box]) -> float:
    """How far the mean colours of the choices are from their cells', a mean over all cells. own: (choices, 3) CIELAB."""
    total = 0.0
    for box in boxes:
        wanted = to_lab(np.asarray(colours[box.slices]))
        total += float(np.linalg.norm(own[np.asarray(index_map[box.slices])] - wanted, axis=2).sum(dtype=np.float64))
    return total / sum(box.area for box in boxes)


def _in_channels(colours: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n, 3) sRGB as luma and two chroma channels, see `together.OPPONENT`."""
    return (colours / np.float32(255) @ OPPONENT.T).astype(np.float32)


def _ingest(job: Job, workspace: Workspace, clock: Clock) -> StageRun:
    """The stage that ingests the source, which is unpacked first where it must be."""
    source = job.source if job.source.bands is None else _unpacked(job.source, workspace, clock)
    make = partial(ingesting, source, job.plan.grid, *_looked(workspace))
    return StageRun("ingest", make, job.plan.grid, workspace.marks("ingest"), cell_bytes=3 * (CELL * CELL + 1))


def _looked(workspace: Workspace) -> tuple[Any, Any]:
    """(analysis image, mean colours of the cells), which ingest fills."""
    return workspace.add("analysis", "u1", channels=3, px=CELL), workspace.add("colours", "u1", channels=3)


def _unpacked(source: Source, workspace: Workspace, clock: Clock) -> Source:
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


def _result(job: Job, chosen: _Chosen, clock: Clock) -> RenderResult:
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
        page_folder=job.spec.page,
        rules_cost=chosen.rules_cost,
        chunk=(job.plan.chunk[1], job.plan.chunk[0]),
        projected_bytes=job.plan.projected,
        seconds=clock.seconds,
        peak_bytes=clock.peaks,
    )
