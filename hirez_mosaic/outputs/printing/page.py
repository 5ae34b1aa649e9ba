"""A page of a print: at most one picture in its px, lines and words in mm."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from hirez_mosaic.settings.lengths import Size

EM = 0.6
"""Width of a letter, of its height: that of Courier, in which all are as wide."""


@dataclass(frozen=True)
class Line:
    """From (x, y) to (x, y), mm from the page's top left corner; upright or level. grey: 0 is black. wide: mm."""

    start: tuple[float, float]
    stop: tuple[float, float]
    wide: float = 0.1
    grey: float = 0.0


@dataclass(frozen=True)
class Text:
    """Words. x, y: mm, of their left or their middle, and of their base line. high: of the letters, mm.

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
        """mm."""
        return EM * self.high * len(self.words)

    @property
    def left(self) -> float:
        """mm."""
        return self.x - self.wide / 2 if self.centred else self.x

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) of the white they stand on, mm from the page's top left corner."""
        around = 0.3 * self.high
        return self.left - around, self.y + around, self.left + self.wide + around, self.y - self.high


@dataclass(frozen=True)
class Drawing:
    """What stands over a page's picture."""

    lines: list[Line] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)


@dataclass(frozen=True)
class Picture:
    """(left, top) on the page and (width, height), px; bands: makes (rows, width, 3) uint8 sRGB that follow one
    another, each time it is called.
    """

    place: tuple[int, int]
    size: tuple[int, int]
    bands: Callable[[], Iterator[NDArray[np.uint8]]]


@dataclass(frozen=True)
class Page:
    """One page. paper: mm. density: px a mm of its picture. draw: makes what stands over it. trim: (left, top, right,
    bottom) of what is left once it is cut, mm.
    """

    name: str
    paper: Size
    density: Fraction
    draw: Callable[[], Drawing]
    picture: Picture | None = None
    trim: tuple[float, float, float, float] | None = None


def fitted(words: str, wide: float, high: float) -> float:
    """The height of letters, at most `high`, at which words are at most `wide`; mm."""
    return min(high, wide / (EM * max(1, len(words))))
