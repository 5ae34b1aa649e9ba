"""Sources that other decoders give whole: HEIC, JPEG XL, JPEG 2000, BMP, PPM, PSD, HDR, EXR, lossless JPEG, camera raw.

Each is decoded when its px are asked for, and held in memory meanwhile: `Bands.held` says so before.
"""

import re
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pi_heif
import tifffile
from numpy.typing import NDArray
from PIL import Image

from hirez_mosaic.errors import SettingError, SourceError, first_line
from hirez_mosaic.pixels.colour import Colour
from hirez_mosaic.pixels.profiles import coded_profile
from hirez_mosaic.sources.source import Bands, Level, Source, check_size

_BAND_PX = 1 << 20
_RAW_PX = 32  # px of a camera in a byte, at most: even lossy ones take a tenth of a byte and more
_MODES = {
    "1": "L",
    "P": "RGB",
    "PA": "RGBA",
    "RGBX": "RGB",
    "RGBa": "RGBA",
    "La": "LA",
    "YCbCr": "RGB",
    "I;16B": "I;16",
    "I;16L": "I;16",
}
_COLOURS = {
    "L": Colour("grey"),
    "LA": Colour("grey", "straight"),
    "RGB": Colour("rgb"),
    "RGBA": Colour("rgb", "straight"),
    "CMYK": Colour("cmyk"),
    "I;16": Colour("grey", bits=16),
    "I": Colour("grey", bits=16),
    "F": Colour("grey", bits=32, linear=True),
    "LAB": Colour("lab"),
}


def _source(
    path: Path,
    kind: str,
    size: tuple[int, int],
    form: tuple[int, type],
    colour: Colour,
    decode: Callable[[], NDArray[Any]],
    max_px: int,
    orientation: int = 1,
) -> Source:
    """Make a source of the px, (height, width, channels), that `decode` gives.

    size: (width, height), px.
    form: (channels, type of a sample).
    orientation: EXIF's, 1 to 8.
    Raises SourceError where `size` is more than `max_px`; its bands raise it where the data is not as `form` says.
    """
    check_size(path, size, max_px)
    (width, height), (channels, sample) = size, form
    dtype = np.dtype(sample)

    def bands() -> Iterator[NDArray[Any]]:
        try:
            whole = decode()
        except Exception as error:  # decoders raise whatever they like, MemoryError for lengths that lie
            if isinstance(error, OSError) and error.errno is not None:  # a disk that fails is not the picture's fault
                raise
            raise SourceError(f"{path} is damaged or truncated: {first_line(error)}.") from error
        if whole.size != height * width * channels:
            raise SourceError(
                f"{path} is damaged: its header tells of {width} x {height} px, its data of {whole.shape}."
            )
        whole = whole.reshape(height, width, channels)
        rows = max(1, _BAND_PX // width)
        for top in range(0, height, rows):
            yield np.ascontiguousarray(whole[top : top + rows]).astype(dtype, copy=False)

    level = Level(
        size, bands=Bands(bands, channels, dtype, 3 * width * height * channels * dtype.itemsize + (16 << 20))
    )
    return Source(path, kind, (level,), colour, orientation if 1 <= orientation <= 8 else 1)


def _opened(path: Path, opener: Callable[[], Any]) -> Any:
    """What a library opens. Raises SourceError where it cannot."""
    try:
        return opener()
    except Exception as error:  # decoders raise whatever they like on damaged headers, MemoryError for lengths that lie
        raise SourceError(f"{path} is not a picture that can be read: {first_line(error)}.") from error


def extra(path: Path, kind: str, package: str, name: str) -> Any:
    """Import a package that only an extra installs.

    path: of the picture that needs it.
    kind: what the picture is, for people.
    package: what is imported.
    name: of the extra.
    Raises SourceError, which names the extra, where the package is missing.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise SourceError(
            f"{path} is {kind}; install what reads it with pip install 'hirez-mosaic[{name}]'."
        ) from error


def open_pillow(path: Path, max_px: int, kind: str, formats: tuple[str, ...], page: int = 0) -> Source:
    """Open what Pillow reads.

    max_px: the most px that the header may claim.
    kind: the format, for people.
    formats: Pillow's names of the formats that are tried.
    page: from 0.
    Raises SourceError for what Pillow cannot read, or reads in a mode that has no sRGB.
    """

    def fresh() -> Image.Image:
        image = Image.open(path, formats=formats)
        if page:
            image.seek(page)
        return image

    with _opened(path, fresh) as image:
        mode, size, info = _plain_mode(image), image.size, dict(image.info)
        orientation = _orientation(image)
    if mode not in _COLOURS:
        raise SourceError(f"{path} has px of Pillow's mode {mode}, which are not supported; convert it to TIFF or PNG.")
    colour = _COLOURS[mode]
    icc = info.get("icc_profile") or (_jp2_profile(path) if kind == "JPEG 2000" else None)
    colour = replace(colour, icc=None if mode == "LAB" else icc)
    sample = {"I;16": np.uint16, "I": np.uint16, "F": np.float32}.get(mode, np.uint8)

    def decode() -> NDArray[Any]:
        with fresh() as image:
            px = np.asarray(image.convert(mode) if image.mode != mode else image)
        return px.clip(0, 65535).astype(np.uint16) if mode in ("I", "I;16") else px

    return _source(path, kind, size, (Image.getmodebands(mode), sample), colour, decode, max_px, orientation)


def _plain_mode(image: Image.Image) -> str:
    """The mode of `_COLOURS` that loses nothing of an image's."""
    if image.mode == "P" and "transparency" in image.info:
        return "RGBA"
    return _MODES.get(image.mode, image.mode)


def _orientation(image: Image.Image) -> int:
    with suppress(Exception):  # what is no EXIF turns nothing
        return int(image.getexif().get(274, 1))
    return 1


def _jp2_profile(path: Path) -> bytes | None:
    """The ICC profile in the header boxes of a JPEG 2000 file."""
    with path.open("rb") as file:
        start = file.read(4 << 20)
    for match in re.finditer(b"colr[\x02\x03]..", start, re.DOTALL):
        at = match.end()
        length = int.from_bytes(start[at : at + 4])
        if start[at + 36 : at + 40] == b"acsp" and at + length <= len(start):
            return start[at : at + length]
    return None


def open_heif(path: Path, max_px: int, page: int = 0) -> Source:
    """Open the primary picture of a HEIC file, or a page; depth and gain maps are left alone.

    The picture is turned by its own boxes, which libheif obeys.

    max_px: the most px that its header may claim.
    page: from 0, of which 0 is the primary picture.
    Raises SourceError for what is damaged, SettingError for a page that is not there.
    """

    def fresh() -> Any:
        return pi_heif.open_heif(path, convert_hdr_to_8bit=False)

    file = _opened(path, fresh)
    if page >= len(file):
        raise SettingError(f"`source_page` is {page + 1} and {path} has {len(file)}; use 1 to {len(file)}.")
    number = page or file.primary_index
    image = file[number]
    grey, deep = image.mode.startswith(("L", "I")), ";" in image.mode
    channels = (1 if grey else 3) + ("A" in image.mode or "a" in image.mode)
    coded = image.info.get("nclx_profile") or {}
    icc = image.info.get("icc_profile") or (
        None
        if grey
        else coded_profile(int(coded.get("color_primaries", 1)), int(coded.get("transfer_characteristics", 13)))
    )
    alpha = "none" if channels in (1, 3) else "associated" if image.mode.split(";")[0].endswith("a") else "straight"
    colour = Colour("grey" if grey else "rgb", alpha, 16 if deep else 8, icc)  # type: ignore[arg-type]

    def decode() -> NDArray[Any]:
        file = fresh()  # its px die with it
        return np.array(file[number])

    return _source(path, "HEIC", image.size, (channels, np.uint16 if deep else np.uint8), colour, decode, max_px)


def open_jpeg_xl(path: Path, max_px: int) -> Source:
    """Open JPEG XL through Pillow's plug-in, which turns it and knows its profile."""
    extra(path, "JPEG XL", "pillow_jxl", "jxl")
    return replace(open_pillow(path, max_px, "JPEG XL", ("JXL",)), orientation=1)


def open_lossless_jpeg(path: Path, max_px: int, kind: str = "lossless JPEG") -> Source:
    """Open a JPEG that libjpeg-turbo's usual interface does not decode: lossless, or of more than 8 bits."""
    data = path.read_bytes()
    bits, height, width, channels = jpeg_frame(data[: 1 << 20])[1:]
    if channels not in (1, 3, 4):
        raise SourceError(f"{path} has {channels} channels; use grey, RGB or CMYK.")
    model = {1: "grey", 3: "rgb", 4: "cmyk"}[channels]
    colour = Colour(model, bits=bits if bits > 8 else 8)  # type: ignore[arg-type]

    def decode() -> NDArray[Any]:
        return imagecodecs.jpeg_decode(path.read_bytes())

    return _source(path, kind, (width, height), (channels, np.uint16 if bits > 8 else np.uint8), colour, decode, max_px)


def jpeg_frame(data: bytes) -> tuple[int, int, int, int, int]:
    """(number of the frame header's marker, bits, height, width, channels) of a JPEG; zeros where its beginning holds
    none.
    """
    at = 2
    while at + 10 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits, height, width, channels = struct.unpack(">BHHB", data[at + 4 : at + 10])
            return marker, bits, height, width, channels
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return 0, 0, 0, 0, 0


def open_radiance(path: Path, max_px: int) -> Source:
    """Open Radiance HDR: amounts of light, of which 1 is white. Raises SourceError for a header without a size."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    found = re.search(rb"\n\n([-+])Y (\d{1,9}) ([-+])X (\d{1,9})\n", head)
    if found is None:
        raise SourceError(f"{path} is not a picture that can be read: its Radiance header has no usual size.")
    height, width = int(found[2]), int(found[4])
    turned = {(b"-", b"+"): 1, (b"-", b"-"): 2, (b"+", b"-"): 3, (b"+", b"+"): 4}[found[1], found[3]]

    def decode() -> NDArray[Any]:
        start = head[: found.start()] + b"\n\n-Y %d +X %d\n" % (height, width)
        return imagecodecs.rgbe_decode(start + path.read_bytes()[found.end() :])

    return _source(
        path, "HDR", (width, height), (3, np.float32), Colour("rgb", bits=32, linear=True), decode, max_px, turned
    )


def open_exr(path: Path, max_px: int) -> Source:
    """Open OpenEXR: amounts of light, of which 1 is white, premultiplied by an opacity if there is one.

    Raises SourceError for what has neither R, G and B nor Y, or channels of lower resolution.
    """
    library = extra(path, "OpenEXR", "OpenEXR", "exr")
    header = _opened(path, lambda: library.File(str(path), header_only=True).header())
    low, high = (np.asarray(corner) for corner in header["dataWindow"])
    width, height = (int(side) for side in high - low + 1)
    names = {channel.name: channel for channel in header["channels"]}
    used = [name for name in ("R", "G", "B", "A") if name in names]
    if used[:3] != ["R", "G", "B"]:
        used = [name for name in ("Y", "A") if name in names]
    if not used or used == ["A"]:
        raise SourceError(f"{path} holds the channels {', '.join(names)} and no R, G, B or Y; choose another file.")
    has_alpha, model = used[-1] == "A", "rgb" if "R" in used else "grey"
    colour = Colour(model, "associated" if has_alpha else "none", 32, linear=True)  # type: ignore[arg-type]

    if any(names[name].xSampling != 1 or names[name].ySampling != 1 for name in used):
        raise SourceError(
            f"{path} is OpenEXR with channels of lower resolution, which is not supported; convert it to TIFF."
        )

    def decode() -> NDArray[Any]:
        file = library.InputFile(str(path))  # the library's newer interface gives px that could not be decoded as black
        try:
            data = [file.channel(name) for name in used]
        finally:
            file.close()
        if any(len(one) not in (2 * width * height, 4 * width * height) for one in data):
            raise ValueError("its channels are of another size than its header tells")
        kinds = [
            np.float16 if len(one) == 2 * width * height else np.float32 for one in data
        ]  # nobody stores colours as integers
        return np.dstack(
            [np.frombuffer(one, kind).reshape(height, width) for one, kind in zip(data, kinds, strict=True)]
        )

    return _source(path, "EXR", (width, height), (len(used), np.float32), colour, decode, max_px)


def open_raw(path: Path, max_px: int) -> Source:
    """Open camera raw and DNG, developed by LibRaw with the camera's white balance, upright, to sRGB.

    Raises SourceError for what LibRaw does not know, and for what is truncated, which LibRaw would not say.
    """
    library = extra(path, "a camera's raw file", "rawpy", "raw")

    def fresh() -> Any:
        return library.imread(str(path))

    with _opened(path, fresh) as raw:
        sizes = raw.sizes
    width, height = sizes.iwidth or sizes.width, sizes.iheight or sizes.height
    if path.stat().st_size * _RAW_PX < width * height or _ends_early(path):
        raise SourceError(f"{path} is truncated: it lacks px of its {width} x {height}.")
    if sizes.flip in (5, 6):
        width, height = height, width

    def decode() -> NDArray[Any]:
        with fresh() as raw:
            return raw.postprocess(use_camera_wb=True)

    return _source(path, "camera raw", (width, height), (3, np.uint8), Colour("rgb"), decode, max_px)


def _ends_early(path: Path) -> bool:
    """Whether a raw file that is built as a TIFF lacks bytes of a picture; LibRaw would make them up."""
    with suppress(Exception), tifffile.TiffFile(path) as file:  # of what is no TIFF nothing is known
        pages = [page for first in file.pages for page in (first, *(first.pages or ()))]
        ends = [sum(one) for page in pages for one in zip(page.dataoffsets, page.databytecounts, strict=False)]
        return max(ends, default=0) > file.filehandle.size
    return False
