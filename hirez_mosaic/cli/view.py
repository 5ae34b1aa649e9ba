"""`hirez-mosaic view`."""

import click

from hirez_mosaic.cli.recipe import RecipeCommand, There


@click.command(cls=RecipeCommand, short_help="Show a mosaic or a page in the browser.")
@click.argument("file", type=There())
@click.option("--port", type=int, help="Port on this machine.  [default: any that is free]")
@click.option("--no-browser", is_flag=True, help="Do not open the browser; the address is printed.")
def view(file: str, port: int | None, no_browser: bool) -> None:
    """Show FILE in the browser until Ctrl-C: a page, a .dzi, a .tif, a .zarr or any other picture, however large.

    Nothing but FILE is served, and to nobody but this machine.

    \b
    hirez-mosaic view wall.tif
    """
    from hirez_mosaic.jobs import view as viewing

    viewing.view(
        file, port=port, no_browser=no_browser, listener=lambda address: click.echo(f"{address}  (Ctrl-C ends it)")
    )
