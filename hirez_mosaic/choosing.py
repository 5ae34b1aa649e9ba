"""Which decoder a render uses: the one named, a trained one of these templates out of the cache, or the residual one, fitted or not."""

import copy
import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hirez_mosaic.decode import best_k, cell_pixels
from hirez_mosaic.errors import DecoderError, SettingError, sentence
from hirez_mosaic.fit import Objective, Picture
from hirez_mosaic.fitting import STEPS, fit, judged_windows
from hirez_mosaic.geometry import CELL, CellGrid
from hirez_mosaic.loss import MultiScaleLoss
from hirez_mosaic.nets.blur import blur_tiled
from hirez_mosaic.nets.decoders import Decoder, LearnedDecoder, ResidualDecoder, load_decoder, new_decoder
from hirez_mosaic.nets.nearest import NearestL2, NearestSSIM
from hirez_mosaic.nets.vgg import VGG16
from hirez_mosaic.spec import RenderSpec
from hirez_mosaic.templates import TemplateSet

_HASHED = 64  # cells a side that are read at once for a digest
_SAMPLED = 512  # cells by which a set is called rich or not, at most
_RICH = 1.5  # a set is where the nearest template is at most so many times as far, in squares, as the nearest blurred one
_UNFITTED_SHARP = 0.2  # of the start with a rich set, see `ResidualDecoder.start_from`
_FITTED_BYTES = 1 << 30  # of fitted decoders in the cache: a batch of 1,000 pictures makes 15 GB of them with 17,500 templates
_VERSION = 6  # of fitting: a cached decoder of another is not used


@dataclass(frozen=True)
class Choice:
    """A decoder, what to call it, and how it is to be fitted to the source.

    told: for people. fit_steps: 0 for none. untouched: whether nothing was learned yet.
    """

    decoder: Decoder
    told: str
    fit_steps: int
    untouched: bool

    @property
    def identity(self) -> str:
        """What the decoder is before it is fitted, of these templates: its kind, and a digest of what it has learned."""
        sha = hashlib.blake2b(digest_size=16)
        if isinstance(self.decoder, LearnedDecoder) and not self.untouched:
            for tensor in self.decoder.state_dict().values():
                sha.update(tensor.cpu().numpy().tobytes())
        return f"{self.decoder.kind} {sha.hexdigest()}"


def trained_path(cache: Path, fingerprint: str) -> Path:
    """Where `hirez-mosaic train` leaves a decoder for renders with the same templates."""
    return cache / f"{fingerprint}.safetensors"


def choose_decoder(spec: RenderSpec, templates: TemplateSet, cache: Path) -> Choice:
    """The decoder for these settings and templates. Raises SettingError, and DecoderError for a file that does not fit."""
    count, fingerprint = len(templates), templates.fingerprint
    if spec.decoder in ("l2", "ssim"):
        nearest = NearestL2 if spec.decoder == "l2" else NearestSSIM
        return Choice(nearest(torch.from_numpy(templates.at_cell_size()), fingerprint), f"nearest by {spec.decoder.upper()}", 0, False)
    if spec.decoder == "paper":
        return Choice(new_decoder("paper", torch.from_numpy(templates.at_cell_size()), fingerprint), "paper, untrained", 0, True)
    file = trained_path(cache, fingerprint) if spec.decoder == "auto" else Path(spec.decoder)
    if spec.decoder != "residual" and (spec.decoder != "auto" or file.exists()):
        decoder = load_decoder(file, count, fingerprint)
        if spec.fit and not isinstance(decoder, ResidualDecoder):
            raise SettingError(f"--fit adapts residual decoders and {file} holds a {decoder.kind} decoder; leave --fit out.")
        further = f", fitted to the source in {spec.fit} steps" if spec.fit else ""
        return Choice(decoder, f"{decoder.kind}, trained ({file}){further}", spec.fit or 0, False)
    steps = STEPS if spec.fit is None else spec.fit
    told = f"residual, fitted to the source in {steps} steps" if steps else "residual, not fitted"
    return Choice(new_decoder("residual", torch.from_numpy(templates.at_cell_size()), fingerprint), told, steps, True)


def loss_network(weights: dict[str, torch.Tensor], device: torch.device, dtype: torch.dtype) -> VGG16:
    """VGG-16 up to conv5_1, for the loss, channels-last."""
    return VGG16("conv5_1").load(weights).to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]


def window_objective(vgg: VGG16, templates: TemplateSet, far_weight: float) -> Objective:
    """What fitting and refining minimise: Eq. 3 of windows out of a larger picture, and the far view."""
    small = torch.from_numpy(templates.at_cell_size()).to(next(vgg.parameters()).device)
    return Objective(MultiScaleLoss(vgg, edge="replicate"), small, far_weight)


def unfitted_decoder(choice: Choice, templates: TemplateSet, grid: CellGrid, analysis: Any) -> Decoder:
    """The chosen decoder, which will not be fitted: the residual one starts sharper where the set is rich for the picture.

    Blurred targets throw away what lies within a cell. Small sets have nothing to match that with; with the 17,500 pieces of Hubble
    pictures Eq. 3 fell by 1.5 to 3 %.
    """
    decoder = choice.decoder
    if isinstance(decoder, ResidualDecoder) and choice.untouched and is_rich(templates, grid, analysis):
        small, device = torch.from_numpy(templates.at_cell_size()), decoder.bias.device
        return copy.deepcopy(decoder).start_from(small.to(device), _UNFITTED_SHARP)
    return decoder


@torch.inference_mode()
def is_rich(templates: TemplateSet, grid: CellGrid, analysis: Any) -> bool:
    """Whether templates match what lies within a picture's cells, and not their colours alone; by cells of the judged windows."""
    pixels = (torch.from_numpy(np.ascontiguousarray(analysis[box.scaled(CELL).slices])) for box in judged_windows(grid.box)[0])
    cells = torch.cat([cell_pixels(window) for window in pixels])
    cells = cells[:: -(-len(cells) // _SAMPLED)]
    nearest = torch.full((2, len(cells)), -torch.inf)
    for sharp in map(torch.from_numpy, templates.blocks()):
        for best, those in zip(nearest, (sharp, blur_tiled(sharp)), strict=True):
            torch.maximum(best, best_k(cells, NearestL2(those, "").score(), len(those), 1)[1][:, 0], out=best)
    sharp_distance, blurred_distance = (cells.square().sum(1) - nearest).mean(1).tolist()
    return sharp_distance <= _RICH * blurred_distance


def fitted_decoder(
    choice: Choice,
    picture: Picture,
    grid: CellGrid,
    objective: Objective,
    cache: Path,
    progress: Callable[[int], None],
    say: Callable[[str], None],
) -> LearnedDecoder:
    """The chosen decoder fitted to the picture, or what an earlier fit to the same px with the same settings left in the cache."""
    decoder = choice.decoder
    if not isinstance(decoder, ResidualDecoder):
        raise TypeError(f"A {decoder.kind} decoder cannot be fitted.")
    device = objective.templates.device
    file = cache / f"fitted-{_key(choice, picture.analysis, grid, objective)}.safetensors"
    if file.exists():
        with suppress(DecoderError):  # damaged: it is fitted once more
            found = load_decoder(file, decoder.template_count, decoder.fingerprint).to(device)
            with suppress(OSError):  # a cache that may not be written to
                os.utime(file)
            progress(choice.fit_steps)
            return found
    found = fit(copy.deepcopy(decoder), picture, objective, choice.fit_steps, untouched=choice.untouched, progress=progress, say=say)
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
    together = list(accumulate(size for _, size, _ in files))
    for (_, _, file), size in list(zip(files, together, strict=True))[1:]:  # but the one just made, whatever its size
        if size > _FITTED_BYTES:
            file.unlink(missing_ok=True)


def _key(choice: Choice, analysis: Any, grid: CellGrid, objective: Objective) -> str:
    """Digest of all that a fit depends on: the analysis image's px, templates, settings, precision, and what it starts from."""
    sha = hashlib.blake2b(digest_size=16)
    vgg = objective.loss.vgg
    told = [_VERSION, choice.decoder.fingerprint, choice.fit_steps, objective.far_weight, str(next(vgg.parameters()).dtype), analysis.shape]
    sha.update(json.dumps([*told, choice.identity]).encode())
    for box in grid.chunks((_HASHED, _HASHED)):
        sha.update(np.ascontiguousarray(analysis[box.scaled(CELL).slices]).data)
    return sha.hexdigest()
