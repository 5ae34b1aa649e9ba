"""A page of a print: at most one picture in its px, lines and words in mm."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from hirez_mosaic.settings.lengths import Size

EM = 0.6
"""Width of a letter in parts of its height: that of Courier, whose letters are all of one width."""


@dataclass(frozen=True)
class Line:
    """A line, upright or level.

    start, stop: (x, y), mm from the page's top left corner.
    wide: mm.
    grey: 0 is black, 1 white.
    """

    start: tuple[float, float]
    stop: tuple[float, float]
    wide: float = 0.1
    grey: float = 0.0


@dataclass(frozen=True)
class Text:
    """Words on a page.

    x: of their left end, or of their middle where they are centred, mm.
    y: of their base line, mm.
    high: height of the letters, mm.
    boxed: whether they stand on white.
    """

    x: float
    y: float
    high: float
    words: str
    centred: bool = False
    boxed: bool = False

    @property
    def wide(self) -> float:
        """Width of the words, mm."""
        return EM * self.high * len(self.words)

    @property
    def left(self) -> float:
        """Left end of the words, mm."""
        return self.x - self.wide / 2 if self.centred else self.x

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) of the white that they stand on, mm from the page's top left corner."""
        around = 0.3 * self.high
        return self.left - around, self.y + around, self.left + self.wide + around, self.y - self.high


@dataclass(frozen=True)
class Drawing:
    """What stands over a page's picture."""

    lines: list[Line] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)


@dataclass(frozen=True)
class Picture:
    """The picture of a page.

    place: (left, top) on the page, px.
    size: (width, height), px.
    bands: gives its px from top to bottom, as (rows, width, 3) uint8 sRGB, each time that it is called.
    """

    place: tuple[int, int]
    size: tuple[int, int]
    bands: Callable[[], Iterator[NDArray[np.uint8]]]


@dataclass(frozen=True)
class Page:
    """One page.

    paper: (width, height), mm.
    density: px a mm of its picture.
    draw: makes what stands over the picture.
    trim: (left, top, right, bottom) of the page after it is cut, mm.
    """

    name: str
    paper: Size
    density: Fraction
    draw: Callable[[], Drawing]
    picture: Picture | None = None
    trim: tuple[float, float, float, float] | None = None


def fitted(words: str, wide: float, high: float) -> float:
    """The height of letters, at most `high`, at which words are no wider than `wide`; all in mm."""
    return min(high, wide / (EM * max(1, len(words))))
