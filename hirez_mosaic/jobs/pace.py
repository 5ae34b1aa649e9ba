"""How long a render takes on this machine: what its stages took of earlier ones, and a step in miniature.

Fitting and refining spend nearly all their time in steps, Eq. 3 of a small window and its gradient. One is measured
once a day. The other stages are known from the mosaics that were made before.
"""

import json
import math
import time
from collections.abc import Mapping
from contextlib import suppress

import torch

from hirez_mosaic.files.cache import cache_folder
from hirez_mosaic.files.fresh import fresh
from hirez_mosaic.jobs.job import Job
from hirez_mosaic.jobs.stages import stages_of
from hirez_mosaic.nets.fitting import WINDOW as FITTED
from hirez_mosaic.nets.loss import MultiScaleLoss
from hirez_mosaic.nets.vgg import VGG16
from hirez_mosaic.pixels.geometry import CELL, CellGrid
from hirez_mosaic.stages.refine import CONTEXT
from hirez_mosaic.stages.refine import WINDOW as REFINED

_SIDE = 16  # side of that window, cells
_DAY = 86_400.0  # seconds
_STEP = "step"
_AROUND = 1.3  # factor for drawing windows, scoring and judging, which come on top of the steps; measured


def _measured_step(device: torch.device, precision: torch.dtype) -> float:
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


class Pace:
    """What this machine took, kept in the cache: by stage the seconds for a unit of its work, and how much that was.

    device, precision: of the networks; others have a pace of their own.
    """

    def __init__(self, device: torch.device, precision: torch.dtype) -> None:
        self._device, self._precision = device, precision
        name = f"{device}-{precision}".replace("torch.", "").replace(":", "")
        self._file = cache_folder("pace") / f"{name}.json"
        self._kept: dict[str, tuple[float, float]] = {}
        with suppress(OSError, ValueError, TypeError, AttributeError):  # a damaged file is one that is not there
            self._kept = {str(key): (float(a), float(b)) for key, (a, b) in json.loads(self._file.read_text()).items()}

    def step_seconds(self) -> float:
        """Seconds that a step of fitting or refining takes for one cell; measured where that was not done today."""
        seconds, when = self._kept.get(_STEP, (0.0, -math.inf))
        if not 0 <= time.time() - when <= _DAY:
            seconds = _measured_step(self._device, self._precision)
            self._keep({_STEP: (seconds, time.time())})
        return seconds

    def seconds(self, job: Job) -> dict[str, float | None]:
        """Seconds of each stage of a job, in order; None where no mosaic with such a stage was made here before."""
        steps = job.tools.choice.fit_steps, job.spec.refine_steps
        efforts = effort_seconds(job.grid, *steps, self.step_seconds()) if any(steps) else (0.0, 0.0)
        told: dict[str, float | None] = {}
        for name, work in _work(job).items():
            kept = self._kept.get(_label(name, job))
            told[name] = None if kept is None else kept[0] * work
        return {**told, **{name: took for name, took in zip(("fit", "refine"), efforts, strict=True) if took}}

    def learn(self, job: Job, seconds: Mapping[str, float]) -> None:
        """Keep what the stages of a job took, unless that of a job more than twice as large is known.

        seconds: by stage, of a job that no earlier start had begun.
        """
        found = {_label(name, job): (seconds[name], work) for name, work in _work(job).items() if seconds.get(name)}
        least = {label: self._kept.get(label, (0.0, 0.0))[1] / 2 for label in found}
        self._keep({label: (took / work, work) for label, (took, work) in found.items() if work >= least[label]})

    def _keep(self, new: Mapping[str, tuple[float, float]]) -> None:
        self._kept.update(new)
        with suppress(OSError), fresh(self._file) as made:
            made.write_text(json.dumps(self._kept))


def _work(job: Job) -> dict[str, float]:
    """How much there is to do in each stage, but in fitting and refining: in px, choices or cells."""
    cells, choices, px = job.grid.cells, len(job.tools.templates), math.prod(job.source.stored_size)
    of_others = {
        "unpack": px,
        "ingest": px,
        "start": choices,
        "decode": cells * choices,
        "assemble": math.prod(job.grid.mosaic_size),
        "preview": 1,
    }
    names = (stage.name for stage in stages_of(job))
    return {name: of_others.get(name, cells) for name in names if name not in ("fit", "refine")}


def _label(stage: str, job: Job) -> str:
    """Under which name the pace of a stage is kept: decoders and formats have their own."""
    if stage == "decode":
        return f"{stage} {type(job.tools.choice.decoder).__name__}"
    if stage == "assemble":
        return f"{stage} {job.spec.output.suffix.lower()} {job.spec.encoding.compression}"
    return stage
