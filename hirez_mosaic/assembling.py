"""A mosaic made again from its tile map, without matching: swap a picture, ban one, change tile size, tint or format in seconds."""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hirez_mosaic.assemble import Mosaic, assemble, check_output, write_preview
from hirez_mosaic.errors import TileMapError
from hirez_mosaic.fresh import fresh
from hirez_mosaic.job import Listener, cached_templates
from hirez_mosaic.spec import RenderSpec
from hirez_mosaic.tilemap import check_tile_map, read_ban, read_tile_map
from hirez_mosaic.tint import Tint


@dataclass(frozen=True)
class AssembleResult:
    """What came out. size: (width, height), px. cells: (columns, rows). seconds: of reading the map and writing the mosaic."""

    output: Path
    preview: Path | None
    size: tuple[int, int]
    cells: tuple[int, int]
    distinct_templates: int
    seconds: float


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
    compression: str = "jpeg",
    quality: int = 90,
    preview: str | Path | None = None,
    jobs: int | None = None,
    listener: Listener | None = None,
) -> AssembleResult:
    """Make the mosaic that a tile map describes.

    tile_map: .csv, .json or .parquet, as `render` writes it and people edit it.
    tint: for all cells, instead of the map's. ban: file of templates in whose place their runner-up is taken.
    The rest is as in `render`. Holds 12 bytes a cell, and what assembly takes.

    Raises TileMapError for a map that cannot be used, another subclass of HirezMosaicError for other wrong input.
    """
    listener, source = listener or Listener(), Path(tile_map)
    spec = RenderSpec.parse(
        source=source,
        templates=templates,
        tile=tile,
        output=output,
        tint=tint,
        overwrite=overwrite,
        background=background,
        crop=crop,
        compression=compression,
        quality=quality,
        preview=preview,
        ban=ban,
        jobs=jobs,
    )
    spec.check_places("tile map")
    for path in filter(None, (spec.output, spec.preview)):
        check_output(path, overwrite)
    if not source.is_file():
        raise TileMapError(f"There is no tile map {source}.")
    check_tile_map(source)
    banned = frozenset() if spec.ban is None else read_ban(spec.ban)
    found = cached_templates(spec.templates, spec.tile, spec.background, spec.crop, listener, jobs)
    start = time.perf_counter()
    read = read_tile_map(source, found, banned, tint)
    tinting = Tint.of(read.templates, read.colours, read.tint) if read.tint.any() else None
    mosaic = Mosaic(read.index_map, read.templates, tinting)
    spec.check_mosaic_size(mosaic.size)
    with listener.stage("assemble", read.index_map.size, "cells") as progress, ExitStack() as appearing:
        if spec.preview is not None:
            write_preview(mosaic, appearing.enter_context(fresh(spec.preview)))
        assemble(mosaic, spec.output, progress, compression=compression, quality=quality)
    rows, columns = read.index_map.shape
    distinct = len(np.unique(read.index_map // len(read.templates.poses)))
    return AssembleResult(spec.output, spec.preview, mosaic.size, (columns, rows), distinct, time.perf_counter() - start)
