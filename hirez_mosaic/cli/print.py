"""`hirez-mosaic print`."""

import json
from dataclasses import asdict

import click

from hirez_mosaic.cli.completion import words
from hirez_mosaic.cli.options import BACKGROUND, CROP, JSON, QUIET, tile
from hirez_mosaic.cli.recipe import RecipeCommand, There
from hirez_mosaic.settings.lengths import PAPERS


@click.command("print", cls=RecipeCommand, short_help="Print a mosaic on sheets of paper, or as stickers.")
@click.argument("mosaic", type=There("mosaic or tile map"))
@click.option("-o", "--output", required=True, type=click.Path(), help="A .pdf; with --format tif a folder.")
@click.option("--width", help="Of the whole print: 2m, 150cm, 60in, 5ft.")
@click.option("--height", help="Likewise, instead of --width.")
@click.option(
    "--dpi",
    type=float,
    help="Px an inch, of a tile map; of a picture, instead of --width.  [default: 300 of a tile map]",
)
@click.option(
    "--paper",
    default="A4",
    show_default=True,
    shell_complete=words(*(name.upper() if name.startswith("a") else name for name in PAPERS)),
    help="A0 to A6, letter, legal, tabloid, or WxH such as 329x483mm.",
)
@click.option("--landscape", is_flag=True, help="Lay the paper on its longer side.  [default: as takes fewer sheets]")
@click.option(
    "--margin", default="10mm", show_default=True, help="Without print, on each side; marks and names are in it."
)
@click.option("--overlap", help="Of neighbouring sheets, to glue them: 10mm.")
@click.option("--bleed", help="Print beyond the line where sheets are cut: 3mm.")
@click.option("--cells", is_flag=True, help="Print numbered stickers and a grid with the numbers, of a tile map.")
@click.option(
    "--format",
    type=click.Choice(("pdf", "tif")),
    default="pdf",
    show_default=True,
    help="tif: a folder, a file a sheet.",
)
@click.option(
    "--compression",
    type=click.Choice(("jpeg", "deflate")),
    default="jpeg",
    show_default=True,
    help="deflate keeps all px.",
)
@click.option("--quality", type=int, default=90, show_default=True, help="Of JPEG, 1 to 100.")
@click.option("--profile", type=click.Path(), help="ICC profile of CMYK to print through.  [default: sRGB]")
@click.option("--templates", type=There("folder of templates"), help="Folder of pictures that a tile map names.")
@tile(32, "Size of a template in a picture, or its shape in a tile map")
@click.option("--tint", type=float, help="Instead of the map's, for all cells: 0 (none) to 1.")
@BACKGROUND
@CROP
@click.option("--jobs", type=int, help="Threads that decode templates.  [default: all cores]")
@click.option("--overwrite", is_flag=True, help="Replace an output that is there.")
@JSON
@QUIET
def print_(as_json: bool, quiet: bool, **settings: object) -> None:
    """Print MOSAIC, a tile map or any picture, on sheets that make a wall. The first page is a plan of it.

    A picture is printed in its own px, a tile map in px that are made from its templates.

    \b
    hirez-mosaic print wall.tif --width 2m --paper A3 --overlap 10mm -o wall.pdf
    hirez-mosaic print wall.tif --width 60in --bleed 3mm --format tif -o sheets/
    hirez-mosaic print wall.csv --templates album/ --width 2m --cells -o wall.pdf
    """
    from hirez_mosaic.cli.sheets import PrintConsole
    from hirez_mosaic.jobs.print import PrintListener, print_sheets

    result = print_sheets(**settings, listener=PrintListener() if quiet else PrintConsole())  # type: ignore[arg-type]
    if not quiet:
        click.echo(f"{result.output}: {result.pages:,} pages, {result.seconds:.1f} s", err=True)
    if as_json:
        click.echo(json.dumps(asdict(result), default=str))
