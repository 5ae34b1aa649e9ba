"""TemplateSet: templates of one size in a fixed order, each in one pose or several, with a fingerprint."""

import hashlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hirez_mosaic.pixels.geometry import CELL
from hirez_mosaic.settings.parsing import check_turnable

RESIDENT = 256 << 20
"""Bytes of px that a reader of a larger set keeps mapped, about; the rest stays on disk."""
_BLOCK_BYTES = 16 << 20


@dataclass(frozen=True)
class Pose:
    """How a template lies in its cell.

    mirrored: left to right, before it is turned.
    turns: quarters to the left, 0 to 3.
    """

    mirrored: bool = False
    turns: int = 0

    def of(self, pixels: NDArray[np.generic]) -> NDArray[np.generic]:
        """Upright templates (n, height, width, 3) in this pose."""
        return np.rot90(pixels[:, :, ::-1] if self.mirrored else pixels, self.turns, axes=(1, 2))

    def part(self, lines: range, tile: tuple[int, int]) -> tuple[slice, slice]:
        """(rows, columns) of an upright template that become these lines in this pose. tile: (width, height), px."""
        width, height = tile
        whole = slice(None)
        forwards = slice(lines.start, lines.stop)
        if self.turns % 2 == 0:
            return slice(height - lines.stop, height - lines.start) if self.turns == 2 else forwards, whole
        from_right = (self.turns == 1) != self.mirrored
        return whole, slice(width - lines.stop, width - lines.start) if from_right else forwards


UPRIGHT = Pose()


@dataclass(frozen=True)
class TemplateSet:
    """The templates of one job. An index map means nothing without their order.

    An index map holds *choices*: number of the template x number of poses + number of the pose.

    folder: where they came from.
    names: path of each below the folder, with forward slashes, sorted.
    pixels: (rows, height, width, 3) uint8 sRGB, mapped from disk.
    fingerprint: BLAKE2b of size, order, pixels and poses, 32 hexadecimal digits.
    skipped: (name, reason) of each file that could not be read.
    small: (rows, 8, 8, 3) float32 as `at_cell_size`, mapped from disk; computed from `pixels` where None.
    rows: (templates,) the row of each template in `pixels` and `small`; all rows, in order, where None.
    poses: of each template.
    left_out: for people, what was left out because by its name it is no picture.
    notes: (name, phrase) of each file of which a person should know how it was read.
    """

    folder: Path
    names: tuple[str, ...]
    pixels: NDArray[np.uint8]
    fingerprint: str
    skipped: tuple[tuple[str, str], ...] = ()
    small: NDArray[np.float32] | None = field(default=None, repr=False)
    rows: NDArray[np.int64] | None = field(default=None, repr=False)
    poses: tuple[Pose, ...] = (UPRIGHT,)
    left_out: str = ""
    notes: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        """Number of choices: templates x poses."""
        return len(self.names) * len(self.poses)

    @property
    def tile(self) -> tuple[int, int]:
        """(width, height), px."""
        return self.pixels.shape[2], self.pixels.shape[1]

    def template_of(self, choice: int) -> tuple[str, Pose]:
        """(path below the folder, pose) of a choice."""
        number, pose = divmod(choice, len(self.poses))
        return self.names[number], self.poses[pose]

    def subset(self, kept: NDArray[np.int64]) -> "TemplateSet":
        """The set of these templates alone. kept: (n,) their numbers, ascending."""
        if len(kept) == len(self.names):
            return self
        rows = kept if self.rows is None else self.rows[kept]
        names = tuple(self.names[number] for number in kept)
        return replace(self, names=names, rows=rows, fingerprint=_digest(self.fingerprint, "rows", kept.tobytes()))

    def in_poses(self, *, mirror: bool, rotate: bool) -> "TemplateSet":
        """The set with each template also mirrored, turned by quarters, or both: 2, 4 or 8 poses.

        Raises SettingError for turns of tiles that are not square.
        """
        if not mirror and not rotate:
            return self
        if rotate:
            check_turnable(self.tile)
        poses = tuple(
            Pose(mirrored, turns) for mirrored in (False, True)[: 1 + mirror] for turns in range(4 if rotate else 1)
        )
        return replace(self, poses=poses, fingerprint=_digest(self.fingerprint, "poses", repr(poses).encode()))

    def take(
        self, choices: NDArray[np.integer], lines: slice = slice(None), out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """(lines, n, width, 3) uint8: lines of px of choices, side by side.

        choices: (n,).
        lines: of px, of each.
        out: array of that shape to put them in.

        Raises IndexError for a number that is no choice.
        """
        if len(choices) and (most := choices.max()) >= len(self):
            raise IndexError(f"The choice {most} is out of bounds: there are {len(self)}.")
        numbers, poses = np.divmod(choices, len(self.poses))
        rows = (numbers if self.rows is None else self.rows[numbers]).astype(np.intp)
        (width, height), wanted = self.tile, range(*lines.indices(self.tile[1]))
        if len(self.poses) == 1:
            every = self.pixels.reshape(-1, width, 3)  # all lines of all templates
            return np.take(every, np.asarray(wanted)[:, None] + rows * height, 0, out=out, mode="clip")
        taken = np.empty((len(wanted), len(choices), width, 3), np.uint8) if out is None else out
        for number in np.unique(poses):
            here = poses == number
            px = self.poses[number].of(self.pixels[(rows[here], *self.poses[number].part(wanted, self.tile))])
            taken[:, here] = px.transpose(1, 0, 2, 3)
        return taken

    def release(self) -> None:
        """Free the memory of mapped px of a large set; they are read again when they are needed."""
        if self.pixels.nbytes > RESIDENT:
            release(self.pixels)

    def shrunk(self) -> "TemplateSet":
        """The same choices, with px of 8 x 8 alone."""
        small = [
            np.round(block * 255).astype(np.uint8) for block in replace(self, rows=None, poses=(UPRIGHT,)).blocks()
        ]
        return replace(self, pixels=np.concatenate(small), small=None)

    def mean_colours(self) -> NDArray[np.uint8]:
        """(choices, 3) uint8 sRGB mean colour of each choice."""
        return np.concatenate([np.round(block.mean((1, 2)) * 255).astype(np.uint8) for block in self.blocks()])

    def at_cell_size(self) -> NDArray[np.float32]:
        """(choices, 8, 8, 3) float32 in [0, 1]: the choices as a cell sees them, area averages."""
        count = len(self.pixels if self.rows is None else self.rows) * len(self.poses)
        small, start = np.empty((count, CELL, CELL, 3), np.float32), 0
        for block in self.blocks():
            small[start : start + len(block)] = block
            start += len(block)
        return small

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """`at_cell_size` in blocks of (n, 8, 8, 3), each computed from 16 MiB or from one template at a time."""
        rows = np.arange(len(self.pixels)) if self.rows is None else self.rows
        width, height = (CELL, CELL) if self.small is not None else self.tile
        step = max(1, _BLOCK_BYTES // (4 * width * height * 3 * len(self.poses)))
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            small = area_averages(self.pixels[some]) if self.small is None else self.small[some]
            yield np.stack([pose.of(small) for pose in self.poses], 1).reshape(-1, CELL, CELL, 3)


def release(array: NDArray[Any]) -> None:
    """Free the memory of an array that is mapped from a file; changes are written first."""
    mapping = getattr(array, "_mmap", None)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        if array.flags.writeable:
            mapping.flush()
        mapping.madvise(mmap.MADV_DONTNEED)


def area_averages(pixels: NDArray[np.uint8], size: tuple[int, int] = (CELL, CELL)) -> NDArray[np.float32]:
    """Pictures (n, height, width, 3) uint8 at another size, float32 in [0, 1]. size: (width, height), px."""
    across, down = (_area_average(length, wanted) for length, wanted in zip(pixels.shape[2:0:-1], size, strict=True))
    rows = np.tensordot(pixels.astype(np.float32), down, axes=([1], [1]))  # (n, width, 3, wanted height)
    return np.ascontiguousarray(np.tensordot(rows, across, axes=([1], [1])).transpose(0, 2, 3, 1) / np.float32(255))


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.encode())
    return digest.hexdigest()


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
