"""The templates that a job chooses from: from the cache or decoded into it, without banned and doubled ones."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from hirez_mosaic.engine.machine import cores
from hirez_mosaic.errors import TemplateError
from hirez_mosaic.files.cache import cache_folder
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.settings.spec import RenderSpec
from hirez_mosaic.templates import TemplateSet, load_templates
from hirez_mosaic.templates.duplicates import count_copies, near_duplicates
from hirez_mosaic.templates.names import check_names, read_ban, read_names, without

_MOST_NOTES = 5  # kinds of notes on templates, at most


def chosen_templates(spec: RenderSpec, listener: Listener) -> TemplateSet:
    """The templates that a render chooses from, in all poses that are allowed.

    They are those of the folder without banned ones and, where that is asked for, near-duplicates.
    """
    banned = frozenset() if spec.ban is None else read_ban(spec.ban)
    every = cached_templates(
        spec.templates, spec.tile, spec.background, spec.crop, listener, spec.jobs, spec.exclude, spec.strict
    )
    found = without(every, banned)
    if spec.dedupe is None and (copies := count_copies(found.blocks())):
        listener.note(
            f"{copies:,} of {len(found):,} templates are the same as others in a cell; `dedupe=0` leaves them out."
        )
    if spec.dedupe is not None:
        first = near_duplicates(found.at_cell_size(), spec.dedupe)
        kept = np.flatnonzero(first == np.arange(len(first)))
        listener.note(
            f"{len(first) - len(kept):,} of {len(first):,} templates are near-duplicates of others and are left out."
        )
        found = found.subset(kept)
    if spec.prefer is not None:
        check_names(found, read_names(spec.prefer, "preferred"), "preferred")
    return found.in_poses(mirror=spec.mirror, rotate=spec.rotate)


def cached_templates(
    folder: Path,
    tile: tuple[int, int],
    background: tuple[int, int, int],
    crop: str,
    listener: Listener,
    jobs: int | None = None,
    exclude: Sequence[str] = (),
    strict: bool = False,
    only: frozenset[str] | None = None,
) -> TemplateSet:
    """The templates of a folder, from the cache or decoded into it. What was skipped and left out is noted.

    only: names of the templates that are wanted; all where None.

    Raises TemplateError, besides what `load_templates` raises, where `strict` and a file cannot be read.
    """
    templates = load_templates(
        folder,
        tile,
        background=background,
        crop=crop,
        exclude=exclude,
        only=only,
        cache=cache_folder("templates"),
        jobs=jobs or cores(),
        stage=lambda total: listener.stage("templates", total, "templates"),
        note=listener.note,
    )
    if templates.left_out:
        listener.note(f"{templates.left_out} in {folder} were left out.")
    for line in _in_lines(folder, templates.notes):
        listener.note(line)
    check_readable(folder, templates.skipped, listener, strict)
    return templates


def _in_lines(folder: Path, notes: Sequence[tuple[str, str]]) -> Iterator[str]:
    """A line for each kind of note (name, phrase). Notes that differ in numbers alone are of one kind."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for name, phrase in notes:
        kinds.setdefault(re.sub(r"[\d.,-]+", "", phrase), []).append((name, phrase))
    for (name, phrase), *others in list(kinds.values())[:_MOST_NOTES]:
        more = f"; so it is with {len(others):,} more" if others else ""
        yield f"{folder / name} {phrase}{more}."


def check_readable(folder: Path, unreadable: Sequence[tuple[str, str]], listener: Listener, strict: bool) -> None:
    """Tell the listener which files (name, reason) cannot be read.

    Raises TemplateError where `strict` is set and there is such a file.
    """
    if unreadable and strict:
        name, why = unreadable[0]
        raise TemplateError(
            f"{len(unreadable)} of the files in {folder} cannot be read, {name} for one ({why}); remove them, or "
            "leave out `strict`."
        )
    listener.unreadable(folder, unreadable)
