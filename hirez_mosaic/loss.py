"""The multi-scale perceptual loss (paper, section 2.3): how far a mosaic is from its source, as VGG-16 sees both at every distance."""

from collections.abc import Sequence

import torch
from torch.nn import functional

from hirez_mosaic.nets.blur import BLUR_SIDE, BLUR_SIGMA, gaussian
from hirez_mosaic.nets.vgg import VGG16

TAPS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
SCALES = 3


def blur(images: torch.Tensor, side: int, sigma: float) -> torch.Tensor:
    """Images (N, C, H, W) blurred by a side x side Gaussian with "SAME" zero padding: (side - 1) // 2 before, the rest after."""
    weights = gaussian(side, sigma).to(images)
    before = (side - 1) // 2
    padded = functional.pad(images, (before, side - 1 - before, before, side - 1 - before))
    channels = images.shape[1]
    down = functional.conv2d(padded, weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return functional.conv2d(down, weights.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


def pyramid_level(images: torch.Tensor, level: int) -> torch.Tensor:
    """Level s of the Gaussian pyramid: blurred by a (2^s + 1)-wide Gaussian of sigma sqrt(2^s / 4), every 2^s-th px; level 0 as it is."""
    if level == 0:
        return images
    step = 2**level
    return blur(images, step + 1, (step / 4) ** 0.5)[:, :, ::step, ::step]


def perceptual_loss(vgg: VGG16, source: torch.Tensor, mosaic: torch.Tensor, taps: Sequence[str] = TAPS) -> torch.Tensor:
    """Eq. 2: squared difference of VGG-16's activations, a mean over each layer's elements, averaged over layers; a scalar."""
    pairs = zip(vgg(source, taps), vgg(mosaic, taps), strict=True)
    return torch.stack([functional.mse_loss(ours.float(), theirs.float()) for theirs, ours in pairs]).mean()


def multi_scale_loss(vgg: VGG16, source: torch.Tensor, mosaic: torch.Tensor, scales: Sequence[int] = tuple(range(SCALES))) -> torch.Tensor:
    """Eq. 3: Eq. 2 averaged over the levels `scales` of a Gaussian pyramid, the mosaic blurred by B at each; a scalar.

    source, mosaic: (N, 3, H, W) in [0, 1], of one size.
    """
    losses = [
        perceptual_loss(vgg, pyramid_level(source, level), blur(pyramid_level(mosaic, level), BLUR_SIDE, BLUR_SIGMA)) for level in scales
    ]
    return torch.stack(losses).mean()
