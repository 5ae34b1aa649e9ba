"""Inspect: what a folder of templates holds, and which colours of a source it cannot reach."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyvips
import zarr
from numpy.typing import NDArray

from hirez_mosaic.engine.machine import cores, settled
from hirez_mosaic.errors import OutputError, SettingError, WeightsError
from hirez_mosaic.files.fresh import fresh
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.jobs.reach import COLOUR_REACH, distances
from hirez_mosaic.jobs.template_sets import cached_templates
from hirez_mosaic.outputs.appearing import check_output
from hirez_mosaic.pixels.colour import from_lab, to_lab
from hirez_mosaic.pixels.geometry import CELL, CellGrid
from hirez_mosaic.pixels.vips import captioned, vips_reason
from hirez_mosaic.settings.choosing import DUPLICATE_LEVELS
from hirez_mosaic.settings.parsing import parse_colour, parse_tile
from hirez_mosaic.sources import open_source, size_of, unpack
from hirez_mosaic.stages.ingest import ingest_chunk
from hirez_mosaic.templates import TemplateSet
from hirez_mosaic.templates.cropping import cropping, cut
from hirez_mosaic.templates.duplicates import near_duplicates
from hirez_mosaic.templates.loading import open_template

_ACROSS = 128  # cells along the source's longer side
_BIN = 20  # side, in CIELAB, of the bins in which colours out of reach are counted
_MOST_LACKS = 6  # colours out of reach that are named, at most
_WIDTH, _ON_SHEET = 1024, 384  # width of the contact sheet, px, and templates on it, at most
_CUT, _CUT_ACROSS = 12, 2  # pictures that are shown cut in every way, and how many of them lie side by side
_TRIED, _TRIED_SIDE = 48, 128  # templates among which those pictures are searched; px a side at which they are opened
_OTHER_SHAPE = 0.05  # a picture is of another shape where the logarithms of the two shapes differ by more


@dataclass(frozen=True)
class Lack:
    """A colour of the source that no template has.

    colour: sRGB.
    share: of the source's cells, 0 to 1.
    distance: mean of these cells to the nearest template, Delta E 76.
    """

    colour: tuple[int, int, int]
    share: float
    distance: float


@dataclass(frozen=True)
class Coverage:
    """How well the templates' mean colours reach those of a source's cells, in Delta E 76.

    source: the picture.
    analysis: (8 rows, 8 columns, 3) uint8 analysis image of it.
    distances: (rows, columns) float32, of each cell to the nearest template.
    lacks: the colours that no template has, the most frequent first.
    """

    source: Path
    analysis: NDArray[np.uint8]
    distances: NDArray[np.float32]
    lacks: tuple[Lack, ...]

    @property
    def reached(self) -> float:
        """The share of the cells within `COLOUR_REACH` of a template."""
        return float((self.distances <= COLOUR_REACH).mean())

    @property
    def worst(self) -> float:
        """The distance that 95 % of the cells do not exceed."""
        return float(np.percentile(self.distances, 95))


@dataclass(frozen=True)
class Inspection:
    """What was found.

    templates: the set.
    sizes: ((width, height), how many), px, of the pictures in the folder, the most frequent first.
    alike: (name, name of the first template that it is a near-duplicate of).
    copies: how many of these have the very px of that template.
    coverage: of the source; None where there is none.
    sheet: where the contact sheet is; None where there is none.
    """

    templates: TemplateSet
    sizes: tuple[tuple[tuple[int, int], int], ...]
    alike: tuple[tuple[str, str], ...]
    copies: int
    coverage: Coverage | None
    sheet: Path | None


@settled
def inspect(
    templates: str | Path,
    tile: int | str | tuple[int, int] = 32,
    *,
    source: str | Path | None = None,
    output: str | Path | None = None,
    levels: float = DUPLICATE_LEVELS,
    background: str | tuple[int, int, int] = "white",
    crop: str = "centre",
    exclude: Sequence[str] = (),
    strict: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> Inspection:
    """Describe a folder of templates, and how well its colours reach those of a picture.

    templates: the folder.
    source: the picture, seen at 128 cells along its longer side, or at as many as it has px.
    output: contact sheet, .png, .jpg or .webp: up to 384 templates by hue and lightness; above them source and
        distances, and up to 12 pictures of another shape than the tile's with every way to cut them.
    levels: root mean square difference, 0 to 255, up to which templates count as near-duplicates.
    exclude: patterns of files to leave out.
    strict: raise TemplateError for a file that cannot be read.
    overwrite: replace a contact sheet that is there.
    The rest is as in `render`.

    Raises a subclass of HirezMosaicError.
    """
    listener, sheet = listener or Listener(), None if output is None else Path(output)
    folder, size, under = Path(templates), parse_tile(tile), parse_colour(background)
    if not 0 <= levels <= 255:
        raise SettingError(f"The levels are {levels:g}; use 0 to 255.")
    if sheet is not None:
        _check_sheet(sheet, source, folder, overwrite)
    analysed = None if source is None else _analyse(Path(source), size, under)
    found = cached_templates(folder, size, under, crop, listener, exclude=exclude, strict=strict)
    means = to_lab(found.mean_colours()[None])[0]
    coverage = None if analysed is None else _cover(Path(str(source)), *analysed, means)
    if sheet is not None:
        panels = [_crops_panel(found, under), None if coverage is None else _coverage_panel(coverage, size)]
        _write_sheet(found, means, panels, sheet)
    alike, copies = _near_duplicates(found, levels)
    return Inspection(found, _sizes(found, listener), alike, copies, coverage, sheet)


def _near_duplicates(templates: TemplateSet, levels: float) -> tuple[tuple[tuple[str, str], ...], int]:
    """`Inspection.alike` and `Inspection.copies`."""
    first = near_duplicates(templates.at_cell_size(), levels)
    later = np.flatnonzero(first != np.arange(len(first)))
    copies = sum((templates.take(np.array([one])) == templates.take(first[[one]])).all() for one in later)
    return tuple((templates.names[one], templates.names[first[one]]) for one in later), int(copies)


def _check_sheet(sheet: Path, source: str | Path | None, folder: Path, overwrite: bool) -> None:
    """Raise an error for a contact sheet that cannot be written, or that would become a template."""
    if sheet.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise SettingError(f"The contact sheet {sheet} has no known suffix; use .png, .jpg or .webp.")
    if folder.resolve() in sheet.resolve().parents or (
        source is not None and sheet.resolve() == Path(source).resolve()
    ):
        raise SettingError(
            f"The contact sheet {sheet} would become a template or replace the source; name another file."
        )
    check_output(sheet, overwrite)


def _sizes(templates: TemplateSet, listener: Listener) -> tuple[tuple[tuple[int, int], int], ...]:
    """`Inspection.sizes`, read from the headers."""
    counted: Counter[tuple[int, int]] = Counter()
    with ThreadPoolExecutor(cores()) as pool, listener.stage("sizes", len(templates), "templates") as progress:
        for start in range(0, len(templates), 1024):
            names = templates.names[start : start + 1024]
            counted.update(pool.map(lambda name: size_of(templates.folder / name), names))
            progress(len(names))
    return tuple(counted.most_common())


def _analyse(
    path: Path, tile: tuple[int, int], background: tuple[int, int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """((8 rows, 8 columns, 3) the analysis image of a source, (rows, columns, 3) its cells' mean colours).

    It has 128 cells along the longer side, or as many as the source has px.
    """
    source = open_source(path, background)
    try:
        across, down = source.size[0] / tile[0], source.size[1] / tile[1]
        columns = max(1, round(min(_ACROSS, max(source.size)) * across / max(across, down)))
        grid = CellGrid.over(source.size, tile, columns=columns)
        analysis = np.empty((CELL * grid.rows, CELL * grid.columns, 3), np.uint8)
        colours = np.empty((grid.rows, grid.columns, 3), np.uint8)
        with tempfile.TemporaryDirectory(prefix="hirez-mosaic-") as scratch:
            ready = unpack(
                source.for_step(grid.source_step), zarr.open_group(scratch, mode="w"), "source", lambda px: None
            )
            ingest_chunk(grid.box, source=ready, grid=grid, analysis=analysis, colours=colours)
    finally:
        source.close()
    return analysis, colours


def _cover(
    source: Path, analysis: NDArray[np.uint8], colours: NDArray[np.uint8], means: NDArray[np.float32]
) -> Coverage:
    """How well templates cover a source.

    analysis: (8 rows, 8 columns, 3) of the source.
    colours: (rows, columns, 3) of its cells.
    means: (N, 3) CIELAB of the templates.
    """
    lab = to_lab(colours)
    away = distances(lab.reshape(-1, 3), means).reshape(lab.shape[:2])
    out_of_reach = away > COLOUR_REACH
    return Coverage(source, analysis, away, _lacks(lab[out_of_reach], away[out_of_reach], away.size))


def _lacks(colours: NDArray[np.float32], distances: NDArray[np.float32], cells: int) -> tuple[Lack, ...]:
    """The most frequent of the colours out of reach.

    colours: (n, 3) CIELAB of the cells out of reach.
    distances: (n,) of them.
    cells: of the whole source.
    """
    bins, numbers = np.unique(np.round(colours / _BIN), axis=0, return_inverse=True)
    numbers, lacks = numbers.ravel(), []
    for number in np.argsort(-np.bincount(numbers, minlength=len(bins)), kind="stable")[:_MOST_LACKS]:
        inside = numbers == number
        red, green, blue = from_lab(colours[inside].mean(0)[None, None])[0, 0].tolist()
        lacks.append(Lack((red, green, blue), float(inside.sum() / cells), float(distances[inside].mean())))
    return tuple(lacks)


_HUES = (
    (20, "pink"),
    (50, "red"),
    (75, "orange"),
    (118, "yellow"),
    (170, "green"),
    (230, "turquoise"),
    (305, "blue"),
    (335, "purple"),
)
"""(degrees of CIELAB's hue below which it has the name, name); from the last on it is pink again."""


def colour_name(colour: tuple[int, int, int]) -> str:
    """About what people call an sRGB colour.

    >>> colour_name((20, 30, 120)), colour_name((128, 128, 128))
    ('dark blue', 'grey')
    """
    lightness, a, b = to_lab(np.array([[colour]], np.uint8))[0, 0].tolist()
    if np.hypot(a, b) < 10:
        return ("black", "dark grey", "grey", "light grey", "white")[min(int(lightness // 20), 4)]
    hue = np.degrees(np.arctan2(b, a)) % 360
    name = next((name for bound, name in _HUES if hue < bound), "pink")
    shade = "dark " if lightness < 35 else "light " if lightness > 75 else ""
    return shade + {"dark orange": "brown", "dark yellow": "olive"}.get(shade + name, name)


def _write_sheet(
    templates: TemplateSet, means: NDArray[np.float32], panels: list[pyvips.Image | None], path: Path
) -> None:
    """Write the contact sheet: the panels that there are, below them the templates, greys first, then by hue.

    means: (N, 3) CIELAB of the templates.
    """
    chroma, hue = np.hypot(means[:, 1], means[:, 2]), np.degrees(np.arctan2(means[:, 2], means[:, 1])) % 360
    order = np.lexsort((means[:, 0], np.where(chroma < 10, -1, hue // 30)))
    chosen = order[np.linspace(0, len(order) - 1, min(len(order), _ON_SHEET)).round().astype(int)]
    columns = int(np.clip(np.ceil(np.sqrt(2.6 * len(chosen))), 8, 32))
    width = _WIDTH // columns
    shape = width - 2, max(1, round((width - 2) * templates.tile[1] / templates.tile[0]))
    px = templates.take(chosen).swapaxes(0, 1)
    thumbs = pyvips.Image.arrayjoin([_resized(one, shape) for one in px], across=columns, shim=2, background=255)
    shown = f"{len(chosen):,} of {len(templates):,}" if len(chosen) < len(templates) else f"{len(templates):,}"
    sheet = captioned(
        thumbs.embed(0, 0, _WIDTH, thumbs.height, extend="white"), f"{templates.folder.name}: {shown} templates"
    )
    for panel in filter(None, panels):
        sheet = panel.join(sheet, "vertical", shim=8, background=255)
    try:
        with fresh(path) as made:
            sheet.write_to_file(str(made))
    except pyvips.Error as error:
        raise OutputError(f"The contact sheet {path} cannot be written: {vips_reason(error)}.") from error


def _crops_panel(templates: TemplateSet, background: tuple[int, int, int]) -> pyvips.Image | None:
    """Some pictures of another shape than the tile's, each as it is and cut in every way; None where there are none."""
    ways, title = [cropping("centre"), cropping("attention")], "cut: as it is, centre, attention"
    try:
        ways, title = [*ways, cropping("faces")], f"{title}, faces"
    except (SettingError, WeightsError):
        title += "; faces takes pip install 'hirez-mosaic[faces]'"
    side = _WIDTH // (_CUT_ACROSS * (1 + len(ways))) - 2
    tile = _within(side, templates.tile)
    shown: list[pyvips.Image] = []
    for one in np.linspace(0, len(templates) - 1, min(len(templates), _TRIED)).round().astype(int):
        pixels = open_template(templates.folder / templates.names[one], (_TRIED_SIDE, _TRIED_SIDE), background)
        high, wide = pixels.shape[:2]
        if abs(np.log(wide / high * tile[1] / tile[0])) > _OTHER_SHAPE and len(shown) < _CUT * (1 + len(ways)):
            shown += [
                _resized(pixels, _within(side, (wide, high))),
                *(_resized(cut(pixels, templates.tile, way), tile) for way in ways),
            ]
    if not shown:
        return None
    joined = pyvips.Image.arrayjoin(shown, across=_CUT_ACROSS * (1 + len(ways)), shim=2, background=255)
    return captioned(joined.embed(0, 0, _WIDTH, joined.height, extend="white"), title)


def _within(side: int, size: tuple[int, int]) -> tuple[int, int]:
    """(width, height), px, of the shape of `size`, with `side` px along the longer side."""
    return max(1, round(side * size[0] / max(size))), max(1, round(side * size[1] / max(size)))


def _coverage_panel(coverage: Coverage, tile: tuple[int, int]) -> pyvips.Image:
    """The source beside its distances to the templates."""
    rows, columns = coverage.distances.shape
    factor = _WIDTH / 2 / max(columns * tile[0], rows * tile[1])
    shape = max(1, round(columns * tile[0] * factor) - 4), max(1, round(rows * tile[1] * factor))
    # black within reach, then red, yellow, white
    heat = np.clip(coverage.distances[..., None] / COLOUR_REACH - [1, 2, 3], 0, 1) * 255
    reached = f"{coverage.reached:.0%} within Delta E {COLOUR_REACH:g}; red 20, yellow 30, white 40"
    images = [_resized(pixels, shape) for pixels in (coverage.analysis, heat.round().astype(np.uint8))]
    sides = [
        captioned(image.embed(0, 0, _WIDTH // 2, image.height, extend="white"), title)
        for image, title in zip(images, (coverage.source.name, reached), strict=True)
    ]
    return sides[0].join(sides[1], "horizontal")


def _resized(pixels: NDArray[np.uint8], shape: tuple[int, int]) -> pyvips.Image:
    """The picture at `shape` (width, height), px; each px becomes a block where that is larger."""
    image = pyvips.Image.new_from_array(np.ascontiguousarray(pixels)).copy(interpretation="srgb")
    across, down = shape[0] / image.width, shape[1] / image.height
    resized = image.resize(across, vscale=down, kernel="nearest" if min(across, down) > 1 else "lanczos3")
    return resized.embed(0, 0, *shape, extend="copy")
