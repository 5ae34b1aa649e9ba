"""Template sets cut out of pictures as they are."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import photo, save
from PIL import Image

from hirez_mosaic.cli.main import main
from hirez_mosaic.errors import TemplateError
from hirez_mosaic.templates.slicing import Grid, random_crops, sprites


def call(*words: str) -> Result:
    return CliRunner().invoke(main, ["templates", "slice", *words], catch_exceptions=False)


def sheet(path: Path, margin: int = 0, spacing: int = 0) -> Path:
    """3 x 2 sprites of 4 x 6 px: each holds its number; number 1 is transparent, number 2 of one colour."""
    px = np.full((margin + 2 * 6 + spacing, margin + 3 * 4 + 2 * spacing, 4), 99, np.uint8)
    for number in range(6):
        row, column = divmod(number, 3)
        top, left = margin + row * (6 + spacing), margin + column * (4 + spacing)
        sprite = np.full((6, 4, 4), (10 * number, 0, 0, 255), np.uint8)
        if number == 1:
            sprite = photo(6, 4).repeat(2, 2)[..., :4]
            sprite[..., 3] = 0
        elif number != 2:
            sprite[3, 2] = (0, 255, 0, 128)
        px[top : top + 6, left : left + 4] = sprite
    Image.fromarray(px).save(path)
    return path


@pytest.mark.parametrize(("margin", "spacing"), [(0, 0), (3, 1)])
def test_sprites_come_out_px_for_px_and_empty_ones_are_dropped(tmp_path: Path, margin: int, spacing: int) -> None:
    path = sheet(tmp_path / "a.png", margin, spacing)
    made = dict(sprites([path], Grid((4, 6), margin, spacing)))
    assert list(made) == ["000-0000-0000.png", "000-0001-0000.png", "000-0001-0001.png", "000-0001-0002.png"]
    for number, pixels in zip((0, 3, 4, 5), made.values(), strict=True):
        assert pixels.shape == (6, 4, 4)
        assert tuple(pixels[0, 0]) == (10 * number, 0, 0, 255)
        assert tuple(pixels[3, 2]) == (0, 255, 0, 128)
    assert len(list(sprites([path], Grid((4, 6), margin, spacing), keep_empty=True))) == 6


def test_whole_multiples_repeat_px_and_others_are_resampled(tmp_path: Path) -> None:
    path = sheet(tmp_path / "a.png")
    plain = dict(sprites([path], Grid((4, 6))))
    for name, pixels in sprites([path], Grid((4, 6)), tile=(12, 18)):
        assert (pixels == plain[name].repeat(3, 0).repeat(3, 1)).all()
    for tile in ((6, 9), (3, 3), (40, 6)):
        assert {pixels.shape for _, pixels in sprites([path], Grid((4, 6)), tile=tile)} == {(tile[1], tile[0], 4)}


def test_random_crops_are_pieces_and_depend_on_the_seed_alone(tmp_path: Path) -> None:
    y, x = np.mgrid[:200, :250]
    big = save(tmp_path / "big.png", np.stack([x, y, 0 * x], -1).astype(np.uint8))
    small = save(tmp_path / "small.png", np.full((1, 1, 3), 77, np.uint8))
    made = dict(random_crops([big, small], (12, 10), 40, 1))
    assert sorted(made) == [f"{number:06d}.png" for number in range(40)]
    sizes = [np.ptp(pixels[..., 0].astype(int)) for pixels in list(made.values())[:20]]
    assert 10 <= min(sizes) < 20 < max(sizes) <= 125
    assert all(
        np.ptp(pixels, axis=0)[..., 0].max() <= 1 for pixels in made.values()
    )  # columns keep to themselves: nothing is turned
    assert (made["000001.png"] == 77).all()
    again = dict(random_crops([big, small], (12, 10), 40, 1))
    assert all((made[name] == again[name]).all() for name in made)
    other = dict(random_crops([big, small], (12, 10), 40, 2))
    assert any((made[name] != other[name]).any() for name in made)


def test_of_an_animation_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.fromarray(photo(8, 16, seed)) for seed in range(3)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    ((_, left), (_, right)) = sprites([tmp_path / "a.webp"], Grid((8, 8)))
    assert (np.concatenate([left, right], 1)[..., :3] == photo(8, 16, 0)).all()


def test_sheets_that_cannot_be_cut_are_refused(tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("no picture")
    with pytest.raises(TemplateError, match=r"no\.png is not a picture that can be read"):
        list(sprites([tmp_path / "no.png"], Grid((4, 6))))
    with pytest.raises(
        TemplateError,
        match=r"12 x 12 px, too small for a sprite of 4 x 13 px and a margin of 0 px; use a smaller `grid`",
    ):
        list(sprites([sheet(tmp_path / "a.png")], Grid((4, 13))))
    blank = save(tmp_path / "blank.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(TemplateError, match=r"All 4 sprites of 4 x 4 px in .*blank\.png are empty"):
        list(sprites([blank], Grid((4, 4))))
    whole = save(tmp_path / "whole.png", photo(200, 200)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TemplateError, match="is damaged or truncated"):
        list(random_crops([tmp_path / "cut.png"], (8, 8), 9, 0))


def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sheet(Path("a.png"))
    done = call("a.png", "--grid", "4x6", "--tile", "8x12", "-o", "made")
    assert done.exit_code == 0
    assert "made: 4 templates" in done.stderr
    with Image.open("made/000-0000-0000.png") as image:
        assert image.size == (8, 12)
        assert image.mode == "RGBA"
    assert call("a.png", "--random", "5", "--tile", "4", "--quiet", "-o", "crops").stderr == ""
    assert len(list(Path("crops").glob("*.png"))) == 5
    for words in (["a.png"], ["a.png", "--grid", "4", "--random", "5"]):
        wrong = call(*words, "-o", "bad")
        assert wrong.exit_code == 2
        assert "either --grid" in wrong.stderr
    wrong = call("a.png", "--grid", "0", "-o", "bad")
    assert wrong.exit_code == 2
    assert "The grid is 0 x 0 px" in wrong.stderr
    for words in (["none.png", "--grid", "4"], ["a.png", "--grid", "50"], ["a.png", "none.png", "--random", "50"]):
        wrong = call(*words, "-o", "bad")
        assert wrong.exit_code == 1
        assert wrong.stderr.count("Error: ") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "made", "crops"}
