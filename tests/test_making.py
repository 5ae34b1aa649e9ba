"""Template sets that are drawn."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from hirez_mosaic.cli.main import main
from hirez_mosaic.errors import TemplateError
from hirez_mosaic.templates.making import ASCII, KATAKANA, edges, glyphs


def call(*words: str) -> Result:
    return CliRunner().invoke(main, ["templates", *words], catch_exceptions=False)


def test_glyphs_are_ink_on_paper_one_baseline_and_all_different() -> None:
    made = dict(glyphs(None, ASCII, (24, 32), [((255, 0, 0), (0, 0, 64))]))
    assert len(made) == 95
    assert len({pixels.tobytes() for pixels in made.values()}) == 95
    for pixels in made.values():
        assert pixels.shape == (32, 24, 3)
        assert (pixels[0, 0] == (0, 0, 64)).all()
    lowest = {
        name[6:10]: np.nonzero((pixels[..., 0] > 128).any(1))[0].max(initial=-1)
        for name, pixels in made.items()
        if "u0020" not in name
    }
    letters = [lowest[f"{ord(letter):04x}"] for letter in "HExiM"]
    assert max(letters) - min(letters) <= 1
    assert lowest[f"{ord('g'):04x}"] > max(letters)
    assert lowest[f"{ord('-'):04x}"] < max(letters)


def test_a_font_without_the_glyphs_is_refused_and_they_are_named(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="has no glyph for 56 of the characters asked for: ｦ"):
        list(glyphs(None, KATAKANA, (16, 16), [((0, 0, 0), (255, 255, 255))]))
    (tmp_path / "no.ttf").write_text("no font")
    with pytest.raises(TemplateError, match="cannot be read"):
        list(glyphs(tmp_path / "no.ttf", "a", (16, 16), [((0, 0, 0), (255, 255, 255))]))


def test_edges_have_both_polarities_and_their_orientation() -> None:
    made = dict(edges((32, 32), 4, [0.3], 2))
    assert len(made) == 2 + 4 * 3 * 2 * 2
    upright, lying = made["step-000.0-+0.00-255-on-000.png"], made["step-090.0-+0.00-255-on-000.png"]
    assert (upright[:, 0] == 0).all()
    assert (upright[:, -1] == 255).all()
    assert (lying[0] == 0).all()
    assert (lying[-1] == 255).all()
    assert (made["step-000.0-+0.00-000-on-255.png"] == 255 - upright).all()
    slanted = made["step-045.0-+0.00-255-on-000.png"]
    assert len(np.unique(slanted)) > 2  # anti-aliased
    assert abs(float(slanted.mean()) - 127.5) < 1


def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("edges", "--tile", "9x7", "--orientations", "2", "--greys", "2", "-o", "edges").exit_code == 0
    with Image.open("edges/flat-000.png") as image:
        assert image.size == (9, 7)
    Path("words.txt").write_text("mosaic\nmosaic\n")
    assert (
        call(
            "glyphs", "--chars", "words.txt", "--colours", "white/black", "--colours", "grey/black", "-o", "words"
        ).exit_code
        == 0
    )
    assert len(list(Path("words").iterdir())) == 2 * len(set("mosaic")) + 1
    again = call("edges", "-o", "edges")
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr
    assert call("edges", "--orientations", "1", "-o", "edges", "--overwrite").exit_code == 0
    Path("mine").mkdir()
    Path("mine/holiday.png").write_text("precious")
    foreign = call("edges", "-o", "mine", "--overwrite")
    assert foreign.exit_code == 1
    assert "was not made by this command" in foreign.stderr
    assert Path("mine/holiday.png").read_text() == "precious"
    bad = call("glyphs", "--colours", "white", "-o", "x")
    assert bad.exit_code == 2
    assert "INK/PAPER" in bad.stderr
    empty = call("glyphs", "--chars", "\n", "-o", "x")
    assert empty.exit_code == 2
    assert {path.name for path in tmp_path.iterdir()} == {"edges", "mine", "words", "words.txt"}
