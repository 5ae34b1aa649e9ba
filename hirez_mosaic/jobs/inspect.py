"""Inspect: what a folder of templates holds, and which colours of a source it cannot reach."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyvips
import torch
import zarr
from numpy.typing import NDArray

from hirez_mosaic.engine.machine import cores, settled
from hirez_mosaic.errors import OutputError, SettingError, WeightsError
from hirez_mosaic.files.fresh import fresh
from hirez_mosaic.jobs.listener import Listener
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

REACH = 10.0
"""Delta E 76 up to which a template's mean colour passes for a cell's."""

_ACROSS = 128  # cells of the source's longer side
_BIN = 20  # of CIELAB: colours out of reach that are counted together
_NAMED = 6  # of these colours at most
_WIDTH, _SHEET = 1024, 384  # of the contact sheet: px, templates at most
_CUT, _CUT_ACROSS = 12, 2  # pictures of which every way to cut them is shown, and of these side by side
_LOOKED_AT, _LOOKED_SIDE = (
    48,
    128,
)  # templates among which they are looked for, px a side at half of which they are opened
_OTHER_SHAPE = 0.05  # of the logarithm of a picture's shape: what is cut away less is not worth a look
_BLOCK = 512  # cells whose distances to 8,192 templates are held at once


@dataclass(frozen=True)
class Lack:
    """A colour of the source that no template has: sRGB, its part of the source's cells, and their mean distance."""

    colour: tuple[int, int, int]
    share: float
    distance: float


@dataclass(frozen=True)
class Coverage:
    """How well the templates' mean colours reach those of a source's cells, in Delta E 76.

    analysis: (8 rows, 8 columns, 3) uint8. distances: (rows, columns) float32, to the nearest template.
    """

    source: Path
    analysis: NDArray[np.uint8]
    distances: NDArray[np.float32]
    lacks: tuple[Lack, ...]

    @property
    def reached(self) -> float:
        """The share of the cells within `REACH`."""
        return float((self.distances <= REACH).mean())

    @property
    def worst(self) -> float:
        """The distance that 95 % of the cells do not pass."""
        return float(np.percentile(self.distances, 95))


@dataclass(frozen=True)
class Inspection:
    """What was found.

    sizes: ((width, height), how many), px, of the pictures in the folder, the most frequent first.
    alike: (name, name of the first that it is a near-duplicate of). copies: how many of these have the very px of that
        one.
    sheet: where the contact sheet is.
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
    """Look at a folder of templates, and at how well its colours reach those of the picture `source`.

    output: contact sheet of up to 384 templates by hue and lightness, above them source and distances, and up to 12
        pictures that are not of the tile's shape with every way to cut them; .png, .jpg or .webp.
    levels: of 255, up to which templates count as near-duplicates. The source is seen at 128 cells along its longer
    side, or as many as it has px. exclude: patterns of files to leave out. strict: raise TemplateError for a file that
    cannot be read.
    Raises a subclass of HirezMosaicError.
    """
    listener, sheet = listener or Listener(), None if output is None else Path(output)
    folder, size, colour = Path(templates), parse_tile(tile), parse_colour(background)
    if not 0 <= levels <= 255:
        raise SettingError(f"The levels are {levels:g}; use 0 to 255.")
    if sheet is not None:
        _check_sheet(sheet, source, folder, overwrite)
    seen = None if source is None else _analyse(Path(source), size, colour)
    found = cached_templates(folder, size, colour, crop, listener, exclude=exclude, strict=strict)
    means = to_lab(found.mean_colours()[None])[0]
    coverage = None if seen is None else _cover(Path(str(source)), *seen, means)
    first = near_duplicates(found.at_cell_size(), levels)
    later = np.flatnonzero(first != np.arange(len(first)))
    copies = sum((found.take(np.array([one])) == found.take(first[[one]])).all() for one in later)
    if sheet is not None:
        _write_sheet(
            found,
            means,
            [_crops_panel(found, colour), None if coverage is None else _coverage_panel(coverage, size)],
            sheet,
        )
    alike = tuple((found.names[one], found.names[first[one]]) for one in later)
    return Inspection(found, _sizes(found, listener), alike, int(copies), coverage, sheet)


def _check_sheet(sheet: Path, source: str | Path | None, folder: Path, overwrite: bool) -> None:
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
    """Read from the headers."""

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
    """((8 rows, 8 columns, 3) the source's analysis image at 128 cells along the longer side, or as many as it has px,
    (rows, columns, 3) its cells' mean colours).
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
    """analysis: (8 rows, 8 columns, 3) and colours: (rows, columns, 3) of the source's cells. means: (N, 3) CIELAB of
    the templates.
    """
    lab = to_lab(colours)
    distances = _nearest(lab.reshape(-1, 3), np.unique(np.round(means * 2) / 2, axis=0)).reshape(lab.shape[:2])
    far = lab[distances > REACH]
    bins, which = np.unique(np.round(far / _BIN), axis=0, return_inverse=True)
    lacks = []
    for one in np.argsort(-np.bincount(which.ravel(), minlength=len(bins)), kind="stable")[:_NAMED]:
        mine = which.ravel() == one
        red, green, blue = from_lab(far[mine].mean(0)[None, None])[0, 0].tolist()
        lacks.append(
            Lack(
                (red, green, blue), float(mine.sum() / distances.size), float(distances[distances > REACH][mine].mean())
            )
        )
    return Coverage(source, analysis, distances, tuple(lacks))


def _nearest(cells: NDArray[np.float32], colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,): from each of the cells (n, 3) to the nearest of the colours (m, 3)."""
    least = torch.full((len(cells),), torch.inf)
    for start in range(0, len(cells), _BLOCK):
        part = torch.from_numpy(cells[start : start + _BLOCK])
        for other in range(0, len(colours), 16 * _BLOCK):
            found = torch.cdist(part, torch.from_numpy(colours[other : other + 16 * _BLOCK])).amin(1)
            least[start : start + _BLOCK] = torch.minimum(least[start : start + _BLOCK], found)
    return least.numpy()


def colour_name(colour: tuple[int, int, int]) -> str:
    """What people call an sRGB colour, about.

    >>> colour_name((20, 30, 120)), colour_name((128, 128, 128))
    ('dark blue', 'grey')
    """
    lightness, a, b = to_lab(np.array([[colour]], np.uint8))[0, 0].tolist()
    if np.hypot(a, b) < 10:
        return ("black", "dark grey", "grey", "light grey", "white")[min(int(lightness // 20), 4)]
    hue = np.degrees(np.arctan2(b, a)) % 360
    bounds = (
        (20, "pink"),
        (50, "red"),
        (75, "orange"),
        (118, "yellow"),
        (170, "green"),
        (230, "turquoise"),
        (305, "blue"),
        (335, "purple"),
    )
    name = next((name for bound, name in bounds if hue < bound), "pink")
    shade = "dark " if lightness < 35 else "light " if lightness > 75 else ""
    return shade + {"dark orange": "brown", "dark yellow": "olive"}.get(shade + name, name)


def _write_sheet(
    templates: TemplateSet, means: NDArray[np.float32], panels: list[pyvips.Image | None], path: Path
) -> None:
    """The templates, greys first, then by hue and lightness; the panels that there are above them."""
    chroma, hue = np.hypot(means[:, 1], means[:, 2]), np.degrees(np.arctan2(means[:, 2], means[:, 1])) % 360
    order = np.lexsort((means[:, 0], np.where(chroma < 10, -1, hue // 30)))
    chosen = order[np.linspace(0, len(order) - 1, min(len(order), _SHEET)).round().astype(int)]
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
    """Some pictures that are not of the tile's shape: each as it is, and every way to cut it; None where there are
    none.
    """
    ways, title = [cropping("centre"), cropping("attention")], "cut: as it is, centre, attention"
    try:
        ways, title = [*ways, cropping("faces")], f"{title}, faces"
    except (SettingError, WeightsError):
        title += "; faces takes pip install 'hirez-mosaic[faces]'"
    side = _WIDTH // (_CUT_ACROSS * (1 + len(ways))) - 2
    tile = _within(side, templates.tile)
    shown: list[pyvips.Image] = []
    for one in np.linspace(0, len(templates) - 1, min(len(templates), _LOOKED_AT)).round().astype(int):
        pixels = open_template(templates.folder / templates.names[one], (_LOOKED_SIDE, _LOOKED_SIDE), background)
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
    """(width, height) of that shape with `side` px along the longer side."""
    return max(1, round(side * size[0] / max(size))), max(1, round(side * size[1] / max(size)))


def _coverage_panel(coverage: Coverage, tile: tuple[int, int]) -> pyvips.Image:
    rows, columns = coverage.distances.shape
    factor = _WIDTH / 2 / max(columns * tile[0], rows * tile[1])
    shape = max(1, round(columns * tile[0] * factor) - 4), max(1, round(rows * tile[1] * factor))
    heat = (
        np.clip(coverage.distances[..., None] / REACH - [1, 2, 3], 0, 1) * 255
    )  # black within reach, then red, yellow, white
    titles = coverage.source.name, f"{coverage.reached:.0%} within Delta E {REACH:g}; red 20, yellow 30, white 40"
    images = [_resized(pixels, shape) for pixels in (coverage.analysis, heat.round().astype(np.uint8))]
    sides = [
        captioned(image.embed(0, 0, _WIDTH // 2, image.height, extend="white"), title)
        for image, title in zip(images, titles, strict=True)
    ]
    return sides[0].join(sides[1], "horizontal")


def _resized(pixels: NDArray[np.uint8], shape: tuple[int, int]) -> pyvips.Image:
    """At `shape` (width, height) px; blocks of px where that is larger."""
    image = pyvips.Image.new_from_array(np.ascontiguousarray(pixels)).copy(interpretation="srgb")
    across, down = shape[0] / image.width, shape[1] / image.height
    resized = image.resize(across, vscale=down, kernel="nearest" if min(across, down) > 1 else "lanczos3")
    return resized.embed(0, 0, *shape, extend="copy")
