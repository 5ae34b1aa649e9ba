"""A workspace held by one process, by a lock that ends with it."""

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import fsspec
import psutil
from filelock import FileLock, Timeout

from hirez_mosaic.engine.store import LOCK, MADE, SCRATCH, is_workspace, workspace_errors
from hirez_mosaic.errors import WorkspaceError
from hirez_mosaic.files.fresh import HERE, remove
from hirez_mosaic.settings.parsing import is_url

_BEAT = 30  # seconds between two signs of life at a URL


@contextmanager
def held(place: str) -> Iterator[None]:
    """Within, this process alone uses the workspace; a folder that is empty afterwards goes away.

    Raises WorkspaceError where another process holds it, or it is no workspace.
    """
    with _held_at_url(place) if is_url(place) else _held_folder(Path(place)):
        yield


@contextmanager
def _held_folder(folder: Path) -> Iterator[None]:
    """By a lock that the system frees if this process is killed."""
    if folder.exists() and not folder.is_dir():
        raise _foreign(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not _is_empty(folder) and not is_workspace(str(folder)):
            raise _foreign(folder)
        lock = FileLock(folder / LOCK)
        lock.acquire(blocking=False)
        remove(folder / SCRATCH)  # of a process that was killed, as are the next
        for place in (folder, *(folder / name for name in (*MADE, "done"))):
            for left in place.glob("*.partial") if place == folder else place.rglob("*.partial"):
                left.unlink(missing_ok=True)  # a worker of a killed client may just be through with it
    except Timeout as error:
        raise _taken(folder) from error
    except OSError as error:
        raise WorkspaceError(f"The workspace {folder} cannot be made: {error.strerror}.") from error
    try:
        yield
    finally:
        with suppress(OSError):
            if _is_empty(folder):
                (folder / LOCK).unlink(missing_ok=True)  # while it is held: whoever waits for it sees that it is gone
                folder.rmdir()
        lock.release()


@contextmanager
def _held_at_url(place: str) -> Iterator[None]:
    """Hold it by an object that is written again and again; that of a killed process counts for a minute and a half."""
    mine, over = {"host": HERE, "process": os.getpid(), "job": uuid.uuid4().hex}, Event()

    def beat() -> None:
        files.pipe_file(f"{path}/{LOCK}", json.dumps({**mine, "time": time.time()}).encode())

    def go_on() -> None:
        while not over.wait(_BEAT):
            with suppress(Exception):  # the next one may get through
                beat()

    with workspace_errors(place):
        files, path = fsspec.url_to_fs(place)
        files.invalidate_cache()
        found = (
            [name.rstrip("/").rpartition("/")[2] for name in files.ls(path, detail=False)] if files.exists(path) else []
        )
        if set(found) - {LOCK, path.rpartition("/")[2]} and not is_workspace(place):
            raise _foreign(place)
        if LOCK in found and _alive(json.loads(files.cat_file(f"{path}/{LOCK}"))):
            raise _taken(place)
        beat()
        if json.loads(files.cat_file(f"{path}/{LOCK}"))["job"] != mine["job"]:
            raise _taken(place)
    beats = Thread(target=go_on, daemon=True)
    beats.start()
    try:
        yield
    finally:
        over.set()
        beats.join(_BEAT)  # else its last beat might come after the lock is removed
        with suppress(Exception):
            files.rm_file(f"{path}/{LOCK}")


def _alive(lock: dict[str, Any]) -> bool:
    """Whether who wrote a lock may still be at work."""
    gone = lock["host"] == HERE and not psutil.pid_exists(lock["process"])
    return not gone and time.time() - lock["time"] < 3 * _BEAT


def _is_empty(folder: Path) -> bool:
    return all(entry.name in (LOCK, SCRATCH) or entry.match("zarr.*.partial") for entry in folder.iterdir())


def _foreign(place: str | Path) -> WorkspaceError:
    return WorkspaceError(f"{place} is not empty and not a workspace of hirez-mosaic; name another `workspace`.")


def _taken(place: str | Path) -> WorkspaceError:
    return WorkspaceError(
        f"Another render is at work in the workspace {place}; wait for it, or name another `workspace`."
    )
