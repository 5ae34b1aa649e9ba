"""Paths that a job reads and writes, and whether they are in each other's way."""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from hirez_mosaic.errors import HirezMosaicError, SettingError, SourceNotFoundError


@dataclass(frozen=True)
class Place:
    """A path that a job reads or writes, None where there is none. name: what to call it."""

    name: str
    path: Path | None
    written: bool = False


def check_there(path: Path, what: str = "file or folder", error: type[HirezMosaicError] = SourceNotFoundError) -> None:
    """Raise `error` where there is nothing at a path that is read. what: to call it."""
    if not path.exists():
        raise error(f"There is no {what} {path}.")


def check_places(places: list[Place], templates: Path) -> None:
    """Raise SettingError where one place would overwrite another, or something written lies among the templates."""
    found = [(place, place.path.resolve()) for place in places if place.path is not None]
    for (one, first), (other, second) in combinations(found, 2):
        if first == second or first in second.parents or second in first.parents:
            raise SettingError(
                f"The {one.name} {first} and the {other.name} {second} are the same or one inside the other; "
                "name other paths."
            )
    folder = templates.resolve()
    for place, path in found:
        if place.written and path in (folder, *folder.parents):
            raise SettingError(f"The {place.name} {path} would replace the templates {folder}; name another place.")
        if place.written and folder in path.parents:
            raise SettingError(
                f"The {place.name} {path} would lie among the templates in {folder}, and be one the next time; "
                "name another place."
            )
