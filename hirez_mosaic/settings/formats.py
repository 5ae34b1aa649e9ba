"""The formats a mosaic can be written in: one entry each, with all that must be known before anything is written.

`outputs.writers` holds what writes them, by the same names.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hirez_mosaic.errors import OutputError, SettingError

COMPRESSIONS = ("jpeg", "deflate", "lzw", "webp", "none")
LOSSY = ("jpeg", "webp")
DPI = 300.0
"""Dots an inch, what printers expect; libvips' own 25.4 would make posters of postcards."""
MOST_DPI = 100_000.0
IIIF = "http://localhost:8000"
"""Where `python -m http.server` serves the folder that a .iiif lies in."""
PREVIEWS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Encoding:
    """How the px of a mosaic are encoded; a format takes of it what its entry names.

    compression: of a TIFF, one of `COMPRESSIONS`. quality: of JPEG and WebP, 1 to 100. dpi: dots an inch.
    cog: lay a TIFF out as a Cloud Optimized GeoTIFF. iiif: address of the folder in which a .iiif will be served.
    record: how the mosaic was made, by name; see `record_of`.
    """

    compression: str = "jpeg"
    quality: int = 90
    dpi: float = DPI
    cog: bool = False
    iiif: str = IIIF
    record: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """A format.

    suffixes: of its files, the first names it. options: of `Encoding` that it takes.
    limit: px a side, at most; None where it has no end.
    folder: how the name of the folder beside the file ends, with which it replaces the suffix; None where there is
        none.
    inside: what the names in its folder look like, where it is or has one; a folder of others is never replaced.
    levels: whether it holds smaller versions, too.
    """

    suffixes: tuple[str, ...]
    options: tuple[str, ...] = ()
    limit: int | None = None
    folder: str | None = None
    inside: str | None = None
    levels: bool = False

    @property
    def name(self) -> str:
        """The first suffix without its dot."""
        return self.suffixes[0].removeprefix(".")

    def parts_of(self, output: Path) -> list[Path]:
        """Every file or folder that an output consists of, the one people open last."""
        return [output] if self.folder is None else [output.with_name(output.stem + self.folder), output]


FORMATS = (
    Format((".tif", ".tiff"), ("compression", "quality", "dpi", "cog"), levels=True),
    Format((".dzi",), ("quality",), folder="_files", inside=r"\d+|vips-properties\.xml", levels=True),
    Format((".png",), ("dpi",)),
    Format((".jpg", ".jpeg"), ("quality", "dpi"), limit=65_500),
    Format((".webp",), ("quality",), limit=16_383),
    Format((".zarr",), inside=r"zarr\.json|c|\d+", levels=True),
    Format((".iiif",), ("quality", "iiif"), inside=r"info\.json|full|\d+,\d+,\d+,\d+", levels=True),
)
NAMES = tuple(one.name for one in FORMATS)
SUFFIXES = tuple(suffix for one in FORMATS for suffix in one.suffixes)
_BY_SUFFIX = {suffix: one for one in FORMATS for suffix in one.suffixes}


def format_of(output: Path) -> Format:
    """The format of an output by its suffix. Raises SettingError where it has none that is known."""
    found = _BY_SUFFIX.get(output.suffix.lower())
    if found is None:
        raise SettingError(f"The output {output} has no known suffix; use one of {', '.join(SUFFIXES)}.")
    return found


def parts_of(output: Path) -> list[Path]:
    """Every file or folder that an output consists of, the one people open last; itself where it is no mosaic."""
    found = _BY_SUFFIX.get(output.suffix.lower())
    return [output] if found is None else found.parts_of(output)


def is_of_mosaic(folder: Path) -> bool:
    """Whether a folder is called as one of a mosaic and holds nothing but what such a one does."""
    names = visible(folder)
    called = (
        one.inside
        for one in FORMATS
        if (folder.name.endswith(one.folder) if one.folder else folder.suffix.lower() in one.suffixes)
    )
    return any(all(re.fullmatch(inside, name) for name in names) for inside in called if inside is not None)


def visible(folder: Path) -> set[str]:
    """The names in a folder, but hidden ones and those that file managers leave."""
    names = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
    return names - {"Thumbs.db", "desktop.ini"}


def taking(option: str) -> str:
    """The suffixes of the formats that take an option, for people."""
    return _or([one.suffixes[0] for one in FORMATS if option in one.options])


def suffixes() -> str:
    """One suffix of each format, for people."""
    return " ".join(one.suffixes[0] for one in FORMATS)


def check_options(output: Path, given: Mapping[str, object]) -> None:
    """Raise SettingError for an option that the format of `output` does not take, and for a value out of range.

    given: by the names of `Encoding`; None, or False, for what was not given.
    """
    found, asked = (
        format_of(output),
        {name: value for name, value in given.items() if value is not None and value is not False},
    )
    for name in asked:
        if name not in found.options:
            raise SettingError(
                f"The output {output} takes no `{name}`; leave it out, or name an output that ends in {taking(name)}."
            )
    compression, quality, dpi = asked.get("compression"), asked.get("quality"), asked.get("dpi")
    if compression is not None and compression not in COMPRESSIONS:
        raise SettingError(f"The compression is {compression!r}; use one of {', '.join(COMPRESSIONS)}.")
    if isinstance(quality, int) and not 1 <= quality <= 100:
        raise SettingError(f"The quality is {quality}; use 1 to 100.")
    if quality is not None and compression is not None and compression not in LOSSY:
        raise SettingError(f"`quality` is of {_or(LOSSY)} and `compression` is {compression}; leave one of them out.")
    if isinstance(dpi, int | float) and not 1 <= dpi <= MOST_DPI:
        raise SettingError(f"The resolution is {dpi:g} dots an inch; use 1 to {MOST_DPI:g}.")
    if isinstance(iiif := asked.get("iiif"), str) and not re.fullmatch(r"https?://[^\s?#\"]+", iiif):
        raise SettingError(f"`iiif` is {iiif!r}; give the address of a folder, such as {IIIF}.")


def check_mosaic_size(output: Path, size: tuple[int, int]) -> None:
    """Raise OutputError where the output's format ends below `size` (width, height) px."""
    limit = format_of(output).limit
    if limit is not None and max(size) > limit:
        larger = _or([one.suffixes[0] for one in FORMATS if one.limit is None or one.limit >= max(size)])
        raise OutputError(
            f"The mosaic is {size[0]} x {size[1]} px and {output.suffix} ends at {limit} px a side; "
            f"use {larger}, or a smaller `scale`."
        )


def _or(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
