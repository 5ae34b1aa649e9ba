"""Functions that numba compiles at their first call, and keeps compiled for later processes where it finds a folder to
do so.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled, which lets other threads run meanwhile.

    Sums come in the order in which they are written: nothing is reordered, so that the same input gives the same bits
    on every processor.
    """
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache may be written to
        return njit(nogil=True)(function)


@compiled
def dot(one, other):  # type: ignore[no-untyped-def]
    """The scalar product of two vectors of float32, summed in eight lanes: as quick as one that is reordered, and
    always the same.
    """
    a = b = c = d = e = f = g = h = np.float32(0)
    whole = len(one) // 8 * 8
    for i in range(0, whole, 8):
        a += one[i] * other[i]
        b += one[i + 1] * other[i + 1]
        c += one[i + 2] * other[i + 2]
        d += one[i + 3] * other[i + 3]
        e += one[i + 4] * other[i + 4]
        f += one[i + 5] * other[i + 5]
        g += one[i + 6] * other[i + 6]
        h += one[i + 7] * other[i + 7]
    for i in range(whole, len(one)):
        a += one[i] * other[i]
    return (a + b) + (c + d) + ((e + f) + (g + h))
