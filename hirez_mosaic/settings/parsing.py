"""Text as people write it, parsed: sizes, colours, bytes, scales; and numbers as people read them."""

import re
from fractions import Fraction

from hirez_mosaic.errors import SettingError

CROPS = ("centre", "attention", "faces")
MAX_TILE = 4096
_UNITS = {
    "": 1,
    "b": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


def parse_tile(text: str | int | tuple[int, int], what: str = "tile") -> tuple[int, int]:
    """Template size (width, height) in px from 32, "32" or "48x32". what: its name in the message. Raises SettingError.

    >>> parse_tile("48x32")
    (48, 32)
    """
    if isinstance(text, tuple):
        width, height = text
    else:
        match = re.fullmatch(r"(\d+)(?:[xX](\d+))?", str(text).strip())
        if match is None:
            raise SettingError(f"The {what} is {text!r}; use a number of px such as 32, or WxH such as 48x32.")
        width = int(match[1])
        height = int(match[2] or match[1])
    if not (1 <= width <= MAX_TILE and 1 <= height <= MAX_TILE):
        raise SettingError(f"The {what} is {width} x {height} px; use 1 to {MAX_TILE} px a side.")
    return width, height


def check_turnable(tile: tuple[int, int]) -> None:
    """Raise SettingError where templates of `tile` (width, height) px cannot be turned by a quarter."""
    if tile[0] != tile[1]:
        raise SettingError(f"Only square templates can be turned by a quarter and these are {tile[0]} x {tile[1]} px.")


def check_crop(crop: str) -> None:
    """Raise SettingError for what is no way to cut templates."""
    if crop not in CROPS:
        raise SettingError(f"The crop is {crop!r}; use one of {', '.join(CROPS)}.")


def parse_scale(value: str | float | Fraction) -> Fraction:
    """A scale as it is written in decimals, exactly (0.1 is 1/10). Raises SettingError."""
    try:
        return Fraction(str(value)).limit_denominator(1_000_000)
    except (ValueError, ZeroDivisionError) as error:
        raise SettingError(f"The scale is {value!r}; use a number such as 2 or 0.5.") from error


def parse_bytes(text: str | int) -> int:
    """Bytes from 2147483648, "2GiB", "500MB". Raises SettingError.

    >>> parse_bytes("2GiB")
    2147483648
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", str(text).strip().lower())
    if match is None:
        raise SettingError(f"The memory budget is {text!r}; use for example 2GiB or 500MB.")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def parse_colour(text: str | tuple[int, int, int], what: str = "background") -> tuple[int, int, int]:
    """sRGB from "#ffcc00", "255,204,0" or a name of a basic colour. what: its name in messages. Raises SettingError."""
    if isinstance(text, tuple):
        levels = text
    else:
        plain = _NAMED.get(text.strip().lower(), text.strip())
        if match := re.fullmatch(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", plain):
            levels = (int(match[1], 16), int(match[2], 16), int(match[3], 16))
        elif match := re.fullmatch(r"(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})", plain):
            levels = (int(match[1]), int(match[2]), int(match[3]))
        else:
            raise SettingError(f"The {what} is {text!r}; use white, black, grey, #rrggbb or r,g,b.")
    if max(levels) > 255 or min(levels) < 0:
        raise SettingError(f"The {what} is {text!r}; levels go from 0 to 255.")
    return levels


_NAMED = {"white": "#ffffff", "black": "#000000", "grey": "#808080", "gray": "#808080"}


def is_url(place: str) -> bool:
    """Whether a workspace is at a URL (s3://bucket/job) and not in a folder."""
    return "://" in place


def format_bytes(count: float) -> str:
    """Bytes for people.

    >>> format_bytes(2**31)
    '2.0 GiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def format_seconds(seconds: float) -> str:
    """A time for people.

    >>> format_seconds(7.4), format_seconds(130), format_seconds(9000)
    ('7 s', '2 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
