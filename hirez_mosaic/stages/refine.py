"""Refine: the scores of each cell's best templates optimised under Eq. 3, and what is chosen by next.

The grid is cut into refining windows of 64 x 64 cells, whatever the chunks are, and each is optimised with 8 cells
around it that are thrown away afterwards; what lies there starts from the same candidates in every window, so
neighbours agree where they meet.

What is minimised is Eq. 3 of the soft mosaic and, so that it is not bought with what the eye sees, near and far of
`together`: in gaps between a cell's best and tenth choice, of which one counts as much as `GAP` of Eq. 3.
"""

from typing import Any

import numpy as np
import torch

from hirez_mosaic.nets.objective import Objective, placed, step_bytes
from hirez_mosaic.pixels.geometry import Box, CellGrid
from hirez_mosaic.stages.together import near_costs

CANDIDATES = 64
"""Templates per cell that refining chooses from."""
WINDOW = 64
"""Side of a refining window, cells."""
CONTEXT = 8
"""Cells around it that are optimised with it; half the reach of conv4_1 at the coarsest scale."""
GAP = 0.4
_START = 0.1  # of a gap, in logits
_RATE = 0.2
_FORGETS = 0.95
_INVERSE_TEMPERATURE = (3.0, 60.0)


def projected_bytes(grid: CellGrid, itemsize: int) -> int:
    """Bytes that refining one window holds at most."""
    rows, columns = (min(WINDOW + 2 * CONTEXT, length) for length in (grid.rows, grid.columns))
    return step_bytes(rows, columns, itemsize) + rows * columns * CANDIDATES * (8 + 4 + 4 + 6 * 4)


def refine_window(
    objective: Objective,
    grid: CellGrid,
    analysis: Any,
    candidates: Any,
    scores: Any,
    refined: Any,
    best: Any,
    box: Box,
    *,
    unit: float,
    gap: float,
    far: float,
    steps: int,
) -> None:
    """Fill the write box of `refined` (rows, columns, k) float32 with the candidates' scores when they are optimised.

    candidates, scores: (rows, columns, k), see `decode`. unit, gap, far: see `choosing.Together`.
    best: (rows, columns) uint32, filled with the candidates of the highest scores then.
    """
    read = box.grown(CONTEXT, grid.box)
    device = objective.templates.device
    found = torch.from_numpy(np.asarray(candidates[read.slices]).astype(np.int64)).to(device).flatten(0, 1)
    near = torch.from_numpy(near_costs(np.asarray(scores[read.slices]), unit)).to(device).flatten(0, 1) / (gap or 1.0)
    scored = optimised(objective, objective.source_window(analysis, read), found, near, far / (gap or 1.0), read, steps)
    first = found.gather(1, scored.argmax(1, keepdim=True))[:, 0]
    kept = (of.unflatten(0, (read.height, read.width))[box.within(read).slices].cpu().numpy() for of in (scored, first))
    refined[box.slices], best[box.slices] = next(kept), next(kept).astype(np.uint32)


def optimised(
    objective: Objective,
    source: torch.Tensor,
    candidates: torch.Tensor,
    near: torch.Tensor,
    far: float,
    box: Box,
    steps: int,
) -> torch.Tensor:
    """(cells, k) the logits of each cell's candidates (cells, k) in a box after `steps` Adam steps on them.

    source: (1, 3, 8 rows, 8 columns). near: (cells, k) what candidates cost near, in gaps. far: weight of the far view,
    likewise. The inverse temperature rises geometrically from 3 to 60.
    """
    logits = (-_START * near).requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=_RATE, betas=(0.9, _FORGETS))
    wanted = objective.loss.activations(source)
    start, end = _INVERSE_TEMPERATURE
    for step in range(steps):
        coefficients = torch.softmax(start * (end / start) ** (step / max(1, steps - 1)) * logits, 1)
        mixed = torch.nn.functional.embedding_bag(
            candidates, objective.templates, per_sample_weights=coefficients, mode="sum"
        )
        mosaic = placed(mixed, box)
        seen = far * objective.far_energy(source, mosaic).sum() + (coefficients * near).sum(1).mean()
        (objective.loss.per_scale(wanted, mosaic).mean() + GAP * seen).backward()
        optimiser.step()
        optimiser.zero_grad()
    return logits.detach()
