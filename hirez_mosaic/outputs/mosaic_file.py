"""Mosaic files: a mosaic in the format that its suffix says, and its preview."""

from dataclasses import replace
from pathlib import Path

from hirez_mosaic.files.fresh import flush
from hirez_mosaic.outputs.appearing import Appearing, writing
from hirez_mosaic.outputs.stream import MosaicStream, save_stream
from hirez_mosaic.outputs.writers import output_bytes, projected_bytes, writer_of
from hirez_mosaic.pixels.geometry import CELL
from hirez_mosaic.settings.formats import Encoding, parts_of
from hirez_mosaic.stages.assemble import Mosaic, Progress

__all__ = ["assemble", "output_bytes", "projected_bytes", "write_mosaic", "write_preview"]
_PREVIEW_SIDE = 1600
_PREVIEW_FROM_PX = 100_000_000  # larger mosaics are previewed from templates at 8 x 8 px


def assemble(mosaic: Mosaic, output: Path, progress: Progress, encoding: Encoding | None = None) -> None:
    """Write a mosaic to a file, which appears, or replaces an earlier one, when it is complete.

    progress, encoding, errors: see `write_mosaic`, and `Appearing`.
    """
    with Appearing(output) as made:
        write_mosaic(mosaic, made, progress, encoding or Encoding())


def write_mosaic(mosaic: Mosaic, made: Path, progress: Progress, encoding: Encoding) -> None:
    """Write a mosaic under the name that `Appearing` gave.

    Reads the index map from top to bottom, each chunk once, and returns when the file is on the disk.

    made: its suffix chooses the format, see `settings.formats`.
    progress: called with numbers of cells done.

    Raises OutputError, and DiskSpaceError when the disk is full.
    """
    with writing():
        writer_of(made).save(mosaic, made, progress, encoding)
        for part in parts_of(made):
            if part.is_file():
                flush(part)


def write_preview(mosaic: Mosaic, output: Path) -> None:
    """Write the mosaic at 1,600 px on its longer side.

    A mosaic of more than 100 Mpx is made from templates at 8 x 8 px, where that gives 1,600 px or more.

    Raises OutputError, and DiskSpaceError when the disk is full.
    """
    width, height = mosaic.size
    if width * height > _PREVIEW_FROM_PX and CELL * max(mosaic.index_map.shape) >= _PREVIEW_SIDE:
        mosaic = replace(mosaic, templates=mosaic.templates.shrunk())
    factor = min(1.0, _PREVIEW_SIDE / max(width, height))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    stream = MosaicStream(mosaic, lambda cells: None)
    save_stream(
        stream,
        output,
        lambda image: image.thumbnail_image(size[0], height=size[1], size="force").write_to_file(str(output)),
    )
