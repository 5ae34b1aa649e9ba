"""What the eye sees from afar: errors of half cells, blurred over neighbouring cells at several viewing distances."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from hirez_mosaic.pixels.geometry import CELL, Box

REACH = 4
"""Cells beyond a cell that its far view depends on."""
DISTANCES = ((0.7, (6.0, 1.0, 1.0)), (1.0, (0.0, 2.0, 2.0)), (2.0, (2.0, 2.0, 2.0)))
"""Viewing distances: (sigma of the blur, px of 4 x 4; weights of luma and the two chroma channels)."""
OPPONENT = np.array(
    [[0.5179, 1.0167, 0.1975], [-0.2691, -0.5283, 0.7974], [0.7711, -0.6457, -0.1254]],
    np.float32,
)
"""Weights of sRGB in luma and the two chroma channels, a row each: Rec. 601's, scaled to about the size of RGB."""
HALVES = 2
"""Half cells to a side of a cell."""
VALUES = 3 * HALVES * HALVES
"""Numbers that describe a template, or a cell, in the far view: 3 channels of 4 half cells."""
_RADIUS = REACH * HALVES  # half cells that K reaches
HALF_PX = (CELL // HALVES) ** 2
"""Px of a half cell."""
_HADAMARD = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], np.float32) / 2


@dataclass(frozen=True)
class FarView:
    """The tables of the far term.

    kernel: (3, 2 r + 1, 2 r + 1) float32, K of each channel.
    own: (12,) float32, K within a cell: its eigenvalues, because the four Walsh functions of half cells diagonalise it.
    taps: for each distance the (2 r + 1,) taps of G * G in one direction, and its weights.
    """

    kernel: NDArray[np.float32]
    own: NDArray[np.float32]
    taps: tuple[tuple[NDArray[np.float64], tuple[float, float, float]], ...]

    @classmethod
    def of_weight(cls, weight: float) -> "FarView":
        """The tables for `DISTANCES`, all weighted by a factor."""
        taps = []
        for sigma, weights in DISTANCES:
            offsets = np.arange(-_RADIUS // 2, _RADIUS // 2 + 1)
            gaussian = np.exp(-(offsets**2) / (2 * sigma**2))
            gaussian /= gaussian.sum()
            red, green, blue = (weight * one for one in weights)
            taps.append((np.convolve(gaussian, gaussian), (red, green, blue)))
        kernel = np.stack([sum(of[channel] * np.outer(line, line) for line, of in taps) for channel in range(3)])
        mid = _RADIUS
        same, beside, across = kernel[:, mid, mid], kernel[:, mid, mid + 1], kernel[:, mid + 1, mid + 1]
        own = np.stack([same + 2 * beside + across, same - across, same - across, same - 2 * beside + across], 1)
        return cls(kernel.astype(np.float32), own.ravel().astype(np.float32), tuple(taps))

    def field(self, errors: NDArray[np.float32]) -> NDArray[np.float32]:
        """(3, 2 rows, 2 columns) K * errors; beyond the array there is no error. errors: of half cells, by channel."""
        total = np.zeros(errors.shape)
        for line, weights in self.taps:
            for channel, weight in enumerate(weights):
                if weight:
                    down = correlate1d(errors[channel], line, 0, np.float64, mode="constant")
                    total[channel] += weight * correlate1d(down, line, 1, np.float64, mode="constant")
        return total.astype(np.float32)

    def field_of(
        self, window: NDArray[np.uint32], inner: Box, source: NDArray[np.float32], values: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """(3, 2 rows, 2 columns) the field in a block of cells, see `improve`.

        window: (rows, columns) choices in the block and around it.
        inner: the block, within the window.
        source: (rows, columns, 12) far values of the source in the window.
        values: (choices, 12) far values of the templates.
        """
        errors = half_cells(values[window] - source)
        return np.ascontiguousarray(self.field(errors)[(slice(None), *inner.scaled(HALVES).slices)])


def far_values(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 12) float32 far values of cells or templates: Walsh coefficients of half cells by channel.

    cells: (n, 8, 8, 3) in [0, 1].
    """
    half = CELL // HALVES
    means = cells.reshape(-1, HALVES, half, HALVES, half, 3).mean((2, 4), dtype=np.float32)
    means = means.reshape(-1, HALVES * HALVES, 3)
    return np.ascontiguousarray(np.einsum("ja,nac,kc->nkj", _HADAMARD, means, OPPONENT).reshape(-1, VALUES), np.float32)


def half_cells(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(3, 2 rows, 2 columns) float32 means of half cells by channel. values: (rows, columns, 12) far values."""
    rows, columns = values.shape[:2]
    halves = np.einsum("ja,rckj->krca", _HADAMARD, values.reshape(rows, columns, 3, HALVES * HALVES))
    grid = halves.reshape(3, rows, columns, HALVES, HALVES).transpose(0, 1, 3, 2, 4)
    return np.ascontiguousarray(grid.reshape(3, rows * HALVES, columns * HALVES), np.float32)


def in_channels(colours: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n, 3) sRGB -> (n, 3) luma and two chroma channels, see `OPPONENT`."""
    return (colours / np.float32(255) @ OPPONENT.T).astype(np.float32)
