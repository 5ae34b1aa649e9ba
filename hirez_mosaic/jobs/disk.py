"""The room on disk that a render has yet to take, and whether it is there."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir

from hirez_mosaic.engine.store import bytes_below, workspace_bytes
from hirez_mosaic.errors import DiskSpaceError
from hirez_mosaic.jobs.plan import Plan, rules_of
from hirez_mosaic.nets.decoders import Decoder
from hirez_mosaic.outputs import mosaic_file, pages
from hirez_mosaic.settings.parsing import format_bytes, is_url
from hirez_mosaic.settings.spec import RenderSpec
from hirez_mosaic.stages import rules


@dataclass(frozen=True)
class DiskNeeded:
    """Bytes that a render has yet to write: of the workspace, less what is there, and of the mosaic. places: by a
    folder on each disk.
    """

    work: int
    mosaic: int
    places: dict[Path, int]

    def check(self, beside: Sequence["DiskNeeded"]) -> None:
        """Raise DiskSpaceError where a disk has less room than that and what renders `beside` have yet to write there."""
        for folder, wanted in self.places.items():
            free, disk = shutil.disk_usage(_existing(folder)).free, _device(folder)
            promised = sum(size for other in beside for place, size in other.places.items() if _device(place) == disk)
            if free < wanted + promised:
                others = f", beside {format_bytes(promised)} of pictures under way" if promised else ""
                raise DiskSpaceError(
                    f"The disk of {folder} has {format_bytes(free)} free and the job takes about {format_bytes(wanted)} "
                    f"(workspace {format_bytes(self.work)}, mosaic {format_bytes(self.mosaic)}){others}: "
                    f"{wanted + promised - free:,} bytes are missing; free some, or name other disks with --workspace and -o."
                )


def disk_needed(
    spec: RenderSpec,
    plan: Plan,
    place: str,
    feature_bytes: int,
    unpacked: int,
    decoder: Decoder,
    k: int,
    templates: int,
) -> DiskNeeded:
    """What a render with this workspace has yet to write. An object store has no end. k: candidates a cell. templates:
    how many.
    """
    ruled = rules.scratch_bytes(plan.grid, decoder.query_length, k) if rules_of(spec) else 0
    work = ruled + workspace_bytes(plan.grid, plan.chunk, feature_bytes if decoder.reads_features else 0, k) + unpacked
    mosaic = mosaic_file.output_bytes(plan.grid.mosaic_size, spec.output, spec.encoding)
    if spec.page is not None:
        mosaic += pages.output_bytes(plan.grid.mosaic_size, spec.tile, templates)
    target = spec.output.absolute().parent
    if is_url(place):
        needed = {Path(gettempdir()): ruled}  # where the rules' scratch files are
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
    """The disk of a path, or of the nearest folder above it that is there; the path may go meanwhile."""
    place = path.absolute()
    while True:
        try:
            return place.stat().st_dev
        except OSError:
            if place == place.parent:
                raise
            place = place.parent
