"""A mosaic made again from its tile map, without choosing: with another template, tile size, tint or format."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from hirez_mosaic.engine.machine import cores, settled
from hirez_mosaic.errors import TileMapError
from hirez_mosaic.files.fresh import fresh
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.jobs.preview import preview_of
from hirez_mosaic.jobs.template_sets import cached_templates
from hirez_mosaic.outputs.appearing import Appearing, check_output
from hirez_mosaic.outputs.mosaic_file import write_mosaic, write_preview
from hirez_mosaic.outputs.pages import Contents, write_page
from hirez_mosaic.outputs.tile_map import TileMap, check_tile_map, read_tile_map
from hirez_mosaic.settings.formats import Encoding
from hirez_mosaic.settings.parsing import check_crop
from hirez_mosaic.settings.places import Place, check_places
from hirez_mosaic.settings.record import record
from hirez_mosaic.settings.spec import parse_settings
from hirez_mosaic.settings.writing import Writing
from hirez_mosaic.stages.assemble import Mosaic
from hirez_mosaic.stages.tint import Tint
from hirez_mosaic.templates.names import read_ban


@dataclass(frozen=True)
class AssembleResult:
    """The result.

    size: (width, height), px.
    cells: (columns, rows).
    seconds: of reading the map and writing the mosaic.
    """

    output: Path
    preview: Path | None
    size: tuple[int, int]
    cells: tuple[int, int]
    distinct_templates: int
    seconds: float
    page_folder: Path | None = None


@settled
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

    Holds 12 bytes a cell, and what assembling takes.

    tile_map: .csv, .json or .parquet, as `render` writes it and people edit it.
    tint: for all cells, instead of the map's.
    ban: file of templates that are replaced by their runner-up.
    page: folder to write a page to, which fades to the cells' mean colours.
    The rest is as in `render`.

    Raises TileMapError for a map that cannot be used, and another subclass of HirezMosaicError for other wrong input.
    """
    listener, start = listener or Listener(), time.perf_counter()
    paths = {"output": output, "preview": preview, "page": page, "ban": ban, "templates": templates}
    parsed = parse_settings({"source": tile_map, "tile": tile, "background": background, **paths})
    shape, under = parsed["tile"], parsed["background"]
    check_crop(crop)
    writing = Writing(
        output=parsed["output"],
        overwrite=overwrite,
        compression=compression,
        quality=quality,
        dpi=dpi,
        cog=cog,
        iiif=iiif,
        tint=tint or 0.0,
        preview=parsed.get("preview"),
        no_preview=no_preview,
        page=parsed.get("page"),
        anonymous=anonymous,
        thumbnails=thumbnails,
    )
    read_from = [Place("tile map", parsed["source"]), Place("ban file", parsed.get("ban"))]
    _check(writing, read_from, parsed["templates"])
    if not parsed["source"].is_file():
        raise TileMapError(f"There is no tile map {parsed['source']}.")
    check_tile_map(parsed["source"])
    banned = read_ban(parsed["ban"]) if ban is not None else frozenset()
    found = cached_templates(parsed["templates"], shape, under, crop, listener, jobs, exclude, strict)
    read = read_tile_map(parsed["source"], found, banned, tint)
    mosaic = mosaic_of(read)
    writing.check_mosaic_size(mosaic.size)
    check = partial(_check_preview, writing, read_from, parsed["templates"])
    writing = replace(writing, preview=preview_of(writing, mosaic.size, check, listener))
    values = {"tile_map": parsed["source"], "templates": parsed["templates"], "tile": shape, "tint": tint}
    encoding = replace(writing.encoding, record=record(values, writing))
    contents = Contents(mosaic, parsed["source"].stem, read.source, under, crop, anonymous, thumbnails)
    _write(writing, contents, encoding, listener)
    rows, columns = read.index_map.shape
    distinct, seconds = len(np.unique(read.index_map // len(read.templates.poses))), time.perf_counter() - start
    return AssembleResult(
        writing.output, writing.preview, mosaic.size, (columns, rows), distinct, seconds, writing.page
    )


def _check(writing: Writing, read: list[Place], templates: Path) -> None:
    """Raise an error for what is wrong with the places, before any work. read: what is read besides the templates."""
    writing.check_page_is_written()
    check_places([*read, *writing.places], templates)
    for path in filter(None, (writing.output, writing.preview, writing.page)):
        check_output(path, writing.overwrite)


def _check_preview(writing: Writing, read: list[Place], templates: Path, preview: Path) -> None:
    """Raise SettingError where the preview would be in the way of something else."""
    check_places([*read, *replace(writing, preview=preview).places], templates)


def mosaic_of(read: TileMap) -> Mosaic:
    """The mosaic that a tile map describes."""
    tint = Tint.of(read.templates, read.colours, read.tint) if read.tint.any() else None
    return Mosaic(read.index_map, read.templates, tint)


def _write(writing: Writing, contents: Contents, encoding: Encoding, listener: Listener) -> None:
    """Write all that was asked for; it appears together."""
    mosaic, cells = contents.mosaic, contents.mosaic.index_map.size
    with ExitStack() as appearing:
        made = appearing.enter_context(Appearing(writing.output))
        page = None if writing.page is None else appearing.enter_context(Appearing(writing.page))
        with listener.stage("assemble", cells, "cells") as progress:
            if writing.preview is not None:
                write_preview(mosaic, appearing.enter_context(fresh(writing.preview)))
            write_mosaic(mosaic, made, progress, encoding)
        if page is not None:
            with listener.stage("page", cells, "cells") as progress:
                write_page(contents, page, progress, cores())
