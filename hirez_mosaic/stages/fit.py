"""Fit: the decoder adapted to one picture, or what an earlier fit of it left in the cache."""

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from hirez_mosaic.engine import arrays
from hirez_mosaic.engine.store import Identity
from hirez_mosaic.errors import DecoderError, sentence
from hirez_mosaic.nets import objective as objectives
from hirez_mosaic.nets.choice import Choice
from hirez_mosaic.nets.decoders import LearnedDecoder, load_decoder
from hirez_mosaic.nets.fitting import WINDOW, fit
from hirez_mosaic.nets.objective import Objective, Picture
from hirez_mosaic.pixels.geometry import CELL, CellGrid
from hirez_mosaic.settings.spec import RenderSpec
from hirez_mosaic.stages.stage import Setup, Stage, Tools

_HASHED = 64  # cells a side that are read at once for a digest
_FITTED_BYTES = 1 << 30
"""Bytes of fitted decoders in the cache: a batch of 1,000 pictures makes 15 GB of them with 17,500 templates."""
_VERSION = 6  # of fitting: a cached decoder of another version is not used


def fitted_decoder(
    choice: Choice,
    picture: Picture,
    grid: CellGrid,
    objective: Objective,
    cache: Path,
    progress: Callable[[int], None],
    say: Callable[[str], None],
) -> LearnedDecoder:
    """The chosen decoder, fitted to the picture.

    It comes from the cache where an earlier fit to the same px, with the same settings, left it there.

    progress: called with steps done.
    say: called with a sentence for a person.
    """
    decoder = choice.decoder.for_fitting()
    device = objective.templates.device
    file = cache / f"fitted-{_key(choice, picture.analysis, grid, objective)}.safetensors"
    if file.exists():
        with suppress(DecoderError):  # it is damaged and is fitted once more
            found = load_decoder(file, decoder.template_count, decoder.fingerprint).to(device)
            with suppress(OSError):  # the cache may not be written to
                os.utime(file)
            progress(choice.fit_steps)
            return found
    found = fit(
        decoder,
        picture,
        objective,
        choice.fit_steps,
        untouched=choice.untouched,
        progress=progress,
        say=say,
    )
    try:
        found.save(file)
        _keep_latest(cache)
    except OSError as error:
        say(f"The fitted decoder was not kept for another render of this picture: {sentence(error)}")
    return found


def _keep_latest(cache: Path) -> None:
    """Remove the fitted decoders that were not used for longest, until the others take at most `_FITTED_BYTES`."""
    files: list[tuple[int, int, Path]] = []
    for file in cache.glob("fitted-*.safetensors"):
        with suppress(FileNotFoundError):  # another process removes some, too
            status = file.stat()
            files.append((status.st_mtime_ns, status.st_size, file))
    files.sort(reverse=True)
    totals = list(accumulate(size for _, size, _ in files))
    for (_, _, file), total in list(zip(files, totals, strict=True))[
        1:
    ]:  # the one just made is kept, whatever its size
        if total > _FITTED_BYTES:
            file.unlink(missing_ok=True)


def _key(choice: Choice, analysis: Any, grid: CellGrid, objective: Objective) -> str:
    """The digest of all that a fit depends on: px of the analysis image, templates, settings, precision and start."""
    sha = hashlib.blake2b(digest_size=16)
    vgg = objective.loss.vgg
    settings = [
        _VERSION,
        choice.decoder.fingerprint,
        choice.fit_steps,
        objective.far_weight,
        str(next(vgg.parameters()).dtype),
        analysis.shape,
    ]
    sha.update(json.dumps([*settings, choice.identity]).encode())
    for box in grid.chunks((_HASHED, _HASHED)):
        sha.update(np.ascontiguousarray(analysis[box.scaled(CELL).slices]).data)
    return sha.hexdigest()


class _Fit(Stage):
    """The decoder, adapted to this picture."""

    name = "fit"
    reads = (arrays.ANALYSIS.name, arrays.FEATURES.name)
    leaves = (arrays.DECODER,)

    def runs(self, setup: Setup) -> bool:
        return setup.tools.choice.fit_steps > 0

    def memory(self, setup: Setup, chunk: tuple[int, int], workers: int) -> int:
        window = min(WINDOW, setup.grid.rows), min(WINDOW, setup.grid.columns)
        return objectives.projected_bytes(*window, setup.tools.number_bytes, len(setup.tools.templates))

    def identity(self, spec: RenderSpec, tools: Tools) -> Identity:
        steps = tools.choice.fit_steps
        return {
            "templates": tools.templates.fingerprint,
            "decoder": tools.choice.identity,
            "fit": steps,
            "far weight": spec.far_weight if steps else None,
            "device": tools.device.type,
            "precision": str(tools.precision) if steps else None,
        }


FIT = _Fit()
