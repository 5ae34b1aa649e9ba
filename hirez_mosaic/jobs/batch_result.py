"""What became of the pictures of a batch, and the files that tell it: report.json, and the gallery of pages."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from hirez_mosaic.files.fresh import fresh
from hirez_mosaic.jobs.journal import FAILED, MADE, UNCHANGED
from hirez_mosaic.outputs.pages import Shown, write_gallery
from hirez_mosaic.settings.spec import RenderSpec

REPORT = "report.json"
GALLERY = "index.html"


@dataclass(frozen=True)
class Outcome:
    """What became of one picture. Of a picture that failed, whatever is not known is None.

    source: its path, relative to the folder of pictures.
    status: "made", "unchanged" or "failed".
    output: the mosaic's path, relative to the folder of mosaics.
    error: why it failed, a sentence; else None.
    source_size, size: (width, height) of picture and mosaic, px.
    cells: (columns, rows).
    seconds: wall time of the render that made it.
    bytes: of the mosaic's file; where it is a folder, of all files in it.
    sha256: of the mosaic's file; where it is a folder, of the names and SHA-256 of all files in it.
    """

    source: str
    status: str
    output: str
    error: str | None = None
    source_size: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    cells: tuple[int, int] | None = None
    seconds: float | None = None
    mpx_per_second: float | None = None
    bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class BatchResult:
    """What became of all pictures.

    left_out: files that are no pictures.
    report: the file that tells the same.
    seconds: wall time of the whole batch.
    """

    pictures: tuple[Outcome, ...]
    left_out: tuple[str, ...]
    report: Path
    seconds: float

    @property
    def counts(self) -> dict[str, int]:
        """How many pictures were made, are unchanged and failed, and how many files were left out."""
        found = Counter(one.status for one in self.pictures)
        return {**{status: found[status] for status in (MADE, UNCHANGED, FAILED)}, "left out": len(self.left_out)}


def write_report(result: BatchResult, folder: Path) -> None:
    """Write report.json. folder: of the pictures. Raises OSError."""
    report = {
        "folder": str(folder),
        "seconds": round(result.seconds, 3),
        "counts": result.counts,
        "left_out": result.left_out,
        "pictures": [asdict(one) for one in result.pictures],
    }
    with fresh(result.report) as file:
        file.write_text(json.dumps(report, indent=1), "utf-8")


def write_batch_gallery(result: BatchResult, folder: Path, specs: Mapping[str, RenderSpec]) -> None:
    """Write index.html, which shows the pages of all mosaics.

    folder: of the pictures. specs: by the sources of outcomes. Raises OSError.
    """
    shown = []
    for one in result.pictures:
        page = specs[one.source].page
        if one.cells is not None and page is not None:
            title = Path(one.source).with_suffix("").as_posix()
            place = page.relative_to(result.report.parent).as_posix()
            shown.append(Shown(title, place, f"{one.cells[0]:,} x {one.cells[1]:,} pictures"))
    with fresh(result.report.with_name(GALLERY)) as file:
        write_gallery(file, folder.absolute().name, shown)
