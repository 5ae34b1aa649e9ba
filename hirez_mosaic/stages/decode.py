"""Decode: from features and px to the best templates of every cell."""

from typing import Any

import numpy as np
import torch

from hirez_mosaic.nets.decoders import FEATURES, HALO, Decoder, Score, TrunkNorm
from hirez_mosaic.nets.scoring import _CELLS, _KEYS, Keys, candidates_of, window_queries
from hirez_mosaic.pixels.geometry import CELL, Box, CellGrid

_SLAB = 4096  # cells whose queries are made at once


@torch.inference_mode()
def decode_chunk(
    decoder: Decoder,
    norm: TrunkNorm | None,
    score: Score,
    keys: Keys | None,
    grid: CellGrid,
    analysis: Any,
    features: Any,
    candidates: Any,
    scores: Any,
    best: Any,
    box: Box,
) -> None:
    """Fill the write box of `candidates` (rows, columns, k) uint32 and `scores` float32, best first.

    best: (rows, columns) uint32, the first of them once more, for whoever wants no others; None where nobody does.
    score: the decoder's `score()`. keys: see `keys_of`. k is 1 where only the best is wanted; choosing together wants
        more.
    features, norm: None where the decoder reads none.
    Reads the features of its cells with a halo of one cell, clipped at the picture's edge, and runs over slabs of a few
    rows of them.
    """
    read = box.grown(HALO, grid.box)
    nearby = None if features is None else np.asarray(features[read.slices])
    own = np.asarray(analysis[box.scaled(CELL).slices])
    rows = max(1, _SLAB // box.width)
    found = []
    for top in range(box.top, box.bottom, rows):
        slab = Box(top, min(top + rows, box.bottom), box.left, box.right)
        around = slab.grown(HALO, grid.box)
        queries = window_queries(
            decoder,
            norm,
            None if nearby is None else nearby[around.within(read).slices],
            own[slab.within(box).scaled(CELL).slices],
            slab.within(around),
        )
        found.append(candidates_of(queries, score, keys, decoder.template_count, candidates.shape[-1]))
    shape = (box.height, box.width, candidates.shape[-1])
    indices = torch.cat([index for index, _ in found]).cpu().numpy().astype(np.uint32).reshape(shape)
    candidates[box.slices] = indices
    if best is not None:
        best[box.slices] = indices[..., 0]
    scores[box.slices] = torch.cat([score for _, score in found]).cpu().numpy().reshape(shape)


def projected_bytes(chunk: tuple[int, int], query: int, templates: int, k: int) -> int:
    """Bytes that one task holds at most: the chunk's features, px and candidates, a slab's hidden layer and queries, a
    block of scores.

    query: length of a query. templates: number of templates. k: candidates a cell.
    """
    cells = max(chunk[1], min(_SLAB, chunk[0] * chunk[1]))
    slab = (cells + 2 * chunk[1] + 2 * cells // chunk[1] + 4) * (FEATURES * 4 * 5 + query * 4 * 3 + 3 * CELL * CELL * 4)
    inputs = (chunk[0] + 2) * (chunk[1] + 2) * (FEATURES * 4 + 3 * CELL * CELL + (24 * k if k > 1 else 0))
    return inputs + slab + 5 * _CELLS * min(_KEYS, templates) * 4
