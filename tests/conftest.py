"""Fixtures: pictures and templates one can compute in one's head, random weights that say so, a cache of the test's
own.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores: one thread each, set before torch and numba load
    os.environ.update(OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import click
import numpy as np
import pytest
import pyvips
import torch
from hypothesis import HealthCheck, settings

from hirez_mosaic.engine.machine import settle_process
from hirez_mosaic.files.cache import cache_folder
from hirez_mosaic.nets import vgg
from hirez_mosaic.nets.vgg import VGG16
from hirez_mosaic.nets.weights import resolve_weights

settings.register_profile("at any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("at any speed")

JOBS = {"with_random_weights", "with_wide_weights", "thin_child", "workers", "s3", "browser"}
"""Fixtures of tests that do whole jobs, or start processes."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they ask for."""
    for item in items:
        asked = set(getattr(item, "fixturenames", ()))
        if asked & JOBS:
            item.add_marker(pytest.mark.job)
        if "real_weights" in asked:
            item.add_marker(pytest.mark.weights)


settle_process()  # as every job does, of which many tests call a part


def save(path: Path, pixels: np.ndarray) -> Path:
    """Write (h, w, 3) uint8 to a picture file."""
    pyvips.Image.new_from_array(np.ascontiguousarray(pixels)).write_to_file(str(path))
    return path


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(h, w, 3) uint8 with smooth areas, edges and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(3, 30) + y / rng.uniform(3, 30)) for _ in range(3)]
    picture = 127 + 90 * np.stack(waves, -1) + 40 * (x > width // 2)[..., None] + rng.normal(0, 12, (height, width, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


def png_claiming(path: Path, width: int, height: int, *, interlaced: bool = False) -> None:
    """Write a PNG whose header claims a size, without the px."""
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, interlaced)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    told = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(told))


def leaves(group: click.Group, above: str = "") -> Iterator[tuple[str, click.Command]]:
    """(label, command) of every command that does something."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, f"{above}{name}.")
        else:
            yield f"{above}{name}", command


@pytest.fixture(scope="session", autouse=True)
def _cache_of_this_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache that no other process has, and in it the user's weights."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "weights").symlink_to(cache_folder("weights"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HIREZ_MOSAIC_CACHE", str(cache))
        yield


@pytest.fixture(scope="session")
def real_weights(_cache_of_this_process: None) -> dict[str, torch.Tensor]:
    """The real ImageNet weights, from the user's cache, fetched once."""
    return resolve_weights(None, cache_folder("weights"))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for this test alone."""
    monkeypatch.setenv("HIREZ_MOSAIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HIREZ_MOSAIC_WEIGHTS", raising=False)
    return tmp_path / "cache"


def random_vgg() -> dict[str, torch.Tensor]:
    """RANDOM weights in the shapes of VGG16 as it is at present."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = VGG16()
        weights = {}
        for name, tensor in net.state_dict().items():
            fan = tensor[0].numel() if tensor.ndim == 4 else 0
            weights[name.removeprefix("layers.")] = (
                torch.randn_like(tensor) * (2 / fan) ** 0.5 if fan else torch.randn_like(tensor) * 0.1
            )
    return weights


@pytest.fixture(scope="session")
def random_weights() -> dict[str, torch.Tensor]:
    """RANDOM weights in VGG-16's shapes, with activations of about 1 in every layer; for tests of arithmetic, not of
    pictures.
    """
    return random_vgg()


RESOLVING = ("hirez_mosaic.jobs.prepare", "hirez_mosaic.jobs.train", "hirez_mosaic.jobs.compare")
"""The modules that look for the weights."""
THIN = ((8, 8), (16, 16), (32, 32, 256), (32, 32, 32), (32, 32, 32))
"""Channels of VGG-16's layers where a test has no use for so many; the encoder ends with its 256."""


@pytest.fixture(scope="session")
def thin_weights() -> dict[str, torch.Tensor]:
    """RANDOM weights of a VGG-16 with the channels `THIN`; for a test that asks for `thin_vgg`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vgg, "_BLOCKS", THIN)
        return random_vgg()


@pytest.fixture
def thin_vgg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let VGG16 have few channels, so that it takes a thirtieth of the time."""
    monkeypatch.setattr(vgg, "_BLOCKS", THIN)


@pytest.fixture(scope="session")
def thin_child(thin_weights: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Lines of Python with which a program of its own renders and trains with the weights of `with_random_weights`."""
    file = tmp_path_factory.mktemp("weights") / "thin.pt"
    torch.save(thin_weights, file)
    return (
        "import importlib, torch, hirez_mosaic.nets.vgg as vgg\n"
        f"vgg._BLOCKS, weights = {THIN}, torch.load({str(file)!r})\n"
        f"for name in {RESOLVING}:\n"
        "    importlib.import_module(name).resolve_weights = lambda *given, **named: weights\n"
    )


@pytest.fixture(scope="session")
def random_alexnet() -> dict[str, torch.Tensor]:
    """RANDOM weights in AlexNet's shapes, by torchvision's names."""
    from torchvision.models import alexnet

    return {name: tensor for name, tensor in alexnet(weights=None).state_dict().items() if name.startswith("features")}


@pytest.fixture
def with_random_weights(monkeypatch: pytest.MonkeyPatch, thin_vgg: None, thin_weights: dict[str, torch.Tensor]) -> None:
    """Let `render`, `train` and `compare` use RANDOM weights, in a VGG-16 of few channels."""
    for module in RESOLVING:
        monkeypatch.setattr(f"{module}.resolve_weights", lambda *_, **__: thin_weights)


@pytest.fixture
def with_wide_weights(monkeypatch: pytest.MonkeyPatch, random_weights: dict[str, torch.Tensor]) -> None:
    """The same with all of VGG-16's channels."""
    for module in RESOLVING:
        monkeypatch.setattr(f"{module}.resolve_weights", lambda *_, **__: random_weights)


@pytest.fixture
def make_templates(tmp_path: Path) -> Callable[[int], Path]:
    """Makes a folder of so many templates of 24 x 24 px, all different."""

    def make(count: int) -> Path:
        folder = tmp_path / f"templates-{count}"
        folder.mkdir()
        for number in range(count):
            save(folder / f"{number:03d}.png", photo(24, 24, seed=100 + number))
        return folder

    return make
