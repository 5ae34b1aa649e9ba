"""Outputs that appear when they are complete.

They are checked before the work, made in a folder aside, and moved to their final names at the end.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hirez_mosaic.errors import DiskSpaceError, OutputError, OutputExistsError
from hirez_mosaic.files.fresh import private, remove
from hirez_mosaic.settings.formats import is_of_mosaic, parts_of, visible
from hirez_mosaic.settings.parsing import format_bytes

_SHEET = re.compile(r"(plan|sheet-[A-Z]+\d+|grid-[A-Z]+\d+|stickers-\d+)\.tif")
_PAGE = {
    "index.html",
    "page.js",
    "pages",
    "small.jpg",
    "viewer",
    "tiles",
    "source",
    "index",
    "uses",
    "names",
    "search",
    "templates",
}


@contextmanager
def writing(what: str = "mosaic") -> Iterator[None]:
    """A context in which an OSError becomes an OutputError, or a DiskSpaceError, that names what is not written."""
    try:
        yield
    except OSError as error:
        kind = DiskSpaceError if error.errno == errno.ENOSPC else OutputError
        raise kind(f"The {what} could not be written: {error.strerror or error}.") from error


def check_space(folder: Path, wanted: int, what: str) -> None:
    """Raise DiskSpaceError where the disk of `folder` has less than `wanted` bytes free. what: needs them."""
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise DiskSpaceError(
            f"The disk of the {what} has {format_bytes(free)} free and the {what} takes about {format_bytes(wanted)}; "
            "free some, or name another disk with `output`."
        )


def check_output(output: Path, overwrite: bool) -> None:
    """Raise OutputError when `output` cannot be written, before any work is done."""
    folder = output.absolute().parent
    if not folder.is_dir():
        raise OutputError(f"The output folder {folder} is not there; make it first.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"The output folder {folder} cannot be written to.")
    for path in parts_of(output):
        if path.exists() and not overwrite:
            raise OutputExistsError(f"{path} is there already; use `overwrite` to replace it.")
        if path.is_dir() and not _is_mosaic(path):
            raise OutputError(f"{path} is a folder that no mosaic was written to; name another place.")


def _is_mosaic(folder: Path) -> bool:
    """Whether a folder holds what a mosaic, a page or printed sheets consist of, and nothing else."""
    names = visible(folder)
    if "index.html" in names:
        return names <= _PAGE and bool(names & {"page.js", "pages"})
    if "plan.tif" in names:
        return all(map(_SHEET.fullmatch, names))
    return is_of_mosaic(folder)


class Appearing:
    """A private folder, beside the output, in which it is made; gives the output's path in there.

    On success the parts of the output move to their final names, each in one step.

    Raises OutputError, and DiskSpaceError when the disk is full.
    """

    def __init__(self, output: Path) -> None:
        self._output = output.absolute()

    def __enter__(self) -> Path:
        try:
            self._folder = private(self._output)
            self._folder.mkdir()
        except OSError as error:
            raise OutputError(
                f"The output folder {self._output.parent} cannot be written to: {error.strerror}."
            ) from error
        return self._folder / self._output.name

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        try:
            if kind is None:
                with writing():
                    self._move()
        finally:
            remove(self._folder)

    def _move(self) -> None:
        for part in parts_of(self._output):
            made = self._folder / part.name
            # A file can take the place of another; whatever else is there must be moved away first.
            if part.exists() and (part.is_dir() or made.is_dir()):
                part.rename(self._folder / f"old-{part.name}")
            made.replace(part)
