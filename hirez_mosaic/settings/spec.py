"""The settings of a render: parsed and validated once, frozen afterwards."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any, Self

from hirez_mosaic.errors import SettingError
from hirez_mosaic.settings import formats
from hirez_mosaic.settings.formats import PREVIEWS, SUFFIXES, Encoding, parts_of
from hirez_mosaic.settings.parsing import (
    check_crop,
    check_turnable,
    is_url,
    parse_bytes,
    parse_colour,
    parse_scale,
    parse_tile,
)

TILE_MAPS = ("csv", "json", "parquet")
PRECISIONS = ("auto", "float32", "bfloat16")
DECODERS = ("auto", "residual", "paper", "l2", "ssim")
CHOOSING = ("auto", "together", "alone")
EFFORTS = {"quick": (0, 0), "better": (0, 15), "best": (100, 15)}
"""Steps of fitting and of refining, by what a person asks for."""
FAR_WEIGHT = 0.3
DUPLICATE_LEVELS = 3.0
MAX_SOURCE_PX = 10**12
"""Px that a header is believed: the largest photograph there is, of Rembrandt's Night Watch, has 0.717 x 10**12."""
MAX_DISTANCE = 100
PREVIEW_FROM_PX = 50_000_000
"""Px of a mosaic from which it is previewed without being asked."""


@dataclass(frozen=True)
class RenderSpec:
    """One render, as the user asked for it; `hirez_mosaic.render` documents each setting.

    Raises SettingError for a value out of range.
    """

    source: Path
    templates: Path
    tile: tuple[int, int]
    output: Path
    scale: Fraction | None = None
    columns: int | None = None
    decoder: str = "auto"
    choose: str = "auto"
    effort: str = "quick"
    fit: int | None = None
    refine: int | None = None
    far_weight: float = FAR_WEIGHT
    device: str = "auto"
    precision: str = "auto"
    chunk: int | None = None
    memory: int | None = None
    workspace: str | None = None
    restart: bool = False
    scheduler: str | None = None
    overwrite: bool = False
    background: tuple[int, int, int] = (255, 255, 255)
    crop: str = "centre"
    compression: str | None = None
    quality: int | None = None
    dpi: float | None = None
    cog: bool = False
    iiif: str | None = None
    preview: Path | None = None
    no_preview: bool = False
    max_uses: int | None = None
    min_distance: int = 0
    unique: bool = False
    min_uses: int = 0
    use_all: bool = False
    prefer: Path | None = None
    no_repeat_neighbours: bool = False
    tint: float = 0.0
    mirror: bool = False
    rotate: bool = False
    tile_map: Path | None = None
    ban: Path | None = None
    dedupe: float | None = None
    jobs: int | None = None
    max_source_px: int = MAX_SOURCE_PX
    source_page: int = 1
    plane: int = 1
    channel: int | None = None
    stretch: bool = False
    exclude: tuple[str, ...] = ()
    strict: bool = False
    weights: Path | None = None
    page: Path | None = None
    anonymous: bool = False
    thumbnails: int | None = None

    @classmethod
    def parse(cls, **settings: Any) -> Self:
        """The spec of settings as people give them: None for what they leave out, and text for paths, sizes, bytes and
        colours.

        Raises SettingError for text that is none of these.
        """
        given = {name: _PARSERS.get(name, _as_it_is)(value) for name, value in settings.items() if value is not None}
        given.setdefault("output", default_output(given["source"]))
        return cls(**given)

    def __post_init__(self) -> None:
        if self.scale is not None and self.columns is not None:
            raise SettingError("--scale and --columns both settle the size of the mosaic; give one of them.")
        if self.scale is not None and self.scale <= 0:
            raise SettingError(f"The scale is {float(self.scale):g}; use 0.000001 or more.")
        if self.columns is not None and self.columns < 1:
            raise SettingError(f"The number of columns is {self.columns}; use 1 or more.")
        if self.chunk is not None and self.chunk < 1:
            raise SettingError(f"The chunk is {self.chunk} cells; use 1 or more.")
        if self.memory is not None and self.memory < 1:
            raise SettingError("The memory budget is 0 bytes; use for example --memory 2GiB.")
        check_crop(self.crop)
        if self.choose not in CHOOSING:
            raise SettingError(f"--choose is {self.choose!r}; use one of {', '.join(CHOOSING)}.")
        if self.effort not in EFFORTS:
            raise SettingError(f"The effort is {self.effort!r}; use one of {', '.join(EFFORTS)}.")
        for name, steps in (("fit", self.fit or 0), ("refine", self.refine or 0)):
            if steps < 0:
                raise SettingError(f"The number of steps to {name} is {steps}; use 0 for none, or more.")
        if self.fit_steps and self.decoder in ("paper", "l2", "ssim"):
            asked = "--fit" if self.fit else f"--effort {self.effort}"
            raise SettingError(
                f"{asked} adapts the residual decoder and --decoder is {self.decoder}; leave one of them out."
            )
        if not 0 <= self.far_weight < math.inf:
            raise SettingError(f"The far weight is {self.far_weight}; use 0 or more.")
        if self.max_uses is not None and self.max_uses < 1:
            raise SettingError(f"The most uses of a template are {self.max_uses}; use 1 or more.")
        if self.unique and self.max_uses not in (None, 1):
            raise SettingError(
                f"--unique allows one use of a template and --max-uses {self.max_uses}; leave one of them out."
            )
        if self.min_uses < 0:
            raise SettingError(f"The least uses of a template are {self.min_uses}; use 0 or more.")
        if self.use_all and self.min_uses > 1:
            raise SettingError(
                f"--use-all wants one use of each template and --min-uses {self.min_uses}; leave one of them out."
            )
        most = 1 if self.unique else self.max_uses
        if most is not None and self.least_uses > most:
            raise SettingError(
                f"Each template is to be used {self.least_uses} times at least and {most} at most; change one of them."
            )
        if not 0 <= self.min_distance <= MAX_DISTANCE:
            raise SettingError(
                f"The least distance between two uses is {self.min_distance} cells; use 0 to {MAX_DISTANCE}."
            )
        if self.rotate:
            check_turnable(self.tile)
        if not 0 <= self.tint <= 1:
            raise SettingError(f"The tint is {self.tint}; use 0 (none) to 1 (the whole way to the source's colour).")
        if self.dedupe is not None and not 0 <= self.dedupe <= 255:
            raise SettingError(f"Near-duplicates are {self.dedupe} levels apart; use 0 to 255.")
        if self.jobs is not None and self.jobs < 1:
            raise SettingError(f"The number of jobs is {self.jobs}; use 1 or more.")
        if self.max_source_px < 1:
            raise SettingError(f"The most px of a source are {self.max_source_px}; use 1 or more.")
        for name, number in (("source page", self.source_page), ("plane", self.plane), ("channel", self.channel or 1)):
            if number < 1:
                raise SettingError(f"The {name} is {number}; use 1 or more.")
        if self.channel == 0:
            raise SettingError("The channel is 0; use 1 or more.")
        if self.precision not in PRECISIONS:
            raise SettingError(f"The precision is {self.precision!r}; use one of {', '.join(PRECISIONS)}.")
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
        names = ("compression", "quality", "dpi", "cog", "iiif")
        return {name: getattr(self, name) for name in names}

    @property
    def encoding(self) -> Encoding:
        """How the px of the mosaic are encoded."""
        return Encoding(**{name: value for name, value in self._encoded.items() if value is not None})

    @property
    def fit_steps(self) -> int:
        """Of adapting the residual decoder to the source: those asked for, or else what the effort is worth."""
        return EFFORTS[self.effort][0] if self.fit is None else self.fit

    @property
    def refine_steps(self) -> int:
        """Of optimising every cell's choice, likewise."""
        return EFFORTS[self.effort][1] if self.refine is None else self.refine

    @property
    def least_uses(self) -> int:
        """Of every template."""
        return max(self.min_uses, int(self.use_all))

    @property
    def together(self) -> bool:
        """Whether cells are chosen together with their neighbours; the pure baselines are not unless they are told."""
        return self.choose == "together" or (self.choose == "auto" and self.decoder not in ("l2", "ssim"))

    def check_places(self, source: str = "source") -> None:
        """Raise SettingError where one of the paths (source, templates, output, page, workspace and so on) would
        overwrite another.

        And where something is said of a page that has no place. source: what to call it.
        """
        if self.page is None and (self.anonymous or self.thumbnails is not None):
            raise SettingError("--anonymous and --thumbnails tell what a page shows; give --page, too.")
        named = [
            (source, self.source),
            *(("output", part) for part in parts_of(self.output)),
            ("preview", self.preview),
            ("tile map", self.tile_map),
            ("page", self.page),
            ("ban file", self.ban),
            ("file of preferred templates", self.prefer),
            ("workspace", None if self.workspace is None or is_url(self.workspace) else Path(self.workspace)),
        ]
        places = [(name, path.resolve()) for name, path in named if path is not None]
        for (one, first), (other, second) in combinations(places, 2):
            if first == second or first in second.parents or second in first.parents:
                raise SettingError(
                    f"The {one} {first} and the {other} {second} are the same or one inside the other; name other paths."
                )
        folder = self.templates.resolve()
        for name, place in places:
            if name in (source, "ban file", "file of preferred templates"):
                continue
            if place in (folder, *folder.parents):
                raise SettingError(f"The {name} {place} would replace the templates {folder}; name another place.")
            if folder in place.parents:
                raise SettingError(
                    f"The {name} {place} would lie among the templates in {folder}, and be one the next time; name another place."
                )

    def check_mosaic_size(self, size: tuple[int, int]) -> None:
        """Raise OutputError where the output's format ends below `size` (width, height) px."""
        formats.check_mosaic_size(self.output, size)


def check_page(page: Path) -> None:
    """Raise SettingError for a folder of a page that is called as a mosaic is."""
    if page.suffix.lower() in (*SUFFIXES, *(f".{suffix}" for suffix in TILE_MAPS)):
        raise SettingError(f"The page {page} is a folder and is called as a file is; name it without {page.suffix}.")


def _as_it_is(value: Any) -> Any:
    return value


def _path(value: str | Path) -> Path:
    if is_url(str(value)):
        raise SettingError(f"{value} is a URL, and nothing but a workspace may be at one; name a file or a folder.")
    return Path(value)


_PARSERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(
        ("source", "templates", "output", "preview", "tile_map", "ban", "prefer", "weights", "page"), _path
    ),
    "exclude": tuple,
    "tile": parse_tile,
    "scale": parse_scale,
    "memory": parse_bytes,
    "background": parse_colour,
    "decoder": str,
    "workspace": str,
}


def default_output(source: Path) -> Path:
    """SOURCE-stem.mosaic.tif in the current folder."""
    name = source.absolute().name
    return Path(f"{Path(name).stem}.mosaic.tif")
