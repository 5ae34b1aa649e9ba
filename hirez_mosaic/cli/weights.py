"""`hirez-mosaic weights`."""

from pathlib import Path

import click

from hirez_mosaic.cli.recipe import RecipeCommand


@click.command(cls=RecipeCommand, short_help="Fetch and verify the encoder's weights.")
@click.option("--weights", "named", type=click.Path(path_type=Path), help="Verify this file instead.")
@click.option("--offline", is_flag=True, help="Only verify the weights that are there; fetch nothing.")
def weights(named: Path | None, offline: bool) -> None:
    """Fetch VGG-16's ImageNet weights into the cache, or verify the ones that are there."""
    from hirez_mosaic.files.cache import cache_folder
    from hirez_mosaic.nets.weights import digest, resolve_weights

    folder = cache_folder("weights")
    found = resolve_weights(named, folder, lambda line: click.echo(line, err=True), fetch=not offline)
    click.echo(f"VGG-16's weights are in {named or folder}: {len(found)} tensors, SHA-256 {digest(found)}.")
