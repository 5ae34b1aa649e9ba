"""Print: a mosaic on sheets of paper, or as stickers, at a size in metres.

The plan says whether a face can be recognised in a template, by this rule. About 16 px across a face are needed to see
whose it is (Bachmann, Identification of spatially quantised tachistoscopic images of faces, 1991), and in a portrait a
face fills about half of the width, so a template needs 32 px. The eye separates two things that are a minute of arc
apart. So a face is recognised up to the distance at which the 32nd part of the template is a minute of arc: 107 times
its width. Nobody looks from nearer than 25 cm.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pyvips
import zarr
from numpy.typing import NDArray

from hirez_mosaic.errors import SettingError, TemplateError, TileMapError
from hirez_mosaic.files.fresh import flush
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.jobs.print_spec import QUALITY, PrintSpec
from hirez_mosaic.jobs.remake import mosaic_of
from hirez_mosaic.jobs.template_sets import cached_templates
from hirez_mosaic.outputs.appearing import Appearing, check_output, check_space, writing
from hirez_mosaic.outputs.mosaic_file import write_preview
from hirez_mosaic.outputs.pages import picture_levels, picture_tile
from hirez_mosaic.outputs.printing import (
    MosaicPx,
    Page,
    Readable,
    StickerPaper,
    Stickers,
    Wall,
    fewest,
    grid_pages,
    grid_parts,
    laid,
    plan_page,
    sheet_pages,
    sheet_parts,
    sticker_pages,
    write_pdf,
    write_tifs,
)
from hirez_mosaic.outputs.tile_map import check_tile_map, read_tile_map, survey
from hirez_mosaic.settings.lengths import INCH, Size, format_size
from hirez_mosaic.settings.parsing import MAX_TILE
from hirez_mosaic.settings.places import check_there
from hirez_mosaic.sources import Source, open_source, unpack
from hirez_mosaic.stages.assemble import Mosaic

_DPI = 300.0  # px an inch at which templates are printed, by default
_FACE_PX = 32
_ARC_MINUTE = math.radians(1 / 60)
_NEAREST = 250  # mm from which people look, at least
_BYTES_PER_PX = {"jpeg": 1.7, "deflate": 3.0}
_PREVIEW_SIDE = 1600


@dataclass(frozen=True)
class PrintPlan:
    """What is going to be printed.

    wall: the sheets; for stickers, the whole mosaic and their paper.
    template: (width, height) of a template, px.
    cells: (columns, rows); None for a picture that is no tile map.
    stickers: whether stickers are printed.
    pages: how many there are, the plan among them.
    bytes: of the output, at most, about.
    profile: file of a CMYK profile; None for sRGB.
    """

    mosaic: Path
    output: Path
    wall: Wall
    template: tuple[int, int]
    cells: tuple[int, int] | None
    stickers: bool
    pages: int
    bytes: int
    profile: Path | None

    @property
    def template_size(self) -> Size:
        """(width, height) of a template on paper, mm."""
        return self.template[0] / self.wall.density, self.template[1] / self.wall.density

    @property
    def face(self) -> str:
        """Whether a face is known in a template, for people."""
        if min(self.template) < _FACE_PX:
            return f"too few px to know a face, which takes {_FACE_PX}"
        far = float(min(self.template_size)) / _FACE_PX / math.tan(_ARC_MINUTE)
        if far < _NEAREST:
            return f"too small to know a face, which takes {_NEAREST * _FACE_PX * math.tan(_ARC_MINUTE):.1f} mm"
        return f"a face is known from up to {far / 1000:.1f} m away"


@dataclass(frozen=True)
class PrintResult:
    """The result.

    pages: how many there are, the plan among them.
    sheets: (columns, rows) of the wall; None for stickers.
    dots: px an inch.
    seconds: of reading and writing.
    """

    output: Path
    pages: int
    sheets: tuple[int, int] | None
    dots: float
    seconds: float


class PrintListener(Listener):
    """Hears how a print goes; this one does nothing."""

    def printing(self, plan: PrintPlan) -> None:
        """The plan is made and the work begins."""


def print_sheets(
    mosaic: str | Path,
    output: str | Path,
    templates: str | Path | None = None,
    tile: int | str | tuple[int, int] = 32,
    *,
    width: str | None = None,
    height: str | None = None,
    dpi: float | None = None,
    paper: str = "A4",
    landscape: bool = False,
    margin: str = "10mm",
    overlap: str | None = None,
    bleed: str | None = None,
    cells: bool = False,
    format: str = "pdf",  # noqa: A002 (the name of the option)
    compression: str = "jpeg",
    quality: int = QUALITY,
    profile: str | Path | None = None,
    tint: float | None = None,
    background: str | tuple[int, int, int] = "white",
    crop: str = "centre",
    overwrite: bool = False,
    jobs: int | None = None,
    listener: PrintListener | None = None,
) -> PrintResult:
    """Print a mosaic on sheets that make a wall, or its cells as stickers; the first page is a plan.

    Holds 12 bytes a cell of a tile map, 28 for stickers, and bands of a sheet.

    mosaic: any picture, whose px are printed as they are; or a tile map, .csv, .json or .parquet, which is printed in
        px made from its templates.
    output: a .pdf, or a folder where `format` is "tif".
    templates, background, crop, tint: for a tile map, as in `assemble_tile_map`.
    tile: for a tile map the shape of a template; for a picture the size of a template in it, px.
    width, height: of the whole print, such as "2m" or "60in"; one of the two.
    dpi: for a tile map px an inch, 300 where None; for a picture it may be given instead of width or height.
    paper: "A0" to "A6", "letter", "legal" or "tabloid", which lie in the way that needs fewer sheets; or a size such as
        "329x483mm", which is not turned.
    landscape: the paper lies on its longer side.
    margin: width of the border without print, on each side.
    overlap: of neighbouring sheets, such as "10mm". It excludes `bleed`.
    bleed: print beyond the line where a sheet is cut.
    cells: print the cells of a tile map as numbered stickers, each as often as it is used, and a grid with the numbers.
    format: "pdf" or "tif".
    compression: "jpeg" or "deflate", which keeps every px.
    quality: of JPEG.
    profile: ICC file of a CMYK profile; sRGB where None.
    overwrite: replace what is there.
    jobs: threads that decode templates.
    listener: hears the plan before the work.

    Raises a subclass of HirezMosaicError for whatever is wrong with the input; then nothing is left half-written.
    """
    settings = dict(locals())  # of the parameters alone, because nothing else has a name yet
    listener, start = settings.pop("listener") or PrintListener(), time.perf_counter()
    wanted = PrintSpec.parse(**settings)
    wanted.check()
    check_output(wanted.output, overwrite)
    with ExitStack() as held:
        subject = _mapped(wanted) if wanted.is_map else _picture(wanted, held)
        plan, layout = _planned(wanted, subject)
        listener.printing(plan)
        check_space(wanted.output.absolute().parent, plan.bytes + subject.scratch_bytes, "print")
        made = held.enter_context(Appearing(wanted.output))
        opened = subject.open(made.with_name(f"{made.name}-scratch"), listener)
        pages = _pages(plan, layout, opened)
        with writing("print"), listener.stage("print", len(pages), "pages") as progress:
            _write(wanted, pages, made, progress)
    sheets = None if plan.stickers else plan.wall.grid
    return PrintResult(wanted.output, len(pages), sheets, plan.wall.dots, time.perf_counter() - start)


@dataclass(frozen=True)
class _Opened:
    """What is printed, ready to be read. preview: (height, width, 3) uint8. mosaic: None where there is no tile map."""

    px: Readable
    preview: NDArray[np.uint8]
    mosaic: Mosaic | None = None


@dataclass(frozen=True)
class _Subject:
    """What is printed, before much of it is read.

    size: (width, height), px.
    density: px a mm.
    template: (width, height), px.
    cells: (columns, rows); None where there is no tile map.
    scratch_bytes: of files that are needed meanwhile.
    open: makes it ready, with scratch files in a new folder.
    """

    size: tuple[int, int]
    density: Fraction
    template: tuple[int, int]
    cells: tuple[int, int] | None
    scratch_bytes: int
    open: Callable[[Path, Listener], _Opened]


def _picture(wanted: PrintSpec, held: ExitStack) -> _Subject:
    """A picture, whose px are printed as they are."""
    path = wanted.mosaic
    check_there(path, "mosaic or tile map")
    source = open_source(path)
    held.callback(source.close)
    (width, height) = source.size
    if wanted.dpi is not None:
        density = Fraction(wanted.dpi) / INCH
    else:
        density = width / wanted.width if wanted.width else height / Fraction(wanted.height or 1)

    def ready(scratch: Path, listener: Listener) -> _Opened:
        read = source
        if source.bands:
            with writing("print"), listener.stage("unpack", width * height, "px") as progress:
                read = unpack(source, zarr.open_group(scratch, mode="w"), "source", progress)
        return _Opened(read, _small(read))

    return _Subject(source.size, density, wanted.tile, None, source.unpacked_bytes, ready)


def _small(source: Source) -> NDArray[np.uint8]:
    """The picture at 800 to 1,600 px on its longer side, or at its own size where that is less."""
    level = next(one for one in picture_levels(source.size) if max(one.size) <= _PREVIEW_SIDE)
    make, (across, down) = picture_tile(source, level), level.tiles
    return np.concatenate([np.concatenate([make(x, y) for x in range(across)], 1) for y in range(down)])


def _mapped(wanted: PrintSpec) -> _Subject:
    """A tile map, whose px are made at the size that the print needs."""
    path, folder = wanted.mosaic, Path(wanted.templates or "")
    if not path.is_file():
        raise TileMapError(f"There is no tile map {path}.")
    check_tile_map(path)
    names, (columns, rows) = survey(path)
    _check_templates(path, folder, names)
    tile, density = _tile(wanted, columns, rows)

    def ready(scratch: Path, listener: Listener) -> _Opened:
        how = folder, tile, wanted.background, wanted.crop, listener, wanted.jobs
        found = cached_templates(*how, only=names)
        if found.skipped:
            name, why = found.skipped[0]
            raise TemplateError(f"The template {name} that the tile map {path} names cannot be read: {why}.")
        mosaic = mosaic_of(read_tile_map(path, found, frozenset(), wanted.tint))
        preview = scratch.with_suffix(".png")
        write_preview(mosaic, preview)
        return _Opened(MosaicPx(mosaic), pyvips.Image.new_from_file(str(preview)).numpy(), mosaic)

    return _Subject((columns * tile[0], rows * tile[1]), density, tile, (columns, rows), 0, ready)


def _check_templates(path: Path, folder: Path, names: frozenset[str]) -> None:
    check_there(folder, "folder of templates", TemplateError)
    gone = [name for name in names if not (folder / name).is_file()]
    if gone:
        raise TileMapError(
            f"{len(gone):,} of the {len(names):,} templates that the tile map {path} names are not in {folder}, "
            f"{min(gone)} for one; name the folder that it was made of, or put them back."
        )


def _tile(wanted: PrintSpec, columns: int, rows: int) -> tuple[tuple[int, int], Fraction]:
    """((width, height) of a template, px; px a mm) at which the print has at least the dots an inch that are wanted."""
    dots, (wide, high) = Fraction(wanted.dpi or _DPI), wanted.tile
    cell = wanted.width / columns if wanted.width else Fraction(wanted.height or 1) / rows * wide / high  # mm across
    width = math.ceil(cell / INCH * dots)
    height = max(1, round(Fraction(width * high, wide)))
    if max(width, height) > MAX_TILE:
        raise SettingError(
            f"A template would be {width:,} x {height:,} px and {MAX_TILE:,} a side are the most; "
            "use a smaller print, or a smaller `dpi`."
        )
    if wanted.width:
        return (width, height), width / cell
    return (width, height), rows * height / Fraction(wanted.height or 1)


def _planned(wanted: PrintSpec, subject: _Subject) -> tuple[PrintPlan, StickerPaper | None]:
    """The plan, and how stickers lie on their paper where they are printed. Raises SettingError for too small paper."""
    density, layout = subject.density, None
    if wanted.cells and subject.cells is not None:
        layout = fewest(subject.template, density, subject.cells, wanted.paper, wanted.turnable)
        wall, pages, px = Wall(subject.size, density, layout.paper), 1 + layout.grid_pages + layout.pages, layout.px
    else:
        overlap, bleed = (round(length * density) for length in (wanted.overlap, wanted.bleed))
        wall = laid(subject.size, density, wanted.paper, wanted.turnable, overlap, bleed)
        pages, px = 1 + math.prod(wall.grid), wall.px
    a_px = _BYTES_PER_PX[wanted.compression] * wanted.ink.channels / 3
    plan = PrintPlan(
        mosaic=wanted.mosaic,
        output=wanted.output,
        wall=wall,
        template=subject.template,
        cells=subject.cells,
        stickers=wanted.cells,
        pages=pages,
        bytes=int(px * a_px) + (1 << 20),
        profile=wanted.ink.profile,
    )
    return plan, layout


def _pages(plan: PrintPlan, layout: StickerPaper | None, opened: _Opened) -> list[Page]:
    """All pages, the plan first."""
    wall, name = plan.wall, plan.mosaic.name
    if layout is not None and opened.mosaic is not None:
        stickers = Stickers(layout, opened.mosaic)
        title = (
            f"{name}: {math.prod(layout.cells):,} stickers of {format_size(plan.template_size)}, {stickers.distinct:,} "
            "different",
            "Below each sticker are its number and its place, column and row. The grid tells the number of each place.",
        )
        parts = partial(grid_parts, layout.paper, *layout.cells)
        first = plan_page(wall.paper, title, opened.preview, parts, layout.cells)
        return [first, *grid_pages(stickers), *sticker_pages(stickers)]
    (columns, rows), lap = wall.grid, float(wall.overlap / wall.density)
    title = (
        f"{name}: {format_size(wall.millimetres)} on {columns:,} x {rows:,} sheets of {format_size(wall.paper.size)}",
        f"{wall.dots:.0f} px an inch" + (f"; neighbours overlap by {lap:.1f} mm" if lap else ""),
    )
    return [
        plan_page(wall.paper, title, opened.preview, partial(sheet_parts, wall), wall.size),
        *sheet_pages(wall, opened.px),
    ]


def _write(wanted: PrintSpec, pages: Sequence[Page], made: Path, progress: Callable[[int], None]) -> None:
    how = progress, wanted.ink, wanted.compression, wanted.quality
    if wanted.form == "pdf":
        write_pdf(pages, made, wanted.mosaic.stem, *how)
        flush(made)
    else:
        write_tifs(pages, made, *how)
