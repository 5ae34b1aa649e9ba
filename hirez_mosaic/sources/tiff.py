"""TIFF, BigTIFF, OME-TIFF and pyramidal TIFF through tifffile; what it does not know through libvips."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

from hirez_mosaic.colour import CHANNELS, Alpha, Colour, Model
from hirez_mosaic.errors import SourceError
from hirez_mosaic.geometry import Box
from hirez_mosaic.sources.source import TURNS, Bands, Source, check_samples, first_line, for_channels
from hirez_mosaic.sources.with_vips import open_vips

_BAND_BYTES = 16 << 20  # of strips decoded at once, about


def open_tiff(path: Path) -> Source:
    """The first picture of a TIFF at its full size; of axes other than rows, columns and channels the first entry.

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
        source = _source(path, file, series, colour)
        if source is not None:
            stack.pop_all()  # the source closes it
            return source
    return open_vips(path)


def _source(path: Path, file: tifffile.TiffFile, series: Any, colour: Colour | None) -> Source | None:
    """The source, or None where libvips knows the colour model, or decodes a strip of any height row by row."""
    page = series.keyframe
    strip = 0 if page.is_tiled else page.rowsperstrip * page.imagewidth * page.samplesperpixel * series.dtype.itemsize
    same_to_vips = page.bitspersample in (1, 2, 4, 8, 16, 32) and 0 not in page.extrasamples
    for_vips = strip > 4 * _BAND_BYTES and len(series.pages) == 1 and same_to_vips
    if colour is None or for_vips or page.compression != tifffile.COMPRESSION.NONE:
        _check_complete(path, page)
    if colour is None or for_vips:
        return None
    axes = series.axes.replace("C", "S") if "S" not in series.axes else series.axes
    shape = dict(zip(axes, series.shape, strict=True))
    if "X" not in shape or "Y" not in shape:
        raise SourceError(f"{path} holds no picture: its axes are {series.axes}.")
    colour = for_channels(path, colour, shape.get("S", 1))
    orientation = int(page.tags["Orientation"].value) if "Orientation" in page.tags else 1
    orientation = orientation if orientation in TURNS else 1
    size = (shape["X"], shape["Y"]) if orientation < 5 else (shape["Y"], shape["X"])
    array = zarr.open_array(series.aszarr(level=0), mode="r")
    kind = "OME-TIFF" if file.is_ome else "BigTIFF" if file.is_bigtiff else "TIFF"
    source = Source(path, kind, array, axes, size, colour, orientation, file=file)
    if page.is_tiled:
        return source
    bands = Bands(lambda: _tiff_bands(source, page.rowsperstrip), shape.get("S", 1), array.dtype, 3 * max(_BAND_BYTES, strip))
    return replace(source, bands=bands)


def _check_complete(path: Path, page: Any) -> None:
    """Raise SourceError when px lie beyond the end of the file: libvips and JPEG's decoder would make up what is missing."""
    end = max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=False)), default=0)
    size = page.parent.filehandle.size
    if end > size:
        raise SourceError(f"{path} is truncated: its px end at byte {end}, the file ends at byte {size}.")


def _tiff_bands(source: Source, rows_per_strip: int) -> Iterator[NDArray[np.generic]]:
    """The stored px of a TIFF in strips, from top to bottom, each strip decoded once."""
    upright = replace(source, orientation=1, size=source.stored_size)
    width, height = source.stored_size
    row_bytes = width * source.array.dtype.itemsize * max(1, CHANNELS[source.colour.model])
    rows = max(1, _BAND_BYTES // (row_bytes * rows_per_strip)) * rows_per_strip
    for top in range(0, height, rows):
        yield upright.samples(Box(top, min(top + rows, height), 0, width))


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
        palette = (np.asarray(page.colormap).T >> 8).astype(np.uint8)
    icc = page.tags["InterColorProfile"].value if "InterColorProfile" in page.tags else None
    alpha: Alpha = "associated" if extra == 1 else "straight" if extra == 2 else "none"
    bits = page.bitspersample if page.dtype.kind != "f" else 32
    inverted = photometric == tifffile.PHOTOMETRIC.MINISWHITE
    return Colour(model, alpha, bits, None if palette is not None else icc, palette, inverted)
