"""The multi-scale perceptual loss (paper, section 2.3): how far a mosaic is from its source.

VGG-16 sees both at every distance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from hirez_mosaic.nets.blur import BLUR_SIDE, BLUR_SIGMA, gaussian
from hirez_mosaic.nets.vgg import VGG16

TAPS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
SCALES = (0, 1, 2)

Activations = list[list[torch.Tensor]]
"""The taps of every scale: [scale][tap] (N, C, H, W)."""


def blur(images: torch.Tensor, side: int, sigma: float, edge: str = "zero") -> torch.Tensor:
    """Blur images by a side x side Gaussian to the same size: (side - 1) // 2 px before each, the rest after.

    images: (N, C, H, W) floating point.
    side: px, 1 or more.
    sigma: px, more than 0.
    edge: what lies beyond the images: "zero", or "replicate" the px at the edge.
    """
    weights = gaussian(side, sigma).to(images)
    before = (side - 1) // 2
    around = (before, side - 1 - before, before, side - 1 - before)
    padded = functional.pad(images, around, mode="constant" if edge == "zero" else edge)
    channels = images.shape[1]
    down = functional.conv2d(padded, weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return functional.conv2d(down, weights.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


def pyramid_level(images: torch.Tensor, level: int, edge: str = "zero") -> torch.Tensor:
    """Return level s of the Gaussian pyramid: every 2^s-th px after a (2^s + 1)-wide Gaussian of sigma sqrt(2^s / 4).

    images: (N, C, H, W) floating point.
    level: s, 0 or more; level 0 is the images as they are.
    edge: see `blur`.
    """
    if level == 0:
        return images
    step = 2**level
    return blur(images, step + 1, (step / 4) ** 0.5, edge)[:, :, ::step, ::step]


def squared_difference(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the mean over all elements of the squared difference, summed in float32 at least; a scalar.

    It goes by way of the norm, which sums bfloat16 in float32 without a copy: a quarter of the time of a loss step.

    one, other: of one shape.
    """
    kind = torch.promote_types(one.dtype, torch.float32)
    return torch.linalg.vector_norm(one - other, dtype=kind).square() / one.numel()


@dataclass(frozen=True)
class MultiScaleLoss:
    """Eq. 3: Eq. 2 averaged over the levels `scales` of a Gaussian pyramid, the mosaic blurred by B at each.

    Eq. 2 is the squared difference of VGG-16's activations, a mean over each layer's elements, averaged over the layers
    `taps`.

    vgg: up to conv5_1 at least; its weights' type is what the activations are computed in.
    blurred: (side, sigma) px of B, or None for none.
    edge: beyond the images lies "zero", as in the paper; "replicate" is for windows out of a larger picture, whose own
        edge means nothing.
    """

    vgg: VGG16
    scales: tuple[int, ...] = SCALES
    taps: tuple[str, ...] = TAPS
    blurred: tuple[int, float] | None = (BLUR_SIDE, BLUR_SIGMA)
    edge: str = "zero"

    @property
    def itemsize(self) -> int:
        """Bytes of one activation."""
        return next(self.vgg.parameters()).element_size()

    def activations(self, source: torch.Tensor) -> Activations:
        """Return what a mosaic is compared with: the taps of the source at every scale, without gradients.

        source: (N, 3, H, W) float32 in [0, 1].
        """
        with torch.no_grad():
            return [self.vgg(pyramid_level(source, scale, self.edge), self.taps) for scale in self.scales]

    def per_scale(self, wanted: Activations, mosaic: torch.Tensor) -> torch.Tensor:
        """Return Eq. 2 of the mosaic at every scale, (scales,); their mean is Eq. 3.

        wanted: the source's `activations`.
        mosaic: (N, 3, H, W) float32 in [0, 1].
        """
        losses = []
        for scale, theirs in zip(self.scales, wanted, strict=True):
            seen = pyramid_level(mosaic, scale, self.edge)
            if self.blurred is not None:
                seen = blur(seen, *self.blurred, self.edge)
            pairs = zip(self.vgg(seen, self.taps), theirs, strict=True)
            losses.append(torch.stack([squared_difference(ours, wanted) for ours, wanted in pairs]).mean())
        return torch.stack(losses)


def multi_scale_loss(
    vgg: VGG16, source: torch.Tensor, mosaic: torch.Tensor, scales: Sequence[int] = SCALES
) -> torch.Tensor:
    """Return Eq. 3 of two pictures; a scalar.

    source, mosaic: (N, 3, H, W) float32 in [0, 1].
    scales: levels of the pyramid.
    """
    loss = MultiScaleLoss(vgg, tuple(scales))
    return loss.per_scale(loss.activations(source), mosaic).mean()


def means(images: torch.Tensor, side: int) -> torch.Tensor:
    """Return means of side x side px: (N, C, H / side, W / side).

    images: (N, C, H, W).
    """
    return functional.avg_pool2d(images, side)


def loss_network(weights: dict[str, torch.Tensor], device: torch.device, dtype: torch.dtype) -> VGG16:
    """VGG-16 up to conv5_1, for the loss, channels-last."""
    return VGG16("conv5_1").load(weights).to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
