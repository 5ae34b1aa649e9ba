"""A look at a folder of templates: near-duplicates, and the colours it lacks."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import photo, save
from PIL import Image

from hirez_mosaic.cli.main import main
from hirez_mosaic.jobs.inspect import inspect
from hirez_mosaic.templates import duplicates
from hirez_mosaic.templates.duplicates import near_duplicates


def call(*words: str) -> Result:
    return CliRunner().invoke(main, ["templates", "inspect", *words], catch_exceptions=False)


def one_by_one(small: np.ndarray, levels: float) -> list[int]:
    values = np.round(small.reshape(len(small), -1) * 255).astype(int)
    kept: list[int] = []
    first = []
    for index, value in enumerate(values):
        first.append(next((one for one in kept if np.square(values[one] - value).mean() <= levels**2), index))
        if first[-1] == index:
            kept.append(index)
    return first


@pytest.mark.parametrize("levels", [0, 3, 20, 255])
@pytest.mark.parametrize("leaf", [1, 7, 256])
def test_near_duplicates_are_those_found_one_by_one(monkeypatch: pytest.MonkeyPatch, levels: float, leaf: int) -> None:
    monkeypatch.setattr(duplicates, "_LEAF", leaf)
    monkeypatch.setattr(duplicates, "_ROWS", 16)
    monkeypatch.setattr(duplicates, "_COLUMNS", 32)
    rng = np.random.default_rng(leaf)
    small = rng.uniform(0, 1, (60, 1, 1, 3))[rng.integers(0, 60, 300)] + rng.normal(0, 0.012, (300, 8, 8, 3))
    small[200:] = small[:100]
    small = np.clip(small, 0, 1).astype(np.float32)
    assert near_duplicates(small, levels).tolist() == one_by_one(small, levels)


def test_a_chain_is_broken_where_the_kept_one_is_too_far() -> None:
    small = np.repeat(np.array([0, 2, 4, 6, 1], np.float32)[:, None] / 255, 192, 1).reshape(-1, 8, 8, 3)
    assert near_duplicates(small, 2).tolist() == [0, 0, 2, 2, 0]
    assert near_duplicates(small, 1.99).tolist() == [0, 1, 2, 3, 0]
    assert near_duplicates(small[:0], 2).tolist() == []


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> Path:
    """An empty current folder with grey templates of 12 x 12 px, one twice, one larger, and a file of text."""
    folder = tmp_path / "here"
    (folder / "greys").mkdir(parents=True)
    monkeypatch.chdir(folder)
    for level in range(0, 256, 5):
        save(folder / "greys" / f"{level:03d}.png", np.full((12, 12, 3), level, np.uint8))
    save(folder / "greys" / "100b.png", np.full((20, 16, 3), 101, np.uint8))
    (folder / "greys" / "notes.txt").write_text("no picture")
    half = np.full((64, 128, 3), 128, np.uint8)
    half[:, 96:] = (200, 30, 40)
    save(folder / "source.png", half)
    return folder


def test_the_colours_that_greys_lack_are_found(here: Path) -> None:
    found = inspect("greys", 12, source="source.png", output="sheet.png")
    assert len(found.templates) == 53
    assert found.sizes == (((12, 12), 52), ((16, 20), 1))
    assert found.alike == (("100b.png", "100.png"),)
    assert found.copies == 0
    assert found.templates.skipped[0][0] == "notes.txt"
    cover = found.coverage
    assert cover is not None
    assert cover.distances.shape == (64, 128)
    assert abs(cover.reached - 0.75) < 0.02
    assert cover.distances[:, :90].max() < 2
    assert cover.distances[:, 100:].min() > 40
    assert np.abs(np.array(cover.lacks[0].colour) - (200, 30, 40)).max() <= 3
    assert abs(cover.lacks[0].share - 0.25) < 0.02
    with Image.open("sheet.png") as image:
        assert image.width == 1024
        assert image.height < 1024


def test_everything_is_reached_by_itself(here: Path) -> None:
    save(here / "greys" / "red.png", np.full((12, 12, 3), (200, 30, 40), np.uint8))
    cover = inspect("greys", "12x6", source="source.png").coverage
    assert cover is not None
    assert cover.reached > 0.97  # but for the cells across the edge


def test_many_templates_are_shown_in_part(here: Path) -> None:
    for number in range(400):
        save(here / "greys" / f"more{number}.png", photo(9, 9, number))
    inspect("greys", 8, output="sheet.jpg")
    with Image.open("sheet.jpg") as image:
        assert image.size[0] == 1024
        assert image.size[1] <= 12 * 32 + 30


def test_from_the_command_line(here: Path) -> None:
    done = call("greys", "--tile", "12", "--source", "source.png")
    assert done.exit_code == 0
    assert "templates  53, 1 files skipped" in done.stdout
    assert "12 x 12 px (52), 16 x 20 px (1)" in done.stdout
    assert "alike      1 near-duplicates" in done.stdout
    assert "100b.png like 100.png" in done.stdout
    assert "red: 25." in done.stdout
    assert "1 file was left out: greys/notes.txt is not a picture that can be read" in " ".join(done.stderr.split())
    assert {path.name for path in here.iterdir()} == {"greys", "source.png"}
    assert call("greys", "-o", "sheet.png").exit_code == 0
    for words, code, said in (
        (["greys", "-o", "sheet.png"], 1, "--overwrite"),
        (["greys", "-o", "none/sheet.png"], 1, "make it first"),
        (["greys", "-o", "sheet.txt"], 2, "no known suffix"),
        (["greys", "-o", "greys/sheet.png"], 2, "would become a template"),
        (["greys", "--levels", "-1", "-o", "a.png"], 2, "use 0 to 255"),
        (["greys", "--source", "greys/notes.txt", "-o", "a.png"], 1, "is not a picture"),
        (["greys", "--source", "none.png", "-o", "a.png"], 1, "There is no file"),
        (["none", "-o", "a.png"], 1, "There is no folder of templates none"),
    ):
        wrong = call(*words)
        assert wrong.exit_code == code
        assert said in wrong.stderr
        assert wrong.stderr.count("Error: ") == 1
    assert {path.name for path in here.iterdir()} == {"greys", "source.png", "sheet.png"}
