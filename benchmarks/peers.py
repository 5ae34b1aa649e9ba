"""The Fig. 5 job by this program and by metapixel, whole processes in turn.

    python benchmarks/peers.py --source starry.jpg --templates hubble/

Needs metapixel (Debian's package of that name). Job: see fig5.py. metapixel gets the same px as a PNG, which is what it reads, the same
templates, its default metric, --scale=2, and --distance=0, so that like ours it may repeat a template at once. It writes PNG; ours
writes its default, a pyramidal JPEG TIFF, and once more PNG. "Prepared": metapixel's library and our template cache are there already.
"From the folder": metapixel-prepare and metapixel against our first run with an empty template cache. Every process counts from start to
exit, imports included; the two programs take turns, --rounds times; medians (least to most), and the ratio of each pair.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import click
import pyvips
from common import Run, machine_facts, print_table, run, scaled_source, spread
from fig5 import SCALE, SIZE, TILE, job_command

from hirez_mosaic.cache import cache_folder


@click.command()
@click.option("--source", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--templates", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--rounds", default=3, help="Times that the programs take turns.")
@click.option("--folder", type=click.Path(path_type=Path), help="Folder for sources and mosaics.  [default: a temporary one]")
def main(source: Path, templates: Path, rounds: int, folder: Path | None) -> None:
    """Run both and print the ratios."""
    if not shutil.which("metapixel-prepare"):
        sys.exit("metapixel is not installed; on Debian: apt-get install metapixel.")
    weights = cache_folder("weights") / "vgg16-imagenet.safetensors"
    if not weights.exists():
        sys.exit("The weights are not cached; run `hirez-mosaic weights` first.")
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        picture = scaled_source(source, *SIZE, place)
        as_png = place / "source.png"
        pyvips.Image.new_from_file(str(picture)).pngsave(str(as_png))
        library = place / "library"
        cold, warm, warm_png, prepare, peer = [], [], [], [], []
        for _ in range(rounds):
            shutil.rmtree(library, ignore_errors=True)
            library.mkdir()
            prepare.append(run(["metapixel-prepare", templates, library, f"--width={TILE[0]}", f"--height={TILE[1]}"]))
            ours = job_command(picture, templates, place / "ours.tif", "--weights", str(weights))
            with tempfile.TemporaryDirectory() as cache:
                cold.append(run(ours, HIREZ_MOSAIC_CACHE=cache))
            run(ours)  # the cache is there, whoever ran before
            warm.append(run(ours))
            size = [f"--width={TILE[0]}", f"--height={TILE[1]}", f"--scale={SCALE}"]
            peer.append(run(["metapixel", "--metapixel", as_png, place / "peer.png", "--library", library, *size, "--distance=0"]))
            warm_png.append(run(job_command(picture, templates, place / "ours.png", "--weights", str(weights))))
        check_size(place / "peer.png", place / "ours.tif")
    report(cold, warm, warm_png, prepare, peer)


def check_size(peer: Path, ours: Path) -> None:
    """Say how large both mosaics are."""
    for name, path in (("metapixel", peer), ("hirez-mosaic", ours)):
        image = pyvips.Image.new_from_file(str(path))
        print(f"{name}: {image.width} x {image.height} px, {path.stat().st_size / 1e6:.0f} MB")


def report(cold: list[Run], warm: list[Run], warm_png: list[Run], prepare: list[Run], peer: list[Run]) -> None:
    """Wall time, ratio and peak memory of each pair."""
    print(machine_facts() + "\n")
    whole = [a.wall + b.wall for a, b in zip(prepare, peer, strict=True)]
    prepared = [run.wall for run in peer]
    rows = []
    for name, ours, theirs in (
        ("prepared", warm, prepared),
        ("prepared, both write PNG", warm_png, prepared),
        ("from the folder", cold, whole),
    ):
        ratio = [mine.wall / other for mine, other in zip(ours, theirs, strict=True)]
        rows.append([name, spread([run.wall for run in ours], 1), spread(theirs, 1), spread(ratio)])
    print_table(["job", "hirez-mosaic, s", "metapixel, s", "ratio"], rows)
    print(f"\nmetapixel-prepare alone: {spread([run.wall for run in prepare], 1)} s.")
    peaks = [max(run.peak for run in runs) / 2**20 for runs in (warm, cold, peer)]
    print(f"Peak resident memory: hirez-mosaic {peaks[0]:.0f} MiB ({peaks[1]:.0f} from the folder), metapixel {peaks[2]:.0f} MiB.")


if __name__ == "__main__":
    main()
