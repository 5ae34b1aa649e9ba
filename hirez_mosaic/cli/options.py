"""Options that several commands share, each written once.

Names and defaults are those of the library's functions; a test compares them.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from hirez_mosaic.cli.completion import devices, words
from hirez_mosaic.cli.recipe import FileOr, There
from hirez_mosaic.settings.choosing import CHOOSING, DECODERS, EFFORTS, FAR_WEIGHT, PRECISIONS
from hirez_mosaic.settings.decoders import kinds_alone
from hirez_mosaic.settings.formats import COMPRESSIONS, DPI, IIIF, suffixes, taking
from hirez_mosaic.settings.parsing import CROPS
from hirez_mosaic.settings.running import MAX_SOURCE_PX
from hirez_mosaic.settings.writing import TILE_MAPS

Command = TypeVar("Command", bound=Callable[..., Any])
Option = Callable[[Command], Command]


def together(options: Iterable[Option[Any]]) -> Option[Any]:
    """One decorator that adds several options, which `--help` shows in this order."""

    def add(command: Command) -> Command:
        for option in reversed(tuple(options)):
            command = option(command)
        return command

    return add


BACKGROUND = click.option(
    "--background",
    default="white",
    show_default=True,
    shell_complete=words("white", "black", "grey"),
    help="Lay this colour under transparent px: white, black, grey, #rrggbb or r,g,b.",
)
CROP = click.option(
    "--crop",
    type=click.Choice(CROPS),
    default="centre",
    show_default=True,
    help="Keep this part of templates that have another shape than the tile.",
)
DEVICE = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda|cuda:N",
    shell_complete=devices,
    help="Run the networks there.",
)
WEIGHTS = click.option(
    "--weights",
    type=click.Path(),
    help="Read VGG-16's weights from this file.  [default: cache, package index, model hub]",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as one line of JSON on standard output.")
QUIET = click.option("--quiet", is_flag=True, help="Print nothing but errors (and --json).")


def tile(default: int, help: str) -> Option[Any]:  # noqa: A002 (click's own name)
    """--tile, whose default and use differ from command to command. help: what the size is of."""
    return click.option("--tile", default=str(default), show_default=True, help=f"{help}, px: 32 or WxH.")


def precision(help: str) -> Option[Any]:  # noqa: A002
    """--precision of the networks that `help` names."""
    return click.option("--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True, help=help)


def far_weight(default: float | None, help: str) -> Option[Any]:  # noqa: A002
    """--far-weight. default: None where a recipe has the default."""
    return click.option(
        "--far-weight",
        type=float,
        default=default,
        show_default=default is not None,
        help=f"Let colour seen from afar count so much, {help}.",
    )


def exclude(what: str) -> Option[Any]:
    """--exclude. what: the name of what it leaves out."""
    return click.option(
        "--exclude",
        multiple=True,
        metavar="GLOB",
        help=f"Leave out {what} whose names, or a/b paths, match; repeat for more.",
    )


STRICT = click.option(
    "--strict", is_flag=True, help="Stop at pictures that cannot be read, instead of leaving them out."
)


def shared(networks: str, files: str) -> Option[Any]:
    """The options of `settings.shared`. networks: help of --precision. files: what --exclude leaves out."""
    return together((DEVICE, precision(networks), BACKGROUND, CROP, exclude(files), STRICT, WEIGHTS))


logs = together(
    (
        click.option(
            "--log-file",
            type=click.Path(),
            help="Append a line of JSON for each chunk, stage, note and error to this file.",
        ),
        click.option("-v", "--verbose", is_flag=True, help="Print the same for people on standard error."),
    )
)
"""--log-file and --verbose, see `cli.logs`."""

_encodes = together(
    (
        BACKGROUND,
        CROP,
        click.option(
            "--compression",
            type=click.Choice(COMPRESSIONS),
            help=f"Compress a {taking('compression')} in this way.  [default: jpeg]",
        ),
        click.option("--quality", type=int, help="Write JPEG and WebP in this quality, 1 to 100.  [default: 90]"),
        click.option("--dpi", type=float, help=f"Note so many dots an inch in a {taking('dpi')}.  [default: {DPI:g}]"),
        click.option("--cog", is_flag=True, help=f"Lay a {taking('cog')} out as a Cloud Optimized GeoTIFF."),
        click.option(
            "--iiif",
            metavar="URL",
            help=f"Note that a {taking('iiif')} will be served in the folder at this address.  [default: {IIIF}]",
        ),
        click.option("--no-preview", is_flag=True, help="Write no preview beside a mosaic of more than 50 Mpx."),
    )
)

SHOWS = together(
    (
        click.option("--anonymous", is_flag=True, help="Leave the names of templates out of the page."),
        click.option(
            "--thumbnails",
            type=int,
            metavar="N",
            help="Show no template larger than this in the page, px.  [default: 160, or --tile]",
        ),
    )
)
"""What a page shows."""


def output(required: bool, default: str = "") -> Option[Any]:
    """--output of a mosaic."""
    told = f"Write the mosaic to this file: {suffixes()}.{default}"
    return click.option("-o", "--output", required=required, type=click.Path(), help=told)


writes_a_mosaic = together(
    (
        _encodes,
        click.option(
            "--preview",
            type=click.Path(),
            help="Also write the mosaic at 1,600 px: .png, .jpg or .webp.  [default: of large ones NAME.preview.jpg]",
        ),
        click.option(
            "--page", type=click.Path(), help="Also write a page to this folder, in which a browser shows the mosaic."
        ),
        SHOWS,
        click.option("--jobs", type=int, help="Decode templates in so many threads.  [default: all cores]"),
        click.option("--overwrite", is_flag=True, help="Replace an output that is there."),
        JSON,
        QUIET,
    )
)
"""The options of every command that writes one mosaic."""

_chooses = together(
    (
        click.option(
            "--templates",
            required=True,
            type=There("folder of templates"),
            help="Make the mosaic of the pictures in this folder and its subfolders.",
        ),
        tile(32, "Show each template in this size"),
        click.option("--scale", help="Make so many px of each px of the source.  [default: 1]"),
        click.option("--columns", type=int, help="Lay so many cells across, instead of --scale."),
        click.option(
            "--decoder",
            type=FileOr(*DECODERS),
            default="auto",
            show_default=True,
            metavar="|".join((*DECODERS, "FILE")),
            help="Score the templates by this method or trained decoder.",
        ),
        click.option(
            "--choose",
            type=click.Choice(CHOOSING),
            default="auto",
            show_default=True,
            help="Choose each cell together with its neighbours, or alone.  auto: together, except for "
            f"{' and '.join(kinds_alone())}.",
        ),
        click.option(
            "--effort",
            type=click.Choice(list(EFFORTS)),
            default="quick",
            show_default=True,
            help="Do so much work: better is --refine 15; best is --fit 100 --refine 15.",
        ),
        click.option(
            "--fit", type=int, help="Fit the residual decoder to the source in so many steps.  [default: by --effort]"
        ),
        click.option(
            "--refine",
            type=int,
            help="Optimise the scores of each cell's best templates in so many steps.  [default: by --effort]",
        ),
        far_weight(FAR_WEIGHT, "in a fit"),
        click.option("--max-uses", type=int, help="Use each template at most so many times."),
        click.option("--unique", is_flag=True, help="Use each template at most once."),
        click.option(
            "--min-uses", type=int, default=0, show_default=True, help="Use each template at least so many times."
        ),
        click.option("--use-all", is_flag=True, help="Use each template at least once."),
        click.option(
            "--prefer",
            type=click.Path(),
            help="Prefer the templates that this text file lists, one path below --templates a line.",
        ),
        click.option(
            "--min-distance",
            type=int,
            default=0,
            show_default=True,
            help="Keep two uses of a template more than so many cells apart, in every direction.",
        ),
        click.option(
            "--no-repeat-neighbours",
            is_flag=True,
            help="Never use the same template in neighbouring cells, diagonal ones included.",
        ),
        click.option("--mirror", is_flag=True, help="Also use templates mirrored left to right."),
        click.option("--rotate", is_flag=True, help="Also use templates turned by quarters."),
        click.option(
            "--tint",
            type=float,
            default=0.0,
            show_default=True,
            help="Move each template's colour towards the source's, 0 to 1.",
        ),
        click.option(
            "--ban",
            type=click.Path(),
            help="Leave out the templates that this text file lists, one path below --templates a line.",
        ),
        click.option(
            "--dedupe",
            type=float,
            metavar="LEVELS",
            help="Leave out templates that differ from another by at most so much, of 255; 3 is a good value.",
        ),
        DEVICE,
        precision("Run the encoder in this number format."),
        click.option(
            "--chunk", type=int, help="Work on squares of so many cells a side.  [default: as large as --memory allows]"
        ),
        click.option(
            "--memory", help="Use so much memory at most, such as 2GiB.  [default: a quarter of what is free]"
        ),
        click.option(
            "--workspace",
            type=click.Path(),
            help="Keep the results of every stage in this folder or URL.  [default: hidden, removed at the end]",
        ),
        click.option(
            "--restart",
            is_flag=True,
            help="Begin anew, even if an earlier run of this job can be resumed.",
        ),
        click.option(
            "--scheduler", metavar="ADDRESS", help="Run on the Dask cluster at this address, such as tcp://host:8786."
        ),
        click.option(
            "--max-source-px",
            type=int,
            default=MAX_SOURCE_PX,
            show_default=True,
            help="Refuse a source whose header says more px.",
        ),
        click.option(
            "--source-page",
            type=int,
            default=1,
            show_default=True,
            help="Take this picture of a source that holds several.",
        ),
        click.option(
            "--plane",
            type=int,
            default=1,
            show_default=True,
            help="Take this plane of a source that is a stack in depth or time.",
        ),
        click.option(
            "--channel", type=int, help="Take this channel of a source, as grey.  [default: colours, or the first]"
        ),
        click.option(
            "--stretch",
            is_flag=True,
            help="Stretch the source's range, so that its darkest becomes black and its lightest white.",
        ),
        exclude("template files"),
        STRICT,
        WEIGHTS,
    )
)

render_options = together(
    (
        _chooses,
        click.option(
            "--tile-map", type=click.Path(), help="Also write which template lies where: .csv, .json or .parquet."
        ),
        writes_a_mosaic,
        logs,
    )
)
"""All options of a render, except its source and its output."""

batch_options = together(
    (
        _chooses,
        _encodes,
        click.option(
            "--tile-map", type=click.Choice(TILE_MAPS), help="Also write which template lies where: NAME.csv, ..."
        ),
        click.option("--preview", is_flag=True, help="Also preview small mosaics: NAME.preview.jpg, 1,600 px."),
        click.option(
            "--page", is_flag=True, help="Also write pages: NAME.page, and index.html, which shows all of them."
        ),
        SHOWS,
        click.option(
            "--jobs",
            type=int,
            default=1,
            show_default=True,
            help="Make so many mosaics at a time; several are quicker for small ones.",
        ),
        click.option("--overwrite", is_flag=True, help="Make all mosaics again, and replace files that no batch made."),
        JSON,
        QUIET,
        logs,
    )
)
"""All options of a batch, except its folders, its pictures and its format."""
