"""Opening a source picture by its content, whatever its name."""

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from hirez_mosaic.errors import HirezMosaicError, SourceError, first_line
from hirez_mosaic.pixels.colour import fits
from hirez_mosaic.settings.places import check_there
from hirez_mosaic.settings.running import MAX_SOURCE_PX
from hirez_mosaic.sources.formats import opener_of
from hirez_mosaic.sources.ranges import ranged
from hirez_mosaic.sources.source import Source, one_channel


@dataclass(frozen=True)
class Reading:
    """What of a file is read, and how.

    page: of a document, frame of an animation, or picture of a file that holds several; from 1.
    plane: of a stack in depth or time; from 1.
    channel: that is shown as grey, from 1; None for the picture as it is.
    stretch: whether nearly the darkest sample becomes black and nearly the lightest white.
    """

    page: int = 1
    plane: int = 1
    channel: int | None = None
    stretch: bool = False


def open_source(
    path: Path,
    background: tuple[int, int, int] | None = (255, 255, 255),
    max_px: int = MAX_SOURCE_PX,
    reading: Reading | None = None,
) -> Source:
    """Open a picture by its content, whatever its name.

    It reads headers, and samples only where nothing else says what is black and white.

    background: sRGB under transparent px; where it is None, boxes have a channel of opacity if there is any.
    max_px: the most px that a header may claim.
    reading: which page, plane and channel; the first page and plane where it is None.
    Raises SourceNotFoundError, or SourceError for what is no picture, of a kind that is not supported, or claims to be
    larger; SettingError for a page, plane or channel that is not there.
    """
    wanted = reading or Reading()
    check_there(path)
    source = _opened(path, max_px, wanted)
    try:
        source = _settled(source, wanted)
    except BaseException:
        source.close()
        raise
    return replace(
        source, background=background, reopen=partial(open_source, path.absolute(), background, max_px, reading)
    )


def _settled(source: Source, wanted: Reading) -> Source:
    """The source with what is read of its channels, its profile where that fits, and its range."""
    if wanted.channel is not None:
        source = replace(one_channel(source, wanted.channel), notes=())
    elif source.named and source.channels not in (1, 3):
        note = f"has {source.channels} channels, of which the first is shown; choose another by `channel`"
        source = replace(one_channel(source, 1), notes=(*source.notes, note))
    if source.colour.icc is not None and not fits(source.colour):
        note = (
            "has a colour profile that is damaged or of another colour model; it is taken for sRGB, or CMYK as libvips "
            "knows it"
        )
        source = replace(source, colour=replace(source.colour, icc=None), notes=(*source.notes, note))
    return ranged(source, wanted.stretch)


def _opened(path: Path, max_px: int, wanted: Reading) -> Source:
    try:
        return opener_of(path)(path, max_px, wanted.page - 1, wanted.plane - 1)
    except (HirezMosaicError, OSError, MemoryError):
        raise
    except Exception as error:  # libraries raise whatever they like on damaged headers
        raise SourceError(f"{path} is not a picture that can be read: {first_line(error)}.") from error


def files_of(path: Path) -> str:
    """Digest the name, size and time of change of a source's file, or of all files of its folder.

    Returns 32 hexadecimal digits, which change when a file does.
    """
    sha = hashlib.blake2b(digest_size=16)
    for file in [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file()):
        status = file.stat()
        sha.update(
            f"{file.relative_to(path.parent).as_posix()}\0{status.st_size}\0{status.st_mtime_ns}\0".encode(
                errors="surrogateescape"
            )
        )
    return sha.hexdigest()
