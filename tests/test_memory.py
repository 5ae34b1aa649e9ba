"""The promise: measured <= projected <= budget, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pyvips
import zarr
from conftest import photo, save

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="measures as POSIX does")]


def noise(height: int, width: int, bands: int) -> pyvips.Image:
    grains = [pyvips.Image.gaussnoise(width, height, mean=128, sigma=40, seed=band) for band in range(bands)]
    return grains[0].bandjoin(grains[1:]).cast("uchar").copy(interpretation="srgb")


def make_source(kind: str, folder: Path) -> Path:
    path = folder / {"progressive JPEG": "s.jpg", "tiled TIFF with alpha": "s.tif", "PNG": "s.png", "WebP": "s.webp"}.get(kind, "s.zarr")
    if kind == "progressive JPEG":
        noise(5000, 6000, 3).jpegsave(str(path), interlace=True)
    elif kind == "tiled TIFF with alpha":
        noise(5000, 6000, 4).copy(interpretation="srgb").tiffsave(str(path), tile=True, compression="deflate")
    elif kind == "PNG":
        noise(5000, 6000, 3).pngsave(str(path), compression=1)
    elif kind == "WebP":
        noise(3000, 4000, 3).webpsave(str(path))
    else:
        zarr.create_array(path, shape=(5000, 6000, 3), chunks=(5000, 1500, 3), dtype="u1")[:] = np.uint8(77)
    return path


@pytest.mark.parametrize("kind", ["progressive JPEG", "tiled TIFF with alpha", "PNG", "WebP", "Zarr in high chunks"])
@pytest.mark.parametrize(("memory", "learning"), [("1300MiB", ["--fit", "0"]), ("4GiB", ["--fit", "3", "--refine", "2"])])
def test_peak_memory_stays_below_the_projection_and_that_below_the_budget(
    kind: str, memory: str, learning: list[str], tmp_path: Path
) -> None:
    (tmp_path / "templates").mkdir()
    for number in range(100):
        save(tmp_path / "templates" / f"{number}.png", photo(32, 32, seed=number))
    source = make_source(kind, tmp_path)
    command = [sys.executable, "-m", "hirez_mosaic", "render", source, "--templates", tmp_path / "templates", "--scale", "0.7"]
    command += ["--memory", memory, "-o", tmp_path / "m.tif", "--quiet", "--json", *learning]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert max(told["peak_bytes"].values()) <= told["projected_bytes"] <= {"1300MiB": 1300 << 20, "4GiB": 4 << 30}[memory]
