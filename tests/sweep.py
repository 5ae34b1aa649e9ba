"""Files of other people's collections: our px of each, as a source and as a template, against the nearest other reader.

python tests/sweep.py FOLDER...     # a line for each file that differs, or is refused
"""

import contextlib
import os
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import imageio.v3
import numpy as np
import pillow_heif
import pillow_jxl  # noqa: F401 (registers the format)
import pyvips
import tifffile
import zarr
from PIL import Image, ImageCms, ImageOps

from hirez_mosaic.errors import HirezMosaicError
from hirez_mosaic.files.listing import walk
from hirez_mosaic.pixels.geometry import Box
from hirez_mosaic.sources import open_source, open_whole, unpack

LEVELS = 3  # of 255 by which any px may be off
MOST_PX = 60_000_000
pillow_heif.register_heif_opener()


def by_source(path: Path) -> tuple[np.ndarray, str]:
    """Our px as of a source, and its notes."""
    source = open_source(path)
    try:
        if np.prod(source.size) > MOST_PX:
            raise MemoryError
        with tempfile.TemporaryDirectory() as scratch:
            ready = unpack(source, zarr.create_group(scratch), "source", lambda px: None)
            return ready.read(Box(0, ready.size[1], 0, ready.size[0])), "; ".join(source.notes)
    finally:
        source.close()


def by_pillow(path: Path, managed: bool = True) -> np.ndarray:
    """By Pillow: upright, by LittleCMS where there is a profile, over white."""
    with Image.open(path) as image:
        if np.prod(image.size) > MOST_PX:
            raise MemoryError
        icc = image.info.get("icc_profile")
        image = ImageOps.exif_transpose(image)
        if icc and managed and image.mode in ("RGB", "RGBA", "CMYK", "L"):
            profile = ImageCms.ImageCmsProfile(__import__("io").BytesIO(icc))
            flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
            image = ImageCms.profileToProfile(
                image,
                profile,
                ImageCms.createProfile("sRGB"),
                renderingIntent=1,
                outputMode="RGBA" if image.mode == "RGBA" else "RGB",
                flags=flags,
            )
        if image.mode.startswith("I"):
            return as_bytes(np.asarray(image))
        if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return np.asarray(image.convert("RGB"))


def by_vips(path: Path, managed: bool = True) -> np.ndarray:
    """By libvips: upright, by its profile, over white."""
    image = pyvips.Image.new_from_file(str(path), access="random", fail_on="truncated")
    if image.width * image.height > MOST_PX:
        raise MemoryError
    if managed and image.get_typeof("icc-profile-data"):
        image = image.icc_transform("srgb", intent="relative", black_point_compensation=True)
    image = image.autorot()
    if image.interpretation not in ("srgb", "multiband"):
        image = image.colourspace("srgb")
    return as_bytes((image.flatten(background=255) if image.hasalpha() else image).numpy())


def by_cv2(path: Path) -> np.ndarray:
    """By OpenCV, opacity left aside."""
    read = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if read is None:
        raise ValueError
    return as_bytes(read[..., ::-1])


def as_bytes(px: np.ndarray) -> np.ndarray:
    """(height, width, 3) uint8 of grey, RGB or RGBA of any depth, over white."""
    px = px[..., 0] if px.ndim == 3 and px.shape[2] == 1 else px
    if px.dtype == np.uint16:
        px = px / 65535
    elif px.dtype == bool:
        px = px.astype(float)
    elif px.dtype == np.uint8:
        px = px / 255
    elif px.dtype.kind in "iu":
        px = px / np.iinfo(px.dtype).max
    px = np.dstack([px] * 3) if px.ndim == 2 else px
    if px.shape[2] == 2:
        px = px[..., [0, 0, 0, 1]]
    if px.shape[2] > 3:
        px = px[..., :3] * px[..., 3:4] + 1 - px[..., 3:4]
    return np.round(np.clip(px, 0, 1) * 255).astype(np.uint8)


READERS: dict[str, Callable[[Path], np.ndarray]] = {
    "pillow": by_pillow,
    "libvips": by_vips,
    "opencv": by_cv2,
    "tifffile": lambda path: as_bytes(tifffile.imread(path, key=0)),
    "imageio": lambda path: as_bytes(imageio.v3.imread(path, index=0)),
    "pillow, no profile": lambda path: by_pillow(path, managed=False),
    "libvips, no profile": lambda path: by_vips(path, managed=False),
}


def others(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(reader, px) of every other reader that opens the file."""
    for name, reader in READERS.items():
        with contextlib.suppress(Exception):  # whatever libraries raise
            px = reader(path)
            if px.ndim == 3 and px.shape[2] == 3:
                yield name, px


def line(path: Path) -> tuple[str, str]:
    """(what is to be said of a file in a word, and at length)."""
    start = time.process_time()
    try:
        ours, notes = by_source(path)
    except HirezMosaicError as error:
        readers = [f"{name} {px.shape[1]}x{px.shape[0]}" for name, px in others(path)]
        return ("refused here alone" if readers else "refused by all"), f"{error} {', '.join(readers)}"
    except MemoryError:
        return "large", ""
    if (took := time.process_time() - start) > 10:
        return "slow", f"{took:.0f} s"
    template = open_whole(path).numpy()
    if not np.array_equal(template, ours):
        return "two ways", f"source {ours.shape}, template {template.shape}"
    found: list[tuple[float, float, str]] = []
    sizes = Counter[Any]()
    for name, px in others(path):
        sizes[px.shape[1::-1]] += 1
        if px.shape == ours.shape:
            off = np.abs(px.astype(int) - ours)
            found.append((float(off.max()), float(off.mean()), name))
            if off.max() <= LEVELS:
                return "same", name
    if not sizes:
        return "read here alone", f"{ours.shape[1]}x{ours.shape[0]}, mean {ours.mean():.0f} {notes}"
    if not found:
        return "other size", f"{ours.shape[1]}x{ours.shape[0]}, others {dict(sizes)} {notes}"
    most, mean, name = min(found)
    return "differs", f"by {most:.0f}, {mean:.2f} on average, from {name}; {len(found)} readers; {notes}"


def main() -> None:
    """Look at every file below the folders."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))  # of readers that believe any header
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the libraries' own words
    count = Counter[str]()
    for folder in map(Path, sys.argv[1:]):
        for name in sorted(walk(folder)):
            try:
                word, text = line(folder / name)
            except Exception as error:
                word, text = "ERROR", f"{type(error).__name__}: {error}"
            count[word] += 1
            if word != "same":
                print(f"{word}\t{folder / name}\t{text}", flush=True)
    print(dict(count))


if __name__ == "__main__":
    main()
