"""The stages of a render, each as a function that, given a device, makes the function of one chunk.

They are plain functions of plain values, so that a cluster can send them, with network and decoder, to each of its
workers once.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hirez_mosaic.engine.graph import Task
from hirez_mosaic.nets.decoders import Decoder, Score, TrunkNorm
from hirez_mosaic.nets.objective import Objective
from hirez_mosaic.nets.scoring import keys_of
from hirez_mosaic.nets.vgg import VGG16
from hirez_mosaic.pixels.far_view import FarView
from hirez_mosaic.pixels.geometry import CellGrid
from hirez_mosaic.sources import Source
from hirez_mosaic.stages.decode import decode_chunk
from hirez_mosaic.stages.encode import encode_chunk
from hirez_mosaic.stages.ingest import ingest_chunk
from hirez_mosaic.stages.refine import refine_window
from hirez_mosaic.stages.select import choose_block, select_chunk
from hirez_mosaic.stages.start import Together


def ingesting(source: Source, grid: CellGrid, analysis: Any, colours: Any, device: torch.device) -> Task:
    """See `ingest_chunk`."""
    return lambda box: ingest_chunk(source, grid, analysis, colours, box)


def encoding(
    encoder: VGG16,
    grid: CellGrid,
    analysis: Any,
    features: Any,
    moments: Any,
    chunk: tuple[int, int],
    device: torch.device,
) -> Task:
    """See `encode_chunk`."""
    encoder.to(device)
    return lambda box: encode_chunk(encoder, grid, analysis, features, moments, chunk, box)


def decoding(
    decoder: Decoder,
    norm: TrunkNorm | None,
    bonus: NDArray[np.float32] | None,
    grid: CellGrid,
    analysis: Any,
    features: Any,
    candidates: Any,
    scores: Any,
    best: Any,
    device: torch.device,
) -> Task:
    """See `decode_chunk`."""
    keys = keys_of(decoder, bonus) if candidates.shape[-1] > 1 else None
    decoder.to(device)
    here = None if norm is None else TrunkNorm(norm.mean.to(device), norm.variance.to(device))
    score = decoder.score() if bonus is None else _with_bonus(decoder.score(), torch.from_numpy(bonus).to(device))
    return lambda box: decode_chunk(decoder, here, score, keys, grid, analysis, features, candidates, scores, best, box)


def _with_bonus(score: Score, bonus: torch.Tensor) -> Score:
    """Scores of templates, of which some get more."""
    return lambda queries, block, out=None: score(queries, block, out).add_(bonus[block])


def selecting(best: Any, index_map: Any, device: torch.device) -> Task:
    """See `select_chunk`."""
    return lambda box: select_chunk(best, index_map, box)


def choosing_together(
    together: Together,
    grid: CellGrid,
    analysis: Any,
    candidates: Any,
    scores: Any,
    best: Any,
    index_map: Any,
    device: torch.device,
) -> Task:
    """See `choose_block`; on the processor, whatever the device is."""
    return partial(
        choose_block,
        grid,
        analysis,
        candidates,
        scores,
        best,
        index_map,
        values=together.values,
        far=FarView.of_weight(together.far),
        unit=together.unit,
        gap=together.gap,
        repeats=together.repeats,
        poses=together.poses,
    )


def refining(
    objective: Objective,
    grid: CellGrid,
    analysis: Any,
    candidates: Any,
    scores: Any,
    refined: Any,
    best: Any,
    together: Together,
    steps: int,
    device: torch.device,
) -> Task:
    """See `refine_window`."""
    here, terms = objective.on(device), {"unit": together.unit, "gap": together.gap, "far": together.far}
    return lambda box: refine_window(here, grid, analysis, candidates, scores, refined, best, box, **terms, steps=steps)
