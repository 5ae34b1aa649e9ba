"""Encode: from the analysis image to pool3 features, and the second moments from which any decoder's layer norm
follows.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hirez_mosaic.engine import arrays
from hirez_mosaic.engine.arrays import StoredArray
from hirez_mosaic.engine.graph import Task
from hirez_mosaic.engine.store import Identity
from hirez_mosaic.nets.scoring import as_images
from hirez_mosaic.nets.vgg import VGG16
from hirez_mosaic.pixels.geometry import CELL, Box, CellGrid
from hirez_mosaic.settings.spec import RenderSpec
from hirez_mosaic.stages.stage import Setup, Stage, Tools

_BAND = 192
"""Height, px, of the bands in which a CPU makes the encoder's first block. Lower ones take longer, higher ones more
memory than the second block does. A GPU, which gains by large pieces, makes it whole.
"""


def encode_chunk(
    box: Box,
    *,
    encoder: VGG16,
    grid: CellGrid,
    analysis: Any,
    features: Any,
    moments: Any,
    chunk: tuple[int, int],
) -> None:
    """Fill the write box of `features` (rows, columns, 256) and the chunk's entry of `moments`.

    The read box is the write box and the encoder's halo, clipped (not reflected) at the image's edge, so that the
    network's own zero padding acts there as it does on the whole image.
    """
    kept = _encode_box(encoder, grid.box.scaled(CELL), analysis, box)
    features[box.slices] = stored(kept)
    moments[box.top // chunk[0], box.left // chunk[1]] = second_moments(kept)


def _encode_box(encoder: VGG16, bounds: Box, analysis: Any, box: Box) -> torch.Tensor:
    """The features of a box of cells: (rows, columns, 256).

    Where a GPU has no room for the whole box, its halves are encoded one after the other, and so on.
    """
    write = box.scaled(CELL)
    read = write.grown(encoder.halo, bounds)
    try:
        made = encode(encoder, analysis[read.slices])
    except torch.cuda.OutOfMemoryError:
        if box.area == 1:
            raise
    else:
        inner = Box(*(edge // CELL for edge in (read.top, read.bottom, read.left, read.right)))
        return made[:, :, *box.within(inner).slices][0].permute(1, 2, 0)
    torch.cuda.empty_cache()
    halves = [_encode_box(encoder, bounds, analysis, half) for half in box.halves()]
    return torch.cat(halves, 0 if box.height >= box.width else 1)


@torch.inference_mode()
def encode(encoder: VGG16, pixels: NDArray[np.uint8]) -> torch.Tensor:
    """The pool3 features of px (h, w, 3) uint8 sRGB.

    Returns (1, 256, ceil(h / 8), ceil(w / 8)), on the encoder's device and in its type.
    """
    images = as_images(pixels, next(encoder.parameters()).device)
    return encoder(images)[0] if images.is_cuda else encoder.in_bands(images, _BAND)


def stored_type(precision: torch.dtype) -> type[np.floating[Any]]:
    """The type in which features are stored: float16 holds all that bfloat16 computes, and numpy knows it."""
    return np.float32 if precision == torch.float32 else np.float16


def stored(features: torch.Tensor) -> NDArray[np.floating[Any]]:
    """The features in the type in which they are stored, see `stored_type`; converted on their device."""
    return (features if features.dtype == torch.float32 else features.half()).cpu().numpy()


def second_moments(features: torch.Tensor) -> NDArray[np.float64]:
    """The sum over cells of f f^T with f = (256 features, 1): (257, 257) float64. features: (rows, columns, 256).

    Its last entry is the number of cells, its last column the sums. Summed over chunks it is the whole picture's.
    """
    flat = features.reshape(-1, features.shape[-1])
    total = torch.zeros(flat.shape[1] + 1, flat.shape[1] + 1, dtype=torch.float64, device=flat.device)
    for block in flat.split(1024):
        extended = torch.nn.functional.pad(block.double(), (0, 1), value=1.0)
        total += extended.T @ extended
    return total.cpu().numpy()


def projected_bytes(chunk: tuple[int, int], halo: int, itemsize: int) -> int:
    """Bytes that one task of `chunk` (rows, columns) cells holds at most.

    These are the input and, of the network, the larger of two: block 2 (two layers of 128 channels at half size), or a
    band of block 1 (two layers of 64 channels at full size) and what it is pooled to.
    """
    height, width = (side * CELL + 2 * halo for side in chunk)
    band = width * min(height, _BAND + 4) * (2 * 64 * itemsize + 12 + 4 * itemsize)
    return height * width * (3 + 4 * 3) + max(
        2 * 128 * height * width // 4 * itemsize, 64 * height * width // 4 * itemsize + band
    )


def encoding(device: torch.device, task: Callable[..., None], encoder: VGG16) -> Task:
    """The task of a chunk on a device. task: `encode_chunk` with all that it takes but the encoder."""
    return partial(task, encoder=encoder.to(device))


class _Encode(Stage):
    """VGG-16's pool3 features of every cell, and their second moments."""

    name = "encode"
    reads = (arrays.ANALYSIS.name,)
    leaves = (arrays.FEATURES.name, arrays.MOMENTS.name)
    follows = "ingest"

    def runs(self, setup: Setup) -> bool:
        return setup.tools.choice.decoder.reads_features

    def writes(self, setup: Setup) -> tuple[StoredArray, ...]:
        return replace(arrays.FEATURES, dtype=np.dtype(stored_type(setup.tools.precision)).str), arrays.MOMENTS

    def halo(self, setup: Setup) -> int:
        return -(-setup.tools.encoder.halo // CELL)

    def memory(self, setup: Setup, chunk: tuple[int, int], workers: int) -> int:
        return workers * projected_bytes(chunk, setup.tools.encoder.halo, setup.tools.number_bytes)

    def identity(self, spec: RenderSpec, tools: Tools) -> Identity:
        return {"device": tools.device.type, "precision": str(tools.precision)}


ENCODE = _Encode()
