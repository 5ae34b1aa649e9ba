import errno
import itertools
import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import pyvips
import tifffile
import zarr
from conftest import photo
from PIL import Image

from hirez_mosaic.errors import DiskSpaceError, OutputError, OutputExistsError
from hirez_mosaic.outputs import appearing, ome_zarr, stream, tiff
from hirez_mosaic.outputs.appearing import check_output
from hirez_mosaic.outputs.mosaic_file import assemble, output_bytes, projected_bytes, write_preview
from hirez_mosaic.outputs.stream import MosaicStream, strip_rows
from hirez_mosaic.pixels.geometry import CellGrid
from hirez_mosaic.settings.formats import COMPRESSIONS, Encoding
from hirez_mosaic.stages.assemble import Mosaic
from hirez_mosaic.templates import TemplateSet

FORMATS = ["a.tif", "a.dzi", "a.png", "a.jpg", "a.webp", "a.zarr", "a.iiif"]
LOSSLESS_COMPRESSIONS = [name for name in COMPRESSIONS if name not in ("jpeg", "webp")]


def numbered(count, width, height):
    """Flat templates: number i is grey i."""
    return np.arange(count, dtype="u1")[:, None, None, None].repeat(height, 1).repeat(width, 2).repeat(3, 3)


def of(cells, pixels):
    return Mosaic(cells, TemplateSet(Path(), tuple(map(str, range(len(pixels)))), pixels, ""))


def index_map(rows, columns, count=200):
    return np.random.default_rng(0).integers(0, count, (rows, columns), dtype="u4")


def mosaic_of(cells, width, height):
    return cells.astype("u1").repeat(height, 0).repeat(width, 1)[..., None].repeat(3, 2)


def levels_of(path):
    """The folders of a Deep Zoom image's levels, the largest last."""
    return sorted(path.with_name(f"{path.stem}_files").glob("[0-9]*"), key=lambda level: int(level.name))


def tiles_of_iiif(path):
    told = json.loads((path / "info.json").read_text())
    whole, side = np.zeros((told["height"], told["width"], 3), "u1"), told["tiles"][0]["width"]
    for top, left in itertools.product(range(0, told["height"], side), range(0, told["width"], side)):
        part = whole[top : top + side, left : left + side]
        size = f"{part.shape[1]},{part.shape[0]}"
        region = "full" if part.shape == whole.shape else f"{left},{top},{size}"
        part[:] = pyvips.Image.new_from_file(str(path / region / size / "0" / "default.jpg")).numpy()
    return whole


def read(path):
    if path.suffix.lower() == ".zarr":
        return zarr.open_group(path, mode="r")["0"][:].transpose(1, 2, 0)
    if path.suffix.lower() == ".iiif":
        return tiles_of_iiif(path)
    if path.suffix.lower() != ".dzi":
        return pyvips.Image.new_from_file(str(path)).numpy()
    tiles = {
        tuple(map(int, tile.stem.split("_"))): tile for tile in levels_of(path)[-1].iterdir()
    }  # (column, row), each overlapping by 1 px
    across = [pyvips.Image.new_from_file(str(tiles[column, 0])).width for column in range(max(tiles)[0] + 1)]
    down = [pyvips.Image.new_from_file(str(tiles[0, row])).height for row in range(max(row for _, row in tiles) + 1)]
    whole = np.zeros((sum(down) - 2 * (len(down) - 1), sum(across) - 2 * (len(across) - 1), 3), "u1")
    for (column, row), tile in tiles.items():
        px = pyvips.Image.new_from_file(str(tile)).numpy()
        top, left = max(0, row * 254 - 1), max(0, column * 254 - 1)
        whole[top : top + px.shape[0], left : left + px.shape[1]] = px
    return whole


def quiet(cells):
    pass


# --- every format
# ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [(32, 32), (24, 16), (5, 33), (1, 1)])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_holds_the_numbered_templates(tmp_path, name, tile):
    cells = index_map(13, 11)
    assemble(of(cells, numbered(200, *tile)), tmp_path / name, quiet, Encoding(quality=100))
    expected, made = mosaic_of(cells, *tile), read(tmp_path / name)
    assert made.shape == expected.shape
    assert np.abs(made.astype(int) - expected).max() <= (0 if name in ("a.png", "a.zarr") else 8)


@pytest.mark.parametrize("compression", LOSSLESS_COMPRESSIONS)
def test_tiff_compressions_without_loss_are_exact(tmp_path, compression):
    cells = index_map(40, 30)
    assemble(of(cells, numbered(200, 24, 16)), tmp_path / "a.tif", quiet, Encoding(compression=compression))
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), mosaic_of(cells, 24, 16))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), mosaic_of(cells, 24, 16))


@pytest.mark.parametrize("compression", ["jpeg", "webp"])
def test_tiff_compressions_with_loss_are_close(tmp_path, compression):
    cells = index_map(40, 30)
    assemble(of(cells, numbered(200, 24, 16)), tmp_path / "a.tif", quiet, Encoding(compression=compression, quality=95))
    errors = np.abs(read(tmp_path / "a.tif").astype(int) - mosaic_of(cells, 24, 16))
    assert errors.mean() < 2
    assert errors.max() < 40


def test_quality_tells(tmp_path):
    cells, templates = index_map(8, 8), np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), dtype="u1")
    for name in ("a.tif", "a.jpg", "a.webp"):
        sizes = []
        for quality in (20, 95):
            assemble(of(cells, templates), tmp_path / name, quiet, Encoding(quality=quality))
            sizes.append((tmp_path / name).stat().st_size)
        assert sizes[1] > 2 * sizes[0]


@pytest.mark.parametrize("big", [False, True])
def test_the_tiff_is_tiled_with_levels_within_one_page(tmp_path, big, monkeypatch):
    if big:
        monkeypatch.setattr(tiff, "_CLASSIC", 1)
    cells = index_map(40, 30)
    assemble(of(cells, numbered(200, 32, 32)), tmp_path / "a.tif", quiet, Encoding(compression="deflate"))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff == big
        levels = [level.keyframe for level in file.series[0].levels]
        assert len(file.pages) == 1
        assert [level.shape[:2] for level in levels] == [(1280, 960), (640, 480), (320, 240), (160, 120)]
        assert {(level.is_tiled, level.tilewidth, level.tilelength) for level in levels} == {(True, 256, 256)}
        assert [level.is_reduced for level in levels] == [False, True, True, True]
        assert levels[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE
    with Image.open(tmp_path / "a.tif") as image:
        assert (image.n_frames, image.size) == (1, (960, 1280))
        np.testing.assert_array_equal(np.asarray(image), mosaic_of(cells, 32, 32))


NAMES = ["a.TIF", "a.DZI", "a.ZARR", "a.b.dzi", "a.zip.dzi", "a[1].dzi", "a[1].png", "mosaic.dzi", "two words.dzi"]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_any_form(tmp_path, name):
    cells = index_map(3, 4)
    assemble(of(cells, numbered(200, 16, 16)), tmp_path / name, quiet, Encoding(quality=100))
    assert np.abs(read(tmp_path / name).astype(int) - mosaic_of(cells, 16, 16)).max() <= 8
    parts = {name, f"{name[:-4]}_files"} if name.lower().endswith("dzi") else {name}
    assert {path.name for path in tmp_path.iterdir()} == parts


# --- the stream
# --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strip_bytes", [1, 3 * 16 * 7 * 5, 10**9])
@pytest.mark.parametrize("height", [12, 13])
def test_strips_of_any_height_give_the_same_px(tmp_path, strip_bytes, height, monkeypatch):
    monkeypatch.setattr(stream, "_STRIP_BYTES", strip_bytes)
    cells = index_map(6, 7)
    templates = np.random.default_rng(1).integers(0, 256, (200, height, 16, 3), dtype="u1")
    assemble(of(cells, templates), tmp_path / "a.png", quiet)
    expected = templates[cells].transpose(0, 2, 1, 3, 4).reshape(6 * height, 7 * 16, 3)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), expected)


def test_a_strip_is_the_largest_divisor_of_the_tile_that_fits(monkeypatch):
    monkeypatch.setattr(stream, "_STRIP_BYTES", 3 * 100 * 7)
    assert [strip_rows(height, 100) for height in (4, 7, 12, 13, 21)] == [4, 7, 6, 1, 7]
    assert strip_rows(12, 10**9) == 1


def test_the_stream_is_a_tiff_that_others_read(tmp_path):
    cells = index_map(5, 3)
    stream = MosaicStream(of(cells, numbered(200, 8, 6)), quiet)
    size = stream._seek(0, 2)
    stream._seek(0, 0)
    (tmp_path / "stream.tif").write_bytes(b"".join(map(bytes, iter(lambda: stream._read(1000), b""))))
    assert (tmp_path / "stream.tif").stat().st_size == size
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "stream.tif"), mosaic_of(cells, 8, 6))


@pytest.mark.parametrize("name", ["a.png", "a.zarr"])
def test_the_index_map_may_be_a_chunked_array(tmp_path, name):
    cells = index_map(23, 17)
    stored = zarr.create_array({}, data=cells, chunks=(5, 4))
    assemble(of(stored, numbered(200, 4, 4)), tmp_path / name, quiet)
    np.testing.assert_array_equal(read(tmp_path / name), mosaic_of(cells, 4, 4))


@pytest.mark.parametrize("name", FORMATS)
def test_progress_counts_every_cell_once(tmp_path, name):
    done = []
    assemble(of(index_map(13, 11), numbered(200, 16, 16)), tmp_path / name, done.append)
    assert sum(done) == 13 * 11


# --- what is there already
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_an_output_that_is_there_is_replaced(tmp_path, name):
    big, small = index_map(30, 30), index_map(2, 3)
    assemble(of(big, numbered(200, 32, 32)), tmp_path / name, quiet, Encoding(quality=100))
    before = sorted(tmp_path.iterdir())
    assemble(of(small, numbered(200, 32, 32)), tmp_path / name, quiet, Encoding(quality=100))
    assert sorted(tmp_path.iterdir()) == before
    assert np.abs(read(tmp_path / name).astype(int) - mosaic_of(small, 32, 32)).max() <= 8
    if name == "a.dzi":
        assert [level.name for level in levels_of(tmp_path / name)] == list("01234567")  # 96 px are below 2**7


def test_a_zarr_replaces_a_file_of_its_name(tmp_path):
    (tmp_path / "a.zarr").write_text("something else")
    cells = index_map(2, 3)
    assemble(of(cells, numbered(200, 8, 8)), tmp_path / "a.zarr", quiet)
    np.testing.assert_array_equal(read(tmp_path / "a.zarr"), mosaic_of(cells, 8, 8))


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("there", [False, True], ids=["new", "replacing"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path, name, there):
    cells = index_map(20, 20)
    if there:
        assemble(of(cells, numbered(200, 16, 16)), tmp_path / name, quiet)
    before = contents(tmp_path)
    cells[19, 19] = 200  # there are templates 0 to 199
    with pytest.raises(IndexError, match="The choice 200 is out of bounds"):
        assemble(of(cells, numbered(200, 16, 16)), tmp_path / name, quiet)
    assert contents(tmp_path) == before
    assert not there or before


@pytest.mark.parametrize("name", FORMATS)
def test_a_disk_that_takes_no_more_is_an_output_error(tmp_path, name):
    resource = pytest.importorskip("resource")
    templates = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), dtype="u1")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OutputError, match="The mosaic could not be written: "):
            assemble(of(index_map(20, 20), templates), tmp_path / name, quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_apart(tmp_path, monkeypatch):
    def full(*a, **k):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ome_zarr.zarr, "create_group", full)
    with pytest.raises(DiskSpaceError, match="could not be written: No space left on device"):
        assemble(of(index_map(2, 2), numbered(200, 8, 8)), tmp_path / "a.zarr", quiet)
    assert list(tmp_path.iterdir()) == []


def test_libvips_words_for_a_full_disk_are_known(tmp_path, monkeypatch):
    def full(*a, **k):
        raise pyvips.Error(
            "unable to call pngsave", "wbuffer_write: write failed\nunix error: No space left on device\n"
        )

    monkeypatch.setattr(pyvips.Image, "pngsave", full, raising=False)
    with pytest.raises(DiskSpaceError, match="could not be written: unix error: No space left on device"):
        assemble(of(index_map(2, 2), numbered(200, 8, 8)), tmp_path / "a.png", quiet)


def test_an_interrupt_stops_and_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*a, **k):
        raise KeyboardInterrupt

    monkeypatch.setattr(stream, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        assemble(of(index_map(100, 100), numbered(200, 32, 32)), tmp_path / "a.png", quiet)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("free", "error"), [(0, DiskSpaceError), (10**9, OutputError)])
def test_a_full_disk_is_told_even_if_libvips_gives_no_reason(tmp_path, monkeypatch, free, error):
    """Its reasons are one buffer for all threads, which the first that asks empties."""

    def fails(*a, **k):
        raise pyvips.Error("unable to call pngsave")

    monkeypatch.setattr(pyvips.Image, "pngsave", fails, raising=False)
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, free))
    with pytest.raises(error, match="could not be written"):
        assemble(of(index_map(3, 4), numbered(200, 8, 8)), tmp_path / "a.png", lambda cells: None)


# --- before the work
# ---------------------------------------------------------------------------------------------------


def test_a_missing_output_folder_is_named(tmp_path):
    with pytest.raises(OutputError, match=r"The output folder .*nowhere is not there; make it first"):
        check_output(tmp_path / "nowhere" / "a.tif", False)


def test_an_output_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(appearing.os, "access", lambda *a: False)
    with pytest.raises(OutputError, match="cannot be written to"):
        check_output(tmp_path / "a.tif", False)


@pytest.mark.parametrize("part", ["a.dzi", "a_files"])
def test_every_part_of_an_output_is_protected(tmp_path, part):
    check_output(tmp_path / "a.dzi", False)
    (tmp_path / part).mkdir() if part == "a_files" else (tmp_path / part).touch()
    with pytest.raises(OutputExistsError, match=f"{part} is there already; use `overwrite`"):
        check_output(tmp_path / "a.dzi", False)
    check_output(tmp_path / "a.dzi", True)


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "a.tif").mkdir()
    with pytest.raises(OutputError, match=r"a\.tif is a folder that no mosaic was written to; name another place"):
        check_output(tmp_path / "a.tif", True)


@pytest.mark.parametrize(("output", "folder"), [("page.dzi", "page_files"), ("page.zarr", "page.zarr")])
def test_a_folder_of_other_files_is_not_replaced(tmp_path, output, folder):
    """As browsers leave beside a page."""
    (tmp_path / folder).mkdir()
    (tmp_path / folder / ".DS_Store").touch()
    check_output(tmp_path / output, True)
    (tmp_path / folder / "photo.png").touch()
    with pytest.raises(OutputError, match=f"{folder} is a folder that no mosaic was written to"):
        check_output(tmp_path / output, True)


@pytest.mark.parametrize("name", ["a.zarr", "a.ZARR"])
def test_a_zarr_may_be_replaced(tmp_path, name):
    (tmp_path / name).mkdir()
    check_output(tmp_path / name, True)
    with pytest.raises(OutputExistsError, match="is there already"):
        check_output(tmp_path / name, False)


def test_the_bytes_on_disk_are_foreseen(tmp_path):
    size = (1000, 300)
    assert output_bytes(size, tmp_path / "a.png", Encoding()) == 1_080_000
    assert output_bytes(size, tmp_path / "a.zarr", Encoding()) == 1_440_000
    assert output_bytes(size, tmp_path / "a.tif", Encoding("none")) == 1_440_000  # a pyramid takes a third more
    assert (
        output_bytes(size, tmp_path / "a.tif", Encoding())
        == output_bytes(size, tmp_path / "a.dzi", Encoding())
        == 680_000
    )
    assert output_bytes(size, tmp_path / "a.JPG", Encoding()) == 510_000
    assert output_bytes(size, tmp_path / "a.jpg", Encoding(quality=100)) > 1_200_000


@pytest.mark.parametrize("quality", [90, 100])
@pytest.mark.parametrize("name", ["a.tif", "a.jpg", "a.webp", "a.png"])
def test_a_grainy_photo_takes_no_more_than_foreseen(tmp_path, name, quality):
    assemble(
        of(np.zeros((2, 3), "u4"), photo(512, 512)[None]),
        tmp_path / name,
        lambda cells: None,
        Encoding(quality=quality),
    )
    assert (tmp_path / name).stat().st_size <= output_bytes((1536, 1024), tmp_path / name, Encoding(quality=quality))


def test_assembly_in_little_memory_is_foreseen(tmp_path):
    grid = CellGrid(1000, 3000, (32, 32), Fraction(1))
    most = {"a.webp": 1 << 60, "a.iiif": 1100 << 20}
    assert all(projected_bytes(grid, tmp_path / name) < most.get(name, 600 << 20) for name in FORMATS)
    assert projected_bytes(grid, tmp_path / "a.webp") > 3 * 96_000 * 32_000  # its encoder wants the whole picture


# --- the preview
# -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "columns", "size"), [(100, 50, (800, 1600)), (50, 100, (1600, 800)), (3, 4, (128, 96))]
)
@pytest.mark.parametrize("name", ["p.png", "p.jpg", "p.webp"])
def test_a_preview_has_1600_px_at_most(tmp_path, name, rows, columns, size):
    write_preview(of(index_map(rows, columns), numbered(200, 32, 32)), tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert image.size == size
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_preview_shows_the_mosaic(tmp_path):
    cells = np.array([[0, 100], [200, 50]], "u4")
    templates = numbered(201, 1000, 500)
    write_preview(of(cells, templates), tmp_path / "p.png")
    px = np.asarray(Image.open(tmp_path / "p.png"))
    assert px.shape == (800, 1600, 3)
    assert px[200::400, 400::800, 0].tolist() == cells.tolist()


def test_a_large_mosaic_is_previewed_from_small_templates(tmp_path, monkeypatch):
    monkeypatch.setattr("hirez_mosaic.outputs.mosaic_file._PREVIEW_FROM_PX", 1000)
    cells = np.array([[0, 1], [1, 0]], "u4")
    templates = np.zeros((2, 40, 20, 3), "u1")
    templates[1, :, 10:] = 255
    shrunk, taken = TemplateSet.shrunk, []
    monkeypatch.setattr(TemplateSet, "shrunk", lambda self: (taken.append(1), shrunk(self))[1])
    write_preview(of(cells, templates), tmp_path / "p.png")  # 16 px would not do for 80
    assert taken == []
    write_preview(of(cells.repeat(100, 0), templates), tmp_path / "long.png")
    assert taken == [1]
    with Image.open(tmp_path / "long.png") as long:
        assert max(long.size) == 1600
    px = np.asarray(Image.open(tmp_path / "p.png"))
    assert px.shape == (80, 40, 3)
    assert px[20, [5, 15, 25, 35], 0].tolist() == [0, 0, 0, 255]
    assert px[60, [5, 15, 25, 35], 0].tolist() == [0, 255, 0, 0]


# --- more than 100,000 px a side
# ---------------------------------------------------------------------------------------


class DeepZoom:
    """Windows of a Deep Zoom image, which overlap by a px."""

    def __init__(self, path):
        self._folders = levels_of(path)[::-1]

    def window(self, level, top, left, side):
        made = np.zeros((side, side, 3), "u1")
        for row in range(top // 254, (top + side - 1) // 254 + 1):
            for column in range(left // 254, (left + side - 1) // 254 + 1):
                px = pyvips.Image.new_from_file(str(self._folders[level] / f"{column}_{row}.jpg")).numpy()
                px = px[min(row, 1) :, min(column, 1) :][:254, :254]
                down, across = max(0, top - row * 254), max(0, left - column * 254)
                first, start = max(0, row * 254 - top), max(0, column * 254 - left)
                part = px[down : down + side - first, across : across + side - start]
                made[first : first + part.shape[0], start : start + part.shape[1]] = part
        return made


class Tiff:
    """Windows of a pyramidal TIFF."""

    def __init__(self, path):
        with tifffile.TiffFile(path) as file:
            self._path, self._sizes = path, [level.shape[:2] for level in file.series[0].levels]

    def window(self, level, top, left, side):
        image = pyvips.Image.new_from_file(str(self._path), subifd=level - 1)
        assert (image.height, image.width) == self._sizes[level]
        return image.crop(left, top, side, side).numpy()


def window_of(cells, templates, level, top, left, side):
    """What a window of a level shows, by index map and templates: the mean of every 2 x 2 px of the level before,
    rounded.
    """
    times, tile = 1 << level, templates.shape[1]
    first, start = top * times // tile, left * times // tile
    last, stop = -(-(top + side) * times // tile), -(-(left + side) * times // tile)
    px = (
        templates[cells[first:last, start:stop]]
        .transpose(0, 2, 1, 3, 4)
        .reshape((last - first) * tile, (stop - start) * tile, 3)
    )
    px = px[top * times - first * tile :, left * times - start * tile :][: side * times, : side * times].astype(
        np.float32
    )
    for _ in range(level):
        px = np.floor(px.reshape(px.shape[0] // 2, 2, px.shape[1] // 2, 2, 3).mean((1, 3)) + 0.5)
    return px


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1563, 32), (32, 1563)], ids=["high", "wide"])
@pytest.mark.parametrize(("name", "tolerance"), [("a.tif", 0), ("a.dzi", 12)])
def test_mosaics_of_more_than_100000_px_a_side_show_index_map_and_templates_in_every_window(
    tmp_path, name, tolerance, size
):
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 216, (300, 4, 4, 1), dtype="u1")
    templates = coarse.repeat(16, 1).repeat(16, 2).repeat(3, 3)  # squares of 16 px in greys, which JPEG bears well
    cells = rng.integers(0, len(templates), size, dtype="u4")
    assemble(of(cells, templates), tmp_path / name, quiet, Encoding(compression="deflate", quality=95))
    file = {"a.tif": Tiff, "a.dzi": DeepZoom}[name](tmp_path / name)
    for level in range(4):
        height, width = size[0] * 64 >> level, size[1] * 64 >> level
        side = 192
        corners = [(0, 0), (height - side, width - side), (0, width - side), (height - side, 0)]
        places = corners + [(int(rng.integers(height - side)), int(rng.integers(width - side))) for _ in range(20)]
        for top, left in places:
            off = np.abs(file.window(level, top, left, side) - window_of(cells, templates, level, top, left, side))
            assert off.max() <= tolerance, (level, top, left)
