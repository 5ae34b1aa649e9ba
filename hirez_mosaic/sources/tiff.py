"""TIFF, BigTIFF, OME-TIFF and pyramidal TIFF through tifffile; high compressed strips through libvips, row by row."""

import math
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

from hirez_mosaic.errors import SettingError, SourceError, first_line
from hirez_mosaic.pixels.colour import CHANNELS, Alpha, Colour, Model
from hirez_mosaic.pixels.geometry import Box
from hirez_mosaic.sources.decoded import open_raw
from hirez_mosaic.sources.mask import Masked, is_mask, mask_of
from hirez_mosaic.sources.source import (
    TURNS,
    Bands,
    Level,
    Source,
    check_samples,
    check_size,
    for_channels,
    proper_levels,
)
from hirez_mosaic.sources.with_vips import Loader, open_vips

_BAND_BYTES = 16 << 20  # of strips decoded at once, about
_PHOTOMETRIC = tifffile.PHOTOMETRIC
_MODELS: dict[int, Model] = {
    _PHOTOMETRIC.MINISBLACK: "grey",
    _PHOTOMETRIC.MINISWHITE: "grey",
    _PHOTOMETRIC.PALETTE: "grey",
    _PHOTOMETRIC.RGB: "rgb",
    _PHOTOMETRIC.SEPARATED: "cmyk",
    _PHOTOMETRIC.YCBCR: "ycbcr",
    _PHOTOMETRIC.CIELAB: "lab",
    _PHOTOMETRIC.ICCLAB: "lab",
}
_RAW = (32803, 34892)  # photometric: colour filter array, linear raw
_TO_RGB = (
    7,
    34892,
    33003,
    33004,
    33005,
    34712,
    22610,
    50002,
    52546,
)  # compressions whose decoders turn YCbCr into RGB: JPEG, 2000, XR, XL
_STRICT: dict[int, Callable[..., Any]] = {
    8: imagecodecs.zlib_decode,
    32946: imagecodecs.zlib_decode,
    32773: imagecodecs.packbits_decode,
}  # compressions of which tifffile decodes no byte more than it expects, and libtiff does
_OF_LIBTIFF = (5, 7, 8, 32773, 32946)  # compressions that libtiff decodes row by row, and finds damage in
_FAX = (2, 3, 4)  # compressions of which imagecodecs gives half a page in silence, and libtiff the whole
_NODATA = 42113  # GDAL's tag
_TIFFLOAD = Loader("tiffload", "TIFF", pages=True)


@dataclass(frozen=True)
class _Found:
    """A picture in a TIFF.

    series: tifffile's, or a page alone.
    number: of its page in the file, from 0; None within SubIFDs.
    entries: of axes other than rows, columns and channels, by letter.
    channels: whether its channels have names of their own, as OME's do.
    """

    series: Any
    number: int | None
    entries: dict[str, int]
    channels: bool


def open_tiff(path: Path, max_px: int, page: int = 0, plane: int = 0) -> Source:
    """Open a picture of a TIFF with its levels.

    max_px: the most px that its header may claim.
    page: which picture, from 0.
    plane: which entry of its axes other than rows, columns and channels, from 0.
    Raises SourceError for what is damaged, compressed in a way that is not known, or has samples or channels that no
    `Colour` describes, SettingError for a page or plane that is not there.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(tifffile.TiffFile(path))
            found = _find(path, file, page, plane)
            if found is None:
                return open_raw(path, max_px)
            source = _source(path, file, found, max_px)
        except (SourceError, SettingError, MemoryError):
            raise
        except Exception as error:  # tifffile raises many kinds on damaged headers
            raise SourceError(f"{path} is not a TIFF that can be read: {first_line(error)}.") from error
        if source is not None:
            stack.pop_all()  # the source closes it
            return source
    return open_vips(path, max_px, _TIFFLOAD, found.number or 0)


def _find(path: Path, file: tifffile.TiffFile, page: int, plane: int) -> _Found | None:
    """The picture asked for; None where it is a camera's raw one."""
    if not page and not plane:
        first = file.pages.first
        inner = _largest_within(first) if first.is_reduced and first.subifds else None
        if inner is not None:  # a thumbnail comes first, as in DNG
            if inner.photometric in _RAW:
                return None
            return _Found(tifffile.TiffPageSeries([inner]), None, {}, False)
        if first.photometric in _RAW:
            return None
    _check_chain(path, file)
    scientific = file.is_ome or file.is_imagej or file.is_lsm or file.is_micromanager
    series = [one for one in file.series if one.keyframe is not None and _is_whole(one.keyframe)] or list(file.series)
    planes = [_planes(one) for one in series]
    total = len(series) if scientific else sum(map(math.prod, (sizes.values() for sizes in planes)))
    if page >= total:
        raise SettingError(f"`source_page` is {page + 1} and {path} has {total}; use 1 to {total}.")
    at = page if scientific else 0
    while not scientific and page >= math.prod(planes[at].values()):
        page, at = page - math.prod(planes[at].values()), at + 1
    sizes = planes[at]
    number = plane if scientific or plane else page
    if number >= math.prod(sizes.values()):
        raise SettingError(
            f"`plane` is {number + 1} and {path} has {math.prod(sizes.values())}; use 1 to {math.prod(sizes.values())}."
        )
    entries = (
        dict(zip(sizes, (int(index) for index in np.unravel_index(number, tuple(sizes.values()))), strict=True))
        if sizes
        else {}
    )
    return _Found(series[at], _page_number(series[at], number), entries, "C" in series[at].axes)


def _check_chain(path: Path, file: tifffile.TiffFile) -> None:
    """Raise SourceError where a page is followed by one before it: tifffile would read them again and again."""
    layout, handle, seen = file.tiff, file.filehandle, set[int]()
    offset = file.pages.first.offset
    while offset and offset not in seen:
        seen.add(offset)
        handle.seek(offset)
        tags = _unpacked(layout.tagnoformat, handle.read(layout.tagnosize))
        handle.seek(offset + layout.tagnosize + tags * layout.tagsize)
        offset = _unpacked(layout.offsetformat, handle.read(layout.offsetsize))
    if offset:
        raise SourceError(f"{path} is damaged: its page {len(seen)} is followed by a page before it.")


def _unpacked(layout: str, data: bytes) -> int:
    """The number that stands there; 0 where the file ends."""
    return int(struct.unpack(layout, data)[0]) if len(data) == struct.calcsize(layout) else 0


def _is_whole(page: Any) -> bool:
    """Whether a page is neither a smaller version of another nor a mask."""
    return not page.is_reduced and not is_mask(page)


def _page_number(series: Any, plane: int) -> int | None:
    """Which page of the file, from 0, holds a plane of a series; None where it lies within SubIFDs."""
    page = series.pages[plane] if plane < len(series.pages) else None
    return int(page.index) if page is not None and page.treeindex == (page.index,) else None


def _largest_within(page: Any) -> Any:
    """The largest picture in a page's SubIFDs that is no smaller version of another; None where there is none."""
    inner = [one for one in page.pages if isinstance(one, tifffile.TiffPage) and not one.is_reduced]
    return max(inner, key=lambda one: one.imagewidth * one.imagelength, default=None)


def _planes(series: Any) -> dict[str, int]:
    """The length of every axis but rows, columns and channels, in their order."""
    axes = _axes(series)
    return {axis: length for axis, length in zip(axes, series.shape, strict=True) if axis not in "YXS"}


def _source(path: Path, file: tifffile.TiffFile, found: _Found, max_px: int) -> Source | None:
    """The source, or None where libvips decodes a strip of any height row by row."""
    series, page = found.series, found.series.keyframe
    check_size(path, (page.imagewidth, page.imagelength), max_px)
    colour = _tiff_colour(path, page, found)
    masked = not found.channels and not page.extrasamples and mask_of(file, page) is not None
    for_vips = _is_for_vips(page, found, masked)
    pyramid = (
        series.levels if colour.palette is None and colour.bits > 1 and colour.nodata is None else [series]
    )  # else no px are averaged
    for level in pyramid:
        _check_complete(path, level.keyframe, made_up=for_vips)
    if for_vips:
        return None
    axes = _axes(series)
    if "X" not in axes or "Y" not in axes:
        raise SourceError(f"{path} holds no picture: its axes are {series.axes}.")
    shape = dict(zip(axes, series.shape, strict=True))
    colour, notes = _with_extras(path, colour, page, shape.get("S", 1), found.channels)
    if masked:
        colour = replace(colour, alpha="straight", opacity=shape.get("S", 1))
    same = [number for number, level in enumerate(pyramid) if _meaning(level.keyframe) == _meaning(page)]
    masks = [mask_of(file, pyramid[number].keyframe) if masked else None for number in same]
    levels = proper_levels(
        [_level(path, found, number, colour, mask) for number, mask in zip(same, masks, strict=True)]
    )
    kind = "OME-TIFF" if file.is_ome else "BigTIFF" if file.is_bigtiff else "TIFF"
    return Source(path, kind, levels, colour, _orientation(page), file=file, named=found.channels, notes=notes)


def _is_for_vips(page: Any, found: _Found, masked: bool) -> bool:
    """Whether libtiff reads the page: what it alone reads right, and strips too high to be decoded as a whole, of which
    it gives the same px row by row.
    """
    if found.number is None or found.channels:
        return False
    if page.compression in _FAX or _is_subsampled(page):
        return True
    plain = (
        page.bitspersample in (1, 8, 16)
        and page.dtype.kind in "bu"
        and page.photometric in (0, 1, 2, 3, 5)
        and not page.extrasamples
    )
    jpeg = page.photometric == _PHOTOMETRIC.YCBCR and page.compression == tifffile.COMPRESSION.JPEG
    if masked or not (plain or jpeg):
        return False
    high = _strip_bytes(page) > 4 * _BAND_BYTES and page.compression in _OF_LIBTIFF
    return high or _is_last_strip_padded(page)


def _is_last_strip_padded(page: Any) -> bool:
    """Whether the last strip is as high as the others and goes on below the picture, which tifffile takes for damage in
    some compressions.
    """
    decode = _STRICT.get(page.compression)
    if decode is None or page.is_tiled or not page.imagelength % page.rowsperstrip:
        return False
    file = page.parent.filehandle
    file.seek(page.dataoffsets[-1])
    try:
        held = len(decode(file.read(page.databytecounts[-1]), out=_strip_bytes(page)))
    except Exception:  # a decoder raises what it likes; damage is found when px are read
        return False
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    return bool(held > page.imagelength % page.rowsperstrip * -(-page.imagewidth * samples * page.bitspersample // 8))


def _is_subsampled(page: Any) -> bool:
    """Whether its YCbCr has colour at lower resolution, and no decoder that makes RGB of it."""
    ycbcr = page.photometric == _PHOTOMETRIC.YCBCR and page.compression not in _TO_RGB
    return ycbcr and tuple(page.subsampling or (1, 1)) != (1, 1)


def _orientation(page: Any) -> int:
    """1 to 8, whatever type of number it is stored as; 1 where it makes no sense."""
    value: Any = page.tags["Orientation"].value if "Orientation" in page.tags else 1
    with suppress(TypeError, ValueError, IndexError):
        value = value[0] if isinstance(value, bytes | tuple | list) else value
        return int(value) if int(value) in TURNS else 1
    return 1


def _level(path: Path, found: _Found, number: int, colour: Colour, mask: Any) -> Level:
    """The level of a series, with bands where it lies in strips, and a channel more where it has a mask page."""
    one, page = found.series.levels[number], found.series.levels[number].keyframe
    axes = _axes(one)
    shape = dict(zip(axes, one.shape, strict=True))
    tiles = found.series.aszarr(
        level=number, maxworkers=2
    )  # more than 1: decoded in threads of Zarr's, not in its one event loop
    level = Level((shape["X"], shape["Y"]), zarr.open_array(tiles, mode="r"), axes, entries=found.entries)
    if mask is not None:
        masked = Masked.of(level.array, mask, axes, colour)
        level, axes, shape = (
            replace(level, array=masked, axes=masked.axes),
            masked.axes,
            {**shape, "S": 1 + shape.get("S", 1)},
        )
    if page.is_tiled:
        return level
    channels, dtype = shape.get("S", 1), level.samples.dtype
    if mask is None and _lies_as_it_is(page) and not found.entries and axes in ("YX", "YXS"):
        rows = partial(
            _rows_as_they_are,
            path,
            page.dataoffsets[0],
            page.parent.byteorder + page.dtype.char,
            (*level.size[::-1], channels),
        )
        return replace(level, bands=Bands(rows, channels, dtype, 3 * _BAND_BYTES))
    read = partial(_tiff_bands, Source(path, "TIFF", (level,), colour), page.rowsperstrip, channels)
    return replace(level, bands=Bands(read, channels, dtype, 3 * max(_BAND_BYTES, _strip_bytes(page))))


def _lies_as_it_is(page: Any) -> bool:
    """Whether the samples lie in the file one after another as they are."""
    whole = page.bitspersample in (8, 16, 32, 64) and page.fillorder == 1 and page.predictor == 1
    return bool(
        page.compression == tifffile.COMPRESSION.NONE and whole and page.is_contiguous and page.dtype.kind in "uif"
    )


def _rows_as_they_are(path: Path, start: int, dtype: str, shape: tuple[int, int, int]) -> Iterator[NDArray[np.generic]]:
    height, width, channels = shape
    kind = np.dtype(dtype)
    step = max(1, _BAND_BYTES // (width * channels * kind.itemsize))
    with path.open("rb") as file:
        file.seek(start)
        for top in range(0, height, step):
            count = min(step, height - top) * width * channels
            data = file.read(count * kind.itemsize)
            if len(data) < count * kind.itemsize:
                raise SourceError(f"{path} is truncated: its px end near row {top}.")
            yield np.frombuffer(data, kind).reshape(-1, width, channels).astype(kind.newbyteorder("="), copy=False)


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
        raise SourceError(
            f"{path} is truncated: its px make {pieces:,} tiles or strips, and it has {len(page.dataoffsets):,}."
        )
    places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if any(count and not offset for offset, count in places):
        raise SourceError(f"{path} is damaged: it does not say where its px lie.")
    if not any(page.databytecounts):  # where some lack, as GDAL may leave them out, those are black
        raise SourceError(f"{path} is damaged: it has no bytes of px.")
    end = max(map(sum, places), default=0)
    size = page.parent.filehandle.size
    if end > size and (made_up or page.compression != tifffile.COMPRESSION.NONE):
        raise SourceError(f"{path} is truncated: its px end at byte {end}, the file ends at byte {size}.")


def _tiff_bands(source: Source, rows_per_strip: int, channels: int) -> Iterator[NDArray[np.generic]]:
    """The stored px of a TIFF in strips, from top to bottom, each strip decoded once."""
    width, height = source.stored_size
    row_bytes = width * source.levels[0].samples.dtype.itemsize * channels
    rows = max(1, _BAND_BYTES // (row_bytes * rows_per_strip)) * rows_per_strip
    for top in range(0, height, rows):
        yield source.samples(Box(top, min(top + rows, height), 0, width))


def _tiff_colour(path: Path, page: Any, found: _Found) -> Colour:
    """What the samples mean, but for channels beyond the colours. Raises SourceError for what nobody here can read."""
    _check_compression(path, page)
    check_samples(path, page.dtype)
    model = _MODELS.get(page.photometric)
    if model is None:
        name = getattr(page.photometric, "name", page.photometric)
        raise SourceError(f"{path} has colours of the kind {name}, which are not supported; convert it to RGB.")
    if model == "ycbcr":
        if page.compression in _TO_RGB:
            model = "rgb"
        elif _is_subsampled(page) and not _is_for_vips(page, found, False):
            raise SourceError(
                f"{path} has YCbCr of lower resolution in a SubIFD, which is not supported; convert it to RGB."
            )
    bits = page.bitspersample if page.dtype.kind != "f" else 32
    colour = Colour(model, bits=bits, inverted=page.photometric == _PHOTOMETRIC.MINISWHITE, nodata=_nodata(page))
    if model == "lab":
        if page.dtype.kind != "f" and page.bitspersample not in (8, 16):
            raise SourceError(
                f"{path} has CIELAB in {page.bitspersample} bits, which is not supported; convert it to RGB."
            )
        return replace(colour, offset=page.photometric == _PHOTOMETRIC.ICCLAB)
    if page.photometric == _PHOTOMETRIC.PALETTE:
        colours = np.asarray(page.colormap).T
        palette = (colours >> 8 if colours.max() > 255 else colours).astype(
            np.uint8
        )  # old programs wrote 8 of its 16 bits
        return replace(colour, palette=palette)
    return replace(colour, icc=page.tags["InterColorProfile"].value if "InterColorProfile" in page.tags else None)


def _check_compression(path: Path, page: Any) -> None:
    """Raise SourceError for a compression that tifffile does not decode."""
    number = int(page.compression)
    if number == 6:
        raise SourceError(
            f"{path} is a TIFF with old-style JPEG, which is not supported; convert it, for instance by tiffcp -c lzw."
        )
    if number not in tifffile.TIFF.DECOMPRESSORS:
        name = getattr(page.compression, "name", "the compression")
        raise SourceError(
            f"{path} is a TIFF with {name} ({number}), which is not supported; convert it to LZW or Deflate."
        )


def _nodata(page: Any) -> float | None:
    """GDAL's value of px without a picture, where samples can have it."""
    if _NODATA not in page.tags:
        return None
    try:
        value = float(str(page.tags[_NODATA].value).strip(" \0"))
    except ValueError:
        return None
    if page.dtype.kind == "f":
        return value
    limits = np.iinfo(page.dtype) if page.dtype.kind in "ui" else None
    return value if limits is not None and value.is_integer() and limits.min <= value <= limits.max else None


def _with_extras(path: Path, colour: Colour, page: Any, channels: int, named: bool) -> tuple[Colour, tuple[str, ...]]:
    """(the colour with its opacity by ExtraSamples, notes of channels that are left out)."""
    if named:  # OME's channels are what they are, and never opacity
        return (replace(colour, model="rgb") if channels == 3 and colour.model == "grey" else colour), ()
    if colour.model == "grey" and not page.extrasamples and colour.palette is None and page.samplesperpixel == 1:
        return for_channels(path, colour, channels), ()
    colours = CHANNELS[colour.model]
    extras = [int(one) for one in page.extrasamples]
    at = next((number for number, kind in enumerate(extras) if kind in (1, 2)), None)
    if channels < colours + (0 if at is None else at + 1):
        raise SourceError(f"{path} has {channels} channels, too few for its kind of colours; it is damaged.")
    alpha: Alpha = "none" if at is None else "associated" if extras[at] == 1 else "straight"
    left = channels - colours - (at is not None)
    note = f"has channels beside its colours and opacity, of which {left} {'are' if left > 1 else 'is'} left out"
    return replace(colour, alpha=alpha, opacity=None if at is None else colours + at), (note,) if left else ()
