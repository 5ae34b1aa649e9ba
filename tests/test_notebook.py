"""Previews beside large mosaics, and what a notebook shows of a result."""

import io
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from conftest import photo, save
from PIL import Image

import hirez_mosaic
from hirez_mosaic.errors import HirezMosaicError, SettingError
from hirez_mosaic.jobs.batch import batch
from hirez_mosaic.jobs.prepare import _check_preview
from hirez_mosaic.jobs.preview import preview_of
from hirez_mosaic.jobs.render import RenderResult
from hirez_mosaic.jobs.text_listener import TextListener
from hirez_mosaic.settings.spec import RenderSpec

LARGE, SMALL = (10_000, 5_001), (10_000, 5_000)


class Notes(hirez_mosaic.Listener):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def spec(tmp_path: Path) -> RenderSpec:
    (tmp_path / "album").mkdir()
    return RenderSpec(
        source=tmp_path / "photo.jpg", templates=tmp_path / "album", tile=(8, 8), output=tmp_path / "wall.tif"
    )


def preview(spec: RenderSpec, size: tuple[int, int], notes: Notes) -> Path | None:
    return preview_of(spec, size, partial(_check_preview, spec), notes)


def test_a_mosaic_of_more_than_50_mpx_has_a_preview_beside_it(spec: RenderSpec) -> None:
    notes = Notes()
    assert preview(spec, LARGE, notes) == spec.output.with_name("wall.preview.jpg")
    assert preview(spec, SMALL, notes) is None
    assert preview(replace(spec, no_preview=True), LARGE, notes) is None
    named = replace(spec, preview=spec.output.with_name("p.png"))
    assert preview(named, LARGE, notes) == named.preview
    assert notes.lines == []


def test_a_preview_that_nobody_asked_for_replaces_no_file(spec: RenderSpec) -> None:
    notes, place = Notes(), spec.output.with_name("wall.preview.jpg")
    place.write_text("mine")
    assert preview(spec, LARGE, notes) is None
    assert "is there already and stays as it is; `overwrite` replaces it" in notes.lines[0]
    assert preview(replace(spec, overwrite=True), LARGE, notes) == place
    own = replace(spec, source=place, overwrite=True)
    assert preview(own, LARGE, notes) is None
    assert "would be in the way" in notes.lines[1]


@pytest.fixture
def render(tmp_path: Path, make_templates: Callable[[int], Path], own_cache: Path) -> Callable[..., RenderResult]:
    save(tmp_path / "photo.png", photo(64, 80))
    album = make_templates(30)

    def make(output: str = "wall.tif", **settings: object) -> RenderResult:
        return hirez_mosaic.render(
            tmp_path / "photo.png", album, 8, tmp_path / output, columns=20, device="cpu", **settings
        )

    return make


def test_render_and_batch_write_previews_of_large_mosaics(
    render: Callable[..., RenderResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hirez_mosaic.jobs.preview.PREVIEW_FROM_PX", 1000)
    result = render()
    assert result.preview == tmp_path / "wall.preview.jpg"
    with Image.open(result.preview) as image:
        assert image.size == result.size
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        save(tmp_path / "photos" / name, photo(40, 40))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.preview.jpg").write_text("mine")

    def again(**settings: object) -> dict[str, int]:
        out = tmp_path / "out"
        return batch(tmp_path / "photos", tmp_path / "templates-30", out, 8, columns=9, device="cpu", **settings).counts

    assert again()["made"] == 2
    with Image.open(tmp_path / "out" / "a.preview.jpg") as image:
        assert image.size == (72, 72)
    assert (tmp_path / "out" / "b.preview.jpg").read_text() == "mine"
    assert again()["unchanged"] == 2
    first = (tmp_path / "out" / "a.preview.jpg").read_bytes()
    assert again(tint=1.0)["made"] == 2
    assert (tmp_path / "out" / "a.preview.jpg").read_bytes() != first  # the batch's own is replaced
    assert (tmp_path / "out" / "b.preview.jpg").read_text() == "mine"


@pytest.mark.parametrize("name", ["wall.tif", "wall.dzi", "wall.iiif", "wall.zarr", "wall.jpg"])
def test_a_result_shows_its_picture_and_figures(render: Callable[..., RenderResult], name: str) -> None:
    result = render(name)
    png = result._repr_png_()
    assert png is not None
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        assert image.width / image.height == pytest.approx(20 / 16, rel=0.02)
    shown = result._repr_html_()
    assert 'src="data:image/png;base64,' in shown
    for words in (name, "160 x 128 px", "20 x 16", "of 30 used", "Mpx/s"):
        assert words in shown


def test_a_result_whose_mosaic_is_gone_shows_its_figures(render: Callable[..., RenderResult]) -> None:
    result = render("wall.png")
    result.output.unlink()
    assert result._repr_png_() is None
    assert "<img" not in result._repr_html_()
    assert "160 x 128 px" in result._repr_html_()


def test_a_result_makes_and_shows_its_page(
    render: Callable[..., RenderResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = render("a wall.tif", tile_map=tmp_path / "wall.csv")
    page = result.page(height=300)
    assert page.folder == tmp_path / "a wall.page"
    assert re.search(r'<iframe src="a%20wall\.page/index\.html" .* height="300"', page._repr_html_())
    assert "cells" in (page.folder / "page.js").read_text()
    with pytest.raises(HirezMosaicError, match="is there already; use `overwrite`"):
        result.page()
    knowing = result.page(tmp_path / "known", templates=tmp_path / "templates-30")
    assert '"tile":[8,8]' in (knowing.folder / "page.js").read_text()
    assert knowing.index.is_file()


def test_a_page_that_cannot_be_made_is_told(render: Callable[..., RenderResult], tmp_path: Path) -> None:
    result = render("wall.iiif")
    with pytest.raises(SettingError, match=r"No page can be made of .* afterwards; render with `page`"):
        result.page()
    with pytest.raises(SettingError, match="needs the tile map; render with `tile_map`"):
        result.page(templates=tmp_path / "templates-30")
    assert not (tmp_path / "wall.page").exists()
    written = render("b.dzi", page=tmp_path / "b")
    assert written.page().folder == tmp_path / "b"


def test_progress_as_text(render: Callable[..., RenderResult], capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    render(listener=TextListener(lines.append, every=0))
    planned = re.compile(r".*photo\.png becomes .*wall\.tif: 20 x 16 cells, 160 x 128 px, [\d.]+ [MG]iB of memory\.")
    assert any(map(planned.fullmatch, lines))
    assert any(re.fullmatch(r"assemble: 320 cells in [\d.]+ s", line) for line in lines)
    assert any(re.fullmatch(r"assemble: 100% after \d+ s", line) for line in lines)
    TextListener().unreadable(Path("album"), [(f"{number}.jpg", "is empty") for number in range(7)])
    told = capsys.readouterr().out
    assert told == "Left out of album: " + "; ".join(f"{n}.jpg is empty" for n in range(5)) + "; and 2 more.\n"
