"""Resampling of one box of the analysis image. A px has the same bits whichever box it is computed in.

The filter is a separable Lanczos-3, stretched when shrinking (Turkowski, Graphics Gems, 1990; as in Pillow and
libvips). Its weights are multiples of 2**-14 and samples are 8-bit, so every product and partial sum is an integer
below 2**24 once the common factor is taken out. float32 holds these exactly, and matrix multiplication may add them in
any order. Values are rounded to 8 bits once after each axis.
"""

from fractions import Fraction
from functools import lru_cache
from math import ceil, floor

import numpy as np
import torch
from numpy.typing import NDArray

_TAPS = 3  # Lanczos lobes on each side, in px of the coarser of the two images
_ONE = 1 << 14  # the weights of one output px sum to this
_BLOCK = 16  # output px of one matrix multiplication: more would multiply many zeros, fewer need too many calls
_HELD = 1 << 17  # input values held as float32 at once, about, so that they stay in the processor's cache


def span(start: int, stop: int, step: Fraction) -> tuple[int, int]:
    """The input px [first, last) that output px [start, stop) depend on; they may lie outside the picture.

    step: input px per output px.
    """
    reach = _TAPS * max(step, Fraction(1))
    return floor((start + Fraction(1, 2)) * step - reach), ceil((stop - Fraction(1, 2)) * step + reach)


def resample(
    pixels: NDArray[np.uint8], rows: tuple[int, int], columns: tuple[int, int], steps: tuple[Fraction, Fraction]
) -> NDArray[np.uint8]:
    """(rows, columns, 3) uint8: output px, from the input px that `span` names.

    pixels: (h, w, 3) uint8, exactly the spans of rows and columns.
    rows, columns: of the output, px, [start, stop).
    steps: input px per output px (horizontally, vertically).
    """
    if steps == (Fraction(1), Fraction(1)):
        rest = [slice(start - span(start, stop, Fraction(1))[0], None) for start, stop in (rows, columns)]
        return pixels[rest[0], rest[1]][: rows[1] - rows[0], : columns[1] - columns[0]]
    height, width, _ = pixels.shape
    lines = torch.from_numpy(np.ascontiguousarray(pixels)).view(height, -1)
    lines = _down(lines, rows, steps[1]).view(-1, width, 3).transpose(0, 1)  # (w, rows, 3)
    lines = _down(lines.reshape(width, -1), columns, steps[0])
    return np.ascontiguousarray(lines.view(columns[1] - columns[0], -1, 3).transpose(0, 1).numpy())


def _down(lines: torch.Tensor, outputs: tuple[int, int], step: Fraction) -> torch.Tensor:
    """Resample lines (inputs, n) uint8 to (outputs, n) uint8. outputs: [start, stop). step: inputs per output."""
    origin = span(*outputs, step)[0]
    result = torch.empty(outputs[1] - outputs[0], lines.shape[1], dtype=torch.uint8)
    for start in range(outputs[0], outputs[1], _BLOCK):
        stop = min(start + _BLOCK, outputs[1])
        first, last = span(start, stop, step)
        shift = start - start % step.denominator  # outputs that are so far apart have the same weights
        weights = torch.from_numpy(_weights(start - shift, stop - shift, step))
        width = max(1, _HELD // (last - first))
        read, made = lines[first - origin : last - origin], result[start - outputs[0] : stop - outputs[0]]
        for some, into in zip(read.split(width, 1), made.split(width, 1), strict=True):
            into[:] = (weights @ some.float()).div_(_ONE).round_().clamp_(0, 255)
    return result


@lru_cache(32)
def _weights(start: int, stop: int, step: Fraction) -> NDArray[np.float32]:
    """(stop - start, span) weights of input px for output px [start, stop): integers, 2**14 in sum in each row."""
    first, last = span(start, stop, step)
    # Distance of input px j to output px i, in lobes, from exact integers, so that it does not depend on the box.
    over, under = step.numerator, step.denominator
    i, j = np.arange(start, stop)[:, None], np.arange(first, last)[None, :]
    distance = ((2 * i + 1) * over - (2 * j + 1) * under) / (2 * max(over, under))
    weights = np.where(np.abs(distance) < _TAPS, np.sinc(distance) * np.sinc(distance / _TAPS), 0.0)
    whole = np.round(weights / weights.sum(axis=1, keepdims=True) * _ONE)
    nearest = np.abs(distance).argmin(axis=1)
    whole[np.arange(len(whole)), nearest] += _ONE - whole.sum(axis=1)  # the rest that rounding leaves
    return whole.astype(np.float32)
