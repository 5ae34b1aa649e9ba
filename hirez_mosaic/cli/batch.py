"""`hirez-mosaic batch`."""

import json
from contextlib import nullcontext
from typing import Unpack

import click

from hirez_mosaic.cli.help import GroupedCommand
from hirez_mosaic.cli.options import batch_options
from hirez_mosaic.cli.recipe import There
from hirez_mosaic.settings.formats import NAMES
from hirez_mosaic.settings.spec import MakingSettings

SOME_FAILED = 3
"""The exit code of a batch of which some pictures failed."""


class BatchOptions(MakingSettings):
    """The options that go to `jobs.batch.batch` as they are."""

    folder: str
    templates: str
    output: str
    tile: str
    glob: str
    recursive: bool
    format: str
    jobs: int
    preview: bool
    tile_map: str | None
    page: bool


@click.command(cls=GroupedCommand, short_help="Make a mosaic of every picture in a folder.")
@click.argument("folder", type=There("folder"))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(),
    help="Write the mosaics to this folder, which mirrors FOLDER.",
)
@click.option(
    "--glob",
    default="*",
    show_default=True,
    help="Take pictures whose names match; with a slash in the pattern, whose paths below FOLDER do.",
)
@click.option("--recursive", is_flag=True, help="Take pictures in subfolders, too.")
@click.option(
    "--format", type=click.Choice(NAMES), default="tif", show_default=True, help="Write the mosaics in this format."
)
@batch_options
@click.pass_context
def batch(
    context: click.Context,
    /,
    as_json: bool,
    quiet: bool,
    log_file: str | None,
    verbose: bool,
    **options: Unpack[BatchOptions],
) -> None:
    """Make a photomosaic of every picture in FOLDER.

    Run again, it goes on where it was broken off, leaves what is finished and unchanged as it is, and tries again what
    failed. Exit code 3 says that some pictures failed; report.json in the output folder lists them all.

    \b
    hirez-mosaic batch photos/ --templates hubble/ --tile 32 -o mosaics/
    hirez-mosaic batch photos/ --templates emoji/ -o walls/ --format dzi --jobs 4
    """
    from hirez_mosaic.cli.console import BatchConsole, print_report
    from hirez_mosaic.cli.logs import logged
    from hirez_mosaic.jobs import batch as batching
    from hirez_mosaic.jobs.batch_run import BatchListener

    listener = BatchListener() if quiet else BatchConsole()
    with logged(log_file, verbose), listener if isinstance(listener, BatchConsole) else nullcontext():
        result = batching.batch(**options, listener=listener)
    if isinstance(listener, BatchConsole):
        print_report(listener.console, result)
    if as_json:
        click.echo(
            json.dumps({"counts": result.counts, "report": str(result.report), "seconds": round(result.seconds, 3)})
        )
    context.exit(SOME_FAILED if result.counts["failed"] else 0)
