"""Files and folders that appear, or replace others, when they are complete; whoever is killed meanwhile leaves nothing for long."""

import glob
import os
import platform
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


def private(path: Path) -> Path:
    """A hidden name beside `path`, of this call alone, with the same suffix: .HOST-PROCESS-RANDOM.NAME

    What processes of this machine that are no more left under such names of `path` is removed.
    """
    host = platform.node()
    for left in path.parent.glob(f".{glob.escape(host)}-*-*.{glob.escape(path.name)}"):
        process = left.name[len(host) + 2 :].partition("-")[0]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            remove(left)
    return path.with_name(f".{host}-{os.getpid()}-{uuid.uuid4().hex[:8]}.{path.name}")


def remove(path: Path) -> None:
    """Remove a file or a folder; nothing where there is none."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def flush(file: Path) -> None:
    """Return when what was written to a file is on the disk; journalling file systems keep the order of names."""
    with file.open("rb+") as written:
        os.fsync(written.fileno())


@contextmanager
def fresh(path: Path) -> Iterator[Path]:
    """Within, a private name to write a file under, which replaces `path` afterwards unless there was an error; others may read it."""
    made = private(path)
    try:
        yield made
        made.chmod(0o644)
        made.replace(path)
    finally:
        remove(made)
