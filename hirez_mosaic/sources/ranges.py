"""Which samples are black and white, where the format does not tell: floats, signed and 32-bit integers, and what is to
be stretched.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hirez_mosaic.pixels.colour import CHANNELS
from hirez_mosaic.sources.source import Source

_PLACES = 64  # of chunks that are looked at, at most, evenly spread over the picture
_KEPT = 1 << 20  # samples that are compared, at most, of all
_STRETCHED = (0.2, 99.8)  # per cent of the samples that become black, and white at most
_FLAT = 1 / 16  # of the range: a picture that nearly lies within so much of it is nearly black or white


def ranged(source: Source, stretch: bool = False) -> Source:
    """Settle what is black and white in a source, by its samples where its format leaves that open.

    Floats are 0 to 1, unless half of those above 0 are above 1: then, and for signed and 32-bit integers, white is the
    least of 255, 65,535 and the largest number of their type that no sample passes, but for one in 1,000.

    stretch: whether black is the 0.2th percentile instead, and white the 99.8th.
    Raises SourceError for damaged data.
    """
    kind, colour = source.sample_type, source.colour
    known = colour.palette is not None or colour.model == "lab" or colour.linear
    if known or (not stretch and kind.kind in "bu" and kind.itemsize <= 2):
        return source
    samples = _some(source)
    if not len(samples):
        return source
    least, most = float(samples.min()), float(samples.max())
    if stretch:
        black, white = (float(value) for value in np.percentile(samples, _STRETCHED))
        black, white = (black, white) if white > black else (least, max(most, least + 1))
        return _noted(source, (black, white), f"is stretched: {black:g} is black, {white:g} white")
    white = _white(samples, kind)
    if kind.kind == "f" and white == 1:
        clipped = float((samples > 1).mean())
        note = f"is brighter than white in {clipped:.0%} of its samples; try `stretch`" if clipped >= 0.01 else ""
        return _noted(source, (0.0, 1.0), note)
    return _noted(
        source, (0.0, white), f"has samples of type {kind}, from {least:g} to {most:g}: {white:g} is taken for white"
    )


def flat_note(source: Source) -> str:
    """Say that a picture of more than 8 bits is nearly all black or white as it is read.

    The phrase is empty for any other picture, and for one that is not unpacked yet.
    """
    if (
        source.sample_type.itemsize == 1
        or source.bands
        or source.colour.palette is not None
        or source.colour.model == "lab"
    ):
        return ""
    samples = _some(source)
    black, white = source.colour.limits or (0.0, float((1 << source.colour.bits) - 1))
    dark, light = (
        ((float(value) - black) / (white - black) for value in np.percentile(samples, (99.5, 0.5)))
        if len(samples)
        else (1, 0)
    )
    return (
        "is nearly all black; try `stretch`"
        if dark < _FLAT
        else "is nearly all white; try `stretch`"
        if light > 1 - _FLAT
        else ""
    )


def _noted(source: Source, limits: tuple[float, float], note: str) -> Source:
    return replace(
        source, colour=replace(source.colour, limits=limits), notes=(*source.notes, note) if note else source.notes
    )


def _white(samples: NDArray[Any], kind: np.dtype[Any]) -> float:
    most = float(np.percentile(samples, 99.9))  # a damaged or hot px does not settle it
    if kind.kind == "f":
        above = samples[samples > 0]
        if not len(above) or np.median(above) <= 1:
            return 1.0
    largest = most if kind.kind == "f" else float(np.iinfo(kind).max)
    return (
        next((white for white in (255.0, 65535.0) if most <= white <= largest), largest)
        if kind.itemsize > 1
        else largest
    )


def _some(source: Source) -> NDArray[Any]:
    """Read colour samples that are numbers, at places spread evenly over the smallest level; always the same ones."""
    found = []
    for samples in _pieces(replace(source, level=len(source.levels) - 1)):
        colours = samples[..., : CHANNELS[source.colour.model]].ravel()
        colours = colours[np.isfinite(colours)] if colours.dtype.kind == "f" else colours
        nodata = source.colour.nodata
        colours = colours if nodata is None or np.isnan(nodata) else colours[colours != colours.dtype.type(nodata)]
        if len(colours):
            ends = np.array([colours.min(), colours.max()])
            found.append(np.concatenate([ends, colours[:: max(1, len(colours) * _PLACES // _KEPT)]]))
    return np.concatenate(found) if found else np.empty(0)


def _pieces(source: Source) -> Iterator[NDArray[Any]]:
    level = source.levels[source.level]
    if level.bands or level.array is None:
        yield from source.stored_bands()
        return
    (width, height), lengths = level.size, dict(zip(level.axes, level.samples.chunks, strict=True))
    down, across = -(-height // lengths["Y"]), -(-width // lengths["X"])
    side = max(1, int(_PLACES**0.5))
    rows = np.unique(np.linspace(0, down - 1, min(down, max(side, _PLACES // across))).astype(int))
    columns = np.unique(np.linspace(0, across - 1, min(across, max(1, _PLACES // len(rows)))).astype(int))
    for row in rows.tolist():
        for column in columns.tolist():
            yield source.chunk_samples(row, column)
