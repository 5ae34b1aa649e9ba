"""Lengths and papers as people write them, exactly, in mm."""

import re
from fractions import Fraction

from hirez_mosaic.errors import SettingError

INCH = Fraction(127, 5)
"""mm."""
POINT = INCH / 72
"""mm; what a PDF measures in."""
_UNITS = {
    "mm": Fraction(1),
    "cm": Fraction(10),
    "m": Fraction(1000),
    "in": INCH,
    '"': INCH,
    "ft": 12 * INCH,
}
_LENGTH = rf"(\d+(?:\.\d+)?|\.\d+)\s*({'|'.join(_UNITS)})"
PAPERS: dict[str, tuple[int | Fraction, int | Fraction]] = {
    "a0": (841, 1189),
    "a1": (594, 841),
    "a2": (420, 594),
    "a3": (297, 420),
    "a4": (210, 297),
    "a5": (148, 210),
    "a6": (105, 148),
    "letter": (Fraction(17, 2) * INCH, 11 * INCH),
    "legal": (Fraction(17, 2) * INCH, 14 * INCH),
    "tabloid": (11 * INCH, 17 * INCH),
}
"""(width, height) in mm, upright."""
_SIDES = (Fraction(20), 14_400 * POINT)  # of a paper, mm: a PDF's page ends there

Size = tuple[Fraction, Fraction]
"""(width, height), mm."""


def parse_length(text: str, what: str) -> Fraction:
    """A length in mm from "2m", "29.7 cm", "60in". what: its name in the message. Raises SettingError.

    >>> parse_length("1in", "width")
    Fraction(127, 5)
    """
    match = re.fullmatch(_LENGTH, str(text).strip().lower())
    if match is None:
        raise SettingError(f"The {what} is {text!r}; use a number with a unit such as 2m, 150cm, 10mm, 60in or 5ft.")
    return Fraction(match[1]) * _UNITS[match[2]]


def parse_paper(text: str) -> tuple[Size, bool]:
    """((width, height) in mm, whether it may be turned) from "A3" or "13x19in"; what is told as WxH lies as it is told.

    Raises SettingError.
    """
    plain = str(text).strip().lower()
    match = re.fullmatch(rf"(?:{_LENGTH}|(\d+(?:\.\d+)?))\s*x\s*{_LENGTH}", plain)
    if plain in PAPERS:
        width, height = (Fraction(side) for side in PAPERS[plain])
    elif match:
        unit = _UNITS[match[2] or match[5]]
        width, height = Fraction(match[1] or match[3]) * unit, Fraction(match[4]) * _UNITS[match[5]]
    else:
        raise SettingError(f"The paper is {text!r}; use A0 to A6, letter, legal, tabloid, or WxH such as 329x483mm.")
    if not (_SIDES[0] <= min(width, height) and max(width, height) <= _SIDES[1]):
        raise SettingError(
            f"The paper is {format_size((width, height))}; use {float(_SIDES[0]):.0f} to {float(_SIDES[1]):,.0f} mm "
            "a side."
        )
    return (width, height), plain in PAPERS


def format_size(size: Size) -> str:
    """The text of a size, for people.

    >>> format_size((Fraction(2000), Fraction(1503, 2)))
    '2,000 x 751.5 mm'
    """
    return " x ".join(f"{float(side):,.1f}".removesuffix(".0") for side in size) + " mm"
