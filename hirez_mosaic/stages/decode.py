"""Decode: from features and px to the best templates of every cell."""

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
from hirez_mosaic.nets.decoders import CELL_VALUES, FEATURES, HALO, Decoder, Score, TrunkNorm
from hirez_mosaic.nets.scoring import _CELLS, _KEYS, Keys, candidates_of, keys_of, window_queries
from hirez_mosaic.pixels.geometry import CELL, Box, CellGrid
from hirez_mosaic.settings.spec import RenderSpec
from hirez_mosaic.stages.stage import Setup, Stage, Tools
from hirez_mosaic.templates.names import read_names

_SLAB = 4096  # cells whose queries are made at once


@torch.inference_mode()
def decode_chunk(
    box: Box,
    *,
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
) -> None:
    """Fill the write box of `candidates` (rows, columns, k) uint32 and `scores` float32, best first.

    k is 1 where later stages read the best candidate alone; choosing together reads more.
    Reads the features of its cells with a halo of one cell, clipped at the picture's edge, and works on slabs of a few
    rows at a time.

    best: (rows, columns) uint32, filled with the first candidate of each cell; None where no stage reads it.
    score: the decoder's `score()`.
    keys: see `keys_of`.
    features, norm: None where the decoder reads no features.
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

    query: length of a query.
    templates: number of templates.
    k: candidates a cell.
    """
    cells = max(chunk[1], min(_SLAB, chunk[0] * chunk[1]))
    slab = (cells + 2 * chunk[1] + 2 * cells // chunk[1] + 4) * (FEATURES * 4 * 5 + query * 4 * 3 + 3 * CELL * CELL * 4)
    inputs = (chunk[0] + 2) * (chunk[1] + 2) * (FEATURES * 4 + 3 * CELL * CELL + (24 * k if k > 1 else 0))
    return inputs + slab + 5 * _CELLS * min(_KEYS, templates) * 4


def decoding(
    device: torch.device,
    task: Callable[..., None],
    decoder: Decoder,
    norm: TrunkNorm | None,
    bonus: NDArray[np.float32] | None,
    k: int,
) -> Task:
    """The task of a chunk on a device.

    task: `decode_chunk` with all that it takes but what is made here.
    bonus: (N,) to be added to the scores of templates.
    k: candidates a cell.
    """
    keys = keys_of(decoder, bonus) if k > 1 else None
    decoder.to(device)
    return partial(
        task,
        decoder=decoder,
        norm=None if norm is None else TrunkNorm(norm.mean.to(device), norm.variance.to(device)),
        score=decoder.score() if bonus is None else _with_bonus(decoder.score(), torch.from_numpy(bonus).to(device)),
        keys=keys,
    )


def _with_bonus(score: Score, bonus: torch.Tensor) -> Score:
    """The scores with a bonus for some templates. bonus: (N,), to be added."""
    return lambda queries, block, out=None: score(queries, block, out).add_(bonus[block])


class _Decode(Stage):
    """The best templates of every cell, and their scores."""

    name = "decode"
    reads = (arrays.ANALYSIS.name, arrays.FEATURES.name, arrays.MOMENTS.name, arrays.DECODER)
    leaves = (arrays.CANDIDATES.name, arrays.SCORES.name, arrays.BEST.name)

    def writes(self, setup: Setup) -> tuple[StoredArray, ...]:
        k = setup.tools.candidates
        best = (arrays.BEST,) if setup.spec.together else ()
        return replace(arrays.CANDIDATES, channels=k), replace(arrays.SCORES, channels=k), *best

    def memory(self, setup: Setup, chunk: tuple[int, int], workers: int) -> int:
        decoder, count = setup.tools.choice.decoder, len(setup.tools.templates)
        held = (
            workers * projected_bytes(chunk, decoder.query_length, count, setup.tools.candidates)
            + decoder.scoring_bytes
        )
        if decoder.template_keys() is not None and setup.tools.candidates > 1:
            held += 2 * 4 * CELL_VALUES * count  # of the start with a rich set, and of the templates it is made from
        return held + setup.far_bytes + setup.learned_bytes + setup.left_bytes

    def identity(self, spec: RenderSpec, tools: Tools) -> Identity:
        return {
            "templates": tools.templates.fingerprint,
            "decoder": tools.choice.identity,
            "together": spec.together,
            "preferred": sorted(read_names(spec.prefer, "preferred")) if spec.prefer else None,
            "candidates": tools.candidates,
            "device": tools.device.type,
        }


DECODE = _Decode()
