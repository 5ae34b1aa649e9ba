"""Choosing cells together against each cell alone and against L2, by every measure of `hirez-mosaic compare`.

    python benchmarks/together.py photos/kodim*.png --templates hubble/ --columns 64

Method: one process renders each picture in every way of `WAYS`, one after another, and judges what it chose with the
templates at 8 px a cell, in float32 (`hirez_mosaic.nets.metrics`). Eq. 3, LPIPS and dE are means over the pictures of
the ratio to L2's; JOD is the mean of the difference to L2's; the rest are plain means. Seconds are those of the stages
of a render but assembly, without start-up. A fit is made once for a picture and counted wherever it is used; one that
an earlier run left in the cache counts as long as it took to read. Something small is rendered first, so that nothing
is compiled while the clock runs.

--csv keeps a row for each picture and way of one set at one size, written as it goes; with that file there, what is in
it is not made again. --figures keeps each mosaic at 8 px a cell, and the source.
"""

import csv
import math
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyvips
import torch
import zarr
from common import machine_facts, make_judge, print_table

from hirez_mosaic.engine.machine import cores
from hirez_mosaic.files.cache import cache_folder
from hirez_mosaic.jobs.render import RenderResult, render
from hirez_mosaic.nets.metrics import Judgement
from hirez_mosaic.nets.objective import placed
from hirez_mosaic.nets.scoring import as_images
from hirez_mosaic.pixels.geometry import CELL, Box
from hirez_mosaic.templates import load_templates

WAYS: dict[str, dict[str, Any]] = {
    "L2": {"decoder": "l2"},
    "alone": {"choose": "alone"},
    "together": {},
    "L2, together": {"decoder": "l2", "choose": "together"},
    "better": {"effort": "better"},
    "fit": {"fit": 100, "refine": 0},
    "best": {"effort": "best"},
}
"""What `render` is told. All but "L2" have the residual decoder."""
_RATIOS = ("eq3", "lpips", "delta_e")  # over L2's


@click.command()
@click.argument("sources", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--templates", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--columns", default=64, show_default=True, help="Cells across.")
@click.option("--ways", default="L2,alone,together,better", show_default=True, help="Some of the ways, with L2.")
@click.option("--csv", "table", type=click.Path(path_type=Path), help="File to keep a row of each mosaic in.")
@click.option("--figures", type=click.Path(path_type=Path), help="Folder to keep the mosaics in.")
def main(
    sources: Sequence[Path],
    templates: Path,
    columns: int,
    ways: str,
    table: Path | None,
    figures: Path | None,
) -> None:
    """Print a row for each way."""
    names = ways.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        table, workspace = table or Path(temporary) / "rows.csv", Path(temporary) / "workspace"
        found = load_templates(templates, (CELL, CELL), cache=cache_folder("templates"), jobs=cores())
        small, judge = torch.from_numpy(found.at_cell_size()), make_judge("zero")
        made = {(row["picture"], row["way"]) for row in _rows(table)}
        _render(sources[0], templates, 8, workspace, {"refine": 1})
        for source in sources:
            fitted = 0.0
            for name in names:
                if (source.stem, name) in made:
                    continue
                result = _render(source, templates, columns, workspace, WAYS[name])
                spent, fitted = _timed(result, fitted)
                analysis, index_map = (
                    np.asarray(zarr.open_array(workspace / of, mode="r")) for of in ("analysis", "index_map")
                )
                rows, across = index_map.shape
                chosen = small.flatten(1)[torch.from_numpy(index_map.astype(np.int64)).flatten()]
                mosaic = placed(chosen, Box(0, rows, 0, across))
                judgement = judge(as_images(analysis, torch.device("cpu")), mosaic, index_map)
                _keep(table, source.stem, name, judgement, result.distinct_templates, spent)
                if figures:
                    figures.mkdir(parents=True, exist_ok=True)
                    _save(analysis, figures / f"{source.stem}-source.png")
                    pixels = mosaic[0].permute(1, 2, 0).mul(255).round().byte().numpy()
                    _save(pixels, figures / f"{source.stem}-{name}.png")
        kept = [row for row in _rows(table) if row["picture"] in {source.stem for source in sources}]
    print(f"{machine_facts()}; {len(sources)} pictures, {columns} cells across, {len(small):,} templates\n")
    _print(kept, names)


def _render(source: Path, templates: Path, columns: int, workspace: Path, way: dict[str, Any]) -> RenderResult:
    """Made anew, with what every stage left in the workspace."""
    settings = {"decoder": "residual", "workspace": workspace, "restart": True, "overwrite": True, **way}
    return render(source, templates, CELL, workspace.with_name("mosaic.zarr"), columns=columns, **settings)


def _timed(result: RenderResult, fitted: float) -> tuple[float, float]:
    """(its seconds without assembly, those of the picture's fit): a fit out of the cache counts what it took before."""
    own = result.seconds.get("fit", 0.0)
    longest = max(own, fitted)
    rest = result.total_seconds - result.seconds["assemble"] - own
    return rest + (longest if own else 0.0), longest


def _save(pixels: Any, path: Path) -> None:
    pyvips.Image.new_from_array(np.ascontiguousarray(pixels)).copy(interpretation="srgb").pngsave(str(path))


def _keep(table: Path, picture: str, way: str, judgement: Judgement, distinct: int, seconds: float) -> None:
    """Append a row, with a column for each number of the judgement."""
    row: dict[str, Any] = {"picture": picture, "way": way, "templates": distinct, "seconds": seconds}
    for field in fields(Judgement):
        value = getattr(judgement, field.name)
        several = isinstance(value, tuple)
        row |= {f"{field.name} {place}": one for place, one in enumerate(value)} if several else {field.name: value}
    table.parent.mkdir(parents=True, exist_ok=True)
    new = not table.exists()
    with table.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)


def _rows(table: Path) -> list[dict[str, str]]:
    """What `_keep` wrote, none where there is no file."""
    if not table.exists():
        return []
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def _print(rows: Sequence[dict[str, str]], names: Sequence[str]) -> None:
    """Print the means of all ways; of the pictures that have L2."""
    base = {row["picture"]: row for row in rows if row["way"] == "L2"}
    cells = []
    for name in names:
        mine = [row for row in rows if row["way"] == name and row["picture"] in base]

        def mean(column: str, mine: Sequence[dict[str, str]] = mine) -> float:
            return statistics.fmean(
                list(_against(column, mine, base)) or [math.nan]
            )  # of none, where all are too small

        cells.append(
            [
                name,
                f"{mean('eq3'):.3f}",
                f"{mean('lpips'):.2f}",
                f"{100 * mean('equal_neighbours'):.1f} %",
                " / ".join(f"{mean(f'delta_e {place}'):.3f}" for place in range(3)),
                "" if name == "L2" else " / ".join(f"{mean(f'jod {place}'):+.2f}" for place in range(3)),
                " ".join(f"{mean(f'flip {place}'):.3f}".lstrip("0") for place in range(3)),
                f"{mean('templates'):,.0f}",
                f"{mean('seconds'):.1f}",
                str(len(mine)),
            ]
        )
    eye = ["dE 4 / 8 / 16 px", "JOD full / half / quarter", "FLIP full, half, quarter"]
    print_table(["way", "Eq. 3", "LPIPS", "equal neighbours", *eye, "templates", "s", "pictures"], cells)


def _against(column: str, rows: Sequence[dict[str, str]], base: dict[str, dict[str, str]]) -> Iterator[float]:
    """A measure of each row that has it, against L2's of the same picture where that is how it is told."""
    for row in rows:
        other = base[row["picture"]][column]
        if row[column] and other:
            value, against = float(row[column]), float(other)
            if column.startswith(_RATIOS):
                yield value / against
            else:
                yield value - against if column.startswith("jod") else value


if __name__ == "__main__":
    main()
