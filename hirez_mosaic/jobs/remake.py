"""A mosaic made again from its tile map, without matching: swap a picture, ban one, change tile size, tint or format in
seconds.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hirez_mosaic.engine.machine import cores
from hirez_mosaic.errors import TileMapError
from hirez_mosaic.files.fresh import fresh
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.jobs.preview import with_preview
from hirez_mosaic.jobs.template_sets import cached_templates
from hirez_mosaic.outputs.appearing import Appearing, check_output
from hirez_mosaic.outputs.mosaic_file import write_mosaic, write_preview
from hirez_mosaic.outputs.pages import Contents, write_page
from hirez_mosaic.outputs.tile_map import TileMap, check_tile_map, read_tile_map
from hirez_mosaic.settings.record import record_of
from hirez_mosaic.settings.spec import RenderSpec
from hirez_mosaic.stages.assemble import Mosaic
from hirez_mosaic.stages.tint import Tint
from hirez_mosaic.templates.names import read_ban


@dataclass(frozen=True)
class AssembleResult:
    """What came out. size: (width, height), px. cells: (columns, rows). seconds: of reading the map and writing the
    mosaic.
    """

    output: Path
    preview: Path | None
    size: tuple[int, int]
    cells: tuple[int, int]
    distinct_templates: int
    seconds: float
    page_folder: Path | None = None


def assemble_tile_map(
    tile_map: str | Path,
    templates: str | Path,
    output: str | Path,
    tile: int | str | tuple[int, int] = 32,
    *,
    tint: float | None = None,
    ban: str | Path | None = None,
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
    jobs: int | None = None,
    exclude: Sequence[str] = (),
    strict: bool = False,
    page: str | Path | None = None,
    anonymous: bool = False,
    thumbnails: int | None = None,
    listener: Listener | None = None,
) -> AssembleResult:
    """Make the mosaic that a tile map describes.

    tile_map: .csv, .json or .parquet, as `render` writes it and people edit it.
    tint: for all cells, instead of the map's. ban: file of templates in whose place their runner-up is taken.
    page: folder to write a page to, which fades to the cells' mean colours. The rest is as in `render`. Holds 12 bytes
    a cell, and what assembly takes.

    Raises TileMapError for a map that cannot be used, another subclass of HirezMosaicError for other wrong input.
    """
    settings = dict(locals())  # the parameters and nothing else, for nothing else has a name yet
    listener = settings.pop("listener") or Listener()
    spec = RenderSpec.parse(source=settings.pop("tile_map"), **settings)
    source = spec.source
    spec.check_places("tile map")
    for path in filter(None, (spec.output, spec.preview, spec.page)):
        check_output(path, overwrite)
    if not source.is_file():
        raise TileMapError(f"There is no tile map {source}.")
    check_tile_map(source)
    banned = frozenset() if spec.ban is None else read_ban(spec.ban)
    found = cached_templates(
        spec.templates, spec.tile, spec.background, spec.crop, listener, jobs, spec.exclude, spec.strict
    )
    start = time.perf_counter()
    read = read_tile_map(source, found, banned, tint)
    mosaic = mosaic_of(read)
    spec.check_mosaic_size(mosaic.size)
    spec = with_preview(spec, mosaic.size, "tile map", listener)
    _write(spec, mosaic, read, listener)
    rows, columns = read.index_map.shape
    distinct = len(np.unique(read.index_map // len(read.templates.poses)))
    return AssembleResult(
        spec.output, spec.preview, mosaic.size, (columns, rows), distinct, time.perf_counter() - start, spec.page
    )


def mosaic_of(read: TileMap) -> Mosaic:
    """What a tile map describes."""
    tint = Tint.of(read.templates, read.colours, read.tint) if read.tint.any() else None
    return Mosaic(read.index_map, read.templates, tint)


def _write(spec: RenderSpec, mosaic: Mosaic, read: TileMap, listener: Listener) -> None:
    """Write all that was asked for; it appears together."""
    with ExitStack() as appearing:
        made = appearing.enter_context(Appearing(spec.output))
        page = None if spec.page is None else appearing.enter_context(Appearing(spec.page))
        with listener.stage("assemble", read.index_map.size, "cells") as progress:
            if spec.preview is not None:
                write_preview(mosaic, appearing.enter_context(fresh(spec.preview)))
            write_mosaic(mosaic, made, progress, replace(spec.encoding, record=record_of(spec)))
        if page is not None:
            contents = Contents(
                mosaic, spec.source.stem, read.source, spec.background, spec.crop, spec.anonymous, spec.thumbnails
            )
            with listener.stage("page", read.index_map.size, "cells") as progress:
                write_page(contents, page, progress, cores())
