"""Fitting: a decoder adapted to one source by a short annealed run, never to something worse than it began with.

Small template sets gain from blurred targets and an annealing that begins warm; rich ones from sharper targets and a
softmax that is nearly one-hot from the start. How sharp they are to be is found out: every start is judged by the hard
mosaic of windows that the fit will not see, and so is the decoder while it is fitted; the best is kept.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from hirez_mosaic.nets.decoders import LearnedDecoder
from hirez_mosaic.nets.objective import Objective, Picture
from hirez_mosaic.nets.training import Recipe, Trainer
from hirez_mosaic.pixels.geometry import CELL, Box, CellGrid
from hirez_mosaic.settings.choosing import EFFORTS

STEPS = EFFORTS["best"][0]
"""Of a fit unless said otherwise: about a minute on 2 cores."""
WINDOW = 32
"""Side of the windows it is fitted on, cells."""
SMALL_SET = Recipe(STEPS, 1, WINDOW, 3e-4, 1e-4, "cosine", (4.0, 60.0), warm_up=8, forgets=0.95)
RICH_SET = Recipe(STEPS, 1, WINDOW, 1e-4, 1e-4, "cosine", (40.0, 200.0), warm_up=8, forgets=0.95)
_WHOLE = 96**2  # cells up to which a picture is judged whole
_HELD_OUT = 16  # side of a held-out window, cells
_HELD_OUT_WINDOWS = 8
_LOOKS = 5  # how often the decoder is judged during a fit, in its colder half
_FIRST = 0.2  # share of the steps after which it is judged for the first time, and given up where nothing was gained


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
    """Fit the decoder to the picture; return that of the least hard Eq. 3 + far view on the judged windows.

    Where a fifth of the steps gained nothing there, they are all that is done. The windows depend on nothing but the
    size of the picture.

    decoder: is changed.
    objective: with the windows' loss.
    steps: 1 or more, at most so many are done.
    untouched: whether the decoder is as `new_decoder` made it, so that its start may be chosen.
    progress: called with the number of steps done.
    say: called with a line for people where the start was kept.
    """
    judged, held_out = judged_windows(picture.box)
    pictures = [picture] * len(judged)
    if untouched:
        decoder, (least, _), rich = best_start(decoder, objective, pictures, judged)
    else:  # a decoder trained for a rich set ends as cold as such a fit does
        (least, _), rich = (
            objective.hard(decoder, pictures, judged),
            decoder.inverse_temperature > SMALL_SET.inverse_temperature[1],
        )
    trainer = Trainer(decoder, replace(RICH_SET if rich else SMALL_SET, steps=steps))
    if untouched:
        decoder.inverse_temperature = trainer.recipe.inverse_temperature[1]
    best, start = copy.deepcopy(decoder), least
    first = max(1, round(_FIRST * steps))
    looks = {first, *(round(steps * (0.5 + 0.5 * (look + 1) / _LOOKS)) for look in range(_LOOKS))}
    windows = fit_windows(picture.box, trainer.recipe.window, judged if held_out else [])
    for _ in range(steps):
        trainer.run(objective, [(picture, next(windows))])
        progress(1)
        if trainer.step in looks:
            value, _ = objective.hard(trainer.decoder, pictures, judged)
            if value < least:  # never true of NaN
                best, least = copy.deepcopy(trainer.decoder), value
            elif trainer.step == first:
                break
    if least == start:
        say(
            f"{trainer.step} of {steps} steps of fitting gained nothing on the windows they are judged by; "
            "the start is kept."
        )
    progress(steps - trainer.step)
    return best.requires_grad_(False)


def best_start(
    decoder: LearnedDecoder, objective: Objective, pictures: Sequence[Picture], boxes: Sequence[Box]
) -> tuple[LearnedDecoder, tuple[float, int], bool]:
    """Return the best of the decoder's starts, its `Objective.hard`, and whether it is another one than the decoder.

    The best one is that of the lowest hard Eq. 3 and far view on windows of pictures. A rich set matches what lies
    within a cell, which blurred targets would throw away, a small one cannot.

    pictures, boxes: the windows, a box of cells of each picture.
    """
    starts = decoder.starts(objective.templates.unflatten(1, (CELL, CELL, 3)))
    values = [objective.hard(start, pictures, boxes) for start in starts]
    best = min(range(len(starts)), key=lambda number: values[number])
    return starts[best], values[best], best > 0


def judged_windows(bounds: Box) -> tuple[list[Box], bool]:
    """Return the windows a fit is judged by, and whether the fit must keep away from them.

    They are eight of 16 x 16 cells, spread over the picture. A small picture is judged as a whole, in windows as large
    as those it is fitted on: there the fit sees every cell several times, and what it learned by heart counts as much
    in the mosaic as what it understood.

    bounds: all cells.
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
    """Yield windows without end: one in each part of the picture, in random order (seed 0), and again.

    bounds: all cells.
    side: of a window, cells, at most.
    avoided: windows that none overlaps, where there is another place.
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
