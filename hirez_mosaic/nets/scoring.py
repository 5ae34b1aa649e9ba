"""Scores: from the px and features of cells to each cell's best templates, block by block."""

import itertools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hirez_mosaic.nets.decoders import CELL_VALUES, HALO, Decoder, Score, TrunkNorm
from hirez_mosaic.pixels.array_types import Array
from hirez_mosaic.pixels.compiled import compiled, dot
from hirez_mosaic.pixels.geometry import CELL, Box

_CELLS = 1024  # queries scored at once
_KEYS = 2048  # templates scored at once; with _CELLS 8 MiB of logits, which stay in the processor's cache
_SPARE = 8  # candidates beyond those kept: which are the last is settled by their exact scores


Keys = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Keys and biases of templates, see `keys_of`."""


def keys_of(decoder: Decoder, bonus: NDArray[np.float32] | None = None) -> Keys | None:
    """Return (N, D) float32 keys and (N,) float32 biases on the CPU; None where scores are no scalar products.

    bonus: (N,) float32 that is added to all scores of a template; None for none.
    """
    with torch.no_grad():
        found = decoder.template_keys()
        if found is None:
            return None
        keys, bias = (of.cpu().numpy() for of in found)
        return keys, bias if bonus is None else bias + bonus


def candidates_of(
    queries: torch.Tensor, score: Score, keys: Keys | None, templates: int, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `best_k` does, with exact scores where k is more than 1 and there are keys.

    An exact score depends on nothing but query and template, so candidates and scores are the same for any chunk size.

    queries: (cells, D) float32.
    score: the decoder's `score()`.
    keys: the decoder's `keys_of`.
    templates: their number.
    k: candidates of a cell, 1 to `templates`.
    """
    if k == 1 or keys is None:
        return best_k(queries, score, templates, k)
    found = best_k(queries, score, templates, min(templates, k + _SPARE))[0].sort(1).values.cpu()
    exact = torch.from_numpy(exact_scores(queries.cpu().numpy(), *keys, found.numpy()))
    best, order = exact.sort(dim=1, descending=True, stable=True)
    return found.gather(1, order[:, :k]), best[:, :k].contiguous()


def box_queries(
    decoder: Decoder, norm: TrunkNorm | None, bounds: Box, box: Box, *, analysis: Array, features: Array | None
) -> torch.Tensor:
    """Return the (cells, D) float32 queries of a box of cells, row-major, as a render makes them.

    norm: the picture's `trunk_norm`; None where the decoder reads no features.
    bounds: all cells of the picture.
    analysis: (8 rows, 8 columns, 3) uint8, the whole picture's analysis image.
    features: (rows, columns, 256), the whole picture's; None where the decoder reads none.
    """
    around = box.grown(HALO, bounds)
    nearby = None if features is None else np.asarray(features[around.slices])
    own = np.ascontiguousarray(analysis[box.scaled(CELL).slices])
    return window_queries(decoder, norm, nearby, own, box.within(around))


def window_queries(
    decoder: Decoder, norm: TrunkNorm | None, features: NDArray[Any] | None, pixels: NDArray[np.uint8], inner: Box
) -> torch.Tensor:
    """Return the (cells, D) float32 queries of the cells `inner` of a window, row-major.

    norm: the picture's `trunk_norm`; None where the decoder reads no features.
    features: (rows, columns, 256) of the window, halo included; None where the decoder reads none.
    pixels: (8 rows, 8 columns, 3) of the cells of `inner` alone.
    inner: box within the window.
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
    """Return the (rows x columns, 192) float32 px in [0, 1] of each cell as (8, 8, 3), row-major.

    pixels: (8 rows, 8 columns, 3) uint8.
    """
    rows, columns = pixels.shape[0] // CELL, pixels.shape[1] // CELL
    cells = pixels.reshape(rows, CELL, columns, CELL, 3).transpose(1, 2)  # (rows, columns, 8, 8, 3)
    return cells.reshape(rows * columns, -1).float() / 255


def best_k(queries: torch.Tensor, score: Score, templates: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return indices (int64) and scores (float32) of each query's best templates, (cells, k) each, best first.

    Of equal ones the first comes first. 1,024 x 2,048 scores are held at a time, so memory depends neither on the
    number of templates nor on that of cells.

    queries: (cells, D) float32.
    templates: their number.
    k: 1 to `templates`.
    """
    indices, values = [], []
    held = queries.new_empty(_CELLS, _KEYS)
    keep = _keep_best if queries.device.type == "cpu" else _keep_best_on_gpu
    for part in queries.split(_CELLS):
        best = part.new_full((len(part), k), -torch.inf, dtype=torch.float32)
        which = torch.zeros(len(part), k, dtype=torch.int64, device=part.device)
        for start in range(0, templates, _KEYS):
            block = slice(start, min(start + _KEYS, templates))
            best, which = keep(score(part, block, held[: len(part), : block.stop - start]), start, best, which)
        indices.append(which)
        values.append(best)
    return torch.cat(indices), torch.cat(values)


def _keep_best(
    logits: torch.Tensor, start: int, best: torch.Tensor, which: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scores and numbers of the best of two: those so far, and the templates of a block.

    logits: (cells, n), the block's scores.
    start: number of the block's first template.
    best, which: (cells, k) scores and numbers so far, best first.
    """
    _insert(logits.detach().float().contiguous().numpy(), start, best.numpy(), which.numpy())
    return best, which


def _keep_best_on_gpu(
    logits: torch.Tensor, start: int, best: torch.Tensor, which: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Do the same by sorting, at which threads of a GPU are quicker than at comparing one by one."""
    both = torch.cat([best, logits.float()], 1)
    numbers = torch.arange(start, start + logits.shape[1], device=which.device).expand(len(logits), -1)
    best, order = both.sort(dim=1, descending=True, stable=True)
    return best[:, : which.shape[1]], torch.cat([which, numbers], 1).gather(1, order[:, : which.shape[1]])


@compiled
def _insert(logits, start, best, which):  # type: ignore[no-untyped-def]
    """Put the scores of a block among the best so far, in place; nearly all are below the last of these and cost one
    comparison.
    """
    k = best.shape[1]
    for cell in range(logits.shape[0]):
        last = best[cell, k - 1]
        for number in range(logits.shape[1]):
            value = logits[cell, number]
            if value > last:
                place = k - 1
                while place > 0 and best[cell, place - 1] < value:
                    best[cell, place] = best[cell, place - 1]
                    which[cell, place] = which[cell, place - 1]
                    place -= 1
                best[cell, place] = value
                which[cell, place] = start + number
                last = best[cell, k - 1]


@compiled
def _scored(queries, keys, bias, indices, out):  # type: ignore[no-untyped-def]
    """Set out[c, i] to queries[c] . keys[indices[c, i]] + bias[indices[c, i]]."""
    for cell in range(indices.shape[0]):
        for i in range(indices.shape[1]):
            key = indices[cell, i]
            out[cell, i] = bias[key] + dot(queries[cell], keys[key])


def exact_scores(
    queries: NDArray[np.float32], keys: NDArray[np.float32], bias: NDArray[np.float32], indices: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the (cells, k) float32 scores of those choices, summed in one order.

    A matrix product rounds by how many cells it is asked for at once, and would not do.

    queries: (cells, D).
    keys: (choices, D).
    bias: (choices,).
    indices: (cells, k), choices.
    """
    out = np.empty(indices.shape, np.float32)
    _scored(queries, keys, bias, indices, out)
    return out


def as_images(pixels: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """Return px as (1, 3, h, w) float32 in [0, 1] on the device, channels-last in memory.

    pixels: (h, w, 3) uint8.
    """
    here = torch.from_numpy(np.ascontiguousarray(pixels))
    if device.type == "cuda":
        here = here.pin_memory()  # so that the copy does not wait for what the GPU is at
    return here.to(device, non_blocking=True).permute(2, 0, 1)[None].float() / 255
