"""Functions that numba compiles at their first call.

Where it finds a folder for them, it keeps them compiled for later processes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, to be compiled; other threads run while it does.

    Sums are computed in the order in which they are written, so the same input gives the same bits on every processor.
    """
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache may be written to
        return njit(nogil=True)(function)


@compiled
def dot(one, other):  # type: ignore[no-untyped-def]
    """The scalar product of two float32 vectors of one length, summed in eight lanes.

    It is as quick as a sum that is reordered, and always the same.
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
