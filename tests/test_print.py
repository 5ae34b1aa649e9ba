"""Prints: sheets hold the mosaic's px, at the size that was asked for, under their names; stickers are as many as
cells.
"""

import csv
import errno
import re
import shutil
import subprocess
import zlib
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import pyvips
import tifffile
import zarr
from click.testing import CliRunner
from conftest import photo, save
from hypothesis import given
from hypothesis import strategies as st

import hirez_mosaic
from hirez_mosaic.cli.main import main
from hirez_mosaic.errors import (
    DiskSpaceError,
    OutputError,
    OutputExistsError,
    SettingError,
    SourceError,
    SourceNotFoundError,
    TemplateError,
    TileMapError,
)
from hirez_mosaic.jobs import print as printing
from hirez_mosaic.jobs.print import PrintListener, PrintPlan, print_sheets
from hirez_mosaic.jobs.remake import assemble_tile_map
from hirez_mosaic.outputs import appearing
from hirez_mosaic.outputs.printing import Paper, Wall, laid, sheet_pages
from hirez_mosaic.outputs.printing.layout import count, name_of, part
from hirez_mosaic.outputs.printing.px import bands
from hirez_mosaic.pixels.geometry import Box
from hirez_mosaic.settings.lengths import INCH, parse_length, parse_paper

pytestmark = pytest.mark.usefixtures("own_cache")
POPPLER = pytest.mark.skipif(shutil.which("pdftoppm") is None, reason="poppler's pdftoppm is not installed")
WIDTH, HEIGHT = 230, 170


class Heard(PrintListener):
    """Keeps the plan."""

    plan: PrintPlan

    def printing(self, plan: PrintPlan) -> None:
        self.plan = plan


class Pdf:
    """A PDF as this program writes it: streams one after the other, all else in the last but one."""

    def __init__(self, path: Path) -> None:
        content, self.images, self.texts, self.plain = path.read_bytes(), [], [], b""
        at = content.index(b"\n", content.index(b"\n") + 1) + 1
        while found := re.compile(rb"\d+ 0 obj\n(<<.*?>>)\nstream\n", re.DOTALL).match(content, at):
            head, length = found[1], int(re.search(rb"/Length (\d+)", found[1])[1])
            data = content[found.end() : found.end() + length]
            at = content.index(b"endobj\n", found.end() + length) + 7
            if b"/Image" in head:
                self.images.append(self._image(head, data))
            elif b"/ObjStm" in head:
                self.plain = zlib.decompress(data)
            elif b"/XRef" not in head and b"/N " not in head:
                self.texts.append(zlib.decompress(data).decode("cp1252"))

    @staticmethod
    def _image(head: bytes, data: bytes) -> np.ndarray:
        width, height = (int(re.search(rb"/%s (\d+)" % side, head)[1]) for side in (b"Width", b"Height"))
        if b"/DCTDecode" in head:
            return pyvips.Image.new_from_buffer(data, "").numpy()
        assert b"/Predictor 2" in head
        differences = np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, width, -1)
        return np.cumsum(differences, 1, np.uint8)

    def boxes(self, name: str) -> list[list[float]]:
        """Of every page, pt."""
        found = re.findall(rf"/{name} \[([^\]]*)\]".encode(), self.plain)
        return [[float(side) for side in box.split()] for box in found]

    def words(self, page: int) -> list[str]:
        return re.findall(r"\((.*?)\) Tj", self.texts[page])


def printed(source: Path, output: Path, **settings: object) -> tuple[PrintPlan, Pdf]:
    heard = Heard()
    print_sheets(source, output, **{"compression": "deflate", **settings}, listener=heard)  # type: ignore[arg-type]
    return heard.plan, Pdf(output)


def put_together(plan: PrintPlan, images: list[np.ndarray]) -> np.ndarray:
    """The wall out of the px of its sheets, of which overlaps must agree."""
    wall, (columns, rows) = plan.wall, plan.wall.grid
    whole, laid_already = np.zeros((wall.size[1], wall.size[0], 3), np.uint8), np.zeros(wall.size[::-1], bool)
    for number, px in enumerate(images):
        box = wall.box(number % columns, number // columns)
        px = px[wall.bleed : px.shape[0] - wall.bleed, wall.bleed : px.shape[1] - wall.bleed]
        again = laid_already[box.slices]
        np.testing.assert_array_equal(whole[box.slices][again], px[again])
        whole[box.slices], laid_already[box.slices] = px, True
    assert laid_already.all()
    assert len(images) == columns * rows
    return whole


def dzi(path: Path, px: np.ndarray) -> None:
    image = pyvips.Image.new_from_array(px)
    image.dzsave(str(path.with_suffix("")), suffix=".png", tile_size=62, overlap=1)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return save(tmp_path / "wall.tif", photo(HEIGHT, WIDTH))


@pytest.fixture
def folder(make_templates: Callable[[int], Path]) -> Path:
    return make_templates(12)


@pytest.fixture
def tile_map(tmp_path: Path, folder: Path) -> Path:
    """9 x 7 cells of 10 of the 12 templates, in some poses."""
    return write_map(tmp_path / "wall.csv", np.random.default_rng(2).integers(0, 10, (7, 9)))


def write_map(path: Path, numbers: np.ndarray, name: str = "{:03d}.png", **others: object) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["row", "column", "template", "mirror", "rotate", "colour", "tint"])
        writer.writeheader()
        for (row, column), number in np.ndenumerate(numbers):
            pose = {"mirror": int(number == 3), "rotate": 90 * int(number == 4)}
            cell = {"row": row, "column": column, "template": name.format(number), **pose, "colour": "#c04020"}
            writer.writerow({**cell, **others})
    return path


# --- lengths, papers, layout


@pytest.mark.parametrize(
    ("text", "mm"), [("2m", 2000), ("150 cm", 1500), ("10MM", 10), ("2.5in", 63.5), ('1"', 25.4), ("5ft", 1524)]
)
def test_lengths(text: str, mm: float) -> None:
    assert float(parse_length(text, "width")) == mm


@pytest.mark.parametrize("text", ["", "2", "m", "-2m", "2 miles", "1e3mm", "nan mm", "2m3"])
def test_what_is_no_length(text: str) -> None:
    with pytest.raises(SettingError, match=r"The width is .*; use a number with a unit such as 2m, 150cm"):
        parse_length(text, "width")


@pytest.mark.parametrize(
    ("text", "size", "turnable"),
    [
        ("A3", (297, 420), True),
        ("letter", (215.9, 279.4), True),
        ("Tabloid", (279.4, 431.8), True),
        ("329x483mm", (329, 483), False),
        ("19in x 13in", (482.6, 330.2), False),
        ("1mx50cm", (1000, 500), False),
    ],
)
def test_papers(text: str, size: tuple[float, float], turnable: bool) -> None:
    (width, height), turns = parse_paper(text)
    assert ((float(width), float(height)), turns) == (size, turnable)


@pytest.mark.parametrize("text", ["A7", "", "300x400", "10x10mm", "1mx6m", "0x5cm"])
def test_what_is_no_paper(text: str) -> None:
    with pytest.raises(SettingError, match=r"The paper is .*; use "):
        parse_paper(text)


@given(st.integers(1, 400), st.integers(2, 90), st.integers(0, 40))
def test_parts_cover_a_length_and_overlap(length: int, room: int, overlap: int) -> None:
    overlap = min(overlap, room - 1)
    found = [part(number, length, room, overlap) for number in range(count(length, room, overlap))]
    assert found[0][0] == 0
    assert found[-1][1] == length
    assert all(stop - start == room for start, stop in found[:-1])
    assert 0 < found[-1][1] - found[-1][0] <= room
    assert all(before[1] - after[0] == overlap for before, after in pairwise(found))


@pytest.mark.parametrize(("number", "name"), [(0, "A1"), (25, "Z1"), (26, "AA1"), (701, "ZZ1"), (702, "AAA1")])
def test_names_are_those_of_spreadsheets(number: int, name: str) -> None:
    assert name_of(number, 0) == name


def test_paper_lies_as_takes_fewer_sheets() -> None:
    upright = Paper((Fraction(210), Fraction(297)), Fraction(10))
    for size, turned in (((270, 180), True), ((180, 270), False)):
        wall = laid(size, Fraction(1), upright, True, 0, 0)
        assert (wall.grid, wall.paper == upright.turned) == ((1, 1), turned)
    assert laid((270, 180), Fraction(1), upright, False, 0, 0).grid == (2, 1)


# --- sheets


@pytest.mark.parametrize("name", ["wall.png", "wall.tif", "wall.zarr", "wall.dzi"])
@pytest.mark.parametrize("settings", [{}, {"overlap": "10mm"}, {"bleed": "3mm"}])
def test_sheets_are_the_mosaic_px_for_px(tmp_path: Path, name: str, settings: dict[str, str]) -> None:
    px, path = photo(HEIGHT, WIDTH), tmp_path / name
    if name.endswith(".zarr"):
        zarr.create_array(path, data=px, chunks=(64, 50, 3))
    elif name.endswith(".dzi"):
        dzi(path, px)
    else:
        save(path, px)
    plan, pdf = printed(path, tmp_path / "wall.pdf", width="50cm", paper="A5", **settings)
    assert plan.wall.grid[0] > 2
    assert plan.wall.grid[1] > 1
    np.testing.assert_array_equal(put_together(plan, pdf.images[1:]), px)


def test_jpeg_is_close_and_far_smaller(tmp_path: Path, picture: Path) -> None:
    plan, pdf = printed(picture, tmp_path / "wall.pdf", width="50cm", compression="jpeg", quality=95)
    printed(picture, tmp_path / "exact.pdf", width="50cm")
    errors = np.abs(put_together(plan, pdf.images[1:]).astype(int) - photo(HEIGHT, WIDTH))
    assert errors.mean() < 4
    assert (tmp_path / "wall.pdf").stat().st_size < (tmp_path / "exact.pdf").stat().st_size * 0.7


@POPPLER
def test_a_page_shows_the_px_where_they_belong(tmp_path: Path, picture: Path) -> None:
    """At 72 px an inch a px is a point; poppler, asked for 4 px a point, draws each as 4 x 4."""
    plan, _ = printed(picture, tmp_path / "a.pdf", dpi=72.0, paper="2inx3in", margin="0.5in")
    assert plan.wall.room == (72, 144)
    call = ["pdftoppm", "-r", "288", "-png", str(tmp_path / "a.pdf"), str(tmp_path / "page")]
    subprocess.run(call, check=True, timeout=300)
    pages, px = sorted(tmp_path.glob("page-*.png")), photo(HEIGHT, WIDTH)
    assert len(pages) == 1 + 4 * 2
    for number, page in enumerate(pages[1:]):
        box = plan.wall.box(number % 4, number // 4)
        drawn = pyvips.Image.new_from_file(str(page)).numpy()[2::4, 2::4, :3]
        assert drawn.shape == (216, 144, 3)
        np.testing.assert_array_equal(drawn[36 : 36 + box.height, 36 : 36 + box.width], px[box.slices])
        assert (drawn[:, :20] == 255).all()


def test_pages_have_their_size_in_points(tmp_path: Path, picture: Path) -> None:
    plan, pdf = printed(picture, tmp_path / "a.pdf", width="230mm", bleed="3mm", landscape=True)
    assert plan.wall.density == 1
    assert [[round(side, 2) for side in box] for box in pdf.boxes("MediaBox")] == [[0, 0, 841.89, 595.28]] * 2
    left, bottom, right, top = (side * 25.4 / 72 for side in pdf.boxes("TrimBox")[1])
    assert np.allclose([left, 210 - top, right - left, top - bottom], [13, 13, WIDTH, HEIGHT], atol=1e-3)


def test_each_sheet_tells_its_name_and_the_plan_all(tmp_path: Path, picture: Path) -> None:
    plan, pdf = printed(picture, tmp_path / "a.pdf", height="80cm", overlap="5mm")
    columns, rows = plan.wall.grid
    names = [name_of(column, row) for row in range(rows) for column in range(columns)]
    assert pdf.words(0)[2:] == names
    assert pdf.words(0)[0].startswith("wall.tif: 1,082.4 x 800 mm on ")
    for number, name in enumerate(names, 1):
        told = f"{name}   column {(number - 1) % columns + 1} of {columns}, row {(number - 1) // columns + 1} of {rows}"
        assert pdf.words(number) == [told]
    small = pdf.images[0]
    assert small.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(small, photo(HEIGHT, WIDTH))


def test_crop_marks_stand_in_the_margin(tmp_path: Path, picture: Path) -> None:
    plan, pdf = printed(picture, tmp_path / "a.pdf", width="230mm", paper="300x300mm", overlap="20mm")
    mm = 72 / 25.4
    ends = np.array(re.findall(r"([\d.]+) ([\d.]+) [ml]", pdf.texts[1]), float) / mm
    xs, ys = ends[:, 0], 300 - ends[:, 1]
    outside = (xs < 10) | (xs > 240) | (ys < 10) | (ys > 180)
    assert outside.all()
    assert len(ends) == 2 * 8  # one sheet: four corners, two marks each
    assert plan.wall.grid == (1, 1)


def test_neighbours_share_their_overlap_and_mark_it(tmp_path: Path, picture: Path) -> None:
    plan, pdf = printed(picture, tmp_path / "a.pdf", width="230mm", paper="120x300mm", overlap="20mm")
    left, middle = pdf.images[1:3]
    np.testing.assert_array_equal(left[:, -20:], middle[:, :20])
    xs = np.array(re.findall(r"([\d.]+) [\d.]+ m", pdf.texts[2]), float) * 25.4 / 72
    assert {10, 30, 90, 110} <= {round(x, 2) for x in xs.tolist()}
    assert plan.wall.overlap == 20


def test_bleed_goes_on_in_the_neighbour_and_repeats_the_edge(tmp_path: Path, picture: Path) -> None:
    px = photo(HEIGHT, WIDTH)
    _, pdf = printed(picture, tmp_path / "a.pdf", width="230mm", paper="120x300mm", bleed="4mm")
    left, middle = pdf.images[1:3]
    np.testing.assert_array_equal(left[4:-4, 4:], px[:, :96])
    np.testing.assert_array_equal(middle[4:-4], px[:, 88:188])
    np.testing.assert_array_equal(left[:, :4], np.repeat(left[:, 4:5], 4, 1))
    np.testing.assert_array_equal(left[:4], np.repeat(left[4:5], 4, 0))


def test_the_same_print_is_the_same_file(tmp_path: Path, picture: Path) -> None:
    for name in ("a.pdf", "b.pdf"):
        printed(picture, tmp_path / name, width="50cm")
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


# --- tile maps


@pytest.mark.parametrize("tint", [None, 0.5])
@pytest.mark.parametrize("tile", [32, "24x36"])
def test_a_tile_map_is_printed_in_px_of_its_templates(
    tmp_path: Path, tile_map: Path, folder: Path, tint: float | None, tile: int | str
) -> None:
    if tile != 32:  # such templates cannot be turned
        tile_map = write_map(tile_map, np.random.default_rng(2).integers(0, 10, (7, 9)), rotate=0)
    settings = {"templates": folder, "tint": tint}
    plan, pdf = printed(tile_map, tmp_path / "a.pdf", width="30cm", tile=tile, dpi=50.0, **settings)
    assert plan.cells == (9, 7)
    assert 50 <= plan.wall.dots < 51
    assert float(plan.wall.millimetres[0]) == 300
    assemble_tile_map(tile_map, folder, tmp_path / "whole.png", tile=plan.template, tint=tint)
    whole = pyvips.Image.new_from_file(str(tmp_path / "whole.png")).numpy()
    np.testing.assert_array_equal(put_together(plan, pdf.images[1:]), whole)


def test_templates_that_are_not_used_are_not_decoded(tmp_path: Path, tile_map: Path, folder: Path) -> None:
    heard: list[int] = []

    class Counting(PrintListener):
        def stage(self, name: str, total: int, unit: str):  # type: ignore[no-untyped-def]
            heard.extend([total] if name == "templates" else [])
            return super().stage(name, total, unit)

    print_sheets(tile_map, tmp_path / "a.pdf", folder, width="30cm", listener=Counting())
    assert heard == [10]


def stickers(pdf: Pdf) -> list[list[str]]:
    return [pdf.words(page) for page in range(len(pdf.texts)) if re.search(r"\(\d+ [A-Z]+\d+\) Tj", pdf.texts[page])]


def test_stickers_are_as_many_as_cells_and_the_grid_tells_their_places(
    tmp_path: Path, tile_map: Path, folder: Path
) -> None:
    numbers = np.random.default_rng(2).integers(0, 10, (7, 9))
    settings = {"width": "36cm", "dpi": 25.4, "paper": "A4", "cells": True, "templates": folder}
    plan, pdf = printed(tile_map, tmp_path / "a.pdf", **settings)
    assert plan.template == (40, 40)
    pages = stickers(pdf)
    labels = [label.split() for page in pages for label in page]
    assert len(labels) == 63
    assert {place for _, place in labels} == {name_of(column, row) for row in range(7) for column in range(9)}
    assert Counter(int(number) for number, _ in labels) == Counter((numbers + 1).reshape(-1).tolist())
    grid = next(pdf.words(page) for page in range(1, len(pdf.texts)) if "grid-A1" in pdf.words(page)[0])
    np.testing.assert_array_equal(np.array(grid[1 + 9 + 7 :], int).reshape(7, 9), numbers + 1)
    assert grid[1 : 1 + 9 + 7] == [*"ABCDEFGHI", *"1234567"]
    assert plan.pages == len(pdf.texts) == 1 + 1 + len(pages)
    assert "63 stickers of 40 x 40 mm, 10 different" in pdf.words(0)[0]


@pytest.mark.parametrize("tint", [None, 0.5])
def test_stickers_are_their_cells_px_for_px(tmp_path: Path, tile_map: Path, folder: Path, tint: float | None) -> None:
    settings = {"width": "36cm", "dpi": 25.4, "cells": True, "templates": folder, "tint": tint}
    plan, pdf = printed(tile_map, tmp_path / "a.pdf", **settings)
    assemble_tile_map(tile_map, folder, tmp_path / "whole.png", tile=40, tint=tint)
    whole = pyvips.Image.new_from_file(str(tmp_path / "whole.png")).numpy()
    across = 4  # of 42 px in 190
    seen = 0
    for image, labels in zip(pdf.images[1:], stickers(pdf), strict=True):
        assert image.shape[1] == 166
        for at, label in enumerate(labels):
            number, place = label.split()
            row, column = int(place[1:]) - 1, ord(place[0]) - ord("A")
            cell = Box(40 * row, 40 * row + 40, 40 * column, 40 * column + 40)
            top, left = at // across * 44, at % across * 42
            np.testing.assert_array_equal(image[top : top + 40, left : left + 40], whole[cell.slices])
            assert tint is None or int(number) == 9 * row + column + 1
            seen += 1
    assert seen == 63
    assert plan.stickers


# --- TIFF, colours


def test_a_tiff_a_sheet_is_the_whole_paper(tmp_path: Path, picture: Path) -> None:
    heard = Heard()
    settings = {"width": "460mm", "paper": "A4", "format": "tif", "compression": "deflate"}
    result = print_sheets(picture, tmp_path / "sheets", **settings, listener=heard)
    wall, px = heard.plan.wall, photo(HEIGHT, WIDTH)
    names = [f"sheet-{name_of(column, row)}.tif" for row in range(wall.grid[1]) for column in range(wall.grid[0])]
    assert sorted(path.name for path in (tmp_path / "sheets").iterdir()) == sorted(["plan.tif", *names])
    assert result.sheets == wall.grid
    for number, name in enumerate(names):
        box = wall.box(number % wall.grid[0], number // wall.grid[0])
        with tifffile.TiffFile(tmp_path / "sheets" / name) as file:
            page = file.pages[0]
            paper, tags = page.asarray(), {tag.name: tag.value for tag in page.tags}
        assert paper.shape == (round(wall.paper.size[1] / 2), round(wall.paper.size[0] / 2), 3)
        np.testing.assert_array_equal(paper[5 : 5 + box.height, 5 : 5 + box.width], px[box.slices])
        assert (paper != 255).any(2)[:5].sum() + (paper != 255).any(2)[5 + box.height :].sum() > 20  # marks and label
        across, unit = tags["XResolution"], tags["ResolutionUnit"]
        assert (round(across[0] / across[1], 3), unit) == (12.7, 2)
        assert tags["InterColorProfile"][36:40] == b"acsp"


def cmyk(tmp_path: Path) -> Path:
    """libvips' own profile of a press."""
    path = tmp_path / "press.icc"
    path.write_bytes(bytes(pyvips.Operation.call("profile_load", "cmyk")))
    return path


def through(px: np.ndarray, profile: Path) -> np.ndarray:
    image = pyvips.Image.new_from_array(px).copy(interpretation="srgb")
    how = {"input_profile": "srgb", "intent": "relative", "black_point_compensation": True}
    return image.icc_transform(str(profile), **how).numpy()


def test_colours_are_srgb_with_the_profile_or_cmyk(tmp_path: Path, picture: Path) -> None:
    profile, px = cmyk(tmp_path), photo(HEIGHT, WIDTH)
    _, pdf = printed(picture, tmp_path / "a.pdf", width="20cm")
    assert pdf.images[1].shape[2] == 3
    _, pdf = printed(picture, tmp_path / "b.pdf", width="20cm", profile=profile)
    np.testing.assert_array_equal(pdf.images[1], through(px, profile))
    assert b"/OutputIntent" in pdf.plain
    _, pdf = printed(picture, tmp_path / "c.pdf", width="20cm", profile=profile, compression="jpeg", quality=98)
    assert np.abs(pdf.images[1].astype(int) - through(px, profile)).mean() < 3
    print_sheets(picture, tmp_path / "d", width="20cm", profile=profile, format="tif", compression="deflate")
    sheet = pyvips.Image.new_from_file(str(tmp_path / "d" / "sheet-A1.tif"))
    assert (sheet.interpretation, sheet.get("icc-profile-data")) == ("cmyk", profile.read_bytes())


@POPPLER
@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_cmyk_is_not_inverted(tmp_path: Path, compression: str) -> None:
    px = np.full((72, 72, 3), 255, np.uint8)
    px[:36] = (30, 30, 30)
    save(tmp_path / "a.png", px)
    settings = {"dpi": 72.0, "paper": "2inx2in", "margin": "0.5in", "profile": cmyk(tmp_path)}
    printed(tmp_path / "a.png", tmp_path / "a.pdf", compression=compression, **settings)
    call = ["pdftoppm", "-r", "72", "-f", "2", "-png", str(tmp_path / "a.pdf"), str(tmp_path / "page")]
    subprocess.run(call, check=True, timeout=120)
    drawn = pyvips.Image.new_from_file(str(next(tmp_path.glob("page-*.png")))).numpy()[..., :3]
    assert drawn[45:60, 45:100].mean() < 90
    assert drawn[85:100, 45:100].mean() > 230


# --- memory


class Huge:
    """A picture of 100,000 x 100,000 px; remembers what is read of it."""

    size = (100_000, 100_000)

    def __init__(self) -> None:
        self.read_px: list[int] = []

    def read(self, box: Box) -> np.ndarray:
        self.read_px.append(box.area)
        return np.zeros((box.height, box.width, 3), np.uint8)


def test_a_sheet_is_read_in_bands_however_large_it_is() -> None:
    huge = Huge()
    whole = bands(huge, Box(0, 100_000, 0, 100_000))
    for _ in range(3):
        next(whole)
    wall = Wall(huge.size, Fraction(300) / INCH, Paper((Fraction(297), Fraction(420)), Fraction(10)))
    wall.check()
    assert wall.grid == (31, 22)
    first = sheet_pages(wall, huge)[0].picture
    assert first is not None
    assert [len(band) for band in first.bands()] == [854] * 5 + [454]
    assert max(huge.read_px) <= 256 * 100_000
    assert max(huge.read_px[3:]) <= (8 << 20) / 3


def test_a_sheet_is_written_before_the_next_is_read(
    tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    save_one, write = printing.write_pdf.__globals__["save"], printing.write_pdf.__globals__["_content"]

    def saving(*values: object) -> None:
        events.append("read")
        save_one(*values)

    def writing(*values: object):  # type: ignore[no-untyped-def]
        yield from write(*values)
        events.append("written")

    monkeypatch.setitem(printing.write_pdf.__globals__, "save", saving)
    monkeypatch.setitem(printing.write_pdf.__globals__, "_content", writing)
    plan, _ = printed(picture, tmp_path / "a.pdf", width="50cm")
    assert events == ["read", "written"] * plan.pages


# --- what is wrong


def remaining(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


BAD = [
    ({"width": "2"}, SettingError, r"The width is '2'; use a number with a unit such as 2m"),
    ({"width": "0mm"}, SettingError, r"The print is 0 mm wide or high"),
    ({}, SettingError, r"The size of the print is given 0 times; give one of `width` and `height`, or `dpi`"),
    ({"width": "2m", "height": "1m"}, SettingError, r"given 2 times"),
    ({"width": "2m", "dpi": 300.0}, SettingError, r"given 2 times"),
    ({"dpi": float("nan")}, SettingError, r"The dots an inch are nan; use 1 to 10,000"),
    ({"width": "2m", "paper": "A9"}, SettingError, r"The paper is 'A9'"),
    (
        {"width": "2m", "paper": "A6", "margin": "6cm"},
        SettingError,
        r"105 x 148 mm is smaller than its margins of 60 mm",
    ),
    ({"width": "20m", "paper": "A6"}, SettingError, r"too little room"),
    ({"width": "2m", "overlap": "20cm"}, SettingError, r"too little room for margins of 10 mm, overlap and bleed"),
    ({"width": "2m", "overlap": "1cm", "bleed": "3mm"}, SettingError, r"`overlap` is for sheets that are glued"),
    ({"width": "2m", "cells": True}, SettingError, r"is no tile map \(csv, json, parquet\), which alone has cells"),
    ({"width": "2m", "templates": "t"}, SettingError, r"is no tile map"),
    ({"width": "2m", "format": "tif"}, SettingError, r"is called as a file is"),
    ({"width": "2m", "quality": 80, "compression": "deflate"}, SettingError, "`quality` is of jpeg and `compression`"),
    ({"width": "2m", "quality": 0}, SettingError, r"The quality is 0; use 1 to 100"),
    ({"width": "2m", "profile": "none.icc"}, SettingError, r"The profile none.icc cannot be used: No such file"),
    ({"width": "2m", "crop": "middle"}, SettingError, r"The crop is 'middle'"),
    ({"width": "2m", "compression": "lzw"}, SettingError, r"The compression is 'lzw'; use one of jpeg, deflate"),
]


@pytest.mark.parametrize(("settings", "kind", "told"), BAD)
def test_wrong_settings_are_told_and_nothing_is_left(
    tmp_path: Path, picture: Path, settings: dict[str, object], kind: type[Exception], told: str
) -> None:
    before = remaining(tmp_path)
    with pytest.raises(kind, match=told):
        print_sheets(picture, tmp_path / "out.pdf", **settings)  # type: ignore[arg-type]
    assert remaining(tmp_path) == before


def test_too_many_sheets(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"take .* sheets of 105 x 148 mm and 20,000 are the most"):
        print_sheets(save(tmp_path / "a.png", photo(900, 900)), tmp_path / "a.pdf", width="18m", paper="A6")


def test_profiles_that_are_none_or_of_rgb(tmp_path: Path, picture: Path) -> None:
    (tmp_path / "none.icc").write_bytes(b"no profile")
    (tmp_path / "rgb.icc").write_bytes(bytes(pyvips.Operation.call("profile_load", "srgb")))
    with pytest.raises(SettingError, match=r"none.icc cannot be used: it is no colour profile"):
        print_sheets(picture, tmp_path / "a.pdf", width="2m", profile=tmp_path / "none.icc")
    with pytest.raises(SettingError, match=r"rgb.icc is one of RGB and not of CMYK"):
        print_sheets(picture, tmp_path / "a.pdf", width="2m", profile=tmp_path / "rgb.icc")


def test_pictures_and_maps_that_are_not_there_or_broken(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="There is no mosaic or tile map"):
        print_sheets(tmp_path / "none.tif", tmp_path / "a.pdf", width="2m")
    with pytest.raises(TileMapError, match="There is no tile map"):
        print_sheets(tmp_path / "none.csv", tmp_path / "a.pdf", folder, width="2m")
    (tmp_path / "b.tif").write_bytes(b"no picture")
    with pytest.raises(SourceError, match=r"b.tif is not a picture"):
        print_sheets(tmp_path / "b.tif", tmp_path / "a.pdf", width="2m")


def test_tile_maps_of_other_templates_and_templates_that_are_gone(tmp_path: Path, tile_map: Path, folder: Path) -> None:
    with pytest.raises(SettingError, match="give the folder that they are in with `templates`"):
        print_sheets(tile_map, tmp_path / "a.pdf", width="2m")
    write_map(tmp_path / "other.csv", np.zeros((2, 3), int), name="else-{}.png")
    with pytest.raises(TileMapError, match=r"1 of the 1 templates that the tile map .* names are not in .*else-0.png"):
        print_sheets(tmp_path / "other.csv", tmp_path / "a.pdf", folder, width="2m")
    (folder / "005.png").write_bytes(b"no picture")
    with pytest.raises(TemplateError, match=r"The template 005.png that the tile map .* names cannot be read"):
        print_sheets(tile_map, tmp_path / "a.pdf", folder, width="30cm")
    (folder / "005.png").unlink()
    with pytest.raises(TileMapError, match=r"1 of the 10 templates .* are not in .*, 005.png for one"):
        print_sheets(tile_map, tmp_path / "a.pdf", folder, width="30cm")
    assert not list(tmp_path.glob("*.pdf"))
    assert not list(tmp_path.glob(".*"))


def test_stickers_that_do_not_fit_or_would_overlap(tmp_path: Path, tile_map: Path, folder: Path) -> None:
    with pytest.raises(SettingError, match=r"A sticker of 222.* does not fit between the margins of 210 x 297 mm"):
        print_sheets(tile_map, tmp_path / "a.pdf", folder, width="2m", dpi=50, cells=True)
    with pytest.raises(SettingError, match="`overlap` and `bleed` are of sheets and `cells` prints stickers"):
        print_sheets(tile_map, tmp_path / "a.pdf", folder, width="30cm", cells=True, bleed="3mm")
    with pytest.raises(SettingError, match=r"A template would be .* and 4,096 a side are the most"):
        print_sheets(tile_map, tmp_path / "a.pdf", folder, width="20m", dpi=300)


def test_outputs_that_are_there(tmp_path: Path, picture: Path) -> None:
    (tmp_path / "a.pdf").write_text("mine")
    with pytest.raises(OutputExistsError, match="use `overwrite`"):
        print_sheets(picture, tmp_path / "a.pdf", width="20cm")
    assert (tmp_path / "a.pdf").read_text() == "mine"
    print_sheets(picture, tmp_path / "a.pdf", width="20cm", overwrite=True)
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    for paper in ("A5", "A4"):
        print_sheets(picture, tmp_path / "b", width="20cm", format="tif", paper=paper, overwrite=paper == "A4")
    assert remaining(tmp_path / "b") == {"plan.tif", "sheet-A1.tif"}
    (tmp_path / "b" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="is a folder that no mosaic was written to"):
        print_sheets(picture, tmp_path / "b", width="20cm", format="tif", overwrite=True)
    for output, told in ((picture, "is no .pdf"), (tmp_path / "c.tif", "is no .pdf")):
        with pytest.raises(SettingError, match=told):
            print_sheets(picture, output, width="20cm", overwrite=True)


def test_a_disk_too_small_and_one_that_fills(tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = remaining(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(appearing.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1000))  # type: ignore[attr-defined]
        with pytest.raises(DiskSpaceError, match=r"The disk of the print has 1000 B free and the print takes about"):
            print_sheets(picture, tmp_path / "a.pdf", width="20cm")
    monkeypatch.setitem(printing.write_pdf.__globals__, "deflate", full)
    with pytest.raises(DiskSpaceError, match="The print could not be written: No space left on device"):
        print_sheets(picture, tmp_path / "a.pdf", width="20cm", compression="deflate")
    assert remaining(tmp_path) == before


@pytest.mark.parametrize("form", ["pdf", "tif"])
def test_whoever_interrupts_leaves_nothing(tmp_path: Path, picture: Path, form: str) -> None:
    class Interrupting(PrintListener):
        def stage(self, name: str, total: int, unit: str):  # type: ignore[no-untyped-def]
            if name == "print":
                raise KeyboardInterrupt
            return super().stage(name, total, unit)

    before = remaining(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        print_sheets(
            picture, tmp_path / ("a.pdf" if form == "pdf" else "a"), width="50cm", format=form, listener=Interrupting()
        )
    assert remaining(tmp_path) == before


def test_jpeg_ends_at_65500_px(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.zeros((2, 66_000, 3), np.uint8))
    settings = {"width": "1m", "paper": "2x1m"}
    with pytest.raises(OutputError, match=r"A sheet has 66,000 x 2 px and JPEG ends at 65,500 a side"):
        print_sheets(tmp_path / "a.png", tmp_path / "a.pdf", **settings)
    print_sheets(tmp_path / "a.png", tmp_path / "a.pdf", **settings, compression="deflate")


def test_deep_zoom_that_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.dzi"
    dzi(path, photo(HEIGHT, WIDTH))
    last = max(int(level.name) for level in (tmp_path / "a_files").glob("[0-9]*"))
    (tmp_path / "a_files" / str(last) / "1_1.png").unlink()
    with pytest.raises(SourceError, match=r"its tile 1_1.png cannot be read"):
        print_sheets(path, tmp_path / "a.pdf", width="20cm")
    shutil.rmtree(tmp_path / "a_files" / str(last))
    with pytest.raises(SourceError, match="lacks its tiles"):
        print_sheets(path, tmp_path / "a.pdf", width="20cm")
    path.write_text("<Image/>")
    with pytest.raises(SourceError, match="no Deep Zoom file that can be read"):
        print_sheets(path, tmp_path / "a.pdf", width="20cm")


# --- what people are told


@pytest.mark.parametrize(
    ("template", "mm", "told"),
    [
        ((32, 32), 6, "a face is known from up to 0.6 m away"),
        ((300, 200), 75, "a face is known from up to 5.4 m away"),
        ((31, 64), 50, "too few px to know a face, which takes 32"),
        ((64, 64), 2, "too small to know a face, which takes 2.3 mm"),
    ],
)
def test_whether_a_face_is_known(template: tuple[int, int], mm: int, told: str) -> None:
    """A 32nd part of the template's shorter side is a minute of arc at that distance."""
    wall = Wall((1000, 1000), Fraction(template[0], mm), Paper((Fraction(210), Fraction(297)), Fraction(10)))
    assert PrintPlan(Path(), Path(), wall, template, None, False, 1, 1, None).face == told


def test_the_terminal_shows_the_plan(tmp_path: Path, picture: Path) -> None:
    words = ["print", str(picture), "--width", "460mm", "--overlap", "1cm", "-o", str(tmp_path / "a.pdf"), "--json"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    for told in ("460 x 340 mm, 13 px an inch", "2 across, 2 down; 10.0 mm of overlap", "5 pages", '"sheets": [2, 2]'):
        assert told in result.output
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert "is there already; use --overwrite" in result.output


def test_python_has_it() -> None:
    assert hirez_mosaic.print_sheets is print_sheets
