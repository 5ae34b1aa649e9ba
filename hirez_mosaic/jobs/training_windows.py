"""The windows that a training sees, and the pictures that it is judged by."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from hirez_mosaic.jobs.photos import Photos
from hirez_mosaic.nets.objective import Picture, window_of
from hirez_mosaic.nets.training import TrainingRecipe
from hirez_mosaic.nets.vgg import VGG16
from hirez_mosaic.pixels.geometry import CELL, Box
from hirez_mosaic.stages.encode import encode, second_moments, stored

_REUSE = 4  # steps that cut windows out of the same crops, where windows are smaller than crops
_JUDGED = 4  # pictures kept for judging


class TrainingWindows:
    """The windows to train on: parts of random crops of pictures.

    Crops are encoded whole. Several windows are cut out of each before the next ones are read.
    """

    def __init__(self, photos: Photos, encoder: VGG16, recipe: TrainingRecipe, seed: int) -> None:
        self._photos, self._encoder, self._recipe, self._seed = photos, encoder, recipe, seed
        kept = min(_JUDGED, max(1, len(photos.files) // 5)) if len(photos.files) > 1 else 0
        self._for_training, self._for_judging = range(kept, len(photos.files)), range(kept or 1)
        self._judged: list[Picture] = []

    def judged(self) -> list[Picture]:
        """The pictures that no step sees, unless there is only one picture."""
        if not self._judged:
            crops = [self._photos.ahead(range(number, number + 1), 2**31, 1) for number in self._for_judging]
            self._judged = [self._encoded(crop) for ready in crops for crop in ready()]
        return self._judged

    def since(self, step: int) -> Iterator[list[tuple[Picture, Box]]]:
        """The windows of this step, then of the next, and so on without end."""
        recipe = self._recipe
        reuse = _REUSE if recipe.window * CELL < self._photos.crop else 1
        group = step // reuse
        ready = self._photos.ahead(self._for_training, group, recipe.batch)
        while True:
            pictures = [self._encoded(crop) for crop in ready()]
            ready = self._photos.ahead(self._for_training, group + 1, recipe.batch)
            while step // reuse == group:
                rng = np.random.default_rng([self._seed, 2**30, step])
                yield [(picture, window_of(picture.box, recipe.window, rng)) for picture in pictures]
                step += 1
            group += 1

    def _encoded(self, crop: NDArray[np.uint8]) -> Picture:
        features = encode(self._encoder, crop)[0].permute(1, 2, 0)
        return Picture(crop, stored(features), torch.from_numpy(second_moments(features)))
