"""From a folder of pictures to a template set.

Each file is decoded once, in parallel; afterwards the set is mapped from the cache.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL
import pyvips
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from hirez_mosaic.errors import DiskSpaceError, SourceError, SourceNotFoundError, TemplateError
from hirez_mosaic.files.fresh import remove_whole
from hirez_mosaic.files.listing import LeftOut, in_words, walk
from hirez_mosaic.pixels.vips import fetch
from hirez_mosaic.settings.parsing import format_bytes
from hirez_mosaic.settings.places import check_there
from hirez_mosaic.sources import open_whole, reason, size_of
from hirez_mosaic.templates.cropping import Crop, cropping, cut
from hirez_mosaic.templates.quick import quick_jpeg
from hirez_mosaic.templates.template_cache import SMALL_BYTES, Decoded, File, TemplateCache
from hirez_mosaic.templates.template_set import TemplateSet, area_averages, release

_VERSION = [5, pyvips.version(0), pyvips.version(1), int(PIL.__version__.split(".")[0])]
"""Version of the cached form, and of the way in which templates are decoded and shrunk."""
_STALE_AFTER = 24 * 3600  # seconds without use after which a cache is made anew if most of its files are gone
_BATCH = 1024  # files that the threads get at once, at most
_BATCH_BYTES = 64 << 20  # of decoded templates that wait to be written, about

Bar = Callable[[int], AbstractContextManager[Callable[[int], None]]]
"""A context that is entered with the number of files when decoding begins; yields what to call with files done."""


@contextmanager
def _no_bar(_: int) -> Iterator[Callable[[int], None]]:
    yield lambda done: None


def _no_note(_: str) -> None:
    pass


def load_templates(
    folder: Path,
    tile: tuple[int, int],
    *,
    background: tuple[int, int, int] = (255, 255, 255),
    crop: str = "centre",
    exclude: Sequence[str] = (),
    only: frozenset[str] | None = None,
    cache: Path,
    jobs: int,
    stage: Bar = _no_bar,
    note: Callable[[str], None] = _no_note,
) -> TemplateSet:
    """The pictures below a folder as a template set, in the order of their paths.

    Each is turned upright, converted to sRGB, cut to the tile's shape, shrunk (or enlarged) by Lanczos, and flattened
    over the background. Of an animation or a document the first page counts.

    folder: subfolders count; hidden files and side files do not.
    tile: (width, height) of a template, px.
    background: sRGB.
    crop: where a picture of another shape is cut, one of `settings.parsing.CROPS`.
    exclude: patterns of files to leave out.
    only: names below the folder of the files that are wanted; all where None.
    cache: folder for decoded templates; a run that is broken off goes on from what it holds.
    jobs: threads that decode.
    stage: entered only if there is anything to decode.
    note: called with a sentence where another process decodes the same folder, and is waited for.

    Raises TemplateError where there is no folder or no readable picture in it, DiskSpaceError where the cache's disk is
    too small, SettingError and WeightsError where the detector of faces cannot be used.
    """
    check_there(folder, "folder of templates", TemplateError)
    if not folder.is_dir():
        raise TemplateError(f"The folder of templates {folder} is a file; name the folder it is in.")
    left_out: list[LeftOut] = []
    files = list_files(folder, exclude, left_out)
    if not files:
        others = in_words(left_out)
        raise TemplateError(f"The folder of templates {folder} holds no files{' but ' + others if others else ''}.")
    if only is not None:
        files = [file for file in files if file[0] in only]
        if not files:
            raise TemplateError(f"The folder of templates {folder} has none of the {len(only)} that are wanted.")
    home = cache / _digest(str(folder.resolve()), tile, background, crop)
    try:
        cached = TemplateCache(home, tile, _VERSION)
        if any(file not in cached.known for file in files):
            with _alone(home, folder, note):
                cached = _complete(home, folder, files, tile, background, cropping(crop), jobs, stage)
        return replace(_chosen(cached, folder, files), left_out=in_words(left_out))
    except OSError as error:
        raise TemplateError(f"The templates cannot be kept in {home.parent}: {error.strerror}.") from error


def _complete(
    home: Path,
    folder: Path,
    files: list[File],
    tile: tuple[int, int],
    background: tuple[int, int, int],
    crop: Crop,
    jobs: int,
    stage: Bar,
) -> TemplateCache:
    """Decode the files that the cache does not hold; returns the cache."""
    cached = TemplateCache(home, tile, _VERSION)
    stale = len(cached.known.keys() - set(files))
    if 2 * stale > len(cached.known) and cached.unused_for() > _STALE_AFTER:
        remove_whole(home)
        cached = TemplateCache(home, tile, _VERSION)
    missing = [file for file in files if file not in cached.known]
    _check_space(home.parent, len(missing), tile)
    with cached.appending() as appender, stage(len(missing)) as progress:
        for file, made in _decode_all(missing, lambda name: _decode(folder / name, tile, background, crop), jobs, tile):
            appender.add(file, made)
            progress(1)
    return cached


@contextmanager
def _alone(home: Path, folder: Path, note: Callable[[str], None]) -> Iterator[None]:
    """While no other process decodes the same folder; one that does so is waited for, with a note."""
    home.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home.with_name(f".{home.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        note(f"Another process decodes the templates in {folder}; this one waits for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _check_space(cache: Path, count: int, tile: tuple[int, int]) -> None:
    """Raise DiskSpaceError where the cache's disk is too small for so many templates."""
    needed, free = count * (tile[0] * tile[1] * 3 + SMALL_BYTES), shutil.disk_usage(cache).free
    if needed > free:
        raise DiskSpaceError(
            f"The cache {cache} has {format_bytes(free)} free and {count} templates of {tile[0]} x {tile[1]} px take "
            f"{format_bytes(needed)}; free some, or name a folder on another disk by $HIREZ_MOSAIC_CACHE."
        )


def _chosen(cached: TemplateCache, folder: Path, files: list[File]) -> TemplateSet:
    """The set of these files, all of which the cache knows. Raises TemplateError where none is a picture."""
    found = [(file[0], cached.known[file]) for file in files]
    skipped = tuple(
        (name.encode(errors="backslashreplace").decode(), reason) for name, reason in found if isinstance(reason, str)
    )
    rows = np.array([row for _, row in found if isinstance(row, int)], np.int64)
    if not len(rows):
        name, reason = skipped[0]
        raise TemplateError(f"None of the {len(files)} files in {folder} is a readable picture ({name}: {reason}).")
    pixels, small = cached.mapped()
    as_it_lies = len(rows) == len(pixels) and bool((rows[1:] > rows[:-1]).all())
    last, content = cached.read_last_set(), _digest(files)
    if last.get("content") != content or not isinstance(last.get("fingerprint"), str):
        last = {"content": content, "fingerprint": _fingerprint(pixels, rows)}
        cached.write_last_set(last)
    names = tuple(name for name, row in found if isinstance(row, int))
    notes = tuple((file[0], cached.notes[file]) for file in files if file in cached.notes)
    every = None if as_it_lies else rows
    return TemplateSet(folder, names, pixels, last["fingerprint"], skipped, small, every, notes=notes)


def _fingerprint(pixels: NDArray[np.uint8], rows: NDArray[np.int64]) -> str:
    """BLAKE2b of the tile's size and of these rows."""
    digest = hashlib.blake2b(repr(pixels.shape[2:0:-1]).encode(), digest_size=16)
    step = max(1, _BATCH_BYTES // pixels[0].nbytes)
    for start in range(0, len(rows), step):
        digest.update(pixels[rows[start : start + step]].data)
        release(pixels)
    return digest.hexdigest()


def list_files(folder: Path, exclude: Sequence[str] = (), left_out: list[LeftOut] | None = None) -> list[File]:
    """(path below the folder, size, time of change) of all that may be a picture, see `walk`, sorted by path.

    exclude: patterns of files and folders that are left out. left_out: gets what is left out, see `walk`.
    """
    return sorted((name, *_state(os.path.join(folder, name))) for name in walk(folder, exclude, left_out))  # see `walk`


def _state(path: str) -> tuple[int, int]:
    """(size, time of change in ns) of a file, or of all files of a Zarr folder; zeros of what is not there."""
    if os.path.isdir(path):  # noqa: PTH112 (see `walk`)
        files = [_state(os.path.join(place, name)) for place, _, names in os.walk(path) for name in names]
        return sum(size for size, _ in files), max((changed for _, changed in files), default=0)
    with suppress(OSError):
        status = os.stat(path)  # noqa: PTH116
        return status.st_size, status.st_mtime_ns
    return 0, 0


def _digest(*values: object) -> str:
    """BLAKE2b of JSON values."""
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=16).hexdigest()


def _decode_all(
    files: list[File], decode: Callable[[str], Decoded | str], jobs: int, tile: tuple[int, int]
) -> Iterator[tuple[File, Decoded | str]]:
    """(file, px or the reason why there are none) in the order of `files`."""
    step = max(jobs, min(_BATCH, _BATCH_BYTES // (3 * tile[0] * tile[1])))
    with ThreadPoolExecutor(jobs) as pool:
        for start in range(0, len(files), step):
            batch = files[start : start + step]
            yield from zip(batch, pool.map(decode, (name for name, _, _ in batch)), strict=True)


def _decode(path: Path, tile: tuple[int, int], background: tuple[int, int, int], crop: Crop) -> Decoded | str:
    notes: list[str] = []
    try:
        pixels = cut(open_template(path, crop.least(tile), background, notes), tile, crop)
        return pixels, area_averages(pixels[None]), "; ".join(notes)
    except TemplateError as error:
        return str(error)


def open_template(
    path: Path, least: tuple[int, int], background: tuple[int, int, int], notes: list[str] | None = None
) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 sRGB of a picture, upright, over `background`; perhaps shrunk.

    least: (width, height), px; a picture is not shrunk below twice this size.

    notes: gets what a person should know of how it is read.
    Raises TemplateError, whose text is the reason alone.
    """
    if (pixels := quick_jpeg(path)) is not None:
        return pixels
    try:
        image = open_whole(path, least, background, notes=notes)
        return fetch(image, image.width, image.height)
    except SourceNotFoundError as error:
        raise TemplateError("is not there; perhaps it is a link to nowhere") from error
    except SourceError as error:
        raise TemplateError(reason(error, path)) from error


def enlarged(
    path: Path, tile: tuple[int, int], most: int, background: tuple[int, int, int], crop: Crop
) -> NDArray[np.uint8] | None:
    """A template larger than in the mosaic, (height, width, 3) uint8 sRGB; None where its file has no more px.

    path: of its file.
    tile: (width, height) in the mosaic, px; it is cut to the same shape.
    most: px of the longer side, or as many as the file has.

    Raises TemplateError where the file is gone or cannot be read any more.
    """
    try:
        width, height = size_of(path)
    except SourceError as error:
        raise TemplateError(
            f"The template {path} is gone or cannot be read any more: {reason(error, path)}."
        ) from error
    factor = min(most / max(tile), width / tile[0], height / tile[1])
    if factor <= 1:
        return None
    made = _decode(path, (max(1, round(tile[0] * factor)), max(1, round(tile[1] * factor))), background, crop)
    if isinstance(made, str):
        raise TemplateError(f"The template {path} cannot be read any more: {made}.")
    return made[0]
