"""Template sets that are drawn: characters of a font, and oriented edges."""

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
_NO_CHARACTER = "\U0010ffff"  # every font draws its box for "not there"

_MARK = ".made-by-hirez-mosaic"  # hidden files are no templates

Colour = tuple[int, int, int]
Named = tuple[str, NDArray[np.uint8]]


def glyphs(
    font: Path | None, characters: str, tile: tuple[int, int], colours: Sequence[tuple[Colour, Colour]]
) -> Iterator[Named]:
    """(name, (height, width, 3) uint8) of each character in each (ink, paper) pair of colours.

    font: TrueType or OpenType file; Pillow's own where None. All stand on one baseline; what is too wide for the tile
        is cut.
    Raises TemplateError for a font that cannot be read or lacks characters, which it names.
    """
    width, height = tile
    size = max(1, round(min(height * 0.8, width * 1.4)))  # most Latin letters are a good half as wide as the size
    try:
        face = ImageFont.load_default(size) if font is None else ImageFont.truetype(str(font), size)
    except OSError as error:
        raise TemplateError(f"The font {font} cannot be read; name a TrueType or OpenType file.") from error
    if not isinstance(face, ImageFont.FreeTypeFont):
        raise TemplateError("Pillow was built without FreeType; install one from the package index.")
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


def _mask(face: ImageFont.FreeTypeFont, character: str) -> bytes:
    mask = face.getmask(character)
    return bytes(mask) + repr(mask.size).encode()


def edges(tile: tuple[int, int], orientations: int, thicknesses: Sequence[float], greys: int) -> Iterator[Named]:
    """(name, (height, width, 3) uint8) of steps and lines at `orientations` angles over half a turn, in both
    polarities, and flat greys.

    thicknesses: of the lines, as parts of the tile's shorter side; lines and steps lie at the middle and a quarter off
        it, anti-aliased.
    greys: levels between black and white; every pair of them is an edge.
    """
    width, height = tile
    side = min(tile)
    y, x = np.mgrid[:height, :width]
    x, y = x - (width - 1) / 2, y - (height - 1) / 2
    levels = np.linspace(0, 255, greys)
    for level in levels:
        yield f"flat-{level:03.0f}.png", np.full((height, width, 3), round(level), np.uint8)
    for turn in range(orientations):
        angle = np.pi * turn / orientations
        for offset in (-0.25, 0.0, 0.25):
            distance = x * np.cos(angle) + y * np.sin(angle) - offset * side
            covers = {"step": np.clip(distance + 0.5, 0, 1)}
            for thickness in thicknesses:
                covers[f"line{thickness:g}"] = np.clip(thickness * side / 2 - np.abs(distance) + 0.5, 0, 1)
            for (name, cover), (first, ink), (second, paper) in product(
                covers.items(), enumerate(levels), enumerate(levels)
            ):
                if first != second:
                    grey = np.round(paper + cover * (ink - paper)).astype(np.uint8)
                    label = f"{name}-{180 * turn / orientations:05.1f}-{offset:+.2f}-{ink:03.0f}-on-{paper:03.0f}.png"
                    yield label, np.repeat(grey[:, :, None], 3, axis=2)


def write_templates(
    made: Iterable[Named], folder: Path, *, overwrite: bool, progress: Callable[[int], None] = lambda done: None
) -> int:
    """Write them as PNG files into `folder`, which appears when it is complete; their number.

    progress: called with each number of templates written.
    Raises OutputExistsError for a folder that is there, unless it was made here and may be replaced; SettingError where
    nothing is made.
    """
    if folder.exists() and not overwrite:
        raise OutputExistsError(f"{folder} is there already; use --overwrite to replace it.")
    if folder.exists() and not (folder / _MARK).is_file():
        raise OutputExistsError(
            f"{folder} was not made by this command, which will not replace it; name another folder."
        )
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    fresh, old = private(folder.absolute()), private(folder.absolute())
    count = 0
    try:
        fresh.mkdir()
        for name, pixels in made:
            Image.fromarray(pixels).save(fresh / name)
            count += 1
            progress(1)
        if not count:
            raise SettingError("No template would be made; name characters or colours.")
        (fresh / _MARK).write_text("Made by hirez-mosaic templates; it may be replaced by --overwrite.\n")
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    finally:
        for left in (fresh, old):
            remove(left)
    return count
