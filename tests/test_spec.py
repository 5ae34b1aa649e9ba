from fractions import Fraction
from pathlib import Path

import pytest

from hirez_mosaic.errors import OutputError, SettingError
from hirez_mosaic.settings.parsing import format_bytes, parse_bytes, parse_colour, parse_scale, parse_tile
from hirez_mosaic.settings.spec import RenderSpec, default_output


def spec(**settings):
    return RenderSpec(
        **{"source": Path("a.jpg"), "templates": Path("t"), "tile": (32, 32), "output": Path("a.tif"), **settings}
    )


@pytest.mark.parametrize(
    ("text", "tile"),
    [
        (32, (32, 32)),
        ("32", (32, 32)),
        ("48x32", (48, 32)),
        (" 48X32 ", (48, 32)),
        ((5, 7), (5, 7)),
        (1, (1, 1)),
        (4096, (4096, 4096)),
    ],
)
def test_tiles(text, tile):
    assert parse_tile(text) == tile


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("big", "The tile is 'big'; use a number of px such as 32, or WxH such as 48x32"),
        ("", "The tile is ''"),
        ("32x", "The tile is '32x'"),
        ("3.5", "The tile is '3.5'"),
        (-3, "The tile is -3"),
        (0, "The tile is 0 x 0 px; use 1 to 4096 px a side"),
        ((32, 5000), "The tile is 32 x 5000 px"),
    ],
)
def test_tiles_that_are_none(text, message):
    with pytest.raises(SettingError, match=message):
        parse_tile(text)


@pytest.mark.parametrize(
    ("value", "scale"),
    [
        (2, 2),
        ("2", 2),
        (0.1, Fraction(1, 10)),
        ("0.25", Fraction(1, 4)),
        ("1/3", Fraction(1, 3)),
        (Fraction(2, 7), Fraction(2, 7)),
    ],
)
def test_scales_are_exact(value, scale):
    assert parse_scale(value) == scale


@pytest.mark.parametrize("value", ["double", "", "1/0", "nan", float("inf")])
def test_scales_that_are_none(value):
    with pytest.raises(SettingError, match="The scale is .*; use a number such as 2 or 0.5".replace(".5", r"\.5")):
        parse_scale(value)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (17, 17),
        ("17", 17),
        ("17b", 17),
        ("2GiB", 2 << 30),
        ("2 gib", 2 << 30),
        ("2G", 2 * 10**9),
        ("500MB", 5 * 10**8),
        ("1.5KiB", 1536),
    ],
)
def test_bytes(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["much", "2 XiB", "-1", "GiB", "1e9"])
def test_bytes_that_are_none(text):
    with pytest.raises(SettingError, match=f"The memory budget is '{text}'; use for example 2GiB or 500MB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "colour"),
    [
        ("white", (255, 255, 255)),
        ("Black", (0, 0, 0)),
        ("gray", (128, 128, 128)),
        ("#ffcc00", (255, 204, 0)),
        ("FFCC00", (255, 204, 0)),
        ("255, 204,0", (255, 204, 0)),
        ((1, 2, 3), (1, 2, 3)),
    ],
)
def test_colours(text, colour):
    assert parse_colour(text) == colour


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mauve", "The background is 'mauve'; use white, black, grey, #rrggbb or r,g,b"),
        ("#fff", "The background is '#fff'"),
        ("1,2", "The background is '1,2'"),
        ("256,0,0", "The background is '256,0,0'; levels go from 0 to 255"),
        ((0, 0, -1), r"The background is \(0, 0, -1\); levels go"),
    ],
)
def test_colours_that_are_none(text, message):
    with pytest.raises(SettingError, match=message):
        parse_colour(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB"), (5 << 40, "5.0 TiB")],
)
def test_bytes_for_people(count, text):
    assert format_bytes(count) == text


def test_the_output_is_named_after_the_source_and_lies_here():
    assert default_output(Path("/far/away/picture.ome.tif")) == Path("picture.ome.mosaic.tif")
    assert default_output(Path("/far/away/picture.zarr/")) == Path("picture.mosaic.tif")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"scale": Fraction(2), "columns": 9},
            SettingError,
            "`scale` and `columns` both settle the size of the mosaic; give one",
        ),
        ({"scale": Fraction(0)}, SettingError, "The scale is 0; use 0.000001 or more"),
        ({"scale": Fraction(-1, 2)}, SettingError, r"The scale is -0\.5"),
        ({"columns": 0}, SettingError, "The number of columns is 0; use 1 or more"),
        ({"chunk": 0}, SettingError, "The chunk is 0 cells; use 1 or more"),
        ({"memory": 0}, SettingError, "The memory budget is 0 bytes; use for example `memory=2GiB`"),
        ({"quality": 0}, SettingError, "The quality is 0; use 1 to 100"),
        ({"quality": 101}, SettingError, "The quality is 101"),
        ({"precision": "half"}, SettingError, "The precision is 'half'; use one of auto, float32, bfloat16"),
        ({"compression": "rar"}, SettingError, "The compression is 'rar'; use one of jpeg, deflate"),
        ({"output": Path("a.bmp")}, SettingError, r"The output a\.bmp has no known suffix; use one of \.tif"),
        ({"output": Path("a")}, SettingError, "The output a has no known suffix"),
        (
            {"preview": Path("p.tif")},
            SettingError,
            r"The preview p\.tif has no known suffix; use \.png, \.jpg or \.webp",
        ),
    ],
)
def test_settings_out_of_range(settings, error, message):
    with pytest.raises(error, match=message):
        spec(**settings)


def test_a_wrong_setting_is_a_value_error():
    with pytest.raises(ValueError, match="The quality is 0"):
        spec(quality=0)


@pytest.mark.parametrize(
    "output", ["a.tif", "a.TIFF", "a.dzi", "a.png", "a.JPG", "a.jpeg", "a.webp", "a.zarr", "a.iiif"]
)
def test_every_suffix_is_known_in_either_case(output):
    assert spec(output=Path(output)).output == Path(output)


@pytest.mark.parametrize(("output", "limit"), [("a.jpg", 65_500), ("a.JPEG", 65_500), ("a.webp", 16_383)])
def test_formats_that_end_at_a_size_refuse_more(output, limit):
    made = spec(output=Path(output))
    made.check_mosaic_size((limit, limit))
    with pytest.raises(
        OutputError, match=rf"The mosaic is {limit + 1} x 5 px and \.\w+ ends at {limit} px a side; use \.tif"
    ):
        made.check_mosaic_size((limit + 1, 5))
    with pytest.raises(OutputError, match=f"ends at {limit} px"):
        made.check_mosaic_size((5, limit + 1))


@pytest.mark.parametrize("output", ["a.tif", "a.dzi", "a.png", "a.zarr"])
def test_other_formats_do_not_end(output):
    spec(output=Path(output)).check_mosaic_size((9_000_000, 9_000_000))
