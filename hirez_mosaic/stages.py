"""The stages of a render, each as a function that, given a device, makes the function of one chunk.

They are plain functions of plain values, so that a cluster can send them, with network and decoder, to each of its workers once.
"""

from typing import Any

import torch

from hirez_mosaic.decode import decode_chunk
from hirez_mosaic.encode import encode_chunk
from hirez_mosaic.engine import Task
from hirez_mosaic.fit import Objective
from hirez_mosaic.geometry import CellGrid
from hirez_mosaic.ingest import ingest_chunk
from hirez_mosaic.nets.decoders import Decoder, TrunkNorm
from hirez_mosaic.nets.vgg import VGG16
from hirez_mosaic.refine import refine_window
from hirez_mosaic.select import select_chunk
from hirez_mosaic.sources import Source


def ingesting(source: Source, grid: CellGrid, analysis: Any, colours: Any, device: torch.device) -> Task:
    """See `ingest_chunk`."""
    return lambda box: ingest_chunk(source, grid, analysis, colours, box)


def encoding(
    encoder: VGG16, grid: CellGrid, analysis: Any, features: Any, moments: Any, chunk: tuple[int, int], device: torch.device
) -> Task:
    """See `encode_chunk`."""
    encoder.to(device)
    return lambda box: encode_chunk(encoder, grid, analysis, features, moments, chunk, box)


def decoding(
    decoder: Decoder,
    norm: TrunkNorm | None,
    grid: CellGrid,
    analysis: Any,
    features: Any,
    candidates: Any,
    scores: Any,
    device: torch.device,
) -> Task:
    """See `decode_chunk`."""
    decoder.to(device)
    here = None if norm is None else TrunkNorm(norm.mean.to(device), norm.variance.to(device))
    score = decoder.score()
    return lambda box: decode_chunk(decoder, here, score, grid, analysis, features, candidates, scores, box)


def selecting(candidates: Any, index_map: Any, device: torch.device) -> Task:
    """See `select_chunk`."""
    return lambda box: select_chunk(candidates, index_map, box)


def refining(
    objective: Objective, grid: CellGrid, analysis: Any, candidates: Any, scores: Any, index_map: Any, steps: int, device: torch.device
) -> Task:
    """See `refine_window`."""
    here = objective.on(device)
    return lambda box: refine_window(here, grid, analysis, candidates, scores, index_map, steps, box)
