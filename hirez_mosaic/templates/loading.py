"""From a folder of pictures to a template set: each file decoded once, in parallel, and mapped from the cache
afterwards.
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
from hirez_mosaic.sources import open_whole, reason, size_of
from hirez_mosaic.templates.cropping import Crop, cropping, cut
from hirez_mosaic.templates.kept import SMALL_BYTES, Decoded, File, Kept
from hirez_mosaic.templates.quick import quick_jpeg
from hirez_mosaic.templates.template_set import TemplateSet, area_averages, release

_VERSION = [5, pyvips.version(0), pyvips.version(1), int(PIL.__version__.split(".")[0])]
"""Of the cached form, and of the way templates are decoded and shrunk."""
_KEPT = 24 * 3600  # seconds after which px of files that are gone are forgotten, where they are the greater part
_BATCH = 1024  # files handed to the threads at once, at most
_BATCH_BYTES = 64 << 20  # of decoded templates that wait for their turn, about

Bar = Callable[[int], AbstractContextManager[Callable[[int], None]]]
"""Entered with the number of files when decoding begins; gives what to call with each number of files done."""


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
    cache: Path,
    jobs: int,
    stage: Bar = _no_bar,
    note: Callable[[str], None] = _no_note,
) -> TemplateSet:
    """The pictures below `folder` (subfolders too, hidden and side files not) as templates of `tile` (width, height)
    px.

    Each is turned upright, converted to sRGB, cut to the tile's shape, shrunk (or enlarged) by Lanczos, and flattened
    over `background`; of an animation or a document the first page counts. Order is that of the paths.

    crop: where a picture of another shape is cut, one of `spec.CROPS`. exclude: patterns of files that are left out.
    cache: folder that decoded templates are kept in, from the first seconds on: whoever is broken off goes on there.
    jobs: threads that decode. stage: entered only if there is anything to decode.
    note: called with a sentence where another process decodes the same folder, and is waited for.
    Raises TemplateError when there is no folder or not one readable picture in it, DiskSpaceError when the cache's disk
    is too small, SettingError and WeightsError when the detector of faces is not to be had.
    """
    if not folder.is_dir():
        what = "is a file; name the folder it is in" if folder.exists() else "is not there"
        raise TemplateError(f"The folder of templates {folder} {what}.")
    left_out: list[LeftOut] = []
    files = list_files(folder, exclude, left_out)
    if not files:
        others = in_words(left_out)
        raise TemplateError(f"The folder of templates {folder} holds no files{' but ' + others if others else ''}.")
    home = cache / _digest(str(folder.resolve()), tile, background, crop)
    try:
        kept = Kept(home, tile, _VERSION)
        if any(file not in kept.known for file in files):
            with _alone(home, folder, note):
                kept = _complete(home, folder, files, tile, background, cropping(crop), jobs, stage)
        return replace(_chosen(kept, folder, files), left_out=in_words(left_out))
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
) -> Kept:
    """Decode what is not kept yet."""
    kept = Kept(home, tile, _VERSION)
    stale = len(kept.known.keys() - set(files))
    if 2 * stale > len(kept.known) and kept.unused_for() > _KEPT:
        remove_whole(home)
        kept = Kept(home, tile, _VERSION)
    missing = [file for file in files if file not in kept.known]
    _check_space(home.parent, len(missing), tile)
    with kept.adding() as adding, stage(len(missing)) as progress:
        for file, made in _decode_all(missing, lambda name: _decode(folder / name, tile, background, crop), jobs, tile):
            adding.add(file, made)
            progress(1)
    return kept


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
    needed, free = count * (tile[0] * tile[1] * 3 + SMALL_BYTES), shutil.disk_usage(cache).free
    if needed > free:
        raise DiskSpaceError(
            f"The cache {cache} has {format_bytes(free)} free and {count} templates of {tile[0]} x {tile[1]} px take "
            f"{format_bytes(needed)}; free some, or name a folder on another disk by $HIREZ_MOSAIC_CACHE."
        )


def _chosen(kept: Kept, folder: Path, files: list[File]) -> TemplateSet:
    """The set of those files, all of which are known."""
    found = [(file[0], kept.known[file]) for file in files]
    skipped = tuple(
        (name.encode(errors="backslashreplace").decode(), reason) for name, reason in found if isinstance(reason, str)
    )
    rows = np.array([row for _, row in found if isinstance(row, int)], np.int64)
    if not len(rows):
        name, reason = skipped[0]
        raise TemplateError(f"None of the {len(files)} files in {folder} is a readable picture ({name}: {reason}).")
    pixels, small = kept.mapped()
    as_it_lies = len(rows) == len(pixels) and bool((rows[1:] > rows[:-1]).all())
    last, content = kept.facts(), _digest(files)
    if last.get("content") != content or not isinstance(last.get("fingerprint"), str):
        last = {"content": content, "fingerprint": _fingerprint(pixels, rows)}
        kept.keep_facts(last)
    names = tuple(name for name, row in found if isinstance(row, int))
    notes = tuple((file[0], kept.notes[file]) for file in files if file in kept.notes)
    every = None if as_it_lies else rows
    return TemplateSet(folder, names, pixels, last["fingerprint"], skipped, small, every, notes=notes)


def _fingerprint(pixels: NDArray[np.uint8], rows: NDArray[np.int64]) -> str:
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
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=16).hexdigest()


def _decode_all(
    files: list[File], decode: Callable[[str], Decoded | str], jobs: int, tile: tuple[int, int]
) -> Iterator[tuple[File, Decoded | str]]:
    """(file, px or the reason there are none) in the order of `files`."""
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
    """(height, width, 3) sRGB of a picture, upright, over `background`; perhaps shrunk, to twice `least` (width,
    height) px at least.

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
    """A template as (height, width, 3) uint8 sRGB with `most` px on its longer side, or as many as its file has; cut as
    at `tile`.

    None where its file has no more than `tile` (width, height) px.

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
