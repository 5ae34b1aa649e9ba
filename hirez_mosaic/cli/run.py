"""`hirez-mosaic run`."""

import shlex
from pathlib import Path

import click

from hirez_mosaic.cli.completion import files
from hirez_mosaic.cli.logs import logged
from hirez_mosaic.cli.options import logs
from hirez_mosaic.cli.recipe import read_recipe


@click.command(short_help="Run the jobs of a recipe.")
@click.argument("recipe", type=click.Path(path_type=Path), shell_complete=files(".toml"))
@logs
@click.pass_context
def run(context: click.Context, recipe: Path, log_file: str | None, verbose: bool) -> None:
    """Run the jobs described in the file RECIPE (TOML), in their order.

    Each job is a table, named after its command. Its keys are the command's options, its paths are relative to the
    recipe. With --print-recipe any command prints its call in this form. If pictures of a batch fail, the jobs after it
    still run.

    \b
    hirez-mosaic render photo.jpg --templates emoji/ --print-recipe > wall.toml
    hirez-mosaic run wall.toml
    """
    group = context.find_root().command
    if not isinstance(group, click.Group):
        raise TypeError("run belongs to a group of commands.")
    commands = {name: command for name, command in group.commands.items() if name != "run"}
    codes = []
    with logged(log_file, verbose):
        for job in read_recipe(recipe, commands):
            line = job.line
            click.echo(f"hirez-mosaic {shlex.join(line)}", err=True)
            codes.append(group.main(line, prog_name="hirez-mosaic", standalone_mode=False))
    context.exit(max(code or 0 for code in codes))
