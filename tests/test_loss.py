"""The loss against independent computations in float64."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from hirez_mosaic.nets.loss import TAPS, MultiScaleLoss, blur, multi_scale_loss, pyramid_level
from hirez_mosaic.nets.vgg import VGG16


def kernel(side: int, sigma: float) -> np.ndarray:
    offsets = np.arange(side) - (side - 1) / 2
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    return weights / weights.sum()


def scipy_blur(plane: np.ndarray, side: int, sigma: float) -> np.ndarray:
    for axis in (0, 1):
        # "SAME": (side - 1) // 2 px before; scipy puts an even kernel's middle at side // 2
        plane = ndimage.correlate1d(
            plane, kernel(side, sigma), axis, mode="constant", origin=-1 if side % 2 == 0 else 0
        )
    return plane


@pytest.mark.parametrize(("side", "sigma"), [(8, 3.0), (3, 0.5**0.5), (5, 1.0)])
def test_blur_is_scipys(side: int, sigma: float) -> None:
    images = torch.rand(2, 3, 21, 18, dtype=torch.float64)
    blurred = blur(images, side, sigma).numpy()
    for image, result in zip(images.numpy(), blurred, strict=True):
        for plane, found in zip(image, result, strict=True):
            np.testing.assert_allclose(found, scipy_blur(plane, side, sigma), atol=1e-12)


def test_pyramid_levels_are_blurred_and_sampled_from_the_full_size() -> None:
    images = torch.rand(1, 3, 32, 24, dtype=torch.float64)
    assert pyramid_level(images, 0) is images
    for level, (side, sigma) in {1: (3, 0.5**0.5), 2: (5, 1.0)}.items():
        expected = scipy_blur(images[0, 1].numpy(), side, sigma)[:: 2**level, :: 2**level]
        np.testing.assert_allclose(pyramid_level(images, level)[0, 1].numpy(), expected, atol=1e-12)


def test_the_loss_is_the_mean_over_scales_and_layers(random_weights: dict[str, torch.Tensor]) -> None:
    vgg = VGG16("conv5_1").load(random_weights).double()
    source, mosaic = torch.rand(2, 1, 3, 64, 64, dtype=torch.float64)
    each = []
    for level in range(3):
        ours = np.stack([scipy_blur(plane, 8, 3.0) for plane in pyramid_level(mosaic, level)[0].numpy()])
        pairs = zip(vgg(pyramid_level(source, level), TAPS), vgg(torch.from_numpy(ours)[None], TAPS), strict=True)
        each.append(np.mean([np.mean((a.numpy() - b.numpy()) ** 2) for a, b in pairs]))
    assert multi_scale_loss(vgg, source, mosaic).item() == pytest.approx(np.mean(each), rel=1e-5)
    assert multi_scale_loss(vgg, source, mosaic, [2]).item() == pytest.approx(each[2], rel=1e-5)
    plain = MultiScaleLoss(vgg, blurred=None)
    assert plain.per_scale(plain.activations(source), source).tolist() == [0, 0, 0]


def test_scales_taps_and_blur_can_be_chosen(random_weights: dict[str, torch.Tensor]) -> None:
    vgg = VGG16("conv5_1").load(random_weights).double()
    source, mosaic = torch.rand(2, 1, 3, 32, 40, dtype=torch.float64)
    loss = MultiScaleLoss(vgg, scales=(1,), taps=("conv2_1",), blurred=None)
    ours, theirs = (vgg(pyramid_level(of, 1), ["conv2_1"])[0].numpy() for of in (mosaic, source))
    found = loss.per_scale(loss.activations(source), mosaic)
    assert found.shape == (1,)
    assert found.item() == pytest.approx(np.mean((ours - theirs) ** 2), rel=1e-9)


def test_a_replicated_edge_leaves_a_constant_picture_as_it_is() -> None:
    images = torch.full((1, 3, 16, 24), 0.7, dtype=torch.float64)
    torch.testing.assert_close(blur(images, 8, 3.0, "replicate"), images)
    assert blur(images, 8, 3.0)[0, 0, 0, 0] < 0.4


def test_gradients_are_those_of_finite_differences(random_weights: dict[str, torch.Tensor]) -> None:
    vgg = VGG16("conv2_1").load(random_weights).double()
    loss = MultiScaleLoss(vgg, scales=(0, 1), taps=("conv1_1", "conv2_1"))
    source, mosaic = torch.rand(2, 1, 3, 8, 8, dtype=torch.float64)
    wanted = loss.activations(source)
    assert torch.autograd.gradcheck(lambda image: loss.per_scale(wanted, image).mean(), (mosaic.requires_grad_(),))
