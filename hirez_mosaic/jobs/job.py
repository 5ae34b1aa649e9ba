"""A job once it is planned: everything that a render works with, and what renders share."""

from dataclasses import dataclass
from pathlib import Path

from hirez_mosaic.engine.store import Identity
from hirez_mosaic.files.fresh import shortened
from hirez_mosaic.jobs.disk import DiskNeeded, disk_needed
from hirez_mosaic.jobs.plan import Plan
from hirez_mosaic.stages.stage import Setup


@dataclass(frozen=True)
class Job(Setup):
    """A render that is planned.

    place: of the workspace, a folder or a URL. identity: what decides each stage, the picture included, by the stage's
        name; what is finished is of use to a later start for as long as this is the same.
    """

    plan: Plan
    place: str
    identity: dict[str, Identity]

    def disk_needed(self) -> DiskNeeded:
        """What it has yet to write."""
        return disk_needed(self, self.plan.chunk, self.place)


def hidden_workspace(output: Path) -> Path:
    """Where a render keeps what it has finished until its mosaic is there, unless it is told."""
    return output.with_name(f".{shortened(output.name)}.workspace")
