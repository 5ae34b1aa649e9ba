"""The gallery: runs the commands of docs/gallery.md and makes the page's pictures of what they leave.

    python pipelines/gallery.py [NAME...]

Run it in the repository's root, after `make demo` and what the page says of fonts and emoji. NAME is that of a picture,
such as `hubble`; all are made where none is given. A picture shows the whole mosaic and, at full size, a part of it, or
it is a figure of `compare`. What is in `demo/` is not made again.
"""

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyvips

PAGE = Path("docs/gallery.md")
MADE = Path("demo/gallery")
HEIGHTS = (440, 400, 360, 320, 280, 240)
"""Of a picture, px: the first with which it has no more than `MOST_BYTES` at a quality of `LEAST_QUALITY`."""
MOST_BYTES = 60_000
LEAST_QUALITY = 55


@dataclass(frozen=True)
class Entry:
    """A picture of the page.

    middle: of the part that it shows at full size, as shares of width and height; None for a figure.
    """

    name: str
    middle: tuple[float, float] | None
    command: str


def entries(page: str) -> list[Entry]:
    """The pictures of the page, in their order."""
    found = re.findall(
        r"!\[[^]]*\]\(gallery/([\w-]+)\.jpg\)\n<!-- (?:detail ([\d.]+) ([\d.]+)|figure) -->\n\n    (hirez-mosaic .*)",
        page,
    )
    return [Entry(name, (float(x), float(y)) if x else None, command) for name, x, y, command in found]


def sets(page: str) -> list[str]:
    """The commands that make the sets of templates."""
    return re.findall(r"^    (hirez-mosaic templates .*)", page, re.MULTILINE)


def run(command: str) -> None:
    """Run a command of the page."""
    print(command, flush=True)
    subprocess.run([sys.executable, "-m", "hirez_mosaic", *shlex.split(command)[1:]], check=True)


def output_of(command: str) -> Path:
    """What a command of the page makes; -o stands last."""
    return Path(shlex.split(command)[-1])


def drawn(entry: Entry, height: int) -> pyvips.Image:
    """The whole mosaic and beside it a part of it, or the figure."""
    if entry.middle is None:
        (figure,) = output_of(entry.command).glob("*.png")
        return pyvips.Image.thumbnail(str(figure), 10_000, height=height)
    mosaic = pyvips.Image.new_from_file(str(output_of(entry.command)))
    left, top = (
        int(min(max(0, part * length - height / 2), length - height))
        for part, length in zip(entry.middle, (mosaic.width, mosaic.height), strict=True)
    )
    whole = mosaic.thumbnail_image(10_000, height=height)
    part = mosaic.crop(left, top, height, height)
    return whole.join(part, "horizontal", shim=8, background=[255, 255, 255], expand=True)


def make(entry: Entry) -> None:
    """Write the picture of an entry into docs/gallery/, as large and as good as `MOST_BYTES` allow."""
    heights = (drawn(entry, height).copy_memory() for height in HEIGHTS)
    tries = (
        (picture, quality, picture.jpegsave_buffer(Q=quality, keep="none", optimize_coding=True))
        for picture in heights
        for quality in range(85, LEAST_QUALITY - 1, -5)
    )
    picture, quality, data = next(one for one in tries if len(one[2]) <= MOST_BYTES)
    (PAGE.parent / "gallery" / f"{entry.name}.jpg").write_bytes(data)
    print(f"{entry.name}: {picture.width} x {picture.height} px, quality {quality}, {len(data):,} bytes", flush=True)


def main(names: list[str]) -> None:
    """Make the pictures of these names, or all."""
    page = PAGE.read_text("utf-8")
    MADE.mkdir(parents=True, exist_ok=True)
    chosen = [entry for entry in entries(page) if not names or entry.name in names]
    for command in [*sets(page), *(entry.command for entry in chosen)]:
        if not output_of(command).exists():
            run(command)
    for entry in chosen:
        make(entry)


if __name__ == "__main__":
    main(sys.argv[1:])
