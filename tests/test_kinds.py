"""Every kind of file that people have: the right px, as a source and as a template, or one clear sentence that names the kind."""

import struct
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
from hirez_mosaic.folder import list_pictures
from hirez_mosaic.geometry import Box
from hirez_mosaic.sources import Reading, open_whole, unpack
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
    pil(path, PX, format="jpeg", quality=100, subsampling=0, icc_profile=SRGB[:100] + bytes(len(SRGB) - 100))


def thumbnail_first(path):
    with tifffile.TiffWriter(path) as file:
        file.write(PX[::8, ::8], photometric="rgb", subifds=1, subfiletype=1)
        file.write(PX, photometric="rgb")


def in_ycbcr(px):
    matrix = [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
    return np.clip(np.round(px @ np.array(matrix).T + [0, 128, 128]), 0, 255).astype("u1")


def in_lab(px, bits, offset=False):
    """CIELAB under D50 by LittleCMS."""
    lab = ImageCms.profileToProfile(Image.fromarray(px), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB")
    values = np.asarray(lab)  # a and b are signed
    if bits == 16:
        return (values[..., :1].astype("u2") * 257 * [1, 0, 0] + values.view("i1") * [0, 256, 256]).astype("i4").astype("u2")
    return values ^ np.array([0, 128, 128], "u1") if offset else values


def png_with(path, px, chunks):
    file = BytesIO()
    pil(file, px, format="png")
    data = file.getvalue()
    added = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks.items()
    )
    Path(path).write_bytes(data[:33] + added + data[33:])


def radiance(path, px):
    exponents = np.frexp(np.maximum(px.max(2), 1e-9))[1]
    mantissas = np.floor(px / 2.0 ** exponents[..., None] * 256).clip(0, 255)
    rgbe = np.dstack([mantissas, exponents[..., None] + 128]).astype("u1")
    Path(path).write_bytes(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y %d +X %d\n" % px.shape[:2] + rgbe.tobytes())


def exr(path, px):
    OpenEXR.File({"compression": OpenEXR.ZIP_COMPRESSION}, {"RGB": np.ascontiguousarray(px, "f4")}).write(str(path))


def psd(path, px):
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, *px.shape[:2], 8, 3)
    path.write_bytes(header + bytes(12) + bytes(2) + px.transpose(2, 0, 1).tobytes())


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


LEFT_WHITE = GREYS.copy()
LEFT_WHITE[:, :32] = 255
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
        root.create_group(name, attributes={"ome": {"version": "0.5", "multiscales": scales}}).create_array("0", data=px)


def ome_zarr(path):
    scales = [{"axes": [{"name": axis} for axis in "cyx"], "datasets": [{"path": "0"}]}]
    zarr.create_group(path, attributes={"ome": {"version": "0.5", "multiscales": scales}}).create_array("0", data=FOUR)


# what writes it, the right px, levels of 255 by which any px may be off
KINDS = {
    **{
        f"tiff {name}": (lambda path, name=name: tiff(path, PX, compression=name, rowsperstrip=48), PX, 0)
        for name in ("none", "lzw", "deflate", "zstd", "lzma", "packbits", "lerc", "jpeg2000", "jpegxl", "png", "webp")
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
        lambda path: tiff(path, np.dstack([in_lab(PX, 8), np.full((48, 64), 255, "u1")]), photometric="cielab", extrasamples=[2]),
        PX,
        14,
    ),
    "ome-tiff of two channels": (lambda path: tiff(path, TWO, metadata={"axes": "CYX"}, **OME), GREYS, 0),
    "ome-tiff of four channels": (lambda path: tiff(path, FOUR, metadata={"axes": "CYX"}, **OME), GREYS, 0),
    "ome-zarr of four channels": (ome_zarr, GREYS, 0),
    "bioformats2raw": (bioformats2raw, GREYS, 0),
    "zipped zarr": (zipped_zarr, PX, 0),
    "jpeg with a broken profile": (jpeg_with_broken_profile, PX, 4),
    "thumbnail first": (thumbnail_first, PX, 0),
    "tiff of unspecified fourth": (lambda path: tiff(path, np.dstack([PX, GREY]), extrasamples=["unspecified"]), PX, 0),
    "tiff planar of unspecified fourth": (
        lambda path: tiff(path, np.dstack([PX, GREY]).transpose(2, 0, 1), planarconfig="separate", extrasamples=["unspecified"]),
        PX,
        0,
    ),
    "tiff opacity and spot": (
        lambda path: tiff(path, np.dstack([PX, np.full_like(GREY, 255), GREY]), extrasamples=["unassalpha", "unspecified"]),
        PX,
        0,
    ),
    "tiff spot and opacity": (
        lambda path: tiff(path, np.dstack([PX, GREY, np.full_like(GREY, 255)]), extrasamples=["unspecified", "unassalpha"]),
        PX,
        0,
    ),
    "nodata": (lambda path: masked(path, 0, "u1", np.maximum(GREY, 1)), np.maximum(LEFT_WHITE, 1), 0),
    "nodata below all": (lambda path: masked(path, -9999, "f4", GREY.astype("f4")), LEFT_WHITE, 0),
    "nodata nan": (lambda path: masked(path, np.nan, "f4", GREY / 255), LEFT_WHITE, 0),
    "lossless jpeg": (lambda path: path.write_bytes(imagecodecs.ljpeg_encode(GREY)), GREYS, 0),
    "12-bit jpeg": (
        lambda path: path.write_bytes(imagecodecs.jpeg8_encode(GREY.astype("u2") * 16, level=100, bitspersample=12)),
        GREYS,
        2,
    ),
    "png gAMA 1": (lambda path: png_with(path, np.round(LINEAR * 255).astype("u1"), {b"gAMA": struct.pack(">I", 100_000)}), PX, 13),
    "png gAMA of sRGB": (lambda path: png_with(path, PX, {b"gAMA": struct.pack(">I", 45_455)}), PX, 0),
    "png sRGB before gAMA": (lambda path: png_with(path, PX, {b"sRGB": b"\0", b"gAMA": struct.pack(">I", 100_000)}), PX, 0),
    "png cICP of sRGB": (lambda path: png_with(path, PX, {b"cICP": bytes([1, 13, 0, 1]), b"gAMA": struct.pack(">I", 9)}), PX, 0),
    "bmp": (lambda path: pil(path, PX, format="bmp"), PX, 0),
    "ppm": (lambda path: ppm(path, PX), PX, 0),
    "ppm 16-bit": (lambda path: ppm(path, (PX.astype(">u2") * 257), 65535), PX, 0),
    "pgm": (lambda path: pil(path, GREY, format="ppm"), GREYS, 0),
    "pgm 16-bit": (lambda path: Image.fromarray(GREY.astype("u2") * 257).save(path, format="ppm"), GREYS, 0),
    "psd": (lambda path: psd(path, PX), PX, 0),
    "jpeg xl": (lambda path: pil(path, PX, format="jxl", lossless=True), PX, 0),
    "jpeg 2000": (lambda path: path.write_bytes(imagecodecs.jpeg2k_encode(PX, level=0, reversible=True, codecformat="jp2")), PX, 0),
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
