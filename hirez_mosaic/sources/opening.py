"""Opening a source picture by its content, whatever its name."""

from dataclasses import replace
from pathlib import Path

from hirez_mosaic.errors import SourceError, SourceNotFoundError
from hirez_mosaic.sources.source import Source
from hirez_mosaic.sources.tiff import open_tiff
from hirez_mosaic.sources.with_vips import open_vips
from hirez_mosaic.sources.zarr_array import open_zarr

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def open_source(path: Path, background: tuple[int, int, int] = (255, 255, 255)) -> Source:
    """Open a picture by its content, whatever its name; reads headers only.

    background: sRGB under transparent px.
    Raises SourceNotFoundError, or SourceError for what is no picture or of a kind that is not supported.
    """
    if not path.exists():
        raise SourceNotFoundError(f"There is no file or folder {path}.")
    if path.is_dir():
        source = open_zarr(path)
    else:
        try:
            with path.open("rb") as file:
                magic = file.read(4)
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror}.") from error
        if not magic:
            raise SourceError(f"{path} is empty.")
        source = open_tiff(path) if magic in _TIFF_MAGIC else open_vips(path)
    return replace(source, background=background)
