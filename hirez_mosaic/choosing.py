"""Which decoder a render uses: the one named, a trained one of these templates out of the cache, or the residual one, fitted or not.

And how cells are chosen together by its scores: see `Together`.
"""

import copy
import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hirez_mosaic.decode import best_k, box_queries, cell_pixels
from hirez_mosaic.errors import DecoderError, SettingError, sentence
from hirez_mosaic.fit import Objective, Picture
from hirez_mosaic.fitting import fit, judged_windows
from hirez_mosaic.geometry import CELL, CellGrid
from hirez_mosaic.loss import MultiScaleLoss
from hirez_mosaic.nets.blur import blur_tiled
from hirez_mosaic.nets.decoders import Decoder, LearnedDecoder, ResidualDecoder, TrunkNorm, load_decoder, new_decoder
from hirez_mosaic.nets.nearest import NearestAsSeen, NearestL2, NearestSSIM
from hirez_mosaic.nets.vgg import VGG16
from hirez_mosaic.spec import RenderSpec
from hirez_mosaic.templates import TemplateSet
from hirez_mosaic.tilemap import named, read_names
from hirez_mosaic.together import HALF_PX, OPPONENT, RANK, REPEATS, choice_gap, far_values

_HASHED = 64  # cells a side that are read at once for a digest
_SAMPLED = 512  # cells by which a set is called rich or not, at most
_RICH = 1.5  # a set is where the nearest template is at most so many times as far, in squares, as the nearest blurred one
_FITTED_BYTES = 1 << 30  # of fitted decoders in the cache: a batch of 1,000 pictures makes 15 GB of them with 17,500 templates
_REFINED = 4.0  # times as large as by px is the median gap of refined scores
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
    def started_for_picture(self) -> bool:
        """Whether it has learned nothing and will not, but begins otherwise with a set that is rich for the picture."""
        return isinstance(self.decoder, NearestAsSeen)

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
        steps = spec.fit_steps
        if steps and not isinstance(decoder, ResidualDecoder):
            asked = "--fit" if spec.fit else f"--effort {spec.effort}"
            raise SettingError(f"{asked} adapts residual decoders and {file} holds a {decoder.kind} decoder; leave {asked} out.")
        further = f", fitted to the source in {steps} steps" if steps else ""
        return Choice(decoder, f"{decoder.kind}, trained ({file}){further}", steps, False)
    steps = spec.fit_steps
    if not steps:
        return Choice(unfitted_decoder(templates, POOR), "residual, not fitted", 0, True)
    told = f"residual, fitted to the source in {steps} steps"
    return Choice(new_decoder("residual", torch.from_numpy(templates.at_cell_size()), fingerprint), told, steps, True)


def loss_network(weights: dict[str, torch.Tensor], device: torch.device, dtype: torch.dtype) -> VGG16:
    """VGG-16 up to conv5_1, for the loss, channels-last."""
    return VGG16("conv5_1").load(weights).to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]


def window_objective(vgg: VGG16, templates: TemplateSet, far_weight: float) -> Objective:
    """What fitting and refining minimise: Eq. 3 of windows out of a larger picture, and the far view."""
    small = torch.from_numpy(templates.at_cell_size()).to(next(vgg.parameters()).device)
    return Objective(MultiScaleLoss(vgg, edge="replicate"), small, far_weight)


@dataclass(frozen=True)
class Looks:
    """How the px of a set are compared with a cell's, and colours with those seen from afar.

    sharp, luma, chroma: see `NearestAsSeen`; squared errors of luma and chroma count so many times. far: weight of the far view.
    """

    sharp: float
    luma: float
    chroma: float
    far: float


RICH = Looks(0.5, 1.25, 0.75, 1.0)
"""Of sets that match what lies within a cell."""
POOR = Looks(0.0, 1.0, 1.0, 0.5)
"""Of sets that do not, which is why they are compared blurred."""


def unfitted_decoder(templates: TemplateSet, looks: Looks) -> Decoder:
    """The residual decoder where nothing was learned and nothing will be: it looks at px alone."""
    weights = torch.tensor([looks.luma, looks.chroma, looks.chroma]).sqrt()
    channels = weights[:, None] * torch.from_numpy(OPPONENT)
    return NearestAsSeen(torch.from_numpy(templates.at_cell_size()), templates.fingerprint, looks.sharp, channels)


@dataclass(frozen=True)
class Together:
    """What choosing cells together works with, beside candidates and scores; see `together`.

    values: (choices, 12) float32, see `far_values`. far: weight of the far view. unit: see `near_costs`.
    gap: see `choice_gap`. poses: choices to a template. repeats: see `repeat_prices`.
    """

    values: NDArray[np.float32]
    far: float
    unit: float
    gap: float
    poses: int
    repeats: float = REPEATS

    def refined(self, scores: Any, grid: CellGrid) -> "Together":
        """The same for refined scores (rows, columns, k).

        Their gaps are made `_REFINED` times as large, for they were found with care; but not for the price of repeats.
        """
        sample = np.concatenate([np.asarray(scores[box.slices]).reshape(-1, scores.shape[-1]) for box in judged_windows(grid.box)[0]])
        gap = choice_gap(sample[:: -(-len(sample) // _SAMPLED)], 1.0, len(self.values) // self.poses)
        return replace(self, unit=_REFINED * self.gap / gap, repeats=REPEATS / _REFINED) if gap else self


@torch.inference_mode()
def together_of(
    decoder: Decoder, norm: TrunkNorm | None, features: Any, analysis: Any, templates: TemplateSet, grid: CellGrid, looks: Looks
) -> Together:
    """The terms of this picture's objective, from a sample of its cells.

    Where scores are no distances, they are scaled to be like those of the nearest neighbours by px: the medians of the gaps to the
    tenth best are made equal.
    """
    k = min(RANK, len(templates))
    queries = _sampled(decoder, norm, grid, analysis, features)
    scores = best_k(queries, decoder.score(), len(templates), k)[1].cpu().numpy()
    unit = decoder.px_unit
    if unit is None:
        plain = NearestL2(torch.from_numpy(templates.at_cell_size()), "")
        by_px = best_k(_sampled(plain, None, grid, analysis, None), plain.score(), len(templates), k)[1].numpy()
        unit = float(np.median(by_px[:, 0] - by_px[:, -1]) / max(1e-6, float(np.median(scores[:, 0] - scores[:, -1]))))
    values = np.concatenate([far_values(block) for block in templates.blocks()])
    return Together(values, looks.far, unit, choice_gap(scores, unit, len(templates.names)), len(templates.poses))


_PREFERRED = 3.0  # gaps by which a template that is preferred may be worse than another and still be taken


def preferred_bonus(spec: RenderSpec, templates: TemplateSet, together: Together) -> NDArray[np.float32]:
    """(choices,) float32 to be added to the scores of templates that are preferred. Raises SettingError."""
    names = named(templates.names, read_names(spec.prefer, "preferred"))[0] if spec.prefer else frozenset()
    wanted = np.array([name in names for name in templates.names]).repeat(len(templates.poses))
    return wanted.astype(np.float32) * np.float32(_PREFERRED * together.gap * HALF_PX / together.unit)


def _sampled(decoder: Decoder, norm: TrunkNorm | None, grid: CellGrid, analysis: Any, features: Any) -> torch.Tensor:
    """(cells, D) queries of at most `_SAMPLED` cells, spread over the judged windows: they depend on the picture's size alone."""
    asked = torch.cat([box_queries(decoder, norm, grid.box, analysis, features, box) for box in judged_windows(grid.box)[0]])
    return asked[:: -(-len(asked) // _SAMPLED)]


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
