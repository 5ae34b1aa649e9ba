"""The least time that a render can take: that of the bare work, in networks and in libvips.

Read: libvips shrinks the source, which the system holds in memory, to the size of the analysis image.
Encoder: tensors of the analysis image's size in the job's chunks, without halos. On a CPU the better of two ways
counts: all cores on one chunk, or one core on each of as many chunks.
Decoder: features and px in memory, every logit, no maximum.
Write: libvips from memory to the job's format.
Templates: libvips' thumbnails of files that were read before.
Results are thrown away.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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

_ROWS, _KEYS = 1024, 2048  # of one multiplication: the quickest of the shapes that were tried
_WRITTEN_PX = 256_000_000  # px that are held in memory and written at most


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

    source: one that libvips reads.
    mosaic: what the render wrote, a TIFF; another file is written beside it and deleted.
    templates: folder of templates.
    tile: (width, height), px.
    chunk: (columns, rows) of cells.
    encoded: whether the render used features. If it did not, "encode" is left out, and "decode" is every logit of the
        px alone.
    The rest is as in `render`.

    Raises a subclass of HirezMosaicError, as `render` does.
    """
    image = pyvips.Image.new_from_file(str(mosaic))
    grid = CellGrid(image.height // tile[1], image.width // tile[0], tile, Fraction(1))
    where, cells = resolve_device(device), (chunk[1], chunk[0])
    found = load_templates(templates, tile, cache=cache_folder("templates"), jobs=cores())
    decoder = new_decoder("residual", torch.from_numpy(found.at_cell_size()), found.fingerprint).to(where)
    floors = {}
    if encoded:
        dtype = resolve_precision(precision, where)
        encoder = make_encoder(resolve_weights(weights, cache_folder("weights")), where, dtype)
        floors["encode"] = encoder_floor(encoder, grid, cells)
    return {
        "ingest": read_floor(source, (grid.columns * CELL, grid.rows * CELL)),
        **floors,
        "decode": decoder_floor(decoder, grid, cells, encoded),
        "assemble": write_floor(mosaic),
    }


def read_floor(source: Path, size: tuple[int, int]) -> float:
    """Seconds that libvips takes to shrink a picture to a size (width, height), px, by Lanczos, from top to bottom."""
    start = time.perf_counter()
    image = pyvips.Image.new_from_file(str(source), access="sequential")
    image.resize(size[0] / image.width, vscale=size[1] / image.height, kernel="lanczos3").avg()  # asks for every px
    return time.perf_counter() - start


def encoder_floor(encoder: VGG16, grid: CellGrid, chunk: tuple[int, int]) -> float:
    """Seconds to encode all px of the analysis image, in chunks of (rows, columns) cells."""
    device = next(encoder.parameters()).device
    sizes = [(box.height * CELL, box.width * CELL) for box in grid.chunks(chunk)]
    largest = torch.rand(1, 3, max(h for h, _ in sizes), max(w for _, w in sizes), device=device)
    images = largest.to(memory_format=torch.channels_last)

    def work(size: tuple[int, int]) -> None:
        with torch.inference_mode():
            encoder(images[:, :, : size[0], : size[1]])

    return _best(work, sizes, device)


def decoder_floor(decoder: LearnedDecoder, grid: CellGrid, chunk: tuple[int, int], encoded: bool) -> float:
    """Seconds to decode all cells, in chunks of (rows, columns): every logit, and the trunk where there are features.

    encoded: whether there are features.
    """
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
    """Seconds that libvips takes to write the px of a mosaic from memory as a pyramidal TIFF, JPEG Q 90.

    The file lies beside the mosaic and is deleted. Of a mosaic of more than 256 Mpx only the upper rows are written;
    the seconds are scaled up to all rows.
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
    """Seconds that libvips takes to shrink pictures to `tile` (width, height) px, on all cores.

    Files that cannot be read are skipped.
    """
    width, height = tile

    def one(path: Path) -> None:
        with suppress(pyvips.Error):
            image = pyvips.Image.thumbnail(str(path), width, height=height, size="both", crop="centre")
            fetch(image.colourspace("srgb"), width, height)

    with ThreadPoolExecutor(cores()) as pool:
        for _ in range(2):  # the first time fills the page cache
            start = time.perf_counter()
            list(pool.map(one, files))
    return time.perf_counter() - start


def _best(work: Callable[[tuple[int, int]], None], sizes: list[tuple[int, int]], device: torch.device) -> float:
    """Seconds for work of all sizes, with one worker or, on a CPU, with one for each core, whichever is quicker."""
    counts = {1} if device.type == "cuda" else {1, cores()}
    return min(_in_parallel(work, sizes, workers, device) for workers in counts)


def _in_parallel(
    work: Callable[[tuple[int, int]], None], sizes: list[tuple[int, int]], workers: int, device: torch.device
) -> float:
    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with shared_cores(workers), ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, sizes[:workers]))  # the first time takes longer
        finish()
        start = time.perf_counter()
        list(pool.map(work, sizes))
        finish()
        return time.perf_counter() - start
