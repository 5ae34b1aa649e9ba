"""What the measures of `compare` say of pictures and maps whose numbers one can compute in one's head."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hirez_mosaic.nets.loss import MultiScaleLoss, multi_scale_loss
from hirez_mosaic.nets.metrics import SIGMAS, Eye, Judge, Judgement, delta_e, equal_neighbours, mean_judgement
from hirez_mosaic.nets.vgg import VGG16


@pytest.fixture(scope="module")
def eye() -> Eye:
    return Eye(torch.device("cpu"))


@pytest.fixture(scope="module")
def vgg(random_weights: dict[str, torch.Tensor]) -> VGG16:
    return VGG16("conv5_1").load(random_weights)


def flat(level: float, height: int = 64, width: int = 64) -> torch.Tensor:
    """(1, 3, h, w) of one grey."""
    return torch.full((1, 3, height, width), level)


def test_the_judge_gives_eq_3_and_a_picture_is_no_distance_from_itself(
    vgg: VGG16, random_alexnet: dict[str, torch.Tensor], eye: Eye
) -> None:
    judge = Judge(MultiScaleLoss(vgg), random_alexnet, eye)
    source, mosaic = torch.rand(2, 1, 3, 256, 256)
    other, same = judge(source, mosaic), judge(source, source)
    assert other.eq3 == pytest.approx(multi_scale_loss(vgg, source, mosaic).item())
    assert same.lpips == pytest.approx(0, abs=1e-6)
    assert same.cell_means == 0
    assert same.delta_e == (0, 0, 0)
    assert same.jod == pytest.approx((10, 10, 10))
    assert same.flip == (0, 0, 0)
    assert other.lpips is not None
    assert other.lpips > 0.01
    assert all(value is not None and value < 9 for value in other.jod)
    assert all(value is not None and value > 0.1 for value in other.flip)
    assert other.delta_e[0] > other.delta_e[1] > other.delta_e[2] > 0  # noise is grey from afar
    assert other.equal_neighbours is None


def test_a_picture_too_small_for_a_measure_goes_without_it(
    vgg: VGG16, random_alexnet: dict[str, torch.Tensor], eye: Eye
) -> None:
    found = Judge(MultiScaleLoss(vgg), random_alexnet, eye)(*torch.rand(2, 1, 3, 64, 512))
    assert found.lpips is None
    assert [value is None for value in found.jod] == [value is None for value in found.flip] == [False, False, True]
    tiny = Judge(MultiScaleLoss(vgg), None, eye)(flat(0.0, 32, 32), flat(1.0, 32, 32), np.zeros((1, 1), np.int64))
    assert tiny.delta_e == pytest.approx((100, 100, 100), abs=0.1)
    assert tiny.equal_neighbours is None


def test_the_eye_takes_the_mosaic_for_the_mosaic(eye: Eye) -> None:
    """A little noise is seen on grey, and is hidden on noise: the source masks, for ColorVideoVDP most of all."""
    noise = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    grey, busy = flat(0.5, 128, 128), (0.5 + 0.1 * noise).clamp(0, 1)
    assert eye.jod(grey, grey + 0.02 * noise.flip(3)) < eye.jod(busy, (busy + 0.02 * noise.flip(3)).clamp(0, 1)) < 10
    assert eye.flip(flat(0.0), flat(1.0)) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_delta_e_in_the_head(sigma: int) -> None:
    assert delta_e(flat(0.0), flat(1.0), sigma) == pytest.approx(100, abs=0.1)  # L is 0 of black, 100 of white
    assert delta_e(flat(0.0), flat(119 / 255), sigma) == pytest.approx(50, abs=0.1)  # of the grey in the middle 50
    red, green = (torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 64, 64) for colour in ([1.0, 0, 0], [0, 1.0, 0]))
    # (53.2, 80.1, 67.2) and (87.7, -86.2, 83.2), as every table has them
    assert delta_e(red, green, sigma) == pytest.approx(
        ((87.7 - 53.2) ** 2 + (86.2 + 80.1) ** 2 + (83.2 - 67.2) ** 2) ** 0.5, abs=0.5
    )


@pytest.mark.parametrize("sigma", SIGMAS)
def test_what_the_blur_hides_is_no_difference_in_colour(sigma: int) -> None:
    stripes = (torch.arange(96) % 2).float().expand(1, 3, 96, 96)
    assert delta_e(stripes, stripes.flip(3), sigma) < 1.5  # at the left and right edge alone
    assert delta_e(flat(0.0, 96, 96), stripes, sigma) == pytest.approx(53.4, abs=1)  # L of the level 127.5


def test_equal_neighbours_of_a_flat_map_a_chequered_one_and_others() -> None:
    chequered = np.indices((6, 8)).sum(0) % 2
    assert equal_neighbours(chequered) == 0
    assert equal_neighbours(np.zeros((6, 8), np.int64)) == 1
    assert equal_neighbours(np.array([[0, 0, 1]])) == 0.5
    assert equal_neighbours(np.array([[0, 0], [1, 2]], np.uint16)) == 0.25  # one pair of four
    assert equal_neighbours(np.zeros((1, 1), np.int64)) is None


def test_poses_do_not_count() -> None:
    chequered = np.indices((6, 8)).sum(0) % 2
    assert equal_neighbours(chequered, poses=2) == 1  # template 0 upright and mirrored
    assert equal_neighbours(2 * chequered, poses=2) == 0


def test_the_judge_takes_the_map(vgg: VGG16) -> None:
    judge = Judge(MultiScaleLoss(vgg), None)
    chequered = np.indices((8, 8)).sum(0) % 2
    assert judge(flat(0.0), flat(0.0), chequered).equal_neighbours == 0
    assert judge(flat(0.0), flat(0.0), chequered, poses=8).equal_neighbours == 1
    assert judge(flat(0.0), flat(0.0), chequered).jod == (None, None, None)


def test_the_mean_is_that_of_what_is_there() -> None:
    one = Judgement((1.0, 2.0), 1.5, None, 0.25, (1.0, 2.0, 3.0), (8.0, 9.0, None), (0.5, 0.25, None), None)
    other = Judgement((3.0, 4.0), 3.5, 0.5, 0.75, (3.0, 4.0, 5.0), (6.0, None, None), (0.25, None, None), 0.5)
    mean = Judgement((2.0, 3.0), 2.5, 0.5, 0.5, (2.0, 3.0, 4.0), (7.0, 9.0, None), (0.375, 0.25, None), 0.5)
    assert mean_judgement([one, other]) == mean


def test_making_the_eye_says_nothing_and_sets_up_no_log(tmp_path: Path) -> None:
    program = (
        "import logging, torch; from hirez_mosaic.nets.metrics import Eye; "
        "Eye(torch.device('cpu')); print(logging.getLogger().handlers)"
    )
    compiler = {
        "CUDA_HOME": str(tmp_path),
        "CUDA_VISIBLE_DEVICES": "",
    }  # a compiler without a GPU is what PyTorch warns of
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | compiler, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
