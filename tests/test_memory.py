"""The promise: measured <= projected <= budget for every stage, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import zarr
from conftest import photo, save

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="measures as Linux does")]


def noise(height: int, width: int, bands: int) -> pyvips.Image:
    grains = [pyvips.Image.gaussnoise(width, height, mean=128, sigma=40, seed=band) for band in range(bands)]
    return grains[0].bandjoin(grains[1:]).cast("uchar").copy(interpretation="srgb")


def make_source(kind: str, folder: Path) -> Path:
    path = folder / {
        "progressive JPEG": "s.jpg",
        "tiled TIFF with alpha": "s.tif",
        "PNG": "s.png",
        "WebP": "s.webp",
    }.get(kind, "s.zarr")
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


def peaks_of(folder: Path, source: Path, **settings: object) -> dict[str, Any]:
    """What `stage_peaks.py` says of a render of `source` with 100 templates."""
    (folder / "templates").mkdir()
    for number in range(100):
        save(folder / "templates" / f"{number}.png", photo(32, 32, seed=number))
    settings |= {"source": str(source), "templates": str(folder / "templates"), "output": str(folder / "m.tif")}
    command = [sys.executable, str(Path(__file__).with_name("stage_peaks.py")), json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(told: dict[str, Any], stages: set[str]) -> None:
    """Of each of these stages: measured <= projected <= budget."""
    assert told["measured"].keys() >= stages
    for stage, (_, measured) in told["measured"].items():
        assert measured <= told["projected"][stage] <= told["budget"], stage


LEAST = {"memory": "1400MiB", "decoder": "paper"}
EVERYTHING = {"memory": "4GiB", "fit": 3, "refine": 2, "max_uses": 200, "no_repeat_neighbours": True, "tint": 0.3}


@pytest.mark.parametrize("kind", ["progressive JPEG", "tiled TIFF with alpha", "PNG", "WebP", "Zarr in high chunks"])
@pytest.mark.parametrize("settings", [LEAST, EVERYTHING], ids=["least", "everything"])
def test_every_stage_stays_below_its_projection_and_that_below_the_budget(
    kind: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    told = peaks_of(tmp_path, make_source(kind, tmp_path), scale=0.7, tile_map=str(tmp_path / "map.csv"), **settings)
    stages = {"ingest", "encode", "decode", "tile map", "assemble"} | (
        {"fit", "refine", "rules"} if settings is EVERYTHING else {"select"}
    )
    check(told, stages | ({"unpack"} if kind in ("progressive JPEG", "PNG", "WebP") else set()))


def test_memory_does_not_creep_from_chunk_to_chunk(tmp_path: Path) -> None:
    noise(8 * 384, 8 * 432, 3).tiffsave(str(tmp_path / "s.tif"), tile=True)
    told = peaks_of(tmp_path, tmp_path / "s.tif", tile=8, chunk=48, fit=0, decoder="paper", memory="2GiB")
    assert told["chunks"] == 72
    check(told, {"ingest", "encode", "decode", "select", "assemble"})
    for stage in ("ingest", "encode", "decode"):
        first, last = told["measured"][stage]
        assert last - first <= 40 << 20, stage
