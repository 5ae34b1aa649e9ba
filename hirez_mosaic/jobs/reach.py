"""How much of a picture's colours a set of templates reaches."""

from math import ceil, sqrt

import numpy as np
import torch
from numpy.typing import NDArray

from hirez_mosaic.pixels.array_types import ChunkedArray
from hirez_mosaic.pixels.colour import to_lab

COLOUR_REACH = 10.0
"""Distance, Delta E 76, within which a template's mean colour can stand for a cell's."""

_ENOUGH = 0.75  # of the cells
_LOOKED_AT = 4096  # cells
_CELLS_AT_ONCE, _COLOURS_AT_ONCE = 512, 8192  # whose distances are held at once


def distances(cells: NDArray[np.float32], templates: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,) Delta E 76 from the colour of each cell, (n, 3) CIELAB, to the nearest of the templates, (m, 3) CIELAB."""
    colours = np.unique(np.round(templates * 2) / 2, axis=0)
    least = torch.full((len(cells),), torch.inf)
    for start in range(0, len(cells), _CELLS_AT_ONCE):
        part = torch.from_numpy(cells[start : start + _CELLS_AT_ONCE])
        for other in range(0, len(colours), _COLOURS_AT_ONCE):
            found = torch.cdist(part, torch.from_numpy(colours[other : other + _COLOURS_AT_ONCE])).amin(1)
            least[start : start + _CELLS_AT_ONCE] = torch.minimum(least[start : start + _CELLS_AT_ONCE], found)
    return least.numpy()


def reach_note(cells: ChunkedArray, templates: NDArray[np.uint8]) -> str:
    """What to tell of templates that reach less than three quarters of a picture's cells; empty where they reach more.

    cells: (rows, columns, 3) uint8 sRGB, of which at most 4,096 are looked at. templates: (m, 3) uint8 sRGB.
    """
    rows, columns, _ = cells.shape
    step = ceil(sqrt(rows * columns / _LOOKED_AT))
    looked_at = to_lab(np.asarray(cells[::step, ::step])).reshape(-1, 3)
    share = float((distances(looked_at, to_lab(templates[None])[0]) <= COLOUR_REACH).mean())
    if share >= _ENOUGH:
        return ""
    return (
        f"{share:.0%} of the picture's cells have a template near their colour (within Delta E {COLOUR_REACH:g}), so "
        "colours will be off; add pictures (hirez-mosaic templates inspect tells of which colours), or use `tint=0.3`."
    )
