"""What is chosen: the settings that decide which template lies where."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypedDict

from hirez_mosaic.errors import SettingError
from hirez_mosaic.settings.decoders import KINDS, fitting_kinds, kinds_alone
from hirez_mosaic.settings.parsing import check_crop, check_turnable
from hirez_mosaic.settings.rules import Rules

PRECISIONS = ("auto", "float32", "bfloat16")
DECODERS = ("auto", *KINDS)
CHOOSING = ("auto", "together", "alone")
EFFORTS = {"quick": (0, 0), "better": (0, 15), "best": (100, 15)}
"""Steps of fitting and of refining, by what a person asks for."""
FAR_WEIGHT = 0.3
DUPLICATE_LEVELS = 3.0
MAX_DISTANCE = 100


class ChoosingSettings(TypedDict, total=False):
    """The settings of `Choosing` that have a default, as people give them; `render` documents each."""

    scale: float | str | Fraction | None
    columns: int | None
    decoder: str | Path
    choose: str
    effort: str
    fit: int | None
    refine: int | None
    far_weight: float
    device: str
    precision: str
    background: str | tuple[int, int, int]
    crop: str
    max_uses: int | None
    min_distance: int
    unique: bool
    min_uses: int
    use_all: bool
    prefer: str | Path | None
    no_repeat_neighbours: bool
    mirror: bool
    rotate: bool
    ban: str | Path | None
    dedupe: float | None
    source_page: int
    plane: int
    channel: int | None
    stretch: bool
    exclude: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Choosing:
    """Everything that decides which template lies where. What an earlier start left counts while these are the same.

    Raises SettingError for a value out of range.
    """

    source: Path
    templates: Path
    tile: tuple[int, int]
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
    background: tuple[int, int, int] = (255, 255, 255)
    crop: str = "centre"
    max_uses: int | None = None
    min_distance: int = 0
    unique: bool = False
    min_uses: int = 0
    use_all: bool = False
    prefer: Path | None = None
    no_repeat_neighbours: bool = False
    mirror: bool = False
    rotate: bool = False
    ban: Path | None = None
    dedupe: float | None = None
    source_page: int = 1
    plane: int = 1
    channel: int | None = None
    stretch: bool = False
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check_size()
        self._check_choice()
        self._check_rules()
        self._check_pictures()

    def _check_size(self) -> None:
        if self.scale is not None and self.columns is not None:
            raise SettingError("`scale` and `columns` both settle the size of the mosaic; give one of them.")
        if self.scale is not None and self.scale <= 0:
            raise SettingError(f"The scale is {float(self.scale):g}; use 0.000001 or more.")
        if self.columns is not None and self.columns < 1:
            raise SettingError(f"The number of columns is {self.columns}; use 1 or more.")

    def _check_choice(self) -> None:
        if self.choose not in CHOOSING:
            raise SettingError(f"`choose` is {self.choose!r}; use one of {', '.join(CHOOSING)}.")
        if self.effort not in EFFORTS:
            raise SettingError(f"The effort is {self.effort!r}; use one of {', '.join(EFFORTS)}.")
        for name, steps in (("fit", self.fit or 0), ("refine", self.refine or 0)):
            if steps < 0:
                raise SettingError(f"The number of steps to {name} is {steps}; use 0 for none, or more.")
        if self.fit_steps and self.decoder in KINDS and not KINDS[self.decoder].fits:
            raise SettingError(
                f"{self.who_fits} adapts the {' or '.join(fitting_kinds())} decoder and `decoder` is {self.decoder}; "
                "leave one of them out."
            )
        if not 0 <= self.far_weight < math.inf:
            raise SettingError(f"The far weight is {self.far_weight}; use 0 or more.")
        if self.precision not in PRECISIONS:
            raise SettingError(f"The precision is {self.precision!r}; use one of {', '.join(PRECISIONS)}.")

    def _check_rules(self) -> None:
        if self.max_uses is not None and self.max_uses < 1:
            raise SettingError(f"The most uses of a template are {self.max_uses}; use 1 or more.")
        if self.unique and self.max_uses not in (None, 1):
            raise SettingError(
                f"`unique` allows one use of a template and `max_uses={self.max_uses}`; leave one of them out."
            )
        if self.min_uses < 0:
            raise SettingError(f"The least uses of a template are {self.min_uses}; use 0 or more.")
        if self.use_all and self.min_uses > 1:
            raise SettingError(
                f"`use_all` wants one use of each template and `min_uses={self.min_uses}`; leave one of them out."
            )
        least, most = self.rules.min_uses, self.rules.max_uses
        if most is not None and least > most:
            raise SettingError(
                f"Each template is to be used {least} times at least and {most} at most; change one of them."
            )
        if not 0 <= self.min_distance <= MAX_DISTANCE:
            raise SettingError(
                f"The least distance between two uses is {self.min_distance} cells; use 0 to {MAX_DISTANCE}."
            )

    def _check_pictures(self) -> None:
        check_crop(self.crop)
        if self.rotate:
            check_turnable(self.tile)
        if self.dedupe is not None and not 0 <= self.dedupe <= 255:
            raise SettingError(f"Near-duplicates are {self.dedupe} levels apart; use 0 to 255.")
        channel = 1 if self.channel is None else self.channel
        for name, number in (("source page", self.source_page), ("plane", self.plane), ("channel", channel)):
            if number < 1:
                raise SettingError(f"The {name} is {number}; use 1 or more.")

    @property
    def fit_steps(self) -> int:
        """Steps of adapting the residual decoder to the source: those asked for, or else those of the effort."""
        return EFFORTS[self.effort][0] if self.fit is None else self.fit

    @property
    def refine_steps(self) -> int:
        """Steps of optimising every cell's choice: those asked for, or else those of the effort."""
        return EFFORTS[self.effort][1] if self.refine is None else self.refine

    @property
    def who_fits(self) -> str:
        """The setting that asks for a fit."""
        return "`fit`" if self.fit else f"`effort={self.effort}`"

    @property
    def together(self) -> bool:
        """Whether cells are chosen together with their neighbours. For the pure baselines that must be asked for."""
        return self.choose == "together" or (self.choose == "auto" and self.decoder not in kinds_alone())

    @property
    def rules(self) -> Rules:
        """The rules for repeating templates."""
        distance = max(self.min_distance, int(self.no_repeat_neighbours))
        return Rules(1 if self.unique else self.max_uses, distance, max(self.min_uses, int(self.use_all)))
