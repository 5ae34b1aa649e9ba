"""Opening a source picture of any kind and reading boxes of it as 8-bit sRGB, never the whole of it.

Every source ends as an array that can be read box by box: a Zarr array is one, a tiled TIFF is one through tifffile. What can only
be read from top to bottom (JPEG, PNG, WebP, TIFF in strips, ...) is first unpacked, once and in bands, into a Zarr array on disk.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
import tifffile
import zarr
from numpy.typing import NDArray

from hirez_mosaic.colour import CHANNELS, Alpha, Colour, Model, to_srgb
from hirez_mosaic.errors import SourceError, SourceNotFoundError
from hirez_mosaic.geometry import Box
from hirez_mosaic.vips import vips_reason

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BAND_BYTES = 16 << 20  # of strips decoded at once, about
_FETCH_BYTES = 2 << 20  # asked of libvips at once, about: it buffers many times that
_UNPACKED_SIDE = 512  # chunk of the unpacked array, px
_TURNS = {1: (0, False), 2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False)}
"""EXIF orientation -> (quarter turns counter-clockwise, mirrored left to right afterwards)."""


@dataclass(frozen=True)
class Source:
    """A picture that can be read box by box.

    path: the file or folder it came from.
    kind: the format, for people.
    array: samples as stored, anything with numpy indexing; None while the picture is only `Unpackable`.
    axes: what the axes of `array` are: "Y" and "X", "S" for channels, any other letter for an axis of which entry 0 is taken.
    size: (width, height) in px, as displayed.
    orientation: EXIF orientation, 1 to 8, that leads from stored to displayed.
    """

    path: Path
    kind: str
    array: Any
    axes: str
    size: tuple[int, int]
    colour: Colour
    orientation: int = 1
    background: tuple[int, int, int] = (255, 255, 255)
    bands: "Bands | None" = None

    @property
    def stored_size(self) -> tuple[int, int]:
        """(width, height) as stored, px."""
        return self.size if self.orientation < 5 else (self.size[1], self.size[0])

    @property
    def unpacked_bytes(self) -> int:
        """Bytes on disk that unpacking takes; 0 where boxes can be read from the file itself."""
        width, height = self.size
        return width * height * self.bands.channels * self.bands.dtype.itemsize if self.bands else 0

    def read(self, box: Box) -> NDArray[np.uint8]:
        """The box, in displayed px, as (height, width, 3) uint8 sRGB; beyond the picture its edge px repeat.

        Raises SourceError when the file is damaged there.
        """
        width, height = self.size
        inside = Box(
            min(max(box.top, 0), height - 1),
            max(min(box.bottom, height), 1),
            min(max(box.left, 0), width - 1),
            max(min(box.right, width), 1),
        )
        pixels = to_srgb(self._samples(inside), self.colour, self.background)
        if inside == box:
            return pixels
        rows = np.clip(np.arange(box.top, box.bottom), inside.top, inside.bottom - 1) - inside.top
        columns = np.clip(np.arange(box.left, box.right), inside.left, inside.right - 1) - inside.left
        return pixels[rows[:, None], columns[None, :]]

    def _samples(self, box: Box) -> NDArray[np.generic]:
        """The samples of a box within the picture, (height, width, channels), turned as displayed."""
        turns, mirrored = _TURNS[self.orientation]
        stored = _stored_box(box, self.stored_size, turns, mirrored)
        index = {"Y": stored.slices[0], "X": stored.slices[1], "S": slice(None)}
        try:
            samples = np.asarray(self.array[tuple(index.get(axis, 0) for axis in self.axes)])
        except Exception as error:  # codecs raise whatever they like on damaged data
            raise SourceError(f"{self.path} is damaged or truncated near row {stored.top}: {_first_line(error)}.") from error
        kept = [axis for axis in self.axes if axis in "YXS"]
        samples = samples.transpose([kept.index(axis) for axis in ("YXS" if "S" in kept else "YX")])
        samples = np.rot90(samples.reshape(stored.height, stored.width, -1), turns)
        return samples[:, ::-1] if mirrored else samples


@dataclass(frozen=True)
class Bands:
    """A picture that can only be read from top to bottom.

    open: starts reading; yields (rows, width, channels) arrays that follow one another.
    """

    open: Any
    channels: int
    dtype: np.dtype[Any]


def open_source(path: Path, background: tuple[int, int, int] = (255, 255, 255)) -> Source:
    """Open a picture by its content, whatever its name; reads headers only.

    background: sRGB under transparent px.
    Raises SourceNotFoundError, or SourceError for what is no picture or of a kind that is not supported.
    """
    if not path.exists():
        raise SourceNotFoundError(f"There is no file or folder {path}.")
    if path.is_dir():
        source = _open_zarr(path)
    else:
        try:
            with path.open("rb") as file:
                magic = file.read(4)
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror}.") from error
        if not magic:
            raise SourceError(f"{path} is empty.")
        source = _open_tiff(path) if magic in _TIFF_MAGIC else _open_vips(path)
    return replace(source, background=background)


def unpack(source: Source, group: zarr.Group, name: str, progress: Callable[[int], None]) -> Source:
    """Write a picture of bands into the array `name` of `group`; the source that reads from there.

    Holds a band of about 16 MiB, or a strip where that is more, and a row of chunks. progress: called with the px of each band.
    Raises SourceError when the file is damaged; nothing is taken of a truncated picture.
    """
    if source.bands is None:
        return source
    width, height = source.stored_size
    array = group.create_array(
        name,
        shape=(height, width, source.bands.channels),
        chunks=(min(_UNPACKED_SIDE, height), min(_UNPACKED_SIDE, width), source.bands.channels),
        dtype=source.bands.dtype,
        compressors=None,
        overwrite=True,
    )
    waiting = np.empty((min(_UNPACKED_SIDE, height), width, source.bands.channels), source.bands.dtype)
    top = filled = 0
    for band in source.bands.open():
        progress(band.shape[0] * width)
        taken = 0
        while taken < len(band):
            rows = min(len(band) - taken, len(waiting) - filled)
            waiting[filled : filled + rows] = band[taken : taken + rows]
            taken, filled = taken + rows, filled + rows
            if filled == len(waiting) or top + filled == height:
                array[top : top + filled] = waiting[:filled]
                top, filled = top + filled, 0
    return replace(source, array=array, axes="YXS", bands=None)


# --- everything libvips reads ------------------------------------------------------------------------------------------


def _open_vips(path: Path) -> Source:
    try:
        image = pyvips.Image.new_from_file(str(path), access="sequential", fail_on="truncated")
    except pyvips.Error as error:
        raise SourceError(f"{path} is not a picture that can be read: {vips_reason(error)}.") from error
    except UnicodeEncodeError as error:
        raise SourceError(f"{str(path)!r} cannot be opened: its name is not UTF-8; rename it.") from error
    colour, channels = _vips_colour(image)
    orientation = image.get("orientation") if image.get_typeof("orientation") else 1
    size = (image.width, image.height) if orientation < 5 else (image.height, image.width)
    bands = Bands(lambda: _vips_bands(path), channels, np.dtype(_VIPS_DTYPES[_plain(image).format]))
    kind = image.get("vips-loader").removesuffix("load").upper()
    return Source(path, kind, None, "YXS", size, colour, orientation, bands=bands)


_VIPS_DTYPES = {"uchar": "u1", "ushort": "u2", "float": "f4"}
_PLAIN = ("b-w", "grey16", "srgb", "rgb16", "cmyk")


def _plain(image: pyvips.Image) -> pyvips.Image:
    """The image in one of the colour models of `Colour` and a sample format we store."""
    if _unit_floats(image):
        return image.copy(interpretation="b-w" if image.bands < 3 else "srgb")
    if image.interpretation not in _PLAIN:
        return image.colourspace("srgb").cast("uchar")
    return image if image.format in ("uchar", "ushort") else image.cast("uchar")


def _unit_floats(image: pyvips.Image) -> bool:
    """Whether samples are a TIFF's floats: 0 to 1 like tifffile's, though libvips takes them for linear light or 0 to 255."""
    return image.format == "float" and image.interpretation in ("b-w", "grey16", "scrgb") and image.get("vips-loader") == "tiffload"


def _vips_colour(image: pyvips.Image) -> tuple[Colour, int]:
    """(what the samples of the plain image mean, its number of channels)."""
    icc = image.get("icc-profile-data") if image.get_typeof("icc-profile-data") else None
    plain = _plain(image)
    models: dict[str, Model] = {"b-w": "grey", "grey16": "grey", "cmyk": "cmyk"}
    model = models.get(plain.interpretation, "rgb")
    alpha: Alpha = "straight" if plain.bands > CHANNELS[model] else "none"
    if image.interpretation not in _PLAIN and not _unit_floats(image):
        icc = None  # the profile told of the colours before
    return Colour(model, alpha, 16 if plain.format == "ushort" else 8, icc), plain.bands


def _vips_bands(path: Path) -> Iterator[NDArray[np.generic]]:
    """The picture from top to bottom; decoded as it is asked for, in this thread."""
    try:
        image = _plain(pyvips.Image.new_from_file(str(path), access="sequential", fail_on="truncated"))
        region = pyvips.Region.new(image)
        dtype = np.dtype(_VIPS_DTYPES[image.format])
        rows = max(1, _FETCH_BYTES // (image.width * image.bands * dtype.itemsize))
        for top in range(0, image.height, rows):
            height = min(rows, image.height - top)
            data = region.fetch(0, top, image.width, height)
            yield np.frombuffer(data, dtype).reshape(height, image.width, image.bands)
    except pyvips.Error as error:
        raise SourceError(f"{path} is damaged or truncated: {vips_reason(error)}.") from error


# --- TIFF --------------------------------------------------------------------------------------------------------------


def _open_tiff(path: Path) -> Source:
    try:
        file = tifffile.TiffFile(path)
        series = file.series[0]
        page = series.keyframe
        colour = _tiff_colour(path, page)
    except SourceError:
        raise
    except Exception as error:  # tifffile raises many kinds on damaged headers
        raise SourceError(f"{path} is not a TIFF that can be read: {_first_line(error)}.") from error
    strip = 0 if page.is_tiled else page.rowsperstrip * page.imagewidth * page.samplesperpixel * series.dtype.itemsize
    same_to_vips = page.bitspersample in (1, 2, 4, 8, 16, 32) and 0 not in page.extrasamples
    for_vips = strip > 4 * _BAND_BYTES and len(series.pages) == 1 and same_to_vips
    if colour is None or for_vips or page.compression != tifffile.COMPRESSION.NONE:
        _check_complete(path, page)
    if colour is None or for_vips:
        file.close()  # libvips knows the colour model, or decodes a strip of any height row by row
        return _open_vips(path)
    axes = series.axes.replace("C", "S") if "S" not in series.axes else series.axes
    shape = dict(zip(axes, series.shape, strict=True))
    if "X" not in shape or "Y" not in shape:
        raise SourceError(f"{path} holds no picture: its axes are {series.axes}.")
    colour = _for_channels(path, colour, shape.get("S", 1))
    orientation = int(page.tags["Orientation"].value) if "Orientation" in page.tags else 1
    orientation = orientation if orientation in _TURNS else 1
    size = (shape["X"], shape["Y"]) if orientation < 5 else (shape["Y"], shape["X"])
    array = zarr.open_array(series.aszarr(level=0), mode="r")
    source = Source(path, "OME-TIFF" if file.is_ome else "BigTIFF" if file.is_bigtiff else "TIFF", array, axes, size, colour, orientation)
    if page.is_tiled:
        return source
    bands = Bands(lambda: _tiff_bands(source, page.rowsperstrip), shape.get("S", 1), array.dtype)
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
        yield upright._samples(Box(top, min(top + rows, height), 0, width))


def _tiff_colour(path: Path, page: Any) -> Colour | None:
    """What the samples mean, or None where libvips knows the colour model and tifffile does not."""
    photometric = tifffile.PHOTOMETRIC(page.photometric)
    if page.dtype is None or page.dtype.kind not in "buf" or page.dtype.itemsize > (8 if page.dtype.kind == "f" else 2):
        raise SourceError(f"{path} has samples of type {page.dtype}; use 8-bit, 16-bit or floating-point samples.")
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


def _for_channels(path: Path, colour: Colour, channels: int) -> Colour:
    """The colour of a picture of so many channels; grey in 3 channels (OME, Zarr) is red, green and blue."""
    if colour.model == "grey" and channels in (3, 4):
        return replace(colour, model="rgb", alpha="straight" if channels == 4 else "none")
    if colour.model == "grey" and channels == 2:
        return replace(colour, alpha=colour.alpha if colour.alpha != "none" else "straight")
    if channels in (CHANNELS[colour.model], CHANNELS[colour.model] + 1):
        return colour
    raise SourceError(f"{path} has {channels} channels; use grey, RGB or CMYK with or without alpha.")


# --- Zarr --------------------------------------------------------------------------------------------------------------


def _open_zarr(path: Path) -> Source:
    try:
        node = zarr.open(path, mode="r")
    except Exception as error:  # zarr raises many kinds on folders that hold no array
        raise SourceError(f"The folder {path} holds no Zarr array or group.") from error
    array = node if isinstance(node, zarr.Array) else _array_of(path, node)
    axes = _zarr_axes(path, node, array)
    if array.dtype.kind not in "buf" or array.dtype.itemsize > (8 if array.dtype.kind == "f" else 2):
        raise SourceError(f"{path} has samples of type {array.dtype}; use 8-bit, 16-bit or floating-point samples.")
    shape = dict(zip(axes, array.shape, strict=True))
    if not shape["X"] or not shape["Y"]:
        raise SourceError(f"{path} is empty: its shape is {array.shape}.")
    colour = _for_channels(path, Colour("grey", bits=8 * array.dtype.itemsize), shape.get("S", 1))
    return Source(path, "Zarr", array, axes, (shape["X"], shape["Y"]), colour)


def _multiscales(group: zarr.Group) -> dict[str, Any]:
    """The first OME-Zarr multiscale image of a group, {} where there is none."""
    attributes = dict(group.attrs)
    ome = attributes.get("ome", attributes)
    found = ome.get("multiscales") if isinstance(ome, dict) else None
    return found[0] if found else {}


def _array_of(path: Path, group: zarr.Group) -> zarr.Array[Any]:
    scales = _multiscales(group)
    names = [scales["datasets"][0]["path"]] if scales else [name for name, _ in group.arrays()]
    if len(names) != 1:
        raise SourceError(f"The Zarr group {path} holds {len(names)} arrays; name one of them: {', '.join(sorted(names)) or 'none'}.")
    array = group.get(names[0])
    if not isinstance(array, zarr.Array):
        raise SourceError(f"The Zarr group {path} names {names[0]!r} as its picture, but holds no such array.")
    return array


def _zarr_axes(path: Path, node: Any, array: zarr.Array[Any]) -> str:
    """Axes by OME-Zarr's own word, else by shape: (Y, X), (Y, X, up to 4 channels), (up to 4 channels, Y, X), leading 1s."""
    named = _multiscales(node).get("axes") if isinstance(node, zarr.Group) else None
    if named:
        letters = "".join((axis["name"] if isinstance(axis, dict) else axis).upper()[0] for axis in named)
        axes = letters.replace("C", "S")
    else:
        shape = array.shape
        leading = max(0, len(shape) - 3)
        last, first = (len(shape) > 2 and shape[place] <= 4 for place in (-1, -3))
        core = "YX" if len(shape) == 2 else "YXS" if last else "SYX" if first else ""
        axes = "TZPQVW"[:leading] + core if all(entries == 1 for entries in shape[:leading]) else ""
    if len(axes) != array.ndim or "Y" not in axes or "X" not in axes or len(set(axes)) != len(axes):
        raise SourceError(f"{path} has the shape {array.shape}; use (rows, columns) or (rows, columns, channels).")
    return axes


def _stored_box(box: Box, stored_size: tuple[int, int], turns: int, mirrored: bool) -> Box:
    """Where a displayed box lies in the stored picture that is turned, then mirrored, to display it."""
    width, height = stored_size
    shown_width = height if turns % 2 else width
    top, bottom, left, right = box.top, box.bottom, box.left, box.right
    if mirrored:
        left, right = shown_width - right, shown_width - left
    if turns == 1:  # np.rot90 once: displayed [i, j] is stored [j, width - 1 - i]
        return Box(left, right, width - bottom, width - top)
    if turns == 2:
        return Box(height - bottom, height - top, width - right, width - left)
    if turns == 3:  # displayed [i, j] is stored [height - 1 - j, i]
        return Box(height - right, height - left, top, bottom)
    return Box(top, bottom, left, right)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
