"""Functions that numba compiles at their first call, and keeps compiled for later processes where it finds a folder to do so."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled, which lets other threads run meanwhile.

    Sums come in the order in which they are written: nothing is reordered, so that the same input gives the same bits on every processor.
    """
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache may be written to
        return njit(nogil=True)(function)
