"""`hirez-mosaic page`."""

import json
from dataclasses import asdict
from typing import TypedDict, Unpack

import click

from hirez_mosaic.cli.options import BACKGROUND, CROP, JSON, QUIET, SHOWS, tile
from hirez_mosaic.cli.recipe import RecipeCommand, There


class PageOptions(TypedDict):
    """The options that go to `make_pages` as they are."""

    mosaics: tuple[str, ...]
    output: str
    templates: str | None
    tile: str
    source: str | None
    tint: float | None
    background: str
    crop: str
    anonymous: bool
    thumbnails: int | None
    jobs: int | None
    overwrite: bool


@click.command(cls=RecipeCommand, short_help="Make a page that shows a mosaic and knows every template in it.")
@click.argument("mosaics", nargs=-1, required=True, type=There("mosaic or tile map"))
@click.option(
    "-o", "--output", required=True, type=click.Path(), help="Folder for the page; index.html in it is what to open."
)
@click.option("--templates", type=There("folder of templates"), help="Folder of pictures that the tile maps name.")
@tile(32, "Size of a template in the mosaic")
@click.option(
    "--source", type=There(), help="Picture the mosaic was made of, to fade to.  [default: the map's mean colours]"
)
@click.option("--tint", type=float, help="Tint for all cells, instead of the map's: 0 (none) to 1.")
@BACKGROUND
@CROP
@SHOWS
@click.option("--jobs", type=int, help="Threads to use.  [default: all cores]")
@click.option("--overwrite", is_flag=True, help="Replace a page that is there.")
@JSON
@QUIET
def page(as_json: bool, quiet: bool, **options: Unpack[PageOptions]) -> None:
    """Make a page of MOSAICS, which are tile maps or any pictures. Several become a gallery.

    The folder works from any web host, and offline by a double click on its index.html.

    \b
    hirez-mosaic page wall.csv --templates album/ --source photo.jpg -o wall/
    hirez-mosaic page wall.tif -o wall/
    """
    from hirez_mosaic.cli.console import ConsoleListener
    from hirez_mosaic.jobs.listener import Listener
    from hirez_mosaic.jobs.page import make_pages

    result = make_pages(**options, listener=Listener() if quiet else ConsoleListener())
    if not quiet:
        click.echo(f"{result.output / 'index.html'}: {result.seconds:.1f} s", err=True)
    if as_json:
        click.echo(json.dumps(asdict(result), default=str))
