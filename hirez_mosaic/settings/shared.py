"""What is shared: the settings of train and compare that mean the same as in a render."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict


class SharedSettings(TypedDict, total=False):
    """The settings of `Shared`, as people give them; `render` documents each."""

    device: str
    precision: str
    background: str | tuple[int, int, int]
    crop: str
    exclude: Sequence[str]
    strict: bool
    weights: str | Path | None


@dataclass(frozen=True, kw_only=True)
class Shared:
    """How templates are read and where the networks run, with the defaults of a render."""

    device: str = "auto"
    precision: str = "auto"
    background: tuple[int, int, int] = (255, 255, 255)
    crop: str = "centre"
    exclude: tuple[str, ...] = ()
    strict: bool = False
    weights: Path | None = None
