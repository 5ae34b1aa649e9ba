import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import pyvips
import tifffile
import zarr
from PIL import Image, ImageCms, ImageOps

from hirez_mosaic import sources
from hirez_mosaic.errors import SourceError, SourceNotFoundError
from hirez_mosaic.geometry import Box
from hirez_mosaic.sources import source as source_module
from hirez_mosaic.sources import tiff as tiff_module
from hirez_mosaic.sources import unpack, with_vips

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


def open_source(path, background=WHITE):
    TO_CLOSE.append(sources.open_source(path, background))
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
    "tiff strips planar": lambda path: tiff(path, RAMP.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", rowsperstrip=7),
    "tiff strips big-endian 16-bit": lambda path: tiff(path, RAMP.astype("u2") * 257, byteorder=">", rowsperstrip=7),
    "tiff one strip": lambda path: tiff(path, RAMP),
    "tiff tiles planar": lambda path: tiff(path, RAMP.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", **TILED),
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
        path, np.stack([RAMP, 255 - RAMP]).transpose(0, 3, 1, 2), photometric="minisblack", ome=True, metadata={"axes": "ZCYX"}
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
    "ome-zarr stack": lambda path: ome_zarr(path, np.stack([RAMP, 255 - RAMP])[:, None].transpose(0, 4, 1, 2, 3), 3, "tczyx"),
}
for compression in ("lzw", "deflate", "zstd", "packbits", "lzma"):
    LOSSLESS[f"tiff strips {compression}"] = lambda path, c=compression: tiff(path, RAMP, compression=c, rowsperstrip=7)
    LOSSLESS[f"tiff tiles {compression}"] = lambda path, c=compression: tiff(path, RAMP, compression=c, **TILED)

LOSSY = {
    "jpeg": lambda path: pil(path, RAMP, format="jpeg", quality=95),
    "jpeg progressive": lambda path: pil(path, RAMP, format="jpeg", quality=95, progressive=True),
    "webp lossy": lambda path: pil(path, RAMP, format="webp", quality=95),
    "tiff tiles jpeg": lambda path: vips(path, RAMP, ".tif[tile,tile_width=64,tile_height=64,compression=jpeg,Q=95]"),
    "tiff tiles jpeg ycbcr": lambda path: vips(path, RAMP, ".tif[tile,tile_width=64,tile_height=64,compression=jpeg,Q=85]"),
    "tiff strips jpeg": lambda path: vips(path, RAMP, ".tif[compression=jpeg,Q=95]"),
    "tiff tiles jpeg of tifffile": lambda path: tiff(path, RAMP, compression="jpeg", compressionargs={"level": 95}, **TILED),
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
@pytest.mark.parametrize("box", [(-5, 10, -7, 20), (100, 140, 190, 230), (-9, 150, -9, 250), (130, 135, 210, 213), (-8, -2, -8, -2)])
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


# --- orientation -------------------------------------------------------------------------------------------------------


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
    "tiff tiles": (lambda path, px, orientation: tiff(path, px, extratags=[(274, 3, 1, orientation, True)], **TILED), 0),
    "tiff strips": (lambda path, px, orientation: tiff(path, px, extratags=[(274, 3, 1, orientation, True)], rowsperstrip=7), 0),
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
    np.testing.assert_array_equal(source.read(Box(-2, 9, width - 9, width + 2)), np.pad(whole, ((2, 0), (0, 2), (0, 0)), "edge")[:11, -11:])


def test_an_orientation_that_does_not_exist_is_none(tmp_path):
    tiff(tmp_path / "a.tif", RAMP, extratags=[(274, 3, 1, 9, True)], **TILED)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), RAMP)


# --- samples and colour models -----------------------------------------------------------------------------------------

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
    "12-bit": (lambda path: tiff(path, np.round(FINE / 65535 * 4095).astype("u2"), bitspersample=12, rowsperstrip=8), GREY),
    "4-bit": (lambda path: tiff(path, GREY[..., 0] // 16, bitspersample=4, rowsperstrip=8), GREY // 16 * 17),
    "bilevel": (lambda path: tiff(path, GREY[..., 0] > 90), BLACK_OR_WHITE),
    "bilevel tiles": (lambda path: tiff(path, GREY[..., 0] > 90, **TILED), BLACK_OR_WHITE),
    "bilevel png": (lambda path: Image.fromarray(GREY[..., 0] > 90).save(path, format="png"), BLACK_OR_WHITE),
    "bilevel fax": (lambda path: Image.fromarray(GREY[..., 0] > 90).save(path, format="tiff", compression="group4"), BLACK_OR_WHITE),
    "bilevel zarr": (lambda path: zarr_array(path, GREY[..., 0] > 90), BLACK_OR_WHITE),
    "min is white": (lambda path: tiff(path, 255 - GREY[..., 0], photometric="miniswhite", **TILED), GREY),
    "min is white 16-bit": (lambda path: tiff(path, 65535 - FINE, photometric="miniswhite", **TILED), GREY),
    "min is white bilevel": (lambda path: tiff(path, GREY[..., 0] <= 90, photometric="miniswhite"), BLACK_OR_WHITE),
    "palette": (lambda path: tiff(path, GREY[..., 0], photometric="palette", colormap=PALETTE.astype("u2") * 257, **TILED), INDEXED),
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
    zarr_array(tmp_path / "a.zarr", np.array([[-3, 0, 1, 7, np.nan]], "f4"))
    np.testing.assert_array_equal(read(tmp_path / "a.zarr")[0, :, 0], [0, 0, 255, 255, 0])


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
    "settings", [{"bitspersample": 12}, {"photometric": "rgb", "extrasamples": ("unspecified",)}], ids=["12-bit", "unspecified channel"]
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
        tiff(tmp_path / "picture", cmyk if kind == "tiff" else cmyk.astype("u2") * 257, photometric="separated", **TILED)
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
        Image.fromarray(px), ImageCms.ImageCmsProfile(BytesIO(p3)), ImageCms.createProfile("sRGB"), renderingIntent=intent, flags=flags
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
    "tiff straight 16-bit": (lambda path: tiff(path, HALF_RED.astype("u2") * 257, extrasamples=["unassalpha"], **TILED), (128, 0, 127)),
    "tiff associated": (lambda path: tiff(path, HALF_RED_ASSOCIATED, extrasamples=["assocalpha"], **TILED), (128, 0, 127)),
    "tiff neither": (lambda path: tiff(path, HALF_RED, extrasamples=["unspecified"], **TILED), (255, 0, 0)),
    "zarr": (lambda path: zarr_array(path, HALF_RED), (128, 0, 127)),
    "zarr channels first": (lambda path: zarr_array(path, HALF_RED.transpose(2, 0, 1)), (128, 0, 127)),
    "grey png": (lambda path: pil(path, HALF_GREY, format="png"), (20, 20, 224)),
    "grey tiff": (
        lambda path: tiff(path, HALF_GREY, photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"], **TILED),
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


# --- what cannot be read -----------------------------------------------------------------------------------------------


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
    with pytest.raises(SourceError, match=r"has the shape \(.*\); use \(rows, columns\) or \(rows, columns, channels\)"):
        open_source(tmp_path / "a.zarr")


def test_a_zarr_without_px_is_refused(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(0, 9, 3), dtype="u1")
    with pytest.raises(SourceError, match=r"is empty: its shape is \(0, 9, 3\)"):
        open_source(tmp_path / "a.zarr")


@pytest.mark.parametrize("dtype", ["i8", "u4", "i2", "c8"])
def test_samples_of_an_unknown_range_are_refused(tmp_path, dtype):
    zarr.create_array(tmp_path / "a.zarr", shape=(9, 9), dtype=dtype)
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((9, 9), dtype), photometric="minisblack")
    for name in ("a.zarr", "a.tif"):
        with pytest.raises(SourceError, match=r"has samples of type .*; use 8-bit, 16-bit or floating-point"):
            open_source(tmp_path / name)


def test_five_channels_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 64, 64), "u1"), photometric="minisblack", ome=True, metadata={"axes": "CYX"})
    ome_zarr(tmp_path / "a.zarr", np.zeros((5, 64, 64), "u1"), 3, "cyx")
    for name in ("a.tif", "a.zarr"):
        with pytest.raises(SourceError, match="has 5 channels; use grey, RGB or CMYK"):
            open_source(tmp_path / name)


# --- memory ------------------------------------------------------------------------------------------------------------

GROWTH = """
import resource, sys
from pathlib import Path
import zarr
from hirez_mosaic.sources import open_source, unpack
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source = unpack(open_source(Path(sys.argv[1])), zarr.open_group(sys.argv[2], mode="w"), "source", lambda px: None)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
@pytest.mark.parametrize("kind", ["png", "tiff one strip"])
def test_a_large_picture_is_unpacked_in_little_memory(tmp_path, kind):
    width, height = 12_000, 20_000  # 720 MB
    if kind == "png":
        pyvips.Image.black(width, height, bands=3).pngsave(str(tmp_path / "picture"), compression=1)
    else:
        tifffile.imwrite(tmp_path / "picture", shape=(height, width, 3), dtype="u1", photometric="rgb", rowsperstrip=height)
    command = [sys.executable, "-c", GROWTH, str(tmp_path / "picture"), str(tmp_path / "unpacked.zarr")]
    megabytes = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert megabytes < 150
