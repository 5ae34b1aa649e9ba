"""From a folder of pictures to a template set: decoded in parallel once, mapped from the cache afterwards.

cache/templates/<key>/    key: folder, names, sizes and times of its files, tile, background
├── pixels                (N, height, width, 3) uint8, raw
├── small                 (N, 8, 8, 3) float32, raw: the same as a cell sees them
└── set.json              names, fingerprint, what was skipped
"""

import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from hirez_mosaic.errors import DiskSpaceError, SourceError, TemplateError
from hirez_mosaic.fresh import flush, private, remove, remove_whole
from hirez_mosaic.geometry import CELL
from hirez_mosaic.listing import told, walk
from hirez_mosaic.sources import open_whole, reason, size_of
from hirez_mosaic.spec import format_bytes
from hirez_mosaic.templates.template_set import TemplateSet, area_averages
from hirez_mosaic.vips import fetch

_VERSION = 3  # of the cached form and of the way templates are shrunk
_KEPT = 24 * 3600  # seconds for which a decoded set is kept after its last use, when its folder holds something else
_BATCH = 1024  # files handed to the threads at once, at most
_BATCH_BYTES = 64 << 20  # of decoded templates that wait for their turn, about

_Decoded = tuple[NDArray[np.uint8], NDArray[np.float32]]
"""(height, width, 3) px of a template, and (1, 8, 8, 3) as a cell sees it."""
Stage = Callable[[int], AbstractContextManager[Callable[[int], None]]]
"""Entered with the number of files when decoding begins; gives what to call with each number of files done."""


@contextmanager
def _unheard(_: int) -> Iterator[Callable[[int], None]]:
    yield lambda done: None


def load_templates(
    folder: Path,
    tile: tuple[int, int],
    *,
    background: tuple[int, int, int] = (255, 255, 255),
    exclude: Sequence[str] = (),
    cache: Path,
    jobs: int,
    stage: Stage = _unheard,
) -> TemplateSet:
    """The pictures below `folder` (subfolders too, hidden and side files not) as templates of `tile` (width, height) px.

    Each is turned upright, converted to sRGB, cut to the tile's shape around its centre, shrunk (or enlarged) by Lanczos, and
    flattened over `background`; of an animation or a document the first page counts. Order is that of the paths.

    exclude: patterns of files that are left out. cache: folder that decoded sets are kept in.
    jobs: threads that decode. stage: entered only if there is anything to decode.
    Raises TemplateError when there is no folder or not one readable picture in it, DiskSpaceError when the cache's disk is too small.
    """
    if not folder.is_dir():
        what = "is a file; name the folder it is in" if folder.exists() else "is not there"
        raise TemplateError(f"The folder of templates {folder} {what}.")
    left_out = Counter[str]()
    files = list_files(folder, exclude, left_out)
    if not files:
        others = told(left_out)
        raise TemplateError(f"The folder of templates {folder} holds no files{' but ' + others if others else ''}.")
    kind, content = _digest(str(folder.resolve()), tile, background), _digest(_VERSION, pyvips.version(0), pyvips.version(1), files)
    home = cache / f"{kind}-{content}"
    try:
        found = _map(home, folder, tile)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # it is not there, or damaged
        _build(home, folder, [name for name, _, _ in files], tile, background, jobs, stage)
        with suppress(OSError):  # another has just removed it
            for older in cache.glob(f"{kind}-*/set.json"):  # what the same folder was before
                if time.time() - older.stat().st_mtime > _KEPT:
                    remove_whole(older.parent)
        try:
            found = _map(home, folder, tile)
        except (OSError, ValueError) as error:
            raise TemplateError(f"The templates kept in {home} cannot be read: {error}; remove that folder.") from error
    with suppress(OSError):  # a cache that may not be written to
        os.utime(home / "set.json")
    return replace(found, left_out=told(left_out))


def list_files(folder: Path, exclude: Sequence[str] = (), left_out: Counter[str] | None = None) -> list[tuple[str, int, int]]:
    """(path below the folder, size, time of change) of every file that may be a picture, see `walk`, sorted by path."""
    files = []
    for path in walk(folder, exclude, left_out):
        if path.is_file():
            status = path.stat()
            files.append((path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns))
    return sorted(files)


def _digest(*told: object) -> str:
    return hashlib.blake2b(json.dumps(told).encode(), digest_size=16).hexdigest()


def _build(
    home: Path,
    folder: Path,
    names: list[str],
    tile: tuple[int, int],
    background: tuple[int, int, int],
    jobs: int,
    stage: Stage,
) -> None:
    """Decode all files into `home`, which appears when it is complete."""
    kept: list[str] = []
    skipped: list[tuple[str, str]] = []
    digest = hashlib.blake2b(repr(tile).encode(), digest_size=16)
    try:
        fresh = private(home)
        fresh.mkdir(parents=True)
    except OSError as error:
        raise TemplateError(f"The templates cannot be kept in {home.parent}: {error.strerror}.") from error
    try:
        needed, free = len(names) * (tile[0] * tile[1] * 3 + CELL * CELL * 3 * 4), shutil.disk_usage(fresh).free
        if needed > free:
            raise DiskSpaceError(
                f"The cache {home.parent} has {format_bytes(free)} free and {len(names)} templates of {tile[0]} x {tile[1]} px take "
                f"{format_bytes(needed)}; free some, or name a folder on another disk by $HIREZ_MOSAIC_CACHE."
            )
        with (fresh / "pixels").open("wb") as file, (fresh / "small").open("wb") as small, stage(len(names)) as progress:
            for name, made in _decode_all(folder, names, tile, background, jobs):
                if isinstance(made, str):
                    skipped.append((name.encode(errors="backslashreplace").decode(), made))
                else:
                    kept.append(name)
                    pixels, averages = made
                    digest.update(pixels.data)
                    file.write(pixels.data)
                    small.write(averages.data)
                progress(1)
        if not kept:
            name, reason = skipped[0]
            raise TemplateError(f"None of the {len(names)} files in {folder} is a readable picture ({name}: {reason}).")
        content = {"names": kept, "skipped": skipped, "fingerprint": digest.hexdigest()}
        (fresh / "set.json").write_text(json.dumps(content))
        for written in fresh.iterdir():
            flush(written)
        try:
            fresh.rename(home)
        except OSError:
            try:
                _map(home, folder, tile)  # another process was quicker, and made the same
            except (OSError, ValueError):
                remove_whole(home)
                fresh.rename(home)
    except OSError as error:
        raise TemplateError(f"The templates cannot be kept in {home.parent}: {error.strerror}.") from error
    finally:
        remove(fresh)


def _decode_all(
    folder: Path, names: list[str], tile: tuple[int, int], background: tuple[int, int, int], jobs: int
) -> Iterator[tuple[str, _Decoded | str]]:
    """(name, px or the reason there are none) in the order of `names`."""
    step = max(jobs, min(_BATCH, _BATCH_BYTES // (3 * tile[0] * tile[1])))
    with ThreadPoolExecutor(jobs) as pool:
        for start in range(0, len(names), step):
            batch = names[start : start + step]
            yield from zip(batch, pool.map(lambda name: _decode(folder / name, tile, background), batch), strict=True)


def _decode(path: Path, tile: tuple[int, int], background: tuple[int, int, int]) -> _Decoded | str:
    width, height = tile
    try:
        image = open_whole(path, tile, background).thumbnail_image(width, height=height, size="both", crop="centre")
        pixels = fetch(image, width, height)
        return pixels, area_averages(pixels[None])
    except SourceError as error:
        return reason(error, path)


def enlarged(path: Path, tile: tuple[int, int], most: int, background: tuple[int, int, int]) -> NDArray[np.uint8] | None:
    """A template as (height, width, 3) uint8 sRGB with `most` px on its longer side, or as many as its file has; cut as at `tile`.

    None where its file has no more than `tile` (width, height) px.

    Raises TemplateError where the file is gone or cannot be read any more.
    """
    try:
        width, height = size_of(path)
    except SourceError as error:
        raise TemplateError(f"The template {path} is gone or cannot be read any more: {reason(error, path)}.") from error
    factor = min(most / max(tile), width / tile[0], height / tile[1])
    if factor <= 1:
        return None
    made = _decode(path, (max(1, round(tile[0] * factor)), max(1, round(tile[1] * factor))), background)
    if isinstance(made, str):
        raise TemplateError(f"The template {path} cannot be read any more: {made}.")
    return made[0]


def _map(home: Path, folder: Path, tile: tuple[int, int]) -> TemplateSet:
    content: dict[str, Any] = json.loads((home / "set.json").read_text())
    width, height = tile
    pixels = np.memmap(home / "pixels", np.uint8, mode="r", shape=(len(content["names"]), height, width, 3))
    small = np.memmap(home / "small", np.float32, mode="r", shape=(len(pixels), CELL, CELL, 3))
    skipped = tuple((name, reason) for name, reason in content["skipped"])
    return TemplateSet(folder, tuple(content["names"]), pixels, content["fingerprint"], skipped, small)
