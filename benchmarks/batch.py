"""Many small pictures: `hirez-mosaic batch` against a shell loop over `hirez-mosaic render`.

    python benchmarks/batch.py --templates emoji/ > benchmarks/results/batch.md

Method: --pictures synthetic pictures of 256 to 512 px a side (smooth colour and noise, JPEG, seed 0), templates at
--tile px, no fit. The loop is a shell's, one process a picture, over --looped of the pictures, taken at even distances:
each further picture costs the same, so its rate counts for all. The batch is one process over all pictures, with --jobs
1 and more. Templates are decoded and weights fetched by a render that is not timed. All take turns --rounds times, in
new output folders; medians (least to most). Ratio: the batch's pictures a minute to the loop's in the same round.
"""

import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import pyvips
from common import machine_facts, print_table, render_command, run, spread


@click.command()
@click.option("--templates", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--tile", default=8, show_default=True, help="Px.")
@click.option("--pictures", default=200, show_default=True)
@click.option("--looped", default=10, show_default=True, help="Pictures of the loop.")
@click.option("--jobs", default="1,2", show_default=True, help="Pictures at a time of the batch.")
@click.option("--rounds", default=3, show_default=True, help="Times that all take turns.")
def main(templates: Path, tile: int, pictures: int, looped: int, jobs: str, rounds: int) -> None:
    """Print a row for the loop and for each number of jobs."""
    counts = [int(one) for one in jobs.split(",")]
    rates: dict[int, list[float]] = {0: [], **{count: [] for count in counts}}
    peaks = dict.fromkeys(rates, 0)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        made = _synthetic(place / "pictures", pictures)
        run(render_command(made[0], templates, tile, place / "first.tif"))  # caches templates and weights
        some = made[:: max(1, pictures // looped)][:looped]
        for turn in range(rounds):
            lines = [
                shlex.join(render_command(one, templates, tile, place / f"loop{turn}-{one.stem}.tif")) for one in some
            ]
            rates[0].append(_rate(["sh", "-ec", "\n".join(lines)], len(some), 0, peaks))
            for count in counts:
                words = [
                    sys.executable,
                    "-m",
                    "hirez_mosaic",
                    "batch",
                    place / "pictures",
                    "--templates",
                    templates,
                    "--tile",
                    tile,
                ]
                words += ["--fit", 0, "--quiet", "--jobs", count, "-o", place / f"batch{turn}-{count}"]
                rates[count].append(_rate([str(word) for word in words], pictures, count, peaks))
    print(
        f"# {pictures} pictures of 256 to 512 px, templates of {tile} x {tile} px\n\n{machine_facts()}; {rounds} "
        "rounds\n"
    )
    rows = []
    for count, found in rates.items():
        ratio = spread([one / loop for one, loop in zip(found, rates[0], strict=True)], 1) if count else ""
        name = f"batch, --jobs {count}" if count else f"shell loop over render ({looped} of them)"
        rows.append([name, spread(found, 1), ratio, f"{peaks[count] / 2**20:,.0f}"])
    print_table(["", "pictures a minute", "ratio", "peak, MiB"], rows)


def _synthetic(folder: Path, count: int) -> list[Path]:
    """So many pictures in a folder."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        width, height = (int(side) for side in rng.integers(256, 513, 2))
        coarse = pyvips.Image.new_from_array(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)).copy(
            interpretation="srgb"
        )
        smooth = np.asarray(coarse.thumbnail_image(width, height=height, size="force"))
        noisy = np.clip(smooth + rng.normal(0, 10, smooth.shape), 0, 255).astype(np.uint8)
        made.append(folder / f"{number:04d}.jpg")
        pyvips.Image.new_from_array(noisy).copy(interpretation="srgb").jpegsave(str(made[-1]), Q=90)
    return made


def _rate(command: Sequence[str], pictures: int, key: int, peaks: dict[int, int]) -> float:
    """Pictures a minute of a command; notes its peak memory."""
    start = time.perf_counter()
    peaks[key] = max(peaks[key], run(command).peak)
    return 60 * pictures / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
