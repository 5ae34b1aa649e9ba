"""A render that was broken off goes on with its last finished chunk, and ends with the bytes of one that was not."""

import errno
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import zarr
from conftest import photo, save

from hirez_mosaic.engine import store
from hirez_mosaic.engine.graph import StageRun
from hirez_mosaic.engine.holding import held
from hirez_mosaic.errors import DiskSpaceError, SourceError, WorkspaceError
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.jobs.render import RenderResult, render
from hirez_mosaic.pixels.geometry import Box
from hirez_mosaic.stages import decode, encode, ingest, refine, select, together

pytestmark = pytest.mark.usefixtures("own_cache", "with_random_weights")
STAGES: dict[str, tuple[ModuleType, str]] = {
    "ingest": (ingest, "ingest_chunk"),
    "encode": (encode, "encode_chunk"),
    "decode": (decode, "decode_chunk"),
    "select": (select, "choose_block"),
    "refine": (refine, "refine_window"),
}
PLAIN = {name: getattr(*place) for name, place in STAGES.items()}


class Killed(BaseException):
    """What no `except Exception` catches, as SIGKILL is not caught."""


class Notes(Listener):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


Job = Callable[..., RenderResult]


@pytest.fixture
def job(tmp_path: Path, make_templates: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch) -> Job:
    """Renders a picture of 24 x 24 cells, in 4 chunks, blocks or refining windows, to out/m.png."""
    source, folder = save(tmp_path / "s.png", photo(192, 192)), make_templates(9)
    monkeypatch.setattr(refine, "WINDOW", 12)
    for module in (select, together):
        monkeypatch.setattr(module, "BLOCK", 12)
    (tmp_path / "out").mkdir()

    def run(**settings: Any) -> RenderResult:
        given = {
            "decoder": "paper",
            "chunk": 12,
            "overwrite": True,
            "device": "cpu",
            "precision": "float32",
            **settings,
        }
        return render(source, folder, 8, tmp_path / "out" / "m.png", **given)

    return run


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[Box]]]:
    """The chunks that each stage makes."""
    boxes: dict[str, list[Box]] = {name: [] for name in STAGES}
    for name, place in STAGES.items():
        plain = getattr(*place)

        def counted(box: Box, *, name: str = name, plain: Callable[..., None] = plain, **terms: Any) -> None:
            plain(box, **terms)
            boxes[name].append(box)

        monkeypatch.setattr(*place, counted)
    return boxes


def listing(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def break_off(monkeypatch: pytest.MonkeyPatch, stage: str, after: int, error: BaseException) -> None:
    """Let the stage's chunk number `after` fail, half of its write box written."""
    plain, done = getattr(*STAGES[stage]), []

    def fails(box: Box, **terms: Any) -> None:
        done.append(box)
        if len(done) > after:
            if stage in ("ingest", "select"):
                PLAIN[stage](box.halves()[0], **terms)
            raise error
        plain(box, **terms)

    monkeypatch.setattr(*STAGES[stage], fails)


@pytest.mark.parametrize(
    ("stage", "error"),
    [(stage, Killed()) for stage in STAGES]
    + [("encode", KeyboardInterrupt()), ("decode", OSError(errno.ENOSPC, "No space left on device"))],
    ids=repr,
)
def test_it_goes_on_with_the_last_finished_chunk(
    stage: str,
    error: BaseException,
    job: Job,
    made: dict[str, list[Box]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {"refine": 1} if stage == "refine" else {}
    job(**settings)
    whole = (tmp_path / "out" / "m.png").read_bytes()
    every = {name: sorted(map(repr, boxes)) for name, boxes in made.items()}
    for boxes in made.values():
        boxes.clear()
    with monkeypatch.context() as broken:
        break_off(broken, stage, 2, error)
        with pytest.raises(DiskSpaceError if isinstance(error, OSError) else type(error)):
            job(**settings)
    assert ".m.png.workspace" in listing(tmp_path / "out")
    assert made[stage], "nothing was finished before"
    job(**settings)
    assert (tmp_path / "out" / "m.png").read_bytes() == whole
    assert {name: sorted(map(repr, boxes)) for name, boxes in made.items()} == every, "a finished chunk was made again"
    assert listing(tmp_path / "out") == {"m.png"}


@pytest.mark.parametrize("settings", [{}, {"no_repeat_neighbours": True}], ids=str)
def test_a_mosaic_broken_off_while_it_is_assembled_is_assembled_again(
    settings: dict[str, Any], job: Job, made: dict[str, list[Box]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job(**settings)
    whole = (tmp_path / "out" / "m.png").read_bytes()
    every = {name: sorted(map(repr, boxes)) for name, boxes in made.items()}
    for boxes in made.values():
        boxes.clear()
    with monkeypatch.context() as broken:
        broken.setattr(
            "hirez_mosaic.stages.assemble.MosaicReader.px",
            lambda *_, **__: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")),
        )
        with pytest.raises(DiskSpaceError):
            job(**settings)
    assert listing(tmp_path / "out") == {".m.png.workspace", "m.png"}
    job(**settings)
    assert {name: sorted(map(repr, boxes)) for name, boxes in made.items()} == every, "a finished chunk was made again"
    assert (tmp_path / "out" / "m.png").read_bytes() == whole
    assert listing(tmp_path / "out") == {"m.png"}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"columns": 20}, "cells, scale"),
        ({"background": "black"}, "background"),
        ({"decoder": "l2", "choose": "together"}, "decoder"),
        ({"choose": "alone"}, "candidates, together"),
        ({"precision": "bfloat16"}, "precision"),
        ({"mirror": True}, "candidates, templates"),
    ],
    ids=str,
)
def test_the_workspace_of_another_job_is_refused(changed: dict[str, Any], named: str, job: Job, tmp_path: Path) -> None:
    place = tmp_path / "work"
    job(workspace=place)
    with pytest.raises(WorkspaceError, match=rf"another job: {named} differ; use `restart` to discard it"):
        job(workspace=place, **changed)
    job(workspace=place, restart=True, **changed)
    job(workspace=place, **changed)


def test_another_source_version_or_schema_is_another_job(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "work"
    job(workspace=place)
    with monkeypatch.context() as later:
        later.setattr(ingest, "__version__", "99")
        with pytest.raises(WorkspaceError, match="version differ"):
            job(workspace=place)
    save(tmp_path / "s.png", photo(192, 192, seed=9))
    with pytest.raises(WorkspaceError, match="source differ"):
        job(workspace=place)
    zarr.open_group(place).attrs["hirez_mosaic_schema"] = 1
    with pytest.raises(WorkspaceError, match="has the schema 1 of another version"):
        job(workspace=place)


def test_the_second_render_in_a_workspace_is_told_so(job: Job, tmp_path: Path) -> None:
    with (
        held(str(tmp_path / "work")),
        pytest.raises(WorkspaceError, match="Another render is at work in the workspace"),
    ):
        job(workspace=tmp_path / "work")
    job(workspace=tmp_path / "work")


def test_what_is_no_workspace_is_left_alone(job: Job, tmp_path: Path) -> None:
    for name in ("scratch/thesis.txt", "film.partial", ".scratch/letter.txt"):
        place = tmp_path / f"work-{len(list(tmp_path.iterdir()))}"
        (place / name).parent.mkdir(parents=True)
        (place / name).write_text("dear")
        if name == ".scratch/letter.txt":
            (place / "more.txt").write_text("dear")
        with pytest.raises(WorkspaceError, match="is not empty and not a workspace"):
            job(workspace=place, restart=True)
        assert (place / name).read_text() == "dear"


def test_beginning_anew_removes_what_a_job_made_and_no_more(job: Job, tmp_path: Path) -> None:
    job(workspace=tmp_path / "work")
    (tmp_path / "work" / "notes.txt").write_text("dear")
    job(workspace=tmp_path / "work", restart=True, background="black")
    assert (tmp_path / "work" / "notes.txt").read_text() == "dear"


def test_a_workspace_that_cannot_be_discarded_is_not_gone_on_with(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its marks may belong to workers of another user."""
    job(workspace=tmp_path / "work")
    with monkeypatch.context() as forbidden:
        forbidden.setattr(store, "remove", lambda path: None)
        with pytest.raises(
            WorkspaceError, match="cannot be discarded, as done in it cannot be removed; remove it by hand"
        ):
            job(workspace=tmp_path / "work", restart=True, background="black")
    assert job(workspace=tmp_path / "work").chunk == (12, 12), "it is still there"
    with monkeypatch.context() as forbidden:
        forbidden.setattr(store, "remove", lambda path: None)
        notes = Notes()
        job(listener=notes)
    assert "cannot be discarded" in notes.lines[-1]
    assert (tmp_path / "out" / "m.png").exists()


def test_a_disk_that_fails_for_a_moment_loses_nothing(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        break_off(broken, "ingest", 2, OSError(errno.ESTALE, "Stale file handle"))
        with pytest.raises(OSError, match="Stale"):
            job()
    assert listing(tmp_path / "out") == {".m.png.workspace"}


def test_chunks_stay_those_of_the_first_start(job: Job, tmp_path: Path) -> None:
    job(workspace=tmp_path / "work")
    assert job(workspace=tmp_path / "work", chunk=None, memory="20GiB").chunk == (12, 12)


def test_a_damaged_source_leaves_nothing_behind(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_off(monkeypatch, "ingest", 2, SourceError("It is damaged."))
    with pytest.raises(SourceError):
        job()
    assert listing(tmp_path / "out") == set()


@pytest.mark.parametrize("removed", range(1, 8))
def test_a_workspace_that_was_being_removed_when_the_process_was_killed_does_no_harm(
    removed: int, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, gone = store.remove, []

    def killed(entry: Path) -> None:
        if entry.parent.name.endswith(".workspace") and entry.name != ".scratch":
            if len(gone) == removed:
                raise Killed
            gone.append(entry)
        plain(entry)

    with monkeypatch.context() as broken:
        broken.setattr(store, "remove", killed)
        with pytest.raises(Killed):
            job(chunk=36)
    whole = (tmp_path / "out" / "m.png").read_bytes()
    job(chunk=36)
    assert (tmp_path / "out" / "m.png").read_bytes() == whole


def test_rules_are_kept_anew_from_an_index_map_that_nobody_changed(job: Job, tmp_path: Path) -> None:
    rule = {"workspace": tmp_path / "work", "no_repeat_neighbours": True}
    job(**rule)
    group, whole = zarr.open_group(tmp_path / "work", mode="r"), (tmp_path / "out" / "m.png").read_bytes()
    assert (np.asarray(group["index_map"]) != np.asarray(group["ruled_map"])).any()
    job(**rule)
    assert (tmp_path / "out" / "m.png").read_bytes() == whole


def test_a_mark_follows_its_chunk(tmp_path: Path) -> None:
    """A stage that fails leaves no mark, so a half-written chunk is written again."""
    from fractions import Fraction

    from hirez_mosaic.engine.store import open_workspace
    from hirez_mosaic.pixels.geometry import CellGrid

    grid = CellGrid(4, 4, (8, 8), Fraction(1))
    (tmp_path / "work").mkdir()
    workspace = open_workspace(str(tmp_path / "work"), {}, grid, (2, 2))
    stage = StageRun("ingest", lambda device: lambda box: 1 / 0, grid, workspace.marks("ingest"))  # type: ignore[arg-type, return-value]
    import torch

    with pytest.raises(ZeroDivisionError):
        stage.on(torch.device("cpu"))(Box(0, 2, 0, 2))
    assert stage.finished() == []


MOMENTS = {
    "ingest": ".m.tif.workspace/done/ingest/c/*/*",
    "encode": ".m.tif.workspace/done/encode/c/*/*",
    "fit": ".m.tif.workspace/done/encode/c/4/6",
    "decode": ".m.tif.workspace/done/decode/c/*/*",
    "refine": ".m.tif.workspace/done/refine/c/*/*",
    "rules": ".m.tif.workspace/.scratch/*",
    "tile map": ".*-*.map.csv",
    "assemble": ".*-*.m.tif/*",
}
"""A stage, and what is there once it has begun."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
@pytest.mark.timeout(1500)
def test_forty_kills_at_random_moments(
    tmp_path: Path, make_templates: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL in every stage, real weights, processes of their own: the same bytes, and nothing left."""
    monkeypatch.setenv("HIREZ_MOSAIC_CACHE", str(tmp_path / "other cache"))
    source, out, rng = save(tmp_path / "s.png", photo(480, 640)), tmp_path / "out", random.Random(5)
    words = [
        "--templates",
        make_templates(40),
        "--tile",
        "8",
        "--fit",
        "4",
        "--refine",
        "2",
        "--chunk",
        "12",
        "--min-distance",
        "1",
    ]
    words += ["--tile-map", out / "map.csv", "--overwrite", "--quiet"]
    command = [
        str(word) for word in [sys.executable, "-m", "hirez_mosaic", "render", source, *words, "-o", out / "m.tif"]
    ]
    out.mkdir()
    subprocess.run(command, check=True, capture_output=True)
    whole = {name: (out / name).read_bytes() for name in ("m.tif", "map.csv")}
    kills: list[str] = []
    while len(kills) < 40:
        for left in (tmp_path / "other cache" / "decoders").glob("*"):
            left.unlink()  # so that there is a fit to break off
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        time.sleep(0.5)
        begun = {name for name, pattern in MOMENTS.items() if any(out.glob(pattern))}
        stage = rng.choice([name for name in MOMENTS if name not in begun] or ["assemble"])
        while child.poll() is None and not any(out.glob(MOMENTS[stage])):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        child.kill()
        _, complaint = child.communicate()
        if child.returncode == -signal.SIGKILL:
            kills.append(stage)
        else:
            assert child.returncode == 0, complaint
            assert {name: (out / name).read_bytes() for name in whole} == whole
            assert listing(out) == set(whole)
    subprocess.run(command, check=True, capture_output=True)
    assert {name: (out / name).read_bytes() for name in whole} == whole
    assert listing(out) == set(whole)
    print(sorted((name, kills.count(name)) for name in set(kills)))
