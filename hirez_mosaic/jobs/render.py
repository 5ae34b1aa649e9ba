"""A whole render: from a picture and a folder of templates to a mosaic file."""

import errno
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from hirez_mosaic.engine.machine import settled
from hirez_mosaic.engine.store import Workspace, discard, open_workspace
from hirez_mosaic.errors import DiskSpaceError, HirezMosaicError, SourceError, WorkspaceError, sentence
from hirez_mosaic.files.fresh import fresh
from hirez_mosaic.jobs.choose import Chosen, choose, ingest_stage
from hirez_mosaic.jobs.clock import Clock
from hirez_mosaic.jobs.job import Job, hidden_workspace
from hirez_mosaic.jobs.listener import Listener, Logged
from hirez_mosaic.jobs.notebook import MosaicView, ShownPage, page_of
from hirez_mosaic.jobs.pace import Pace
from hirez_mosaic.jobs.prepare import prepare
from hirez_mosaic.nets.device import device_name
from hirez_mosaic.outputs.appearing import Appearing
from hirez_mosaic.outputs.mosaic_file import write_mosaic, write_preview
from hirez_mosaic.outputs.pages import Contents, write_page
from hirez_mosaic.outputs.tile_map import cells_of, write_tile_map
from hirez_mosaic.settings.record import record_of
from hirez_mosaic.settings.spec import RenderSettings, RenderSpec, make_spec
from hirez_mosaic.stages.assemble import Mosaic
from hirez_mosaic.stages.ingest import INGEST
from hirez_mosaic.stages.stage import Tools
from hirez_mosaic.stages.tint import Tint


@dataclass(frozen=True)
class RenderResult:
    """The result.

    output: the mosaic.
    size, source_size: (width, height) of the mosaic and the source, px.
    cells: (columns, rows).
    skipped_templates: (name, reason) of each file that could not be read.
    distinct_templates: how many templates were used.
    rules_cost: how far the templates' mean colours are from those of their cells, Delta E in CIELAB, on average:
        (without, under) the rules for repeating templates; None where there are no rules.
    chunk: (columns, rows) of cells.
    projected_bytes: memory that was projected before the work.
    seconds: wall time by stage, in order.
    peak_bytes: the process's peak resident memory up to the end of each stage.
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
        """The page of this mosaic, which a notebook shows in a frame.

        It is the page that the render wrote; where it wrote none, one is written.

        folder: of the page; NAME.page beside the mosaic where None.
        templates: their folder. With it, and with a tile map of the render, the page shows every cell.
        height: of the frame, px.
        overwrite: replace a page that is there.

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
    listener: Listener | None = None,
    **settings: Unpack[RenderSettings],
) -> RenderResult:
    """Make a photomosaic of `source` from the pictures in the folder `templates`.

    source: a picture: TIFF of any kind, Zarr array or group, or anything that libvips reads.
    tile: template size, px: 32, "32" or "48x32", or (width, height).
    output: its suffix chooses the format (.tif .dzi .png .jpg .webp .zarr .iiif); SOURCE-stem.mosaic.tif in the current
        folder where None.
    scale: mosaic px per source px, 1 where None; there are ceil(source px x scale / tile) cells.
    columns: cells across, instead of `scale`.
    decoder: "auto" (a trained one of these templates from the cache, else "residual"), "residual" (nearest template as
        the eye sees it, which a fit adapts to the source), "l2" or "ssim" (nearest neighbours), "paper" (untrained:
        Xavier weights) or a decoder file.
    choose: "together" (each cell with its neighbours, see `together`), "alone" (each cell's best score), or "auto"
        (together, except for the decoders "l2" and "ssim").
    effort: "quick", "better" (refine=15) or "best" (fit=100, refine=15), for whichever of the next two is None.
    fit: steps of fitting the residual decoder to the source.
    refine: steps of optimising the scores of each cell's 64 best templates.
    far_weight: weight of the far view in a fit; 0 is the paper's loss.
    device: "auto", "cpu", "cuda" or "cuda:N".
    precision: number format of the encoder: "auto", "float32" or "bfloat16".
    chunk: side of a chunk, cells; as large as the memory budget allows where None.
    memory: memory budget: bytes, or text such as "2GiB"; a quarter of what is free where None.
    workspace: folder, or URL that fsspec knows, in which the results of all stages are kept. Where None, it is a hidden
        folder beside the output, which is removed when the mosaic is made. A render that finds results of an earlier
        start of the same job there goes on from the last finished chunk.
    restart: discard what an earlier start left.
    scheduler: address of a Dask cluster whose workers run the chunks, such as "tcp://host:8786"; threads of this
        process run them where None.
    overwrite: replace an output that is there.
    background: colour under transparent px of source and templates: a name, "#rrggbb" or (r, g, b).
    crop: which part is kept of templates that have another shape than the tile: "centre"; "attention", as libvips sees
        it; or "faces", with their eyes in the upper third.
    compression: of a TIFF: "jpeg" (the default), "deflate", "lzw", "webp" or "none".
    quality: of JPEG and WebP, 90 where None.
    dpi: dots an inch that the file names, 300 where None.
    cog: lay a TIFF out as a Cloud Optimized GeoTIFF, whose levels are pages of their own.
    iiif: address of the folder in which a .iiif will be served; "http://localhost:8000" where None.
    preview: also write the mosaic at 1,600 px on its longer side. A mosaic of more than 50 Mpx always has a preview,
        NAME.preview.jpg beside the output, unless such a file is there.
    no_preview: write no preview of a large mosaic.
    max_uses: largest number of uses of a template.
    min_distance: cells that lie between two uses of a template, in every direction. See `rules` for how rules are kept.
    unique: the same as max_uses=1.
    no_repeat_neighbours: the same as min_distance=1.
    min_uses: least number of uses of every template.
    use_all: the same as min_uses=1.
    prefer: text file of the templates to prefer, one path below the template folder a line; they are taken where they
        are nearly as good as others.
    tint: how far the mean colour of each placed template moves towards the source's, in CIELAB, 0 to 1.
    mirror, rotate: also use templates mirrored left to right, and turned by quarters.
    tile_map: .csv, .json or .parquet file to write the tile map to, see `outputs.tile_map`.
    ban: text file of templates to leave out, one path below the template folder a line.
    dedupe: leave out templates that differ from an earlier one by at most so many levels of 255 (RMS at 8 x 8 px).
    jobs: threads that decode templates; all cores where None.
    max_source_px: a source whose header says more px is refused.
    source_page: which picture of a source that holds several: page of a document, frame of an animation, image of a
        microscope's file; from 1.
    plane: which plane of a source that is a stack in depth or time; from 1, in the file's order.
    channel: which channel of a source to use, as grey, from 1. Where it is None, 1 or 3 channels are grey or RGB. Of
        other numbers of channels, opacity aside, the first is used, with a note.
    stretch: make nearly the darkest samples of a source black and nearly the lightest white; for scientific data.
    exclude: patterns of template files to leave out, by name, or with a slash by path below the folder.
    strict: raise TemplateError for a template file that cannot be read, instead of a note.
    weights: file with VGG-16's weights; cache, package index and model hub are tried where None.
    page: folder to write a page to, in which a browser shows the mosaic and every template in it.
    anonymous: leave the names of templates out of the page.
    thumbnails: px of the longer side at which the page shows a template alone, at most; where None 160, or its size in
        the mosaic where that is larger.
    listener: is told the plan and the progress.

    Raises a subclass of HirezMosaicError for whatever is wrong with the input; then no output is touched.
    """
    return run_render(make_spec(source, templates, tile, output, settings), listener or Listener())


@settled
def run_render(
    spec: RenderSpec,
    listener: Listener,
    tools: Tools | None = None,
    finished: Callable[[RenderResult], None] = lambda result: None,
) -> RenderResult:
    """Prepare, plan and run one render, or go on with one that was broken off.

    tools: those that it shares with other renders; its own where None.
    finished: called when the mosaic is there, before the workspace is removed.

    Raises a subclass of HirezMosaicError.
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
                f"What is finished is kept in {job.place}: the same command goes on from there, `restart` begins anew."
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
        if not (job.begun or spec.scheduler or job.plan.room.shares > 1):
            Pace(job.tools.device, job.tools.precision).learn(job, result.seconds)
        try:
            finished(result)
        except OSError:  # a full disk may have room without the workspace
            _forget(job, listener)
            finished(result)
        _forget(job, listener)
        return result


def look_ahead(spec: RenderSpec, listener: Listener, tools: Tools, beside: Job) -> None:
    """Unpack and ingest the source of a later render, while the render `beside` runs.

    Does nothing where there is not enough memory for both.

    Raises what `run_render` would, and DiskSpaceError where the disk has no room for both; the workspace then stays as
    it is.
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
            clock.run(ingest_stage(job, workspace, clock), workers=1)


def _forget(job: Job, listener: Listener) -> None:
    """Remove the workspace, unless one was named."""
    if job.spec.workspace is None:
        try:
            discard(job.place)
        except WorkspaceError as error:
            listener.note(str(error))


def forget_killed(spec: RenderSpec, tools: Tools) -> None:
    """Remove the workspace of a render that was killed after its mosaic was there."""
    place = hidden_workspace(spec.output)
    if spec.workspace is None and place.exists():
        named = replace(
            spec, overwrite=True, workspace=str(place)
        )  # named, so that the workspace of another job is refused and stays
        with suppress(HirezMosaicError), ExitStack() as cleanup:
            discard(prepare(named, Listener(), cleanup, tools).place)


def _run_stages(job: Job, workspace: Workspace, listener: Logged) -> RenderResult:
    """Choose and assemble. All outputs appear at the end, so a start that is broken off leaves none of them."""
    spec, clock, templates = job.spec, Clock(job, listener), job.tools.templates
    chosen = choose(job, workspace, clock, listener)
    tint = Tint.of(templates, chosen.colours, spec.tint) if spec.tint else None
    with ExitStack() as appearing:
        tile_map = spec.tile_map and appearing.enter_context(fresh(spec.tile_map))
        previewing = appearing.enter_context(ExitStack())
        preview = spec.preview and previewing.enter_context(fresh(spec.preview))
        page = None if spec.page is None else appearing.enter_context(Appearing(spec.page))
        made = appearing.enter_context(Appearing(spec.output))  # the last in is the first to appear
        _assemble(job, chosen, tint, made, clock)
        if tile_map is not None:
            with clock.timed("tile map") as progress:
                cells = cells_of(
                    templates,
                    spec.tint,
                    index_map=chosen.index_map,
                    candidates=chosen.candidates,
                    scores=chosen.scores,
                    colours=chosen.colours,
                )
                write_tile_map(_counted(cells, progress), tile_map)
        mosaic = Mosaic(chosen.index_map, templates, tint)
        if preview is not None:
            try:
                with clock.timed("preview"):
                    write_preview(mosaic, preview)
            except (HirezMosaicError, OSError) as error:  # the mosaic is whole without it
                listener.note(f"{spec.output} is whole and has no preview: {sentence(error)}")
                preview = None
                with suppress(type(error)), previewing.pop_all():  # removes what there is of it
                    raise
        if page is not None:
            with clock.timed("page") as progress:
                write_page(_contents(job, workspace, mosaic), page, progress, job.plan.workers)
    return _result(job, chosen, clock, spec.preview if preview else None)


def _assemble(job: Job, chosen: Chosen, tint: Tint | None, made: Path, clock: Clock) -> None:
    """Write the mosaic; stages that have yet to run do so meanwhile."""
    spec = job.spec

    def write(index_map: Any, progress: Callable[[int], None]) -> None:
        mosaic = Mosaic(index_map, job.tools.templates, tint)
        write_mosaic(mosaic, made, progress, replace(spec.encoding, record=record_of(spec)))

    if chosen.left:
        clock.run_beside(*chosen.left, workers=job.plan.workers, index_map=chosen.index_map, write=write)
    else:
        with clock.timed("assemble") as progress:
            write(chosen.index_map, progress)


def _contents(job: Job, workspace: Workspace, mosaic: Mosaic) -> Contents:
    """What a page shows."""
    spec = job.spec
    analysis, _ = INGEST.arrays(workspace, job)
    return Contents(mosaic, spec.source.stem, analysis, spec.background, spec.crop, spec.anonymous, spec.thumbnails)


def _counted(cells: Iterator[Any], progress: Callable[[int], None]) -> Iterator[Any]:
    """The cells; progress is called for each thousand."""
    for number, cell in enumerate(cells, 1):
        yield cell
        if number % 1024 == 0:
            progress(1024)


def _result(job: Job, chosen: Chosen, clock: Clock, preview: Path | None) -> RenderResult:
    used = np.zeros(len(job.tools.templates.names), np.bool_)
    for box in job.plan.grid.chunks(job.plan.chunk):
        used[np.asarray(chosen.index_map[box.slices]) // len(job.tools.templates.poses)] = True
    grid = job.plan.grid
    return RenderResult(
        output=job.spec.output,
        preview=preview,
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
