"""Pages: folders in which a browser shows a mosaic and every template in it, from a static host or by double click."""

from hirez_mosaic.outputs.pages.levels import Level, jpeg
from hirez_mosaic.outputs.pages.page import (
    Contents,
    Shown,
    described_picture,
    output_bytes,
    projected_bytes,
    viewer_files,
    write_gallery,
    write_page,
    write_picture,
)
from hirez_mosaic.outputs.pages.picture import picture_levels, picture_tile, readable

__all__ = [
    "Contents",
    "Level",
    "Shown",
    "described_picture",
    "jpeg",
    "output_bytes",
    "picture_levels",
    "picture_tile",
    "projected_bytes",
    "readable",
    "viewer_files",
    "write_gallery",
    "write_page",
    "write_picture",
]
