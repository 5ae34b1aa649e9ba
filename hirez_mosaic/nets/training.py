"""Training: recipes, and the steps by which a decoder follows an objective's gradient."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from hirez_mosaic.nets.decoders import LearnedDecoder
from hirez_mosaic.nets.objective import Objective, Picture, Told, placed, step_bytes
from hirez_mosaic.pixels.geometry import Box


@dataclass(frozen=True)
class TrainingRecipe:
    """How a decoder is trained.

    steps: in all, 1 or more.
    batch: windows a step.
    window: side of a window, cells.
    rate: Adam's learning rate of the trunk.
    template_rate: Adam's learning rate of the residual decoder's templates and biases.
    decay: of both rates: "cosine" to zero, or (factor, steps after which it is applied again).
    inverse_temperature: 1 / tau (at the start, at the end).
    annealing: how 1 / tau goes from start to end, "geometric" or "linear".
    annealed: share of the steps after which the end is reached.
    hold: steps for which 1 / tau stays the same.
    far_weight: weight of the far view; 0 is the paper's loss.
    warm_up: steps over which the rates rise.
    forgets: Adam's second beta; for a short run its mean of squares should be a recent one.
    """

    steps: int
    batch: int
    window: int
    rate: float
    template_rate: float
    decay: str | tuple[float, int]
    inverse_temperature: tuple[float, float]
    annealing: str = "geometric"
    annealed: float = 0.8
    hold: int = 1
    far_weight: float = 0.0
    warm_up: int = 0
    forgets: float = 0.999

    def inverse_temperature_at(self, step: int) -> float:
        """1 / tau at a step from 0 to steps - 1."""
        start, end = self.inverse_temperature
        part = min(1.0, step // self.hold * self.hold / max(1, self.annealed * self.steps - self.hold))
        return start + (end - start) * part if self.annealing == "linear" else start * (end / start) ** part

    def rate_at(self, step: int) -> float:
        """What the learning rates are multiplied by at a step from 0 to steps - 1."""
        if isinstance(self.decay, tuple):
            factor, every = self.decay
            return factor ** (step // every)
        return min(1.0, (step + 1) / (self.warm_up + 1)) * 0.5 * (1 + math.cos(math.pi * step / self.steps))


PAPER = TrainingRecipe(2000, 12, 64, 6e-3, 6e-3, (0.96, 100), (1.0, 15.0), "linear", 1.0, 10)
"""The paper's section 3.1, with the public code's linear rise of 1 / tau."""


@torch.no_grad()
def soft_mosaic(decoder: LearnedDecoder, picture: Picture, templates: torch.Tensor) -> torch.Tensor:
    """(1, 3, 8 rows, 8 columns) the picture's soft mosaic (Eq. 1) at the decoder's last temperature.

    templates: (N, 8, 8, 3) in [0, 1].
    """
    queries = Objective.queries(decoder, picture, picture.box)
    logits = (decoder.inverse_temperature * decoder.logits(part) for part in queries.split(1024))
    return placed(torch.cat([torch.softmax(part, 1) @ templates.flatten(1) for part in logits]), picture.box)


class Trainer:
    """A decoder, its optimiser, and the step it has reached."""

    def __init__(self, decoder: LearnedDecoder, recipe: TrainingRecipe) -> None:
        self.decoder = decoder
        self.recipe = recipe
        self.step = 0
        self._rates = [recipe.rate, recipe.template_rate]
        groups = [{"params": parameters} for parameters in decoder.parameter_groups()]
        self.optimiser = torch.optim.Adam(groups, lr=recipe.rate, betas=(0.9, recipe.forgets))

    @property
    def inverse_temperature(self) -> float:
        return self.recipe.inverse_temperature_at(self.step)

    def run(self, objective: Objective, windows: Sequence[tuple[Picture, Box]]) -> Told:
        """Take one step; returns its figures, means over the windows.

        On a GPU, as many windows of one size go at once as half of its free memory holds. On a CPU, which gains
        nothing by that, they go one by one.
        """
        figures: list[tuple[int, Told]] = []
        for group in self._groups(windows, objective.loss.itemsize):
            share = len(group) / len(windows)
            figures.append((len(group), objective.step(self.decoder, group, self.inverse_temperature, share)))
        for parameters, rate in zip(self.optimiser.param_groups, self._rates, strict=False):
            parameters["lr"] = rate * self.recipe.rate_at(self.step)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.decoder.inverse_temperature = self.inverse_temperature
        self.step += 1
        return Told(
            sum(count * one.loss for count, one in figures) / len(windows),
            sum(count * one.far for count, one in figures) / len(windows),
            sum(count * one.entropy for count, one in figures) / len(windows),
            round(sum(count * one.distinct for count, one in figures) / len(windows)),
        )

    def _groups(self, windows: Sequence[tuple[Picture, Box]], itemsize: int) -> Iterator[Sequence[tuple[Picture, Box]]]:
        """The windows in groups of one size, as many at once as memory holds. itemsize: bytes of a loss activation."""
        by_size: dict[tuple[int, int], list[tuple[Picture, Box]]] = {}
        for picture, box in windows:
            by_size.setdefault((box.height, box.width), []).append((picture, box))
        device = next(self.decoder.parameters()).device
        for (rows, columns), same in by_size.items():
            at_once = 1
            if device.type == "cuda":
                each = step_bytes(rows, columns, itemsize) + 5 * 4 * rows * columns * self.decoder.template_count
                kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
                at_once = max(1, (torch.cuda.mem_get_info(device)[0] + kept) // 2 // each)
            yield from (same[start : start + at_once] for start in range(0, len(same), at_once))
