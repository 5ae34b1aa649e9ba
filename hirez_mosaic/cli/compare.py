"""`hirez-mosaic compare`."""

import json
from dataclasses import asdict
from typing import Unpack

import click

from hirez_mosaic.cli.options import QUIET, far_weight, shared, tile
from hirez_mosaic.cli.recipe import RecipeCommand, There
from hirez_mosaic.settings.choosing import FAR_WEIGHT
from hirez_mosaic.settings.shared import SharedSettings

DEFAULT_SELECTIONS = "L2,SSIM,residual,trained,fitted,refined,soft"


class CompareOptions(SharedSettings):
    """The options that go to `jobs.compare.compare` as they are."""

    templates: str
    tile: str
    output: str
    side: int
    trained: tuple[str, ...]
    fit: int
    refine: int
    far_weight: float
    overwrite: bool


@click.command(cls=RecipeCommand, short_help="Compare the ways to choose templates.")
@click.argument("sources", nargs=-1, required=True, type=There())
@click.option(
    "--templates", required=True, type=There("folder of templates"), help="Folder of pictures to make mosaics of."
)
@tile(8, "Size of a template")
@click.option(
    "-o",
    "--output",
    default="compared",
    show_default=True,
    type=click.Path(),
    help="Folder for the table and the figures.",
)
@click.option(
    "--side", type=int, default=512, show_default=True, help="Longer side of the analysis image, px, 8 to a cell."
)
@click.option("--selections", default=DEFAULT_SELECTIONS, show_default=True, help="Which ways to compare.")
@click.option(
    "--trained",
    type=click.Path(),
    multiple=True,
    help="Trained decoder; repeat for more.  [default: the one in the cache]",
)
@click.option("--fit", type=click.IntRange(1), default=100, show_default=True, help="Steps of fitting.")
@click.option("--refine", type=click.IntRange(1), default=15, show_default=True, help="Steps of refining.")
@far_weight(FAR_WEIGHT, "in a fit")
@shared("Number format of the networks; mosaics are judged in float32.", "template files")
@click.option("--overwrite", is_flag=True, help="Replace a table that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print all rows as JSON on standard output.")
@QUIET
def compare(
    sources: tuple[str, ...], as_json: bool, quiet: bool, selections: str, **options: Unpack[CompareOptions]
) -> None:
    """Make mosaics of the pictures SOURCES in every way, and judge them by Eq. 3 and as the eye sees them.

    \b
    hirez-mosaic compare photos/*.png --templates emoji/ --tile 8 -o compared/
    """
    from hirez_mosaic.cli.console import ConsoleListener, print_comparison
    from hirez_mosaic.jobs import compare as comparing
    from hirez_mosaic.jobs.listener import Listener

    listener = Listener() if quiet else ConsoleListener()
    rows = comparing.compare(sources, selections=selections.split(","), listener=listener, **options)
    if isinstance(listener, ConsoleListener):
        print_comparison(listener.console, comparing.mean_rows(rows), len(sources))
        listener.console.print(options["output"])
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], default=str))
