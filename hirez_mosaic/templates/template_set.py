"""TemplateSet: ordered templates of one size, with a fingerprint."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hirez_mosaic.geometry import CELL

_BLOCK_BYTES = 16 << 20


@dataclass(frozen=True)
class TemplateSet:
    """The templates of one job; their order is part of the contract, an index map means nothing without it.

    folder: where they came from.
    names: path of each below the folder, with forward slashes, sorted.
    pixels: (N, height, width, 3) uint8 sRGB, mapped from disk.
    fingerprint: BLAKE2b of size, order and pixels, 32 hexadecimal digits.
    skipped: (name, reason) of each file that could not be read.
    """

    folder: Path
    names: tuple[str, ...]
    pixels: NDArray[np.uint8]
    fingerprint: str
    skipped: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def tile(self) -> tuple[int, int]:
        """(width, height), px."""
        return self.pixels.shape[2], self.pixels.shape[1]

    def at_cell_size(self) -> NDArray[np.float32]:
        """The templates as a cell sees them: (N, 8, 8, 3) float32 in [0, 1], area averages.

        Made 16 MiB or one template at a time, whatever the size of the set.
        """
        count, height, width, _ = self.pixels.shape
        down, across = _area_average(height, CELL), _area_average(width, CELL)
        small = np.empty((count, CELL, CELL, 3), np.float32)
        step = max(1, _BLOCK_BYTES // (4 * height * width * 3))
        for start in range(0, count, step):
            block = self.pixels[start : start + step].astype(np.float32)
            rows = np.tensordot(block, down, axes=([1], [1]))  # (n, width, 3, 8)
            small[start : start + step] = np.tensordot(rows, across, axes=([1], [1])).transpose(0, 2, 3, 1) / 255
        return small


def _area_average(length: int, wanted: int) -> NDArray[np.float32]:
    """(wanted, length) weights: how much of each of `length` px lies under each of `wanted` px; rows sum to 1.

    >>> _area_average(3, 2)
    array([[0.6666667 , 0.33333334, 0.        ],
           [0.        , 0.33333334, 0.6666667 ]], dtype=float32)
    """
    edges = np.arange(wanted + 1) * (length / wanted)
    px = np.arange(length)
    shared = np.minimum(edges[1:, None], px + 1) - np.maximum(edges[:-1, None], px)
    return (np.maximum(shared, 0) * (wanted / length)).astype(np.float32)
