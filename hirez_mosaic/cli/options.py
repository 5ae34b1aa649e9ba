"""Options that several commands share."""

from collections.abc import Callable
from typing import Any

import click

from hirez_mosaic.spec import COMPRESSIONS

_WRITING = (
    click.option("--background", default="white", show_default=True, help="Under transparent px: white, black, grey, #rrggbb or r,g,b."),
    click.option("--compression", type=click.Choice(COMPRESSIONS), default="jpeg", show_default=True, help="Of .tif."),
    click.option("--quality", type=int, default=90, show_default=True, help="Of JPEG and WebP, 1 to 100."),
    click.option("--preview", type=click.Path(), help="Also write the mosaic at 1,600 px: .png, .jpg or .webp."),
    click.option("--jobs", type=int, help="Threads that decode templates.  [default: all cores]"),
    click.option("--overwrite", is_flag=True, help="Replace an output that is there."),
    click.option("--json", "as_json", is_flag=True, help="Print the result as one line of JSON on standard output."),
    click.option("--quiet", is_flag=True, help="Print nothing but errors (and --json)."),
)


def writes_a_mosaic(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what every command that writes a mosaic understands."""
    for option in reversed(_WRITING):
        command = option(command)
    return command
