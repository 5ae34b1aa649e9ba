"""Files and folders that appear, or replace others, when they are complete; whoever is killed meanwhile leaves nothing
for long.
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
    """This machine's name, and of a container, which may have that of another, what its processes are counted in."""
    with suppress(OSError):  # not on Linux
        return f"{platform.node()}.{os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116 (a link that leads nowhere)
    return platform.node()


HERE = _here()
"""Where the number of a process means something."""
_UNTOUCHED = 7 * 24 * 3600  # seconds after which a file of another machine is nobody's
_LONG = 120  # bytes of a name
_SKEW = 600  # seconds by which a file server's clock may differ


def private(path: Path) -> Path:
    """A hidden name beside `path`, of this call alone, with the same suffix: .HOST-PROCESS-RANDOM.NAME

    What was left under such names of `path` is removed.
    """
    name = shortened(path.name)
    for left in path.parent.glob(f".*-*-*.{glob.escape(name)}"):
        with suppress(OSError, psutil.Error):  # another has just removed it, or ended
            if _is_abandoned(left, name):
                remove(left)
    return path.with_name(f".{HERE}-{os.getpid()}-{uuid.uuid4().hex[:8]}.{name}")


def shortened(name: str) -> str:
    """A name to which others can be added: itself, or of a long one, for file systems end at 255 bytes, its digest and
    suffix.
    """
    if len(name.encode(errors="surrogateescape")) <= _LONG:
        return name
    return hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=16).hexdigest() + Path(name).suffix[:16]


def _is_abandoned(left: Path, name: str) -> bool:
    """Whether nobody writes under this private name of `name` any more: its process ended, or another machine left it
    untouched.

    Containers call themselves by another name each time, or give the same number to another process.
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
    """Remove a file or a folder; nothing where there is none."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_whole(folder: Path) -> None:
    """Remove a folder that others may open: they find all of it or nothing. Raises OSError where it is not there."""
    aside = private(folder)
    folder.rename(aside)
    remove(aside)


def flush(file: Path) -> None:
    """Return when what was written to a file is on the disk; journalling file systems keep the order of names."""
    with file.open("rb+") as written:
        os.fsync(written.fileno())


@contextmanager
def fresh(path: Path) -> Iterator[Path]:
    """Within, a private name to write a file under, which replaces `path` afterwards unless there was an error; others
    may read it.
    """
    made = private(path)
    try:
        yield made
        made.chmod(0o644)
        flush(made)
        made.replace(path)
    finally:
        remove(made)
