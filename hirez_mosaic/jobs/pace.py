"""How long fitting and refining will take on this machine.

Both spend nearly all their time in steps that compute Eq. 3 of a window and its gradient. One such step is measured, on
a small window.
"""

import time

import torch

from hirez_mosaic.nets.fitting import WINDOW as FITTED
from hirez_mosaic.nets.loss import MultiScaleLoss
from hirez_mosaic.nets.vgg import VGG16
from hirez_mosaic.pixels.geometry import CELL, CellGrid
from hirez_mosaic.stages.refine import CONTEXT
from hirez_mosaic.stages.refine import WINDOW as REFINED

_SIDE = 16  # side of that window, cells
_AROUND = 1.3  # factor for drawing windows, scoring and judging, which come on top of the steps; measured


def step_seconds(device: torch.device, precision: torch.dtype) -> float:
    """Seconds that a step takes for one cell. The network is empty: its time does not depend on its weights."""
    with torch.device("meta"):
        network = VGG16("conv5_1")
    network = network.to_empty(device=device).to(dtype=precision, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for weights in network.parameters():
        weights.detach().zero_()
    loss = MultiScaleLoss(network.requires_grad_(False), edge="replicate")
    pixels = torch.zeros(1, 3, _SIDE * CELL, _SIDE * CELL, device=device, requires_grad=True)
    for _ in range(2):  # the first one prepares the convolutions
        start = time.perf_counter()
        loss.per_scale(loss.activations(pixels.detach()), pixels).mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took = time.perf_counter() - start
    return took / _SIDE**2


def effort_seconds(grid: CellGrid, fit_steps: int, refine_steps: int, step: float) -> tuple[float, float]:
    """(seconds of fitting, of refining) a picture of these cells. step: see `step_seconds`."""
    fitted = min(FITTED, grid.rows) * min(FITTED, grid.columns)
    refined = sum(box.grown(CONTEXT, grid.box).area for box in grid.chunks((REFINED, REFINED))) if refine_steps else 0
    return _AROUND * step * fit_steps * fitted, _AROUND * step * refine_steps * refined
