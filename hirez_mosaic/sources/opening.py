"""Opening a source picture by its content, whatever its name."""

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyvips

from hirez_mosaic.errors import SourceError, SourceNotFoundError
from hirez_mosaic.sources.source import Source
from hirez_mosaic.sources.tiff import open_tiff
from hirez_mosaic.sources.with_vips import open_vips
from hirez_mosaic.sources.zarr_array import open_zarr
from hirez_mosaic.spec import MAX_SOURCE_PX

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_JPEG_2000_MAGIC = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")


def open_source(path: Path, background: tuple[int, int, int] = (255, 255, 255), max_px: int = MAX_SOURCE_PX) -> Source:
    """Open a picture by its content, whatever its name; reads headers only.

    background: sRGB under transparent px.
    max_px: that a header may claim.
    Raises SourceNotFoundError, or SourceError for what is no picture, of a kind that is not supported, or claims to be larger.
    """
    if not path.exists():
        raise SourceNotFoundError(f"There is no file or folder {path}.")
    if path.is_dir():
        source = open_zarr(path, max_px)
    else:
        try:
            with path.open("rb") as file:
                magic = file.read(12)
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror}.") from error
        if not magic:
            raise SourceError(f"{path} is empty.")
        if magic.startswith(_JPEG_2000_MAGIC) and not pyvips.type_find("VipsOperation", "jp2kload"):
            raise SourceError(f"{path} is JPEG 2000, which this libvips cannot read; convert it to TIFF, for instance by opj_decompress.")
        source = open_tiff(path, max_px) if magic.startswith(_TIFF_MAGIC) else open_vips(path, max_px)
    return replace(source, background=background, reopen=partial(open_source, path.absolute(), background, max_px))


def files_of(path: Path) -> str:
    """Digest of name, size and time of change of a source's file, or of all files of its folder: other px mean other files."""
    sha = hashlib.blake2b(digest_size=16)
    for file in [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file()):
        status = file.stat()
        sha.update(f"{file.relative_to(path.parent).as_posix()}\0{status.st_size}\0{status.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return sha.hexdigest()
