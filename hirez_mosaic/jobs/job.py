"""A job: a render that is planned, with everything that it works with."""

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

    place: of the workspace, a folder or a URL.
    identity: what decides each stage, the picture included, by the stage's name. What is finished is of use to a later
        start as long as this is the same.
    begun: whether an earlier start left something to go on with.
    """

    plan: Plan
    place: str
    identity: dict[str, Identity]
    begun: bool = False

    def disk_needed(self) -> DiskNeeded:
        """The bytes that it has yet to write."""
        return disk_needed(self, self.plan.chunk, self.place)


def hidden_workspace(output: Path) -> Path:
    """The folder in which a render keeps what it has finished until its mosaic is there, unless one is named."""
    return output.with_name(f".{shortened(output.name)}.workspace")
