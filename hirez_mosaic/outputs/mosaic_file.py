"""Mosaic files: what a mosaic is written as, by its suffix, and its preview."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyvips
import zarr

from hirez_mosaic.files.fresh import flush
from hirez_mosaic.outputs.appearing import Appearing, writing
from hirez_mosaic.outputs.stream import MosaicStream, _run, strip_rows
from hirez_mosaic.pixels.geometry import CELL, CellGrid
from hirez_mosaic.settings.writing import parts_of
from hirez_mosaic.stages.assemble import Mosaic, Progress, _Reader

STORAGE_TILE = 256  # side of a tile inside a TIFF, px
_DOTS_PER_MM = 300 / 25.4  # what printers expect; libvips' own 25.4 dots an inch would make posters of postcards
_ZARR_SIDE = 1024  # side of a chunk of a Zarr mosaic, px, about
_PREVIEW_SIDE = 1600
_PREVIEW_FROM_PX = 100_000_000  # larger mosaics are previewed from templates at 8 x 8 px
_BYTES_PER_PX = {"jpeg": 1.7, "webp": 1.0, "deflate": 3.0, "lzw": 4.5, "none": 3.6}


def assemble(mosaic: Mosaic, output: Path, progress: Progress, *, compression: str = "jpeg", quality: int = 90) -> None:
    """Write a mosaic to a file, which appears, or replaces what is there, when it is complete: see `write_mosaic` and
    `Appearing`.
    """
    with Appearing(output) as made:
        write_mosaic(mosaic, made, progress, compression=compression, quality=quality)


def write_mosaic(
    mosaic: Mosaic, made: Path, progress: Progress, *, compression: str = "jpeg", quality: int = 90
) -> None:
    """Write a mosaic under the name that `Appearing` gave.

    made: its suffix chooses the format: tiled pyramidal BigTIFF, Deep Zoom, PNG, JPEG, WebP or Zarr.
    Reads the index map from top to bottom, each chunk once, and returns when the file is on the disk.
    Raises OutputError, and DiskSpaceError when the disk is full.
    """
    save = _save_zarr if made.suffix.lower() == ".zarr" else _save_vips
    with writing():
        save(mosaic, made, progress, compression, quality)
        for part in parts_of(made):
            if part.is_file():
                flush(part)


def write_preview(mosaic: Mosaic, output: Path) -> None:
    """Write the mosaic at 1,600 px on its longer side; of more than 100 Mpx from templates at 8 x 8 px, where these
    have so many.
    """
    width, height = mosaic.size
    if width * height > _PREVIEW_FROM_PX and CELL * max(mosaic.index_map.shape) >= _PREVIEW_SIDE:
        mosaic = replace(mosaic, templates=mosaic.templates.shrunk())
    factor = min(1.0, _PREVIEW_SIDE / max(width, height))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    stream = MosaicStream(mosaic, lambda cells: None)
    _run(
        stream,
        output,
        lambda image: image.thumbnail_image(size[0], height=size[1], size="force").write_to_file(str(output)),
    )


def output_bytes(size: tuple[int, int], output: Path, compression: str, quality: int) -> int:
    """Bytes on disk that a mosaic of `size` (width, height) px takes, by rule of thumb: enough for grainy photos, not
    for pure noise.
    """
    suffix = output.suffix.lower()
    kind = {".png": "none", ".zarr": "none", ".webp": "webp"}.get(
        suffix, "jpeg" if suffix not in (".tif", ".tiff") else compression
    )
    levels = 4 / 3 if suffix in (".tif", ".tiff", ".dzi") else 1
    finest = 2.5 if kind in ("jpeg", "webp") and quality > 95 else 1
    return int(size[0] * size[1] * _BYTES_PER_PX[kind] * levels * finest)


def projected_bytes(grid: CellGrid, output: Path, *, tinted: bool = False) -> int:
    """Bytes that assembly holds at most: strips on their way in, and the rows of storage tiles each level of a pyramid
    collects.
    """
    width, height = grid.mosaic_size
    strip = width * 3 * strip_rows(grid.tile[1], width) * (3 if tinted else 1)
    suffix = output.suffix.lower()
    if suffix == ".webp":
        return 8 * width * height  # its encoder wants the whole picture
    if suffix == ".zarr":
        return 4 * strip + 3 * 3 * (_ZARR_SIDE + grid.tile[0]) * (_ZARR_SIDE + grid.tile[1])
    levels = 2 if suffix in (".tif", ".tiff", ".dzi") else 1
    return 4 * strip + levels * 3 * STORAGE_TILE * width * 3 + (64 << 20)


def _save_vips(mosaic: Mosaic, fresh: Path, progress: Progress, compression: str, quality: int) -> None:
    suffix = fresh.suffix.lower()

    def save(stream: pyvips.Image) -> None:
        image = stream.copy(xres=_DOTS_PER_MM, yres=_DOTS_PER_MM)
        if suffix in (".tif", ".tiff"):
            storage = {
                "tile": True,
                "tile_width": STORAGE_TILE,
                "tile_height": STORAGE_TILE,
                "pyramid": True,
                "bigtiff": True,
            }
            predictor = "horizontal" if compression in ("deflate", "lzw") else "none"
            image.tiffsave(
                str(fresh), compression=compression, Q=quality, predictor=predictor, profile="srgb", **storage
            )
        elif suffix == ".dzi":
            plain = fresh.with_name("mosaic")  # libvips would read suffixes and options from the name
            image.dzsave(str(plain), suffix=f".jpg[Q={quality}]", container="fs")
            (plain.with_name("mosaic_files") / "vips-properties.xml").unlink(
                missing_ok=True
            )  # of no use, and never twice the same: it is dated
            for made, part in zip(
                (plain.with_name("mosaic_files"), plain.with_suffix(".dzi")), parts_of(fresh), strict=True
            ):
                made.rename(part)
        elif suffix == ".png":
            image.pngsave(str(fresh), profile="srgb")
        elif suffix == ".webp":
            image.webpsave(str(fresh), Q=quality, profile="srgb")
        else:
            image.jpegsave(str(fresh), Q=quality, profile="srgb")

    _run(MosaicStream(mosaic, progress), fresh, save)


def _save_zarr(mosaic: Mosaic, fresh: Path, progress: Progress, compression: str, quality: int) -> None:
    (rows, columns), (width, height) = mosaic.index_map.shape, mosaic.templates.tile
    down, across = max(1, _ZARR_SIDE // height), max(1, _ZARR_SIDE // width)
    chunks = (min(down, rows) * height, min(across, columns) * width, 3)
    array = zarr.create_array(fresh, shape=(rows * height, columns * width, 3), chunks=chunks, dtype="u1")
    reader = _Reader(mosaic)
    for top in range(0, rows, down):
        band = range(top, min(top + down, rows))
        for left in range(0, columns, across):
            px = np.empty((len(band) * height, min(across, columns - left) * width, 3), np.uint8)
            for number, row in enumerate(band):
                px[number * height : (number + 1) * height] = reader.px(row, slice(left, left + across))
            array[top * height : top * height + px.shape[0], left * width : left * width + px.shape[1]] = px
        progress(len(band) * columns)
