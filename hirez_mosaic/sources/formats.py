"""Which format a file has, by its first bytes, and who reads it; formats that are known and not read are refused by
their name.
"""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hirez_mosaic.errors import SourceError
from hirez_mosaic.sources.decoded import (
    jpeg_frame,
    open_exr,
    open_heif,
    open_jpeg_xl,
    open_lossless_jpeg,
    open_pillow,
    open_radiance,
    open_raw,
)
from hirez_mosaic.sources.deep_zoom import open_deep_zoom
from hirez_mosaic.sources.psd import open_psd
from hirez_mosaic.sources.source import Source
from hirez_mosaic.sources.tiff import open_tiff
from hirez_mosaic.sources.with_vips import Loader, open_vips
from hirez_mosaic.sources.zarr_array import open_zarr

Opener = Callable[[Path, int, int, int], Source]
"""Called with the path, the most px that are believed, the page and the plane, both from 0."""
_HEAD = 1 << 20  # bytes in which a JPEG's frame header is looked for
_JP2 = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
_JXL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_RAW = (b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILMCCD-RAW", b"FOVb", b"\0MRM", b"II\x1a\0\0\0HEAPCCDR")
_RAW_SUFFIXES = {".raw", ".dcr", ".kdc"}  # of cameras whose files LibRaw knows by their size alone
_HEIF = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis"}


@dataclass(frozen=True)
class _Paged:
    """Whether a reader knows pages, and how it is called."""

    read: Callable[..., Source]
    pages: bool = False

    def __call__(self, path: Path, max_px: int, page: int, plane: int) -> Source:
        if plane or (page and not self.pages):
            raise SourceError(
                f"{path} holds one picture in one plane; leave out {'`plane`' if plane else '`source_page`'}."
            )
        return self.read(path, max_px, page=page) if self.pages else self.read(path, max_px)


def _vips(name: str, kind: str, pages: bool = False) -> Opener:
    loader = Loader(name, kind, pages)
    return _Paged(partial(open_vips, loader=loader), pages)


def _pillow(kind: str, *formats: str) -> Opener:
    return _Paged(partial(open_pillow, kind=kind, formats=formats))


_READ: tuple[tuple[tuple[bytes, ...], Opener], ...] = (
    (_TIFF, open_tiff),
    ((b"\x89PNG\r\n\x1a\n",), _vips("pngload", "PNG")),
    ((b"GIF87a", b"GIF89a"), _vips("gifload", "GIF", pages=True)),
    (_JP2, _pillow("JPEG 2000", "JPEG2000")),
    (_JXL, _Paged(open_jpeg_xl)),
    ((b"BM",), _pillow("BMP", "BMP")),
    ((b"8BPS\0\1", b"8BPS\0\2"), _Paged(open_psd)),
    ((b"#?RADIANCE", b"#?RGBE"), _Paged(open_radiance)),
    ((b"v/1\1",), _Paged(open_exr)),
    ((b"qoif",), _pillow("QOI", "QOI")),
    ((b"\0\0\1\0",), _pillow("ICO", "ICO")),
    ((b"\x01\xda",), _pillow("SGI", "SGI")),
    ((b"\x0a\0\1", b"\x0a\2\1", b"\x0a\3\1", b"\x0a\5\1"), _pillow("PCX", "PCX")),
    (tuple(b"P%d%c" % (kind, space) for kind in range(1, 7) for space in b" \t\r\n#"), _pillow("PPM", "PPM")),
    ((b"Pf\n", b"PF\n", b"Pf\r", b"PF\r"), _pillow("PFM", "PPM")),
    (_RAW, _Paged(open_raw)),
)
_REFUSED: tuple[tuple[tuple[bytes, ...], str], ...] = (
    ((b"%PDF",), "a PDF; export its page as PNG or TIFF"),
    ((b"%!PS", b"\xc5\xd0\xd3\xc6"), "PostScript; export it as PNG or TIFF"),
    ((b"gimp xcf",), "GIMP's XCF; export it as PNG or TIFF"),
    ((b"SIMPLE  =",), "FITS; convert it to TIFF"),
    ((b"\x89HDF\r\n\x1a\n",), "HDF5; convert it to TIFF or OME-Zarr"),
    ((b"ZISRAWFILE",), "a CZI of Zeiss; convert it to OME-TIFF or OME-Zarr, for instance by bioformats2raw"),
    ((b"\xda\xce\xbe\x0a",), "an ND2 of Nikon; convert it to OME-TIFF or OME-Zarr, for instance by bioformats2raw"),
    ((b"II\xbc\1",), "JPEG XR; convert it to TIFF or PNG"),
    ((b"AT&TFORM",), "DjVu; export its page as PNG or TIFF"),
    ((b"\x8aMNG", b"\x8bJNG"), "MNG; convert it to PNG"),
    ((b"DDS ",), "a DDS texture; convert it to PNG"),
    ((b"ICNS", b"icns"), "an icon of macOS; convert it to PNG"),
    ((b"\x1aE\xdf\xa3", b"\0\0\1\xba"), "a film; save a frame of it"),
    ((b"BPG\xfb",), "BPG; convert it to PNG"),
    ((b"bplist00Bplist", b"book\0\0\0\0"), "a placeholder of a file in a cloud; download the file"),
    ((b"version https://git-lfs",), "a pointer to a file of Git LFS; fetch the file with git lfs pull"),
)


def opener_of(path: Path) -> Opener:
    """Find who reads a file or folder, by its content.

    Raises SourceError for what cannot be read, is empty, or is in no format that is read.
    """
    if path.is_dir():
        if (path / "info.json").exists():
            raise SourceError(f"{path} is a folder of IIIF tiles, which are not read; name a picture, .dzi or .zarr.")
        return open_zarr
    try:
        with path.open("rb") as file:
            head = file.read(64)
            if head.startswith(b"\xff\xd8\xff"):
                head += file.read(_HEAD)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}.") from error
    if not head:
        raise SourceError(f"{path} is empty.")
    found = (
        _jpeg(head) or _box_format(path, head) or next((read for magic, read in _READ if head.startswith(magic)), None)
    )
    if found is not None:
        return _Paged(open_raw) if head[8:10] == b"CR" and head.startswith(_TIFF) else found
    for magic, name in _REFUSED:
        if head.startswith(magic):
            raise SourceError(f"{path} is {name}.")
    return _by_text(path, head)


def _jpeg(head: bytes) -> Opener | None:
    if not head.startswith(b"\xff\xd8\xff"):
        return None
    marker, bits, *_ = jpeg_frame(head)
    if marker == 0xC3 or bits > 8:
        return _Paged(partial(open_lossless_jpeg, kind="lossless JPEG" if marker == 0xC3 else f"JPEG of {bits} bits"))
    return _vips("jpegload", "JPEG")


def _box_format(path: Path, head: bytes) -> Opener | None:
    """Who reads a RIFF or an ISO base media file; None where it is neither."""
    if head.startswith(b"RIFF"):
        if head[8:12] == b"WEBP":
            return _vips("webpload", "WEBP", pages=True)
        raise SourceError(f"{path} is a film or sound; save a frame of it.")
    if head[4:8] not in (b"ftyp", b"moov", b"mdat", b"wide"):
        return None
    length = min(int.from_bytes(head[:4]), len(head))
    brands = {head[at : at + 4] for at in (8, *range(16, length, 4))} if head[4:8] == b"ftyp" else set()
    if b"crx " in brands:
        return _Paged(open_raw)
    if brands & {b"avif", b"avis"}:
        return _vips("heifload", "AVIF", pages=True)
    if brands & _HEIF or brands & {b"mif1", b"msf1"}:
        return _Paged(open_heif, pages=True)
    raise SourceError(f"{path} is a film (MP4 or QuickTime); save a frame of it.")


def _by_text(path: Path, head: bytes) -> Opener:
    """Who reads what has no magic number."""
    if path.suffix.lower() == ".dzi":
        return _Paged(open_deep_zoom)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<svg", b"<?xml", b"<!--", b"<!doctype svg")) or (
        head.startswith(b"\x1f\x8b") and path.suffix.lower() == ".svgz"
    ):
        return _vips("svgload", "SVG")
    if head.startswith(b"PK\3\4") and zipfile.is_zipfile(path):
        return open_zarr
    if path.suffix.lower() == ".tga":
        return _pillow("TGA", "TGA")
    if path.suffix.lower() in _RAW_SUFFIXES:
        return _Paged(open_raw)
    raise SourceError(f"{path} is not a picture that can be read: not a known file format.")
