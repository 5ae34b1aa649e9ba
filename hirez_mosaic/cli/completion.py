"""`hirez-mosaic completion`, and the values that shells complete."""

import glob
from collections.abc import Callable
from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

from hirez_mosaic.cli.recipe import RecipeCommand
from hirez_mosaic.errors import SettingError

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def words(*known: str) -> Completer:
    """Complete one of `known`, which need not be all that the option takes."""

    def complete(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
        return [CompletionItem(word) for word in known if word.startswith(begun)]

    return complete


def devices(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    """Complete the name of a device; GPUs are counted by NVIDIA's device files, as PyTorch takes seconds to load."""
    gpus = [f"cuda:{path.name.removeprefix('nvidia')}" for path in sorted(Path("/dev").glob("nvidia[0-9]"))]
    return [CompletionItem(word) for word in ("auto", "cpu", "cuda", *gpus) if word.startswith(begun)]


def files(suffix: str) -> Completer:
    """Complete files of this suffix; where there is none, any file or folder."""

    def complete(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
        found = sorted(glob.glob(f"{glob.escape(begun)}*{suffix}"))  # noqa: PTH207 (keeps the name as it was begun)
        return [CompletionItem(name) for name in found] or [CompletionItem(begun, type="file")]

    return complete


@click.command(cls=RecipeCommand, short_help="Let your shell complete commands, options and values.")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the lines that let SHELL complete commands, options and their values with the Tab key.

    Put one of these into the file that your shell reads when it starts: ~/.bashrc, ~/.zshrc, or
    ~/.config/fish/config.fish.

    \b
    eval "$(hirez-mosaic completion bash)"
    eval "$(hirez-mosaic completion zsh)"
    hirez-mosaic completion fish | source
    """
    script = get_completion_class(shell)
    if script is None:
        raise SettingError(f"No completion is known for {shell}; use bash, zsh or fish.")
    click.echo(script(context.find_root().command, {}, "hirez-mosaic", "_HIREZ_MOSAIC_COMPLETE").source())
