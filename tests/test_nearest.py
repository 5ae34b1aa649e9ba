"""The baselines against scikit-image and plain distances."""

import numpy as np
import pytest
import torch
import zarr
from conftest import photo, save
from skimage.metrics import structural_similarity

from hirez_mosaic import render
from hirez_mosaic.nets.decoders.nearest import NearestL2
from hirez_mosaic.nets.decoders.ssim import NearestSSIM
from hirez_mosaic.nets.scoring import best_k
from hirez_mosaic.pixels.geometry import CELL


def cells_and_templates() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    templates = torch.rand(37, 8, 8, 3, generator=generator)
    templates[7] = 0.5  # no variance
    return torch.rand(70, 192, generator=generator), templates


def test_ssim_is_scikit_images() -> None:
    cells, templates = cells_and_templates()
    scores = NearestSSIM(templates, "").score()(cells, slice(0, len(templates)))
    for cell in range(0, 70, 9):
        for template in range(len(templates)):
            image, other = cells[cell].view(8, 8, 3).numpy(), templates[template].numpy()
            expected = structural_similarity(image, other, channel_axis=2, data_range=1.0)
            assert scores[cell, template].item() == pytest.approx(expected, abs=1e-5)


def test_l2_is_the_nearest_template() -> None:
    cells, templates = cells_and_templates()
    chosen = best_k(cells, NearestL2(templates, "").score(), len(templates), 1)[0][:, 0]
    assert (chosen == torch.cdist(cells, templates.flatten(1)).argmin(1)).all()


@pytest.mark.parametrize("decoder", ["l2", "ssim"])
@pytest.mark.usefixtures("own_cache", "with_random_weights")
def test_through_the_pipeline_without_the_network(decoder: str, tmp_path, make_templates) -> None:
    source = save(tmp_path / "source.png", photo(40, 56))
    result = render(
        source, make_templates(30), 8, tmp_path / "m.png", decoder=decoder, workspace=tmp_path / "work", chunk=3
    )
    assert "encode" not in result.seconds
    group = zarr.open_group(tmp_path / "work", mode="r")
    analysis, index_map = group["analysis"][:], group["index_map"][:]
    from hirez_mosaic.files.cache import cache_folder
    from hirez_mosaic.templates import load_templates

    small = load_templates(tmp_path / "templates-30", (8, 8), cache=cache_folder("templates"), jobs=1).at_cell_size()
    for row in range(5):
        for column in range(7):
            cell = analysis[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] / np.float32(255)
            if decoder == "l2":
                values = [-float(((cell - other) ** 2).sum()) for other in small]
            else:
                values = [structural_similarity(cell, other, channel_axis=2, data_range=1.0) for other in small]
            assert values[index_map[row, column]] == pytest.approx(max(values), abs=1e-5)
