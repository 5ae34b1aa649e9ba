"""`hirez-mosaic compare`."""

import json
from dataclasses import asdict

import click

from hirez_mosaic.spec import FAR_WEIGHT, PRECISIONS

SELECTIONS = "L2,SSIM,residual,trained,fitted,refined,soft"


@click.command(short_help="Compare the ways to choose templates.")
@click.argument("sources", nargs=-1, required=True, type=click.Path())
@click.option("--templates", required=True, type=click.Path(), help="Folder of pictures to make mosaics of.")
@click.option("--tile", default="8", show_default=True, help="Size of a template, px: 32 or WxH.")
@click.option("-o", "--output", default="compared", show_default=True, type=click.Path(), help="Folder for table and figures.")
@click.option("--side", type=int, default=512, show_default=True, help="Longer side of the analysis image, px, 8 to a cell.")
@click.option("--selections", default=SELECTIONS, show_default=True, help="Which to compare.")
@click.option("--trained", type=click.Path(), multiple=True, help="Trained decoder; again for more.  [default: the cache's]")
@click.option("--fit", type=click.IntRange(1), default=100, show_default=True, help="Steps of fitting.")
@click.option("--refine", type=click.IntRange(1), default=30, show_default=True, help="Steps of refining.")
@click.option("--far-weight", type=float, default=FAR_WEIGHT, show_default=True, help="Of colour seen from afar, in fit and refine.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:N", help="Where the networks run.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True, help="Of the networks; judged in float32.")
@click.option("--background", default="white", show_default=True, help="Under transparent px: white, black, grey, #rrggbb or r,g,b.")
@click.option("--weights", type=click.Path(), help="File with VGG-16's weights.  [default: cache, package index, model hub]")
@click.option("--overwrite", is_flag=True, help="Replace a table that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print all rows as JSON on standard output.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors (and --json).")
def compare(sources: tuple[str, ...], as_json: bool, quiet: bool, selections: str, **settings: object) -> None:
    """Make mosaics of the pictures SOURCES in every way, and judge them by Eq. 3, LPIPS and the cells' means.

    \b
    hirez-mosaic compare photos/*.png --templates emoji/ --tile 8 -o compared/
    """
    from hirez_mosaic import comparing
    from hirez_mosaic.cli.console import ConsoleListener, print_comparison
    from hirez_mosaic.rendering import Listener

    listener = Listener() if quiet else ConsoleListener()
    rows = comparing.compare(sources, selections=selections.split(","), listener=listener, **settings)  # type: ignore[arg-type]
    if isinstance(listener, ConsoleListener):
        print_comparison(listener.console, comparing.means(rows), len(sources))
        listener.console.print(f"{settings['output']}")
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], default=str))
