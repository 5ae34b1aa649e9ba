"""The least that a render can take: its networks and its output, bare, on data already in memory.

Encoder: tensors of the analysis image's size, cut into the job's chunks but without halos, in the better of two ways: all cores on
one chunk, or one core on each of as many chunks. Decoder: features and px in memory, every logit, no argmax. Write: libvips from memory
to the job's format.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyvips
import torch

from hirez_mosaic.assemble import STORAGE_TILE
from hirez_mosaic.engine import cores, shared_cores
from hirez_mosaic.geometry import CELL, CellGrid
from hirez_mosaic.nets.decoders import FEATURES, LearnedDecoder, TrunkNorm
from hirez_mosaic.nets.vgg import VGG16

_ROWS, _KEYS = 1024, 2048  # of one multiplication: the quickest of those tried


def encoder_floor(encoder: VGG16, grid: CellGrid, chunk: tuple[int, int]) -> float:
    """Seconds for all px of the analysis image."""
    sizes = [(box.height * CELL, box.width * CELL) for box in grid.chunks(chunk)]
    largest = torch.rand(1, 3, max(h for h, _ in sizes), max(w for _, w in sizes))
    images = largest.to(memory_format=torch.channels_last)

    def work(size: tuple[int, int]) -> None:
        with torch.inference_mode():
            encoder(images[:, :, : size[0], : size[1]])

    return min(_in_parallel(work, sizes, workers) for workers in {1, cores()})


def decoder_floor(decoder: LearnedDecoder, grid: CellGrid, chunk: tuple[int, int]) -> float:
    """Seconds for all cells: the trunk and every logit."""
    rows, columns = chunk
    features = torch.rand(1, FEATURES, rows, columns).to(memory_format=torch.channels_last)
    pixels = torch.rand(rows * columns, 3 * CELL * CELL)
    keys, bias = (tensor.detach() for tensor in decoder.template_keys())
    norm = TrunkNorm(torch.tensor(0.5), torch.tensor(0.1))

    def work(size: tuple[int, int]) -> None:
        with torch.inference_mode():
            h, w = size
            part = pixels[: h * w]
            queries = decoder.queries(features[:, :, :h, :w], part, norm)
            for start in range(0, len(queries), _ROWS):
                for first in range(0, len(keys), _KEYS):
                    torch.addmm(bias[first : first + _KEYS], queries[start : start + _ROWS], keys[first : first + _KEYS].T)

    sizes = [(box.height, box.width) for box in grid.chunks(chunk)]
    return min(_in_parallel(work, sizes, workers) for workers in {1, cores()})


def write_floor(mosaic: Path, to: Path) -> float:
    """Seconds libvips takes to write the px of a mosaic from memory as a pyramidal TIFF, JPEG Q 90."""
    image = pyvips.Image.new_from_file(str(mosaic)).copy_memory()
    start = time.perf_counter()
    side = STORAGE_TILE
    image.tiffsave(str(to), compression="jpeg", Q=90, tile=True, tile_width=side, tile_height=side, pyramid=True, bigtiff=True)
    return time.perf_counter() - start


def _in_parallel(work: Callable[[tuple[int, int]], None], sizes: list[tuple[int, int]], workers: int) -> float:
    with shared_cores(workers), ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, sizes[:workers]))  # warm
        start = time.perf_counter()
        list(pool.map(work, sizes))
        return time.perf_counter() - start
