"""A job once it is planned: everything that a render works with, and what renders share."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from hirez_mosaic.engine.graph import Engine
from hirez_mosaic.engine.store import Identity
from hirez_mosaic.files.fresh import shortened
from hirez_mosaic.jobs.decoder import loss_network, window_objective
from hirez_mosaic.jobs.disk import DiskNeeded, disk_needed
from hirez_mosaic.jobs.plan import Plan, Room, candidates_kept
from hirez_mosaic.nets.choice import Choice
from hirez_mosaic.nets.objective import Objective
from hirez_mosaic.nets.vgg import VGG16
from hirez_mosaic.settings.spec import RenderSpec
from hirez_mosaic.sources import Source
from hirez_mosaic.stages.encode import stored_type
from hirez_mosaic.templates import TemplateSet


@dataclass(frozen=True)
class Tools:
    """What renders share whose specs differ in nothing but source, workspace and what they write. No render changes it."""

    templates: TemplateSet
    weights: dict[str, torch.Tensor]
    encoder: VGG16
    choice: Choice
    device: torch.device
    precision: torch.dtype
    engine: Engine
    room: Room
    far_weight: float

    @cached_property
    def objective(self) -> Objective:
        """What fitting and refining minimise, and rules are judged by."""
        return window_objective(
            loss_network(self.weights, self.device, self.precision), self.templates, self.far_weight
        )


@dataclass(frozen=True)
class Job:
    """Everything a render works with, once it is planned.

    place: of the workspace. identity: what is done is of use to a later start of the same one alone.
    """

    spec: RenderSpec
    source: Source
    tools: Tools
    plan: Plan
    place: str
    identity: Identity

    def disk_needed(self) -> DiskNeeded:
        """What it has yet to write."""
        feature_bytes = np.dtype(stored_type(self.tools.precision)).itemsize
        unpacked, k = self.source.unpacked_bytes, candidates_kept(self.spec, self.tools.templates)
        names = len(self.tools.templates.names)
        return disk_needed(
            self.spec, self.plan, self.place, feature_bytes, unpacked, self.tools.choice.decoder, k, names
        )


def hidden_workspace(output: Path) -> Path:
    """Where a render keeps what it has finished until its mosaic is there, unless it is told."""
    return output.with_name(f".{shortened(output.name)}.workspace")
