"""`hirez-mosaic templates`: draw sets, cut sets, and inspect any set."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import click

from hirez_mosaic.cli.options import BACKGROUND, CROP, STRICT, exclude, tile
from hirez_mosaic.cli.recipe import FileOr, RecipeCommand, There
from hirez_mosaic.errors import SettingError, TemplateError
from hirez_mosaic.settings.choosing import DUPLICATE_LEVELS
from hirez_mosaic.settings.parsing import parse_colour, parse_tile

if TYPE_CHECKING:
    from hirez_mosaic.jobs.inspect import Coverage, Inspection
    from hirez_mosaic.templates.making import Named


class _RecipeGroup(click.Group):
    """A group whose commands can be jobs of a recipe."""

    command_class = RecipeCommand


@click.group(cls=_RecipeGroup, short_help="Make template sets, and look into them.")
def templates() -> None:
    """Make a folder of templates, or look into one."""


_TILE = tile(32, "Size of a template")
_SEED = click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the templates.")
_QUIET = click.option("--quiet", is_flag=True, help="Print nothing but errors.")


def _output(command: Callable[..., Any]) -> Callable[..., Any]:
    """--tile, --output and --overwrite."""
    return _TILE(_folder(command))


def _folder(command: Callable[..., Any]) -> Callable[..., Any]:
    """--output and --overwrite."""
    command = click.option("--overwrite", is_flag=True, help="Replace a folder that is there.")(command)
    return click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to make.")(
        command
    )


@templates.command(short_help="Characters of a font.")
@click.option(
    "--font", type=click.Path(path_type=Path), help="TrueType or OpenType file.  [default: Pillow's own, Latin only]"
)
@click.option(
    "--chars",
    type=FileOr("ascii", "katakana"),
    default="ascii",
    show_default=True,
    help="ascii, katakana, a text file, or the characters themselves.",
)
@click.option(
    "--colours", multiple=True, default=["black/white"], show_default=True, help="INK/PAPER; repeat for more."
)
@_output
def glyphs(font: Path | None, chars: str, colours: tuple[str, ...], output: Path, tile: str, overwrite: bool) -> None:
    """Draw characters of a font, one template each in each pair of colours.

    \b
    hirez-mosaic templates glyphs --tile 16x32 --colours white/black -o ascii/
    hirez-mosaic templates glyphs --font kana.ttf --chars katakana -o katakana/
    """
    from hirez_mosaic.templates import making

    pairs = [_ink_and_paper(pair) for pair in colours]
    made = making.glyphs(font, _characters(chars), parse_tile(tile), pairs)
    count = making.write_templates(made, output, overwrite=overwrite)
    click.echo(f"{output}: {count} templates", err=True)


def _ink_and_paper(pair: str) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    ink, slash, paper = pair.partition("/")
    if not slash:
        raise SettingError(f"The colours are {pair!r}; use INK/PAPER such as white/black.")
    return parse_colour(ink, "ink"), parse_colour(paper, "paper")


def _characters(chars: str) -> str:
    """The printable characters that --chars names, each once."""
    from hirez_mosaic.templates.making import ASCII, KATAKANA

    text = {"ascii": ASCII, "katakana": KATAKANA}.get(chars)
    if text is None:
        try:
            is_file = os.path.isfile(chars)  # noqa: PTH113 (pathlib raises for long names)
            text = Path(chars).read_text("utf-8") if is_file else chars
        except UnicodeDecodeError as error:
            raise SettingError(f"The text file {chars} is not UTF-8.") from error
    return "".join(dict.fromkeys(one for one in text if one.isprintable()))


@templates.command(short_help="Oriented edges and lines.")
@click.option(
    "--orientations",
    type=click.IntRange(1, 360),
    default=12,
    show_default=True,
    help="Number of angles over half a turn.",
)
@click.option(
    "--thickness",
    type=float,
    multiple=True,
    default=[0.15, 0.35],
    show_default=True,
    help="Thickness of lines, as parts of a tile.",
)
@click.option(
    "--greys", type=click.IntRange(2, 16), default=4, show_default=True, help="Number of levels from black to white."
)
@_output
def edges(
    orientations: int, thickness: tuple[float, ...], greys: int, output: Path, tile: str, overwrite: bool
) -> None:
    """Draw steps and lines at many angles, in every pair of greys: the paper's set for black-and-white mosaics."""
    from hirez_mosaic.templates import making

    made = making.edges(parse_tile(tile), orientations, thickness, greys)
    count = making.write_templates(made, output, overwrite=overwrite)
    click.echo(f"{output}: {count} templates", err=True)


@templates.command("slice", short_help="Sprites of sheets, or random crops.")
@click.argument("sheets", nargs=-1, required=True, type=There(path_type=Path))
@click.option("--grid", help="Cut sheets into sprites of this size, px: 32 or WxH.")
@click.option(
    "--margin", type=click.IntRange(0), default=0, show_default=True, help="Px left of and above the first sprite."
)
@click.option("--spacing", type=click.IntRange(0), default=0, show_default=True, help="Px between two sprites.")
@click.option("--keep-empty", is_flag=True, help="Keep sprites that are transparent or of one colour all over.")
@click.option(
    "--random", "count", type=click.IntRange(1), metavar="COUNT", help="Cut this many crops at random instead."
)
@click.option("--tile", help="Size of a template, px: 32 or WxH.  [default: that of a sprite; 32 of a random crop]")
@_SEED
@_QUIET
@_folder
def slice_(
    sheets: tuple[Path, ...],
    grid: str | None,
    margin: int,
    spacing: int,
    keep_empty: bool,
    count: int | None,
    tile: str | None,
    seed: int,
    quiet: bool,
    output: Path,
    overwrite: bool,
) -> None:
    """Cut the pictures SHEETS into templates as they are, transparency and all.

    \b
    hirez-mosaic templates slice sprites.png --grid 16 --spacing 1 -o sprites/
    hirez-mosaic templates slice paintings/*.jpg --random 5000 -o strokes/
    """
    from hirez_mosaic.engine.machine import settle_process
    from hirez_mosaic.templates import slicing

    settle_process()

    if (grid is None) == (count is None):
        raise SettingError("Give either --grid, the size of a sprite, or --random, the number of crops.")
    if count is not None and (margin or spacing or keep_empty):
        raise SettingError(
            "--margin, --spacing and --keep-empty are for sprites, which --grid cuts; leave them out with --random."
        )
    made: Iterable[Named]
    if count is not None:
        made, total = slicing.random_crops(sheets, parse_tile(tile or "32"), count, seed), count
    else:
        cut = slicing.Grid(parse_tile(str(grid), "grid"), margin, spacing)
        total = sum(rows * columns for rows, columns in map(cut.counts, sheets))
        made = slicing.sprites(sheets, cut, tile=None if tile is None else parse_tile(tile), keep_empty=keep_empty)
    _write(made, total, output, overwrite, quiet)


@templates.command(short_help="Many templates out of a few pictures.")
@click.argument("pictures", nargs=-1, required=True, type=There(path_type=Path))
@click.option("--count", type=click.IntRange(1), default=17500, show_default=True, help="Number of templates to make.")
@click.option(
    "--colour-shift",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="How far mean colours move at most, 0 to 1.",
)
@click.option("--mirror/--no-mirror", default=True, show_default=True, help="Mirror half of them.")
@click.option("--rotate/--no-rotate", default=True, show_default=True, help="Turn all of them by any angle.")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    help="Threads that cut; any number gives the same templates.  [default: all cores]",
)
@_SEED
@exclude("files of folders")
@STRICT
@_QUIET
@_output
def augment(
    pictures: tuple[Path, ...],
    count: int,
    colour_shift: float,
    mirror: bool,
    rotate: bool,
    jobs: int | None,
    seed: int,
    exclude: tuple[str, ...],
    strict: bool,
    quiet: bool,
    output: Path,
    tile: str,
    overwrite: bool,
) -> None:
    """Cut templates out of PICTURES, files or folders of them, at random places, sizes and angles, and shift their
    colours.

    \b
    hirez-mosaic templates augment hubble/ --count 17500 --tile 32 -o templates/
    """
    from hirez_mosaic.engine.machine import cores, settle_process
    from hirez_mosaic.templates import augmenting

    settle_process()

    skipped: dict[Path, str] = {}

    def skip(path: Path, reason: str) -> None:
        if strict:
            raise TemplateError(f"{path} {reason}; remove it, or leave out --strict.")
        skipped[path] = reason

    how = augmenting.Augmentation(parse_tile(tile), colour_shift, mirror, rotate, seed)
    made = augmenting.augmented(augmenting.pictures_at(pictures, exclude), count, how, jobs=jobs or cores(), skip=skip)
    _write(made, count, output, overwrite, quiet)
    if not quiet:
        _print_skipped([(str(path), reason) for path, reason in skipped.items()])


def _write(made: "Iterable[Named]", total: int, output: Path, overwrite: bool, quiet: bool) -> None:
    """Write a set of `total` templates behind a bar."""
    from hirez_mosaic.cli.console import ConsoleListener
    from hirez_mosaic.jobs.listener import Listener
    from hirez_mosaic.templates.making import write_templates

    listener = Listener() if quiet else ConsoleListener()
    with listener.stage("templates", total, "templates") as progress:
        count = write_templates(made, output, overwrite=overwrite, progress=progress)
    if not quiet:
        click.echo(f"{output}: {count} templates", err=True)


def _print_skipped(skipped: list[tuple[str, str]]) -> None:
    for name, reason in skipped[:20]:
        click.echo(f"skipped    {name} ({reason})", err=True)
    if len(skipped) > 20:
        click.echo(f"skipped    {len(skipped) - 20:,} more", err=True)


class InspectOptions(TypedDict):
    """The options that go to `jobs.inspect.inspect` as they are."""

    source: Path | None
    tile: str
    levels: float
    background: str
    crop: str
    exclude: tuple[str, ...]
    strict: bool
    output: Path | None
    overwrite: bool


@templates.command("inspect", short_help="What a folder of templates holds and lacks.")
@click.argument("folder", type=There("folder of templates", Path))
@click.option("--source", type=There(path_type=Path), help="Picture whose colours the templates should reach.")
@_TILE
@click.option(
    "--levels",
    type=float,
    default=DUPLICATE_LEVELS,
    show_default=True,
    help="RMS difference, of 255, up to which two templates are near-duplicates.",
)
@BACKGROUND
@CROP
@exclude("files")
@STRICT
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Contact sheet to write: .png, .jpg or .webp.")
@click.option("--overwrite", is_flag=True, help="Replace a contact sheet that is there.")
def inspect_(folder: Path, **options: Unpack[InspectOptions]) -> None:
    """Show what the folder of templates FOLDER holds, and which colours of a source it lacks.

    \b
    hirez-mosaic templates inspect emoji/ --source photo.jpg -o emoji.png
    """
    from hirez_mosaic.cli.console import ConsoleListener
    from hirez_mosaic.jobs.inspect import inspect

    _print_inspection(inspect(folder, listener=ConsoleListener(), **options), options["levels"])


def _print_inspection(found: "Inspection", levels: float) -> None:
    sizes = ", ".join(f"{width} x {height} px ({count:,})" for (width, height), count in found.sizes[:5])
    more = f" and {len(found.sizes) - 5:,} sizes more" if len(found.sizes) > 5 else ""
    click.echo(f"templates  {len(found.templates):,}, {len(found.templates.skipped):,} files skipped")
    click.echo(f"sizes      {sizes}{more}")
    alike = f"{len(found.alike):,} near-duplicates, within {levels:g} levels of 255 of one before"
    click.echo(f"alike      {alike}; {found.copies:,} have its very px")
    for name, first in found.alike[:5]:
        click.echo(f"           {name} like {first}")
    if found.coverage is not None:
        _print_coverage(found.coverage)
    if found.sheet is not None:
        click.echo(f"{found.sheet}", err=True)


def _print_coverage(cover: "Coverage") -> None:
    from hirez_mosaic.jobs.inspect import colour_name
    from hirez_mosaic.jobs.reach import COLOUR_REACH

    rows, columns = cover.distances.shape
    click.echo(f"source     {cover.source}, {columns} x {rows} cells")
    click.echo(f"reached    {cover.reached:.1%} of the cells have a template within Delta E {COLOUR_REACH:g}")
    click.echo(f"distance   {cover.distances.mean():.1f} on average, {cover.worst:.1f} for 95 % of the cells at most")
    for lack in cover.lacks:
        name = "#{:02x}{:02x}{:02x} ".format(*lack.colour) + colour_name(lack.colour)
        click.echo(f"lacks      {name}: {lack.share:.1%} of the source, {lack.distance:.0f} away")
