"""The tile map, out and back in; tint and poses on the way."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pyvips
import zarr
from click.testing import CliRunner
from conftest import photo, save

from hirez_mosaic.cli.main import main
from hirez_mosaic.errors import SettingError, TileMapError
from hirez_mosaic.jobs.remake import assemble_tile_map
from hirez_mosaic.jobs.render import render
from hirez_mosaic.outputs.mosaic_file import assemble
from hirez_mosaic.pixels.colour import to_lab
from hirez_mosaic.stages.assemble import Mosaic
from hirez_mosaic.stages.tint import Tint, tinted
from hirez_mosaic.templates import TemplateSet
from hirez_mosaic.templates.names import named, read_ban
from hirez_mosaic.templates.template_set import Pose, area_averages

pytestmark = pytest.mark.usefixtures("own_cache", "with_random_weights")


def px(path: Path) -> np.ndarray:
    return pyvips.Image.new_from_file(str(path)).numpy()


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def rewrite(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def made(tmp_path: Path, make_templates: Callable[[int], Path]) -> tuple[Path, Path]:
    """(source, templates)."""
    return save(tmp_path / "source.png", photo(50, 66)), make_templates(30)


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(templates, tile map) of a render of 5 x 6 cells."""
    place = tmp_path_factory.mktemp("mapped")
    (place / "templates").mkdir()
    for number in range(8):
        save(place / "templates" / f"{number}.png", photo(24, 24, seed=number))
    source, table = save(place / "source.png", photo(50, 66)), place / "map.csv"
    render(source, place / "templates", 12, place / "a.png", decoder="l2", tile_map=table)
    return place / "templates", table


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
@pytest.mark.parametrize("how", [{}, {"mirror": True, "rotate": True, "tint": 0.4, "no_repeat_neighbours": True}])
def test_a_mosaic_is_made_again_byte_by_byte(
    tmp_path: Path, made: tuple[Path, Path], suffix: str, how: dict[str, bool]
) -> None:
    source, folder = made
    table = tmp_path / f"map.{suffix}"
    result = render(source, folder, 12, tmp_path / "one.png", fit=0, tile_map=table, chunk=3, **how)
    again = assemble_tile_map(table, folder, tmp_path / "two.png", 12)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert (again.size, again.cells, again.distinct_templates) == (result.size, result.cells, result.distinct_templates)


def test_the_map_tells_what_the_workspace_holds(tmp_path: Path, made: tuple[Path, Path]) -> None:
    source, folder = made
    how = {"choose": "alone", "tile_map": tmp_path / "map.csv", "workspace": tmp_path / "work", "chunk": 2}
    render(source, folder, 12, tmp_path / "a.png", **how)
    rows, work = rows_of(tmp_path / "map.csv"), zarr.open_group(tmp_path / "work", mode="r")
    index_map, candidates = work["index_map"][:], work["candidates"][:]
    names = sorted(path.name for path in folder.iterdir())
    assert [(int(row["row"]), int(row["column"])) for row in rows] == list(np.ndindex(index_map.shape))
    assert [row["template"] for row in rows] == [names[number] for number in index_map.ravel()]
    assert [row["runner_up"] for row in rows] == [names[number] for number in candidates[..., 1].ravel()]
    assert [float(row["score"]) for row in rows] == pytest.approx(work["scores"][..., 0].ravel().tolist())
    colours = work["analysis"][:].reshape(index_map.shape[0], 8, index_map.shape[1], 8, 3).mean((1, 3))
    assert (
        np.abs(np.array([list(bytes.fromhex(row["colour"][1:])) for row in rows]) - colours.reshape(-1, 3)).max() <= 0.5
    )


def test_people_swap_ban_resize_and_tint(tmp_path: Path, made: tuple[Path, Path]) -> None:
    source, folder = made
    table = tmp_path / "map.csv"
    render(source, folder, 12, tmp_path / "a.png", fit=0, tile_map=table)
    rows = rows_of(table)
    swapped = next(path.name for path in folder.iterdir() if path.name != rows[0]["template"])
    rows[0]["template"] = swapped
    rewrite(table, rows[::-1])  # in any order
    assemble_tile_map(table, folder, tmp_path / "b.png", 12)
    before, after = px(tmp_path / "a.png"), px(tmp_path / "b.png")
    assert (before[:12, :12] != after[:12, :12]).any()
    assert (before[12:] == after[12:]).all()
    (tmp_path / "ban.txt").write_text(f"# not this one\n\n{swapped}\n")
    assemble_tile_map(table, folder, tmp_path / "c.png", 12, ban=tmp_path / "ban.txt")
    expected = next(path for path in folder.iterdir() if path.name == rows[0]["runner_up"])
    one_cell = rows_of(table)[-1]
    assert one_cell["row"] == one_cell["column"] == "0"
    rewrite(tmp_path / "one.csv", [{**one_cell, "template": expected.name}])
    assemble_tile_map(tmp_path / "one.csv", folder, tmp_path / "d.png", 12)
    assert (px(tmp_path / "c.png")[:12, :12] == px(tmp_path / "d.png")).all()
    assert assemble_tile_map(table, folder, tmp_path / "e.png", "20x16").size == (6 * 20, 5 * 16)
    assemble_tile_map(table, folder, tmp_path / "f.png", 12, tint=1.0)
    cells = px(tmp_path / "f.png").reshape(5, 12, 6, 12, 3).mean((1, 3)).reshape(-1, 3)
    wanted = np.array([list(bytes.fromhex(row["colour"][1:])) for row in rows])
    off = np.array([np.abs(cell - colour).mean() for cell, colour in zip(cells, wanted, strict=True)])
    plain = px(tmp_path / "b.png").reshape(5, 12, 6, 12, 3).mean((1, 3)).reshape(-1, 3)
    assert off.mean() < 0.4 * np.abs(plain - wanted).mean()


BAD = {
    "no map": (None, "There is no tile map"),
    "wrong suffix": ("map.txt", "has no known suffix; use one of .csv, .json, .parquet"),
    "a cell is missing": (lambda rows: rows[:-1], "has 29 rows and its 5 x 6 cells want one each"),
    "a cell is there twice": (lambda rows: [rows[0], *rows[:-1]], "There are two lines for row 0, column 0"),
    "an unknown template": (
        lambda rows: [{**rows[0], "template": "cat.png"}, *rows[1:]],
        "cat.png of row 0, column 0 .* is not in",
    ),
    "a turn there is not": (
        lambda rows: [{**rows[0], "rotate": "45"}, *rows[1:]],
        "Entry 1 of the tile map .* rotate 45",
    ),
    "a colour there is not": (lambda rows: [{**rows[0], "colour": "#12"}, *rows[1:]], "colour #12"),
    "a tint there is not": (lambda rows: [{**rows[0], "tint": "nan"}, *rows[1:]], "tint nan"),
    "no such column": (lambda rows: [{"row": "0", "template": "x"}], "has no column 'column'"),
    "no number": (lambda rows: [{**rows[0], "row": "one"}, *rows[1:]], "Entry 1 .* cannot be read"),
    "no colour to be tinted towards": (
        lambda rows: [{**rows[0], "colour": "", "tint": "0.3"}, *rows[1:]],
        "row 0, column 0 of the tile map .* has no colour to be tinted towards",
    ),
    "no template": (lambda rows: [{**rows[0], "template": ""}, *rows[1:]], "no template"),
    "a row as large as the world": (lambda rows: [{**rows[0], "row": "99999999999"}, *rows[1:]], "row 99999999999"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_map_is_one_sentence(tmp_path: Path, mapped: tuple[Path, Path], case: str) -> None:
    folder, whole = mapped
    change, said = BAD[case]
    table = tmp_path / (change if isinstance(change, str) else "map.csv")
    if isinstance(change, str):
        shutil.copy(whole, table)
    elif change is not None:
        rewrite(table, change(rows_of(whole)))
    with pytest.raises((TileMapError, SettingError), match=said):
        assemble_tile_map(table, folder, tmp_path / "b.png", 12)
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.json", b"{"),
        ("m.json", b"[1]"),
        ("m.json", b'[{"row": 0, "column": 0, "template": "a", "colour": 5}]'),
        ("m.json", b'[{"row": 1e400, "column": 0, "template": "a"}]'),
        ("m.parquet", b"PAR1"),
        ("m.csv", b"\xff\xfe\x00"),
    ],
)
def test_a_damaged_map_is_one_sentence(tmp_path: Path, mapped: tuple[Path, Path], name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TileMapError):
        assemble_tile_map(tmp_path / name, mapped[0], tmp_path / "b.png", 12)


def test_bans_are_checked(tmp_path: Path, made: tuple[Path, Path]) -> None:
    source, folder = made
    ban, table = tmp_path / "ban.txt", tmp_path / "map.csv"
    with pytest.raises(SettingError, match="is not there"):
        render(source, folder, 12, tmp_path / "a.png", ban=ban)
    ban.write_text("cat.png\n")
    with pytest.raises(SettingError, match=r"1 banned templates are not in .*: cat\.png"):
        render(source, folder, 12, tmp_path / "a.png", ban=ban)
    names = sorted(path.name for path in folder.iterdir())
    ban.write_text("\n".join(names))
    with pytest.raises(SettingError, match=r"All 30 templates .* are banned"):
        render(source, folder, 12, tmp_path / "a.png", ban=ban)
    ban.write_text("\n".join(names[:29]))
    assert render(source, folder, 12, tmp_path / "a.png", ban=ban, fit=0, tile_map=table).distinct_templates == 1
    ban.write_text(names[29])
    with pytest.raises(TileMapError, match="is banned and has no runner-up"):
        assemble_tile_map(table, folder, tmp_path / "b.png", 12, ban=ban)
    ban.write_text("  # a comment\ncat.png")
    with pytest.raises(TileMapError, match=r"cat\.png is neither in the tile map"):
        assemble_tile_map(table, folder, tmp_path / "b.png", 12, ban=ban)


def test_nothing_is_written_among_the_templates_or_over_the_ban_file(tmp_path: Path, made: tuple[Path, Path]) -> None:
    source, folder = made
    some = next(folder.iterdir())
    for how in ({"output": some}, {"preview": some}, {"tile_map": folder / "map.csv"}, {"workspace": folder / "work"}):
        settings = {"output": tmp_path / "a.png", **how}
        with pytest.raises(SettingError, match="would lie among the templates"):
            render(source, folder, 12, overwrite=True, **settings)
    with pytest.raises(SettingError, match="are the same"):
        render(
            source, folder, 12, tmp_path / "a.png", ban=tmp_path / "m.csv", tile_map=tmp_path / "m.csv", overwrite=True
        )
    assert len(list(folder.iterdir())) == 30


def test_the_command_tells_and_the_output_is_safe(tmp_path: Path, made: tuple[Path, Path]) -> None:
    source, folder = made
    table, output = tmp_path / "map.csv", tmp_path / "b.png"
    render(source, folder, 12, tmp_path / "a.png", fit=0, tile_map=table)
    words = [
        "assemble",
        "--tile-map",
        str(table),
        "--templates",
        str(folder),
        "--tile",
        "12",
        "-o",
        str(output),
        "--json",
    ]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["cells"] == [6, 5]
    assert CliRunner().invoke(main, words).exit_code == 1  # it is there already
    assert CliRunner().invoke(main, [*words[:-3], str(table), "--overwrite"]).exit_code == 2  # .csv is no picture
    before = table.read_bytes()
    assert (
        CliRunner()
        .invoke(main, ["render", str(source), "--templates", str(folder), "--tile-map", str(table)])
        .exit_code
        == 1
    )
    assert table.read_bytes() == before


# --- tint and poses
# ----------------------------------------------------------------------------------------------------


def template_set(pixels: np.ndarray) -> TemplateSet:
    return TemplateSet(Path(), tuple(map(str, range(len(pixels)))), pixels, "f")


def test_tint_moves_mean_colours_the_whole_way_or_a_part(tmp_path: Path) -> None:
    flat = np.array([[90, 120, 100], [200, 180, 190]], np.uint8)[:, None, None].repeat(16, 1).repeat(16, 2)
    index_map = np.array([[0, 1, 0]], "u4")
    colours = np.array([[[100, 100, 100], [100, 100, 100], [90, 120, 100]]], np.uint8)
    templates = template_set(flat)
    assemble(Mosaic(index_map, templates, Tint.of(templates, colours, 1.0)), tmp_path / "all.png", lambda cells: None)
    assert np.abs(px(tmp_path / "all.png")[8, ::16][:3].astype(int) - colours[0]).max() <= 1
    assemble(Mosaic(index_map, templates, Tint.of(templates, colours, 0.5)), tmp_path / "half.png", lambda cells: None)
    expected = (to_lab(flat[None, :, 0, 0]) + to_lab(colours[:, :2])) / 2
    assert np.abs(to_lab(px(tmp_path / "half.png")[8:9, [0, 16]]) - expected).max() < 1
    assemble(Mosaic(index_map, templates, Tint.of(templates, colours, 0.0)), tmp_path / "none.png", lambda cells: None)
    assert (px(tmp_path / "none.png")[8, ::16] == flat[[0, 1, 0], 0, 0]).all()


def test_tint_keeps_what_is_within_a_template() -> None:
    pixels = np.random.default_rng(0).integers(60, 190, (16, 32, 3), np.uint8)
    moved = tinted(pixels, np.array([[5, 0, 0], [0, 0, 0]], np.float32))
    assert (np.abs(moved[:, 16:].astype(int) - pixels[:, 16:]) <= 1).all()
    lift = to_lab(moved[:, :16]) - to_lab(pixels[:, :16])
    assert np.abs(lift - [5, 0, 0]).max() < 1


@pytest.mark.parametrize("suffix", ["png", "zarr"])
@pytest.mark.parametrize("strip", [1, 10**9])
def test_poses_are_laid_as_they_are_told(
    tmp_path: Path, suffix: str, strip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hirez_mosaic.outputs.stream._STRIP_BYTES", strip)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3), np.uint8)
    templates = template_set(pixels).in_poses(mirror=True, rotate=True)
    index_map = np.random.default_rng(1).integers(0, len(templates), (5, 7), "u4")
    output = tmp_path / f"a.{suffix}"
    assemble(Mosaic(index_map, templates), output, lambda cells: None)
    made = px(output) if suffix == "png" else zarr.open_array(output, mode="r")[:]
    for row, column in np.ndindex(index_map.shape):
        name, pose = templates.template_of(int(index_map[row, column]))
        upright = pyvips.Image.new_from_array(pixels[int(name)])
        posed = (upright.fliphor() if pose.mirrored else upright).rot(f"d{-90 * pose.turns % 360}").numpy()
        assert (made[12 * row : 12 * row + 12, 12 * column : 12 * column + 12] == posed).all(), pose


def test_subsets_and_poses_at_cell_size_are_those_of_the_px() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 24, 24, 3), np.uint8)
    whole = template_set(pixels)
    some = whole.subset(np.array([1, 3, 4])).subset(np.array([0, 2])).in_poses(mirror=True, rotate=True)
    assert (some.names, len(some)) == (("1", "4"), 16)
    np.testing.assert_allclose(some.at_cell_size(), area_averages(some.take(np.arange(16)).swapaxes(0, 1)), atol=1e-6)
    np.testing.assert_array_equal(some.shrunk().take(np.arange(16)).swapaxes(0, 1), np.round(some.at_cell_size() * 255))
    prints = {
        each.fingerprint
        for each in (whole, some, whole.subset(np.array([1])), whole.in_poses(mirror=True, rotate=False))
    }
    assert len(prints) == 4
    assert whole.in_poses(mirror=False, rotate=False) is whole
    assert whole.in_poses(mirror=True, rotate=False).poses == (Pose(), Pose(True))
    with pytest.raises(SettingError, match="Only square templates can be turned"):
        template_set(pixels[:, :12]).in_poses(mirror=False, rotate=True)


def test_names_that_look_like_comments_or_are_written_in_other_ways_can_be_banned(tmp_path: Path) -> None:
    names = ["# 1.png", " blank.png", "caf\u00e9.png", "plain.png", "last.png"]
    ban = tmp_path / "ban.txt"
    ban.write_text("# a comment\n# 1.png\n blank.png\ncafe\u0301.png\n  plain.png  \n", "utf-8")
    assert named(names, read_ban(ban)) == (frozenset(names[:4]), [])
    ban.write_text("#2.png\nnothing.png\n")
    assert named(names, read_ban(ban)) == (frozenset(), ["nothing.png"])


def test_a_table_with_semicolons_makes_the_same_mosaic(tmp_path: Path, made: tuple[Path, Path]) -> None:
    source, folder = made
    render(source, folder, 12, tmp_path / "a.png", tile_map=tmp_path / "a.csv", fit=0)
    comma = (tmp_path / "a.csv").read_text()
    assert "," in comma
    (tmp_path / "b.csv").write_text(re.sub(r"(\d)\.(\d)", r"\1,\2", comma.replace(",", ";")))
    assemble_tile_map(tmp_path / "b.csv", folder, tmp_path / "b.png", 12)
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "a.png").read_bytes()
