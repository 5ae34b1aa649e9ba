"""How it is written: the settings that decide what is made of the chosen templates, and where it goes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from hirez_mosaic.errors import SettingError
from hirez_mosaic.settings import formats
from hirez_mosaic.settings.formats import PREVIEWS, SUFFIXES, Encoding, parts_of
from hirez_mosaic.settings.places import Place

TILE_MAPS = ("csv", "json", "parquet")
PREVIEW_FROM_PX = 50_000_000
"""Px of a mosaic from which it is previewed without being asked."""


class WritingSettings(TypedDict, total=False):
    """The settings of `Writing` that render, batch and assemble share, as people give them; `render` documents each."""

    overwrite: bool
    compression: str | None
    quality: int | None
    dpi: float | None
    cog: bool
    iiif: str | None
    no_preview: bool
    anonymous: bool
    thumbnails: int | None


@dataclass(frozen=True, kw_only=True)
class Writing:
    """Everything that is said of a mosaic's file and of what is written beside it.

    Raises SettingError for a value out of range.
    """

    output: Path
    overwrite: bool = False
    compression: str | None = None
    quality: int | None = None
    dpi: float | None = None
    cog: bool = False
    iiif: str | None = None
    tint: float = 0.0
    preview: Path | None = None
    no_preview: bool = False
    tile_map: Path | None = None
    page: Path | None = None
    anonymous: bool = False
    thumbnails: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.tint <= 1:
            raise SettingError(f"The tint is {self.tint}; use 0 (none) to 1 (the whole way to the source's colour).")
        formats.check_options(self.output, self._encoded)
        if self.preview is not None and self.preview.suffix.lower() not in PREVIEWS:
            raise SettingError(f"The preview {self.preview} has no known suffix; use .png, .jpg or .webp.")
        if self.preview is not None and self.no_preview:
            raise SettingError("`preview` asks for one and `no_preview` for none; leave one of them out.")
        if self.page is not None:
            check_page(self.page)
        if self.thumbnails is not None and self.thumbnails < 1:
            raise SettingError(f"Templates are shown at {self.thumbnails} px; use 1 or more.")

    @property
    def _encoded(self) -> dict[str, Any]:
        """What was asked for of how the mosaic is encoded, by the names of `Encoding`."""
        return {name: getattr(self, name) for name in ("compression", "quality", "dpi", "cog", "iiif")}

    @property
    def encoding(self) -> Encoding:
        """How the px of the mosaic are encoded."""
        return Encoding(**{name: value for name, value in self._encoded.items() if value is not None})

    @property
    def places(self) -> list[Place]:
        """Every place that is written to, with what to call it."""
        return [
            *(Place("output", part, written=True) for part in parts_of(self.output)),
            Place("preview", self.preview, written=True),
            Place("tile map", self.tile_map, written=True),
            Place("page", self.page, written=True),
        ]

    @property
    def outputs(self) -> list[Path]:
        """Every file or folder that is written, the mosaic's first."""
        return [*parts_of(self.output), *filter(None, (self.preview, self.tile_map, self.page))]

    def check_mosaic_size(self, size: tuple[int, int]) -> None:
        """Raise OutputError where the output's format ends below `size` (width, height) px."""
        formats.check_mosaic_size(self.output, size)

    def check_page_is_written(self) -> None:
        """Raise SettingError where something is said of a page that has no place."""
        if self.page is None and (self.anonymous or self.thumbnails is not None):
            raise SettingError("`anonymous` and `thumbnails` tell what a page shows; give `page`, too.")


def check_page(page: Path) -> None:
    """Raise SettingError for a folder of a page that is called as a mosaic is."""
    if page.suffix.lower() in (*SUFFIXES, *(f".{suffix}" for suffix in TILE_MAPS)):
        raise SettingError(f"The page {page} is a folder and is called as a file is; name it without {page.suffix}.")
