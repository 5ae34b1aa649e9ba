"""A folder of pictures: which of its files are pictures, and what the mosaic of each is called."""

import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from hirez_mosaic.errors import SettingError
from hirez_mosaic.files.listing import is_excluded, is_side_folder, side_kind
from hirez_mosaic.sources import open_source

_SUFFIXES = {
    *(
        ".tif",
        ".tiff",
        ".btf",
        ".tf8",
        ".svs",
        ".ndpi",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".gif",
        ".bmp",
    ),
    *(
        ".avif",
        ".heic",
        ".heif",
        ".jp2",
        ".j2k",
        ".jxl",
        ".svg",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".pfm",
        ".hdr",
        ".exr",
        ".psd",
    ),
}
_ZARR = ("zarr.json", ".zgroup", ".zarray")
_Key = tuple[str, ...]


@dataclass(frozen=True)
class Listing:
    """What is in a folder, by paths relative to it, sorted: pictures, and files that are none."""

    pictures: tuple[Path, ...]
    left_out: tuple[Path, ...]


def list_pictures(
    folder: Path, pattern: str, recursive: bool, without: Collection[Path], exclude: Sequence[str] = ()
) -> Listing:
    """The pictures in a folder, or below it.

    A file with a picture's suffix is one, readable or not; any other file is one if it can be opened as such. A Zarr
    folder is one picture. Hidden files and folders do not count, nor do the folders of file servers, and what is no
    file. Links to folders are followed, and no folder is entered twice.
    pattern: of names (`*.jpg`), or where it has a slash of paths relative to the folder (`2024/*`). without: resolved
        folders to keep out of. exclude: patterns of files that are left out.
    Raises OSError where the folder cannot be read.
    """
    pictures: list[Path] = []
    left_out: list[Path] = []
    for path in _entries(folder, recursive, {folder.resolve(), *without}):
        name = path.relative_to(folder)
        if is_excluded(name.as_posix(), exclude) or side_kind(name.name):
            left_out.append(name)
        elif fnmatchcase(name.as_posix() if "/" in pattern else name.name, pattern):
            (pictures if _is_picture(path) else left_out).append(name)
    return Listing(tuple(sorted(pictures)), tuple(sorted(left_out)))


def _entries(folder: Path, recursive: bool, seen: set[Path]) -> Iterator[Path]:
    links: list[Path] = []
    yield from _within(folder, recursive, seen, links)
    for link in links:  # which grows meanwhile; last, so that a folder is known by its own name
        if link.resolve() not in seen:
            yield from _opened(link, recursive, seen, links)


def _within(folder: Path, recursive: bool, seen: set[Path], links: list[Path]) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            if (
                entry.is_file() or not entry.exists()
            ):  # a link to nowhere is a picture that cannot be read; a pipe would keep us waiting
                yield entry
        elif is_side_folder(entry.name):
            continue
        elif entry.is_symlink():
            links.append(entry)
        elif entry.resolve() not in seen:
            yield from _opened(entry, recursive, seen, links)


def _opened(entry: Path, recursive: bool, seen: set[Path], links: list[Path]) -> Iterator[Path]:
    """A folder that is one picture, or what lies within any other."""
    seen.add(entry.resolve())
    if entry.suffix.lower() == ".zarr" or any((entry / name).exists() for name in _ZARR):
        yield entry
    elif recursive:
        try:
            yield from _within(entry, recursive, seen, links)
        except OSError:
            yield entry  # fails with its name, as a picture would


def _is_picture(path: Path) -> bool:
    if path.is_dir() or path.suffix.lower() in _SUFFIXES:
        return True
    try:
        source = open_source(path)
    except Exception:  # whatever libraries raise at files that are no pictures
        return False
    source.close()
    return True


def stems_of_mosaics(pictures: Sequence[Path], endings: Sequence[str], taken: Sequence[str] = ()) -> dict[Path, Path]:
    """What the mosaic of each picture is called, less the ending: a/b for a/b.jpg; a/b.jpg where others would be called
    the same.

    endings: of all files and folders that a mosaic leaves. taken: names that no mosaic may have.
    Names are the same if some file system takes them for the same: whatever their capitals, accents in one character or
    two.
    Raises SettingError where even whole names would be the same.
    """
    stems = {picture: picture.with_suffix("") for picture in pictures}
    while clashes := _clashes(stems, endings, taken):
        changed = {picture for pair in clashes for picture in pair if stems.get(picture, picture) != picture}
        if not changed:
            one, other = clashes[0]
            raise SettingError(
                f"The mosaics of {one} and {other} would have the same name on some file systems; rename one of them."
            )
        stems.update({picture: picture for picture in changed})
    return stems


def _clashes(stems: Mapping[Path, Path], endings: Sequence[str], taken: Sequence[str]) -> list[tuple[Path, Path]]:
    """Pairs of pictures of which one's mosaic would lie where the other's does, or a folder above it."""
    owners: dict[_Key, Path] = {_key(Path(name)): Path(name) for name in taken}
    clashes = []
    for picture, stem in stems.items():
        for ending in endings:
            other = owners.setdefault(_key(stem.with_name(stem.name + ending)), picture)
            if other != picture:
                clashes.append((other, picture))
    for picture, stem in stems.items():
        above = _key(stem)[:-1]
        clashes += [(owners[above[:depth]], picture) for depth in range(1, len(above) + 1) if above[:depth] in owners]
    return clashes


def _key(path: PurePath) -> _Key:
    return tuple(unicodedata.normalize("NFC", unicodedata.normalize("NFC", part).casefold()) for part in path.parts)
