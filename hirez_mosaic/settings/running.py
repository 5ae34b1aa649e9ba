"""How it is run: the settings that change how long a render takes and what it holds, but not its result."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from hirez_mosaic.errors import SettingError

MAX_SOURCE_PX = 10**12
"""The most px that a source may have by its header: the largest photograph, of Rembrandt's Night Watch, has 0.7e12."""


class RunningSettings(TypedDict, total=False):
    """The settings of `Running` that render and batch share, as people give them; `render` documents each."""

    chunk: int | None
    memory: int | str | None
    workspace: str | Path | None
    restart: bool
    scheduler: str | None
    max_source_px: int
    strict: bool
    weights: str | Path | None


@dataclass(frozen=True, kw_only=True)
class Running:
    """Everything that is said of how a render runs. Raises SettingError for a value out of range."""

    chunk: int | None = None
    memory: int | None = None
    workspace: str | None = None
    restart: bool = False
    scheduler: str | None = None
    jobs: int | None = None
    max_source_px: int = MAX_SOURCE_PX
    strict: bool = False
    weights: Path | None = None

    def __post_init__(self) -> None:
        if self.chunk is not None and self.chunk < 1:
            raise SettingError(f"The chunk is {self.chunk} cells; use 1 or more.")
        if self.memory is not None and self.memory < 1:
            raise SettingError("The memory budget is 0 bytes; use for example `memory=2GiB`.")
        if self.jobs is not None and self.jobs < 1:
            raise SettingError(f"The number of jobs is {self.jobs}; use 1 or more.")
        if self.max_source_px < 1:
            raise SettingError(f"The most px of a source are {self.max_source_px}; use 1 or more.")
