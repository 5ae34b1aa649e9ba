"""Nothing outside the output, the workspace and the cache is read into a mosaic or written, whatever the input says."""

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from conftest import photo, save

from hirez_mosaic import batch, render
from hirez_mosaic.errors import HirezMosaicError
from hirez_mosaic.jobs.remake import assemble_tile_map

pytestmark = pytest.mark.usefixtures("own_cache", "with_random_weights")
FAST = {"decoder": "l2", "device": "cpu", "precision": "float32"}


@pytest.fixture
def yard(tmp_path: Path) -> Path:
    """A folder "in" with a source and templates, a folder "out", and a secret beside them."""
    for name in ("in", "out", "in/templates"):
        (tmp_path / name).mkdir()
    save(tmp_path / "in" / "s.png", photo(64, 64))
    for number in range(4):
        save(tmp_path / "in" / "templates" / f"{number}.png", photo(16, 16, seed=number))
    save(tmp_path / "secret.png", photo(16, 16, seed=9))
    zarr.create_array(tmp_path / "secret.zarr", shape=(64, 64, 3), chunks=(64, 64, 3), dtype="u1")[:] = np.uint8(9)
    return tmp_path


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of all there is but the cache and the output folder's content."""
    found = (path for path in folder.rglob("*") if not {"cache", "out"} & {*path.relative_to(folder).parts})
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in found}


@pytest.mark.parametrize("place", ["../../secret.zarr", "/secret.zarr", "inside/../../../secret.zarr", "..", ""])
def test_an_ome_zarr_does_not_lead_outside(place: str, yard: Path) -> None:
    place = str(yard) + place if place.startswith("/") else place
    scales = [{"version": "0.4", "axes": [{"name": axis} for axis in "yxc"], "datasets": [{"path": place}]}]
    zarr.create_group(yard / "in" / "s.zarr", attributes={"ome": {"version": "0.5", "multiscales": scales}})
    before = state(yard)
    with pytest.raises(HirezMosaicError, match=r"s\.zarr"):
        render(yard / "in" / "s.zarr", yard / "in" / "templates", 16, yard / "out" / "m.png", **FAST)
    assert state(yard) == before
    assert not any((yard / "out").iterdir())


@pytest.mark.parametrize("name", ["../../secret.png", "{yard}/secret.png", "./../../secret.png"])
def test_a_tile_map_does_not_name_what_is_no_template(name: str, yard: Path) -> None:
    render(
        yard / "in" / "s.png",
        yard / "in" / "templates",
        16,
        yard / "out" / "m.png",
        tile_map=yard / "out" / "m.json",
        **FAST,
    )
    told = (yard / "out" / "m.json").read_text()
    assert '"0.png"' in told or '"1.png"' in told
    for number in range(4):
        told = told.replace(f'"{number}.png"', json.dumps(name.format(yard=yard)))
    (yard / "out" / "evil.json").write_text(told)
    before = state(yard)
    with pytest.raises(HirezMosaicError, match=r"secret\.png"):
        assemble_tile_map(
            yard / "out" / "evil.json", yard / "in" / "templates", tile=16, output=yard / "out" / "evil.png"
        )
    assert state(yard) == before
    assert not (yard / "out" / "evil.png").exists()


NAMES = ["a\nb.png", "[page=3].png", "a,b.png", "-o.png", "%s{0}.png", "'; touch x; '.png", "...png", " .png"]


def test_names_of_templates_and_pictures_are_names_and_nothing_else(yard: Path) -> None:
    for number, name in enumerate(NAMES):
        save(yard / "in" / "plain.png", photo(16, 16, seed=20 + number)).rename(yard / "in" / "templates" / name)
        save(yard / "in" / "plain.png", photo(64, 64, seed=40 + number)).rename(yard / "in" / name)
    (yard / "in" / "link").symlink_to(yard / "out")
    before = state(yard)
    made = batch(
        yard / "in",
        yard / "in" / "templates",
        tile=16,
        output=yard / "out",
        format="png",
        tile_map="csv",
        recursive=True,
        **FAST,
    )
    assert {one.source for one in made.pictures} >= {name for name in NAMES if not name.startswith(".")} | {"s.png"}
    assert not [one.error for one in made.pictures if one.error]
    assert all((yard / "out" / one.output).resolve().is_relative_to(yard / "out") for one in made.pictures)
    assert state(yard) == before
