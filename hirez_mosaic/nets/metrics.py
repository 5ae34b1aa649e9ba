"""How far a mosaic is from its source.

The measures are Eq. 3, LPIPS, means of cells, colours from afar, and two models of the eye; and equal neighbours.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hirez_mosaic.nets.loss import MultiScaleLoss, blur, means
from hirez_mosaic.pixels.colour import to_lab
from hirez_mosaic.pixels.geometry import CELL

SIZES = {"full": 1, "half": 2, "quarter": 4}
"""The sizes at which the models of the eye see a picture: so many px a side become one, by area averages."""
SIGMAS = (4, 8, 16)
"""Blurs after which colours are compared, px; a cell has 8."""
_LEAST = 32  # px a side that AlexNet takes; the models of the eye see no picture below that, half a degree
_PER_DEGREE = 60  # px: one is an arc minute, the least that a good eye tells apart


@dataclass(frozen=True)
class Judgement:
    """The measures of one mosaic; of all but JOD, lower is better.

    per_scale: Eq. 2 at each scale.
    eq3: their mean, Eq. 3.
    lpips: None where AlexNet's weights are not to be had, or the picture has less than 128 px a side.
    cell_means: squared error of cell means, [0, 1]^2.
    delta_e: mean distance in CIELAB (Delta E 1976) after the blurs of `SIGMAS`.
    jod: ColorVideoVDP's, 10 at best, at each of `SIZES`; None where the models of the eye are not installed, or the
        picture has less than 32 px a side at that size.
    flip: FLIP's mean error, [0, 1], at each of `SIZES`; None likewise.
    equal_neighbours: `equal_neighbours` of the mosaic; None of one without an index map.
    """

    per_scale: tuple[float, ...]
    eq3: float
    lpips: float | None
    cell_means: float
    delta_e: tuple[float, ...]
    jod: tuple[float | None, ...]
    flip: tuple[float | None, ...]
    equal_neighbours: float | None


class Judge:
    """Judges pictures in float32.

    loss: Eq. 3 as in the paper.
    alexnet: weights by torchvision's names, for LPIPS (Zhang et al., 2018), which nothing here is trained on; None
        leaves it out.
    eye: None leaves JOD and FLIP out.
    """

    def __init__(
        self, loss: MultiScaleLoss, alexnet: Mapping[str, torch.Tensor] | None, eye: "Eye | None" = None
    ) -> None:
        self._loss = loss
        self._lpips = None if alexnet is None else _make_lpips(alexnet)
        self._eye = eye

    @torch.inference_mode()
    def __call__(
        self,
        source: torch.Tensor,
        mosaic: torch.Tensor,
        index_map: NDArray[np.integer[Any]] | None = None,
        poses: int = 1,
    ) -> Judgement:
        """Judge a mosaic.

        source, mosaic: (1, 3, 8 rows, 8 columns) float32 in [0, 1].
        index_map: (rows, columns), the mosaic's choices; None where there are none.
        poses: choices to a template.
        """
        scales = self._loss.per_scale(self._loss.activations(source), mosaic)
        least = min(source.shape[2:])
        seen = [
            (means(source, side), means(mosaic, side)) if least >= side * _LEAST else None for side in SIZES.values()
        ]
        lpips, quarter, eye = None, seen[-1], self._eye
        if self._lpips is not None and quarter is not None:
            lpips = self._lpips(*(of.cpu() for of in quarter), normalize=True).item()
        return Judgement(
            tuple(scales.tolist()),
            scales.mean().item(),
            lpips,
            (means(source, CELL) - means(mosaic, CELL)).square().mean().item(),
            tuple(delta_e(source, mosaic, sigma) for sigma in SIGMAS),
            tuple(None if eye is None or pair is None else eye.jod(*pair) for pair in seen),
            tuple(None if eye is None or pair is None else eye.flip(*pair) for pair in seen),
            None if index_map is None else equal_neighbours(index_map, poses),
        )


class Eye:
    """Two models of what an eye tells apart: ColorVideoVDP (Mantiuk et al., 2024) and FLIP (Andersson et al., 2020).

    A px is an arc minute; the screen is a standard one. Pictures are (1, 3, h, w) float32 in [0, 1].

    device: of ColorVideoVDP; FLIP computes on the processor.

    Raises ImportError without the extra `eye`.
    """

    def __init__(self, device: torch.device) -> None:
        import flip_evaluator

        with _without_its_log():
            from pycvvdp import cvvdp
            from pycvvdp.display_model import vvdp_display_geometry

            screen = vvdp_display_geometry(
                [1920, 1080], ppd=_PER_DEGREE
            )  # its px count for nothing where those per degree are given
            self._vdp = cvvdp(display_name="standard_fhd", display_geometry=screen, device=device)
        self._evaluate = flip_evaluator.evaluate

    def jod(self, source: torch.Tensor, mosaic: torch.Tensor) -> float:
        """Return just-objectionable differences: 10 for what looks the same.

        Each step that 75 of 100 viewers would tell is 1 less.
        """
        return self._vdp.predict(mosaic, source, dim_order="BCHW")[0].item()

    def flip(self, source: torch.Tensor, mosaic: torch.Tensor) -> float:
        """Return the mean over all px of the difference seen when flipping between the two: 0 none, 1 the largest."""
        pictures = (np.ascontiguousarray(of[0].permute(1, 2, 0).cpu().numpy()) for of in (source, mosaic))
        return self._evaluate(*pictures, "LDR", inputsRGB=True, applyMagma=False, parameters={"ppd": _PER_DEGREE})[1]


def delta_e(source: torch.Tensor, mosaic: torch.Tensor, sigma: int) -> float:
    """Return the mean distance in CIELAB (Delta E 1976) of two pictures after a Gaussian blur: of colours from afar.

    As in the far view, sRGB's values are averaged, not light. Beyond the edge is nothing, and what is within counts
    the more: px at the edge that stood for all beyond would outweigh the rest.

    source, mosaic: (1, 3, h, w) float32 in [0, 1].
    sigma: px, more than 0.
    """
    side = 6 * sigma + 1
    within = blur(torch.ones_like(source[:, :1]), side, sigma)
    blurred = ((blur(of, side, sigma) / within).clamp(0, 1)[0].permute(1, 2, 0) for of in (source, mosaic))
    one, other = (to_lab(of.mul(65535).round().cpu().numpy().astype(np.uint16)) for of in blurred)
    return float(np.linalg.norm(one - other, axis=2).mean(dtype=np.float64))


def equal_neighbours(index_map: NDArray[np.integer[Any]], poses: int = 1) -> float | None:
    """Return the share of the pairs of cells with a common side that have the same template; None of a single cell.

    index_map: (rows, columns), choices.
    poses: choices to a template.
    """
    templates = index_map // poses
    pairs = (templates[1:] == templates[:-1], templates[:, 1:] == templates[:, :-1])
    equal = np.concatenate([of.ravel() for of in pairs])
    return float(equal.mean()) if equal.size else None


def mean_judgement(judgements: Sequence[Judgement]) -> Judgement:
    """Return the mean of each measure, over those that have it. judgements: 1 or more."""
    found: dict[str, Any] = {}
    for field in fields(Judgement):
        values = [getattr(one, field.name) for one in judgements]
        several = isinstance(values[0], tuple)
        found[field.name] = tuple(_mean(each) for each in zip(*values, strict=True)) if several else _mean(values)
    return Judgement(**found)


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


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


@contextmanager
def _without_its_log() -> Iterator[None]:
    """While ColorVideoVDP is imported and made.

    It imports PyTorch's benchmarks, which warn of a CUDA compiler without a GPU, and speaks to the root logger, which
    would set one up.
    """
    root, compiler = logging.getLogger(), logging.getLogger("torch.utils.cpp_extension")
    level, silent = compiler.level, logging.NullHandler()
    root.addHandler(silent)
    compiler.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        compiler.setLevel(level)
        root.removeHandler(silent)
