import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import pyvips
import tifffile
import zarr
from conftest import photo, png_claiming
from PIL import Image, ImageCms, ImageOps

from hirez_mosaic import sources
from hirez_mosaic.errors import SourceError, SourceNotFoundError
from hirez_mosaic.pixels.geometry import CELL, Box, CellGrid
from hirez_mosaic.sources import source as source_module
from hirez_mosaic.sources import tiff as tiff_module
from hirez_mosaic.sources import unpack, with_vips
from hirez_mosaic.stages.ingest import ingest_chunk

WHITE = (255, 255, 255)
ROWS, COLUMNS = 120, 200
Y, X = np.mgrid[:ROWS, :COLUMNS].astype("u1")
RAMP = np.dstack([X, Y, 255 - X])  # px (x, y) is red x, green y, blue 255 - x
TILED = {"tile": (64, 64)}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


TO_CLOSE = []


@pytest.fixture(autouse=True)
def close_sources():
    yield
    while TO_CLOSE:
        TO_CLOSE.pop().close()


def open_source(path, background=WHITE, **settings):
    TO_CLOSE.append(sources.open_source(path, background, **settings))
    return TO_CLOSE[-1]


def opened(path, background=WHITE):
    source = open_source(path, background)
    return unpack(source, zarr.create_group(store={}), "source", lambda px: None)


def read(path, background=WHITE):
    source = opened(path, background)
    return source.read(Box(0, source.size[1], 0, source.size[0]))


def tiff(path, px, **settings):
    if "photometric" not in settings:
        settings["photometric"] = "rgb" if px.ndim > 2 else "minisblack"
    tifffile.imwrite(path, px, **settings)


def pil(path, px, **settings):
    Image.fromarray(px).save(path, **settings)


def vips(path, px, suffix):
    Path(path).write_bytes(pyvips.Image.new_from_array(px).write_to_buffer(suffix))


def zarr_array(path, px, **settings):
    zarr.create_array(path, data=np.ascontiguousarray(px), **settings)


def ome_zarr(path, px, version, axes="yxc"):
    scales = [{"axes": [{"name": axis} for axis in axes], "datasets": [{"path": "scale/0"}, {"path": "scale/1"}]}]
    attributes = {"multiscales": scales} if version == 2 else {"ome": {"version": "0.5", "multiscales": scales}}
    group = zarr.create_group(path, zarr_format=version, attributes=attributes)
    group.create_array("scale/0", data=np.ascontiguousarray(px))
    group.create_array("scale/1", data=np.zeros((2,) * len(axes), "u1"))


def tiff_pyramid(path, px):
    with tifffile.TiffWriter(path) as file:
        file.write(px, photometric="rgb", subifds=1, **TILED)
        file.write(px[::2, ::2], photometric="rgb", subfiletype=1, **TILED)


LOSSLESS = {
    "png": lambda path: pil(path, RAMP, format="png"),
    "png interlaced": lambda path: vips(path, RAMP, ".png[interlace]"),
    "png 16-bit": lambda path: vips(path, RAMP.astype("u2") * 257, ".png"),
    "webp": lambda path: pil(path, RAMP, format="webp", lossless=True),
    "tiff strips": lambda path: tiff(path, RAMP, rowsperstrip=7),
    "tiff strips of pillow": lambda path: pil(path, RAMP, format="tiff", compression="tiff_lzw"),
    "tiff strips planar": lambda path: tiff(
        path, RAMP.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", rowsperstrip=7
    ),
    "tiff strips big-endian 16-bit": lambda path: tiff(path, RAMP.astype("u2") * 257, byteorder=">", rowsperstrip=7),
    "tiff one strip": lambda path: tiff(path, RAMP),
    "tiff tiles planar": lambda path: tiff(
        path, RAMP.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", **TILED
    ),
    "tiff tiles big-endian 16-bit": lambda path: tiff(path, RAMP.astype("u2") * 257, byteorder=">", **TILED),
    "tiff tiles float": lambda path: tiff(path, RAMP.astype("f4") / 255, **TILED),
    "tiff predictor": lambda path: tiff(path, RAMP, compression="lzw", predictor=True, **TILED),
    "tiff first page of two": lambda path: tiff(path, np.stack([RAMP, 255 - RAMP]), **TILED),
    "bigtiff": lambda path: tiff(path, RAMP, bigtiff=True, **TILED),
    "tiff pyramid in subifds": lambda path: tiff_pyramid(path, RAMP),
    "tiff pyramid in pages": lambda path: vips(path, RAMP, ".tif[tile,tile_width=64,tile_height=64,pyramid]"),
    "ome-tiff": lambda path: tiff(path, RAMP, ome=True, **TILED),
    "ome-tiff channel pages": lambda path: tiff(
        path, RAMP.transpose(2, 0, 1), photometric="minisblack", ome=True, metadata={"axes": "CYX"}, **TILED
    ),
    "ome-tiff stack": lambda path: tiff(
        path,
        np.stack([RAMP, 255 - RAMP]).transpose(0, 3, 1, 2),
        photometric="minisblack",
        ome=True,
        metadata={"axes": "ZCYX"},
    ),
    "zarr v2": lambda path: zarr_array(path, RAMP, chunks=(50, 70, 3), zarr_format=2),
    "zarr v3": lambda path: zarr_array(path, RAMP, chunks=(50, 70, 3)),
    "zarr sharded": lambda path: zarr_array(path, RAMP, chunks=(32, 32, 3), shards=(64, 64, 3)),
    "zarr channels first": lambda path: zarr_array(path, RAMP.transpose(2, 0, 1), chunks=(1, 50, 70)),
    "zarr leading ones": lambda path: zarr_array(path, RAMP[None, None]),
    "zarr 16-bit": lambda path: zarr_array(path, RAMP.astype("u2") * 257),
    "zarr float": lambda path: zarr_array(path, RAMP.astype("f8") / 255),
    "zarr group of one array": lambda path: zarr.create_group(path).create_array("picture", data=RAMP),
    "ome-zarr 0.4": lambda path: ome_zarr(path, RAMP, 2),
    "ome-zarr 0.5": lambda path: ome_zarr(path, RAMP, 3),
    "ome-zarr stack": lambda path: ome_zarr(
        path, np.stack([RAMP, 255 - RAMP])[:, None].transpose(0, 4, 1, 2, 3), 3, "tczyx"
    ),
}
for compression in ("lzw", "deflate", "zstd", "packbits", "lzma"):
    LOSSLESS[f"tiff strips {compression}"] = lambda path, c=compression: tiff(path, RAMP, compression=c, rowsperstrip=7)
    LOSSLESS[f"tiff tiles {compression}"] = lambda path, c=compression: tiff(path, RAMP, compression=c, **TILED)

LOSSY = {
    "jpeg": lambda path: pil(path, RAMP, format="jpeg", quality=95),
    "jpeg progressive": lambda path: pil(path, RAMP, format="jpeg", quality=95, progressive=True),
    "webp lossy": lambda path: pil(path, RAMP, format="webp", quality=95),
    "tiff tiles jpeg": lambda path: vips(path, RAMP, ".tif[tile,tile_width=64,tile_height=64,compression=jpeg,Q=95]"),
    "tiff tiles jpeg ycbcr": lambda path: vips(
        path, RAMP, ".tif[tile,tile_width=64,tile_height=64,compression=jpeg,Q=85]"
    ),
    "tiff strips jpeg": lambda path: vips(path, RAMP, ".tif[compression=jpeg,Q=95]"),
    "tiff tiles jpeg of tifffile": lambda path: tiff(
        path, RAMP, compression="jpeg", compressionargs={"level": 95}, **TILED
    ),
    "tiff tiles webp": lambda path: tiff(path, RAMP, compression="webp", compressionargs={"level": 90}, **TILED),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_pictures_are_read_exactly(tmp_path, kind):
    LOSSLESS[kind](tmp_path / "picture")
    source = opened(tmp_path / "picture")
    assert source.size == (COLUMNS, ROWS)
    np.testing.assert_array_equal(source.read(Box(0, ROWS, 0, COLUMNS)), RAMP)
    np.testing.assert_array_equal(source.read(Box(37, 101, 50, 199)), RAMP[37:101, 50:199])


@pytest.mark.parametrize("kind", LOSSY)
def test_lossy_pictures_are_read_closely(tmp_path, kind):
    LOSSY[kind](tmp_path / "picture")
    source = opened(tmp_path / "picture")
    whole = source.read(Box(0, ROWS, 0, COLUMNS))
    errors = np.abs(whole.astype(int) - RAMP)
    assert errors.mean() < 2
    assert np.quantile(errors, 0.99) <= 10
    np.testing.assert_array_equal(source.read(Box(37, 101, 50, 199)), whole[37:101, 50:199])


@pytest.mark.parametrize("kind", ["png", "tiff strips", "tiff tiles lzw", "zarr v3"])
@pytest.mark.parametrize(
    "box", [(-5, 10, -7, 20), (100, 140, 190, 230), (-9, 150, -9, 250), (130, 135, 210, 213), (-8, -2, -8, -2)]
)
def test_boxes_beyond_the_picture_repeat_its_edge(tmp_path, kind, box):
    LOSSLESS[kind](tmp_path / "picture")
    top, bottom, left, right = box
    expected = RAMP[np.clip(np.arange(top, bottom), 0, ROWS - 1)][:, np.clip(np.arange(left, right), 0, COLUMNS - 1)]
    np.testing.assert_array_equal(opened(tmp_path / "picture").read(Box(*box)), expected)


@pytest.mark.parametrize("kind", ["png", "tiff tiles lzw", "zarr v3"])
def test_many_threads_may_read_at_once(tmp_path, kind):
    LOSSLESS[kind](tmp_path / "picture")
    source = opened(tmp_path / "picture")
    places = [(top, left) for top in range(0, 100, 9) for left in range(0, 180, 9)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda place: source.read(Box(place[0], place[0] + 20, place[1], place[1] + 20)), places))
    for (top, left), px in zip(places, made, strict=True):
        np.testing.assert_array_equal(px, RAMP[top : top + 20, left : left + 20])


def test_a_picture_of_one_px(tmp_path):
    pil(tmp_path / "a.png", np.full((1, 1, 3), 7, "u1"))
    np.testing.assert_array_equal(opened(tmp_path / "a.png").read(Box(-3, 4, -3, 4)), np.full((7, 7, 3), 7))


def test_the_first_page_of_a_gif_counts(tmp_path):
    red, blue = Image.new("RGB", (9, 5), (255, 0, 0)), Image.new("RGB", (9, 5), (0, 0, 255))
    red.save(tmp_path / "a.gif", save_all=True, append_images=[blue])
    np.testing.assert_array_equal(read(tmp_path / "a.gif"), np.full((5, 9, 3), (255, 0, 0)))


def test_boxes_of_tiles_need_no_unpacking_and_strips_do(tmp_path):
    tiff(tmp_path / "tiles.tif", RAMP, **TILED)
    tiff(tmp_path / "strips.tif", RAMP, rowsperstrip=7)
    assert open_source(tmp_path / "tiles.tif").unpacked_bytes == 0
    assert open_source(tmp_path / "strips.tif").unpacked_bytes == ROWS * COLUMNS * 3


@pytest.mark.parametrize("kind", ["png", "tiff strips", "tiff strips planar", "tiff strips big-endian 16-bit"])
def test_unpacking_in_many_bands_gives_the_same_px(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(tiff_module, "_BAND_BYTES", 10 * COLUMNS * 3)
    monkeypatch.setattr(with_vips, "_FETCH_BYTES", 9 * COLUMNS * 3)
    monkeypatch.setattr(source_module, "_UNPACKED_SIDE", 16)
    LOSSLESS[kind](tmp_path / "picture")
    done = []
    source = unpack(open_source(tmp_path / "picture"), zarr.create_group(store={}), "source", done.append)
    assert len(done) > 5
    assert sum(done) == ROWS * COLUMNS
    np.testing.assert_array_equal(source.read(Box(0, ROWS, 0, COLUMNS)), RAMP)


# --- levels
# ------------------------------------------------------------------------------------------------------------

PHOTO = photo(302, 407)


def halved(px):
    """The mean of every 2 x 2 px, what is left over at the right and at the bottom dropped."""
    height, width = px.shape[0] // 2, px.shape[1] // 2
    means = px[: 2 * height, : 2 * width].reshape(height, 2, width, 2, -1).mean((1, 3))
    return np.round(means).astype(px.dtype)


LEVELS = [PHOTO, halved(PHOTO), halved(halved(PHOTO)), halved(halved(halved(PHOTO)))]  # 407, 203, 101 and 50 px wide


def tiff_levels(path, levels, subifds=True, **settings):
    settings = {"photometric": "rgb", **TILED} | settings
    with tifffile.TiffWriter(path, ome=settings.pop("ome", False)) as file:
        file.write(levels[0], subifds=len(levels) - 1 if subifds else 0, **settings)
        for level in levels[1:]:
            file.write(level, subfiletype=1, **settings)


def zarr_levels(path, levels, version, axes="yxc", scales=None):
    datasets = [{"path": str(number)} for number in range(len(levels))]
    for dataset, scale in zip(datasets, scales or [], strict=bool(scales)):
        dataset["coordinateTransformations"] = [
            {"type": "scale", "scale": scale},
            {"type": "translation", "translation": [0.0] * 3},
        ]
    multiscales = [{"axes": [{"name": axis} for axis in axes], "datasets": datasets}]
    attributes = (
        {"multiscales": multiscales} if version == 2 else {"ome": {"version": "0.5", "multiscales": multiscales}}
    )
    group = zarr.create_group(path, zarr_format=version, attributes=attributes)
    for number, level in enumerate(levels):
        group.create_array(
            str(number), data=np.ascontiguousarray(level), chunks=tuple(min(64, length) for length in level.shape)
        )


def channels_first(levels):
    return [level.transpose(2, 0, 1) for level in levels]


TWICE = [[0.25 * 2**number, 0.25 * 2**number, 1.0] for number in range(4)]  # micrometres a px
PYRAMIDS = {
    "pages of libvips": (
        "TIFF",
        lambda path: vips(path, PHOTO, ".tif[tile,tile_width=64,tile_height=64,pyramid,depth=onepixel]"),
    ),
    "subifds of libvips": (
        "TIFF",
        lambda path: vips(
            path, PHOTO, ".tif[tile,tile_width=64,tile_height=64,pyramid,depth=onepixel,subifd,compression=deflate]"
        ),
    ),
    "pages of a BigTIFF": (
        "BigTIFF",
        lambda path: vips(path, PHOTO, ".tif[tile,tile_width=64,tile_height=64,pyramid,bigtiff]"),
    ),
    "subifds": ("TIFF", lambda path: tiff_levels(path, LEVELS)),
    "pages": ("TIFF", lambda path: tiff_levels(path, LEVELS, subifds=False, compression="lzw")),
    "strips": ("TIFF", lambda path: tiff_levels(path, LEVELS, tile=None, rowsperstrip=16, compression="deflate")),
    "ome-tiff": ("OME-TIFF", lambda path: tiff_levels(path, LEVELS, ome=True)),
    "ome-tiff channel pages": (
        "OME-TIFF",
        lambda path: tiff_levels(
            path, channels_first(LEVELS), ome=True, photometric="minisblack", metadata={"axes": "CYX"}
        ),
    ),
    "ome-zarr 0.4": ("OME-Zarr", lambda path: zarr_levels(path, LEVELS, 2)),
    "ome-zarr 0.5": ("OME-Zarr", lambda path: zarr_levels(path, LEVELS, 3, scales=TWICE)),
    "ome-zarr channels first": ("OME-Zarr", lambda path: zarr_levels(path, channels_first(LEVELS), 3, "cyx")),
}


def analysed(source, columns, chunk=None):
    """((8 rows, 8 columns, 3) uint8 the analysis image of a source at so many cells across, the level it was made
    from).
    """
    grid = CellGrid.over(source.size, (32, 32), columns=columns)
    source = unpack(source.for_step(grid.source_step), zarr.create_group(store={}), "source", lambda px: None)
    analysis = np.empty((CELL * grid.rows, CELL * grid.columns, 3), np.uint8)
    colours = np.empty((grid.rows, grid.columns, 3), np.uint8)
    for box in grid.chunks(chunk or (grid.rows, grid.columns)):
        ingest_chunk(box, source=source, grid=grid, analysis=analysis, colours=colours)
    return analysis, source


@pytest.mark.parametrize("kind", PYRAMIDS)
def test_the_smallest_level_that_loses_nothing_is_read(tmp_path, kind):
    name, write = PYRAMIDS[kind]
    write(tmp_path / "picture")
    tiff(tmp_path / "full.tif", PHOTO, **TILED)
    source = open_source(tmp_path / "picture")
    assert source.size == (407, 302)
    for columns, level in ((12, 0), (6, 1), (3, 2)):  # 4.2, 8.5, 17 px of the source for each of the analysis image
        made, used = analysed(source, columns)
        of_all, _ = analysed(open_source(tmp_path / "full.tif"), columns)
        assert used.level == level
        assert used.size == (407, 302)
        assert used.kind == (f"{name}, level {level + 1} of {len(source.levels)}" if level else name)
        inside = slice(0, 302 * 8 * columns // 407 - 3), slice(0, 8 * columns - 3)  # where a dropped px does not reach
        off = np.abs(made[inside].astype(int) - of_all[inside])
        assert off.max() <= 2
        assert off.mean() < 0.5


def test_a_level_coarser_than_that_would_blur(tmp_path, monkeypatch):
    tiff_levels(tmp_path / "a.tif", LEVELS)
    fine, _ = analysed(open_source(tmp_path / "a.tif"), 6)
    monkeypatch.setattr(source_module, "_LEVEL_PX", 2)
    coarse, used = analysed(open_source(tmp_path / "a.tif"), 6)
    assert used.level == 2
    assert np.abs(fine[:30, :40].astype(int) - coarse[:30, :40]).max() > 2


@pytest.mark.parametrize("kind", ["subifds", "strips", "ome-zarr 0.5"])
def test_chunks_of_a_level_are_those_of_the_whole(tmp_path, kind):
    PYRAMIDS[kind][1](tmp_path / "picture")
    whole, used = analysed(open_source(tmp_path / "picture"), 5)
    assert used.level == 1
    np.testing.assert_array_equal(analysed(open_source(tmp_path / "picture"), 5, chunk=(2, 3))[0], whole)


def test_the_level_has_4_px_for_each_px_in_both_directions(tmp_path):
    tiff_levels(tmp_path / "a.tif", [np.zeros((height, 8 * height, 3), "u1") for height in (512, 256, 128, 64)])
    source = open_source(tmp_path / "a.tif")
    steps = {
        (1, 1): 0,
        (7, 64): 0,
        (Fraction(799, 100), 8): 0,
        (8, 8): 1,
        (64, 15): 1,
        (16, 16): 2,
        (31, 32): 2,
        (32, 32): 3,
        (999, 999): 3,
    }
    assert {step: source.for_step(tuple(map(Fraction, step))).level for step in steps} == steps


@pytest.mark.parametrize(
    ("sides", "times"),
    [
        ((203, 151), (2, 2)),
        ((204, 151), (2, 2)),
        ((135, 101), (3, 3)),
        ((271, 201), (Fraction(407, 271), Fraction(302, 201))),
    ],
)
def test_a_level_is_a_whole_number_of_times_smaller_rounded_down_or_up_or_of_any_other_size(tmp_path, sides, times):
    zarr_levels(tmp_path / "a.zarr", [PHOTO, np.zeros((sides[1], sides[0], 3), "u1")], 3)
    source = open_source(tmp_path / "a.zarr").for_step((Fraction(99), Fraction(99)))
    assert source.level == 1
    assert source.shrink == times


@pytest.mark.parametrize("orientation", range(1, 9))
def test_levels_are_turned_as_the_whole_is(tmp_path, orientation):
    turned = {"extratags": [(274, 3, 1, orientation, True)]}
    tiff_levels(tmp_path / "levels.tif", [PHOTO[:300, :400], LEVELS[1][:150, :200]], **turned)
    tiff(tmp_path / "full.tif", PHOTO[:300, :400], **turned, **TILED)
    made, used = analysed(open_source(tmp_path / "levels.tif"), 3)
    assert used.level == 1
    assert used.size == ((400, 300) if orientation < 5 else (300, 400))
    whole, _ = analysed(open_source(tmp_path / "full.tif"), 3)
    assert np.abs(made[:14, :14].astype(int) - whole[:14, :14]).max() <= 2


SMALL = np.zeros((151, 203, 3), "u1")
NO_LEVELS = {
    "wider": lambda path: tiff_levels(path, [PHOTO, SMALL[:, :199]]),
    "lower": lambda path: tiff_levels(path, [PHOTO, SMALL[:145]]),
    "not smaller": lambda path: tiff_levels(path, [PHOTO, PHOTO]),
    "zarr of other samples": lambda path: zarr_levels(path, [PHOTO, SMALL.astype("u2")], 3),
    "zarr of fewer channels": lambda path: zarr_levels(path, [PHOTO, SMALL[..., :1]], 3),
    "zarr of fewer axes": lambda path: zarr_levels(path, [PHOTO, SMALL[..., 0]], 3),
    "zarr whose scale is another": lambda path: zarr_levels(path, [PHOTO, SMALL], 3, scales=[[1, 1, 1], [4, 4, 1]]),
    "palette": lambda path: tiff_levels(
        path, [PHOTO[..., 0], SMALL[..., 0]], photometric="palette", colormap=np.zeros((3, 256), "u2")
    ),
    "bilevel": lambda path: tiff_levels(path, [PHOTO[..., 0] > 99, SMALL[..., 0] > 99], photometric="minisblack"),
}


@pytest.mark.parametrize("kind", NO_LEVELS)
def test_what_is_not_the_same_picture_smaller_is_no_level(tmp_path, kind):
    NO_LEVELS[kind](tmp_path / "picture")
    source = open_source(tmp_path / "picture")
    assert len(source.levels) == 1
    assert source.for_step((Fraction(99), Fraction(99))).level == 0


def test_a_zarr_level_that_is_named_and_not_there_is_left_out(tmp_path):
    zarr_levels(tmp_path / "a.zarr", LEVELS, 3)
    shutil.rmtree(tmp_path / "a.zarr" / "1")
    assert [level.size for level in open_source(tmp_path / "a.zarr").levels] == [(407, 302), (101, 75), (50, 37)]


@pytest.mark.parametrize(
    "datasets", [[], [{}], 7, [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": "a"}]}] * 2]
)
def test_an_ome_zarr_that_describes_itself_wrongly_is_refused(tmp_path, datasets):
    group = zarr.create_group(tmp_path / "g.zarr", attributes={"multiscales": [{"datasets": datasets}]})
    group.create_array("0", data=RAMP)
    with pytest.raises(SourceError, match="describes its picture in a way that is not OME-Zarr's"):
        open_source(tmp_path / "g.zarr")


def test_a_truncated_level_is_refused(tmp_path):
    tiff_levels(tmp_path / "a.tif", LEVELS, compression="deflate")
    os.truncate(tmp_path / "a.tif", (tmp_path / "a.tif").stat().st_size - 2000)
    with pytest.raises(SourceError, match="truncated"):
        open_source(tmp_path / "a.tif")


# --- orientation
# -------------------------------------------------------------------------------------------------------


def upright(px, orientation):
    image = Image.fromarray(px)
    image.getexif()[274] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


def jpeg_turned(path, px, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    pil(path, px, format="jpeg", quality=95, subsampling=0, exif=exif)


TURNED = {
    "jpeg": (jpeg_turned, 6),
    "tiff tiles": (
        lambda path, px, orientation: tiff(path, px, extratags=[(274, 3, 1, orientation, True)], **TILED),
        0,
    ),
    "tiff strips": (
        lambda path, px, orientation: tiff(path, px, extratags=[(274, 3, 1, orientation, True)], rowsperstrip=7),
        0,
    ),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", TURNED)
def test_exif_orientation_is_applied(tmp_path, kind, orientation):
    write, tolerance = TURNED[kind]
    write(tmp_path / "picture", RAMP, orientation)
    source, expected = opened(tmp_path / "picture"), upright(RAMP, orientation)
    height, width = expected.shape[:2]
    assert source.size == (width, height)
    whole = source.read(Box(0, height, 0, width))
    assert np.abs(whole.astype(int) - expected).max() <= tolerance
    np.testing.assert_array_equal(source.read(Box(30, 95, 11, 100)), whole[30:95, 11:100])
    np.testing.assert_array_equal(
        source.read(Box(-2, 9, width - 9, width + 2)), np.pad(whole, ((2, 0), (0, 2), (0, 0)), "edge")[:11, -11:]
    )


def test_an_orientation_that_does_not_exist_is_none(tmp_path):
    tiff(tmp_path / "a.tif", RAMP, extratags=[(274, 3, 1, 9, True)], **TILED)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), RAMP)


# --- samples and colour models
# -----------------------------------------------------------------------------------------

GREY = np.dstack([Y + X // 2] * 3)
FINE = (Y.astype("u2") + X // 2) * 257
PALETTE = np.stack([np.arange(256), 255 - np.arange(256), np.full(256, 9)]).astype("u1")  # entry i is (i, 255 - i, 9)
INDEXED = np.moveaxis(PALETTE[:, GREY[..., 0]], 0, -1)
BLACK_OR_WHITE = np.where(GREY > 90, 255, 0)
SAMPLES = {
    "grey": (lambda path: tiff(path, GREY[..., 0], **TILED), GREY),
    "grey png": (lambda path: pil(path, GREY[..., 0], format="png"), GREY),
    "grey 16-bit": (lambda path: tiff(path, FINE, **TILED), GREY),
    "grey 16-bit png": (lambda path: pil(path, FINE, format="png"), GREY),
    "grey zarr": (lambda path: zarr_array(path, GREY[..., 0]), GREY),
    "grey float": (lambda path: tiff(path, GREY[..., 0].astype("f4") / 255, **TILED), GREY),
    "grey half float": (lambda path: tiff(path, (BLACK_OR_WHITE[..., 0] / 255).astype("f2"), **TILED), BLACK_OR_WHITE),
    "grey double": (lambda path: tiff(path, GREY[..., 0] / 255.0), GREY),
    "12-bit": (
        lambda path: tiff(path, np.round(FINE / 65535 * 4095).astype("u2"), bitspersample=12, rowsperstrip=8),
        GREY,
    ),
    "4-bit": (lambda path: tiff(path, GREY[..., 0] // 16, bitspersample=4, rowsperstrip=8), GREY // 16 * 17),
    "bilevel": (lambda path: tiff(path, GREY[..., 0] > 90), BLACK_OR_WHITE),
    "bilevel tiles": (lambda path: tiff(path, GREY[..., 0] > 90, **TILED), BLACK_OR_WHITE),
    "bilevel png": (lambda path: Image.fromarray(GREY[..., 0] > 90).save(path, format="png"), BLACK_OR_WHITE),
    "bilevel fax": (
        lambda path: Image.fromarray(GREY[..., 0] > 90).save(path, format="tiff", compression="group4"),
        BLACK_OR_WHITE,
    ),
    "bilevel zarr": (lambda path: zarr_array(path, GREY[..., 0] > 90), BLACK_OR_WHITE),
    "min is white": (lambda path: tiff(path, 255 - GREY[..., 0], photometric="miniswhite", **TILED), GREY),
    "min is white 16-bit": (lambda path: tiff(path, 65535 - FINE, photometric="miniswhite", **TILED), GREY),
    "min is white bilevel": (lambda path: tiff(path, GREY[..., 0] <= 90, photometric="miniswhite"), BLACK_OR_WHITE),
    "palette": (
        lambda path: tiff(path, GREY[..., 0], photometric="palette", colormap=PALETTE.astype("u2") * 257, **TILED),
        INDEXED,
    ),
    "palette of 8 bits": (
        lambda path: tiff(path, GREY[..., 0], photometric="palette", colormap=PALETTE.astype("u2"), **TILED),
        INDEXED,
    ),
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_kind_of_sample_becomes_8_bit_srgb(tmp_path, kind):
    write, expected = SAMPLES[kind]
    write(tmp_path / "picture")
    np.testing.assert_array_equal(read(tmp_path / "picture"), expected)


def test_a_palette_png_is_read_exactly(tmp_path):
    image = Image.fromarray(GREY[..., 0]).convert("P")
    image.putpalette(PALETTE.T.tobytes())
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png"), INDEXED)


def test_floats_beyond_the_unit_range_are_clipped(tmp_path):
    zarr_array(tmp_path / "a.zarr", np.array([[-3, 0, 0.2, 0.6, 1, 7, np.nan]], "f4"))
    np.testing.assert_array_equal(read(tmp_path / "a.zarr")[0, :, 0], [0, 0, 51, 153, 255, 255, 0])


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4", "f2"])
@pytest.mark.parametrize("photometric", ["rgb", "minisblack"])
def test_one_high_strip_reads_like_low_strips(tmp_path, dtype, photometric, monkeypatch):
    px = RAMP if photometric == "rgb" else GREY[..., 0]
    px = px * 257.0 if dtype == "u2" else px / 255 if dtype[0] == "f" else px
    tiff(tmp_path / "low.tif", px.astype(dtype), photometric=photometric, rowsperstrip=7)
    tiff(tmp_path / "high.tif", px.astype(dtype), photometric=photometric, rowsperstrip=ROWS)
    expected = read(tmp_path / "low.tif")
    monkeypatch.setattr(tiff_module, "_BAND_BYTES", 1000)  # so the strip is high
    np.testing.assert_array_equal(read(tmp_path / "high.tif"), expected)


@pytest.mark.parametrize(
    "settings",
    [{"bitspersample": 12}, {"photometric": "rgb", "extrasamples": ("unspecified",)}],
    ids=["12-bit", "unspecified channel"],
)
def test_one_high_strip_that_libvips_reads_otherwise_is_not_left_to_it(tmp_path, settings, monkeypatch):
    px = FINE // 16 if "bitspersample" in settings else np.dstack([RAMP, GREY[..., :1]])
    tiff(tmp_path / "high.tif", px, rowsperstrip=ROWS, **settings)
    expected = read(tmp_path / "high.tif")
    monkeypatch.setattr(tiff_module, "_BAND_BYTES", 1000)
    np.testing.assert_array_equal(read(tmp_path / "high.tif"), expected)


@pytest.mark.parametrize("kind", ["tiff", "tiff 16-bit", "jpeg"])
def test_cmyk_is_converted_as_libvips_does(tmp_path, kind):
    cmyk = np.dstack([RAMP, GREY[..., :1] // 2])
    if kind == "jpeg":
        Image.fromarray(cmyk, "CMYK").save(tmp_path / "picture", format="jpeg", quality=95)
    else:
        tiff(
            tmp_path / "picture", cmyk if kind == "tiff" else cmyk.astype("u2") * 257, photometric="separated", **TILED
        )
    expected = pyvips.Image.new_from_file(str(tmp_path / "picture")).colourspace("srgb").numpy()
    np.testing.assert_array_equal(read(tmp_path / "picture"), expected)


def test_a_profile_of_srgb_changes_nothing(tmp_path):
    pil(tmp_path / "a.png", RAMP, icc_profile=SRGB)
    tiff(tmp_path / "a.tif", RAMP, iccprofile=SRGB, **TILED)
    for name in ("a.png", "a.tif"):
        assert np.abs(read(tmp_path / name).astype(int) - RAMP).max() <= 2


@pytest.mark.parametrize("kind", ["png", "png 16-bit", "jpeg", "tiff tiles", "tiff strips"])
def test_a_profile_of_other_primaries_is_applied(tmp_path, kind):
    p3 = pyvips.Operation.call("profile_load", "p3")
    px = np.full((70, 90, 3), (100, 150, 200), "u1")
    if kind == "png 16-bit":
        pil(tmp_path / "small.png", px, icc_profile=p3)
        image = pyvips.Image.new_from_file(str(tmp_path / "small.png"))
        (image.cast("ushort") * 257).cast("ushort").copy(interpretation="rgb16").pngsave(str(tmp_path / "picture"))
    elif kind.startswith("tiff"):
        tiff(tmp_path / "picture", px, iccprofile=p3, **(TILED if kind == "tiff tiles" else {}))
    else:
        pil(tmp_path / "picture", px, format=kind, icc_profile=p3, **({"quality": 100} if kind == "jpeg" else {}))
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    made = ImageCms.profileToProfile(
        Image.fromarray(px),
        ImageCms.ImageCmsProfile(BytesIO(p3)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=intent,
        flags=flags,
    )
    expected = np.asarray(made)
    assert expected[0, 0, 0] < 90  # the same colour has less red in the smaller space
    assert np.abs(read(tmp_path / "picture").astype(int) - expected).max() <= 2


@pytest.mark.parametrize("profile", [SRGB, b"no profile"], ids=["of another model", "unreadable"])
def test_a_profile_that_does_not_fit_is_ignored(tmp_path, profile):
    tiff(tmp_path / "a.tif", GREY[..., 0], iccprofile=profile, **TILED)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), GREY)


HALF_RED = np.full((70, 90, 4), (255, 0, 0, 128), "u1")
HALF_RED_ASSOCIATED = np.full((70, 90, 4), (128, 0, 0, 128), "u1")
HALF_GREY = np.full((70, 90, 2), (100, 51), "u1")
TRANSPARENT = {
    "png": (lambda path: pil(path, HALF_RED, format="png"), (128, 0, 127)),
    "png 16-bit": (lambda path: vips(path, HALF_RED.astype("u2") * 257, ".png"), (128, 0, 127)),
    "webp": (lambda path: pil(path, HALF_RED, format="webp", lossless=True), (128, 0, 127)),
    "tiff straight": (lambda path: tiff(path, HALF_RED, extrasamples=["unassalpha"], **TILED), (128, 0, 127)),
    "tiff straight 16-bit": (
        lambda path: tiff(path, HALF_RED.astype("u2") * 257, extrasamples=["unassalpha"], **TILED),
        (128, 0, 127),
    ),
    "tiff associated": (
        lambda path: tiff(path, HALF_RED_ASSOCIATED, extrasamples=["assocalpha"], **TILED),
        (128, 0, 127),
    ),
    "tiff neither": (lambda path: tiff(path, HALF_RED, extrasamples=["unspecified"], **TILED), (255, 0, 0)),
    "zarr": (lambda path: zarr_array(path, HALF_RED), (128, 0, 127)),
    "zarr channels first": (lambda path: zarr_array(path, HALF_RED.transpose(2, 0, 1)), (128, 0, 127)),
    "grey png": (lambda path: pil(path, HALF_GREY, format="png"), (20, 20, 224)),
    "grey tiff": (
        lambda path: tiff(
            path, HALF_GREY, photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"], **TILED
        ),
        (20, 20, 224),
    ),
    "grey zarr": (lambda path: zarr_array(path, HALF_GREY), (20, 20, 224)),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparent_px_show_the_background(tmp_path, kind):
    write, expected = TRANSPARENT[kind]
    write(tmp_path / "picture")
    assert np.abs(read(tmp_path / "picture", (0, 0, 255)).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("extra", ["unassalpha", "assocalpha"])
def test_clear_px_are_the_background_and_solid_px_are_not(tmp_path, extra):
    px = np.array([[(0, 0, 0, 0), (10, 20, 30, 255)]], "u1")
    tiff(tmp_path / "a.tif", px, extrasamples=[extra], tile=(16, 16))
    np.testing.assert_array_equal(read(tmp_path / "a.tif", (1, 2, 3)), [[(1, 2, 3), (10, 20, 30)]])


# --- what cannot be read
# -----------------------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SourceNotFoundError, match=r"There is no file or folder .*nothing\.png"):
        open_source(tmp_path / "nothing.png")


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.jpg", b"", "is empty"),
        ("a.jpg", b"no picture at all", "is not a picture that can be read"),
        ("a.csv", b"1,2,3\n4,5,6\n", "is not a picture that can be read"),
        ("a.mat", b"2 2\n1 2\n3 4\n", "is not a picture that can be read"),
        ("a.tif", b"II*\0\1", "is not a TIFF that can be read"),
        ("a.tif", b"II*\0" + bytes(100), "is not a TIFF that can be read"),
    ],
)
def test_a_file_that_is_no_picture_is_refused(tmp_path, name, content, text):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=text):
        open_source(tmp_path / name)


def test_a_name_that_is_not_utf_8_is_refused(tmp_path):
    path = Path(os.fsdecode(bytes(tmp_path) + b"/\xff.png"))
    try:
        pil(path, RAMP, format="png")
    except OSError:
        pytest.skip("this file system knows only UTF-8")
    with pytest.raises(SourceError, match="its name is not UTF-8"):
        open_source(path)


NOISE = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype="u1")
CUT = {
    "jpeg": lambda path: pil(path, NOISE, format="jpeg"),
    "jpeg progressive": lambda path: pil(path, NOISE, format="jpeg", progressive=True),
    "png": lambda path: pil(path, NOISE, format="png"),
    "webp": lambda path: pil(path, NOISE, format="webp"),
    "gif": lambda path: pil(path, NOISE, format="gif"),
    "tiff one strip": lambda path: tiff(path, NOISE),
}
for compression in ("none", "lzw", "deflate", "zstd", "packbits", "jpeg"):
    CUT[f"tiff strips {compression}"] = lambda path, c=compression: tiff(path, NOISE, compression=c, rowsperstrip=16)
    CUT[f"tiff tiles {compression}"] = lambda path, c=compression: tiff(path, NOISE, compression=c, **TILED)


@pytest.mark.parametrize("kept", [0.5, 0.998])
@pytest.mark.parametrize("kind", CUT)
def test_a_truncated_file_is_never_half_a_picture(tmp_path, kind, kept):
    CUT[kind](tmp_path / "picture")
    data = (tmp_path / "picture").read_bytes()
    (tmp_path / "picture").write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(SourceError, match=r"truncated|cannot be read|can be read"):
        read(tmp_path / "picture")


def test_a_truncated_high_strip_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff_module, "_BAND_BYTES", 1000)
    tiff(tmp_path / "a.tif", NOISE)
    os.truncate(tmp_path / "a.tif", 300_000)
    with pytest.raises(SourceError, match="truncated"):
        read(tmp_path / "a.tif")


def test_damaged_tiles_are_refused_where_they_are_read(tmp_path):
    tiff(tmp_path / "a.tif", NOISE, compression="deflate", **TILED)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        at = file.pages[0].dataoffsets[-1]
    with (tmp_path / "a.tif").open("r+b") as file:
        file.seek(at)
        file.write(bytes(500))
    source = open_source(tmp_path / "a.tif")
    np.testing.assert_array_equal(source.read(Box(0, 64, 0, 64)), NOISE[:64, :64])
    with pytest.raises(SourceError, match="is damaged or truncated near row 256"):
        source.read(Box(256, 300, 384, 400))


def test_damaged_zarr_chunks_are_refused(tmp_path):
    zarr_array(tmp_path / "a.zarr", NOISE, chunks=(100, 100, 3))
    (tmp_path / "a.zarr" / "c" / "1" / "1" / "0").write_bytes(b"what is this")
    with pytest.raises(SourceError, match="is damaged or truncated near row 100"):
        open_source(tmp_path / "a.zarr").read(Box(100, 120, 100, 120))


def test_a_folder_that_is_no_zarr_is_refused(tmp_path):
    with pytest.raises(SourceError, match="holds no Zarr array or group"):
        open_source(tmp_path)


def test_a_zarr_group_must_hold_one_array(tmp_path):
    group = zarr.create_group(tmp_path / "g.zarr")
    with pytest.raises(SourceError, match="holds 0 arrays; name one of them: none"):
        open_source(tmp_path / "g.zarr")
    group.create_array("b", data=RAMP)
    group.create_array("a", data=RAMP)
    with pytest.raises(SourceError, match="holds 2 arrays; name one of them: a, b"):
        open_source(tmp_path / "g.zarr")
    np.testing.assert_array_equal(read(tmp_path / "g.zarr" / "b"), RAMP)


def test_an_ome_zarr_without_its_array_is_refused(tmp_path):
    zarr.create_group(tmp_path / "g.zarr", attributes={"multiscales": [{"datasets": [{"path": "0"}]}]})
    with pytest.raises(SourceError, match="names '0' as its picture, but holds no such array"):
        open_source(tmp_path / "g.zarr")


@pytest.mark.parametrize("shape", [(), (9,), (9, 9, 5), (5, 9, 9), (2, 9, 9, 3), (2, 3, 1, 9, 9)])
def test_a_zarr_of_an_odd_shape_is_refused(tmp_path, shape):
    zarr.create_array(tmp_path / "a.zarr", shape=shape, dtype="u1")
    with pytest.raises(
        SourceError, match=r"has the shape \(.*\); use \(rows, columns\) or \(rows, columns, channels\)"
    ):
        open_source(tmp_path / "a.zarr")


def test_a_zarr_without_px_is_refused(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(0, 9, 3), dtype="u1")
    with pytest.raises(SourceError, match=r"is empty: its shape is \(0, 9, 3\)"):
        open_source(tmp_path / "a.zarr")


def test_complex_samples_are_refused(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(9, 9), dtype="c8")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((9, 9), "c8"), photometric="minisblack")
    for name in ("a.zarr", "a.tif"):
        with pytest.raises(SourceError, match=r"has samples of type complex64; use whole numbers, or floats"):
            open_source(tmp_path / name)


# --- headers that lie
# --------------------------------------------------------------------------------------------------


def tiff_claiming(path, width, height, **settings):
    """A TIFF whose header claims a size, with the px of a small one."""
    tiff(path, NOISE, bigtiff=True, **settings)
    with tifffile.TiffFile(path, mode="r+b") as file:
        for tag, length in (("ImageWidth", width), ("ImageLength", height)):
            file.pages[0].tags[tag].overwrite(length, dtype="I")


CLAIMS = {
    "png": png_claiming,
    "tiff tiles": lambda path, width, height: tiff_claiming(path, width, height, compression="deflate", **TILED),
    "tiff tiles not compressed": lambda path, width, height: tiff_claiming(path, width, height, **TILED),
    "tiff strips": lambda path, width, height: tiff_claiming(
        path, width, height, compression="deflate", rowsperstrip=16
    ),
    "tiff one strip": tiff_claiming,
    "zarr": lambda path, width, height: zarr.create_array(
        path, shape=(height, width, 3), chunks=(64, 64, 3), dtype="u1"
    ),
}


@pytest.mark.parametrize("kind", CLAIMS)
def test_a_header_that_claims_an_absurd_size_is_refused(tmp_path, kind):
    CLAIMS[kind](tmp_path / "picture", 2_000_000, 1_000_000)
    with pytest.raises(
        SourceError,
        match=r"claims to have 2,000,000 x 1,000,000 px, and more than 1,000,000,000,000 px are not believed",
    ):
        open_source(tmp_path / "picture")


def test_the_limit_of_what_is_believed_can_be_raised_and_lowered(tmp_path):
    CLAIMS["zarr"](tmp_path / "a.zarr", 2_000_000, 1_000_000)
    assert open_source(tmp_path / "a.zarr", max_px=2 * 10**12).size == (2_000_000, 1_000_000)
    pil(tmp_path / "a.png", RAMP)
    with pytest.raises(
        SourceError,
        match="claims to have 200 x 120 px, and more than 23,999 px are not believed; raise `max_source_px`",
    ):
        open_source(tmp_path / "a.png", max_px=23_999)


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_neither_a_header_that_lies_within_belief_nor_a_large_picture_takes_much_memory_or_disk(tmp_path):
    """In one process of its own, which asks for the peak of each picture."""
    lying = [kind for kind in CLAIMS if kind != "zarr"]
    for kind in lying:
        CLAIMS[kind](tmp_path / kind, 1_000_000, 1_000_000)
    width, height = 12_000, 12_000  # 432 MB
    pyvips.Image.black(width, height, bands=3).pngsave(str(tmp_path / "large png"), compression=1)
    tifffile.imwrite(
        tmp_path / "large strip", shape=(height, width, 3), dtype="u1", photometric="rgb", rowsperstrip=height
    )
    large = ["large png", "large strip"]
    done = subprocess.run(
        [sys.executable, "-c", PEAKS, *(str(tmp_path / kind) for kind in (*lying, *large))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = dict(zip((*lying, *large), map(json.loads, done.stdout.splitlines()), strict=True))
    assert {kind: megabytes for kind, (megabytes, _) in told.items() if megabytes >= 150} == {}
    for kind in lying:
        assert "truncated" in told[kind][1] or "not a picture" in told[kind][1], kind
        files = (tmp_path / f"{kind}.zarr").rglob("*")
        assert sum(file.stat().st_size for file in files if file.is_file()) < 1 << 20, kind
    assert [told[kind][1] for kind in large] == ["", ""]


PEAKS = """
import json, sys
from pathlib import Path
import psutil
import zarr
from hirez_mosaic.engine.machine import peak_memory, settle_process
from hirez_mosaic.errors import SourceError
from hirez_mosaic.pixels.geometry import Box
from hirez_mosaic.sources import open_source, unpack
settle_process()
for path in sys.argv[1:]:
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, told = psutil.Process().memory_info().rss, ""
    try:
        group = zarr.open_group(path + ".zarr", mode="w")
        source = unpack(open_source(Path(path)), group, "source", lambda px: None)
        if source.size[0] > 900_000:
            source.read(Box(900_000, 900_100, 900_000, 900_100))
            told = "nothing"
        source.close()
    except SourceError as error:
        told = str(error)
    print(json.dumps(((peak_memory() - before) >> 20, told)))
"""
