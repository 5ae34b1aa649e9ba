"""Which files of a folder may be pictures.

Hidden files do not count, nor the files that cameras, phones, clouds and file servers leave beside pictures.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

_SIDE_FOLDERS = {"@eadir", "__macosx", "#recycle", "$recycle.bin", "lost+found", "system volume information", "thumbs"}
_SIDE_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "picasa.ini", "zbthumbnail.info"}
_SIDE_SUFFIXES = {".aae", ".xmp", ".thm", ".icloud", ".lrv", ".ini", ".db", ".url", ".lnk", ".part", ".crdownload"}
_FILMS = {".mov", ".mp4", ".m4v", ".avi", ".3gp", ".mts", ".mkv", ".webm"}


def is_excluded(name: str, exclude: Sequence[str]) -> bool:
    """Whether a path below a folder matches a pattern: of names (`*.jpg`), or with a slash of paths (`2024/*`)."""
    return any(fnmatchcase(name if "/" in pattern else name.rpartition("/")[2], pattern) for pattern in exclude)


def side_kind(name: str) -> str:
    """ "film" or "side file" for a name that lies beside pictures and is none; empty where it may be a picture."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (a name, and many of them)
    if suffix in _FILMS:
        return "film"
    return "side file" if name.lower() in _SIDE_FILES or suffix in _SIDE_SUFFIXES else ""


def is_side_folder(name: str) -> bool:
    """Whether a folder holds only files that a file server or a system keeps for itself."""
    return name.lower() in _SIDE_FOLDERS


def walk(folder: Path, exclude: Sequence[str] = (), left_out: Counter[str] | None = None) -> Iterator[str]:
    """Paths below a folder of the files that may be pictures, with forward slashes, in no order.

    Links to folders are followed, and no folder is entered twice. Paths are strings, because 100,000 objects of `Path`
    take longer than all the rest.

    exclude: patterns of files and folders to leave out, see `is_excluded`.
    left_out: counts, by kind, excluded files, side files and folders, and films; hidden files are not counted.
    """
    left = Counter[str]() if left_out is None else left_out
    waiting, seen = [folder], set[str]()
    for start in waiting:  # links are added to it meanwhile
        if os.path.realpath(start) in seen:
            continue
        for place, below, names in os.walk(start):
            seen.add(os.path.realpath(place))
            kept = [name for name in sorted(below) if not name.startswith(".") and not is_side_folder(name)]
            left["side folder"] += sum(map(is_side_folder, below))
            kept = [name for name in kept if not is_excluded(Path(place, name).relative_to(folder).as_posix(), exclude)]
            links = [name for name in kept if Path(place, name).is_symlink()]
            waiting += [Path(place, name) for name in links]
            below[:] = [name for name in kept if name not in links]
            yield from _files(Path(place), names, folder, exclude, left)


def _files(
    place: Path, names: Sequence[str], folder: Path, exclude: Sequence[str], left: Counter[str]
) -> Iterator[str]:
    prefix = "" if place == folder else place.relative_to(folder).as_posix() + "/"
    for name in names:
        if name.startswith("."):
            continue
        kind = "excluded file" if exclude and is_excluded(prefix + name, exclude) else side_kind(name)
        if kind:
            left[kind] += 1
        else:
            yield prefix + name


def summary(left_out: Counter[str]) -> str:
    """What was left out, for people: "3 films and 2 side files"; empty where nothing was."""
    parts = [f"{count:,} {kind}{'s' if count > 1 else ''}" for kind, count in sorted(left_out.items()) if count]
    return " and ".join(parts)
