"""Decode: from features and px to the best templates of every cell."""

import itertools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hirez_mosaic.geometry import CELL, Box, CellGrid
from hirez_mosaic.nets.decoders import CELL_VALUES, FEATURES, HALO, Decoder, Score, TrunkNorm

_CELLS = 1024  # queries scored at once
_KEYS = 2048  # templates scored at once; with _CELLS 8 MiB of logits, which stay in the processor's cache
_GROUP = 32  # templates whose best is found first
_SLAB = 4096  # cells whose queries are made at once


@torch.inference_mode()
def decode_chunk(
    decoder: Decoder,
    norm: TrunkNorm | None,
    score: Score,
    grid: CellGrid,
    analysis: Any,
    features: Any,
    candidates: Any,
    scores: Any,
    box: Box,
) -> None:
    """Fill the write box of `candidates` (rows, columns, k) uint32 and `scores` float32, best first.

    score: the decoder's `score()`. k is 1 where only the best is wanted; refining wants more.
    features, norm: None where the decoder reads none.
    Reads the features of its cells with a halo of one cell, clipped at the picture's edge, and runs over slabs of a few rows of them.
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
        found.append(best_k(queries, score, decoder.template_count, candidates.shape[-1]))
    shape = (box.height, box.width, candidates.shape[-1])
    candidates[box.slices] = torch.cat([index for index, _ in found]).cpu().numpy().astype(np.uint32).reshape(shape)
    scores[box.slices] = torch.cat([score for _, score in found]).cpu().numpy().reshape(shape)


def box_queries(decoder: Decoder, norm: TrunkNorm | None, bounds: Box, analysis: Any, features: Any, box: Box) -> torch.Tensor:
    """(cells, D) queries of a box of cells, row-major, as `decode_chunk` makes them. bounds: all cells of the picture."""
    around = box.grown(HALO, bounds)
    nearby = None if features is None else np.asarray(features[around.slices])
    own = np.ascontiguousarray(analysis[box.scaled(CELL).slices])
    return window_queries(decoder, norm, nearby, own, box.within(around))


def window_queries(
    decoder: Decoder, norm: TrunkNorm | None, features: NDArray[Any] | None, pixels: NDArray[np.uint8], inner: Box
) -> torch.Tensor:
    """Queries of the cells `inner` of a window and its halo, (cells, D), row-major.

    features: (rows, columns, 256), halo included. pixels: (8 rows, 8 columns, 3), the cells of `inner` alone.
    """
    device = next(itertools.chain(decoder.parameters(), decoder.buffers())).device
    cells = cell_pixels(torch.from_numpy(pixels).to(device))
    if features is None:
        return decoder.queries(None, cells, norm)
    rows, columns = features.shape[:2]
    nearby = torch.from_numpy(features).to(device).float().permute(2, 0, 1)[None]
    own = torch.zeros(rows, columns, CELL_VALUES, device=device)
    own[inner.slices] = cells.unflatten(0, (inner.height, inner.width))
    queries = decoder.queries(nearby, own.flatten(0, 1), norm)
    return queries.unflatten(0, (rows, columns))[inner.slices].flatten(0, 1)


def cell_pixels(pixels: torch.Tensor) -> torch.Tensor:
    """(8 rows, 8 columns, 3) uint8 -> (rows x columns, 192) float32 in [0, 1]: each cell's px as (8, 8, 3), row-major."""
    rows, columns = pixels.shape[0] // CELL, pixels.shape[1] // CELL
    cells = pixels.reshape(rows, CELL, columns, CELL, 3).transpose(1, 2)  # (rows, columns, 8, 8, 3)
    return cells.reshape(rows * columns, -1).float() / 255


def best_k(queries: torch.Tensor, score: Score, templates: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k templates with the highest score for each query, best first, of equal ones the first.

    queries: (cells, D). score: see `Score`. templates: their number. Returns (indices int64, scores float32), both (cells, k).
    Holds 1,024 x 2,048 scores at a time, so memory depends neither on the number of templates nor on that of cells.
    """
    indices, values = [], []
    held = queries.new_empty(_CELLS, _KEYS)
    for part in queries.split(_CELLS):
        best = part.new_full((len(part), k), -torch.inf)
        which = torch.zeros(len(part), k, dtype=torch.int64, device=part.device)
        for start in range(0, templates, _KEYS):
            block = slice(start, min(start + _KEYS, templates))
            near, value = _best_in_block(score(part, block, held[: len(part), : block.stop - start]), k)
            best, order = _first_best(torch.cat([best, value], 1), k)
            which = torch.cat([which, near + start], 1).gather(1, order)
        indices.append(which)
        values.append(best)
    return torch.cat(indices), torch.cat(values)


def _best_in_block(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best of each row: they lie in the k groups with the best maxima, and a group's maximum is quick to find."""
    count = logits.shape[1]
    if count <= 2 * k * _GROUP:
        value, order = _first_best(logits, min(k, count))
        return order, value
    if count % _GROUP:
        logits = torch.nn.functional.pad(logits, (0, -count % _GROUP), value=-torch.inf)
    groups = logits.unflatten(1, (-1, _GROUP))  # (cells, groups, 32)
    chosen = _first_best(groups.amax(2), k)[1].sort(1).values
    members = (chosen[:, :, None] * _GROUP + torch.arange(_GROUP, device=logits.device)).flatten(1)
    value, order = _first_best(logits.gather(1, members), k)
    return members.gather(1, order), value


def _first_best(values: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(values, positions) of the k best of each row, best first; of equal ones the first, which topk of floats does not promise."""
    if k == 1:
        return values.max(1, keepdim=True)
    best, order = values.topk(k, 1)
    last = best[:, -1:]
    if ((values == last).sum(1) > (best == last).sum(1)).any():  # equal ones beyond the k
        ordered = values.sort(dim=1, descending=True, stable=True)
        return ordered.values[:, :k], ordered.indices[:, :k]
    order = order.sort(1).values
    best, again = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return best, order.gather(1, again)


def projected_bytes(chunk: tuple[int, int], query: int, templates: int, k: int) -> int:
    """Bytes that one task holds at most: the chunk's features, px and candidates, a slab's hidden layer and queries, a block of scores.

    query: length of a query. templates: number of templates. k: candidates a cell.
    """
    cells = max(chunk[1], min(_SLAB, chunk[0] * chunk[1]))
    slab = (cells + 2 * chunk[1] + 2 * cells // chunk[1] + 4) * (FEATURES * 4 * 5 + query * 4 * 3 + 3 * CELL * CELL * 4)
    inputs = (chunk[0] + 2) * (chunk[1] + 2) * (FEATURES * 4 + 3 * CELL * CELL + (24 * k if k > 1 else 0))
    return inputs + slab + 5 * _CELLS * min(_KEYS, templates) * 4
