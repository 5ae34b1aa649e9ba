"""`hirez-mosaic compare`."""

import json
from dataclasses import asdict

import click

from hirez_mosaic.cli.options import (
    BACKGROUND,
    CROP,
    DEVICE,
    QUIET,
    STRICT,
    WEIGHTS,
    exclude,
    far_weight,
    precision,
    tile,
)
from hirez_mosaic.cli.recipe import RecipeCommand
from hirez_mosaic.settings.spec import FAR_WEIGHT

SELECTIONS = "L2,SSIM,residual,trained,fitted,refined,soft"


@click.command(cls=RecipeCommand, short_help="Compare the ways to choose templates.")
@click.argument("sources", nargs=-1, required=True, type=click.Path())
@click.option("--templates", required=True, type=click.Path(), help="Folder of pictures to make mosaics of.")
@tile(8, "Size of a template")
@click.option(
    "-o", "--output", default="compared", show_default=True, type=click.Path(), help="Folder for table and figures."
)
@click.option(
    "--side", type=int, default=512, show_default=True, help="Longer side of the analysis image, px, 8 to a cell."
)
@click.option("--selections", default=SELECTIONS, show_default=True, help="Which to compare.")
@click.option(
    "--trained", type=click.Path(), multiple=True, help="Trained decoder; again for more.  [default: the cache's]"
)
@click.option("--fit", type=click.IntRange(1), default=100, show_default=True, help="Steps of fitting.")
@click.option("--refine", type=click.IntRange(1), default=15, show_default=True, help="Steps of refining.")
@far_weight(FAR_WEIGHT, "in a fit")
@DEVICE
@precision("Of the networks; judged in float32.")
@BACKGROUND
@CROP
@exclude("template files")
@STRICT
@WEIGHTS
@click.option("--overwrite", is_flag=True, help="Replace a table that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print all rows as JSON on standard output.")
@QUIET
def compare(sources: tuple[str, ...], as_json: bool, quiet: bool, selections: str, **settings: object) -> None:
    """Make mosaics of the pictures SOURCES in every way, and judge them by Eq. 3 and as the eye sees them.

    \b
    hirez-mosaic compare photos/*.png --templates emoji/ --tile 8 -o compared/
    """
    from hirez_mosaic.cli.console import ConsoleListener, print_comparison
    from hirez_mosaic.jobs import compare as comparing
    from hirez_mosaic.jobs.listener import Listener

    listener = Listener() if quiet else ConsoleListener()
    rows = comparing.compare(sources, selections=selections.split(","), listener=listener, **settings)  # type: ignore[arg-type]
    if isinstance(listener, ConsoleListener):
        print_comparison(listener.console, comparing.mean_rows(rows), len(sources))
        listener.console.print(f"{settings['output']}")
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], default=str))
