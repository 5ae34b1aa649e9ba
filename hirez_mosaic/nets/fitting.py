"""Fitting: a short annealed run adapts the residual decoder to one source, and never ends with a worse one.

Small template sets gain from blurred targets and from an annealing that begins warm. Rich ones gain from sharper
targets and a softmax that is nearly one-hot from the start. The fit finds out how sharp the targets should be: every
start is judged by the hard mosaic of windows that the fit will not see. So is the decoder while it is fitted, and the
best one is kept.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from hirez_mosaic.nets.decoders import LearnedDecoder
from hirez_mosaic.nets.objective import Objective, Picture
from hirez_mosaic.nets.training import Trainer, TrainingRecipe
from hirez_mosaic.pixels.geometry import CELL, Box, CellGrid
from hirez_mosaic.settings.choosing import EFFORTS

STEPS = EFFORTS["best"][0]
"""Of a fit by default: about a minute on 2 cores."""
WINDOW = 32
"""Side of the windows that a decoder is fitted on, cells."""
SMALL_SET = TrainingRecipe(STEPS, 1, WINDOW, 3e-4, 1e-4, "cosine", (4.0, 60.0), warm_up=8, forgets=0.95)
RICH_SET = TrainingRecipe(STEPS, 1, WINDOW, 1e-4, 1e-4, "cosine", (40.0, 200.0), warm_up=8, forgets=0.95)
_WHOLE = 96**2  # cells up to which a picture is judged whole
_HELD_OUT = 16  # side of a held-out window, cells
_HELD_OUT_WINDOWS = 8
_LATE_CHECKS = 5  # how often the decoder is judged in the second half of a fit, which is the colder one
_FIRST_CHECK = 0.2  # share of the steps after which it is judged first; the fit ends there if nothing was gained


def fit(
    decoder: LearnedDecoder,
    picture: Picture,
    objective: Objective,
    steps: int,
    *,
    untouched: bool,
    progress: Callable[[int], None],
    say: Callable[[str], None] = lambda line: None,
) -> LearnedDecoder:
    """Fit the decoder to the picture; returns the one with the lowest hard Eq. 3 + far view on the judged windows.

    The windows depend on nothing but the size of the picture.

    steps: at most. If a fifth of them gains nothing, the fit ends there.
    untouched: whether the decoder is as `new_decoder` made it, so that its start may be chosen.
    progress: called with each number of steps done.
    say: called with a line where the start was kept.
    """
    windows, held_out = judged_windows(picture.box)
    judged = _Judged(objective, picture, windows)
    if untouched:
        decoder, (start, _), rich = best_start(decoder, objective, judged.pictures, windows)
    else:  # a decoder trained for a rich set ends as cold as such a fit does
        start, rich = judged.value(decoder), decoder.inverse_temperature > SMALL_SET.inverse_temperature[1]
    trainer = Trainer(decoder, replace(RICH_SET if rich else SMALL_SET, steps=steps))
    if untouched:
        decoder.inverse_temperature = trainer.recipe.inverse_temperature[1]
    avoided = windows if held_out else []
    best, gained = _fit_steps(
        trainer, judged, start, fit_windows(picture.box, trainer.recipe.window, avoided), progress
    )
    if not gained:
        say(
            f"{trainer.step} of {steps} steps of fitting gained nothing on the windows they are judged by; "
            "the start is kept."
        )
    progress(steps - trainer.step)
    return best.requires_grad_(False)


@dataclass(frozen=True)
class _Judged:
    """The windows of the picture that a fit is judged by."""

    objective: Objective
    picture: Picture
    windows: list[Box]

    @property
    def pictures(self) -> list[Picture]:
        """The picture, once for each window."""
        return [self.picture] * len(self.windows)

    def value(self, decoder: LearnedDecoder) -> float:
        """Hard Eq. 3 + far view, the mean over the windows."""
        return self.objective.hard(decoder, self.pictures, self.windows)[0]


def _fit_steps(
    trainer: Trainer, judged: _Judged, start: float, windows: Iterator[Box], progress: Callable[[int], None]
) -> tuple[LearnedDecoder, bool]:
    """(the best decoder of all steps, whether it is better than the start). start: the start's `_Judged.value`."""
    best, least, steps = copy.deepcopy(trainer.decoder), start, trainer.recipe.steps
    first = max(1, round(_FIRST_CHECK * steps))
    checks = {first, *(round(steps * (0.5 + 0.5 * (number + 1) / _LATE_CHECKS)) for number in range(_LATE_CHECKS))}
    for _ in range(steps):
        trainer.run(judged.objective, [(judged.picture, next(windows))])
        progress(1)
        if trainer.step in checks:
            value = judged.value(trainer.decoder)
            if value < least:  # never true of NaN
                best, least = copy.deepcopy(trainer.decoder), value
            elif trainer.step == first:
                return best, False
    return best, least < start


def best_start(
    decoder: LearnedDecoder, objective: Objective, pictures: Sequence[Picture], boxes: Sequence[Box]
) -> tuple[LearnedDecoder, tuple[float, int], bool]:
    """(the best of a blurred and sharper starts, its `Objective.hard`, whether it is a sharper one).

    The best start has the lowest hard Eq. 3 and far view. A rich set of templates can match what lies within a cell,
    which blurred targets would throw away; a small set cannot. A decoder without such targets is taken as it is.

    pictures, boxes: the windows to judge by, one of each picture.
    """
    starts = decoder.starts(objective.templates.unflatten(1, (CELL, CELL, 3)))
    values = [objective.hard(start, pictures, boxes) for start in starts]
    best = min(range(len(starts)), key=lambda number: values[number])
    return starts[best], values[best], best > 0


def judged_windows(bounds: Box) -> tuple[list[Box], bool]:
    """(the windows that a fit is judged by, whether the fit must keep away from them).

    A large picture has eight windows of 16 x 16 cells, spread over it. A small picture is judged as a whole, in windows
    as large as those it is fitted on: the fit sees every cell of it several times, and what it learned by heart counts
    as much in the mosaic as what it learned in general.

    bounds: all cells of the picture.
    """
    side = max(1, min(_HELD_OUT, min(bounds.height, bounds.width) // 2))
    if bounds.area <= _WHOLE:
        grid = CellGrid(bounds.height, bounds.width, (1, 1), Fraction(1))
        return list(grid.chunks(grid.even_chunk(WINDOW))), False
    golden = (math.sqrt(5) - 1) / 2
    parts = [((number + 0.5) / _HELD_OUT_WINDOWS, (number * golden + 0.25) % 1) for number in range(_HELD_OUT_WINDOWS)]
    places = [(round(down * (bounds.height - side)), round(across * (bounds.width - side))) for down, across in parts]
    return [Box(top, top + side, left, left + side) for top, left in places], True


def fit_windows(bounds: Box, side: int, avoided: list[Box]) -> Iterator[Box]:
    """Windows to fit on, without end: one in each part of the picture, in random order (seed 0), then again.

    bounds: all cells of the picture.
    side: of a window, cells, at most.
    avoided: windows that they do not overlap, unless there is no other place.
    """
    rng = np.random.default_rng(0)
    height, width = min(side, bounds.height), min(side, bounds.width)
    down, across = -(-bounds.height // height), -(-bounds.width // width)
    most = bounds.height - height, bounds.width - width
    found = False
    while True:
        for part in rng.permutation(down * across):
            for _ in range(20):
                top = int((part // across + rng.random()) / down * (most[0] + 1))
                left = int((part % across + rng.random()) / across * (most[1] + 1))
                window = Box(top, top + height, left, left + width)
                if not any(window.overlaps(other) for other in avoided):
                    found = True
                    yield window
                    break
        if not found:
            avoided = []
