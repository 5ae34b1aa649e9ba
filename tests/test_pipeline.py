"""Chunked equals whole: every array a render leaves against the same computed on the whole picture at once, by the
paper's formulas.
"""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from conftest import photo, save
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch.nn import functional

from hirez_mosaic import render
from hirez_mosaic.nets.decoders import LearnedDecoder, PaperDecoder, ResidualDecoder, new_decoder
from hirez_mosaic.nets.vgg import VGG16
from hirez_mosaic.pixels.geometry import CELL, CellGrid
from hirez_mosaic.templates import load_templates

TOLERANCE = 1e-4
"""Largest difference of float32 features, over their maximum; and of the scores of two templates that may be taken for
each other.
"""


def whole_logits(decoder: LearnedDecoder, features: torch.Tensor, analysis: np.ndarray) -> torch.Tensor:
    """(rows, columns, N) logits of a whole picture, by the formulas as printed."""
    hidden = functional.conv2d(features, decoder.squeeze.weight, decoder.squeeze.bias)
    hidden = torch.relu(functional.layer_norm(hidden, hidden.shape[1:], eps=1e-12))
    spread = functional.conv2d(hidden, decoder.spread.weight, decoder.spread.bias, padding=1)[0].permute(1, 2, 0)
    if isinstance(decoder, PaperDecoder):
        return functional.layer_norm(spread, spread.shape, eps=1e-12)
    assert isinstance(decoder, ResidualDecoder)
    rows, columns = analysis.shape[0] // CELL, analysis.shape[1] // CELL
    own = torch.from_numpy(analysis / np.float32(255)).reshape(rows, CELL, columns, CELL, 3).transpose(1, 2).flatten(2)
    wanted = own + spread
    distance = (
        (wanted[:, :, None] - decoder.targets).square().sum(-1)
    )  # equal up to |x + d|^2, which no template changes
    return decoder.scale * (decoder.bias - distance)


def check_against_whole(workspace: Path, encoder: VGG16, decoder: LearnedDecoder) -> None:
    """The arrays of a workspace are those of the whole picture."""
    group = zarr.open_group(workspace, mode="r")
    analysis, features = group["analysis"][:], torch.from_numpy(group["features"][:])
    with torch.inference_mode():
        whole = encoder(torch.from_numpy(analysis).permute(2, 0, 1)[None].float() / 255)[0]
        logits = whole_logits(decoder, whole, analysis)
    expected = whole[0].permute(1, 2, 0)
    assert (features - expected).abs().max() <= TOLERANCE * expected.abs().max()
    index_map = torch.from_numpy(group["index_map"][:].astype(np.int64))
    chosen = logits.gather(2, index_map[:, :, None])[:, :, 0]
    best = logits.amax(2)
    spread = logits.amax() - logits.amin()
    assert ((best - chosen) <= TOLERANCE * spread).all()
    assert (index_map == logits.argmax(2)).float().mean() > 0.99


def disturb(decoder: LearnedDecoder) -> LearnedDecoder:
    """The decoder as training might leave it: no tensor at its starting value (RANDOM, seeded)."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(2)
        for parameter in decoder.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return decoder


@pytest.fixture
def templates_folder(make_templates: Callable[[int], Path], own_cache: Path) -> Path:
    """A folder of 40 templates, beside a cache."""
    (own_cache / "templates").mkdir(parents=True)
    return make_templates(40)


@pytest.mark.parametrize("kind", ["residual", "paper"])
@hypothesis_settings(
    max_examples=12,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    width=st.integers(20, 140),
    height=st.integers(20, 140),
    tile=st.tuples(st.integers(3, 20), st.integers(3, 20)),
    scale=st.sampled_from(["1", "0.5", "1.5", "0.7"]),
    chunk=st.integers(1, 9),
)
def test_chunked_equals_whole_for_any_size_chunk_and_template(
    kind: str,
    width: int,
    height: int,
    tile: tuple[int, int],
    scale: str,
    chunk: int,
    templates_folder: Path,
    tmp_path: Path,
    own_cache: Path,
    with_random_weights: None,
    thin_weights: dict[str, torch.Tensor],
) -> None:
    folder = templates_folder
    source = save(tmp_path / "source.png", photo(height, width, seed=width))
    templates = load_templates(folder, tile, cache=own_cache / "templates", jobs=1)
    decoder = disturb(new_decoder(kind, torch.from_numpy(templates.at_cell_size()), templates.fingerprint))
    decoder.save(tmp_path / "decoder.safetensors")

    def rendered(chunk: int, name: str) -> Path:
        render(
            source,
            folder,
            tile,
            tmp_path / "mosaic.png",
            scale=scale,
            decoder=tmp_path / "decoder.safetensors",
            choose="alone",
            device="cpu",
            precision="float32",
            chunk=chunk,
            memory="16GiB",
            workspace=tmp_path / name,
            restart=True,
            overwrite=True,
        )
        return tmp_path / name

    workspace = rendered(chunk, "chunked")
    check_against_whole(workspace, VGG16("pool3").load(thin_weights), decoder)
    whole = zarr.open_group(rendered(10_000, "whole"), mode="r")
    assert (zarr.open_group(workspace, mode="r")["analysis"][:] == whole["analysis"][:]).all()


@pytest.fixture
def astronaut(tmp_path: Path) -> Path:
    from skimage import data

    return save(tmp_path / "astronaut.png", data.astronaut()[:200, 100:251])


def test_chunked_equals_whole_on_a_photo_with_the_real_weights(
    tmp_path: Path, astronaut: Path, real_weights: dict[str, torch.Tensor], make_templates: Callable[[int], Path]
) -> None:
    folder, file = make_templates(60), tmp_path / "decoder.safetensors"
    templates = load_templates(folder, (8, 8), cache=tmp_path, jobs=1)
    decoder = new_decoder("residual", torch.from_numpy(templates.at_cell_size()), templates.fingerprint)
    decoder.save(file)
    maps = []
    for chunk in (7, 16, 10_000):
        workspace = tmp_path / f"workspace-{chunk}"
        render(
            astronaut,
            folder,
            (8, 8),
            tmp_path / f"{chunk}.png",
            decoder=file,
            choose="alone",
            precision="float32",
            chunk=chunk,
            memory="16GiB",
            workspace=workspace,
        )
        maps.append(zarr.open_group(workspace, mode="r")["index_map"][:])
    check_against_whole(tmp_path / "workspace-7", VGG16("pool3").load(real_weights), decoder)
    assert (maps[0] == maps[2]).all()
    assert (maps[1] == maps[2]).all()
    files = [(tmp_path / f"{chunk}.png").read_bytes() for chunk in (7, 16, 10_000)]
    assert files[0] == files[1] == files[2]


def test_bfloat16_features_stay_within_two_percent_of_float32(
    tmp_path: Path, astronaut: Path, make_templates: Callable[[int], Path], real_weights: dict[str, torch.Tensor]
) -> None:
    features = []
    for precision in ("float32", "bfloat16"):
        workspace = tmp_path / precision
        how = {"decoder": "paper", "precision": precision, "workspace": workspace}
        render(astronaut, make_templates(1 + len(features)), 8, tmp_path / f"{precision}.png", **how)
        features.append(zarr.open_group(workspace, mode="r")["features"][:].astype(np.float32))
    assert features[0].dtype == np.float32
    error = np.linalg.norm(features[0] - features[1]) / np.linalg.norm(features[0])
    assert 0 < error < 0.02


def test_the_analysis_image_is_the_source_at_8_px_a_cell_with_its_edge_extended(
    tmp_path: Path, own_cache: Path, with_random_weights: None, make_templates: Callable[[int], Path]
) -> None:
    pixels = photo(20, 27)
    source = save(tmp_path / "source.png", pixels)
    render(source, make_templates(3), 8, tmp_path / "mosaic.png", workspace=tmp_path / "workspace")
    analysis = zarr.open_group(tmp_path / "workspace", mode="r")["analysis"][:]
    assert analysis.shape == (24, 32, 3)
    assert (analysis == np.pad(pixels, ((0, 4), (0, 5), (0, 0)), mode="edge")).all()


def test_a_picture_made_of_its_own_templates_is_found_again(
    tmp_path: Path, own_cache: Path, with_random_weights: None
) -> None:
    folder = tmp_path / "templates"
    folder.mkdir()
    levels = np.arange(12) * 20
    for number, level in enumerate(levels):
        save(folder / f"{number:02d}.png", np.full((16, 16, 3), level, np.uint8))
    index_map = np.random.default_rng(0).integers(0, 12, (5, 9))
    source = save(
        tmp_path / "source.png",
        np.repeat(np.repeat(levels[index_map].astype(np.uint8), 16, 0), 16, 1)[..., None].repeat(3, 2),
    )
    result = render(source, folder, 16, tmp_path / "mosaic.png", fit=0, workspace=tmp_path / "workspace", chunk=4)
    assert (zarr.open_group(tmp_path / "workspace", mode="r")["index_map"][:] == index_map).all()
    assert result.cells == (9, 5)
    assert result.distinct_templates == len(np.unique(index_map))
    assert CellGrid.over((144, 80), (16, 16), Fraction(1)).mosaic_size == result.size
