"""How it is written: the settings that decide what is made of the chosen templates, and where it goes."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from hirez_mosaic.errors import OutputError, SettingError

SUFFIXES = (".tif", ".tiff", ".dzi", ".png", ".jpg", ".jpeg", ".webp", ".zarr")
FORMATS = ("tif", "dzi", "png", "jpg", "webp", "zarr")
TILE_MAPS = ("csv", "json", "parquet")
COMPRESSIONS = ("jpeg", "deflate", "lzw", "webp", "none")
_SIZE_LIMITS = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}


class WritingSettings(TypedDict, total=False):
    """The settings of `Writing` that render, batch and assemble share, as people give them; `render` documents each."""

    overwrite: bool
    compression: str
    quality: int
    anonymous: bool
    thumbnails: int | None


@dataclass(frozen=True, kw_only=True)
class Writing:
    """Everything that is said of a mosaic's file and of what is written beside it.

    Raises SettingError for a value out of range.
    """

    output: Path
    overwrite: bool = False
    compression: str = "jpeg"
    quality: int = 90
    tint: float = 0.0
    preview: Path | None = None
    tile_map: Path | None = None
    page: Path | None = None
    anonymous: bool = False
    thumbnails: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.tint <= 1:
            raise SettingError(f"The tint is {self.tint}; use 0 (none) to 1 (the whole way to the source's colour).")
        if not 1 <= self.quality <= 100:
            raise SettingError(f"The quality is {self.quality}; use 1 to 100.")
        if self.compression not in COMPRESSIONS:
            raise SettingError(f"The compression is {self.compression!r}; use one of {', '.join(COMPRESSIONS)}.")
        if self.output.suffix.lower() not in SUFFIXES:
            raise SettingError(f"The output {self.output} has no known suffix; use one of {', '.join(SUFFIXES)}.")
        if self.preview is not None and self.preview.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
            raise SettingError(f"The preview {self.preview} has no known suffix; use .png, .jpg or .webp.")
        if self.page is not None:
            check_page(self.page)
        if self.thumbnails is not None and self.thumbnails < 1:
            raise SettingError(f"Templates are shown at {self.thumbnails} px; use 1 or more.")

    @property
    def outputs(self) -> list[Path]:
        """Every file or folder that is written, the mosaic's first."""
        return [*parts_of(self.output), *filter(None, (self.preview, self.tile_map, self.page))]

    def check_mosaic_size(self, size: tuple[int, int]) -> None:
        """Raise OutputError where the output's format ends below `size` (width, height) px."""
        limit = _SIZE_LIMITS.get(self.output.suffix.lower())
        if limit is not None and max(size) > limit:
            raise OutputError(
                f"The mosaic is {size[0]} x {size[1]} px and {self.output.suffix} ends at {limit} px a side; "
                "use .tif, .dzi, .png or .zarr, or a smaller `scale`."
            )

    def check_page_is_written(self) -> None:
        """Raise SettingError where something is said of a page that has no place."""
        if self.page is None and (self.anonymous or self.thumbnails is not None):
            raise SettingError("`anonymous` and `thumbnails` tell what a page shows; give `page`, too.")


def parts_of(output: Path) -> list[Path]:
    """Every file or folder that an output consists of, the one people open last."""
    if output.suffix.lower() == ".dzi":
        return [output.with_name(f"{output.stem}_files"), output]
    return [output]


def check_page(page: Path) -> None:
    """Raise SettingError for a folder of a page that is called as a mosaic is."""
    if page.suffix.lower() in (*SUFFIXES, *(f".{suffix}" for suffix in TILE_MAPS)):
        raise SettingError(f"The page {page} is a folder and is called as a file is; name it without {page.suffix}.")
