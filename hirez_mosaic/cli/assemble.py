"""`hirez-mosaic assemble`."""

import json
from dataclasses import asdict
from typing import TypedDict, Unpack

import click

from hirez_mosaic.cli.options import STRICT, exclude, output, tile, writes_a_mosaic
from hirez_mosaic.cli.recipe import RecipeCommand, There


class AssembleOptions(TypedDict):
    """The options that go to `assemble_tile_map` as they are."""

    tile_map: str
    templates: str
    tile: str
    output: str
    tint: float | None
    ban: str | None
    exclude: tuple[str, ...]
    strict: bool
    background: str
    crop: str
    compression: str
    quality: int
    preview: str | None
    page: str | None
    anonymous: bool
    thumbnails: int | None
    jobs: int | None
    overwrite: bool


@click.command(cls=RecipeCommand, short_help="Make a mosaic again from its tile map.")
@click.option(
    "--tile-map",
    required=True,
    type=There("tile map"),
    help="Tile map that render wrote, perhaps edited: .csv, .json or .parquet.",
)
@click.option(
    "--templates", required=True, type=There("folder of templates"), help="Folder of pictures that the tile map names."
)
@tile(32, "Size of a template in the mosaic")
@output(required=True)
@click.option("--tint", type=float, help="Tint for all cells, instead of the map's: 0 (none) to 1.")
@click.option("--ban", type=click.Path(), help="Text file of templates to replace by their runner-up, one path a line.")
@exclude("template files")
@STRICT
@writes_a_mosaic
def assemble(as_json: bool, quiet: bool, **options: Unpack[AssembleOptions]) -> None:
    """Make the mosaic that a tile map describes, without choosing anything anew.

    \b
    hirez-mosaic render photo.jpg --templates album/ --tile-map wall.csv
    hirez-mosaic assemble --tile-map wall.csv --templates album/ -o wall.png
    """
    from hirez_mosaic.cli.console import ConsoleListener
    from hirez_mosaic.jobs.listener import Listener
    from hirez_mosaic.jobs.remake import assemble_tile_map

    result = assemble_tile_map(**options, listener=Listener() if quiet else ConsoleListener())
    if not quiet:
        (columns, rows), (width, height) = result.cells, result.size
        click.echo(
            f"{result.output}: {columns:,} x {rows:,} cells, {width:,} x {height:,} px, "
            f"{result.distinct_templates:,} templates, {result.seconds:.1f} s",
            err=True,
        )
    if as_json:
        click.echo(json.dumps(asdict(result), default=str))
