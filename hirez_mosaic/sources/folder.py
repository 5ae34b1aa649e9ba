"""A folder of pictures: which of its files are pictures, and what the mosaic of each is called."""

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from hirez_mosaic.errors import SettingError
from hirez_mosaic.files.listing import LeftOut, walk
from hirez_mosaic.sources import open_source

_KNOWN = """
.tif .tiff .btf .tf8 .svs .ndpi .jpg .jpeg .jpe .jfif .png .webp .gif .bmp .avif .heic .heif .jp2 .j2k .jxl .svg .ppm
.pgm .pbm .pnm .pfm .hdr .exr .psd
"""
_SUFFIXES = set(_KNOWN.split())
_Key = tuple[str, ...]


@dataclass(frozen=True)
class Listing:
    """What is in a folder, by paths relative to it, sorted: pictures, and files that are none."""

    pictures: tuple[Path, ...]
    left_out: tuple[Path, ...]


def list_pictures(
    folder: Path, pattern: str, recursive: bool, without: Collection[Path], exclude: Sequence[str] = ()
) -> Listing:
    """The pictures in a folder, or below it, of what `walk` finds.

    What has a picture's suffix is one, readable or not; any other file is one if it can be opened as such. A Zarr
    folder is one picture.

    pattern: of names (`*.jpg`), or where it has a slash of paths relative to the folder (`2024/*`).
    recursive: whether subfolders are looked into.
    without: resolved folders to keep out of.
    exclude: patterns of files and folders that are left out.
    Raises OSError where the folder cannot be read.
    """
    pictures: list[Path] = []
    unseen: list[LeftOut] = []
    left_out: list[Path] = []
    for name in walk(folder, exclude, unseen, recursive=recursive, without=without):
        path = Path(name)
        if fnmatchcase(name if "/" in pattern else path.name, pattern):
            (pictures if _is_picture(folder / path) else left_out).append(path)
    left_out += [Path(name) for kind, name in unseen if not kind.endswith("folder")]
    return Listing(tuple(sorted(pictures)), tuple(sorted(left_out)))


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
