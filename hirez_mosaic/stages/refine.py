"""Refine: the scores of each cell's best templates, optimised under Eq. 3; the next stages choose by them.

The grid is cut into refining windows of 64 x 64 cells, whatever the chunks are. Each is optimised together with 8 cells
around it, whose scores are thrown away afterwards. A cell starts from the same candidates in every window, so windows
agree where they meet.

What is minimised is Eq. 3 of the soft mosaic, and near and far of `together`, so that Eq. 3 is not lowered at the cost
of what the eye sees. Near and far are measured in gaps between a cell's best and tenth choice.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from hirez_mosaic.engine import arrays
from hirez_mosaic.engine.arrays import StoredArray
from hirez_mosaic.engine.graph import Task
from hirez_mosaic.engine.store import Identity
from hirez_mosaic.nets.objective import Objective, objective_bytes, placed, step_bytes
from hirez_mosaic.pixels.geometry import Box, CellGrid
from hirez_mosaic.settings.spec import RenderSpec
from hirez_mosaic.stages.stage import Setup, Stage, Tools
from hirez_mosaic.stages.start import Together
from hirez_mosaic.stages.together import near_costs

KEPT = 64
"""Templates per cell that refining chooses from."""
WINDOW = 64
"""Side of a refining window, cells."""
CONTEXT = 8
"""Cells around it that are optimised with it; half the reach of conv4_1 at the coarsest scale."""
GAP = 0.4
"""What a gap of near and far counts, in Eq. 3."""
_START = 0.1  # logits of a gap before the first step
_RATE = 0.2  # Adam's learning rate
_FORGETS = 0.95  # Adam's second beta
_INVERSE_TEMPERATURE = (3.0, 60.0)


def projected_bytes(grid: CellGrid, itemsize: int) -> int:
    """Bytes that refining one window holds at most."""
    rows, columns = (min(WINDOW + 2 * CONTEXT, length) for length in (grid.rows, grid.columns))
    return step_bytes(rows, columns, itemsize) + rows * columns * KEPT * (8 + 4 + 4 + 6 * 4)


def refine_window(
    box: Box,
    *,
    objective: Objective,
    grid: CellGrid,
    analysis: Any,
    candidates: Any,
    scores: Any,
    refined: Any,
    best: Any,
    together: Together,
    steps: int,
) -> None:
    """Fill the write box of `refined` (rows, columns, k) float32 with the candidates' optimised scores.

    candidates, scores: (rows, columns, k), see `decode`.
    best: (rows, columns) uint32, filled with each cell's candidate of the highest optimised score.
    together: the terms of the picture's objective.
    """
    read = box.grown(CONTEXT, grid.box)
    device, gap = objective.templates.device, together.gap or 1.0
    found = torch.from_numpy(np.asarray(candidates[read.slices]).astype(np.int64)).to(device).flatten(0, 1)
    near = torch.from_numpy(near_costs(np.asarray(scores[read.slices]), together.unit)).to(device).flatten(0, 1) / gap
    scored = optimised(objective, objective.source_window(analysis, read), found, near, together.far / gap, read, steps)
    first = found.gather(1, scored.argmax(1, keepdim=True))[:, 0]
    inner = box.within(read).slices
    refined[box.slices] = scored.unflatten(0, (read.height, read.width))[inner].cpu().numpy()
    best[box.slices] = first.unflatten(0, (read.height, read.width))[inner].cpu().numpy().astype(np.uint32)


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

    The inverse temperature rises geometrically from 3 to 60.

    source: (1, 3, 8 rows, 8 columns) px in [0, 1].
    near: (cells, k) the near term of candidates, in gaps.
    far: weight of the far view, in gaps.
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


def refining(device: torch.device, task: Callable[..., None], objective: Objective) -> Task:
    """The task of a window on a device. task: `refine_window` with all that it takes but the objective."""
    return partial(task, objective=objective.on(device))


class _Refine(Stage):
    """The scores of every cell's candidates, optimised."""

    name = "refine"
    reads = (arrays.ANALYSIS.name, arrays.CANDIDATES.name, arrays.SCORES.name)
    leaves = (arrays.REFINED.name, arrays.REFINED_BEST.name)

    def runs(self, setup: Setup) -> bool:
        return setup.spec.refine_steps > 0

    def chunk(self, setup: Setup) -> tuple[int, int]:
        return WINDOW, WINDOW

    def writes(self, setup: Setup) -> tuple[StoredArray, ...]:
        chunk = self.chunk(setup)
        return replace(arrays.REFINED, channels=setup.tools.candidates, chunk=chunk), replace(
            arrays.REFINED_BEST, chunk=chunk
        )

    def memory(self, setup: Setup, chunk: tuple[int, int], workers: int) -> int:
        held = objective_bytes(len(setup.tools.templates)) + setup.tools.choice.decoder.scoring_bytes
        return projected_bytes(setup.grid, setup.tools.number_bytes) + held

    def identity(self, spec: RenderSpec, tools: Tools) -> Identity:
        return {"refine": spec.refine_steps, "device": tools.device.type, "precision": str(tools.precision)}


REFINE = _Refine()
