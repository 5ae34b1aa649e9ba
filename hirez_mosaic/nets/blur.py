"""The Gaussian that blurs the output before the loss (paper, section 2.3, B): 8 x 8 px, sigma 3."""

import torch

BLUR_SIDE = 8
BLUR_SIGMA = 3.0


def gaussian(side: int, sigma: float) -> torch.Tensor:
    """Return the (side,) float64 weights of a Gaussian around the middle of `side` px; their sum is 1.

    side: px, 1 or more.
    sigma: px, more than 0.
    """
    offset = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    weights = torch.exp(-(offset**2) / (2 * sigma**2))
    return weights / weights.sum()


def blur_tiled(templates: torch.Tensor) -> torch.Tensor:
    """Blur each template by B as it would be in a plane tiled with itself.

    As in a "SAME" convolution with an even kernel, output px i sees input px i - 3 to i + 4.

    templates: (N, 8, 8, 3) floating point.
    """
    side = templates.shape[1]
    circulant = torch.zeros(side, side, dtype=torch.float64)
    for tap, weight in enumerate(gaussian(BLUR_SIDE, BLUR_SIGMA)):
        px = torch.arange(side)
        circulant[px, (px + tap - (BLUR_SIDE - 1) // 2) % side] += weight
    blur = circulant.to(templates)
    return torch.einsum("iy,nyxc,jx->nijc", blur, templates, blur)
