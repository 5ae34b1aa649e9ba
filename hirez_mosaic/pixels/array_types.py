"""What is asked of an array, whether NumPy holds it in memory or Zarr keeps it on disk."""

from typing import Any, Protocol

import numpy as np


class Array(Protocol):
    """An array that is read part by part: NumPy's, Zarr's, or what looks like one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of its axes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its values."""

    def __getitem__(self, part: Any, /) -> Any:
        """Return the part as what `np.asarray` takes, in memory; part: an index or slices, as NumPy takes them."""


class WritableArray(Array, Protocol):
    """One whose parts can be written."""

    def __setitem__(self, part: Any, values: Any, /) -> None:
        """Write the values to the part."""


class ChunkedArray(Array, Protocol):
    """One on disk, of which every chunk is read as a whole."""

    @property
    def chunks(self) -> tuple[int, ...]:
        """Lengths of a chunk's sides."""
