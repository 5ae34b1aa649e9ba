"""The room on disk that a render still needs, and whether it is there."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir

from hirez_mosaic.engine.store import bytes_below
from hirez_mosaic.errors import DiskSpaceError
from hirez_mosaic.jobs.stages import stages_of
from hirez_mosaic.settings.parsing import format_bytes, is_url
from hirez_mosaic.stages.stage import Setup


@dataclass(frozen=True)
class DiskNeeded:
    """Bytes that a render has yet to write.

    work: of the workspace, without what is there already.
    mosaic: of the outputs.
    places: all of them, by a folder on each disk.
    """

    work: int
    mosaic: int
    places: dict[Path, int]

    def check(self, beside: Sequence["DiskNeeded"]) -> None:
        """Raise DiskSpaceError where a disk has no room for that and for what renders `beside` have yet to write."""
        for folder, wanted in self.places.items():
            free, disk = shutil.disk_usage(_existing(folder)).free, _device(folder)
            promised = sum(size for other in beside for place, size in other.places.items() if _device(place) == disk)
            if free < wanted + promised:
                others = f", beside {format_bytes(promised)} of pictures under way" if promised else ""
                raise DiskSpaceError(
                    f"The disk of {folder} has {format_bytes(free)} free and the job takes about "
                    f"{format_bytes(wanted)} (workspace {format_bytes(self.work)}, "
                    f"mosaic {format_bytes(self.mosaic)}){others}: "
                    f"{wanted + promised - free:,} bytes are missing; free some, or name other disks with "
                    "`workspace` and `output`."
                )


def disk_needed(setup: Setup, chunk: tuple[int, int], place: str) -> DiskNeeded:
    """What a render has yet to write. An object store counts as endless.

    chunk: (rows, columns) of cells in the plan's chunks.
    place: of the workspace, a folder or a URL.
    """
    stages = stages_of(setup)
    scratch = sum(stage.scratch(setup) for stage in stages)
    work = scratch + sum(stage.disk(setup, chunk) for stage in stages)
    mosaic = sum(stage.output_bytes(setup) for stage in stages)
    target = setup.spec.output.absolute().parent
    if is_url(place):
        needed = {Path(gettempdir()): scratch}
        needed[target] = needed.get(target, 0) + mosaic
    else:
        workspace = Path(place)
        work = max(0, work - bytes_below(workspace))
        shared = _device(workspace) == _device(target)
        needed = {target: work + mosaic} if shared else {workspace: work, target: mosaic}
    return DiskNeeded(work, mosaic, needed)


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def _device(path: Path) -> int:
    """The disk of a path, or of the nearest folder above it that is there; the path may vanish meanwhile."""
    place = path.absolute()
    while True:
        try:
            return place.stat().st_dev
        except OSError:
            if place == place.parent:
                raise
            place = place.parent
