"""Pages as files: levels, blocks, what is private, and what is left when something goes wrong. `test_browser` looks at
them.
"""

import base64
import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pyvips
from click.testing import CliRunner
from conftest import photo, save

from hirez_mosaic.cli.main import main
from hirez_mosaic.errors import (
    DiskSpaceError,
    HirezMosaicError,
    OutputError,
    OutputExistsError,
    SettingError,
    SourceError,
    TemplateError,
)
from hirez_mosaic.jobs.batch import batch
from hirez_mosaic.jobs.page import make_pages
from hirez_mosaic.jobs.remake import assemble_tile_map
from hirez_mosaic.jobs.render import render
from hirez_mosaic.outputs.mosaic_file import assemble
from hirez_mosaic.outputs.pages import Contents, write_page
from hirez_mosaic.outputs.pages.blocks import USES, drawer_of
from hirez_mosaic.outputs.pages.levels import cell_level, cell_tile, halved, shrunk_sets, template_sizes
from hirez_mosaic.stages.assemble import Mosaic
from hirez_mosaic.stages.tint import Tint
from hirez_mosaic.templates import TemplateSet, load_templates

pytestmark = pytest.mark.usefixtures("own_cache", "with_random_weights")
ROWS, COLUMNS = 70, 90  # more than a block of the index map each way


def write_map(path: Path, names: list[str], numbers: np.ndarray, **others: str) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["row", "column", "template", "mirror", "rotate", "colour", "tint"])
        writer.writeheader()
        for (row, column), number in np.ndenumerate(numbers):
            pose = {"mirror": (row + column) % 2, "rotate": 90 * (row % 4)}
            writer.writerow(
                {"row": row, "column": column, "template": names[number], **pose, "colour": "#204060", **others}
            )
    return path


@pytest.fixture
def folder(make_templates: Callable[[int], Path]) -> Path:
    """30 templates of 24 x 24 px, the last two in a folder of their own."""
    made = make_templates(30)
    (made / "aunt Mary's").mkdir()
    for number in (28, 29):
        (made / f"{number:03d}.png").rename(made / "aunt Mary's" / f"{number:03d}.png")
    return made


@pytest.fixture
def made(tmp_path: Path, folder: Path) -> tuple[Path, Path, np.ndarray]:
    """(tile map, templates, numbers of the templates): all are used but template 7."""
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.png"))
    numbers = np.random.default_rng(1).choice([number for number in range(30) if number != 7], (ROWS, COLUMNS))
    return write_map(tmp_path / "wall.csv", names, numbers), folder, numbers


def content(page: Path, name: str) -> object:
    """Of a block; numbers where it holds them."""
    found = re.fullmatch(rf'hirezMosaicBlock\("{name}",(.*)\)\n', (page / f"{name}.js").read_text())
    assert found
    told = json.loads(found[1])
    return np.frombuffer(base64.b64decode(told), "<u4") if isinstance(told, str) else told


def described(page: Path) -> dict:
    return json.loads((page / "page.js").read_text().removeprefix("window.hirezMosaicPage = ").removesuffix(";\n"))


def px(path: Path) -> np.ndarray:
    return pyvips.Image.new_from_file(str(path)).numpy()


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_blocks_tell_what_the_tile_map_does(tmp_path: Path, made: tuple[Path, Path, np.ndarray]) -> None:
    table, folder, numbers = made
    make_pages([table], tmp_path / "page", folder, 12)
    page, cells = tmp_path / "page", described(tmp_path / "page")["cells"]
    assert (cells["columns"], cells["rows"], cells["templates"], len(cells["poses"])) == (COLUMNS, ROWS, 29, 8)
    names = content(page, "names/0")
    assert names["names"] == sorted(
        {file.relative_to(folder).as_posix() for file in folder.rglob("*.png")} - {"007.png"}
    )
    expected = numbers - (numbers > 7)
    for top in (0, 64):
        for left in (0, 64):
            block = content(page, f"index/{top // 64}/{left // 64}").reshape(min(64, ROWS - top), -1)
            here = expected[top : top + 64, left : left + 64]
            assert np.array_equal(block // 8, here)
            rows, columns = np.ogrid[top : top + here.shape[0], left : left + here.shape[1]]
            poses = np.array(cells["poses"])[block % 8]
            assert np.array_equal(poses[..., 0], (rows + columns) % 2)
            assert np.array_equal(poses[..., 1], np.broadcast_to(rows % 4, here.shape))
    uses = np.concatenate([content(page, f"uses/{number}") for number in range(-(-numbers.size // USES))])
    for number in range(29):
        here = uses[names["first"][number] : names["first"][number + 1]]
        assert np.array_equal(here, np.flatnonzero(expected == number))


def test_search_finds_every_three_letters_of_a_name(tmp_path: Path, made: tuple[Path, Path, np.ndarray]) -> None:
    table, folder, _ = made
    make_pages([table], tmp_path / "page", folder, 12)
    for name in content(tmp_path / "page", "names/0")["names"]:
        for at in range(len(name) - 2):
            three = name[at : at + 3].lower()
            assert content(tmp_path / "page", f"search/{drawer_of(three)}")[three] == [0]


@pytest.mark.parametrize("tinted", [False, True])
def test_tiles_are_the_mosaic(tmp_path: Path, folder: Path, tinted: bool) -> None:
    templates = load_templates(folder, (12, 12), cache=tmp_path / "cache", jobs=1).in_poses(mirror=True, rotate=True)
    rng = np.random.default_rng(2)
    choices = rng.integers(0, len(templates), (50, 60), np.uint32)
    colours, strength = rng.integers(0, 255, (50, 60, 3), np.uint8), rng.random((50, 60), np.float32)
    tint = Tint.of(templates, colours, strength) if tinted else None
    assemble(Mosaic(choices, templates, tint), tmp_path / "mosaic.png", lambda cells: None)
    level = cell_level(templates, 60, 50, (12, 12))
    assert level.size == (720, 600)
    assert level.tile == (504, 504)
    make = cell_tile(templates, level, choices, tint)
    whole = np.concatenate([np.concatenate([make(column, row) for column in range(2)], 1) for row in range(2)])
    assert np.array_equal(whole, px(tmp_path / "mosaic.png"))


def test_smaller_levels_are_made_of_smaller_templates(tmp_path: Path, folder: Path) -> None:
    templates = load_templates(folder, (16, 24), cache=tmp_path / "cache", jobs=1)
    sizes = template_sizes((16, 24), 160)
    assert sizes == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 1)]
    *_, last = shrunk_sets(templates, sizes, tmp_path)
    assert np.abs(last.pixels[:, 0, 0] - templates.pixels.mean((1, 2))).max() <= 3  # each level rounds once
    assert template_sizes((16, 24), 12) == [(8, 12), (4, 6), (2, 3), (1, 1)]


def test_a_picture_of_odd_size_is_halved(tmp_path: Path) -> None:
    ramp = np.broadcast_to((np.arange(5) * 10).astype(np.uint8)[:, None, None], (5, 3, 3))
    assert halved(ramp, tmp_path / "half")[:, :, 0].tolist() == [[5, 5], [25, 25], [40, 40]]


def test_levels_lead_from_one_tile_to_the_full_size(tmp_path: Path, made: tuple[Path, Path, np.ndarray]) -> None:
    table, folder, _ = made
    make_pages([table], tmp_path / "page", folder, 12)
    told = described(tmp_path / "page")
    assert [level["size"] for level in told["levels"]] == [[270, 210], [540, 420], [1080, 840]]
    for which, levels in (("tiles", told["levels"]), ("source", told["source"])):
        for level in levels:
            (width, height), (across, down) = level["size"], level["tile"]
            files = {(row, column) for row in range(-(-height // down)) for column in range(-(-width // across))}
            place = tmp_path / "page" / which / f"{width}x{height}"
            assert {(int(file.parent.name), int(file.stem)) for file in place.rglob("*.jpg")} == files
            last = px(place / str(-(-height // down) - 1) / f"{-(-width // across) - 1}.jpg")
            assert last.shape[:2] == ((height - 1) % down + 1, (width - 1) % across + 1)


def test_a_render_writes_the_page_of_its_tile_map_which_fades_to_its_source(tmp_path: Path, folder: Path) -> None:
    source = save(tmp_path / "source.png", photo(50, 66))
    render(
        source,
        folder,
        12,
        tmp_path / "m.png",
        columns=20,
        page=tmp_path / "one",
        tile_map=tmp_path / "m.csv",
        mirror=True,
    )
    make_pages([tmp_path / "m.csv"], tmp_path / "two", folder, 12, source=source)
    assemble_tile_map(tmp_path / "m.csv", folder, tmp_path / "again.png", 12, page=tmp_path / "three")
    for name in (
        "index/0/0.js",
        "names/0.js",
        "uses/0.js",
        "tiles/240x192/0/0.jpg",
        "source/160x128/0/0.jpg",
        "small.jpg",
    ):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert (tmp_path / "three" / "tiles/240x192/0/0.jpg").read_bytes() == (
        tmp_path / "one" / "tiles/240x192/0/0.jpg"
    ).read_bytes()
    seen, wanted = (
        px(tmp_path / "one" / "source/160x128/0/0.jpg")[:121],
        pyvips.Image.new_from_file(str(source)).resize(160 / 66).numpy(),
    )
    assert np.abs(seen.astype(int) - wanted[:121, :160]).mean() < 12  # noise, and JPEG


def test_no_name_that_is_not_used_and_with_anonymous_none_at_all(
    tmp_path: Path, made: tuple[Path, Path, np.ndarray]
) -> None:
    table, folder, _ = made
    make_pages([table], tmp_path / "page", folder, 12)
    make_pages([table], tmp_path / "secret", folder, 12, anonymous=True)

    def told(page: Path) -> bytes:
        return b"".join(
            file.read_bytes() for file in page.rglob("*") if file.is_file() and file.parent.name != "viewer"
        )

    assert b"008.png" in told(tmp_path / "page")
    assert b"007.png" not in told(tmp_path / "page")
    assert b"Mary" not in told(tmp_path / "secret")
    for page in ("page", "secret"):
        assert b"008.png" not in told(tmp_path / "secret")
        assert str(tmp_path).encode() not in told(tmp_path / page)


def test_exif_and_comments_of_templates_reach_no_page(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    image = pyvips.Image.new_from_array(photo(200, 200)).copy(interpretation="srgb")
    image.set_type(pyvips.GValue.gstr_type, "exif-ifd3-GPSLatitude", "48/1 51/1 24/1")
    image.set_type(pyvips.GValue.gstr_type, "exif-ifd0-Artist", "Somebody")
    image.jpegsave(str(folder / "holiday.jpg"), keep="exif")
    assert b"Somebody" in (folder / "holiday.jpg").read_bytes()
    table = write_map(tmp_path / "wall.csv", ["holiday.jpg"], np.zeros((3, 4), int))
    make_pages([table], tmp_path / "page", folder, 16)
    files = list((tmp_path / "page").rglob("*.jpg"))
    assert len(files) > 3
    for file in files:
        assert b"Exif" not in file.read_bytes()
        assert b"Somebody" not in file.read_bytes()


def test_thumbnails_bound_what_a_visitor_sees_of_a_template(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        save(folder / f"{number}.png", photo(300, 200, seed=number))
    table = write_map(tmp_path / "wall.csv", ["0.png", "1.png", "2.png"], np.arange(24).reshape(4, 6) % 3)
    for most, (width, height), step in ((None, (107, 160), 1), (100, (67, 100), 1), (30, (20, 30), 2)):
        page = tmp_path / f"page-{most}"
        names, index_map = ["0.png", "1.png", "2.png"], np.arange(24).reshape(4, 6) % 3
        tables = [write_map(table, names, index_map, mirror="0", rotate="0")]
        make_pages(tables, page, folder, "40x60", thumbnails=most)
        assert px(page / "templates" / "0" / "2.jpg").shape == (height, width, 3)
        assert described(page)["levels"][-1]["step"] == [step, step]


def test_templates_smaller_than_the_tile_are_not_enlarged(tmp_path: Path, made: tuple[Path, Path, np.ndarray]) -> None:
    make_pages([made[0]], tmp_path / "page", made[1], 12)
    assert px(tmp_path / "page" / "templates" / "0" / "0.jpg").shape == (24, 24, 3)


def test_several_mosaics_are_a_gallery(tmp_path: Path, made: tuple[Path, Path, np.ndarray]) -> None:
    table, folder, _ = made
    other = shutil.copy(table, tmp_path / "<b> & c.csv")
    plain = save(tmp_path / "plain.png", photo(60, 90))
    with pytest.raises(SettingError, match=r"plain.png is no tile map"):
        make_pages([table, plain], tmp_path / "pages", folder, 12)
    make_pages([table, other], tmp_path / "pages", folder, 12)
    index = (tmp_path / "pages" / "index.html").read_text()
    assert "&lt;b&gt; &amp; c" in index
    assert "pages/%3Cb%3E%20%26%20c/index.html" in index
    assert (tmp_path / "pages" / "pages" / "<b> & c" / "small.jpg").is_file()
    make_pages([plain], tmp_path / "pages", overwrite=True)  # a page may take the place of another
    assert described(tmp_path / "pages")["cells"] is None


def test_a_page_of_a_picture_is_its_px(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    smooth = pyvips.Image.new_from_array(rng.integers(0, 255, (10, 13, 3), np.uint8)).resize(90, kernel="cubic").numpy()
    for name in ("wall.png", "wall.tif", "wall.dzi"):
        image = pyvips.Image.new_from_array(smooth).copy(interpretation="srgb")
        if name.endswith(".dzi"):
            image.dzsave(str(tmp_path / "wall"), suffix=".png")
        else:
            image.write_to_file(str(tmp_path / name))
        make_pages([tmp_path / name], tmp_path / f"{name} page")
        page = tmp_path / f"{name} page"
        assert [level["size"] for level in described(page)["levels"]] == [[293, 225], [585, 450], [1170, 900]]
        assert np.abs(px(page / "tiles/1170x900/1/2.jpg").astype(int) - smooth[512:, 1024:]).mean() < 3
        half = smooth.reshape(450, 2, 585, 2, 3).mean((1, 3))
        assert np.abs(px(page / "tiles/585x450/0/1.jpg") - half[:, 512:]).mean() < 3


def test_a_folder_of_iiif_tiles_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "wall.iiif").mkdir()
    (tmp_path / "wall.iiif" / "info.json").write_text("{}")
    with pytest.raises(SourceError, match="is a folder of IIIF tiles, which are not read"):
        make_pages([tmp_path / "wall.iiif"], tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_a_batch_has_a_gallery_of_its_pages(tmp_path: Path, folder: Path) -> None:
    pictures = tmp_path / "pictures"
    (pictures / "sub").mkdir(parents=True)
    save(pictures / "a.png", photo(40, 50))
    save(pictures / "sub" / "b c.png", photo(40, 50, seed=1))
    batch(pictures, folder, tmp_path / "out", 12, recursive=True, page=True, anonymous=True)
    assert [name for name in listing(tmp_path / "out") if not name.startswith(".")] == [
        "a.page",
        "a.tif",
        "index.html",
        "report.json",
        "sub",
    ]
    index = (tmp_path / "out" / "index.html").read_text()
    assert "a.page/index.html" in index
    assert "sub/b%20c.page/index.html" in index
    shutil.rmtree(tmp_path / "out" / "a.page")
    again = batch(pictures, folder, tmp_path / "out", 12, recursive=True, page=True, anonymous=True)
    assert again.counts["unchanged"] == 1
    assert (tmp_path / "out" / "a.page" / "index.html").is_file()


def test_bad_input_is_a_sentence_and_leaves_nothing(tmp_path: Path, made: tuple[Path, Path, np.ndarray]) -> None:
    table, folder, _ = made
    source = save(tmp_path / "tall.png", photo(90, 20))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("x")
    other = tmp_path / "other"
    other.mkdir()
    save(other / "x.png", photo(24, 24))
    before = listing(tmp_path)
    for words, said in {
        ("nowhere.csv", "--templates", folder): "There is no mosaic or tile map nowhere.csv",
        (table,): "give the folder that they are in with --templates",
        (table, "--templates", other): "is not in",
        (table, "--templates", folder, "--source", source): "which is another shape",
        (table, "--templates", folder, "--thumbnails", "0"): "Templates are shown at 0 px",
        (
            table,
            "--templates",
            folder,
            "-o",
            tmp_path / "notes",
            "--overwrite",
        ): "is a folder that no mosaic was written to",
        (table, "--templates", folder, "-o", tmp_path / "page.tif"): "name it without .tif",
        (table, "--templates", folder, "-o", folder / "page"): "would lie among the templates",
        (table, table, "--templates", folder): "have the same name",
        (tmp_path / "notes" / "mine.txt",): "is not a picture that can be read",
    }.items():
        place = [] if "-o" in words else ["-o", tmp_path / "page"]
        result = CliRunner().invoke(main, ["page", *map(str, (*words, *place)), "--tile", "12", "--quiet"])
        assert result.exit_code in (1, 2), words
        assert said in result.output.replace("\n", " "), words
        assert listing(tmp_path) == before or set(listing(tmp_path)) - set(before) <= {"cache"}, words


def test_a_template_that_is_gone_is_named(tmp_path: Path, folder: Path) -> None:
    templates = load_templates(folder, (12, 12), cache=tmp_path / "cache", jobs=1)
    (folder / "000.png").unlink()
    page = tmp_path / "page"
    with pytest.raises(TemplateError, match=r"The template .*000.png is gone"):
        write_page(Contents(Mosaic(np.zeros((2, 2), np.uint32), templates), "wall"), page, lambda cells: None, 1)


def test_an_interrupt_leaves_the_page_that_was_there(
    tmp_path: Path, made: tuple[Path, Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    table, folder, _ = made
    make_pages([table], tmp_path / "page", folder, 12)
    with pytest.raises(OutputExistsError):
        make_pages([table], tmp_path / "page", folder, 12)
    before = (listing(tmp_path), (tmp_path / "page" / "page.js").read_bytes())

    def interrupted(*values: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hirez_mosaic.outputs.pages.page.write_level", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_pages([table], tmp_path / "page", folder, 16, overwrite=True)
    assert (listing(tmp_path), (tmp_path / "page" / "page.js").read_bytes()) == before


def test_a_disk_that_is_too_small_is_told_before_the_work(
    tmp_path: Path, made: tuple[Path, Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    table, folder, _ = made
    monkeypatch.setattr("hirez_mosaic.jobs.page.output_bytes", lambda *values: 1 << 60)
    with pytest.raises(DiskSpaceError, match=r"the page takes about 1048576\.0 TiB"):
        make_pages([table], tmp_path / "page", folder, 12)
    assert not (tmp_path / "page").exists()


def test_more_cells_than_a_block_can_tell_are_refused(tmp_path: Path) -> None:
    class Vast:
        shape = (2**16, 2**16)

    templates = TemplateSet(tmp_path, ("a",), np.zeros((1, 4, 4, 3), np.uint8), "0")
    with pytest.raises(OutputError, match="a page ends at 4,294,967,295"):
        write_page(Contents(Mosaic(Vast(), templates), "vast"), tmp_path / "page", lambda cells: None, 1)


def test_what_a_page_shows_needs_a_page(tmp_path: Path, folder: Path) -> None:
    source = save(tmp_path / "source.png", photo(20, 20))
    with pytest.raises(SettingError, match="give `page`, too"):
        render(source, folder, 12, tmp_path / "m.png", anonymous=True)
    with pytest.raises(HirezMosaicError, match="would replace the templates"):
        render(source, folder, 12, tmp_path / "m.png", page=folder)
