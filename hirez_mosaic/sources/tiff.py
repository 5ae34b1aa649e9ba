"""TIFF, BigTIFF, OME-TIFF and pyramidal TIFF through tifffile; what it does not know through libvips."""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

from hirez_mosaic.colour import CHANNELS, Alpha, Colour, Model
from hirez_mosaic.errors import SourceError, first_line
from hirez_mosaic.geometry import Box
from hirez_mosaic.sources.source import TURNS, Bands, Level, Source, check_samples, check_size, for_channels, proper_levels
from hirez_mosaic.sources.with_vips import open_vips

_BAND_BYTES = 16 << 20  # of strips decoded at once, about


def open_tiff(path: Path, max_px: int) -> Source:
    """The first picture of a TIFF with its levels; of axes other than rows, columns and channels the first entry.

    Raises SourceError for what is damaged, or has samples or channels that no `Colour` describes.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(tifffile.TiffFile(path))
            series = file.series[0]
            colour = _tiff_colour(path, series.keyframe)
        except SourceError:
            raise
        except Exception as error:  # tifffile raises many kinds on damaged headers
            raise SourceError(f"{path} is not a TIFF that can be read: {first_line(error)}.") from error
        source = _source(path, file, series, colour, max_px)
        if source is not None:
            stack.pop_all()  # the source closes it
            return source
    return open_vips(path, max_px)


def _source(path: Path, file: tifffile.TiffFile, series: Any, colour: Colour | None, max_px: int) -> Source | None:
    """The source, or None where libvips knows the colour model, or decodes a strip of any height row by row."""
    page = series.keyframe
    check_size(path, (page.imagewidth, page.imagelength), max_px)
    strip = _strip_bytes(page)
    same_to_vips = page.bitspersample in (1, 2, 4, 8, 16, 32) and 0 not in page.extrasamples
    for_vips = strip > 4 * _BAND_BYTES and len(series.pages) == 1 and same_to_vips
    pyramid = series.levels if colour is not None and colour.palette is None and colour.bits > 1 else [series]  # else px cannot be averaged
    for level in pyramid:
        _check_complete(path, level.keyframe, made_up=colour is None or for_vips)
    if colour is None or for_vips:
        return None
    axes = _axes(series)
    if "X" not in axes or "Y" not in axes:
        raise SourceError(f"{path} holds no picture: its axes are {series.axes}.")
    colour = for_channels(path, colour, dict(zip(axes, series.shape, strict=True)).get("S", 1))
    orientation = int(page.tags["Orientation"].value) if "Orientation" in page.tags else 1
    orientation = orientation if orientation in TURNS else 1
    same = [number for number, level in enumerate(pyramid) if _meaning(level.keyframe) == _meaning(page)]
    levels = proper_levels([_level(path, series, number, colour) for number in same])
    kind = "OME-TIFF" if file.is_ome else "BigTIFF" if file.is_bigtiff else "TIFF"
    return Source(path, kind, levels, colour, orientation, file=file)


def _level(path: Path, series: Any, number: int, colour: Colour) -> Level:
    """The level of a series, with bands where it lies in strips."""
    one, page = series.levels[number], series.levels[number].keyframe
    axes = _axes(one)
    shape = dict(zip(axes, one.shape, strict=True))
    tiles = series.aszarr(level=number, maxworkers=2)  # more than 1: decoded in threads of Zarr's, not in its one event loop
    level = Level((shape["X"], shape["Y"]), zarr.open_array(tiles, mode="r"), axes)
    if page.is_tiled:
        return level
    read = partial(_tiff_bands, Source(path, "TIFF", (level,), colour), page.rowsperstrip)
    return replace(level, bands=Bands(read, shape.get("S", 1), level.array.dtype, 3 * max(_BAND_BYTES, _strip_bytes(page))))


def _meaning(page: Any) -> tuple[Any, ...]:
    """What the samples of all levels must have in common."""
    return page.photometric, page.bitspersample, page.samplesperpixel, tuple(page.extrasamples)


def _axes(series: Any) -> str:
    """The axes of a series in the letters of `Level`."""
    return series.axes.replace("C", "S") if "S" not in series.axes else series.axes


def _strip_bytes(page: Any) -> int:
    """Bytes of a decoded strip; 0 of a page in tiles."""
    return 0 if page.is_tiled else page.rowsperstrip * page.imagewidth * page.samplesperpixel * page.dtype.itemsize


def _check_complete(path: Path, page: Any, made_up: bool) -> None:
    """Raise SourceError when px lie nowhere, or beyond the end of the file where a decoder would make them up."""
    pieces = math.prod(page.chunked)
    if len(page.dataoffsets) < pieces:
        raise SourceError(f"{path} is truncated: its px make {pieces:,} tiles or strips, and it has {len(page.dataoffsets):,}.")
    end = max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=False)), default=0)
    size = page.parent.filehandle.size
    if end > size and (made_up or page.compression != tifffile.COMPRESSION.NONE):
        raise SourceError(f"{path} is truncated: its px end at byte {end}, the file ends at byte {size}.")


def _tiff_bands(source: Source, rows_per_strip: int) -> Iterator[NDArray[np.generic]]:
    """The stored px of a TIFF in strips, from top to bottom, each strip decoded once."""
    width, height = source.stored_size
    row_bytes = width * source.levels[0].array.dtype.itemsize * max(1, CHANNELS[source.colour.model])
    rows = max(1, _BAND_BYTES // (row_bytes * rows_per_strip)) * rows_per_strip
    for top in range(0, height, rows):
        yield source.samples(Box(top, min(top + rows, height), 0, width))


def _tiff_colour(path: Path, page: Any) -> Colour | None:
    """What the samples mean, or None where libvips knows the colour model and tifffile does not."""
    photometric = tifffile.PHOTOMETRIC(page.photometric)
    check_samples(path, page.dtype)
    kinds: dict[tifffile.PHOTOMETRIC, Model] = {
        tifffile.PHOTOMETRIC.MINISBLACK: "grey",
        tifffile.PHOTOMETRIC.MINISWHITE: "grey",
        tifffile.PHOTOMETRIC.PALETTE: "grey",
        tifffile.PHOTOMETRIC.RGB: "rgb",
        tifffile.PHOTOMETRIC.SEPARATED: "cmyk",
    }
    if photometric == tifffile.PHOTOMETRIC.YCBCR and page.compression in (6, 7):  # JPEG: its decoder gives RGB
        model: Model | None = "rgb"
    else:
        model = kinds.get(photometric)
    if model is None:
        return None
    extra = page.extrasamples[0] if page.extrasamples else 0
    palette = None
    if photometric == tifffile.PHOTOMETRIC.PALETTE:
        colours = np.asarray(page.colormap).T
        palette = (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)  # old programs wrote 8 of its 16 bits
    icc = page.tags["InterColorProfile"].value if "InterColorProfile" in page.tags else None
    alpha: Alpha = "associated" if extra == 1 else "straight" if extra == 2 else "none"
    bits = page.bitspersample if page.dtype.kind != "f" else 32
    inverted = photometric == tifffile.PHOTOMETRIC.MINISWHITE
    return Colour(model, alpha, bits, None if palette is not None else icc, palette, inverted)
