"""One render as it was asked for: the parts in one, parsed and checked once, frozen afterwards."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hirez_mosaic.errors import SettingError
from hirez_mosaic.settings.choosing import FAR_WEIGHT, Choosing, ChoosingSettings
from hirez_mosaic.settings.parsing import is_url, parse_bytes, parse_colour, parse_scale, parse_tile
from hirez_mosaic.settings.places import Place, check_places
from hirez_mosaic.settings.running import Running, RunningSettings
from hirez_mosaic.settings.writing import Writing, WritingSettings


class MakingSettings(ChoosingSettings, WritingSettings, RunningSettings, total=False):
    """The settings that `render` and `batch` share, as people give them; `render` documents each."""

    tint: float


class RenderSettings(MakingSettings, total=False):
    """The settings of `render` that have a default, as people give them."""

    jobs: int | None
    preview: str | Path | None
    tile_map: str | Path | None
    page: str | Path | None


@dataclass(frozen=True, kw_only=True)
class RenderSpec(Choosing, Writing, Running):
    """One render as it was asked for. Every setting belongs to one of the parts that this class is made of.

    Raises SettingError for a value out of range.
    """

    def __post_init__(self) -> None:
        Choosing.__post_init__(self)
        Writing.__post_init__(self)
        Running.__post_init__(self)

    def check_places(self, source: str = "source") -> None:
        """Raise SettingError where one of the paths would overwrite another, or lie among the templates.

        source: what to call the source.
        """
        self.check_page_is_written()
        workspace = None if self.workspace is None or is_url(self.workspace) else Path(self.workspace)
        places = [
            Place(source, self.source),
            *self.places,
            Place("ban file", self.ban),
            Place("file of preferred templates", self.prefer),
            Place("workspace", workspace, written=True),
        ]
        check_places(places, self.templates)


def make_spec(
    source: str | Path,
    templates: str | Path,
    tile: int | str | tuple[int, int],
    output: str | Path | None,
    settings: Mapping[str, object],
) -> RenderSpec:
    """The spec of a render as people ask for it. settings: those of `RenderSettings`.

    Raises SettingError, also for a setting that would have no effect.
    """
    named = {"source": source, "templates": templates, "tile": tile, "output": output or default_output(Path(source))}
    spec = RenderSpec(**parse_settings({**named, **settings}))
    if spec.far_weight != FAR_WEIGHT and not (spec.fit_steps or spec.refine_steps):
        raise SettingError("`far_weight` counts in fitting and refining; add `refine=15`, or leave it out.")
    return spec


def parse_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as people give them -> the values of a `RenderSpec`'s fields; what is None is left out.

    Raises SettingError for text that is no path, size, colour or number of bytes.
    """
    return {name: _PARSERS.get(name, _as_it_is)(value) for name, value in settings.items() if value is not None}


def _as_it_is(value: Any) -> Any:
    return value


def _path(value: str | Path) -> Path:
    if is_url(str(value)):
        raise SettingError(f"{value} is a URL, and nothing but a workspace may be at one; name a file or a folder.")
    return Path(value)


_PATHS = ("source", "templates", "output", "preview", "tile_map", "ban", "prefer", "weights", "page")
_PARSERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(_PATHS, _path),
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
