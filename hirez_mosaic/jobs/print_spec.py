"""The settings of a print, parsed, and checked before any work."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

from hirez_mosaic.errors import SettingError
from hirez_mosaic.outputs.printing import COMPRESSIONS, Ink, Paper, check_room
from hirez_mosaic.settings.lengths import parse_length, parse_paper
from hirez_mosaic.settings.parsing import check_crop, parse_colour, parse_tile
from hirez_mosaic.settings.writing import TILE_MAPS

FORMATS = ("pdf", "tif")

QUALITY = 90
"""Of JPEG, unless another is asked for."""


@dataclass(frozen=True)
class PrintSpec:
    """The settings of a print, parsed. Lengths are in mm; `print_sheets` documents each."""

    mosaic: Path
    output: Path
    templates: Path | None
    tile: tuple[int, int]
    width: Fraction | None
    height: Fraction | None
    dpi: float | None
    paper: Paper
    turnable: bool
    overlap: Fraction
    bleed: Fraction
    cells: bool
    form: str
    compression: str
    quality: int
    ink: Ink
    tint: float | None
    background: tuple[int, int, int]
    crop: str
    jobs: int | None

    @classmethod
    def parse(cls, **given: Any) -> Self:
        """The settings as people give them, parsed. Raises SettingError for text that is no length, paper or colour."""

        def length(name: str) -> Fraction | None:
            return None if given[name] is None else parse_length(given[name], name)

        size, turnable = parse_paper(given["paper"])
        paper = Paper(size, parse_length(given["margin"], "margin"))
        if given["landscape"]:
            paper, turnable = (paper.turned if size[0] < size[1] else paper), False
        return cls(
            mosaic=Path(given["mosaic"]),
            output=Path(given["output"]),
            templates=None if given["templates"] is None else Path(given["templates"]),
            tile=parse_tile(given["tile"]),
            width=length("width"),
            height=length("height"),
            paper=paper,
            turnable=turnable,
            overlap=length("overlap") or Fraction(0),
            bleed=length("bleed") or Fraction(0),
            form=given["format"],
            ink=Ink(None if given["profile"] is None else Path(given["profile"])),
            background=parse_colour(given["background"]),
            **{name: given[name] for name in ("dpi", "cells", "compression", "quality", "tint", "crop", "jobs")},
        )

    @property
    def is_map(self) -> bool:
        """Whether what is printed is a tile map."""
        return self.mosaic.suffix.lower().removeprefix(".") in TILE_MAPS

    def check(self) -> None:
        """Raise an error for settings that are out of range or do not go together."""
        check_crop(self.crop)
        check_room(self.paper)
        self.ink.check()
        self._check_numbers()
        self._check_size()
        self._check_places()
        if self.overlap and self.bleed:
            raise SettingError("`overlap` is for sheets that are glued and `bleed` for sheets that are cut; give one.")
        if self.cells and (self.overlap or self.bleed):
            raise SettingError("`overlap` and `bleed` are of sheets and `cells` prints stickers; leave them out.")
        if self.is_map and self.templates is None:
            raise SettingError(
                f"The tile map {self.mosaic} names templates; give the folder that they are in with `templates`."
            )
        if not self.is_map and (self.cells or self.templates is not None):
            raise SettingError(
                f"{self.mosaic} is no tile map ({', '.join(TILE_MAPS)}), which alone has cells and templates; name "
                "that."
            )

    def _check_numbers(self) -> None:
        if self.dpi is not None and not 1 <= self.dpi <= 10_000:
            raise SettingError(f"The dots an inch are {self.dpi:g}; use 1 to 10,000.")
        if not 1 <= self.quality <= 100:
            raise SettingError(f"The quality is {self.quality}; use 1 to 100.")
        if self.quality != QUALITY and self.compression != "jpeg":
            raise SettingError(f"`quality` is of jpeg and `compression` is {self.compression}; leave one of them out.")
        if self.compression not in COMPRESSIONS:
            raise SettingError(f"The compression is {self.compression!r}; use one of {', '.join(COMPRESSIONS)}.")
        if self.tint is not None and not 0 <= self.tint <= 1:
            raise SettingError(f"The tint is {self.tint}; use 0 (none) to 1 (the whole way to the source's colour).")
        if self.jobs is not None and self.jobs < 1:
            raise SettingError(f"The number of jobs is {self.jobs}; use 1 or more.")

    def _check_size(self) -> None:
        given = [one for one in (self.width, self.height) if one is not None]
        if not self.is_map and self.dpi is not None:
            given.append(Fraction(1))
        if len(given) != 1:
            others = "" if self.is_map else ", or `dpi`, which settle each other for a picture's px"
            raise SettingError(
                f"The size of the print is given {len(given)} times; give one of `width` and `height`{others}."
            )
        if min(given) == 0:
            raise SettingError("The print is 0 mm wide or high; use for example `width=2m`.")

    def _check_places(self) -> None:
        if self.form not in FORMATS:
            raise SettingError(f"The format is {self.form!r}; use one of {', '.join(FORMATS)}.")
        if self.form == "pdf" and self.output.suffix.lower() != ".pdf":
            raise SettingError(
                f"The output {self.output} is no .pdf; name it so, or use `format=tif` for a folder with a file a "
                "sheet."
            )
        if self.form == "tif" and (self.output.suffix.lower() in (".pdf", ".tif", ".tiff") or self.output.is_file()):
            raise SettingError(f"The output {self.output} is called as a file is, or is one; name a folder.")
        out = self.output.resolve()
        for name, path in (("mosaic", self.mosaic), ("templates", self.templates), ("profile", self.ink.profile)):
            place = None if path is None else path.resolve()
            if place is not None and (place == out or out in place.parents or place in out.parents):
                raise SettingError(
                    f"The output {self.output} and the {name} {path} are the same or one inside the other; name "
                    "another place."
                )
