"""`hirez-mosaic train`."""

import json
from dataclasses import asdict
from typing import Unpack

import click

from hirez_mosaic.cli.options import JSON, QUIET, far_weight, shared, tile
from hirez_mosaic.cli.recipe import RecipeCommand, There
from hirez_mosaic.settings.decoders import DEFAULT, learning_kinds
from hirez_mosaic.settings.shared import SharedSettings


class TrainOptions(SharedSettings):
    """The options that go to `jobs.train.train` as they are."""

    templates: str
    images: str
    output: str
    tile: str
    decoder: str
    recipe: str
    steps: int | None
    batch: int | None
    window: int | None
    rate: float | None
    far_weight: float | None
    seed: int
    resume: bool
    overwrite: bool


@click.command(cls=RecipeCommand, short_help="Train a decoder for a set of templates.")
@click.option(
    "--templates",
    required=True,
    type=There("folder of templates"),
    help="Folder of pictures that mosaics will be made of.",
)
@click.option(
    "--images",
    required=True,
    type=There("folder of pictures"),
    help="Folder of pictures to learn from; subfolders count.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(),
    help="Decoder file, .safetensors; checkpoints go to OUTPUT.training.",
)
@tile(32, "Size of a template in the mosaics to come")
@click.option(
    "--decoder",
    type=click.Choice(learning_kinds()),
    default=DEFAULT,
    show_default=True,
    help="Which network to train.",
)
@click.option(
    "--recipe", type=click.Choice(["default", "paper"]), default="default", show_default=True, help="How to train it."
)
@click.option("--steps", type=int, help="Number of steps, instead of the recipe's.")
@click.option("--batch", type=int, help="Number of windows a step, instead of the recipe's.")
@click.option("--window", type=int, help="Side of a window, px, instead of the recipe's; 64 to 512.")
@click.option(
    "--rate",
    type=float,
    help="Learning rate of the trunk, instead of the recipe's; of the paper's decoder the share of each layer's range.",
)
@far_weight(None, "instead of the recipe's; 0 is the paper's loss")
@click.option("--scales", default="0,1,2", show_default=True, help="Levels of the loss's pyramid: 0 is the finest.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of crops, and of the paper's decoder."
)
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint.")
@click.option("--overwrite", is_flag=True, help="Replace an output and checkpoints that are there.")
@shared("Number format of the encoder and the loss.", "files of both folders")
@JSON
@QUIET
def train(as_json: bool, quiet: bool, scales: str, **options: Unpack[TrainOptions]) -> None:
    """Learn from a folder of pictures which template suits what, and write a decoder that `render` uses from then on.

    \b
    hirez-mosaic train --templates emoji/ --images photos/ -o a.safetensors
    hirez-mosaic train --templates emoji/ --images coco/ -o b.safetensors --resume
    """
    from hirez_mosaic.cli.console import ConsoleListener
    from hirez_mosaic.errors import SettingError
    from hirez_mosaic.jobs import train as training
    from hirez_mosaic.jobs.listener import Listener

    try:
        levels = tuple(int(level) for level in scales.split(","))
    except ValueError as error:
        raise SettingError(f"The scales are {scales!r}; use some of 0,1,2,3.") from error
    result = training.train(**options, scales=levels, listener=Listener() if quiet else ConsoleListener())
    if not quiet:
        click.echo(
            f"{result.output}: hard loss {result.hard_loss[0]:.3f} at the start, {result.hard_loss[1]:.3f} now; "
            f"{result.distinct_templates[1]} distinct templates on the pictures kept for judging; "
            f"{result.seconds:.0f} s",
            err=True,
        )
    if as_json:
        click.echo(json.dumps(asdict(result), default=str))
