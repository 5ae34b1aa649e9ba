"""Template sets cut out of pictures and changed."""

from pathlib import Path

import numpy as np
import pytest
import pyvips
from click.testing import CliRunner, Result
from conftest import photo, png_claiming, save
from PIL import Image

from hirez_mosaic.cli.main import main
from hirez_mosaic.errors import TemplateError
from hirez_mosaic.pixels.colour import from_lab, to_lab
from hirez_mosaic.templates import augmenting
from hirez_mosaic.templates.augmenting import Augmentation, augmented, pictures_at


def call(*words: str) -> Result:
    return CliRunner().invoke(main, ["templates", "augment", *words], catch_exceptions=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def image(pixels: np.ndarray) -> pyvips.Image:
    return pyvips.Image.new_from_array(np.ascontiguousarray(pixels)).copy(interpretation="srgb")


def test_lab_there_and_back() -> None:
    pixels = photo(20, 30)
    assert np.abs(from_lab(to_lab(pixels)).astype(int) - pixels).max() <= 1
    white, black = to_lab(np.array([[[255] * 3, [0] * 3]], np.uint8))[0]
    assert np.allclose(white, [100, 0, 0], atol=0.1)
    assert np.allclose(black, 0, atol=0.1)


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (60, 40), (500, 400)])
@pytest.mark.parametrize("tile", [(16, 16), (24, 8)])
def test_no_corner_is_empty_at_any_angle_in_any_picture(size: tuple[int, int], tile: tuple[int, int]) -> None:
    flat = image(np.full((*size, 3), (200, 90, 40), np.uint8))
    augment = Augmentation(tile, colour_shift=0)
    for number in range(20):
        pixels = augment(flat, number)
        assert pixels.shape == (tile[1], tile[0], 3)
        assert np.abs(pixels.astype(int) - (200, 90, 40)).max() <= 1


def test_each_change_can_be_left_out() -> None:
    y, x = np.mgrid[:240, :250]
    ramp = image(np.stack([x, 255 - x, 0 * y], -1).astype(np.uint8))
    plain = [Augmentation((8, 8), 0, mirror=False, rotate=False)(ramp, number).astype(int) for number in range(20)]
    assert all((np.diff(pixels[..., 0], axis=1) > 0).all() for pixels in plain)
    assert all(np.abs(pixels[..., 0] + pixels[..., 1] - 255).max() <= 2 for pixels in plain)
    mirrored = [Augmentation((8, 8), 0, mirror=True, rotate=False)(ramp, number).astype(int) for number in range(20)]
    falling = [bool((np.diff(pixels[..., 0], axis=1) < 0).all()) for pixels in mirrored]
    assert 3 < sum(falling) < 17
    turned = [Augmentation((8, 8), 0, mirror=False)(ramp, number).astype(int) for number in range(20)]
    assert any((np.diff(pixels[..., 0], axis=0) > 0).all() for pixels in turned)
    flat = image(np.full((40, 40, 3), 128, np.uint8))
    colours = {tuple(Augmentation((8, 8), shift)(flat, number)[4, 4]) for number in range(20) for shift in (0.5,)}
    assert len(colours) == 20


def test_bytes_depend_on_seed_and_pictures_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos/below").mkdir(parents=True)
    for number in range(3):
        save(Path("photos/below") / f"{number}.png", photo(90, 70 + number, seed=number))
    base = ["photos", "--count", "40", "--tile", "8"]
    for jobs in ("1", "3"):
        assert call(*base, "--jobs", jobs, "-o", f"jobs{jobs}").exit_code == 0
    assert call(*base, "--seed", "1", "--quiet", "-o", "seed1").stderr == ""
    assert len(contents(Path("jobs1"))) == 40
    assert contents(Path("jobs1")) == contents(Path("jobs3"))
    assert not set(contents(Path("jobs1")).values()) & set(contents(Path("seed1")).values())


def test_what_cannot_be_read_is_skipped_and_named_and_the_others_make_up_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for number in range(4):
        Path(f"photos/{number}.txt").write_text("no picture")
    save(Path("photos/a.png"), photo(40, 40))
    whole = save(Path("b.png"), photo(200, 200)).read_bytes()
    Path("photos/b.png").write_bytes(whole[: len(whole) // 2])
    done = call("photos", "photos/a.png", "--count", "12", "--tile", "8", "-o", "made")
    assert done.exit_code == 0
    assert len(contents(Path("made"))) == 12
    assert "skipped    photos/b.png (" in done.stderr
    assert done.stderr.count("skipped  ") == 5
    Path("photos/a.png").unlink()
    none = call("photos", "--count", "12", "-o", "none")
    assert none.exit_code == 1
    assert "None of the 5 files is a readable picture" in none.stderr
    missing = call("nowhere", "-o", "none")
    assert missing.exit_code == 1
    assert "There is no file or folder nowhere." in missing.stderr
    assert call("photos", "--colour-shift", "2", "-o", "none").exit_code == 2
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "b.png", "made"}


def test_transparent_px_are_white_and_an_empty_folder_is_refused(tmp_path: Path) -> None:
    Image.new("RGBA", (30, 30), (255, 0, 0, 0)).save(tmp_path / "a.png")
    ((_, pixels),) = augmented([tmp_path / "a.png"], 1, Augmentation((8, 8), 0), jobs=1, skip=print)
    assert (pixels == 255).all()
    (tmp_path / "empty").mkdir()
    with pytest.raises(TemplateError, match="holds no files"):
        pictures_at([tmp_path / "empty"])


def test_a_picture_too_large_to_hold_is_skipped_and_named(tmp_path: Path) -> None:
    png_claiming(tmp_path / "huge.png", 60_000, 60_000)
    assert "is too large: 60000 x 60000 px" in str(augmenting._load(tmp_path / "huge.png"))
