"""Training: recipes, and the steps by which a decoder follows an objective's gradient."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import nn

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
    of_range: whether `rate` is a share of each layer's Xavier range instead, and so depends on the number of templates.
    centred: whether a step changes how a layer answers to what differs from its usual input, see `Trainer`.
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
    of_range: bool = False
    centred: bool = False

    def in_steps(self, steps: int) -> "TrainingRecipe":
        """Return the same in another number of steps, 1 or more: what it holds for some steps keeps its share."""
        share, decay = steps / self.steps, self.decay
        if isinstance(decay, tuple):
            decay = (decay[0], max(1, round(decay[1] * share)))
        hold = 1 if self.hold == 1 else max(1, round(self.hold * share))
        return replace(self, steps=steps, hold=hold, decay=decay)

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
CENTRED = replace(PAPER, rate=0.02, of_range=True, centred=True)
"""The paper's recipe with rates and steps that keep most templates in use."""
_REMEMBERED = 100  # steps whose inputs the usual input of a layer is a mean of, about


@torch.no_grad()
def soft_mosaic(decoder: LearnedDecoder, picture: Picture, templates: torch.Tensor) -> torch.Tensor:
    """(1, 3, 8 rows, 8 columns) the picture's soft mosaic (Eq. 1) at the decoder's last temperature.

    templates: (N, 8, 8, 3) in [0, 1].
    """
    queries = Objective.queries(decoder, picture, picture.box)
    logits = (decoder.inverse_temperature * decoder.logits(part) for part in queries.split(1024))
    return placed(torch.cat([torch.softmax(part, 1) @ templates.flatten(1) for part in logits]), picture.box)


def xavier_range(layer: nn.Conv2d) -> float:
    """Return the largest weight that Xavier's uniform start gives a layer: sqrt(6 / (fan in + fan out))."""
    outputs, inputs, *kernel = layer.weight.shape
    return math.sqrt(6 / ((inputs + outputs) * math.prod(kernel)))


class Trainer:
    """A decoder, its optimiser, and the step it has reached.

    What a layer reads comes out of a ReLU, so it is positive on average, and Adam moves every weight of an output by
    nearly the same. Both together shift an output in all cells alike: with the paper's rate and 3,793 templates by up
    to twenty times the spread of the logits. Whichever template gains by a step, then gains everywhere.

    In a centred recipe a layer's weights act on how an input differs from the mean of those seen in training; the
    mean's part is the bias's. So a step of the weights leaves the response to the mean as it is (Schraudolph 1998,
    "Centering neural network gradient factors"). The network is the same: its bias is written for inputs as they are.
    """

    def __init__(self, decoder: LearnedDecoder, recipe: TrainingRecipe) -> None:
        self.decoder = decoder
        self.recipe = recipe
        self.step = 0
        groups, self._rates = decoder.parameter_groups(), [recipe.rate, recipe.template_rate]
        if recipe.of_range:
            groups[:1] = [[*layer.parameters()] for layer in decoder.layers]
            self._rates[:1] = [recipe.rate * xavier_range(layer) for layer in decoder.layers]
        self.optimiser = torch.optim.Adam([{"params": one} for one in groups], betas=(0.9, recipe.forgets))

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
        with self._centred(windows) if self.recipe.centred else nullcontext():
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

    @contextmanager
    def _centred(self, windows: Sequence[tuple[Picture, Box]]) -> Iterator[None]:
        """Around a step of the optimiser: make it one of weights for centred inputs."""
        layers = [(*layer.parameters(), self._centre(layer, read)) for layer, read in self._mean_inputs(windows)]
        with torch.no_grad():
            for weight, bias, centre in layers:
                weight.grad -= torch.outer(bias.grad, centre).view_as(weight)  # type: ignore[operator,arg-type]
            before = [weight.flatten(1) @ centre for weight, _, centre in layers]
            yield
            for (weight, bias, centre), response in zip(layers, before, strict=True):
                bias += response - weight.flatten(1) @ centre
                self.optimiser.state[weight]["centre"] = centre  # kept in checkpoints with the rest of it

    def _centre(self, layer: nn.Conv2d, read: torch.Tensor) -> torch.Tensor:
        """The running mean of a layer's inputs. read: their mean in this step."""
        before = self.optimiser.state[layer.weight].get("centre", read)
        return torch.lerp(before, read, 1 / min(self.step + 1, _REMEMBERED))

    @torch.no_grad()
    def _mean_inputs(self, windows: Sequence[tuple[Picture, Box]]) -> list[tuple[nn.Conv2d, torch.Tensor]]:
        """Each layer with the mean of what it reads: features of the whole pictures, and queries of the windows."""
        moments = torch.stack([picture.moments for picture, _ in windows]).sum(0)
        features = (moments[:-1, -1] / moments[-1, -1]).to(self.decoder.squeeze.weight)
        queries = torch.cat([Objective.queries(self.decoder, picture, box) for picture, box in windows]).mean(0)
        return [*zip(self.decoder.layers, (features, queries), strict=True)]

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
