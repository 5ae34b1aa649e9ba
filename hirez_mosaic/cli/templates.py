"""`hirez-mosaic templates`: sets that are drawn rather than collected."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hirez_mosaic.spec import parse_colour, parse_tile


@click.group(short_help="Make template sets.")
def templates() -> None:
    """Make a folder of templates."""


def _output(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--overwrite", is_flag=True, help="Replace a folder that is there.")(command)
    command = click.option("--tile", default="32", show_default=True, help="Size of a template, px: 32 or WxH.")(command)
    return click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to make.")(command)


@templates.command(short_help="Characters of a font.")
@click.option("--font", type=click.Path(path_type=Path), help="TrueType or OpenType file.  [default: Pillow's own, Latin only]")
@click.option("--chars", default="ascii", show_default=True, help="ascii, katakana, a text file, or the characters themselves.")
@click.option("--colours", multiple=True, default=["black/white"], show_default=True, help="INK/PAPER; again for more.")
@_output
def glyphs(font: Path | None, chars: str, colours: tuple[str, ...], output: Path, tile: str, overwrite: bool) -> None:
    """Draw characters of a font, one template each in each pair of colours.

    \b
    hirez-mosaic templates glyphs --tile 16x32 --colours white/black -o ascii/
    hirez-mosaic templates glyphs --font mincho.ttf --chars katakana --colours '#00ff41/black' --colours '#008f11/black' -o matrix/
    """
    from hirez_mosaic.errors import SettingError
    from hirez_mosaic.templates import making

    pairs = []
    for pair in colours:
        ink, slash, paper = pair.partition("/")
        if not slash:
            raise SettingError(f"The colours are {pair!r}; use INK/PAPER such as white/black.")
        pairs.append((parse_colour(ink), parse_colour(paper)))
    named = {"ascii": making.ASCII, "katakana": making.KATAKANA}.get(chars)
    if named is None:
        try:
            named = Path(chars).read_text("utf-8") if os.path.isfile(chars) else chars  # noqa: PTH113 (pathlib raises for long names)
        except UnicodeDecodeError as error:
            raise SettingError(f"The text file {chars} is not UTF-8.") from error
    characters = "".join(dict.fromkeys(one for one in named if one.isprintable()))
    count = making.write_templates(making.glyphs(font, characters, parse_tile(tile), pairs), output, overwrite=overwrite)
    click.echo(f"{output}: {count} templates", err=True)


@templates.command(short_help="Oriented edges and lines.")
@click.option("--orientations", type=click.IntRange(1, 360), default=12, show_default=True, help="Angles over half a turn.")
@click.option("--thickness", type=float, multiple=True, default=[0.15, 0.35], show_default=True, help="Of lines, parts of a tile.")
@click.option("--greys", type=click.IntRange(2, 16), default=4, show_default=True, help="Levels from black to white.")
@_output
def edges(orientations: int, thickness: tuple[float, ...], greys: int, output: Path, tile: str, overwrite: bool) -> None:
    """Draw steps and lines at many angles, in every pair of greys: the paper's set for black-and-white mosaics."""
    from hirez_mosaic.templates import making

    made = making.edges(parse_tile(tile), orientations, thickness, greys)
    count = making.write_templates(made, output, overwrite=overwrite)
    click.echo(f"{output}: {count} templates", err=True)
