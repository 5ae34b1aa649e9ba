"""What a stage knows of itself, before a render runs: what it reads and writes, what it holds, what decides its result.

The plan, the room on disk, the marks, the identity of a job and what may be kept of an earlier one follow from the list
of stages in `jobs.stages`, and from nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import torch

from hirez_mosaic.engine.arrays import StoredArray
from hirez_mosaic.engine.graph import Engine, StageRun, Task
from hirez_mosaic.engine.machine import Room
from hirez_mosaic.engine.store import Identity, Workspace
from hirez_mosaic.nets.choice import Choice
from hirez_mosaic.nets.loss import MultiScaleLoss, loss_network
from hirez_mosaic.nets.objective import Objective, objective_bytes
from hirez_mosaic.nets.vgg import VGG16
from hirez_mosaic.pixels.far_view import VALUES
from hirez_mosaic.pixels.geometry import Box, CellGrid
from hirez_mosaic.settings.spec import RenderSpec
from hirez_mosaic.sources import Source
from hirez_mosaic.templates import TemplateSet

_LEARNED = 80 << 20  # bytes that stay in libraries after fitting or refining; measured


@dataclass(frozen=True)
class Tools:
    """What is shared by renders that differ only in their sources, workspaces and outputs. No render changes it.

    candidates: choices a cell that decode keeps.
    """

    templates: TemplateSet
    weights: dict[str, torch.Tensor]
    encoder: VGG16
    choice: Choice
    device: torch.device
    precision: torch.dtype
    engine: Engine
    room: Room
    far_weight: float
    candidates: int

    @cached_property
    def objective(self) -> Objective:
        """What fitting and refining minimise: Eq. 3 of windows out of a larger picture, and the far view."""
        network = loss_network(self.weights, self.device, self.precision)
        small = torch.from_numpy(self.templates.at_cell_size()).to(self.device)
        return Objective(MultiScaleLoss(network, edge="replicate"), small, self.far_weight)

    @property
    def number_bytes(self) -> int:
        """Bytes of a number in the networks."""
        return self.precision.itemsize


@dataclass(frozen=True)
class Setup:
    """A render that is checked and not yet planned."""

    spec: RenderSpec
    source: Source
    grid: CellGrid
    tools: Tools

    @property
    def far_bytes(self) -> int:
        """Bytes of what the far view sees of all templates, where cells are chosen together."""
        return 4 * VALUES * len(self.tools.templates) if self.spec.together else 0

    @property
    def learns(self) -> bool:
        """Whether something is fitted or refined."""
        return self.tools.choice.fit_steps > 0 or self.spec.refine_steps > 0

    @property
    def left_bytes(self) -> int:
        """Bytes that fitting and refining leave behind in their libraries."""
        return _LEARNED if self.learns else 0

    @property
    def learned_bytes(self) -> int:
        """Bytes of the templates that fitting and refining leave behind."""
        return objective_bytes(len(self.tools.templates)) if self.learns else 0


class Stage:
    """What is known of a stage. The defaults are those of a stage that leaves nothing and takes next to nothing.

    name: of its marks, its progress bar and its time.
    reads: the names of the arrays and files of the workspace that it reads.
    leaves: the names of the arrays and files of the workspace that it may write.
    follows: the name of the stage that it follows chunk by chunk, so that the same workers run both.
    """

    name: ClassVar[str]
    reads: ClassVar[tuple[str, ...]] = ()
    leaves: ClassVar[tuple[str, ...]] = ()
    follows: ClassVar[str | None] = None

    def runs(self, setup: Setup) -> bool:
        """Whether this render has the stage."""
        return True

    def writes(self, setup: Setup) -> tuple[StoredArray, ...]:
        """The arrays of the workspace that it fills in this render, some of those that it leaves."""
        return ()

    def chunk(self, setup: Setup) -> tuple[int, int] | None:
        """(rows, columns) of cells that it makes at a time, None for the plan's."""
        return None

    def halo(self, setup: Setup) -> int:
        """Cells beyond a chunk whose chunks it reads of the stage that it follows."""
        return 0

    def turn(self, setup: Setup) -> Callable[[Box], int] | None:
        """A function that gives a chunk's turn, for a stage whose chunks read neighbours of an earlier turn, else None.

        Chunks of one turn do not touch.
        """
        return None

    def memory(self, setup: Setup, chunk: tuple[int, int], workers: int) -> int:
        """Bytes that it holds at most, besides what the process and its libraries do.

        chunk: (rows, columns) of cells in the plan's chunks. workers: chunks at a time.
        """
        return 0

    def disk(self, setup: Setup, chunk: tuple[int, int]) -> int:
        """Bytes that it leaves in the workspace. chunk: (rows, columns) of cells in the plan's chunks."""
        return sum(array.disk_bytes(setup.grid, chunk) for array in self.writes(setup))

    def scratch(self, setup: Setup) -> int:
        """Bytes on disk of files that it needs while it runs."""
        return 0

    def output_bytes(self, setup: Setup) -> int:
        """Bytes on disk of the outputs that it writes."""
        return 0

    def identity(self, spec: RenderSpec, tools: Tools) -> Identity:
        """What decides its result, besides what it reads and the picture itself; by names that people know."""
        return {}

    def arrays(self, workspace: Workspace, setup: Setup) -> list[Any]:
        """The arrays that it fills, as the workspace stores them."""
        return [workspace.array(array) for array in self.writes(setup)]

    def run(self, workspace: Workspace, setup: Setup, task: Task) -> StageRun:
        """The stage on every chunk of a workspace, by a task that needs the processor alone."""
        return self.run_on(workspace, setup, partial(_on_processor, task))

    def run_on(self, workspace: Workspace, setup: Setup, make: Callable[[torch.device], Task]) -> StageRun:
        """The stage on every chunk of a workspace, by a task that is made for a device. make: see `StageRun`."""
        marks = workspace.marks(self.name, self.chunk(setup))
        written = sum(array.cell_bytes for array in self.writes(setup))
        return StageRun(self.name, make, setup.grid, marks, self.halo(setup), written, self.turn(setup))


def _on_processor(task: Task, device: torch.device) -> Task:
    """The task itself, whatever the device is."""
    return task
