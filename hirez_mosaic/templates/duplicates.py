"""Templates that look alike in a cell, found in bounded memory and with the same result on every machine."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

_LEAF = 256  # templates that are compared one by one
_ROWS, _COLUMNS = 512, 8192  # of a block of comparisons: 16 MiB


def near_duplicates(small: NDArray[np.float32], levels: float) -> NDArray[np.int64]:
    """(N,) int64: for each template the number of the first one that it is a near-duplicate of; else its own number.

    A template is only a near-duplicate of one that is kept, that is, of one that is no near-duplicate itself. So every
    template that is dropped lies within `levels` of one that is kept.

    small: (N, 8, 8, 3) float32 in [0, 1], from `TemplateSet.at_cell_size`; compared in whole levels of 255, with which
        float32 computes exactly.
    levels: root mean square difference, of 255, up to which two are near-duplicates.

    Templates whose means differ by more than `levels` are not compared, because their px then differ by more, too. Of n
    templates spread evenly over the levels, this leaves about n^2 x levels / 255 comparisons of 192 numbers; n^2 / 2
    where all have one mean and none is dropped. Holds 192 bytes a template and about 40 MiB.
    """
    values = np.empty((len(small), small[0].size if len(small) else 0), np.int8)
    for start in range(0, len(small), _COLUMNS):
        values[start : start + _COLUMNS] = _levels(small[start : start + _COLUMNS])
    first = np.arange(len(small), dtype=np.int64)
    _settle(first.copy(), _Compared(values, levels), first)
    return first


def count_copies(blocks: Iterable[NDArray[np.float32]]) -> int:
    """How many templates look the same in a cell as an earlier one: near-duplicates within 0 levels.

    blocks: (n, 8, 8, 3) in [0, 1], from `TemplateSet.blocks`.

    Holds 400 bytes a template.
    """
    values = np.concatenate([_levels(block) for block in blocks])
    return len(values) - len(np.unique(values.view(f"V{values.shape[1]}")))


def _levels(small: NDArray[np.float32]) -> NDArray[np.int8]:
    """(n, 192) templates (n, 8, 8, 3) in [0, 1] in whole levels of 255, minus 128."""
    return np.ascontiguousarray(np.round(np.clip(small.reshape(len(small), -1), 0, 1) * 255) - 128).astype(np.int8)


class _Compared:
    """Templates that can be compared.

    values: (N, K) int8, levels of px.
    levels: root mean square difference up to which two are near-duplicates.
    """

    def __init__(self, values: NDArray[np.int8], levels: float) -> None:
        self._values = values
        self._sums = values.sum(1, dtype=np.int64)
        self._window = levels * values.shape[1]  # of sums: means differ at most by the root mean square of px
        self._radius = levels**2 * values.shape[1]  # of squared distances

    def among(self, members: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n, n) whether two of the members are near-duplicates."""
        return self._near(members, members).numpy()

    def first_within(self, members: NDArray[np.int64], kept: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) for each member the first of `kept` that it is a near-duplicate of; the member itself where none is."""
        first = np.full(len(members), len(self._values))
        kept = kept[np.argsort(self._sums[kept], kind="stable")]
        theirs = self._sums[kept]
        order = np.argsort(self._sums[members], kind="stable")
        for start in range(0, len(members), _ROWS):
            rows = order[start : start + _ROWS]
            sums = self._sums[members[rows]]
            begin = np.searchsorted(theirs, sums[0] - self._window)
            end = np.searchsorted(theirs, sums[-1] + self._window, side="right")
            for left in range(begin, end, _COLUMNS):
                columns = kept[left : min(left + _COLUMNS, end)]
                near = self._near(members[rows], columns)
                hit = near.any(1).numpy()
                if hit.any():
                    found = np.where(near[torch.from_numpy(hit)].numpy(), columns, len(self._values)).min(1)
                    first[rows[hit]] = np.minimum(first[rows[hit]], found)
        return np.where(first < len(self._values), first, members)

    def _near(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> torch.Tensor:
        ours, theirs = (torch.from_numpy(self._values[which]).float() for which in (rows, columns))
        half = theirs.square().sum(1).div_(2)
        limit = (ours.square().sum(1) - self._radius) / 2
        return torch.addmm(half, ours, theirs.T, beta=-1) >= limit[:, None]  # |a - b|^2 <= radius


def _settle(members: NDArray[np.int64], compared: _Compared, first: NDArray[np.int64]) -> None:
    """Fill `first` at the members: ascending numbers of templates that are no near-duplicates of earlier ones."""
    if len(members) <= _LEAF:
        near = compared.among(members)
        for here, index in enumerate(members):
            if first[index] == index:
                taken = members[here:][near[here, here:]]
                first[taken[first[taken] == taken]] = index
        return
    head, tail = np.array_split(members, 2)
    _settle(head, compared, first)
    first[tail] = compared.first_within(tail, head[first[head] == head])
    _settle(tail[first[tail] == tail], compared, first)
