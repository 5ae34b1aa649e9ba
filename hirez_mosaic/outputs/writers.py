"""The writers of the formats, by the names of `settings.formats`, and the disk and memory that they take."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pyvips

from hirez_mosaic.outputs import ome_zarr, pyramid, tiff
from hirez_mosaic.outputs.metadata import xmp
from hirez_mosaic.outputs.stream import MosaicStream, save_stream, strip_rows
from hirez_mosaic.pixels.geometry import CellGrid
from hirez_mosaic.settings.formats import LOSSY, Encoding, format_of
from hirez_mosaic.stages.assemble import Mosaic, Progress

_BYTES_PER_PX = {"jpeg": 1.7, "webp": 1.0, "deflate": 3.0, "lzw": 4.5, "none": 3.6}
_IIIF_SIDE = 512  # side of a tile, px
_VIPS_LINES = 256  # lines of px that libvips collects for each level of a pyramid before it writes them
_VIPS_BYTES = 64 << 20  # bytes that libvips holds besides

Save = Callable[[Mosaic, Path, Progress, Encoding], None]
"""Writes a mosaic to a new file or folder; calls progress with cells done. Raises OSError, OutputError."""


@dataclass(frozen=True)
class Writer:
    """What writes a format.

    save: see `Save`.
    kind: how its px are encoded, a key of `_BYTES_PER_PX`; None where `Encoding.compression` says it.
    memory: gives the bytes held for (width of the mosaic, height, bytes of a strip of it).
    """

    save: Save
    kind: str | None
    memory: Callable[[int, int, int], int]

    def disk(self, size: tuple[int, int], levels: bool, encoding: Encoding) -> int:
        """Bytes on disk of a mosaic of `size` (width, height) px, by rule of thumb.

        They are enough for grainy photos, but not for pure noise.

        levels: whether the format holds smaller levels, too.
        """
        kind = self.kind or encoding.compression
        finest = 2.5 if kind in LOSSY and encoding.quality > 95 else 1
        twice = 2 if encoding.cog else 1  # its tiles are written once more, in another order
        return int(size[0] * size[1] * _BYTES_PER_PX[kind] * (4 / 3 if levels else 1) * finest * twice)


def _vips_memory(levels: int) -> Callable[[int, int, int], int]:
    return lambda width, height, strip: 4 * strip + levels * 3 * _VIPS_LINES * width * 3 + _VIPS_BYTES


def _tiles_memory(tile: tuple[int, int]) -> Callable[[int, int, int], int]:
    return lambda width, height, strip: pyramid.projected_bytes(width, tile, strip) + _VIPS_BYTES


def _save_png(image: pyvips.Image, file: Path, encoding: Encoding) -> None:
    image.pngsave(str(file), profile="srgb")


def _save_jpeg(image: pyvips.Image, file: Path, encoding: Encoding) -> None:
    image.jpegsave(str(file), Q=encoding.quality, profile="srgb")


def _save_webp(image: pyvips.Image, file: Path, encoding: Encoding) -> None:
    image.webpsave(str(file), Q=encoding.quality, profile="srgb")


def _save_deep_zoom(image: pyvips.Image, file: Path, encoding: Encoding) -> None:
    plain = file.with_name("mosaic")  # libvips would read suffixes and options from the name
    image.dzsave(str(plain), suffix=f".jpg[Q={encoding.quality}]", container="fs")
    levels = plain.with_name("mosaic_files")
    (levels / "vips-properties.xml").unlink(missing_ok=True)  # it is of no use, and its date differs each time
    for made, part in zip((levels, plain.with_suffix(".dzi")), format_of(file).parts_of(file), strict=True):
        made.rename(part)


def _save_iiif(image: pyvips.Image, folder: Path, encoding: Encoding) -> None:
    plain = folder.with_name("mosaic")
    suffix = f".jpg[Q={encoding.quality}]"
    image.dzsave(str(plain), layout="iiif3", tile_size=_IIIF_SIDE, overlap=0, suffix=suffix, container="fs")
    (plain / "vips-properties.xml").unlink(missing_ok=True)
    info = json.loads((plain / "info.json").read_text("utf-8"))
    info["id"] = f"{encoding.iiif.rstrip('/')}/{quote(folder.name)}"
    whole = next((plain / "full").iterdir()).name.split(",")  # the only size of the whole picture that is there
    info["sizes"] = [{"width": int(whole[0]), "height": int(whole[1])}]
    (plain / "info.json").write_text(json.dumps(info, indent=1), "utf-8")
    plain.rename(folder)


def _through_vips(save: Callable[[pyvips.Image, Path, Encoding], None]) -> Save:
    """A `Save` by libvips, which reads the mosaic from a `MosaicStream`."""

    def saved(mosaic: Mosaic, file: Path, progress: Progress, encoding: Encoding) -> None:
        dots_per_mm = encoding.dpi / 25.4

        def run(stream: pyvips.Image) -> None:
            image = stream.copy(xres=dots_per_mm, yres=dots_per_mm)
            image.set_type(pyvips.GValue.blob_type, "xmp-data", xmp(encoding.record))
            save(image, file, encoding)

        save_stream(MosaicStream(mosaic, progress), file, run)

    return saved


WRITERS = {
    "tif": Writer(tiff.save_tiff, None, _tiles_memory((tiff.SIDE, tiff.SIDE))),
    "dzi": Writer(_through_vips(_save_deep_zoom), "jpeg", _vips_memory(2)),
    "png": Writer(_through_vips(_save_png), "none", _vips_memory(1)),
    "jpg": Writer(_through_vips(_save_jpeg), "jpeg", _vips_memory(1)),
    "webp": Writer(_through_vips(_save_webp), "webp", lambda width, height, strip: 8 * width * height),
    "zarr": Writer(ome_zarr.save_zarr, "none", _tiles_memory(ome_zarr.CHUNK)),
    "iiif": Writer(_through_vips(_save_iiif), "jpeg", _vips_memory(4)),
}
"""By the name of the format. WebP's encoder needs the whole picture in memory."""


def writer_of(output: Path) -> Writer:
    """The writer of an output, by its suffix."""
    return WRITERS[format_of(output).name]


def output_bytes(size: tuple[int, int], output: Path, encoding: Encoding) -> int:
    """Bytes on disk that a mosaic of `size` (width, height) px takes while it is written, see `Writer.disk`."""
    return writer_of(output).disk(size, format_of(output).levels, encoding)


def projected_bytes(grid: CellGrid, output: Path, *, tinted: bool = False) -> int:
    """Bytes that assembling holds at most: strips that are being made, and what the format collects of them."""
    width, height = grid.mosaic_size
    strip = width * 3 * strip_rows(grid.tile[1], width) * (3 if tinted else 1)
    return writer_of(output).memory(width, height, strip)
