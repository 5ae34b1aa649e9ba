"""The Fig. 5 job, and one of 1.34 Gpx, by this program and by others, whole processes in turn.

    python benchmarks/peers.py --source starry.jpg --templates hubble/

The others: metapixel (Debian's package of that name, which must be installed), and what the Python package index has
that makes a picture out of a folder of pictures from a command line or in a call; `PEERS` lists them with their
versions, each is installed into an environment of its own.

Jobs: Fig. 5 (see fig5.py), and the same source and templates at 128 px, scale 8: 42,240 x 31,744 px, 1.34 Gpx. The
others get the same px as a PNG, which all of them read (enlarged to the mosaic's size for those that cut cells of a
template's size out of it), and the settings that come nearest to ours: templates may repeat at once, px stay as they
are, no turned or recoloured templates.

First table: Fig. 5 by metapixel and us in turn, --rounds times; medians (least to most), and the ratio of each pair.
metapixel gets its default metric and --distance=0. It writes PNG; ours writes its default, a pyramidal JPEG TIFF, and
once more PNG. "Prepared": metapixel's library and our template cache are there already. "From the folder":
metapixel-prepare and metapixel against our first run with an empty template cache. Every process counts from start to
exit, imports included.

Then a table for each job: every program once; the others are stopped after --seconds, their address space is limited to
--limit, and where one broke, what it said stands there. Who broke is not asked for the larger job. The measures are
those of `judged` in common.py for all: both pictures at 8 px a cell; lower is better, of all but JOD, and "alike" is
the share of neighbouring cells that look the same. Some of the others move the templates' colours towards the source's
and cannot be told not to, which lowers Eq. 3 much; ours stands there with --tint 1, too, which does that, and fitted.
metapixel and ours are prepared, the others decode the folder in the same process. "Ours over its" is the plain render's
time over the program's.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import pyvips
from common import (
    BrokenRunError,
    Run,
    attempt,
    judged,
    machine_facts,
    print_table,
    render_command,
    run,
    scaled_source,
    spread,
)

from hirez_mosaic.files.cache import cache_folder
from hirez_mosaic.settings.parsing import parse_bytes


@dataclass(frozen=True)
class Job:
    """One mosaic to make. size: of the source, px. cells: across and down."""

    name: str
    size: tuple[int, int]
    tile: int
    scale: int
    templates: Path
    place: Path

    @property
    def cells(self) -> tuple[int, int]:
        across, down = (-(-side * self.scale // self.tile) for side in self.size)
        return across, down

    @property
    def picture(self) -> Path:
        """The source as a TIFF, which ours reads."""
        return self.place / "source.tif"

    def png(self, *, enlarged: bool = False) -> Path:
        """The source as a PNG, of its own size or of the mosaic's; made where it is not there."""
        across, down = (side * self.tile for side in self.cells) if enlarged else self.size
        path = self.place / f"source-{across}x{down}.png"
        if not path.exists():
            image = pyvips.Image.new_from_file(str(self.picture))
            image.resize(across / image.width, vscale=down / image.height).pngsave(str(path), compression=1)
        return path


@dataclass(frozen=True)
class Peer:
    """Another program.

    needs: for pip. command: from its environment's folder of programs, the job and the file to make. recolours:
        templates.
    """

    name: str
    needs: tuple[str, ...]
    command: Callable[[Path, Job, Path], list[str | Path]]
    recolours: bool = False


def _phomo(programs: Path, job: Job, output: Path) -> list[str | Path]:
    (across, down), tile = job.cells, str(job.tile)
    size = [str(across * job.tile), str(down * job.tile)]
    often = ["-n", str(across * down), "--greedy"]
    return [programs / "phomo", job.png(), job.templates, "-o", output, "-s", *size, "-S", tile, tile, *often]


def _mosaicraft(programs: Path, job: Job, output: Path) -> list[str | Path]:
    count = str(job.cells[0] * job.cells[1])
    words: list[str | Path] = [programs / "mosaicraft", "generate", job.png(), "-t", job.templates, "-o", output]
    return [*words, "-p", "fast", "-n", count, "-s", str(job.tile), "--no-augment", "--dedup-radius", "0"]


def _photomosaic(programs: Path, job: Job, output: Path) -> list[str | Path]:
    code = (
        "import sys, photomosaic; from skimage.io import imread, imsave; _, source, templates, output, rows, columns "
        "= sys.argv; "
        "image = imread(source); pool = photomosaic.make_pool(templates + '/*'); "
        "imsave(output, photomosaic.basic_mosaic(image, pool, (int(rows), int(columns))))"
    )
    return [
        programs / "python",
        "-c",
        code,
        job.png(enlarged=True),
        job.templates,
        output,
        str(job.cells[1]),
        str(job.cells[0]),
    ]


def _pytomosaic(programs: Path, job: Job, output: Path) -> list[str | Path]:
    code = (
        "import sys; from pytomosaic import createMosaic; "
        "createMosaic(sys.argv[1], sys.argv[2], int(sys.argv[4]), savePath=sys.argv[3])"
    )
    return [programs / "python", "-c", code, job.png(enlarged=True), job.templates, output, str(job.tile)]


def _photomosaic_video(programs: Path, job: Job, output: Path) -> list[str | Path]:
    across, down = job.cells
    size = ["--cells", str(across * down), "--height", str(down * job.tile)]
    return [programs / "photomosaic-video", job.png(), "-t", job.templates, "-o", output, *size]


PEERS = (
    Peer("phomo 1.2.0", ("phomo==1.2.0",), _phomo),
    Peer("mosaicraft 0.4.2", ("mosaicraft==0.4.2",), _mosaicraft, recolours=True),
    Peer("photomosaic 0.3.1", ("photomosaic==0.3.1",), _photomosaic),
    Peer(
        "pytomosaic 0.1.12", ("pytomosaic==0.1.12.post3", "requests"), _pytomosaic
    ),  # it does not name requests itself
    Peer("photomosaic-video 0.1.0", ("photomosaic-video==0.1.0",), _photomosaic_video, recolours=True),
)

_MEASURES = ("Eq. 3", "LPIPS", "dE 4 / 8 / 16 px", "JOD full / half / quarter", "FLIP full / half / quarter", "alike")


@click.command()
@click.option("--source", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--templates", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--columns", default=330, show_default=True, help="Cells across; fewer for a trial.")
@click.option(
    "--rounds",
    default=3,
    show_default=True,
    help="Times that metapixel and ours take turns at Fig. 5; 0 to leave that out.",
)
@click.option("--seconds", default=1800.0, show_default=True, help="That each of the others may take for a job.")
@click.option("--limit", default="16GiB", show_default=True, help="Address space that each of the others may take.")
@click.option("--brief", is_flag=True, help="Run nothing but the plain render and metapixel.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Folder for sources and mosaics.  [default: a temporary one]"
)
def main(
    source: Path,
    templates: Path,
    columns: int,
    rounds: int,
    seconds: float,
    limit: str,
    brief: bool,
    folder: Path | None,
) -> None:
    """Run all and print the tables."""
    if not shutil.which("metapixel-prepare"):
        sys.exit("metapixel is not installed; on Debian: apt-get install metapixel.")
    weights = cache_folder("weights") / "vgg16-imagenet.safetensors"
    if not weights.exists():
        sys.exit("The weights are not cached; run `hirez-mosaic weights` first.")
    print(machine_facts())
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        size = 16 * columns, 12 * columns
        scaled_source(source, *size, place).replace(place / "source.tif")
        jobs = [Job("Fig. 5", size, 32, 2, templates, place), Job("1.34 Gpx", size, 128, 8, templates, place)]
        if rounds:
            against_metapixel(jobs[0], weights, rounds)
        broken: set[str] = set()
        for job in jobs:
            all_once(job, broken, seconds, parse_bytes(limit), brief=brief)


def ours(job: Job, output: Path, *more: str) -> list[str]:
    """The command line of a job."""
    return render_command(
        job.picture, job.templates, job.tile, output, "--scale", str(job.scale), "--memory", "2GiB", *more
    )


def prepare(job: Job) -> tuple[Path, Run]:
    """metapixel's library of the templates, and how making it went."""
    library = job.place / f"library-{job.tile}"
    shutil.rmtree(library, ignore_errors=True)
    library.mkdir()
    return library, run(["metapixel-prepare", job.templates, library, f"--width={job.tile}", f"--height={job.tile}"])


def metapixel(job: Job, library: Path, output: Path) -> list[str | Path]:
    """The command line of a job."""
    size = [f"--width={job.tile}", f"--height={job.tile}", f"--scale={job.scale}"]
    return ["metapixel", "--metapixel", job.png(), output, "--library", library, *size, "--distance=0"]


def against_metapixel(job: Job, weights: Path, rounds: int) -> None:
    """Run both in turn; print wall time, ratio and peak memory of each pair."""
    cold, warm, warm_png, prepared, peer = [], [], [], [], []
    named = ["--weights", str(weights)]
    job.png()
    for _ in range(rounds):
        library, made = prepare(job)
        prepared.append(made)
        with tempfile.TemporaryDirectory() as cache:
            cold.append(run(ours(job, job.place / "ours.tif", *named), HIREZ_MOSAIC_CACHE=cache))
        run(ours(job, job.place / "ours.tif", *named))  # the cache is there, whoever ran before
        warm.append(run(ours(job, job.place / "ours.tif", *named)))
        peer.append(run(metapixel(job, library, job.place / "peer.png")))
        warm_png.append(run(ours(job, job.place / "ours.png", *named)))
    whole = [a.wall + b.wall for a, b in zip(prepared, peer, strict=True)]
    alone = [run.wall for run in peer]
    rows = []
    for name, mine, theirs in (
        ("prepared", warm, alone),
        ("prepared, both write PNG", warm_png, alone),
        ("from the folder", cold, whole),
    ):
        ratio = [run.wall / other for run, other in zip(mine, theirs, strict=True)]
        rows.append([name, spread([run.wall for run in mine], 1), spread(theirs, 1), spread(ratio)])
    print(f"\n## {job.name} in turn with metapixel\n")
    print_table(["job", "hirez-mosaic, s", "metapixel, s", "ratio"], rows)
    print(f"\nmetapixel-prepare alone: {spread([run.wall for run in prepared], 1)} s.")
    peaks = [max(run.peak for run in runs) / 2**20 for runs in (warm, cold, peer)]
    print(
        f"Peak resident memory: hirez-mosaic {peaks[0]:.0f} MiB ({peaks[1]:.0f} from the folder), metapixel "
        f"{peaks[2]:.0f} MiB."
    )


def all_once(job: Job, broken: set[str], seconds: float, limit: int, *, brief: bool) -> None:
    """Run every program that is not broken yet once; print a row for each."""
    across, down = job.cells
    print(f"\n## {job.name}: {across * job.tile:,} x {down * job.tile:,} px, each program once\n")
    mine = job.place / f"ours-{job.tile}.tif"
    run(ours(job, mine))  # fills the cache
    first = run(ours(job, mine))
    rows = [row("hirez-mosaic", first, first, job, mine)]
    for more in () if brief else (["--tint", "1"], ["--fit", "100"]):
        rows.append(row(" ".join(["hirez-mosaic", *more]), run(ours(job, mine, *more)), first, job, mine))
    library, _ = prepare(job)
    recolouring = {peer.name for peer in PEERS if peer.recolours}
    commands = {"metapixel": partial(metapixel, job, library)}
    for peer in () if brief else PEERS:
        if peer.name not in broken:
            commands[peer.name] = partial(peer.command, installed(peer, job.place), job)
    for name, command in commands.items():
        limits = (0.0, 0) if name == "metapixel" else (seconds, limit)
        output = job.place / "peer.png"
        output.unlink(missing_ok=True)
        try:
            done = attempt(command(output), seconds=limits[0], memory=limits[1])
            rows.append(row(name + (", recolours" if name in recolouring else ""), done, first, job, output))
        except BrokenRunError as error:
            broken.add(name)
            said = error.said.splitlines()[-1].strip()[:120].replace("|", "/")
            nothing = [""] * len(_MEASURES)
            rows.append([name, f"{error.wall:.1f}", "", f"{error.peak / 2**20:,.0f}", "", *nothing, f"broke: {said}"])
    print_table(["program", "s", "ours over its", "peak, MiB", "MB", *_MEASURES, "mosaic"], rows)


def row(name: str, done: Run, mine: Run, job: Job, output: Path) -> list[str]:
    """What a program took, and what came out."""
    image = pyvips.Image.new_from_file(str(output))
    numbers = [
        f"{done.wall:.1f}",
        f"{mine.wall / done.wall:.2f}",
        f"{done.peak / 2**20:,.0f}",
        f"{output.stat().st_size / 1e6:,.0f}",
    ]
    found = judged(job.picture, output, job.cells[0])
    told = [(found.delta_e, ".2f"), (found.jod, ".2f"), (found.flip, ".3f")]
    measures = [
        f"{found.eq3:.3f}",
        f"{found.lpips:.3f}",
        *(" / ".join(format(one, digits) for one in of) for of, digits in told),
    ]
    measures.append(f"{100 * (found.equal_neighbours or 0):.1f} %")
    return [name, *numbers, *measures, f"{image.width:,} x {image.height:,} px"]


def installed(peer: Peer, place: Path) -> Path:
    """The folder of programs of an environment with this program; made where it is not there."""
    environment = place / f"env-{peer.needs[0].partition('==')[0]}"
    if not environment.exists():
        run([sys.executable, "-m", "venv", environment])
        run([environment / "bin" / "pip", "install", "--quiet", *peer.needs])
    return environment / "bin"


if __name__ == "__main__":
    main()
