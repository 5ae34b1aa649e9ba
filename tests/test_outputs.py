"""Mosaics are what other tools take them for: Cloud Optimized GeoTIFF, OME-Zarr, IIIF; and tell how they were made."""

import itertools
import json
import math
import warnings
from dataclasses import fields
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import pyvips
import tifffile
import zarr
from conftest import photo
from PIL import Image
from test_assemble import index_map, mosaic_of, numbered, of, quiet

from hirez_mosaic.errors import SettingError
from hirez_mosaic.outputs import tiff
from hirez_mosaic.outputs.mosaic_file import assemble
from hirez_mosaic.outputs.pyramid import halved, level_sizes
from hirez_mosaic.outputs.writers import WRITERS
from hirez_mosaic.pixels.geometry import Box
from hirez_mosaic.settings import formats
from hirez_mosaic.settings.formats import FORMATS, Encoding, check_options, format_of, is_of_mosaic, parts_of
from hirez_mosaic.settings.record import SOFTWARE, record_of
from hirez_mosaic.settings.spec import RenderSpec
from hirez_mosaic.sources import open_source

# --- the table
# ---------------------------------------------------------------------------------------------------------


def test_every_format_has_a_writer_and_every_writer_a_format():
    assert set(WRITERS) == {one.name for one in FORMATS}


def test_every_option_is_one_of_the_encoding():
    names = {one.name for one in fields(Encoding)}
    assert {option for one in FORMATS for option in one.options} == names - {"record"}


def test_no_suffix_stands_twice():
    assert len(formats.SUFFIXES) == len(set(formats.SUFFIXES))
    assert all(format_of(Path(f"a{suffix.upper()}")).suffixes.count(suffix) == 1 for suffix in formats.SUFFIXES)


@pytest.mark.parametrize("suffix", formats.SUFFIXES)
def test_what_a_writer_leaves_is_what_the_table_tells(tmp_path, suffix):
    output = tmp_path / f"a{suffix}"
    assemble(of(index_map(40, 20), numbered(200, 16, 16)), output, quiet)
    assert sorted(tmp_path.iterdir()) == sorted(parts_of(output))
    assert all(is_of_mosaic(part) for part in parts_of(output) if part.is_dir())


@pytest.mark.parametrize("one", FORMATS, ids=lambda one: one.name)
@pytest.mark.parametrize(("option", "value"), [("compression", "lzw"), ("quality", 80), ("dpi", 150), ("cog", True)])
def test_an_option_that_a_format_does_not_take_is_an_error(one, option, value):
    output = Path(f"a{one.suffixes[0]}")
    if option in one.options:
        check_options(output, {option: value})
    else:
        with pytest.raises(SettingError, match=rf"The output a\.\w+ takes no `{option}`; leave it out, or name"):
            check_options(output, {option: value})


@pytest.mark.parametrize(
    ("output", "settings", "message"),
    [
        ("a.tif", {"compression": "lzw", "quality": 80}, "`quality` is of jpeg or webp and `compression` is lzw"),
        ("a.png", {"dpi": 0}, "The resolution is 0 dots an inch; use 1 to 100000"),
        ("a.png", {"dpi": math.nan}, "The resolution is nan dots"),
        ("a.iiif", {"iiif": "wall"}, "`iiif` is 'wall'; give the address of a folder, such as http"),
        ("a.png", {"iiif": "http://a.org"}, r"takes no `iiif`; leave it out, or name an output that ends in \.iiif"),
        (
            "a.png",
            {"quality": 80},
            r"takes no `quality`; leave it out, or name .* \.tif, \.dzi, \.jpg, \.webp or \.iiif",
        ),
        ("a.png", {"preview": Path("b.png"), "no_preview": True}, "`preview` asks for one and `no_preview` for none"),
    ],
)
def test_wrong_options_of_outputs(output, settings, message):
    with pytest.raises(SettingError, match=message):
        RenderSpec(source=Path("a.jpg"), templates=Path("t"), tile=(8, 8), output=Path(output), **settings)


# --- levels
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "levels"), [((256, 256), 1), ((257, 100), 2), ((1000, 3), 2), ((5000, 1), 1)])
def test_levels_end_at_one_tile_or_at_one_px(size, levels):
    sizes = level_sizes(size, 256)
    assert len(sizes) == levels
    assert min(map(min, sizes)) >= 1


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (5, 7), (64, 31)])
def test_a_half_is_the_mean_of_four_rounded(shape):
    px = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype="u1")
    whole = px[: shape[0] // 2 * 2, : shape[1] // 2 * 2].astype(int)
    means = (whole[::2, ::2] + whole[1::2, ::2] + whole[::2, 1::2] + whole[1::2, 1::2] + 2) // 4
    np.testing.assert_array_equal(halved(px), means)


def halves_of(px):
    yield px
    while max(px.shape[:2]) > 256 and min(px.shape[:2]) > 1:
        px = halved(px)
        yield px


@pytest.mark.parametrize("tile", [(24, 16), (37, 41), (700, 3)])
@pytest.mark.parametrize("name", ["a.tif", "a.zarr"])
def test_every_level_is_half_the_one_before_px_for_px(tmp_path, name, tile):
    cells = index_map(29, 27)
    templates = np.random.default_rng(1).integers(0, 256, (200, tile[1], tile[0], 3), dtype="u1")
    assemble(of(cells, templates), tmp_path / name, quiet, Encoding(compression="deflate"))
    px = templates[cells].transpose(0, 2, 1, 3, 4).reshape(29 * tile[1], 27 * tile[0], 3)
    expected = list(halves_of(px))
    if name == "a.tif":
        with tifffile.TiffFile(tmp_path / name) as file:
            made = [level.asarray() for level in file.series[0].levels]
    else:
        group = zarr.open_group(tmp_path / name, mode="r")
        made = [group[str(level)][:].transpose(1, 2, 0) for level in range(len(expected))]
    assert [one.shape for one in made] == [one.shape for one in expected]
    for one, other in zip(made, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("cog", [False, True])
def test_the_bytes_do_not_depend_on_the_number_of_cores(tmp_path, cog, monkeypatch):
    mosaic = of(index_map(60, 50), photo(200 * 16, 16).reshape(200, 16, 16, 3))
    found = []
    for count in (1, 3):
        monkeypatch.setattr("hirez_mosaic.outputs.pyramid.cores", lambda count=count: count)
        assemble(mosaic, tmp_path / "a.tif", quiet, Encoding(cog=cog))
        found.append((tmp_path / "a.tif").read_bytes())
    assert found[0] == found[1]


# --- TIFF
# --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("quality", "sampling"), [(90, (1, 1)), (89, (2, 2))])
def test_jpeg_in_a_tiff_is_that_of_a_jpeg_file(tmp_path, quality, sampling):
    mosaic = of(np.zeros((2, 3), "u4"), photo(256, 256)[None])
    for name in ("a.tif", "a.jpg"):
        assemble(mosaic, tmp_path / name, quiet, Encoding(quality=quality))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        page = file.pages[0]
        assert page.photometric == tifffile.PHOTOMETRIC.YCBCR
        assert tuple(page.tags["YCbCrSubSampling"].value) == sampling
        tiles = sum(page.databytecounts)
        np.testing.assert_array_equal(page.asarray(), pyvips.Image.new_from_file(str(tmp_path / "a.tif")).numpy())
    assert tiles == pytest.approx((tmp_path / "a.jpg").stat().st_size, rel=0.1)
    expected = np.asarray(Image.open(tmp_path / "a.jpg")).astype(int)
    off = np.abs(np.asarray(Image.open(tmp_path / "a.tif")).astype(int) - expected)
    assert off[2:254, 2:254].max() <= 4  # where colours of half the resolution end, each decoder continues them its way


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("compression", formats.COMPRESSIONS)
def test_a_cog_is_one_for_its_validator(tmp_path, compression, big, monkeypatch):
    rio_cogeo = pytest.importorskip("rio_cogeo")
    if big:
        monkeypatch.setattr(tiff, "_CLASSIC", 1)
    cells = index_map(45, 60)
    assemble(of(cells, numbered(200, 16, 16)), tmp_path / "a.tif", quiet, Encoding(compression, 95, cog=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it lies nowhere on Earth
        valid, errors, notes = rio_cogeo.cog_validate(tmp_path / "a.tif", strict=True)
    assert (valid, errors, notes) == (True, [], [])
    assert {path.name for path in tmp_path.iterdir()} == {"a.tif"}
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff == big
        assert [page.shape[:2] for page in file.pages] == [(720, 960), (360, 480), (180, 240)]
        assert np.abs(file.pages[0].asarray().astype(int) - mosaic_of(cells, 16, 16)).max() <= 8


@pytest.mark.parametrize(
    "encoding", [Encoding(), Encoding(cog=True), Encoding("deflate")], ids=["tif", "cog", "deflate"]
)
def test_a_mosaic_is_a_source_with_its_levels(tmp_path, encoding):
    cells = index_map(45, 60)
    assemble(of(cells, numbered(200, 16, 16)), tmp_path / "a.tif", quiet, encoding)
    source = open_source(tmp_path / "a.tif")
    assert [level.size for level in source.levels] == [(960, 720), (480, 360), (240, 180)]
    source.close()


# --- OME-Zarr
# ----------------------------------------------------------------------------------------------------------


def test_a_zarr_is_ome_zarr_for_its_validator(tmp_path):
    models = pytest.importorskip("ome_zarr_models.v05.image")
    cells = index_map(45, 60)
    assemble(of(cells, numbered(200, 16, 16)), tmp_path / "wall.zarr", quiet, Encoding(record={"tile": "16x16"}))
    group = zarr.open_group(tmp_path / "wall.zarr", mode="r")
    image = models.Image.from_zarr(group)
    (scales,) = image.ome_attributes.multiscales
    assert [one.path for one in scales.datasets] == ["0", "1", "2"]
    assert [axis.name for axis in scales.axes] == ["c", "y", "x"]
    assert [len(one.coordinateTransformations) for one in scales.datasets] == [2, 2, 2]
    assert scales.metadata == {"method": SOFTWARE, "tile": "16x16"}
    assert [channel["color"] for channel in dict(image.ome_attributes.omero)["channels"]] == [
        "FF0000",
        "00FF00",
        "0000FF",
    ]
    source = open_source(tmp_path / "wall.zarr")
    assert (source.kind, [level.size for level in source.levels]) == (
        "OME-Zarr",
        [(960, 720), (480, 360), (240, 180)],
    )
    np.testing.assert_array_equal(source.read(Box(0, 720, 0, 960)), mosaic_of(cells, 16, 16))


# --- IIIF
# --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [(16, 16), (13, 17), (3, 2)])
def test_every_tile_that_info_json_promises_is_there(tmp_path, tile):
    cells = index_map(61, 77)
    output = tmp_path / "a wall.iiif"
    assemble(of(cells, numbered(200, *tile)), output, quiet, Encoding(iiif="https://a.org/b/"))
    told = json.loads((output / "info.json").read_text())
    width, height = 77 * tile[0], 61 * tile[1]
    assert told["@context"] == "http://iiif.io/api/image/3/context.json"
    assert told["id"] == "https://a.org/b/a%20wall.iiif"
    assert (told["type"], told["profile"]) == ("ImageService3", "level0")
    assert told["protocol"] == "http://iiif.io/api/image"
    assert (told["width"], told["height"]) == (width, height)
    promised = {f"full/{one['width']},{one['height']}": (one["width"], one["height"]) for one in told["sizes"]}
    for one in told["tiles"]:
        for factor in one["scaleFactors"]:
            side = one["width"] * factor
            for top, left in itertools.product(range(0, height, side), range(0, width, side)):
                across, down = min(side, width - left), min(side, height - top)
                region = "full" if (across, down) == (width, height) else f"{left},{top},{across},{down}"
                size = math.ceil(across / factor), math.ceil(down / factor)  # section 4.2 of the specification
                promised[f"{region}/{size[0]},{size[1]}"] = size
    files = {path.relative_to(output).as_posix() for path in output.rglob("*.jpg")}
    assert files == {f"{name}/0/default.jpg" for name in promised}
    for name, size in promised.items():
        with Image.open(output / name / "0" / "default.jpg") as image:
            assert image.size == size


# --- what a file tells
# -------------------------------------------------------------------------------------------------


def xmp_of(path):
    fields = pyvips.Image.new_from_file(str(path))
    (described,) = ElementTree.fromstring(fields.get("xmp-data").rstrip(b"\0")).iter(
        "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"
    )
    return {name.split("}")[1]: value for name, value in described.attrib.items() if "}about" not in name}


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg", "a.webp"])
def test_a_mosaic_tells_its_profile_and_how_it_was_made(tmp_path, name):
    record = {"tile": "16x16", "source": 'a <"photo">\ud800 & ä.jpg'}
    assemble(of(index_map(4, 5), numbered(200, 16, 16)), tmp_path / name, quiet, Encoding(record=record))
    told = xmp_of(tmp_path / name)
    assert told == {"CreatorTool": SOFTWARE, "tile": "16x16", "source": 'a <"photo">\ufffd & ä.jpg'}
    with Image.open(tmp_path / name) as image:
        assert image.info["icc_profile"]


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg"])
@pytest.mark.parametrize("dpi", [300, 150, 72.5])
def test_a_mosaic_tells_its_resolution(tmp_path, name, dpi):
    assemble(of(index_map(4, 5), numbered(200, 16, 16)), tmp_path / name, quiet, Encoding(dpi=dpi))
    with Image.open(tmp_path / name) as image:
        assert image.info["dpi"] == pytest.approx((dpi, dpi), abs=0.51)


def test_a_record_holds_no_path_and_nothing_of_the_run(tmp_path):
    settings = {"memory": 1 << 30, "chunk": 8, "jobs": 2, "workspace": "/home/me/work", "quality": 80}
    spec = RenderSpec(
        source=tmp_path / "me" / "photo.jpg",
        templates=tmp_path / "album",
        tile=(32, 16),
        output=tmp_path / "a.tif",
        mirror=True,
        tint=0.25,
        **settings,
    )
    expected = {"source": "photo.jpg", "templates": "album", "tile": "32x16", "mirror": "true", "tint": "0.25"}
    assert record_of(spec) == expected


def test_every_suffix_and_option_stands_in_the_documents():
    text = (Path(formats.__file__).parents[2] / "docs" / "formats.md").read_text("utf-8")
    for one in FORMATS:
        assert all(f"`{suffix}`" in text for suffix in one.suffixes)
        assert all(f"`--{option}`" in text for option in one.options)
