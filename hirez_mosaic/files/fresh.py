"""Files and folders that appear, or replace others, when they are complete.

What a killed process leaves half-written is removed the next time.
"""

import glob
import hashlib
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil


def _here() -> str:
    """This machine's name, and the namespace of its processes, since containers may share a name."""
    with suppress(OSError):  # not on Linux
        return f"{platform.node()}.{os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116 (a link that leads nowhere)
    return platform.node()


HERE = _here()
"""The machine, or the container, in which the number of a process has a meaning."""
_UNTOUCHED = 7 * 24 * 3600  # seconds without a change after which a file of another machine is abandoned
_LONG = 120  # bytes of the longest name to which others are added
_SKEW = 600  # seconds by which a file server's clock may differ


def private(path: Path) -> Path:
    """A hidden name beside `path` that no other call gets, with the same suffix: .HOST-PROCESS-RANDOM.NAME

    Abandoned files and folders under such names of `path` are removed.
    """
    name = shortened(path.name)
    for left in path.parent.glob(f".*-*-*.{glob.escape(name)}"):
        with suppress(OSError, psutil.Error):  # another process has just removed it, or ended
            if _is_abandoned(left, name):
                remove(left)
    return path.with_name(f".{HERE}-{os.getpid()}-{uuid.uuid4().hex[:8]}.{name}")


def shortened(name: str) -> str:
    """The name, or the digest and suffix of a long one: file systems end at 255 bytes, and names are added to it."""
    if len(name.encode(errors="surrogateescape")) <= _LONG:
        return name
    return hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=16).hexdigest() + Path(name).suffix[:16]


def _is_abandoned(left: Path, name: str) -> bool:
    """Whether nobody writes under this private name of `name` any more.

    Its process has ended, or it is of another machine and has not changed for a week. A container may have another name
    at its next start, and may give the same number to another process.
    """
    made = re.fullmatch(rf"\.(.+)-(\d+)-[0-9a-f]{{8}}\.{re.escape(name)}", left.name)
    if made is None:
        return False
    host, process = made[1], int(made[2])
    written = max(file.stat().st_mtime for file in (left, *left.glob("*")))
    if host != HERE:
        return time.time() - written > _UNTOUCHED
    return not psutil.pid_exists(process) or psutil.Process(process).create_time() > written + _SKEW


def remove(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_whole(folder: Path) -> None:
    """Remove a folder at once, so that others find all of it or nothing. Raises OSError where it is not there."""
    aside = private(folder)
    folder.rename(aside)
    remove(aside)


def flush(file: Path) -> None:
    """Return when the content of a file is on the disk; journalling file systems keep the order of names."""
    with file.open("rb+") as written:
        os.fsync(written.fileno())


@contextmanager
def fresh(path: Path) -> Iterator[Path]:
    """A private name to write a file under; afterwards the file replaces `path`, unless there was an error.

    Everybody may read the file.
    """
    made = private(path)
    try:
        yield made
        made.chmod(0o644)
        flush(made)
        made.replace(path)
    finally:
        remove(made)
