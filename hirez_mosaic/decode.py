"""Decode: from features and px to the best templates of every cell."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hirez_mosaic.geometry import CELL, Box, CellGrid
from hirez_mosaic.nets.decoders import FEATURES, HALO, Decoder, TrunkNorm

_CELLS = 1024  # queries scored at once
_KEYS = 2048  # templates scored at once; with _CELLS 8 MiB of logits, which stay in the processor's cache
_GROUP = 32  # templates whose best is found first
_SLAB = 4096  # cells whose queries are made at once


@torch.inference_mode()
def decode_chunk(
    decoder: Decoder,
    norm: TrunkNorm,
    keys: torch.Tensor,
    bias: torch.Tensor,
    grid: CellGrid,
    analysis: Any,
    features: Any,
    candidates: Any,
    scores: Any,
    box: Box,
) -> None:
    """Fill the write box of `candidates` (rows, columns, k) uint32 and `scores` float32, best first.

    keys, bias: the decoder's `template_keys()`. k is 1 where only the best is wanted; rules of repetition and refining want more.
    Reads the features of its cells with a halo of one cell, clipped at the picture's edge, and runs over slabs of a few rows of them.
    """
    read = box.grown(HALO, grid.box)
    nearby, own = np.asarray(features[read.slices]), np.asarray(analysis[box.scaled(CELL).slices])
    rows = max(1, _SLAB // box.width)
    found = []
    for top in range(box.top, box.bottom, rows):
        slab = Box(top, min(top + rows, box.bottom), box.left, box.right)
        around = slab.grown(HALO, grid.box)
        inputs = nearby[around.within(read).slices], own[slab.within(box).scaled(CELL).slices]
        queries = slab_queries(decoder, norm, *inputs, slab.within(around), keys.device)
        found.append(best_k(queries, keys, bias, candidates.shape[-1]))
    shape = (box.height, box.width, candidates.shape[-1])
    candidates[box.slices] = torch.cat([index for index, _ in found]).cpu().numpy().astype(np.uint32).reshape(shape)
    scores[box.slices] = torch.cat([score for _, score in found]).cpu().numpy().reshape(shape)


def slab_queries(
    decoder: Decoder, norm: TrunkNorm, features: NDArray[Any], pixels: NDArray[np.uint8], inner: Box, device: torch.device
) -> torch.Tensor:
    """Queries of the cells `inner` of a slab and its halo, (cells, D), row-major.

    features: (rows, columns, 256), halo included. pixels: (8 rows, 8 columns, 3), the cells of `inner` alone.
    """
    rows, columns = features.shape[:2]
    nearby = torch.from_numpy(features).to(device).float().permute(2, 0, 1)[None]
    own = torch.zeros(rows, columns, 3 * CELL * CELL, device=device)
    own[inner.slices] = cell_pixels(torch.from_numpy(pixels).to(device)).unflatten(0, (inner.height, inner.width))
    queries = decoder.queries(nearby, own.flatten(0, 1), norm)
    return queries.unflatten(0, (rows, columns))[inner.slices].flatten(0, 1)


def cell_pixels(pixels: torch.Tensor) -> torch.Tensor:
    """(8 rows, 8 columns, 3) uint8 -> (rows x columns, 192) float32 in [0, 1]: each cell's px as (8, 8, 3), row-major."""
    rows, columns = pixels.shape[0] // CELL, pixels.shape[1] // CELL
    cells = pixels.reshape(rows, CELL, columns, CELL, 3).transpose(1, 2)  # (rows, columns, 8, 8, 3)
    return cells.reshape(rows * columns, -1).float() / 255


def best_k(queries: torch.Tensor, keys: torch.Tensor, bias: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k templates with the highest queries . keys + bias for each query, best first, of equal ones the first.

    queries: (cells, D). keys: (N, D). bias: (N,). Returns (indices int64, logits float32), both (cells, k).
    Holds 1,024 x 2,048 logits at a time, so memory depends neither on N nor on the number of cells.
    """
    indices, values = [], []
    for part in queries.split(_CELLS):
        best = part.new_full((len(part), k), -torch.inf)
        which = torch.zeros(len(part), k, dtype=torch.int64, device=part.device)
        for start in range(0, len(keys), _KEYS):
            stop = min(start + _KEYS, len(keys))
            logits = torch.addmm(bias[start:stop], part, keys[start:stop].T)
            near, value = _best_in_block(logits, k)
            best, order = _first_best(torch.cat([best, value], 1), k)
            which = torch.cat([which, near + start], 1).gather(1, order)
        indices.append(which)
        values.append(best)
    return torch.cat(indices), torch.cat(values)


def _best_in_block(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best of each row: they lie in the k groups with the best maxima, and a group's maximum is quick to find."""
    count = logits.shape[1]
    if count % _GROUP:
        logits = torch.nn.functional.pad(logits, (0, -count % _GROUP), value=-torch.inf)
    groups = logits.unflatten(1, (-1, _GROUP))  # (cells, groups, 32)
    chosen = _first_best(groups.amax(2), min(k, groups.shape[1]))[1].sort(1).values
    members = (chosen[:, :, None] * _GROUP + torch.arange(_GROUP, device=logits.device)).flatten(1)
    value, order = _first_best(logits.gather(1, members), min(k, members.shape[1]))
    return members.gather(1, order), value


def _first_best(values: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(values, positions) of the k best of each row; of equal ones the first, which topk does not promise."""
    if k == 1:
        return values.max(1, keepdim=True)
    ordered = values.sort(dim=1, descending=True, stable=True)
    return ordered.values[:, :k], ordered.indices[:, :k]


def projected_bytes(chunk: tuple[int, int], query: int, templates: int) -> int:
    """Bytes that one task holds at most: the chunk's features and px, a slab's hidden layer and queries, and a block of logits.

    query: length of a query. templates: number of templates.
    """
    cells = max(chunk[1], min(_SLAB, chunk[0] * chunk[1]))
    slab = (cells + 2 * chunk[1] + 2 * cells // chunk[1] + 4) * (FEATURES * 4 * 5 + query * 4 * 3 + 3 * CELL * CELL * 4)
    inputs = (chunk[0] + 2) * (chunk[1] + 2) * (FEATURES * 4 + 3 * CELL * CELL)
    return inputs + slab + 3 * _CELLS * min(_KEYS, templates) * 4
