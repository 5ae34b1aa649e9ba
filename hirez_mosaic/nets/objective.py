"""Fitting and training: a decoder moved under Eq. 3 and the far view, on windows of one analysis image or of many.

A step: draw windows, decode them to *coefficients* (Eq. 1: a softmax over the templates at the step's temperature), mix
the templates into a soft mosaic, compare it with the source, follow the gradient. As the temperature falls the soft
mosaic nears the hard one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hirez_mosaic.nets.decoders import CELL_VALUES, Decoder, LearnedDecoder, Score
from hirez_mosaic.nets.loss import Activations, MultiScaleLoss, means
from hirez_mosaic.nets.scoring import as_images, best_k, box_queries
from hirez_mosaic.pixels.array_types import Array
from hirez_mosaic.pixels.far_view import HALVES, OPPONENT, FarView
from hirez_mosaic.pixels.geometry import CELL, Box

_ALL = 32_768
"""Up to so many templates all of them share in a step's softmax; beyond, those that are among the best of some cell of
the window.
"""
_BEST = 16  # of a cell, then
_UNSEEN = 0.02  # of the far term, a cell: that of an even error of 3.6 levels of 255, which nobody sees


@dataclass(frozen=True)
class Picture:
    """What a decoder is trained on: the analysis image and what the encoder made of all of it.

    Arrays may lie on disk; they are read window by window.

    analysis: (8 rows, 8 columns, 3) uint8.
    features: (rows, columns, 256) floating point.
    moments: (257, 257) float64 second moments of all features, by which layer norm sees in training what it will see
        in a render.
    """

    analysis: Array
    features: Array
    moments: torch.Tensor

    @property
    def box(self) -> Box:
        """All cells."""
        return Box(0, self.features.shape[0], 0, self.features.shape[1])


@dataclass(frozen=True)
class Told:
    """One step's figures.

    loss: Eq. 3 of the soft mosaic.
    far: its far view.
    entropy: of the coefficients, nats, a mean over cells.
    distinct: number of different templates among each cell's best.
    """

    loss: float
    far: float
    entropy: float
    distinct: int


@dataclass(frozen=True)
class Wanted:
    """What mosaics of n windows are compared with.

    source: (n, 3, 8 rows, 8 columns) float32 in [0, 1].
    activations: see `MultiScaleLoss.activations`.
    by_halves: (n,) the far term where each cell takes what is nearest to it in the means of its half cells.
    """

    source: torch.Tensor
    activations: Activations
    by_halves: torch.Tensor


class Objective:
    """What is minimised: Eq. 3 + far_weight x far view of mosaics.

    The far view is that of `together`, so that fitting allows what choosing makes use of: a cell that is too dark
    beside one that is too light. Here it is a ratio, to what it is where each cell takes the template nearest to it in
    the means of its half cells. So the same weight does for emoji, of which none matches a cell, and for thousands of
    photos, of which some nearly do.

    templates: (N, 8, 8, 3) float32 in [0, 1].
    far_weight: 0 or more.
    """

    def __init__(self, loss: MultiScaleLoss, templates: torch.Tensor, far_weight: float) -> None:
        self.loss = loss
        self.templates = templates.flatten(1)
        self.far_weight = far_weight
        self._halves = self.templates.view(-1, 2, CELL // 2, 2, CELL // 2, 3).mean((2, 4)).flatten(1)
        self._halves_bias = -self._halves.square().sum(1)
        self._kernel = torch.from_numpy(FarView.of_weight(1.0).kernel)[:, None].to(templates.device)
        self._channels = torch.from_numpy(OPPONENT).to(templates.device)

    def on(self, device: torch.device) -> "Objective":
        """Return the same on a device; itself where it is there."""
        if self.templates.device == device:
            return self
        self.loss.vgg.to(device)
        return Objective(self.loss, self.templates.unflatten(1, (CELL, CELL, 3)).to(device), self.far_weight)

    def source_window(self, analysis: Array, box: Box) -> torch.Tensor:
        """Return the px of the cells `box`: (1, 3, 8 rows, 8 columns) float32 in [0, 1].

        analysis: (8 rows, 8 columns, 3) uint8, the whole picture's.
        """
        return as_images(analysis[box.scaled(CELL).slices], self.templates.device)

    @torch.no_grad()
    def wanted(self, source: torch.Tensor) -> Wanted:
        """Return what mosaics of a source are compared with.

        source: (n, 3, 8 rows, 8 columns) float32 in [0, 1].
        """
        halves = _half_means(source)
        nearest = best_k(2 * halves.flatten(0, 1), self._half_score, len(self._halves), 1)[0][:, 0]
        grid = Box(0, source.shape[2] // CELL, 0, source.shape[3] // CELL)
        return Wanted(
            source, self.loss.activations(source), self.far_energy(source, placed(self.templates[nearest], grid))
        )

    def terms(self, wanted: Wanted, mosaic: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return Eq. 3 and far view of mosaics; scalars, means over the n.

        mosaic: (n, 3, 8 rows, 8 columns) float32 in [0, 1].
        """
        far = self.far_energy(wanted.source, mosaic) / (wanted.by_halves + _UNSEEN)
        return self.loss.per_scale(wanted.activations, mosaic).mean(), far.mean()

    def far_energy(self, source: torch.Tensor, mosaic: torch.Tensor) -> torch.Tensor:
        """Return the (n,) far term of `together` of mosaics, a mean over cells.

        source, mosaic: (n, 3, 8 rows, 8 columns) float32 in [0, 1].
        """
        half = CELL // HALVES
        errors = torch.einsum("ij,njhw->nihw", self._channels, means(mosaic, half) - means(source, half))
        field = torch.nn.functional.conv2d(errors, self._kernel, padding="same", groups=3)
        return (errors * field).sum((1, 2, 3)) * (HALVES**2 / (errors.shape[2] * errors.shape[3]))

    def _half_score(self, queries: torch.Tensor, block: slice, out: torch.Tensor | None = None) -> torch.Tensor:
        return torch.addmm(self._halves_bias[block], queries, self._halves[block].T, out=out)

    def step(
        self,
        decoder: LearnedDecoder,
        windows: Sequence[tuple[Picture, Box]],
        inverse_temperature: float,
        share: float = 1.0,
    ) -> Told:
        """Add a gradient, a mean over windows, to the decoder's parameters; return the means of the figures.

        windows: boxes of cells of pictures, all of one size.
        inverse_temperature: of the softmax, more than 0.
        share: of the gradient that is added.
        """
        queries = [self.queries(decoder, picture, box) for picture, box in windows]
        active, templates = None, self.templates
        if decoder.template_count > _ALL and decoder.scores_apart:
            with torch.no_grad():
                active = best_k(torch.cat(queries), decoder.score(), decoder.template_count, _BEST)[0].unique()
            templates = self.templates[active]
        logits = torch.cat([decoder.logits(asked, active) for asked in queries])
        log = torch.log_softmax(inverse_temperature * logits, 1)
        coefficients = log.exp()
        wanted = self.wanted(torch.cat([self.source_window(picture.analysis, box) for picture, box in windows]))
        loss, far = self.terms(wanted, placed(coefficients @ templates, windows[0][1]))
        (share * (loss + self.far_weight * far)).backward()
        with torch.no_grad():
            entropy = -(coefficients * log).sum(1).mean()
            best = logits.argmax(1).view(len(windows), -1)
            return Told(
                loss.item(), far.item(), entropy.item(), round(sum(len(one.unique()) for one in best) / len(windows))
            )

    @torch.no_grad()
    def hard(self, decoder: Decoder, pictures: Sequence[Picture], boxes: Sequence[Box]) -> tuple[float, int]:
        """Return the mean of Eq. 3 + far_weight x far view of hard mosaics, and the number of different templates.

        pictures, boxes: the windows, a box of cells of each picture.
        """
        values, used, score = [], set(), decoder.score()
        for picture, box in zip(pictures, boxes, strict=True):
            chosen, mosaic = self.hard_mosaic(decoder, score, picture, box)
            loss, far = self.terms(self.wanted(self.source_window(picture.analysis, box)), mosaic)
            values.append((loss + self.far_weight * far).item())
            used.update(chosen.tolist())
        return sum(values) / len(values), len(used)

    def hard_mosaic(
        self, decoder: Decoder, score: Score, picture: Picture, box: Box
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each cell's best template, (cells,) int64, and their mosaic, (1, 3, 8 rows, 8 columns) in [0, 1].

        score: the decoder's `score()`.
        box: the window, cells.
        """
        chosen = best_k(self.queries(decoder, picture, box), score, decoder.template_count, 1)[0][:, 0]
        return chosen, placed(self.templates[chosen], box)

    @staticmethod
    def queries(decoder: Decoder, picture: Picture, box: Box) -> torch.Tensor:
        """Return the (cells, D) queries of a window as a render makes them.

        They are made with a halo of one cell, and with the whole picture's layer norm.
        """
        norm = decoder.trunk_norm(picture.moments)
        return box_queries(decoder, norm, picture.box, box, analysis=picture.analysis, features=picture.features)


def window_of(bounds: Box, side: int, rng: np.random.Generator) -> Box:
    """Return a window at a random place.

    bounds: all cells.
    side: of the window, cells, at most.
    """
    height, width = min(side, bounds.height), min(side, bounds.width)
    top, left = (int(rng.integers(0, most + 1)) for most in (bounds.height - height, bounds.width - width))
    return Box(top, top + height, left, left + width)


def _half_means(images: torch.Tensor) -> torch.Tensor:
    """Return the means of each cell's four half cells: (n, rows x columns, 12), row-major.

    images: (n, 3, 8 rows, 8 columns).
    """
    grid = means(images, CELL // 2).unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # (n, 3, rows, 2, columns, 2)
    return grid.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def placed(cells: torch.Tensor, box: Box) -> torch.Tensor:
    """Return cells as images: (n, 3, 8 rows, 8 columns), channels-last in memory.

    cells: (n x rows x columns, 192) px of the cells of n boxes, row-major.
    box: one of the boxes, whose size is that of all.
    """
    grid = cells.view(-1, box.height, box.width, CELL, CELL, 3)
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(-1, box.height * CELL, box.width * CELL, 3).permute(0, 3, 1, 2)


def objective_bytes(templates: int) -> int:
    """Return the bytes that an `Objective` of so many templates holds: px and half cells."""
    return 4 * (CELL_VALUES + 2 * 2 * 3 + 1) * templates


def step_bytes(rows: int, columns: int, itemsize: int) -> int:
    """Return the bytes that Eq. 3 of a window and its gradient hold at most: activations and taps at every scale.

    rows, columns: of the window, cells.
    itemsize: bytes of one activation.
    """
    kept = 128 + 256 / 4 + 768 / 16 + 1536 / 64 + 512 / 256  # values per px: conv1_1 to conv5_1
    taps = 64 + 128 / 4 + 256 / 16 + 512 / 64 + 512 / 256
    positions = 8 * (64 / 4 + 128 / 16 + 256 / 64 + 512 / 256)  # int64, of the pools' maxima
    weights = 2 * 14_714_688  # of VGG-16's convolutions, as they are and as oneDNN reorders them
    return (
        int(rows * columns * CELL**2 * 4 / 3 * ((kept + 4 * taps + 2 * 64) * itemsize + positions)) + weights * itemsize
    )


def projected_bytes(rows: int, columns: int, itemsize: int, templates: int) -> int:
    """Return the bytes that fitting holds at most: a step's, the logits' and their gradients', the decoder's, Adam's.

    rows, columns: of a window, cells.
    itemsize: bytes of one activation.
    templates: their number.
    """
    return (
        step_bytes(rows, columns, itemsize)
        + 5 * 4 * rows * columns * min(templates, _ALL)
        + 8 * 4 * CELL_VALUES * templates
    )
