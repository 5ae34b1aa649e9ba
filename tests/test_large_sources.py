"""Sources in the layouts of large ones are read right, and those of 32,768 px a side within the memory budget."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from conftest import photo, save

from hirez_mosaic.pixels.geometry import CellGrid
from hirez_mosaic.sources import open_source, unpack
from hirez_mosaic.stages.ingest import ingest_chunk


def make_templates(folder: Path) -> Path:
    folder.mkdir()
    for number in range(100):
        save(folder / f"{number}.png", photo(32, 32, seed=number))
    return folder


def rendered(source: Path, folder: Path, *options: str | Path) -> dict[str, Any]:
    """What `render --json` told of a mosaic of 100 templates, made by a process of its own."""
    command = [
        sys.executable,
        "-m",
        "hirez_mosaic",
        "render",
        source,
        "--templates",
        make_templates(folder / "templates"),
    ]
    command += ["-o", folder / "m.tif", "--quiet", "--json", *options]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


SQUARES = 64  # of a numbered picture, along a side


def square_numbers() -> np.ndarray:
    rows, columns = np.mgrid[:SQUARES, :SQUARES]
    return (rows * 7 + columns * 3) % SQUARES


def square(number: int, side: int) -> np.ndarray:
    """(side, side, 3): red grows to the right by 16 about 100, green is 4 times the number, blue the rest of 255."""
    px = np.empty((side, side, 3), np.uint8)
    px[...] = np.stack(
        [92 + np.arange(side) * 16 // side, np.full(side, 4 * number), np.full(side, 255 - 4 * number)], 1
    )
    return px


ENCODERS: dict[str, Callable[[np.ndarray], bytes]] = {
    "deflate": lambda px: imagecodecs.zlib_encode(px.tobytes(), level=1),
    "lzw": lambda px: imagecodecs.lzw_encode(px.tobytes()),
    "jpeg": lambda px: imagecodecs.jpeg8_encode(px, level=95, colorspace="RGB", outcolorspace="RGB"),
}


def numbered_source(kind: str, path: Path, side: int) -> Path:
    """A picture of 64 x 64 numbered squares, side x side px, written without ever being whole in memory."""
    small, numbers = side // SQUARES, square_numbers()
    squares = [square(number, small) for number in range(SQUARES)]
    layout, _, compression = kind.partition(" ")
    if layout == "Zarr":
        storage = {"chunks": (small * 2, small * 2, 3), "shards": (small * 8, small * 8, 3)}
        if compression != "sharded":
            storage = {"chunks": (small * 4, small * 4, 3)}
        attributes = {
            "ome": {
                "version": "0.5",
                "multiscales": [{"axes": [{"name": axis} for axis in "yxc"], "datasets": [{"path": "0"}]}],
            }
        }
        array = zarr.create_group(path, attributes=attributes).create_array(
            "0", shape=(side, side, 3), dtype="u1", **storage
        )
        for top in range(0, SQUARES, 8):
            rows = [np.concatenate([squares[number] for number in numbers[row]], 1) for row in range(top, top + 8)]
            array[top * small : (top + 8) * small] = np.concatenate(rows)
        return path
    encode = ENCODERS.get(compression, np.ndarray.tobytes)
    if layout == "tiles":
        encoded = [encode(px) for px in squares]
        pieces, shape = (encoded[number] for number in numbers.flat), {"tile": (small, small)}
    else:
        lines = [
            np.concatenate([squares[number][:16] for number in row], 1) for row in numbers
        ]  # all lines of a square are alike
        encoded = [encode(px) for px in lines]
        pieces, shape = (encoded[row] for row in range(SQUARES) for _ in range(small // 16)), {"rowsperstrip": 16}
    settings = {
        "photometric": "rgb",
        "compression": compression if compression in ENCODERS else None,
        "bigtiff": True,
        **shape,
    }
    tifffile.imwrite(path, pieces, shape=(side, side, 3), dtype="u1", **settings)
    return path


def check_squares(analysis: np.ndarray, tolerance: int) -> None:
    """The middle of each cell of the analysis image, which depends on its own square alone, shows its number."""
    middle = analysis[3::8, 3::8].astype(int)
    off = np.abs(
        middle - np.stack([np.full((SQUARES, SQUARES), 99), 4 * square_numbers(), 255 - 4 * square_numbers()], -1)
    )
    assert off.max() <= tolerance


HUGE = [
    "tiles deflate",
    "tiles lzw",
    "tiles jpeg",
    "strips deflate",
    "strips jpeg",
    "strips raw",
    "Zarr",
    "Zarr sharded",
]


@pytest.mark.parametrize("kind", HUGE)
def test_a_source_in_the_layouts_of_large_ones_is_read_right(kind: str, tmp_path: Path) -> None:
    source = open_source(numbered_source(kind, tmp_path / "source", 1024))
    grid = CellGrid.over(source.size, (8, 8), columns=SQUARES)
    analysis, colours = np.empty((8 * SQUARES, 8 * SQUARES, 3), np.uint8), np.empty((SQUARES, SQUARES, 3), np.uint8)
    stored = unpack(source, zarr.create_group(store={}), "source", lambda px: None)
    ingest_chunk(grid.box, source=stored, grid=grid, analysis=analysis, colours=colours)
    source.close()
    check_squares(analysis, 2 if "jpeg" in kind else 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", HUGE)
def test_a_source_of_32768_px_a_side_is_read_right_within_the_budget(kind: str, tmp_path: Path) -> None:
    source = numbered_source(kind, tmp_path / "source", 32_768)
    options = ["--columns", str(SQUARES), "--decoder", "l2", "--memory", "1300MiB", "--workspace", tmp_path / "work"]
    try:
        told = rendered(source, tmp_path, *options)
        print(
            kind,
            told["seconds"],
            {stage: peak >> 20 for stage, peak in told["peak_bytes"].items()},
            told["projected_bytes"] >> 20,
        )
        assert max(told["peak_bytes"].values()) <= told["projected_bytes"] <= 1300 << 20
        check_squares(zarr.open_array(tmp_path / "work" / "analysis", mode="r")[:], 2 if "jpeg" in kind else 1)
    finally:
        shutil.rmtree(tmp_path)  # gigabytes
