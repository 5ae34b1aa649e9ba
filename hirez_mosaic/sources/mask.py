"""Mask pages of a TIFF, as GDAL and libtiff's tools write them: where a mask is 0, its picture shows the background."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

from hirez_mosaic.pixels.colour import Colour

_MASK = 4  # the bit of NewSubfileType


def is_mask(page: Any) -> bool:
    """Whether a page of a TIFF is the mask of another."""
    return bool(page.aspage().subfiletype & _MASK)


def mask_of(file: tifffile.TiffFile, page: Any) -> Any:
    """The mask page of a page: the next mask of its size, before any picture of another. None where there is none."""
    if page.treeindex != (page.index,):  # within SubIFDs
        return None
    for number in range(page.index + 1, len(file.pages)):
        other = file.pages[number].aspage()
        if is_mask(other):
            if (other.imagewidth, other.imagelength) == (page.imagewidth, page.imagelength):
                return other
        elif not other.is_reduced:
            return None
    return None


@dataclass(frozen=True)
class Masked:
    """An array of samples with one channel more, which is opaque where the mask is not 0.

    array: samples, a Zarr array.
    mask: (rows, columns), a Zarr array.
    inner_axes: those of `array`, a letter each, "Y" and "X" among them.
    opaque: the sample of the new channel where px are seen.
    """

    array: Any
    mask: Any
    inner_axes: str
    opaque: float

    @classmethod
    def of(cls, array: Any, page: Any, axes: str, colour: Colour) -> "Masked":
        """The samples of an array with a mask page. colour: what they mean."""
        return cls(array, zarr.open_array(page.aszarr(), mode="r"), axes, _largest(array.dtype, colour))

    @property
    def axes(self) -> str:
        """Those of the samples, with the channels last where they had none."""
        return self.inner_axes if "S" in self.inner_axes else self.inner_axes + "S"

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the samples."""
        return np.dtype(self.array.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the samples, with the channel of the mask."""
        return self._with_channel(self.array.shape)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Of the samples, with the channel of the mask."""
        return self._with_channel(self.array.chunks)

    def __getitem__(self, index: tuple[Any, ...]) -> NDArray[Any]:
        """index: a slice or a number for each of `axes`; all channels, or the number of one."""
        chosen = dict(zip(self.axes, index, strict=True))
        mask = np.where(np.asarray(self.mask[chosen["Y"], chosen["X"]]) != 0, self.opaque, 0).astype(self.dtype)
        if self.axes.index("Y") > self.axes.index("X"):
            mask = mask.T
        channels = dict(zip(self.axes, self.shape, strict=True))["S"] - 1
        if chosen["S"] == channels:
            return mask
        samples = np.asarray(self.array[tuple(chosen[axis] for axis in self.inner_axes)])
        if not isinstance(chosen["S"], slice):
            return samples
        at = [axis for axis in self.axes if isinstance(chosen[axis], slice)].index("S")
        samples = samples if "S" in self.inner_axes else np.expand_dims(samples, at)
        return np.concatenate([samples, np.expand_dims(mask, at)], at)

    def _with_channel(self, lengths: tuple[int, ...]) -> tuple[int, ...]:
        if "S" not in self.inner_axes:
            return (*lengths, 2)
        return tuple(length + (axis == "S") for axis, length in zip(self.inner_axes, lengths, strict=True))


def _largest(dtype: Any, colour: Colour) -> float:
    """The sample that is fully opaque, as `Colour` has it."""
    if dtype.kind in "fb":
        return 1
    return int(np.iinfo(dtype).max) if dtype.kind == "i" or dtype.itemsize > 2 else (1 << colour.bits) - 1
