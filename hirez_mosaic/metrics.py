"""How far a mosaic is from its source, by three measures: Eq. 3, LPIPS at a quarter of the size, and the cells' means."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from hirez_mosaic.loss import MultiScaleLoss, far_view

_LEAST = 32  # px a side that AlexNet takes


@dataclass(frozen=True)
class Judgement:
    """Lower is better, of all.

    per_scale: Eq. 2 at each scale. eq3: their mean, Eq. 3. lpips: None where AlexNet's weights are not to be had, or the
    picture has less than 128 px a side.
    cell_means: squared error of cell means, [0, 1]^2.
    """

    per_scale: tuple[float, ...]
    eq3: float
    lpips: float | None
    cell_means: float


class Judge:
    """Judges pictures in float32.

    loss: Eq. 3 as in the paper. alexnet: weights by torchvision's names, for LPIPS (Zhang et al., 2018), which nothing here is
    trained on; None leaves it out.
    """

    def __init__(self, loss: MultiScaleLoss, alexnet: Mapping[str, torch.Tensor] | None) -> None:
        self._loss = loss
        self._lpips = None if alexnet is None else _make_lpips(alexnet)

    @torch.inference_mode()
    def __call__(self, source: torch.Tensor, mosaic: torch.Tensor) -> Judgement:
        """Of two pictures (1, 3, 8 rows, 8 columns) in [0, 1]."""
        scales = self._loss.per_scale(self._loss.activations(source), mosaic)
        lpips = None
        if self._lpips is not None and min(source.shape[2:]) >= 4 * _LEAST:
            small = [functional.interpolate(of.cpu(), scale_factor=0.25, mode="area") for of in (source, mosaic)]
            lpips = self._lpips(*small, normalize=True).item()
        return Judgement(tuple(scales.tolist()), scales.mean().item(), lpips, far_view(source, mosaic).item())


def _make_lpips(alexnet: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    import lpips  # brings the linear heads along, and would fetch AlexNet from the model hub

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls torchvision the old way
        net = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    state = net.state_dict()
    for name in state:
        part, *rest = name.split(".")
        if part == "net" and rest[0].startswith("slice"):
            state[name] = alexnet[".".join(["features", *rest[1:]])]
    net.load_state_dict(state)
    return net.eval().requires_grad_(False)
