"""The least that a render can take: its networks, its source, its output and the decoding of its templates, bare.

Read: libvips shrinks the source, which is in the page cache, to the analysis image's size and throws it away. The rest
is on data already in memory. Encoder: tensors of the analysis image's size, cut into the job's chunks but without
halos; on a CPU in the better of two ways: all cores on one chunk, or one core on each of as many chunks. Decoder:
features and px in memory, every logit, no argmax. Write: libvips from memory to the job's format. Templates: libvips'
thumbnails of files that were read before, thrown away.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import pyvips
import torch

from hirez_mosaic.engine.machine import cores, settled
from hirez_mosaic.engine.threads import shared_cores
from hirez_mosaic.files.cache import cache_folder
from hirez_mosaic.nets.decoders import FEATURES, LearnedDecoder, TrunkNorm, new_decoder
from hirez_mosaic.nets.device import resolve_device, resolve_precision
from hirez_mosaic.nets.vgg import VGG16, make_encoder
from hirez_mosaic.nets.weights import resolve_weights
from hirez_mosaic.outputs import tiff
from hirez_mosaic.pixels.geometry import CELL, CellGrid
from hirez_mosaic.pixels.vips import fetch
from hirez_mosaic.templates import load_templates

_ROWS, _KEYS = 1024, 2048  # of one multiplication: the quickest of those tried
_WRITTEN_PX = 256_000_000  # that are held in memory and written at most


@settled
def render_floor(
    source: Path,
    mosaic: Path,
    templates: Path,
    tile: tuple[int, int],
    chunk: tuple[int, int],
    *,
    device: str = "auto",
    precision: str = "auto",
    weights: Path | None = None,
    encoded: bool = True,
) -> dict[str, float]:
    """Seconds of the parts "ingest", "encode", "decode" and "assemble" of a finished render with the residual decoder.

    encoded: whether it looked at features; without, "encode" is left out, and "decode" is every logit of the px alone.
    source: one that libvips reads. mosaic: what it made of it, a TIFF; another is written beside it and deleted.
    tile: (width, height), px. chunk: (columns, rows) of cells.
    Raises a subclass of HirezMosaicError, as `render` does.
    """
    image = pyvips.Image.new_from_file(str(mosaic))
    grid = CellGrid(image.height // tile[1], image.width // tile[0], tile, Fraction(1))
    where = resolve_device(device)
    found = load_templates(templates, tile, cache=cache_folder("templates"), jobs=cores())
    decoder = new_decoder("residual", torch.from_numpy(found.at_cell_size()), found.fingerprint).to(where)
    cells = chunk[1], chunk[0]
    encode = {}
    if encoded:
        encoder = make_encoder(
            resolve_weights(weights, cache_folder("weights")), where, resolve_precision(precision, where)
        )
        encode = {"encode": encoder_floor(encoder, grid, cells)}
    return {
        "ingest": read_floor(source, (grid.columns * CELL, grid.rows * CELL)),
        **encode,
        "decode": decoder_floor(decoder, grid, cells, encoded),
        "assemble": write_floor(mosaic),
    }


def read_floor(source: Path, size: tuple[int, int]) -> float:
    """Seconds libvips takes to shrink a picture to (width, height) px with its own Lanczos kernel, from top to bottom."""
    start = time.perf_counter()
    image = pyvips.Image.new_from_file(str(source), access="sequential")
    image.resize(size[0] / image.width, vscale=size[1] / image.height, kernel="lanczos3").avg()  # asks for every px
    return time.perf_counter() - start


def encoder_floor(encoder: VGG16, grid: CellGrid, chunk: tuple[int, int]) -> float:
    """Seconds for all px of the analysis image, in chunks of (rows, columns) cells."""
    device = next(encoder.parameters()).device
    sizes = [(box.height * CELL, box.width * CELL) for box in grid.chunks(chunk)]
    largest = torch.rand(1, 3, max(h for h, _ in sizes), max(w for _, w in sizes), device=device)
    images = largest.to(memory_format=torch.channels_last)

    def work(size: tuple[int, int]) -> None:
        with torch.inference_mode():
            encoder(images[:, :, : size[0], : size[1]])

    return _best(work, sizes, device)


def decoder_floor(decoder: LearnedDecoder, grid: CellGrid, chunk: tuple[int, int], encoded: bool) -> float:
    """Seconds for all cells, in chunks of (rows, columns): the trunk, where there are features, and every logit."""
    rows, columns = chunk
    keys, bias = (tensor.detach() for tensor in decoder.template_keys())
    device = keys.device
    features = torch.rand(1, FEATURES, rows, columns, device=device).to(memory_format=torch.channels_last)
    pixels = torch.rand(rows * columns, 3 * CELL * CELL, device=device)
    norm = TrunkNorm(torch.tensor(0.5, device=device), torch.tensor(0.1, device=device))

    def work(size: tuple[int, int]) -> None:
        with torch.inference_mode():
            h, w = size
            part = pixels[: h * w]
            queries = decoder.queries(features[:, :, :h, :w], part, norm) if encoded else part
            held = torch.empty(_ROWS, _KEYS, device=device)
            for some in queries.split(_ROWS):
                for first in range(0, len(keys), _KEYS):
                    block = slice(first, min(first + _KEYS, len(keys)))
                    torch.addmm(bias[block], some, keys[block].T, out=held[: len(some), : block.stop - first])

    return _best(work, [(box.height, box.width) for box in grid.chunks(chunk)], device)


def write_floor(mosaic: Path) -> float:
    """Seconds libvips takes to write the px of a mosaic from memory as a pyramidal TIFF, JPEG Q 90, beside it; the file
    is deleted.

    Of more than 256 Mpx the upper rows alone are written, and the seconds are theirs times the share of the rows.
    """
    image = pyvips.Image.new_from_file(str(mosaic))
    rows = min(image.height, max(1, _WRITTEN_PX // image.width))
    held = image.crop(0, 0, image.width, rows).copy_memory()
    written, side = mosaic.with_suffix(".floor.tif"), tiff.SIDE
    start = time.perf_counter()
    try:
        held.tiffsave(
            str(written),
            compression="jpeg",
            Q=90,
            tile=True,
            tile_width=side,
            tile_height=side,
            pyramid=True,
            bigtiff=True,
        )
        return (time.perf_counter() - start) * image.height / rows
    finally:
        written.unlink(missing_ok=True)


def thumbnail_floor(files: Sequence[Path], tile: tuple[int, int]) -> float:
    """Seconds libvips takes to shrink readable pictures to `tile` (width, height) px, on all cores; what cannot be read
    is skipped.
    """
    width, height = tile

    def one(path: Path) -> None:
        try:
            image = pyvips.Image.thumbnail(str(path), width, height=height, size="both", crop="centre").colourspace(
                "srgb"
            )
            fetch(image, width, height)
        except pyvips.Error:
            pass

    with ThreadPoolExecutor(cores()) as pool:
        for _ in range(2):  # the first time fills the page cache
            start = time.perf_counter()
            list(pool.map(one, files))
    return time.perf_counter() - start


def _best(work: Callable[[tuple[int, int]], None], sizes: list[tuple[int, int]], device: torch.device) -> float:
    return min(
        _in_parallel(work, sizes, workers, device) for workers in ({1} if device.type == "cuda" else {1, cores()})
    )


def _in_parallel(
    work: Callable[[tuple[int, int]], None], sizes: list[tuple[int, int]], workers: int, device: torch.device
) -> float:
    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with shared_cores(workers), ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, sizes[:workers]))  # warm
        finish()
        start = time.perf_counter()
        list(pool.map(work, sizes))
        finish()
        return time.perf_counter() - start
