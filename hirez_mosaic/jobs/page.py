"""Pages of finished mosaics: the page of a tile map shows every cell, the page of any other picture its px."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hirez_mosaic.engine.machine import cores, settled
from hirez_mosaic.errors import SettingError, SourceError
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.jobs.remake import mosaic_of
from hirez_mosaic.jobs.template_sets import cached_templates
from hirez_mosaic.outputs.appearing import Appearing, check_output, check_space
from hirez_mosaic.outputs.pages import Contents, Shown, output_bytes, readable, write_gallery, write_page, write_picture
from hirez_mosaic.outputs.tile_map import check_tile_map, read_tile_map
from hirez_mosaic.pixels.geometry import CELL, CellGrid
from hirez_mosaic.settings.parsing import parse_colour, parse_tile
from hirez_mosaic.settings.places import check_there
from hirez_mosaic.settings.writing import TILE_MAPS, check_page
from hirez_mosaic.stages.assemble import Mosaic
from hirez_mosaic.stages.ingest import ingest_chunk
from hirez_mosaic.templates import TemplateSet

_CHUNK = (64, 64)  # (rows, columns) of cells of the source that are read at once


@dataclass(frozen=True)
class PagesResult:
    """The result.

    output: folder with index.html.
    mosaics: how many it shows.
    seconds: of reading and writing all.
    """

    output: Path
    mosaics: int
    seconds: float


@settled
def make_pages(
    mosaics: Sequence[str | Path],
    output: str | Path,
    templates: str | Path | None = None,
    tile: int | str | tuple[int, int] = 32,
    *,
    source: str | Path | None = None,
    tint: float | None = None,
    background: str | tuple[int, int, int] = "white",
    crop: str = "centre",
    anonymous: bool = False,
    thumbnails: int | None = None,
    overwrite: bool = False,
    jobs: int | None = None,
    listener: Listener | None = None,
) -> PagesResult:
    """Write a page to a folder, in which a browser shows a mosaic; for several mosaics, a gallery of pages.

    mosaics: tile maps, .csv, .json or .parquet, whose pages show every cell, or any pictures, whose pages show px.
    output: the folder.
    templates: folder of templates, which tile maps need.
    source: picture that the mosaic was made of, to which the page fades; the cells' mean colours where None.
    tint: for all cells, instead of the map's, 0 to 1.
    anonymous: leave the names of templates out.
    thumbnails: px at which templates are shown, at most, on the longer side; where None 160, or as large as in the
        mosaic.
    overwrite: replace a page that is there.
    jobs: threads; all cores where None.
    The rest is as in `render`.

    Holds 12 bytes a cell of a tile map, and `pages.projected_bytes`.

    Raises a subclass of HirezMosaicError for whatever is wrong with the input; then nothing is left half-written.
    """
    listener, start, page = listener or Listener(), time.perf_counter(), Path(output)
    paths = [Path(one) for one in mosaics]
    _check(page, paths, templates, source, thumbnails, jobs)
    check_output(page, overwrite)
    shape, under, found = parse_tile(tile), parse_colour(background), None
    if templates is not None and any(map(_is_tile_map, paths)):
        found = cached_templates(Path(templates), shape, under, crop, listener, jobs)
    original = None if source is None else Path(source)
    pages = _Pages(found, tint, original, under, crop, anonymous, thumbnails, jobs or cores(), listener)
    with Appearing(page) as made:
        if len(paths) == 1:
            pages.write(paths[0], made)
        else:
            (made / "pages").mkdir(parents=True)
            shown = [pages.write(path, made / "pages" / path.stem) for path in paths]
            write_gallery(made / "index.html", page.absolute().name, shown)
    return PagesResult(page, len(paths), time.perf_counter() - start)


def _is_tile_map(path: Path) -> bool:
    return path.suffix.lower().removeprefix(".") in TILE_MAPS


def _check(
    page: Path,
    mosaics: Sequence[Path],
    templates: str | Path | None,
    source: str | Path | None,
    thumbnails: int | None,
    jobs: int | None,
) -> None:
    """Raise an error for what is wrong with the settings, before any work."""
    check_page(page)
    _check_mosaics(mosaics, templates, source)
    if thumbnails is not None and thumbnails < 1:
        raise SettingError(f"Templates are shown at {thumbnails} px; use 1 or more.")
    if jobs is not None and jobs < 1:
        raise SettingError(f"The number of jobs is {jobs}; use 1 or more.")
    if templates is not None and Path(templates).resolve() in (page.resolve(), *page.resolve().parents):
        raise SettingError(
            f"The page {page} would lie among the templates in {templates}, and be some the next time; "
            "name another place."
        )


def _check_mosaics(mosaics: Sequence[Path], templates: str | Path | None, source: str | Path | None) -> None:
    """Raise an error for mosaics that are missing, share a name, or do not go with templates and source."""
    if not mosaics:
        raise SettingError("There is no mosaic to make a page of; name one, or its tile map.")
    for path in mosaics:
        check_there(path, "mosaic or tile map")
        if _is_tile_map(path):
            check_tile_map(path)
            if templates is None:
                raise SettingError(
                    f"The tile map {path} names templates; give the folder that they are in with `templates`."
                )
        elif templates is not None or source is not None:
            raise SettingError(
                f"{path} is no tile map ({', '.join(TILE_MAPS)}), of which alone a page knows templates and source; "
                "name that."
            )
    if source is not None and len(mosaics) > 1:
        raise SettingError(
            f"The source {source} is that of one mosaic and there are {len(mosaics)}; make their pages one by one."
        )
    if len({path.stem.casefold() for path in mosaics}) < len(mosaics):
        raise SettingError("Two mosaics have the same name, and so would their pages; rename one of them.")


@dataclass(frozen=True)
class _Pages:
    """What the pages of one call share; see `make_pages`."""

    templates: TemplateSet | None
    tint: float | None
    source: Path | None
    background: tuple[int, int, int]
    crop: str
    anonymous: bool
    thumbnails: int | None
    jobs: int
    listener: Listener

    def write(self, path: Path, made: Path) -> Shown:
        """Write the page of a tile map or a picture into the new folder `made`; returns its entry in a gallery."""
        folder = f"pages/{path.stem}"
        if self.templates is None or not _is_tile_map(path):
            with readable(path, made.with_name(f"{made.name}-source")) as picture:
                check_space(made.parent, 2 * picture.size[0] * picture.size[1], "page")
                write_picture(picture, path.stem, made, self.jobs)
            return Shown(path.stem, folder, f"{picture.size[0]:,} x {picture.size[1]:,} px")
        read = read_tile_map(path, self.templates, frozenset(), self.tint)
        mosaic, (rows, columns) = mosaic_of(read), read.index_map.shape
        check_space(made.parent, output_bytes(mosaic.size, self.templates.tile, len(self.templates.names)), "page")
        scratch = made.with_name(f"{made.name}-source")
        source = read.source if self.source is None else _ingested(self.source, mosaic, scratch)
        contents = Contents(
            mosaic,
            path.stem,
            source,
            background=self.background,
            crop=self.crop,
            anonymous=self.anonymous,
            thumbnails=self.thumbnails,
        )
        with self.listener.stage("page", read.index_map.size, "cells") as progress:
            write_page(contents, made, progress, self.jobs)
        return Shown(path.stem, folder, f"{columns:,} x {rows:,} pictures")


def _ingested(path: Path, mosaic: Mosaic, scratch: Path) -> NDArray[np.uint8]:
    """(rows x 8, columns x 8, 3) uint8 in a file: the source as it lies under the mosaic.

    Raises SourceError for a picture of another shape.
    """
    (rows, columns), tile = mosaic.index_map.shape, mosaic.templates.tile
    with readable(path, scratch) as source:
        grid = CellGrid.over(source.size, tile, columns=columns)
        if abs(grid.rows - rows) > 1:  # a scale may have left a part of the last column without source
            raise SourceError(
                f"The source {path} has {source.size[0]} x {source.size[1]} px and the mosaic {columns} x {rows} "
                f"cells of {tile[0]} x {tile[1]} px, which is another shape; name the picture that the mosaic was "
                "made of."
            )
        grid, scratch_file = CellGrid(rows, columns, tile, grid.scale), scratch.with_name(f"{scratch.name}-px")
        px = np.memmap(scratch_file, np.uint8, "w+", shape=(rows * CELL, columns * CELL, 3))
        colours = np.empty((rows, columns, 3), np.uint8)
        for box in grid.chunks(_CHUNK):
            ingest_chunk(box, source=source, grid=grid, analysis=px, colours=colours)
        return px
