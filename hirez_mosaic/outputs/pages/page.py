"""A page as a folder: zoom levels, what is known of the cells, the templates enlarged, and the viewer that shows them.

index.html  page.js     what the page is; the whole of it is described by `described`
viewer/                 the viewer's own files, OpenSeadragon among them
tiles/WxH/ROW/COLUMN.jpg, source/WxH/ROW/COLUMN.jpg    levels, see `levels`
index/ uses/ names/ search/                            blocks, see `blocks`
templates/N/NNNN.jpg    the templates that are used, in thousands, numbered in their order
"""

import html
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from hirez_mosaic.errors import OutputError
from hirez_mosaic.outputs.appearing import writing
from hirez_mosaic.outputs.pages import blocks
from hirez_mosaic.outputs.pages.levels import (
    SIDE,
    Level,
    Tile,
    array_tile,
    cell_level,
    cell_tile,
    cells_px,
    halves,
    in_turn,
    jpeg,
    shrunk_sets,
    template_sizes,
    write_level,
)
from hirez_mosaic.outputs.pages.picture import picture_levels, picture_tile
from hirez_mosaic.pixels.array_types import Array
from hirez_mosaic.pixels.geometry import CellGrid
from hirez_mosaic.sources import Source
from hirez_mosaic.stages.assemble import Mosaic, Progress
from hirez_mosaic.templates import TemplateSet, enlarged
from hirez_mosaic.templates.cropping import cropping

_VIEWER = Path(__file__).parent / "viewer"
_ENLARGED = 160  # px of the longer side at which a template is shown alone, by default
_SOURCE_SIDE = 4096  # longer side of the source that a page fades to, px, about
_MOST_CELLS = 2**32
_LEVEL_BYTES = 1.3  # bytes of all levels for each px of the mosaic
_CELL_BYTES = 24  # bytes of blocks and scratch files for each cell
_HELD = 10  # bytes that a worker holds for each px of a tile, in all its forms; 60 where it is tinted
_FOLDER = 1000  # templates in a folder


@dataclass(frozen=True)
class Contents:
    """What a page shows.

    title: for people.
    source: (rows x n, columns x n, 3) uint8, the picture that the mosaic was made of, n px a cell; None where it is not
        known.
    background: sRGB under transparent templates.
    crop: which part of templates is kept, one of `CROPS`.
    anonymous: leave out the names of templates.
    thumbnails: px of the longer side at which a template is shown alone, at most; None for 160, or for its size in the
        mosaic where that is larger.
    """

    mosaic: Mosaic
    title: str
    source: Array | None = None
    background: tuple[int, int, int] = (255, 255, 255)
    crop: str = "centre"
    anonymous: bool = False
    thumbnails: int | None = None

    @property
    def enlarged(self) -> int:
        """Px of the longer side at which a template is shown alone, at most."""
        return self.thumbnails or max(_ENLARGED, *self.mosaic.templates.tile)


@dataclass(frozen=True)
class Shown:
    """A page in a gallery. folder: of the page, relative to the gallery. caption: text below its title."""

    title: str
    folder: str
    caption: str


def output_bytes(size: tuple[int, int], tile: tuple[int, int], templates: int) -> int:
    """Bytes on disk that a page of a mosaic of `size` (width, height) px takes while it is made, by rule of thumb."""
    cells, largest = math.prod(size) // math.prod(tile), max(_ENLARGED, *tile)
    return int(math.prod(size) * _LEVEL_BYTES + cells * _CELL_BYTES + templates * (largest**2 + math.prod(tile)))


def projected_bytes(columns: int, tile: tuple[int, int], workers: int, *, tinted: bool) -> int:
    """Bytes that making a page holds at most: a tile for each worker, and rows of cells."""
    px = math.prod(max(SIDE, side) for side in tile)
    return workers * px * (60 if tinted else _HELD) + blocks.INDEX * columns * 32 + (32 << 20)


def write_page(contents: Contents, made: Path, progress: Progress, workers: int) -> None:
    """Write a page into the folder `made`, which is new; scratch files lie beside it.

    progress: called with cells of the largest level when they are written.
    workers: threads that encode.

    Raises OutputError, DiskSpaceError, and TemplateError for a template that is gone.
    """
    scratch = made.with_name(f"{made.name}-scratch")
    with writing("page"), ThreadPoolExecutor(workers) as pool:
        made.mkdir()
        scratch.mkdir()
        mosaic, counts = _only_used(contents.mosaic, scratch)
        _write_blocks(mosaic, counts, made, scratch, anonymous=contents.anonymous)
        sets = shrunk_sets(mosaic.templates, template_sizes(mosaic.templates.tile, contents.enlarged), scratch)
        largest = next(sets)
        _write_templates(contents, mosaic.templates, largest, made / "templates", pool, workers)
        every = _levels(mosaic, largest, sets, scratch)
        levels = _write_levels(every, made / "tiles", pool, workers, mosaic.index_map.size, progress)
        source = None
        if contents.source is not None:
            array, step = _source_px(contents.source, mosaic, scratch / "source")
            smaller = ((level, array_tile(px)) for level, px in halves(array, step, scratch))
            source = _write_levels(smaller, made / "source", pool, workers, 0, progress)
        _write_small(made, levels)
        write_viewer(made, _described(contents, mosaic, levels, source))


def _only_used(mosaic: Mosaic, scratch: Path) -> tuple[Mosaic, NDArray[np.int64]]:
    """The mosaic with only those templates that it uses, its index map in a file.

    Returns it, and (templates,) how often it uses each.
    """
    (rows, columns), templates = mosaic.index_map.shape, mosaic.templates
    poses = len(templates.poses)
    if rows * columns >= _MOST_CELLS:
        raise OutputError(
            f"The mosaic has {rows * columns:,} cells and a page ends at {_MOST_CELLS - 1:,}; use larger templates."
        )
    choices = np.memmap(scratch / "choices", np.uint32, "w+", shape=(rows, columns))
    counts = np.zeros(len(templates.names), np.int64)
    step = getattr(mosaic.index_map, "chunks", (blocks.INDEX,))[0]
    for top in range(0, rows, step):
        choices[top : top + step] = np.asarray(mosaic.index_map[top : top + step])
        counts += np.bincount(choices[top : top + step].reshape(-1) // poses, minlength=len(counts))
    kept = np.flatnonzero(counts)
    numbers = np.zeros(len(counts), np.uint32)
    numbers[kept] = np.arange(len(kept))
    for top in range(0, rows, step):
        band = choices[top : top + step]
        choices[top : top + step] = numbers[band // poses] * poses + band % poses
    tint = mosaic.tint
    if tint is not None:
        own = tint.own.reshape(-1, poses, 3)[kept].reshape(-1, 3)
        colours = np.memmap(scratch / "colours", np.uint8, "w+", shape=(rows, columns, 3))
        for top in range(0, rows, step):
            colours[top : top + step] = tint.colours[top : top + step]
        tint = replace(tint, own=own, colours=colours)
    return Mosaic(choices, templates.subset(kept), tint), counts[kept]


def _write_blocks(mosaic: Mosaic, counts: NDArray[np.int64], made: Path, scratch: Path, *, anonymous: bool) -> None:
    choices, poses = mosaic.index_map, len(mosaic.templates.poses)
    blocks.write_index(made, choices)
    uses = np.memmap(scratch / "uses", np.uint32, "w+", shape=(choices.size,))
    blocks.sorted_uses(
        (choices[top : top + blocks.INDEX].reshape(-1) // poses for top in range(0, len(choices), blocks.INDEX)),
        counts,
        uses,
    )
    blocks.write_uses(made, uses)
    names = None if anonymous else mosaic.templates.names
    blocks.write_names(made, names, counts)
    if names is not None:
        blocks.write_search(made, names)


def _write_templates(
    contents: Contents,
    templates: TemplateSet,
    largest: TemplateSet,
    folder: Path,
    pool: ThreadPoolExecutor,
    workers: int,
) -> None:
    """Write each template as it is shown alone.

    It is made from the template's file, where that may be larger than the template in the mosaic and is; else it is the
    template of the mosaic.
    """
    from_files, crop = contents.enlarged > max(templates.tile), cropping(contents.crop)

    def write(number: int, name: str) -> None:
        px = None
        if from_files:
            px = enlarged(templates.folder / name, templates.tile, contents.enlarged, contents.background, crop)
        if px is None:
            px = largest.take(np.array([number * len(largest.poses)])).swapaxes(0, 1)[0]
        (folder / str(number // _FOLDER) / f"{number}.jpg").write_bytes(jpeg(px))

    for number in range(math.ceil(len(templates.names) / _FOLDER)):
        (folder / str(number)).mkdir(parents=True)
    for _ in in_turn(pool, write, enumerate(templates.names), 64 * workers):
        pass


def _levels(
    mosaic: Mosaic, largest: TemplateSet, smaller: Iterator[TemplateSet], scratch: Path
) -> Iterator[tuple[Level, Tile]]:
    """The levels of a mosaic from the largest. smaller: sets of templates, the last of 1 px each."""
    (rows, columns), full = mosaic.index_map.shape, mosaic.templates.tile
    one = largest
    while one.tile != (1, 1):
        level = cell_level(one, columns, rows, full)
        yield level, cell_tile(one, level, mosaic.index_map, mosaic.tint)
        one = next(smaller)
    means = np.memmap(scratch / "means", np.uint8, "w+", shape=(rows, columns, 3))
    for top in range(0, rows, blocks.INDEX):
        band = slice(top, top + blocks.INDEX)
        means[band] = cells_px(one, mosaic.index_map[band], mosaic.tint, (band, slice(None)))
    for level, px in halves(means, (float(full[0]), float(full[1])), scratch):
        yield level, array_tile(px)


def _write_levels(
    levels: Iterable[tuple[Level, Tile]],
    folder: Path,
    pool: ThreadPoolExecutor,
    workers: int,
    cells: int,
    progress: Progress,
) -> list[Level]:
    """Write levels until one is a single tile; returns them, the smallest first.

    cells: how many progress is called with in all, in equal parts, for the tiles of the first level.
    """
    written: list[Level] = []
    for level, make in levels:
        tell = _in_parts(cells, math.prod(level.tiles), progress) if not written else lambda: None
        write_level(level, make, folder / "x".join(map(str, level.size)), pool, workers, tell)
        written.insert(0, level)
        if level.tiles == (1, 1):
            break
    return written


def _in_parts(total: int, parts: int, progress: Progress) -> Callable[[], None]:
    """A function that calls progress with one of the equal parts of `total`, each time."""
    numbers = iter(range(1, parts + 1))

    def tell() -> None:
        number = next(numbers)
        progress(total * number // parts - total * (number - 1) // parts)

    return tell


def _source_px(source: Array, mosaic: Mosaic, file: Path) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """(the source as the page shows it, px of the mosaic to one of its px).

    It has at most about 4,096 px a side, but at least 1 px a cell.
    """
    (rows, columns), (width, height) = mosaic.index_map.shape, mosaic.templates.tile
    of_cell = source.shape[0] // rows
    fitting = [
        less for less in range(1, of_cell + 1) if of_cell % less == 0 and max(source.shape) <= less * _SOURCE_SIDE
    ]
    less = fitting[0] if fitting else of_cell
    side = of_cell // less
    made = np.memmap(file, np.uint8, "w+", shape=(rows * side, columns * side, 3))
    down, across = (chunk // of_cell for chunk in getattr(source, "chunks", (blocks.INDEX * of_cell,) * 2)[:2])
    for box in CellGrid(rows, columns, (1, 1), Fraction(1)).chunks((down, across)):
        part = np.asarray(source[box.scaled(of_cell).slices], np.float32)
        means = part.reshape(box.height * side, less, box.width * side, less, 3).mean((1, 3))
        made[box.scaled(side).slices] = np.round(means)
    return made, (width / side, height / side)


def _described(contents: Contents, mosaic: Mosaic, levels: list[Level], source: list[Level] | None) -> dict[str, Any]:
    (rows, columns), templates = mosaic.index_map.shape, mosaic.templates
    return {
        "title": contents.title,
        "size": mosaic.size,
        "levels": [asdict(level) for level in levels],
        "source": source and [asdict(level) for level in source],
        "cells": {
            "columns": columns,
            "rows": rows,
            "tile": templates.tile,
            "templates": len(templates.names),
            "poses": [[pose.mirrored, pose.turns] for pose in templates.poses],
            "named": not contents.anonymous,
            "index": blocks.INDEX,
            "uses": blocks.USES,
            "names": blocks.NAMES,
        },
    }


def write_picture(source: Source, title: str, made: Path, workers: int) -> None:
    """Write the page of a picture, of which only the px are known, into the folder `made`, which is new."""
    with writing("page"), ThreadPoolExecutor(workers) as pool:
        made.mkdir()
        every = ((level, picture_tile(source, level)) for level in picture_levels(source.size))
        levels = _write_levels(every, made / "tiles", pool, workers, 0, lambda cells: None)
        _write_small(made, levels)
        write_viewer(made, described_picture(title, levels))


def described_picture(title: str, levels: list[Level]) -> dict[str, Any]:
    """The content of page.js for such a picture. levels: the smallest first."""
    described = [asdict(level) for level in levels]
    return {"title": title, "size": levels[-1].size, "levels": described, "source": None, "cells": None}


def _write_small(made: Path, levels: list[Level]) -> None:
    """Write the smallest level once more, where a gallery finds it."""
    smallest = "x".join(map(str, levels[0].size))
    (made / "small.jpg").write_bytes((made / "tiles" / smallest / "0" / "0.jpg").read_bytes())


def write_viewer(folder: Path, described: dict[str, Any]) -> None:
    """Write the files that show a page. described: the content of page.js."""
    for name, content in viewer_files(described).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


def viewer_files(described: dict[str, Any]) -> dict[str, bytes]:
    """The files that show a page, by their paths below it. described: the content of page.js."""
    own = {f"viewer/{file.name}": file.read_bytes() for file in sorted(_VIEWER.iterdir()) if file.suffix != ".html"}
    script = f"window.hirezMosaicPage = {json.dumps(described, separators=(',', ':'))};\n"
    return {**own, "index.html": (_VIEWER / "index.html").read_bytes(), "page.js": script.encode("ascii")}


def write_gallery(file: Path, title: str, pages: Sequence[Shown]) -> None:
    """Write a gallery of pages, one file; the smallest level of each is its picture."""
    style = (_VIEWER / "viewer.css").read_text("utf-8")
    shown = "\n".join(
        f'<li><a href="{quote(page.folder)}/index.html">'
        f'<img src="{quote(page.folder)}/small.jpg" alt="" loading="lazy">'
        f"<b>{html.escape(page.title)}</b><small>{html.escape(page.caption)}</small></a></li>"
        for page in pages
    )
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<meta name="color-scheme" content="light dark">'
    )
    file.write_text(
        f'<!doctype html>\n<html lang="en">\n<head>{head}<link rel="icon" href="data:,">'
        f"<title>{html.escape(title)}</title>\n"
        f'<style>\n{style}</style></head>\n<body><main class="gallery"><h1>{html.escape(title)}</h1>'
        f"<p>{len(pages):,} mosaics</p>\n"
        f"<ul>\n{shown}\n</ul></main></body>\n</html>\n",
        "utf-8",
    )
