"""Tint: each placed template's mean colour moved towards its cell's, in CIELAB, while the mosaic is assembled."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from hirez_mosaic.pixels.colour import to_lab
from hirez_mosaic.templates import TemplateSet


@dataclass(frozen=True)
class Tint:
    """How far colours move, and towards what.

    strength: 0 (not at all) to 1 (all the way), (rows, columns) float32, or one number for all cells.
    colours: (rows, columns, 3) uint8, the mean colour of each cell of the source.
    own: (choices, 3) float32, the mean colour of each choice, CIELAB.
    """

    strength: Any
    colours: Any
    own: NDArray[np.float32]

    @classmethod
    def of(cls, templates: TemplateSet, colours: Any, strength: Any) -> "Tint":
        """The tint of the choices of a template set."""
        return cls(strength, colours, to_lab(templates.mean_colours()[None])[0])

    def moves(
        self, choices: NDArray[np.integer], colours: NDArray[np.uint8], strength: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """(n, 3) how far cells move, CIELAB. choices, strength: (n,). colours: (n, 3)."""
        return (to_lab(colours[None])[0] - self.own[choices]) * strength[:, None]


def tinted(pixels: NDArray[np.uint8], moves: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The px of n cells side by side, (lines, n x width, 3) uint8 sRGB, moved and cut off at the gamut's edge.

    moves: (n, 3) how far each cell moves, CIELAB.
    """
    image = pyvips.Image.new_from_array(pixels).copy(interpretation="srgb").colourspace("lab")
    move = pyvips.Image.new_from_array(np.ascontiguousarray(moves[None])).zoom(
        pixels.shape[1] // len(moves), pixels.shape[0]
    )
    return (image + move).copy(interpretation="lab").colourspace("srgb").numpy()
