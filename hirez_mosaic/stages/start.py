"""Start: how a set of templates suits a picture, and the terms of the picture's objective that follow from it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hirez_mosaic.engine import arrays
from hirez_mosaic.nets.decoders import Decoder, Looks, TrunkNorm
from hirez_mosaic.nets.decoders.nearest import NearestL2
from hirez_mosaic.nets.fitting import judged_windows
from hirez_mosaic.nets.scoring import best_k, box_queries, cell_pixels
from hirez_mosaic.pixels.far_view import HALF_PX, far_values
from hirez_mosaic.pixels.geometry import CELL, CellGrid
from hirez_mosaic.stages.stage import Setup, Stage
from hirez_mosaic.stages.together import RANK, REPEATS, choice_gap, repeat_prices
from hirez_mosaic.templates import TemplateSet
from hirez_mosaic.templates.names import named, read_names

_SAMPLED = 512  # cells by which a set is called rich or not, at most
_RICH = 0.6  # a tenth of a rich set's templates have at most this many times the mean contrast of the cells
_REFINED = 4.0  # the median gap of refined scores is made this many times as large as the gap by px
_PREFERRED = 3.0  # gaps by which a preferred template may be worse than another and still be taken


@dataclass(frozen=True)
class Together:
    """What choosing cells together works with, besides candidates and scores; see `together`.

    values: (choices, 12) float32, see `far_values`.
    far: weight of the far view.
    unit: see `near_costs`.
    gap: see `choice_gap`.
    poses: choices to a template.
    repeats: see `repeat_prices`.
    """

    values: NDArray[np.float32]
    far: float
    unit: float
    gap: float
    poses: int
    repeats: float = REPEATS

    def prices(self, near: NDArray[np.float32]) -> NDArray[np.float32]:
        """(...) float32 the price of repeats at cells, from the near term of their choices (..., k)."""
        return repeat_prices(near, self.gap, len(self.values) // self.poses, self.repeats)

    def refined(self, scores: Any, grid: CellGrid) -> "Together":
        """The same for refined scores (rows, columns, k).

        Their gaps are made `_REFINED` times as large, because they were found with care; the price of repeats is not.
        """
        sample = np.concatenate(
            [np.asarray(scores[box.slices]).reshape(-1, scores.shape[-1]) for box in judged_windows(grid.box)[0]]
        )
        gap = choice_gap(sample[:: -(-len(sample) // _SAMPLED)], 1.0, len(self.values) // self.poses)
        return replace(self, unit=_REFINED * self.gap / gap, repeats=REPEATS / _REFINED) if gap else self


@torch.inference_mode()
def together_of(
    decoder: Decoder,
    norm: TrunkNorm | None,
    features: Any,
    analysis: Any,
    templates: TemplateSet,
    grid: CellGrid,
    looks: Looks,
) -> Together:
    """The terms of this picture's objective, from a sample of its cells.

    Scores that are no distances are scaled to be like those of the nearest neighbours by px: the medians of the gaps
    between the best and the tenth best are made equal.
    """
    k = min(RANK, len(templates))
    queries = _sampled(decoder, norm, grid, analysis, features)
    scores = best_k(queries, decoder.score(), len(templates), k)[1].cpu().numpy()
    unit = decoder.px_unit
    if unit is None:
        plain = NearestL2(torch.from_numpy(templates.at_cell_size()), "")
        by_px = best_k(_sampled(plain, None, grid, analysis, None), plain.score(), len(templates), k)[1].numpy()
        unit = float(np.median(by_px[:, 0] - by_px[:, -1]) / max(1e-6, float(np.median(scores[:, 0] - scores[:, -1]))))
    values = np.concatenate([far_values(block) for block in templates.blocks()])
    return Together(values, looks.far, unit, choice_gap(scores, unit, len(templates.names)), len(templates.poses))


def preferred_bonus(file: Path, templates: TemplateSet, together: Together) -> NDArray[np.float32]:
    """(choices,) float32 to be added to scores: a bonus for the preferred templates, which a file names.

    Raises SettingError.
    """
    names = named(templates.names, read_names(file, "preferred"))[0]
    wanted = np.array([name in names for name in templates.names]).repeat(len(templates.poses))
    return wanted.astype(np.float32) * np.float32(_PREFERRED * together.gap * HALF_PX / together.unit)


def _sampled(decoder: Decoder, norm: TrunkNorm | None, grid: CellGrid, analysis: Any, features: Any) -> torch.Tensor:
    """(cells, D) queries of at most `_SAMPLED` cells, spread over the judged windows.

    Which cells these are depends on the picture's size alone.
    """
    asked = torch.cat(
        [
            box_queries(decoder, norm, grid.box, box, analysis=analysis, features=features)
            for box in judged_windows(grid.box)[0]
        ]
    )
    return asked[:: -(-len(asked) // _SAMPLED)]


@torch.inference_mode()
def is_rich(templates: TemplateSet, grid: CellGrid, analysis: Any) -> bool:
    """Whether a set can match what lies within a picture's cells, and not their colours alone.

    It can where a tenth of its templates have less contrast than the cells of the judged windows: other sets would add
    detail that the picture does not have. Nearest distances say less: a red door that no slice of a photo is like makes
    a good set look poor, and a good match for it among emoji makes these look rich.
    """
    pixels = (
        torch.from_numpy(np.ascontiguousarray(analysis[box.scaled(CELL).slices])) for box in judged_windows(grid.box)[0]
    )
    cells = torch.cat([cell_pixels(window) for window in pixels])
    cells = cells[:: -(-len(cells) // _SAMPLED)]
    theirs = torch.cat([_contrast(block) for block in map(torch.from_numpy, templates.blocks())])
    return float(np.quantile(theirs.numpy(), 0.1)) <= _RICH * float(_contrast(cells).mean())


def _contrast(cells: torch.Tensor) -> torch.Tensor:
    """(n,) the squared distance of cells or templates, (n, 192) or (n, 8, 8, 3) in [0, 1], from their mean colours."""
    px = cells.reshape(len(cells), -1, 3)
    return (px - px.mean(1, keepdim=True)).square().sum((1, 2))


class _Start(Stage):
    """How the set suits this picture: the looks and the terms that the next stages work with."""

    name = "start"
    reads = (arrays.ANALYSIS.name,)

    def memory(self, setup: Setup, chunk: tuple[int, int], workers: int) -> int:
        held = setup.tools.choice.decoder.scoring_bytes + setup.far_bytes
        return held + setup.learned_bytes + setup.left_bytes


START = _Start()
