"""Decoding a folder of templates, against metapixel-prepare and bare libvips.

    python benchmarks/templates.py --templates photos/ --tile 32

Method: whole processes in turn, files in the page cache. "hirez-mosaic" imports what it needs, decodes the folder by
`load_templates` with an empty cache, and leaves px, 8 x 8 px versions and names in it. "bare libvips" is a process that
thumbnails the same files with as many threads and throws the px away. "metapixel-prepare" (Debian's package
`metapixel`) writes a PNG of each and a table, with one thread.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import click
from common import machine_facts, print_table, run, spread

from hirez_mosaic.engine.machine import cores
from hirez_mosaic.settings.parsing import parse_tile

_OURS = """
import sys
from pathlib import Path
from hirez_mosaic.engine.machine import cores, settle_process
from hirez_mosaic.templates import load_templates
settle_process()
tile = int(sys.argv[2]), int(sys.argv[3])
print(len(load_templates(Path(sys.argv[1]), tile, cache=Path(sys.argv[4]), jobs=cores())))
"""
_BARE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import pyvips
pyvips.cache_set_max(0)
width, height = int(sys.argv[2]), int(sys.argv[3])
def one(path):
    image = pyvips.Image.thumbnail(str(path), width, height=height, size="both", crop="centre").colourspace("srgb")
    return len(pyvips.Region.new(image).fetch(0, 0, width, height))
with ThreadPoolExecutor(int(sys.argv[4])) as pool:
    print(len(list(pool.map(one, sorted(path for path in Path(sys.argv[1]).rglob("*") if path.is_file())))))
"""


@click.command()
@click.option("--templates", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--tile", default="32", help="Size of a template, px.")
@click.option("--rounds", default=3)
def main(templates: Path, tile: str, rounds: int) -> None:
    """Print templates a second of each, and the ratios of times."""
    width, height = map(str, parse_tile(tile))
    times: dict[str, list[float]] = {"hirez-mosaic": [], "bare libvips": [], "metapixel-prepare": []}
    peaks, count = {}, 0
    for number in range(rounds + 1):
        with tempfile.TemporaryDirectory() as scratch:
            commands: dict[str, list[str | Path]] = {
                "hirez-mosaic": [sys.executable, "-c", _OURS, templates, width, height, Path(scratch, "cache")],
                "bare libvips": [sys.executable, "-c", _BARE, templates, width, height, str(cores())],
            }
            if shutil.which("metapixel-prepare"):
                Path(scratch, "prepared").mkdir()
                commands["metapixel-prepare"] = [
                    "metapixel-prepare",
                    *(templates, Path(scratch, "prepared"), f"--width={width}", f"--height={height}"),
                ]
            for name, command in commands.items():
                done = run(command)
                if number:  # the first fills the page cache
                    times[name].append(done.wall)
                    peaks[name] = done.peak
                count = int(done.output) if name == "bare libvips" else count
    print(f"{count} files at {width} x {height} px, {cores()} threads; medians (least to most) of {rounds} rounds.")
    print(machine_facts() + "\n")
    ours = times["hirez-mosaic"]
    print_table(
        ["process", "s", "templates/s", "hirez-mosaic's time over its", "peak, MiB"],
        [
            [
                name,
                spread(taken),
                spread([count / one for one in taken], 0),
                spread([a / b for a, b in zip(ours, taken, strict=True)]),
                f"{peaks[name] >> 20}",
            ]
            for name, taken in times.items()
            if taken
        ],
    )


if __name__ == "__main__":
    main()
