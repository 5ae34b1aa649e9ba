"""`compare`: the table, the figure, and what is refused."""

import csv
import re
import sys
from pathlib import Path

import pytest
import pyvips
import torch
from click.testing import CliRunner, Result
from conftest import photo, save

from hirez_mosaic import compare, train
from hirez_mosaic.cli.compare import DEFAULT_SELECTIONS as ON_THE_COMMAND_LINE
from hirez_mosaic.cli.main import main
from hirez_mosaic.errors import OutputError, OutputExistsError, SettingError, WeightsError
from hirez_mosaic.jobs import train as training
from hirez_mosaic.jobs.compare import SELECTIONS, mean_rows
from hirez_mosaic.jobs.listener import Listener


@pytest.fixture
def here(
    tmp_path: Path,
    own_cache: Path,
    with_random_weights: None,
    random_alexnet: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with two pictures and 25 templates; all weights are RANDOM."""
    monkeypatch.setattr("hirez_mosaic.jobs.compare.resolve_alexnet", lambda *_: random_alexnet)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "templates").mkdir()
    for number in range(25):
        save(tmp_path / "templates" / f"{number:02d}.png", photo(16, 16, seed=number))
    (tmp_path / "photos").mkdir()
    for name, seed in (("a", 70), ("b", 71)):
        save(tmp_path / "photos" / f"{name}.png", photo(150, 200, seed=seed))
    return tmp_path


def call(*words: str) -> Result:
    return CliRunner().invoke(main, list(words), catch_exceptions=False)


def test_the_selections_of_the_command_line_are_the_librarys() -> None:
    assert tuple(ON_THE_COMMAND_LINE.split(",")) == SELECTIONS


def test_every_selection_is_judged_and_shown(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CROP_SIDE", 64)
    monkeypatch.setattr(training, "_why_not_cached", lambda *_, **__: "")  # one step need not make it better
    train("templates", "photos", "one.safetensors", 8, steps=1, batch=1)
    result = call(
        "compare",
        "photos/a.png",
        "photos/b.png",
        "--templates",
        "templates",
        "--side",
        "256",
        "--fit",
        "2",
        "--refine",
        "2",
    )
    assert result.exit_code == 0, result.output
    with Path("compared/compared.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["selection"] for row in rows[:7]] == list(SELECTIONS)
    assert len(rows) == 14
    for row in rows:
        scales = [float(row[f"scale {scale}"]) for scale in range(3)]
        assert float(row["Eq. 3"]) == pytest.approx(sum(scales) / 3, rel=1e-5)
        assert float(row["LPIPS"]) >= 0
        assert all(0 < float(row[f"JOD {size}"]) < 10 for size in ("full", "half", "quarter"))
        assert all(0 < float(row[f"FLIP {size}"]) < 1 for size in ("full", "half", "quarter"))
        assert all(float(row[f"dE {sigma} px"]) > 0 for sigma in (4, 8, 16))
        assert row["equal neighbours"] == "" if row["selection"] == "soft" else 0 <= float(row["equal neighbours"]) <= 1
        assert float(row["seconds"]) > 0
        assert (row["distinct"] == "") == (row["selection"] == "soft")
    fitted, refined = (
        float(next(row for row in rows if row["selection"] == name)["seconds"]) for name in ("fitted", "refined")
    )
    assert refined > 0.5 * fitted  # the fit counts, though it came from the cache
    assert {path.name for path in Path("compared").iterdir()} == {"compared.csv", "a.png", "b.png"}
    assert pyvips.Image.new_from_file("compared/a.png").width > 4 * 256
    title, heading, *table = result.stderr[result.stderr.index("Means over 2 pictures") :].splitlines()
    assert "except for JOD" in title
    assert re.split(" {2,}", heading.strip()) == [
        *(
            "selection",
            "Eq. 3",
            "ratio",
            "LPIPS",
            "cell means",
            "dE 8 px",
            "JOD half",
            "FLIP half",
            "equal neighbours",
            "distinct",
            "seconds",
        )
    ]
    assert [line.split()[0] for line in table[:7]] == list(SELECTIONS)


def test_several_trained_decoders_side_by_side(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CROP_SIDE", 64)
    for name, scales in (("fine", (0,)), ("coarse", (2,))):
        train("templates", "photos", f"{name}.safetensors", 8, steps=1, batch=1, scales=scales)
    rows = compare(
        ["photos/a.png"],
        "templates",
        side=64,
        selections=["L2", "trained"],
        trained=["fine.safetensors", "coarse.safetensors"],
    )
    assert list(mean_rows(rows)) == ["L2", "trained fine", "trained coarse"]


def test_without_what_may_be_missing_it_goes_on_and_says_so(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_: object) -> None:
        raise WeightsError("package index: no network")

    notes: list[str] = []
    listener = Listener()
    monkeypatch.setattr(listener, "note", notes.append)
    monkeypatch.setattr("hirez_mosaic.jobs.compare.resolve_alexnet", nowhere)
    monkeypatch.setitem(sys.modules, "pycvvdp", None)  # as if the extra were not installed
    rows = compare(["photos/a.png"], "templates", side=64, selections=["L2", "trained"], listener=listener)
    assert [row.selection for row in rows] == ["L2"]
    assert rows[0].judgement.lpips is None
    assert any("no trained decoder" in note for note in notes)
    assert any("LPIPS is left out" in note for note in notes)
    assert rows[0].judgement.jod == rows[0].judgement.flip == (None, None, None)
    assert mean_rows(rows)["L2"].judgement.jod == (None, None, None)
    (note,) = (note for note in notes if "JOD and FLIP are left out" in note)
    assert "pip install 'hirez-mosaic[eye]'" in note
    with Path("compared/compared.csv").open() as file:
        assert next(csv.DictReader(file))["JOD half"] == ""


def test_what_cannot_be_compared_is_refused(here: Path) -> None:
    with pytest.raises(SettingError, match="There is no selection best"):
        compare(["photos/a.png"], "templates", selections=["best"])
    with pytest.raises(SettingError, match="nothing left to compare"):
        compare(["photos/a.png"], "templates", selections=["trained"])
    for name in ("fit", "refine", "far_weight"):
        with pytest.raises(SettingError, match=f"`{name}` is of the selections .*refined.*; add one, or leave it out"):
            compare(["photos/a.png"], "templates", selections=["L2"], **{name: 3})
    with pytest.raises(SettingError, match="The side is 9999 px"):
        compare(["photos/a.png"], "templates", side=9999)
    save(here / "a.png", photo(20, 20))
    with pytest.raises(SettingError, match="Two sources are called a"):
        compare(["photos/a.png", "a.png"], "templates")
    with pytest.raises(SettingError, match="would replace a source"):
        compare(["photos/a.png"], "templates", output="photos", overwrite=True)
    assert pyvips.Image.new_from_file("photos/a.png").width == 200
    with pytest.raises(SettingError, match="Two trained decoders"):
        compare(["photos/a.png"], "templates", trained=["x/d.safetensors", "y/d.safetensors"])
    (here / "compared").mkdir()
    (here / "compared" / "compared.csv").write_text("precious")
    with pytest.raises(OutputExistsError, match="`overwrite`"):
        compare(["photos/a.png"], "templates")
    with pytest.raises(OutputError, match=r"a\.png is a file; name a folder"):
        compare(["photos/a.png"], "templates", output=here / "a.png")
