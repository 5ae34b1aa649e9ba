"""Which files of a folder count: hidden ones and what cameras, phones, clouds and file servers leave beside pictures do
not.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

_SIDE_FOLDERS = {"@eadir", "__macosx", "#recycle", "$recycle.bin", "lost+found", "system volume information", "thumbs"}
_SIDE_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "picasa.ini", "zbthumbnail.info"}
_SIDE_SUFFIXES = {".aae", ".xmp", ".thm", ".icloud", ".lrv", ".ini", ".db", ".url", ".lnk", ".part", ".crdownload"}
_FILMS = {".mov", ".mp4", ".m4v", ".avi", ".3gp", ".mts", ".mkv", ".webm"}
_ZARR = ("zarr.json", ".zgroup", ".zarray")

LeftOut = tuple[str, str]
"""(kind, path) of what does not count: "film", "side file", "side folder", "excluded file", "excluded folder"."""


def is_excluded(name: str, exclude: Sequence[str]) -> bool:
    """Whether a path below a folder matches a pattern: of names (`*.jpg`), or where the pattern has a slash of paths
    (`2024/*`).
    """
    return any(fnmatchcase(name if "/" in pattern else name.rpartition("/")[2], pattern) for pattern in exclude)


def walk(
    folder: Path,
    exclude: Sequence[str] = (),
    left_out: list[LeftOut] | None = None,
    *,
    recursive: bool = True,
    without: Collection[Path] = (),
) -> Iterator[str]:
    """Paths below a folder of what may be a picture, with forward slashes, in no order: files, and Zarr folders, each
    of which is one.

    Links to folders are followed, and no folder is entered twice. A link to nowhere, and a folder that cannot be
    listed, are given like files, so that whoever reads them names them. They are no `Path`s, of which 100,000 take
    longer than all the rest.

    exclude: patterns of files and folders to leave out, see `is_excluded`.
    left_out: gets the kind and the path of what is excluded, of side files and of films; hidden files do not count.
    recursive: whether subfolders are entered.
    without: resolved folders to keep out of.
    Raises OSError where the folder itself cannot be listed.
    """
    left = [] if left_out is None else left_out
    seen = {os.fspath(one) for one in without}
    links = [""]
    for link in links:  # which grows meanwhile; last, so that a folder is known by its own name
        waiting = [link]
        while waiting:
            name = waiting.pop()
            place = os.path.join(folder, name)
            real = os.path.realpath(place)
            if name and real in seen:
                continue
            seen.add(real)
            if name and _is_zarr(place):
                yield name
            elif not name or recursive:
                yield from _files(folder, name, exclude, left, waiting, links)


def _files(
    folder: Path, name: str, exclude: Sequence[str], left: list[LeftOut], waiting: list[str], links: list[str]
) -> Iterator[str]:
    """The files of one folder below `folder`; its folders go to `waiting`, and to `links`."""
    try:
        entries = sorted(os.scandir(os.path.join(folder, name)), key=lambda entry: entry.name)
    except OSError:
        if not name:
            raise
        yield name
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = f"{name}/{entry.name}" if name else entry.name
        is_folder = entry.is_dir()
        if kind := _kind(entry.name, path, is_folder, exclude):
            left.append((kind, path))
        elif is_folder:
            (links if entry.is_symlink() else waiting).append(path)
        elif entry.is_file() or not os.path.exists(entry.path):  # noqa: PTH110 (a pipe would keep us waiting)
            yield path


def _kind(name: str, path: str, is_folder: bool, exclude: Sequence[str]) -> str:
    """What is left out, by its name and path; empty for what counts."""
    if exclude and is_excluded(path, exclude):
        return "excluded folder" if is_folder else "excluded file"
    if is_folder:
        return "side folder" if name.lower() in _SIDE_FOLDERS else ""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (a name, and many of them)
    if suffix in _FILMS:
        return "film"
    return "side file" if name.lower() in _SIDE_FILES or suffix in _SIDE_SUFFIXES else ""


def _is_zarr(place: str) -> bool:
    """Whether a folder is one picture, of whatever name."""
    return place.lower().endswith(".zarr") or any(os.path.exists(os.path.join(place, name)) for name in _ZARR)  # noqa: PTH110


def in_words(left_out: Sequence[LeftOut]) -> str:
    """What was left out, for people: "3 films and 2 side files"; empty for nothing."""
    counts = Counter(kind for kind, _ in left_out)
    return " and ".join(f"{count:,} {kind}{'s' if count > 1 else ''}" for kind, count in sorted(counts.items()))
