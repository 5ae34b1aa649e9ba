"""`hirez-mosaic render`."""

import json
from dataclasses import asdict
from typing import Unpack

import click

from hirez_mosaic.cli.help import GroupedCommand
from hirez_mosaic.cli.options import output, render_options
from hirez_mosaic.cli.recipe import There
from hirez_mosaic.settings.spec import RenderSettings


class RenderOptions(RenderSettings):
    """The options that go to `jobs.render.render` as they are."""

    source: str
    templates: str
    tile: str
    output: str | None


@click.command(cls=GroupedCommand, short_help="Make a mosaic of a picture.")
@click.argument("source", type=There())
@output(required=False, default="  [default: SOURCE-stem.mosaic.tif]")
@render_options
def render(as_json: bool, quiet: bool, log_file: str | None, verbose: bool, **options: Unpack[RenderOptions]) -> None:
    """Make a photomosaic of the picture SOURCE from the pictures in a folder.

    \b
    hirez-mosaic render starry.tif --templates hubble/ --tile 32
    hirez-mosaic render photo.jpg --templates emoji/ --columns 400 -o wall.dzi
    """
    from hirez_mosaic.cli.console import ConsoleListener, print_summary
    from hirez_mosaic.cli.logs import logged
    from hirez_mosaic.jobs import render as rendering
    from hirez_mosaic.jobs.listener import Listener

    listener = Listener() if quiet else ConsoleListener()
    with logged(log_file, verbose):
        result = rendering.render(**options, listener=listener)
    if isinstance(listener, ConsoleListener):
        print_summary(listener.console, result)
    if as_json:
        derived = {"total_seconds": result.total_seconds, "mpx_per_second": result.mpx_per_second}
        click.echo(json.dumps(asdict(result) | derived, default=str))
