"""What a person is told before and during a render: how long it takes, how far it is, and what its templates lack."""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import photo, save
from rich.console import Console

from hirez_mosaic import Listener, render
from hirez_mosaic.cli import console
from hirez_mosaic.errors import OutputError
from hirez_mosaic.jobs import pace
from hirez_mosaic.jobs.job import Job
from hirez_mosaic.jobs.reach import reach_note


class Heard(Listener):
    """Keeps the plan, what the plan says about time, and the notes."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.notes: list[str] = []
        self.jobs: list[Job] = []

    def planned(self, job: Job) -> None:
        self.told.append(console._time(job))
        self.jobs.append(job)

    def note(self, line: str) -> None:
        self.notes.append(line)


@pytest.fixture
def heard(own_cache: Path, with_random_weights: None) -> Heard:
    return Heard()


def test_the_second_mosaic_is_told_the_time_of_the_first(
    heard: Heard, tmp_path: Path, make_templates: Callable[[int], Path]
) -> None:
    source, folder = save(tmp_path / "a.png", photo(90, 120)), make_templates(9)
    first = render(source, folder, 16, tmp_path / "a.tif", listener=heard)
    render(source, folder, 16, tmp_path / "b.tif", listener=heard)
    render(source, folder, 16, tmp_path / "c.png", listener=heard)
    assert heard.told[0] == "known from the second mosaic on this machine on"
    assert heard.told[1].startswith("about ")
    assert "no earlier mosaic" not in heard.told[1]
    assert "what assemble take" in heard.told[2]  # a .png is another work than a .tif
    kept = pace.Pace(torch.device("cpu"), heard.jobs[0].tools.precision)
    kept.learn(heard.jobs[0], first.seconds)
    assert kept.seconds(heard.jobs[0])["decode"] == pytest.approx(first.seconds["decode"])


def test_a_small_mosaic_does_not_teach_the_pace_of_large_ones(
    heard: Heard, tmp_path: Path, make_templates: Callable[[int], Path]
) -> None:
    source, folder = save(tmp_path / "a.png", photo(90, 120)), make_templates(9)
    render(source, folder, 16, tmp_path / "a.tif", scale=2, listener=heard)
    render(source, folder, 16, tmp_path / "b.tif", listener=heard)
    large, small = heard.jobs
    kept = pace.Pace(torch.device("cpu"), large.tools.precision)
    kept.learn(large, {"decode": 4.0})
    kept.learn(small, {"decode": 100.0})
    assert kept.seconds(large)["decode"] == 4.0
    assert kept.seconds(small)["decode"] == pytest.approx(4.0 * small.grid.cells / large.grid.cells)


def test_what_an_earlier_start_began_teaches_nothing(
    heard: Heard, tmp_path: Path, make_templates: Callable[[int], Path], own_cache: Path
) -> None:
    source, folder = save(tmp_path / "a.png", photo(90, 120)), make_templates(9)
    render(source, folder, 16, tmp_path / "a.tif", workspace=tmp_path / "kept", listener=heard)
    file = next((own_cache / "pace").iterdir())
    before = file.read_bytes()
    render(source, folder, 16, tmp_path / "a.tif", workspace=tmp_path / "kept", overwrite=True, listener=heard)
    assert file.read_bytes() == before
    assert "less what is finished" in heard.told[1]


@pytest.mark.parametrize("content", ["", "[1]", '{"step": 3}', '{"step": ["a", 1]}', '{"step": [1, null]}'])
def test_a_damaged_pace_is_measured_anew_once_a_day(
    content: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_cache / "pace").mkdir(parents=True)
    (own_cache / "pace" / "cpu-float32.json").write_text(content)
    measured = iter((0.5, 0.25))
    monkeypatch.setattr(pace, "_measured_step", lambda *_: next(measured))

    def step() -> float:
        return pace.Pace(torch.device("cpu"), torch.float32).step_seconds()

    assert (step(), step()) == (0.5, 0.5)
    (now, later) = (time.time(), time.time() + 100_000)
    assert json.loads((own_cache / "pace" / "cpu-float32.json").read_text())["step"][1] <= now
    monkeypatch.setattr(pace.time, "time", lambda: later)
    assert step() == 0.25


def test_where_there_is_no_terminal_a_running_stage_has_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console._Bars, "every", 0.01)
    listener, written = console.ConsoleListener(), io.StringIO()
    listener.console = Console(file=written, width=120)
    with listener.stage("decode", 100, "cells") as progress:
        progress(25)
        while "25% after" not in written.getvalue():
            time.sleep(0.01)
    assert "decode: 25% after " in written.getvalue()
    assert " left\n" in written.getvalue()
    assert "\x1b" not in written.getvalue()
    assert "━" not in written.getvalue()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OutputError("The preview cannot be made.")])
def test_an_error_of_the_preview_leaves_the_finished_mosaic(
    error: Exception,
    heard: Heard,
    tmp_path: Path,
    make_templates: Callable[[int], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: object, place: Path) -> None:
        place.write_bytes(b"half")
        raise error

    monkeypatch.setattr("hirez_mosaic.jobs.render.write_preview", fail)
    source, made = save(tmp_path / "a.png", photo(90, 120)), tmp_path / "made"
    made.mkdir()
    outputs = {"tile_map": made / "a.csv", "preview": made / "a.png"}
    result = render(source, make_templates(9), 16, made / "a.tif", **outputs, listener=heard)
    assert result.preview is None
    assert {path.name for path in made.iterdir()} == {"a.tif", "a.csv"}
    assert any("a.tif is whole and has no preview" in note for note in heard.notes)


def test_colours_out_of_reach_are_told_with_what_helps() -> None:
    cells = np.zeros((10, 10, 3), np.uint8)
    cells[:3] = (255, 0, 0)  # 30 % of the cells
    black, red = np.zeros((1, 3), np.uint8), np.array([[0, 0, 0], [250, 0, 0]], np.uint8)
    assert reach_note(cells, red) == ""
    note = reach_note(cells, black)
    assert note.startswith("70% of the picture's cells have a template near their colour")
    assert "inspect" in note
    assert "`tint=0.3`" in note
    assert reach_note(cells.repeat(30, 0).repeat(30, 1), black) == note  # of many, one here and there is looked at


def test_a_render_tells_it_unless_it_tints(heard: Heard, tmp_path: Path) -> None:
    (tmp_path / "grey").mkdir()
    for number in range(4):
        save(tmp_path / "grey" / f"{number}.png", np.full((16, 16, 3), 60 * number, np.uint8))
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    source = save(tmp_path / "a.png", red)
    render(source, tmp_path / "grey", 16, tmp_path / "a.tif", listener=heard)
    assert sum("near their colour" in note for note in heard.notes) == 1
    render(source, tmp_path / "grey", 16, tmp_path / "b.tif", tint=0.3, listener=heard)
    assert sum("near their colour" in note for note in heard.notes) == 1
