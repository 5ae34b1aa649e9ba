"""Template sets that are drawn: characters of a font, and edges at many angles."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hirez_mosaic.errors import OutputExistsError, SettingError, TemplateError
from hirez_mosaic.files.fresh import private, remove

ASCII = "".join(map(chr, range(32, 127)))
KATAKANA = "".join(map(chr, range(0xFF66, 0xFF9E))) + "0123456789"
"""Half-width katakana and digits: the glyphs that rain in *The Matrix*."""
_NO_CHARACTER = "\U0010ffff"  # every font draws its box for a missing glyph here

_MARK = ".made-by-hirez-mosaic"  # hidden files are no templates

RGB = tuple[int, int, int]
Named = tuple[str, NDArray[np.uint8]]
"""(file name, (height, width, 3 or 4) uint8 sRGB) of a template."""


def glyphs(
    font: Path | None, characters: str, tile: tuple[int, int], colours: Sequence[tuple[RGB, RGB]]
) -> Iterator[Named]:
    """(name, (height, width, 3) uint8) of each character in each pair of colours, all on one baseline.

    A character that is too wide for the tile is cut.

    font: TrueType or OpenType file; Pillow's own where None.
    tile: (width, height), px.
    colours: pairs of (ink, paper), sRGB.

    Raises TemplateError for a font that cannot be read or lacks characters, which the message names.
    """
    width, height = tile
    size = max(1, round(min(height * 0.8, width * 1.4)))  # most Latin letters are a good half as wide as the size
    face = _face(font, size)
    unknown = _mask(face, _NO_CHARACTER)
    missing = [one for one in characters if not one.isspace() and _mask(face, one) == unknown]
    if missing:
        some = " ".join(missing[:20])
        raise TemplateError(
            f"The font {font or 'of Pillow'} has no glyph for {len(missing)} of the characters asked for: {some}."
        )
    ascent, descent = face.getmetrics()
    baseline = (height + ascent - descent) / 2
    for (number, character), (pair, (ink, paper)) in product(enumerate(characters), enumerate(colours)):
        image = Image.new("RGB", (width, height), paper)
        ImageDraw.Draw(image).text((width / 2, baseline), character, fill=ink, font=face, anchor="ms")
        yield f"{number:04d}-u{ord(character):04x}-{pair}.png", np.asarray(image)


def _face(font: Path | None, size: int) -> ImageFont.FreeTypeFont:
    """The font at a size, px. Raises TemplateError where it cannot be read."""
    try:
        face = ImageFont.load_default(size) if font is None else ImageFont.truetype(str(font), size)
    except OSError as error:
        raise TemplateError(f"The font {font} cannot be read; name a TrueType or OpenType file.") from error
    if not isinstance(face, ImageFont.FreeTypeFont):
        raise TemplateError("Pillow was built without FreeType; install one from the package index.")
    return face


def _mask(face: ImageFont.FreeTypeFont, character: str) -> bytes:
    """The px that a character covers, and their extent, as bytes to compare."""
    mask = face.getmask(character)
    return bytes(mask) + repr(mask.size).encode()


def edges(tile: tuple[int, int], orientations: int, thicknesses: Sequence[float], greys: int) -> Iterator[Named]:
    """(name, (height, width, 3) uint8) of flat greys, and of steps and lines at many angles in every pair of greys.

    Steps and lines lie at the middle and a quarter off it; they are anti-aliased.

    tile: (width, height), px.
    orientations: angles over half a turn.
    thicknesses: of the lines, as parts of the tile's shorter side.
    greys: levels from black to white.
    """
    width, height = tile
    levels = np.linspace(0, 255, greys)
    for level in levels:
        yield f"flat-{level:03.0f}.png", np.full((height, width, 3), round(level), np.uint8)
    for turn, offset in product(range(orientations), (-0.25, 0.0, 0.25)):
        covers = _covers(tile, np.pi * turn / orientations, offset, thicknesses)
        pairs = product(enumerate(levels), enumerate(levels))
        for (name, cover), ((first, ink), (second, paper)) in product(covers.items(), pairs):
            if first != second:
                grey = np.round(paper + cover * (ink - paper)).astype(np.uint8)
                label = f"{name}-{180 * turn / orientations:05.1f}-{offset:+.2f}-{ink:03.0f}-on-{paper:03.0f}.png"
                yield label, np.repeat(grey[:, :, None], 3, axis=2)


def _covers(
    tile: tuple[int, int], angle: float, offset: float, thicknesses: Sequence[float]
) -> dict[str, NDArray[np.float64]]:
    """(height, width) how much of each px a step, and a line of each thickness, covers, 0 to 1; by name.

    angle: radians. offset: from the middle, as a part of the tile's shorter side.
    """
    (width, height), side = tile, min(tile)
    y, x = np.mgrid[:height, :width]
    x, y = x - (width - 1) / 2, y - (height - 1) / 2
    distance = x * np.cos(angle) + y * np.sin(angle) - offset * side
    lines = {f"line{one:g}": np.clip(one * side / 2 - np.abs(distance) + 0.5, 0, 1) for one in thicknesses}
    return {"step": np.clip(distance + 0.5, 0, 1)} | lines


def write_templates(
    made: Iterable[Named], folder: Path, *, overwrite: bool, progress: Callable[[int], None] = lambda done: None
) -> int:
    """Write templates as PNG files into a folder, which appears when it is complete; returns how many there are.

    overwrite: replace a folder that this function made.
    progress: called with each number of templates written.

    Raises OutputExistsError for a folder that is there and may not be replaced, SettingError where nothing is made.
    """
    if folder.exists() and not overwrite:
        raise OutputExistsError(f"{folder} is there already; use `overwrite` to replace it.")
    if folder.exists() and not (folder / _MARK).is_file():
        raise OutputExistsError(
            f"{folder} was not made by this command, which will not replace it; name another folder."
        )
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    scratch, old = private(folder.absolute()), private(folder.absolute())
    try:
        count = _write_files(made, scratch, progress)
        if folder.exists():
            folder.rename(old)
        scratch.rename(folder)
    finally:
        for left in (scratch, old):
            remove(left)
    return count


def _write_files(made: Iterable[Named], folder: Path, progress: Callable[[int], None]) -> int:
    """Write templates and the mark into a new folder; returns how many there are."""
    folder.mkdir()
    count = 0
    for name, pixels in made:
        Image.fromarray(pixels).save(folder / name)
        count += 1
        progress(1)
    if not count:
        raise SettingError("No template would be made; name characters or colours.")
    (folder / _MARK).write_text("Made by hirez-mosaic templates; it may be replaced by --overwrite.\n")
    return count
