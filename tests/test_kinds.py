"""Every kind of file that people have: the right px, as a source and as a template, or one clear sentence that names
the kind.
"""

import struct
import sys
import zlib
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import OpenEXR
import pillow_heif
import pillow_jxl  # noqa: F401 (registers the format)
import pytest
import pyvips
import tifffile
import zarr
from conftest import photo
from PIL import Image, ImageCms

from hirez_mosaic import sources
from hirez_mosaic.errors import SettingError, SourceError
from hirez_mosaic.pixels.geometry import Box
from hirez_mosaic.sources import Reading, open_whole, unpack
from hirez_mosaic.sources import tiff as tiff_module
from hirez_mosaic.sources.folder import list_pictures
from hirez_mosaic.templates import load_templates

PX = photo(48, 64)
GREY = PX[..., 0]
GREYS = np.dstack([GREY] * 3)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
P3 = pyvips.Operation.call("profile_load", "p3")
LINEAR = np.where(PX <= 10, PX / 255 / 12.92, ((PX / 255 + 0.055) / 1.055) ** 2.4)
ORIENTED_BYTE = {"extratags": [(274, 1, 1, 6, True)]}


def tiff(path, px, **settings):
    settings.setdefault("photometric", "rgb" if px.ndim > 2 else "minisblack")
    tifffile.imwrite(path, px, **settings)


def pil(path, px, **settings):
    Image.fromarray(px).save(path, **settings)


def jpeg_with_broken_profile(path):
    pil(
        path,
        PX,
        format="jpeg",
        quality=100,
        subsampling=0,
        icc_profile=SRGB.replace(b"para", b"????").replace(b"curv", b"????"),
    )


def without_colours(icc):
    """The profile with red, green and blue of one colour, as a writer left it that did not know them."""
    table = {icc[at : at + 4]: icc[at + 4 : at + 8] for at in range(132, 132 + 12 * icc[131], 12)}
    red, *others = (int.from_bytes(table[name]) for name in (b"rXYZ", b"gXYZ", b"bXYZ"))
    made = bytearray(icc)
    for other in others:
        made[other : other + 20] = icc[red : red + 20]
    return bytes(made)


def thumbnail_first(path):
    with tifffile.TiffWriter(path) as file:
        file.write(PX[::8, ::8], photometric="rgb", subifds=1, subfiletype=1)
        file.write(PX, photometric="rgb")


def in_ycbcr(px):
    matrix = [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
    return np.clip(np.round(px @ np.array(matrix).T + [0, 128, 128]), 0, 255).astype("u1")


def in_lab(px, bits, offset=False):
    """CIELAB under D50 by LittleCMS."""
    lab = ImageCms.profileToProfile(
        Image.fromarray(px), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    values = np.asarray(lab)  # a and b are signed
    if bits == 16:
        return (
            (values[..., :1].astype("u2") * 257 * [1, 0, 0] + values.view("i1") * [0, 256, 256])
            .astype("i4")
            .astype("u2")
        )
    return values ^ np.array([0, 128, 128], "u1") if offset else values


def png_with(path, px, chunks):
    file = BytesIO()
    pil(file, px, format="png")
    data = file.getvalue()
    added = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks.items()
    )
    Path(path).write_bytes(data[:33] + added + data[33:])


def radiance(path, px):
    exponents = np.frexp(np.maximum(px.max(2), 1e-9))[1]
    mantissas = np.floor(px / 2.0 ** exponents[..., None] * 256).clip(0, 255)
    rgbe = np.dstack([mantissas, exponents[..., None] + 128]).astype("u1")
    Path(path).write_bytes(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y %d +X %d\n" % px.shape[:2] + rgbe.tobytes())


def exr(path, px):
    OpenEXR.File({"compression": OpenEXR.ZIP_COMPRESSION}, {"RGB": np.ascontiguousarray(px, "f4")}).write(str(path))


def psd(path, px, mode=3, depth=8, version=1, packed=False, opacity=False, layered=False, palette=b""):
    """A flat picture as Photoshop lays it: each channel from top to bottom, after sections that few readers need."""
    planes = np.atleast_3d(px).transpose(2, 0, 1)
    height, width = px.shape[:2] if depth > 1 else (px.shape[0], px.shape[1] * 8)
    header = b"8BPS" + struct.pack(">H6xHIIHH", version, len(planes), height, width, depth, mode)
    wide = ">Q" if version == 2 else ">I"
    layers = struct.pack(wide, 2) + struct.pack(">h", -1 if opacity else 1)
    layers = layers if opacity or layered else b""
    rows = [row.tobytes() for plane in planes for row in plane]
    if packed:
        rows = [imagecodecs.packbits_encode(row) for row in rows]
        rows.insert(0, struct.pack(f">{len(rows)}{'I' if version == 2 else 'H'}", *map(len, rows)))
    sections = struct.pack(">I", len(palette)) + palette + bytes(4) + struct.pack(wide, len(layers)) + layers
    path.write_bytes(header + sections + struct.pack(">H", packed) + b"".join(rows))


def dng(path, **settings):
    """A raw picture of one grey, as a camera sees it under a colour filter array."""
    tags = [(33421, 3, 2, (2, 2)), (33422, 1, 4, bytes([0, 1, 1, 2])), (50706, 1, 4, bytes([1, 4, 0, 0]))]
    matrix = tuple(part for value in (1, 0, 0, 0, 1, 0, 0, 0, 1) for part in (value, 1))
    tags += [(50721, 10, 9, matrix), (50728, 5, 3, (1, 1, 1, 1, 1, 1)), (50778, 3, 1, 21), (50717, 4, 1, 65535)]
    tags += [(50708, 2, 0, "made here")]
    bayer = np.full((96, 128), 20000, "u2")
    tiff(path, bayer, photometric=32803, extratags=[(*tag, True) for tag in tags], **settings)


def ppm(path, px, most=255):
    path.write_bytes(b"P6\n%d %d\n%d\n" % (px.shape[1], px.shape[0], most) + px.tobytes())


def heic(path, px, **settings):
    pillow_heif.from_pillow(Image.fromarray(px)).save(path, quality=-1, chroma=444, matrix_coefficients=0, **settings)


def avif(path, px, suffix="[compression=av1,lossless]"):
    image = pyvips.Image.new_from_array(px)
    path.write_bytes(image.write_to_buffer(".avif" + suffix))


def masked(path, value, dtype, px):
    """GDAL's nodata in the left half."""
    px = px.astype(dtype)
    px[:, :32] = value
    tiff(path, px, extratags=[(42113, 2, 0, str(value), True)])


def subsampled(path, compression=1):
    """YCbCr with colour of half the resolution, as scanners write it: Y Y Y Y Cb Cr for each 2 x 2 px."""
    ycbcr = in_ycbcr(BLOCKS).reshape(24, 2, 32, 2, 3).transpose(0, 2, 1, 3, 4).reshape(24, 32, 4, 3)
    data = np.concatenate([ycbcr[..., 0], ycbcr[..., 0, 1:]], -1).tobytes()
    data = zlib.compress(data) if compression == 8 else data
    tiff(path, BLOCKS, photometric="ycbcr", subsampling=(1, 1), rowsperstrip=48)
    with tifffile.TiffFile(path, mode="r+b") as file:
        page = file.pages[0]
        page.tags["YCbCrSubSampling"].overwrite((2, 2))
        page.tags["StripByteCounts"].overwrite(len(data))
        page.tags["Compression"].overwrite(compression)
        file.filehandle.seek(page.dataoffsets[0])
        file.filehandle.write(data)


def with_mask(path, px, smaller=False, **settings):
    """A mask page that leaves the right half, as GDAL writes it; perhaps with a smaller version of both."""
    mask = np.zeros((48, 64), bool)
    mask[:, 32:] = True
    with tifffile.TiffWriter(path) as file:
        file.write(px, **settings)
        file.write(mask, photometric="mask", subfiletype=4, compression="deflate")
        if smaller:
            file.write(np.ascontiguousarray(px[::2, ::2]), subfiletype=1, **settings)
            file.write(mask[::2, ::2], photometric="mask", subfiletype=5, compression="deflate")


def fax(path, compression):
    Image.fromarray(GREY > 127).save(path, format="tiff", compression=compression)


BLOCKS = photo(24, 32).repeat(2, 0).repeat(2, 1)
LEFT_WHITE = GREYS.copy()
LEFT_WHITE[:, :32] = 255
RIGHT_HALF = PX.copy()
RIGHT_HALF[:, :32] = 255
OME = {"ome": True, "photometric": "minisblack"}
TWO = np.stack([GREY, 255 - GREY])
FOUR = np.stack([GREY, 255 - GREY, GREY // 2, GREY // 3])


def zipped_zarr(path):
    store = zarr.storage.ZipStore(path, mode="w")
    zarr.create_array(store, data=PX)
    store.close()


def bioformats2raw(path):
    root = zarr.create_group(path, attributes={"ome": {"version": "0.5", "bioformats2raw.layout": 3}})
    for name, px in (("0", GREY), ("1", 255 - GREY)):
        scales = [{"axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": "0"}]}]
        root.create_group(name, attributes={"ome": {"version": "0.5", "multiscales": scales}}).create_array(
            "0", data=px
        )


def ome_zarr(path):
    scales = [{"axes": [{"name": axis} for axis in "cyx"], "datasets": [{"path": "0"}]}]
    zarr.create_group(path, attributes={"ome": {"version": "0.5", "multiscales": scales}}).create_array("0", data=FOUR)


COMPRESSIONS = ("none", "lzw", "deflate", "zstd", "lzma", "packbits", "lerc", "jpeg2000", "jpegxl", "png", "webp")
# what writes it, the right px, levels of 255 by which any px may be off
KINDS = {
    **{
        f"tiff {name}": (lambda path, name=name: tiff(path, PX, compression=name, rowsperstrip=48), PX, 0)
        for name in COMPRESSIONS
    },
    "tiff float 0 to 1": (lambda path: tiff(path, GREY.astype("f4") / 255), GREYS, 0),
    "tiff half float": (lambda path: tiff(path, np.ones((48, 64, 3), "f2")), np.full_like(PX, 255), 0),
    "tiff float 0 to 255": (lambda path: tiff(path, PX.astype("f4")), PX, 0),
    "tiff float 0 to 65535": (lambda path: tiff(path, PX.astype("f8") * 257), PX, 0),
    "tiff 32-bit": (lambda path: tiff(path, GREY.astype("u4") * (2**32 // 255)), GREYS, 0),
    "tiff 32-bit of 0 to 255": (lambda path: tiff(path, PX.astype("u4")), PX, 0),
    "tiff signed 16-bit": (lambda path: tiff(path, np.round(GREY / 255 * 32767).astype("i2")), GREYS, 0),
    "tiff signed 32-bit of 16": (lambda path: tiff(path, GREY.astype("i4") * 257), GREYS, 0),
    "tiff orientation as byte": (lambda path: tiff(path, PX, **ORIENTED_BYTE), np.rot90(PX, 3), 0),
    "tiff orientation as long": (lambda path: tiff(path, PX, extratags=[(274, 4, 1, 3, True)]), PX[::-1, ::-1], 0),
    "tiff ycbcr": (lambda path: tiff(path, in_ycbcr(PX), photometric="ycbcr", subsampling=(1, 1)), PX, 3),
    "tiff cielab": (lambda path: tiff(path, in_lab(PX, 8), photometric="cielab"), PX, 14),
    "tiff cielab 16-bit": (lambda path: tiff(path, in_lab(PX, 16), photometric="cielab"), PX, 14),
    "tiff icclab": (lambda path: tiff(path, in_lab(PX, 8, offset=True), photometric="icclab"), PX, 14),
    "tiff cielab with opacity": (
        lambda path: tiff(
            path, np.dstack([in_lab(PX, 8), np.full((48, 64), 255, "u1")]), photometric="cielab", extrasamples=[2]
        ),
        PX,
        14,
    ),
    "ome-tiff of two channels": (lambda path: tiff(path, TWO, metadata={"axes": "CYX"}, **OME), GREYS, 0),
    "ome-tiff of four channels": (lambda path: tiff(path, FOUR, metadata={"axes": "CYX"}, **OME), GREYS, 0),
    "ome-zarr of four channels": (ome_zarr, GREYS, 0),
    "bioformats2raw": (bioformats2raw, GREYS, 0),
    "zipped zarr": (zipped_zarr, PX, 0),
    "jpeg with a broken profile": (jpeg_with_broken_profile, PX, 4),
    "png with a profile of one colour": (
        lambda path: pil(path, PX, format="png", icc_profile=without_colours(P3)),
        PX,
        0,
    ),
    "thumbnail first": (thumbnail_first, PX, 0),
    "tiff of unspecified fourth": (lambda path: tiff(path, np.dstack([PX, GREY]), extrasamples=["unspecified"]), PX, 0),
    "tiff planar of unspecified fourth": (
        lambda path: tiff(
            path, np.dstack([PX, GREY]).transpose(2, 0, 1), planarconfig="separate", extrasamples=["unspecified"]
        ),
        PX,
        0,
    ),
    "tiff opacity and spot": (
        lambda path: tiff(
            path, np.dstack([PX, np.full_like(GREY, 255), GREY]), extrasamples=["unassalpha", "unspecified"]
        ),
        PX,
        0,
    ),
    "tiff spot and opacity": (
        lambda path: tiff(
            path, np.dstack([PX, GREY, np.full_like(GREY, 255)]), extrasamples=["unspecified", "unassalpha"]
        ),
        PX,
        0,
    ),
    "tiff ycbcr of half resolution": (subsampled, BLOCKS, 3),
    "tiff ycbcr of half resolution, deflate": (lambda path: subsampled(path, 8), BLOCKS, 3),
    **{
        f"tiff {name}": (lambda path, name=name: fax(path, name), (GREYS > 127) * np.uint8(255), 0)
        for name in ("group3", "group4", "tiff_ccitt")
    },
    "mask page": (lambda path: with_mask(path, PX, smaller=True, photometric="rgb", tile=(16, 16)), RIGHT_HALF, 0),
    "mask page, strips of grey": (lambda path: with_mask(path, GREY, rowsperstrip=5), LEFT_WHITE, 0),
    "mask page, planar": (
        lambda path: with_mask(path, PX.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
        RIGHT_HALF,
        0,
    ),
    "mask page, floats": (lambda path: with_mask(path, GREY.astype("f4") / 255), LEFT_WHITE, 0),
    "nodata": (lambda path: masked(path, 0, "u1", np.maximum(GREY, 1)), np.maximum(LEFT_WHITE, 1), 0),
    "nodata below all": (lambda path: masked(path, -9999, "f4", GREY.astype("f4")), LEFT_WHITE, 0),
    "nodata nan": (lambda path: masked(path, np.nan, "f4", GREY / 255), LEFT_WHITE, 0),
    "lossless jpeg": (lambda path: path.write_bytes(imagecodecs.ljpeg_encode(GREY)), GREYS, 0),
    "12-bit jpeg": (
        lambda path: path.write_bytes(imagecodecs.jpeg8_encode(GREY.astype("u2") * 16, level=100, bitspersample=12)),
        GREYS,
        2,
    ),
    "png gAMA 1": (
        lambda path: png_with(path, np.round(LINEAR * 255).astype("u1"), {b"gAMA": struct.pack(">I", 100_000)}),
        PX,
        13,
    ),
    "png gAMA of sRGB": (lambda path: png_with(path, PX, {b"gAMA": struct.pack(">I", 45_455)}), PX, 0),
    "png sRGB before gAMA": (
        lambda path: png_with(path, PX, {b"sRGB": b"\0", b"gAMA": struct.pack(">I", 100_000)}),
        PX,
        0,
    ),
    "png cICP of sRGB": (
        lambda path: png_with(path, PX, {b"cICP": bytes([1, 13, 0, 1]), b"gAMA": struct.pack(">I", 9)}),
        PX,
        0,
    ),
    "bmp": (lambda path: pil(path, PX, format="bmp"), PX, 0),
    "ppm": (lambda path: ppm(path, PX), PX, 0),
    "ppm 16-bit": (lambda path: ppm(path, (PX.astype(">u2") * 257), 65535), PX, 0),
    "pgm": (lambda path: pil(path, GREY, format="ppm"), GREYS, 0),
    "pgm 16-bit": (lambda path: Image.fromarray(GREY.astype("u2") * 257).save(path, format="ppm"), GREYS, 0),
    "psd": (lambda path: psd(path, PX), PX, 0),
    "psd packed": (lambda path: psd(path, PX, packed=True), PX, 0),
    "psd 16-bit": (lambda path: psd(path, PX.astype(">u2") * 257, depth=16, packed=True), PX, 0),
    "psd floats": (lambda path: psd(path, LINEAR.astype(">f4"), depth=32), PX, 0),
    "psd bitmap": (
        lambda path: psd(path, np.packbits(GREY <= 127, axis=1), mode=0, depth=1),
        (GREYS > 127) * np.uint8(255),
        0,
    ),
    "psd indexed": (lambda path: psd(path, GREY, mode=2, palette=bytes(range(256)) * 3), GREYS, 0),
    "psd cielab": (lambda path: psd(path, in_lab(PX, 8, offset=True), mode=9), PX, 14),
    "psd with opacity over white": (
        lambda path: psd(path, np.dstack([np.maximum(PX, 200), np.full_like(GREY, 100)]), opacity=True),
        np.maximum(PX, 200),
        1,
    ),
    "psd with a channel beside": (lambda path: psd(path, np.dstack([PX, GREY])), PX, 0),
    "psd without a mask of all layers, as GIMP writes it": (lambda path: psd(path, PX, layered=True), PX, 0),
    "psb": (lambda path: psd(path, PX, version=2, packed=True), PX, 0),
    "jpeg xl": (lambda path: pil(path, PX, format="jxl", lossless=True), PX, 0),
    "jpeg 2000": (
        lambda path: path.write_bytes(imagecodecs.jpeg2k_encode(PX, level=0, reversible=True, codecformat="jp2")),
        PX,
        0,
    ),
    "jpeg 2000 codestream": (
        lambda path: path.write_bytes(imagecodecs.jpeg2k_encode(PX, level=0, reversible=True, codecformat="j2k")),
        PX,
        0,
    ),
    "hdr": (lambda path: radiance(path, LINEAR), PX, 13),
    "exr": (lambda path: exr(path, LINEAR), PX, 1),
    "heic": (lambda path: heic(path, PX), PX, 3),
    "avif": (lambda path: avif(path, PX), PX, 1),
    "qoi": (lambda path: path.write_bytes(imagecodecs.qoi_encode(PX)), PX, 0),
    "tga": (lambda path: pil(path, PX, format="tga"), PX, 0),
}
SUFFIXES = {"tga": ".tga"}


def read(path, background=(255, 255, 255), **reading):
    source = sources.open_source(path, background, reading=Reading(**reading))
    try:
        ready = unpack(source, zarr.create_group(store={}), "source", lambda px: None)
        return ready.read(Box(0, ready.size[1], 0, ready.size[0])), source.notes
    finally:
        source.close()


def close(made, right, tolerance):
    assert made.shape == right.shape
    errors = np.abs(made.astype(int) - right)
    assert errors.max() <= tolerance
    assert errors.mean() <= tolerance / 8


@pytest.fixture
def written(tmp_path, request):
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / f"picture{SUFFIXES.get(request.param, '')}"
    KINDS[request.param][0](path)
    return path, *KINDS[request.param][1:]


@pytest.mark.parametrize("written", KINDS, indirect=True)
def test_a_source_and_a_template_have_the_right_px(written, tmp_path):
    path, right, tolerance = written
    made, _ = read(path)
    close(made, right, tolerance)
    np.testing.assert_array_equal(open_whole(path).numpy(), made)
    assert [str(name) for name in list_pictures(path.parent, "*", False, ()).pictures] == [path.name]
    if path.is_file():
        found = load_templates(path.parent, (right.shape[1], right.shape[0]), cache=tmp_path / "cache", jobs=1)
        assert found.skipped == ()
        np.testing.assert_array_equal(found.pixels[0], made)


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        ("tiff float 0 to 255", "from 0 to 255: 255 is taken for white"),
        ("ome-tiff of two channels", "has 2 channels, of which the first is shown; choose another by `channel`"),
        ("ome-zarr of four channels", "has 4 channels, of which the first is shown; choose another by `channel`"),
        ("png with a profile of one colour", "has a colour profile that is damaged or of another colour model"),
        ("jpeg with a broken profile", "has a colour profile that is damaged or of another colour model"),
        ("tiff of unspecified fourth", "of which 1 is left out"),
    ],
)
def test_what_a_person_should_know_is_noted(tmp_path, kind, note):
    KINDS[kind][0](tmp_path / "picture")
    notes = read(tmp_path / "picture")[1]
    assert len(notes) == 1
    assert note in notes[0]


def test_channels_planes_and_pages_can_be_chosen(tmp_path):
    tiff(tmp_path / "c.ome.tif", FOUR, metadata={"axes": "CYX"}, **OME)
    stack = np.stack([GREY, GREY // 2, GREY // 3])
    tiff(tmp_path / "z.ome.tif", stack, metadata={"axes": "ZYX"}, **OME)
    tiff(tmp_path / "pages.tif", np.stack([PX, 255 - PX]))
    pil(tmp_path / "rgb.png", PX)
    Image.fromarray(PX).save(
        tmp_path / "a.webp", save_all=True, append_images=[Image.fromarray(255 - PX)], lossless=True
    )
    bioformats2raw(tmp_path / "b.zarr")
    ome_zarr(tmp_path / "c.zarr")
    for name, reading, right in (
        ("c.ome.tif", {"channel": 3}, np.dstack([FOUR[2]] * 3)),
        ("c.zarr", {"channel": 2}, np.dstack([FOUR[1]] * 3)),
        ("z.ome.tif", {"plane": 2}, np.dstack([stack[1]] * 3)),
        ("pages.tif", {"page": 2}, 255 - PX),
        ("rgb.png", {"channel": 2}, np.dstack([PX[..., 1]] * 3)),
        ("a.webp", {"page": 2}, 255 - PX),
        ("b.zarr", {"page": 2}, 255 - GREYS),
    ):
        np.testing.assert_array_equal(read(tmp_path / name, **reading)[0], right, err_msg=name)
    for name, reading, text in (
        ("c.ome.tif", {"channel": 5}, "`channel` is 5"),
        ("z.ome.tif", {"plane": 4}, "`plane` is 4 and .* has 3; use 1 to 3"),
        ("pages.tif", {"page": 3}, "`source_page` is 3 and .* has 2; use 1 to 2"),
        ("rgb.png", {"page": 2}, "holds one picture in one plane; leave out `source_page`"),
        ("b.zarr", {"page": 3}, "has no such picture"),
    ):
        with pytest.raises((SettingError, SourceError), match=text):
            read(tmp_path / name, **reading)


def test_a_stretch_makes_12_bits_in_16_visible(tmp_path):
    tiff(tmp_path / "a.tif", GREY.astype("u2") * 8 + 100, tile=(32, 32))
    source = sources.open_source(tmp_path / "a.tif")
    assert "nearly all black; try `stretch`" in sources.flat_note(source)
    source.close()
    made, notes = read(tmp_path / "a.tif", stretch=True)
    assert "is stretched: " in notes[0]
    assert made.min() == 0
    assert made.max() == 255
    assert np.corrcoef(made[..., 0].ravel(), GREY.ravel())[0, 1] > 0.99


NOISE = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype="u1")


@pytest.mark.parametrize("compression", [*COMPRESSIONS, "jpegxr"])
def test_a_high_strip_is_decoded(tmp_path, compression, monkeypatch):
    monkeypatch.setattr(tiff_module, "_BAND_BYTES", 1000)  # so that the strip is high
    tiff(tmp_path / "a.tif", NOISE, compression=compression, rowsperstrip=200)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], NOISE)


@pytest.mark.parametrize("compression", ["none", "lzw", "deflate", "packbits", "lzma"])
def test_a_last_strip_that_goes_on_below_the_picture_is_read(tmp_path, compression):
    tiff(tmp_path / "a.tif", NOISE, compression=compression, rowsperstrip=16)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        file.pages[0].tags["ImageLength"].overwrite(184)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], NOISE[:184])


@pytest.mark.parametrize("compression", ["lzma", "deflate"])
def test_damage_in_a_high_strip_is_an_error(tmp_path, compression, monkeypatch):
    """Where the format has a checksum; ZSTD as TIFF has it, LZW and px that are not compressed have none."""
    monkeypatch.setattr(tiff_module, "_BAND_BYTES", 1000)
    tiff(tmp_path / "a.tif", NOISE, compression=compression, rowsperstrip=200)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 100] = bytes(100)
    (tmp_path / "a.tif").write_bytes(data)
    for reader in (read, open_whole):
        with pytest.raises(SourceError, match="is damaged or truncated"):
            reader(tmp_path / "a.tif")


def old_style_jpeg(path):
    tiff(path, PX)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["Compression"].overwrite(6)


def unknown_compression(path):
    tiff(path, PX)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["Compression"].overwrite(34676)  # SGI LogLuv


REFUSED = {
    "old-style jpeg": (old_style_jpeg, "is a TIFF with old-style JPEG"),
    "sgi log": (unknown_compression, r"is a TIFF with SGILOG \(34676\), which is not supported"),
    "pdf": (lambda path: path.write_bytes(b"%PDF-1.7\n"), "is a PDF; export its page"),
    "film": (lambda path: path.write_bytes(b"\0\0\0\x18ftypqt  \0\0\0\0qt  "), r"is a film \(MP4 or QuickTime\)"),
    "fits": (lambda path: path.write_bytes(b"SIMPLE  =                    T"), "is FITS; convert it to TIFF"),
    "psd of inks": (lambda path: psd(path, PX, mode=7), "is a PSD of many inks, which is not supported"),
    "lfs": (
        lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
        "is a pointer to a file of Git LFS",
    ),
    "text": (lambda path: path.write_bytes(b"hello"), "is not a picture that can be read: not a known file format"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_read_is_refused_by_its_name(tmp_path, kind):
    write, text = REFUSED[kind]
    write(tmp_path / "picture")
    for reader in (read, open_whole):
        with pytest.raises(SourceError, match=text):
            reader(tmp_path / "picture")


@pytest.mark.parametrize(
    ("kind", "package", "extra"), [("exr", "OpenEXR", "exr"), ("jpeg xl", "pillow_jxl", "jxl"), ("raw", "rawpy", "raw")]
)
def test_a_missing_extra_is_named(tmp_path, monkeypatch, kind, package, extra):
    if kind == "raw":
        (tmp_path / "a").write_bytes(b"FUJIFILMCCD-RAW " + bytes(100))
    else:
        KINDS[kind][0](tmp_path / "a")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SourceError, match=rf"install what reads it with pip install 'hirez-mosaic\[{extra}\]'"):
        read(tmp_path / "a")


def test_a_raw_picture_is_developed_and_a_truncated_one_refused(tmp_path):
    """LibRaw makes up what lacks, black or noise, and tells nobody."""
    dng(tmp_path / "a.dng")
    made = read(tmp_path / "a.dng")[0]
    assert made.shape == (96, 128, 3)
    assert np.ptp(made[8:-8, 8:-8], axis=(0, 1)).max() <= 2
    assert made.mean() > 50
    data = (tmp_path / "a.dng").read_bytes()
    for kept in (len(data) - 100, len(data) // 2):
        (tmp_path / "a.dng").write_bytes(data[:kept])
        for reader in (read, open_whole):
            with pytest.raises(SourceError, match="is truncated: it lacks px of its 128 x 96"):
                reader(tmp_path / "a.dng")


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_heic_is_turned_once(tmp_path, orientation):
    """libheif turns by the file's own boxes; the EXIF tag beside them says the same and must not turn it again."""
    exif = Image.Exif()
    exif[274] = orientation
    heic(tmp_path / "a.heic", PX, exif=exif.tobytes())
    turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    close(read(tmp_path / "a.heic")[0], np.rot90(PX, turns), 3)


def test_a_name_with_brackets_is_no_list_of_options(tmp_path):
    for name in ("scan.jpg[1]", "a[page=2].png"):
        pil(tmp_path / name, PX, format="png")
        np.testing.assert_array_equal(read(tmp_path / name)[0], PX)
    assert len(load_templates(tmp_path, (8, 8), cache=tmp_path.with_name("cache"), jobs=1)) == 2


def test_the_profile_of_a_wide_gamut_is_applied_to_heic_and_png_alike(tmp_path):
    flat = np.full((16, 16, 3), (100, 150, 200), "u1")
    pil(tmp_path / "a.png", flat, icc_profile=P3)
    heic(tmp_path / "a.heic", flat, icc_profile=P3)
    png_with(tmp_path / "coded.png", flat, {b"cICP": bytes([12, 13, 0, 1])})
    right = read(tmp_path / "a.png")[0][0, 0]
    assert right[0] < 90  # the same colour has less red in the smaller space
    for name in ("a.heic", "coded.png"):
        assert np.abs(read(tmp_path / name)[0][0, 0].astype(int) - right).max() <= 3, name


def test_a_zarr_folder_is_one_template_and_a_link_to_nowhere_is_named(tmp_path):
    folder = tmp_path / "album"
    (folder / "old").mkdir(parents=True)
    pil(folder / "a.png", PX)
    zarr.create_array(folder / "old" / "b", shape=(48, 64, 3), chunks=(16, 16, 3), dtype="u1")[:] = PX
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    found = load_templates(folder, (64, 48), cache=tmp_path / "cache", jobs=1)
    assert found.names == ("a.png", "old/b")
    np.testing.assert_array_equal(found.pixels[0], found.pixels[1])
    assert found.skipped == (("gone.jpg", "is not there; perhaps it is a link to nowhere"),)
    listed = list_pictures(folder, "*", True, ())
    assert [path.as_posix() for path in listed.pictures] == ["a.png", "gone.jpg", "old/b"]


def test_side_files_are_counted_links_followed_and_patterns_left_out(tmp_path):
    folder, other = tmp_path / "album", tmp_path / "other"
    for name in ("a.png", "b.png", "old/c.png", "@eaDir/a.png", "._a.png", "draft-d.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pil(folder / name, PX, format="png")
    for name in ("Thumbs.db", "a.MOV", "a.AAE"):
        (folder / name).write_bytes(b"x")
    other.mkdir()
    pil(other / "e.png", PX)
    (folder / "link").symlink_to(other)
    (other / "back").symlink_to(folder)
    (folder / "again").symlink_to(folder / "old")
    found = load_templates(folder, (8, 8), cache=tmp_path / "cache", jobs=1, exclude=("draft-*", "old/*"))
    assert found.names == ("a.png", "b.png", "link/e.png")
    assert found.skipped == ()
    assert found.left_out == "2 excluded files and 1 film and 2 side files and 1 side folder"
    listed = list_pictures(folder, "*", True, (), ("draft-*", "old/*"))
    assert [path.as_posix() for path in listed.pictures] == ["a.png", "b.png", "link/e.png"]
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "here").symlink_to(other)
    assert len(load_templates(tmp_path / "links", (8, 8), cache=tmp_path / "cache", jobs=1)) >= 1


@pytest.mark.parametrize("at", [34, 42], ids=["of the layers' section", "of the layers"])
def test_a_psb_that_counts_more_bytes_than_any_file_has_is_damaged(tmp_path: Path, at: int) -> None:
    path = tmp_path / "huge.psb"
    psd(path, PX, version=2, opacity=True)
    data = bytearray(path.read_bytes())
    data[at : at + 8] = bytes([0x7F]) + data[at + 1 : at + 8]
    path.write_bytes(data)
    with pytest.raises(SourceError, match="is not a PSD that can be read: its header is damaged"):
        open_whole(path)


def test_a_tiff_whose_page_is_followed_by_itself_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tiff(path, PX)
    data = bytearray(path.read_bytes())
    tags = int.from_bytes(data[8:10], "little")
    data[10 + 12 * tags : 14 + 12 * tags] = (8).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(SourceError, match="is damaged: its page 1 is followed by a page before it"):
        open_whole(path)


def test_a_tiff_that_names_more_channels_than_it_has_is_damaged(tmp_path: Path) -> None:
    tiff(tmp_path / "a.tif", np.dstack([PX, GREY]), extrasamples=["unassalpha"])
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        file.pages[0].tags["SamplesPerPixel"].overwrite(3)
    with pytest.raises(SourceError, match="has 3 channels, too few"):
        open_whole(tmp_path / "a.tif")


def test_a_tiff_that_does_not_say_where_its_px_lie_is_damaged(tmp_path: Path) -> None:
    tiff(tmp_path / "a.tif", PX)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        file.pages[0].tags["StripOffsets"].overwrite(0)
    with pytest.raises(SourceError, match="does not say where its px lie"):
        open_whole(tmp_path / "a.tif")
