"""A folder of files as people have them, through `batch`: each as a source and as a template, and what cannot be read
named.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pyvips
import tifffile
from click.testing import CliRunner, Result
from conftest import save
from test_kinds import KINDS, NOISE

from hirez_mosaic.cli.main import main

pytestmark = pytest.mark.usefixtures("own_cache")
CASES = (
    "tiff zstd",
    "tiff float 0 to 1",
    "tiff half float",
    "tiff orientation as byte",
    "tiff ycbcr",
    "tiff cielab",
    "ome-tiff of two channels",
    "tiff float 0 to 255",
    "jpeg with a broken profile",
    "thumbnail first",
    "bmp",
    "tiff 32-bit",
    "tiff of unspecified fourth",
    "tiff opacity and spot",
    "lossless jpeg",
    "png gAMA 1",
)
DAMAGED = "damaged.tif"


def damaged(path: Path) -> None:
    """One strip of Deflate with bytes lost in its middle."""
    tifffile.imwrite(path, NOISE, photometric="rgb", compression="deflate", rowsperstrip=200)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 100] = bytes(100)
    path.write_bytes(data)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Each case, and what it shows as a PNG beside it."""
    folder = tmp_path / "album"
    folder.mkdir()
    for number, case in enumerate(CASES):
        write, right, _ = KINDS[case]
        write(folder / f"{number:02}")
        save(folder / f"{number:02}-right.png", right)
    return folder


def run(folder: Path, templates: Path, *words: str) -> Result:
    """`hirez-mosaic batch` into "out"."""
    settings = ["--tile", "8", "--decoder", "l2", "--device", "cpu", "--format", "png", "--log-file", "log", *words]
    named = ["batch", str(folder), "--templates", str(templates), "-o", str(folder.parent / "out")]
    return CliRunner().invoke(main, [*named, *settings], catch_exceptions=False)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_each_case_makes_the_mosaic_of_what_it_shows(album: Path, make_templates: Callable[[int], Path]) -> None:
    damaged(album / DAMAGED)
    result = run(album, make_templates(9))
    assert result.exit_code == 3, result.output
    assert f"{2 * len(CASES)} made, 0 unchanged, 1 failed" in result.output
    lines = [line for line in result.output.splitlines() if "failed" in line and "made" not in line]
    assert len(lines) == 1
    assert DAMAGED in lines[0]
    assert "is damaged or truncated" in " ".join(result.output.split())
    for number, case in enumerate(CASES):
        made, right = (
            pyvips.Image.new_from_file(str(album.parent / "out" / f"{number:02}{end}.png")).numpy()
            for end in ("", "-right")
        )
        assert made.shape == right.shape, case
        assert np.mean(made != right) <= (0.05 if KINDS[case][2] else 0), case  # near ties may fall another way


def test_each_case_is_a_template_and_the_damaged_one_is_named_last(album: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    save(tmp_path / "one" / "s.png", KINDS["bmp"][1])
    damaged(album / DAMAGED)
    result = run(tmp_path / "one", album)
    assert result.exit_code == 0, result.output
    assert DAMAGED in result.output.split("1 file was left out:")[1]
    strict = run(tmp_path / "one", album, "--strict", "--restart")
    assert strict.exit_code == 1
    assert f"1 of the files in {album} cannot be read, {DAMAGED} for one" in strict.output
