"""How far a mosaic is from its source, by several measures.

They are Eq. 3, LPIPS, means of cells, colours from afar, two models of the eye, and equal neighbours.
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
"""The sizes at which the models of the eye see a picture: so many px a side become one px, by area averages."""
SIGMAS = (4, 8, 16)
"""Blurs after which colours are compared, px; a cell has 8."""
# AlexNet takes 32 px a side or more. For the models of the eye, which take any size, they are half a degree: too little
# to see a picture in.
_LEAST = 32
_PER_DEGREE = 60  # px: one px is an arc minute, the smallest detail that a good eye resolves


@dataclass(frozen=True)
class Judgement:
    """The measures of one mosaic. Lower is better for all but JOD.

    per_scale: Eq. 2 at each scale.
    eq3: their mean, Eq. 3.
    lpips: None where AlexNet's weights cannot be had, or where the picture has less than 128 px a side.
    cell_means: squared error of cell means, [0, 1]^2.
    delta_e: mean distance in CIELAB (Delta E 1976) after the blurs of `SIGMAS`.
    jod: ColorVideoVDP's, 10 at best, at each of `SIZES`; None where the models of the eye are not installed, or where
        the picture has less than 32 px a side at that size.
    flip: FLIP's mean error, [0, 1], at each of `SIZES`; None as `jod`.
    equal_neighbours: see the function `equal_neighbours`; None for a mosaic without an index map.
    """

    per_scale: tuple[float, ...]
    eq3: float
    lpips: float | None
    cell_means: float
    delta_e: tuple[float, ...]
    jod: tuple[float | None, ...]
    flip: tuple[float | None, ...]
    equal_neighbours: float | None

    def named(self) -> dict[str, float | None]:
        """Every measure by its name for people, in the order of the tables."""
        return {
            **{f"scale {scale}": value for scale, value in enumerate(self.per_scale)},
            "Eq. 3": self.eq3,
            "LPIPS": self.lpips,
            "cell means": self.cell_means,
            **{f"dE {sigma} px": value for sigma, value in zip(SIGMAS, self.delta_e, strict=True)},
            **{f"JOD {size}": value for size, value in zip(SIZES, self.jod, strict=True)},
            **{f"FLIP {size}": value for size, value in zip(SIZES, self.flip, strict=True)},
            "equal neighbours": self.equal_neighbours,
        }


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
        """All measures of a mosaic.

        source, mosaic: (1, 3, 8 rows, 8 columns) in [0, 1].
        index_map: (rows, columns) the mosaic's choices, `poses` to a template.
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
    """Two models of the differences an eye sees: ColorVideoVDP (Mantiuk et al., 2024), FLIP (Andersson et al., 2020).

    A px is an arc minute; the screen is a standard one. Pictures are (1, 3, h, w) in [0, 1].

    device: of ColorVideoVDP; FLIP computes on the processor.

    Raises ImportError without the extra `eye`.
    """

    def __init__(self, device: torch.device) -> None:
        import flip_evaluator

        with _without_its_log():
            from pycvvdp import cvvdp
            from pycvvdp.display_model import vvdp_display_geometry

            # The screen's px have no effect where px per degree are given.
            screen = vvdp_display_geometry([1920, 1080], ppd=_PER_DEGREE)
            self._vdp = cvvdp(display_name="standard_fhd", display_geometry=screen, device=device)
        self._evaluate = flip_evaluator.evaluate

    def jod(self, source: torch.Tensor, mosaic: torch.Tensor) -> float:
        """Just-objectionable differences: 10 for equal looks, 1 less for each step that 75 of 100 viewers notice."""
        return self._vdp.predict(mosaic, source, dim_order="BCHW")[0].item()

    def flip(self, source: torch.Tensor, mosaic: torch.Tensor) -> float:
        """Mean over all px of the difference that is seen when flipping between the two: 0 is none, 1 the largest."""
        pictures = (np.ascontiguousarray(of[0].permute(1, 2, 0).cpu().numpy()) for of in (source, mosaic))
        return self._evaluate(*pictures, "LDR", inputsRGB=True, applyMagma=False, parameters={"ppd": _PER_DEGREE})[1]


def delta_e(source: torch.Tensor, mosaic: torch.Tensor, sigma: int) -> float:
    """Mean distance in CIELAB (Delta E 1976) after a Gaussian blur: how far colours seen from afar are off.

    As in the far view, the values of sRGB are averaged, not light. Only px within the picture count: px at the edge
    that stood for all px beyond it would outweigh the rest.

    source, mosaic: (1, 3, h, w) in [0, 1].
    sigma: of the blur, px.
    """
    side = 6 * sigma + 1
    within = blur(torch.ones_like(source[:, :1]), side, sigma)
    blurred = ((blur(of, side, sigma) / within).clamp(0, 1)[0].permute(1, 2, 0) for of in (source, mosaic))
    one, other = (to_lab(of.mul(65535).round().cpu().numpy().astype(np.uint16)) for of in blurred)
    return float(np.linalg.norm(one - other, axis=2).mean(dtype=np.float64))


def equal_neighbours(index_map: NDArray[np.integer[Any]], poses: int = 1) -> float | None:
    """The share of pairs of cells with a common side that show the same template in any pose; None for a single cell.

    index_map: (rows, columns) choices.
    poses: choices to a template.
    """
    templates = index_map // poses
    pairs = (templates[1:] == templates[:-1], templates[:, 1:] == templates[:, :-1])
    equal = np.concatenate([of.ravel() for of in pairs])
    return float(equal.mean()) if equal.size else None


def mean_judgement(judgements: Sequence[Judgement]) -> Judgement:
    """The mean of each measure over the judgements that have it; None where none has it."""
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
    import lpips  # holds the linear heads; it would fetch AlexNet from the model hub

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
    """Silence the log and warnings while ColorVideoVDP is imported and made.

    It imports PyTorch's benchmarks, which warn of a missing CUDA compiler where there is no GPU. It also writes to the
    root logger, which would be set up by that.
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
