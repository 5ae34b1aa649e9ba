"""Pictures to train on: any folder of them, read in parallel, scaled and cropped at random but always the same for the
same seed.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hirez_mosaic.errors import SourceError, TrainingError
from hirez_mosaic.files.listing import walk
from hirez_mosaic.pixels.vips import fetch
from hirez_mosaic.sources import open_whole, reason, size_of

_SMALL = "is below"
_TRIES = 50  # pictures that may turn out damaged, one after another, before reading gives up


class Photos:
    """The pictures below a folder, as random crops.

    crop: side of a crop, px. A picture whose shorter side is less than half of it is left out, one below it is
        enlarged.
    jobs: threads that read. exclude: patterns of files that are left out.
    left_out: (name, reason) of what is no picture or too small. unreadable: those of them that are no pictures.
    Raises TrainingError when nothing is left.
    """

    def __init__(self, folder: Path, crop: int, seed: int, jobs: int, exclude: Sequence[str] = ()) -> None:
        if not folder.is_dir():
            what = "is a file; name the folder it is in" if folder.exists() else "is not there"
            raise TrainingError(f"The folder of pictures {folder} {what}.")
        self._crop, self._seed = crop, seed
        self._pool = ThreadPoolExecutor(jobs)
        self._damaged: set[Path] = set()
        self.left_out: list[tuple[str, str]] = []
        self.files: list[Path] = []
        found = sorted(folder / name for name in walk(folder, exclude))
        self.unreadable: list[tuple[str, str]] = []
        for file, refusal in zip(found, self._pool.map(self._refusal, found), strict=True):
            if refusal and not refusal.startswith(_SMALL):
                self.unreadable.append((file.relative_to(folder).as_posix(), refusal))
            if refusal:
                self.left_out.append((file.relative_to(folder).as_posix(), refusal))
            else:
                self.files.append(file)
        if not self.files:
            some = ": " + ", ".join(f"{name} ({reason})" for name, reason in self.left_out[:3]) if self.left_out else ""
            raise TrainingError(
                f"The folder of pictures {folder} holds no picture of at least {crop // 2} px a side among its {len(found)} files{some}."
            )

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def ahead(self, files: range, group: int, count: int) -> Callable[[], list[NDArray[np.uint8]]]:
        """Begin to read `count` crops out of the files of these numbers; gives what to call for them: (h, w, 3) uint8,
        multiples of 8 px.

        They depend on the seed and the group alone.
        """
        waiting = [self._pool.submit(self._read, files, group, member) for member in range(count)]
        return lambda: [one.result() for one in waiting]

    def _refusal(self, file: Path) -> str:
        """Why a file cannot be trained on; empty if it can."""
        try:
            width, height = size_of(file)
        except SourceError as error:
            return reason(error, file)
        return (
            f"{_SMALL} {self._crop // 2} px a side: {width} x {height} px"
            if min(width, height) < self._crop // 2
            else ""
        )

    def _read(self, files: range, group: int, member: int) -> NDArray[np.uint8]:
        rng = np.random.default_rng([self._seed, group, member])
        numbers = files
        for _ in range(_TRIES):
            file = self.files[numbers[int(rng.integers(len(numbers)))]]
            try:
                return self._random_crop(file, rng)
            except SourceError as error:  # damaged beyond its header: any other takes its place
                if file not in self._damaged:
                    self._damaged.add(file)
                    self.left_out.append((file.name, reason(error, file)))
                numbers = range(len(self.files))
        raise TrainingError(
            f"{_TRIES} pictures in a row cannot be read, {file} the last of them; remove what is damaged."
        )

    def _random_crop(self, file: Path, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Shrunk by a random factor, log-uniform down to where the crop just fits, and cropped at a random place."""
        size = size_of(file)
        shorter, longer = sorted(size)
        factor = (self._crop / shorter) ** rng.uniform(0, 1) if shorter > self._crop else self._crop / shorter
        side = max(self._crop, round(longer * factor))
        across, down = (max(1, round(length * side / longer)) for length in size)
        image = open_whole(file, (across, down)).thumbnail_image(side, height=side, size="both")
        mirrored = bool(rng.integers(2))
        height, width = (min(self._crop, length) // 8 * 8 for length in (image.height, image.width))
        top, left = (int(rng.integers(0, most + 1)) for most in (image.height - height, image.width - width))
        if mirrored:  # the place is that in the mirrored picture
            left = image.width - width - left
        pixels = fetch(image.crop(left, top, width, height), width, height)
        return np.ascontiguousarray(pixels[:, ::-1] if mirrored else pixels)
