import os
import threading
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import pyvips
import tifffile
from conftest import png_claiming
from filelock import FileLock
from PIL import Image, ImageOps

from hirez_mosaic.errors import TemplateError
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.jobs.template_sets import cached_templates
from hirez_mosaic.templates import TemplateSet, load_templates, loading
from hirez_mosaic.templates.quick import quick_jpeg

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "templates").mkdir()
    return tmp_path / "templates"


@pytest.fixture
def load(folder, tmp_path):
    def load_them(tile=(8, 8), place=folder, **settings):
        return load_templates(place, tile, cache=tmp_path / "cache", jobs=2, **settings)

    return load_them


def flat(path, colour, size=(20, 20), **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **settings)


def assert_flat(pixels, colour, tolerance=0):
    assert np.abs(pixels.astype(int) - colour).max() <= tolerance


# --- how one template is made
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "middle"), [((60, 20), (slice(None), slice(20, 40))), ((20, 60), (slice(20, 40), slice(None)))]
)
def test_the_centre_is_cut_out(folder, load, size, middle):
    px = np.full((size[1], size[0], 3), RED, "u1")
    px[middle] = GREEN
    Image.fromarray(px).save(folder / "a.png")
    assert_flat(load((20, 20)).pixels[0], GREEN)


def test_a_tile_that_is_not_square_cuts_to_its_shape(folder, load):
    px = np.full((40, 40, 3), RED, "u1")
    px[10:30] = GREEN
    Image.fromarray(px).save(folder / "a.png")
    templates = load((40, 20))
    assert templates.tile == (40, 20)
    assert templates.pixels.shape == (1, 20, 40, 3)
    assert_flat(templates.pixels[0], GREEN)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_shrinking_averages(folder, load, suffix):
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype("u1")
    Image.fromarray(board).save(folder / f"a.{suffix}", **({"quality": 100} if suffix == "jpg" else {}))
    assert_flat(load((16, 16)).pixels[0, 2:-2, 2:-2], (128, 128, 128), 2)


def test_a_small_picture_is_enlarged(folder, load):
    flat(folder / "a.png", RED, (2, 1))
    assert_flat(load((33, 17)).pixels[0], RED)


def test_a_picture_of_tile_size_is_taken_as_it_is(folder, load):
    px = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype="u1")
    Image.fromarray(px).save(folder / "a.png")
    np.testing.assert_array_equal(load((12, 9)).pixels[0], px)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif"])
def test_transparent_px_show_the_background(folder, load, name):
    Image.new("RGBA", (20, 20), (255, 0, 0, 128)).save(
        folder / name, **({"lossless": True} if name == "a.webp" else {})
    )
    assert_flat(load(background=BLUE).pixels[0], (128, 0, 127), 1)
    assert_flat(load().pixels[0], (255, 127, 127), 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(folder, load, orientation):
    px = np.zeros((32, 48, 3), "u1")
    px[:16, :24], px[:16, 24:], px[16:, :24] = RED, GREEN, BLUE
    image, exif = Image.fromarray(px), Image.Exif()
    exif[274] = orientation
    image.save(folder / "a.jpg", exif=exif, quality=95, subsampling=0)
    image.getexif()[274] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image))
    made = load(expected.shape[1::-1]).pixels[0]
    assert np.abs(made.astype(int) - expected).max() <= 12


GREY = np.full((20, 20), 100, "u1")
KINDS = {
    "grey png": lambda path: Image.fromarray(GREY).save(path, format="png"),
    "grey jpeg": lambda path: Image.fromarray(GREY).save(path, format="jpeg"),
    "grey 16-bit": lambda path: Image.fromarray(GREY.astype("u2") * 257).save(path, format="png"),
    "rgb 16-bit": lambda path: tifffile.imwrite(path, np.dstack([GREY.astype("u2") * 257] * 3), photometric="rgb"),
    "min is white": lambda path: tifffile.imwrite(path, 255 - GREY, photometric="miniswhite"),
    "palette": lambda path: Image.new("RGB", (20, 20), (100, 100, 100)).quantize(4).save(path, format="png"),
    "gif": lambda path: Image.new("RGB", (20, 20), (100, 100, 100)).save(path, format="gif"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_sample_becomes_8_bit_srgb(folder, load, kind):
    KINDS[kind](folder / "a")
    assert_flat(load().pixels[0], (100, 100, 100))


@pytest.mark.parametrize("kind", ["tiff", "jpeg"])
def test_cmyk_is_converted_as_libvips_does(folder, load, kind):
    Image.new("CMYK", (20, 20), (200, 100, 50, 20)).save(folder / "a", format=kind)
    expected = pyvips.Image.new_from_file(str(folder / "a")).colourspace("srgb").getpoint(5, 5)
    assert_flat(load().pixels[0], expected, 2)


@pytest.mark.parametrize("background", [(0, 0, 0), (255, 255, 255)])
def test_channels_beside_colour_and_alpha_do_not_count(folder, load, background):
    px = np.dstack([np.full((20, 20, 1), value, "u1") for value in (*RED, 255, 77)])
    tifffile.imwrite(folder / "a.tif", px, photometric="rgb", extrasamples=["unassalpha", "unspecified"])
    flat(folder / "b.png", GREEN)
    found = load(background=background)
    assert found.names == ("a.tif", "b.png")
    assert_flat(found.pixels[0], RED)
    assert_flat(found.pixels[1], GREEN)


def test_a_profile_is_applied(folder, load):
    p3 = pyvips.Operation.call("profile_load", "p3")
    flat(folder / "a.png", (100, 150, 200), icc_profile=p3)
    image = pyvips.Image.new_from_file(str(folder / "a.png"))
    expected = image.icc_transform("srgb", embedded=True, intent="relative").getpoint(5, 5)
    assert expected[0] < 90  # the same colour has less red in the smaller space
    assert_flat(load().pixels[0], expected, 2)


# --- which files count
# -------------------------------------------------------------------------------------------------


def test_templates_are_in_the_order_of_their_paths(folder, load):
    for name, colour in [("b.png", BLUE), ("a/z.png", RED), ("a.png", GREEN), ("c/d/e.png", (9, 9, 9))]:
        flat(folder / name, colour)
    templates = load()
    assert templates.names == ("a.png", "a/z.png", "b.png", "c/d/e.png")
    assert templates.pixels[:, 4, 4].tolist() == [[0, 255, 0], [255, 0, 0], [0, 0, 255], [9, 9, 9]]
    assert len(templates) == 4


def test_hidden_files_and_folders_do_not_count(folder, load):
    for name in ("a.png", ".b.png", ".hidden/c.png", "open/.d.png"):
        flat(folder / name, RED)
    templates = load()
    assert templates.names == ("a.png",)
    assert templates.skipped == ()


def test_files_that_are_no_pictures_are_skipped_and_named(folder, load):
    flat(folder / "b.png", RED)
    (folder / "a.txt").write_text("no picture")
    (folder / "labels.csv").write_text("1,2,3\n4,5,6\n")
    (folder / "zero.jpg").touch()
    templates = load()
    assert templates.names == ("b.png",)
    assert [name for name, _ in templates.skipped] == ["a.txt", "labels.csv", "zero.jpg"]
    assert all(reason for _, reason in templates.skipped)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif"])
def test_truncated_files_are_skipped_and_named(folder, load, kind):
    flat(folder / "whole.png", RED)
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype="u1")
    Image.fromarray(noise).save(folder / "cut", format=kind)
    os.truncate(folder / "cut", (folder / "cut").stat().st_size * 2 // 3)
    templates = load()
    assert templates.names == ("whole.png",)
    assert [name for name, _ in templates.skipped] == ["cut"]


@pytest.mark.parametrize(("side", "interlaced"), [(60_000, False), (14_000, True)])
def test_files_that_claim_too_many_px_are_skipped_and_named(folder, load, side, interlaced):
    flat(folder / "a.png", RED)
    png_claiming(folder / "large.png", side, side, interlaced=interlaced)
    png_claiming(folder / "less.png", 13_000, 13_000, interlaced=True)  # may be read, and turns out to be truncated
    templates = load()
    assert templates.names == ("a.png",)
    assert templates.skipped[0] == ("large.png", f"is too large: {side} x {side} px")
    assert "too large" not in templates.skipped[1][1]


def test_files_whose_names_are_not_utf_8_are_skipped_and_named(folder, load):
    flat(folder / "a.png", RED)
    try:
        flat(Path(os.fsdecode(bytes(folder) + b"/\xff.png")), RED)
    except OSError:
        pytest.skip("this file system knows only UTF-8")
    templates = load()
    assert templates.names == ("a.png",)
    assert templates.skipped == (("\\udcff.png", "cannot be opened: its name is not UTF-8; rename it"),)


def test_a_missing_folder_is_refused(tmp_path, load):
    with pytest.raises(TemplateError, match=r"There is no folder of templates .*nowhere"):
        load(place=tmp_path / "nowhere")


def test_a_file_in_place_of_the_folder_is_refused(folder, load):
    flat(folder / "a.png", RED)
    with pytest.raises(TemplateError, match=r"The folder of templates .*a\.png is a file; name the folder it is in"):
        load(place=folder / "a.png")


def test_an_empty_folder_is_refused(folder, load):
    (folder / ".hidden").touch()
    with pytest.raises(TemplateError, match=r"The folder of templates .* holds no files"):
        load()


def test_a_folder_without_a_readable_picture_is_refused(folder, load, tmp_path):
    (folder / "a.txt").write_text("no picture")
    (folder / "b.txt").write_text("neither")
    with pytest.raises(
        TemplateError, match=r"None of the 2 files in .* is a readable picture \(a.txt: .*not a known file format"
    ):
        load()


def test_a_cache_that_cannot_be_written_is_named(folder, tmp_path):
    flat(folder / "a.png", RED)
    (tmp_path / "file").touch()
    with pytest.raises(TemplateError, match=r"The templates cannot be kept in .*file: "):
        load_templates(folder, (8, 8), cache=tmp_path / "file", jobs=1)


# --- fingerprint and cache
# ---------------------------------------------------------------------------------------------


@pytest.fixture
def two(folder):
    flat(folder / "a.png", RED)
    flat(folder / "b.png", GREEN)
    return folder


def test_the_fingerprint_does_not_depend_on_times_or_folder(two, load, tmp_path):
    before = load().fingerprint
    os.utime(two / "a.png", (1, 1))
    assert load().fingerprint == before
    two.rename(tmp_path / "elsewhere")
    assert load(place=tmp_path / "elsewhere").fingerprint == before
    assert len(before) == 32


def test_the_fingerprint_depends_on_px_order_and_tile(two, load):
    first = load().fingerprint
    assert load((8, 9)).fingerprint != first
    flat(two / "a.png", (254, 0, 0))
    assert load().fingerprint != first
    flat(two / "a.png", GREEN)
    flat(two / "b.png", RED)
    assert load().fingerprint != first


def test_the_second_time_nothing_is_decoded(two, load, monkeypatch):
    seen = []
    first = load(stage=lambda total: nullcontext(lambda done: seen.append((done, total))))
    assert seen == [(1, 2), (1, 2)]
    monkeypatch.setattr(loading, "_decode", lambda *a: pytest.fail("decoded again"))
    second = load(stage=lambda total: pytest.fail("no progress to tell of"))
    assert (second.names, second.fingerprint, second.skipped) == (first.names, first.fingerprint, first.skipped)
    np.testing.assert_array_equal(second.pixels, first.pixels)
    assert isinstance(second.pixels, np.memmap)


def test_another_tile_or_background_is_decoded(two, load):
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(two / "c.png")
    assert_flat(load().pixels[2], (255, 255, 255))
    assert_flat(load(background=BLUE).pixels[2], BLUE)
    assert load((5, 4)).tile == (5, 4)


def test_a_changed_file_is_noticed(folder, load):
    flat(folder / "a.tif", RED)
    flat(folder / "b.tif", GREEN)
    load()
    size = (folder / "b.tif").stat().st_size
    flat(folder / "b.tif", BLUE)
    os.utime(folder / "b.tif", (1, 1))
    assert (folder / "b.tif").stat().st_size == size  # so only the time tells
    assert load().take(np.array([0, 1]))[0, :, 0].tolist() == [list(RED), list(BLUE)]
    (folder / "b.tif").unlink()
    assert load().names == ("a.tif",)


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that are decoded, as it happens."""
    seen, decode = [], loading._decode
    monkeypatch.setattr(loading, "_decode", lambda path, *how: (seen.append(path.name), decode(path, *how))[1])
    return seen


def homes(tmp_path):
    return [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def colours(templates):
    return templates.take(np.arange(len(templates)))[4, :, 4].tolist()


def test_only_what_is_new_is_decoded(two, load, decoded):
    load()
    flat(two / "aa.png", BLUE)
    decoded.clear()
    found = load()
    assert decoded == ["aa.png"]
    assert found.names == ("a.png", "aa.png", "b.png")
    assert colours(found) == [list(RED), list(BLUE), list(GREEN)]
    np.testing.assert_allclose(found.at_cell_size()[:, 0, 0] * 255, [RED, BLUE, GREEN])


def test_the_fingerprint_does_not_tell_how_the_set_grew(two, load, tmp_path):
    load()
    flat(two / "aa.png", BLUE)
    grown = load()
    afresh = load_templates(two, (8, 8), cache=tmp_path / "other", jobs=1)
    assert grown.rows is not None
    assert afresh.rows is None
    assert grown.fingerprint == afresh.fingerprint
    assert grown.subset(np.array([1, 2])).fingerprint == afresh.subset(np.array([1, 2])).fingerprint


def test_what_was_decoded_before_a_break_is_kept(folder, load, decoded):
    for number in range(6):
        flat(folder / f"{number}.png", (number, 0, 0))
    ticks = iter(range(10))

    def stop(done):
        if next(ticks) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(stage=lambda total: nullcontext(stop))
    decoded.clear()
    found = load()
    assert decoded == ["4.png", "5.png"]
    assert colours(found) == [[number, 0, 0] for number in range(6)]


def test_a_kill_loses_what_was_not_flushed(folder, tmp_path, load, decoded):
    """A process that ends at once, in the middle of a row and of a line."""
    for number in range(4):
        flat(folder / f"{number}.png", (number, 0, 0))
    load()
    (home,) = homes(tmp_path)
    whole = (home / "files.jsonl").read_bytes()
    os.truncate(home / "files.jsonl", len(whole) - 5)
    os.truncate(home / "small", (home / "small").stat().st_size - 5)
    (home / "set.json").unlink()
    decoded.clear()
    assert colours(load()) == [[number, 0, 0] for number in range(4)]
    assert decoded == ["3.png"]
    assert (home / "files.jsonl").read_bytes() == whole
    assert (home / "small").stat().st_size == 4 * 768


def test_another_version_begins_anew(two, load, decoded, monkeypatch):
    load()
    monkeypatch.setattr(loading, "_VERSION", [0, 0, 0, 0])
    decoded.clear()
    assert colours(load()) == [list(RED), list(GREEN)]
    assert sorted(decoded) == ["a.png", "b.png"]


def test_what_is_mostly_gone_is_forgotten_after_a_day(folder, load, tmp_path):
    for number in range(5):
        flat(folder / f"{number}.png", (number, 0, 0))
    load()
    (home,) = homes(tmp_path)
    for number in range(4):
        (folder / f"{number}.png").unlink()
    flat(folder / "a.png", RED)
    load()
    assert (home / "pixels").stat().st_size == 6 * 192  # a render of what was there may still be at work
    os.utime(home / "set.json", (1, 1))
    flat(folder / "b.png", RED)
    assert colours(load()) == [[4, 0, 0], list(RED), list(RED)]
    assert (home / "pixels").stat().st_size == 3 * 192


def test_what_lacks_an_extra_is_tried_again(folder, load, monkeypatch):
    flat(folder / "a.png", RED)
    flat(folder / "b.png", GREEN)
    decode, lacks = loading._decode, "b needs an extra; pip install it"
    monkeypatch.setattr(loading, "_decode", lambda path, *how: lacks if path.name == "b.png" else decode(path, *how))
    assert load().skipped == (("b.png", lacks),)
    monkeypatch.setattr(loading, "_decode", decode)
    assert load().names == ("a.png", "b.png")


@pytest.mark.parametrize(
    ("file", "left"),
    [
        ("pixels", None),
        ("pixels", 10),
        ("small", None),
        ("set.json", None),
        ("set.json", 0),
        ("set.json", 9),
        ("files.jsonl", None),
        ("files.jsonl", 9),
    ],
)
def test_a_damaged_cache_is_made_anew(two, load, tmp_path, file, left):
    """As a kill leaves it in the middle of a removal, or a full disk."""
    whole = load()
    before = np.array(whole.pixels)
    (home,) = homes(tmp_path)
    if left is None:
        (home / file).unlink()
    else:
        os.truncate(home / file, left)
    found = load()
    assert (found.names, found.fingerprint) == (whole.names, whole.fingerprint)
    assert (found.pixels == before).all()
    assert homes(tmp_path) == [home]


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_the_short_way_of_small_jpegs_leads_to_the_same_px(folder, mode, subsampling):
    noise = np.random.default_rng(0).integers(0, 256, (67, 93, 3), dtype="u1")
    Image.fromarray(noise).convert(mode).save(folder / "a.jpg", quality=80, subsampling=subsampling)
    expected = pyvips.Image.new_from_file(str(folder / "a.jpg")).colourspace("srgb").numpy()
    np.testing.assert_array_equal(quick_jpeg(folder / "a.jpg"), expected)


def test_the_short_way_is_for_small_plain_jpegs_alone(folder):
    exif = Image.Exif()
    exif[274] = 6
    image = Image.new("RGB", (20, 20), RED)
    image.save(folder / "turned.jpg", exif=exif)
    image.save(folder / "profile.jpg", icc_profile=pyvips.Operation.call("profile_load", "p3"))
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.resize((600, 600)).save(folder / "large.jpg")
    image.save(folder / "other.png")
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype="u1")
    Image.fromarray(noise).save(folder / "cut.jpg")
    os.truncate(folder / "cut.jpg", (folder / "cut.jpg").stat().st_size // 2)
    assert [path.name for path in folder.iterdir() if quick_jpeg(path) is not None] == []


# --- as a cell sees them
# -----------------------------------------------------------------------------------------------


def template_set(pixels):
    return TemplateSet(Path("somewhere"), tuple(str(i) for i in range(len(pixels))), pixels, "")


@pytest.mark.parametrize("tile", [(8, 8), (32, 16), (5, 5), (11, 11), (1, 3), (48, 32), (7, 100)])
def test_at_cell_size_is_the_area_average(tile):
    width, height = tile
    px = np.random.default_rng(0).integers(0, 256, (3, height, width, 3), dtype="u1")
    eightfold = px.repeat(8, axis=1).repeat(8, axis=2) / 255
    expected = eightfold.reshape(3, 8, height, 8, width, 3).mean(axis=(2, 4))
    made = template_set(px).at_cell_size()
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, expected, atol=1e-6)


def test_at_cell_size_is_pillows_box_filter_where_it_divides():
    px = np.random.default_rng(0).integers(0, 256, (2, 24, 40, 3), dtype="u1")
    expected = [np.asarray(Image.fromarray(one).resize((8, 8), Image.Resampling.BOX)) for one in px]
    np.testing.assert_allclose(template_set(px).at_cell_size() * 255, expected, atol=1.01)


def test_at_cell_size_in_blocks_is_the_same(monkeypatch):
    px = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype="u1")
    whole = template_set(px).at_cell_size()
    monkeypatch.setattr("hirez_mosaic.templates.template_set._BLOCK_BYTES", 4 * 16 * 16 * 3 * 2)
    np.testing.assert_array_equal(template_set(px).at_cell_size(), whole)


class Heard(Listener):
    """Keeps the notes."""

    def __init__(self):
        self.notes = []

    def note(self, line):
        self.notes.append(line)


def test_a_template_with_a_broken_profile_is_noted_each_time(folder, own_cache):
    flat(folder / "a.png", GREEN)
    for name in "bc":
        flat(folder / f"{name}.jpg", RED, icc_profile=b"no profile" * 20)
    for _ in range(2):
        heard = Heard()
        cached_templates(folder, (8, 8), (0, 0, 0), "centre", heard)
        assert len(heard.notes) == 1
        assert heard.notes[0].startswith(f"{folder / 'b.jpg'} has a colour profile that is damaged")
        assert heard.notes[0].endswith("; so it is with 1 more.")


def test_another_process_that_decodes_the_same_folder_is_waited_for_with_a_note(folder, load):
    flat(folder / "a.png", RED)
    load()
    (home,) = (path for path in (folder.parent / "cache").iterdir() if path.is_dir())
    flat(folder / "b.png", GREEN)
    lock = FileLock(home.with_name(f".{home.name}.lock"))
    lock.acquire()
    waits, found = threading.Event(), []
    thread = threading.Thread(target=lambda: found.append(load(note=lambda line: (found.append(line), waits.set()))))
    thread.start()
    assert waits.wait(60)
    lock.release()
    thread.join(60)
    assert found[0] == f"Another process decodes the templates in {folder}; this one waits for it."
    assert len(found[1]) == 2
