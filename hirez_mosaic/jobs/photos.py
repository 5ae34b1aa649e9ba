"""Pictures to train on: any folder of them, read in parallel, scaled and cropped at random.

The same seed gives the same crops.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hirez_mosaic.errors import SourceError, TrainingError
from hirez_mosaic.files.listing import walk
from hirez_mosaic.pixels.vips import fetch
from hirez_mosaic.settings.places import check_there
from hirez_mosaic.sources import open_whole, reason, size_of

_TOO_SMALL = "is below"  # the beginning of the reason why a small picture is left out
_TRIES = 50  # damaged pictures in a row after which reading gives up


class Photos:
    """The pictures below a folder, as random crops.

    folder: where the pictures are; subfolders count.
    crop: side of a crop, px. A picture whose shorter side is below half of it is left out; one whose shorter side is
        below it is enlarged.
    seed: of all that is random.
    jobs: threads that read.
    exclude: patterns of files to leave out.
    files: the pictures that can be trained on, sorted.
    left_out: (name, reason) of each file that is no picture or too small.
    unreadable: those of them that are no pictures.

    Raises TrainingError where the folder is not there or no picture is left.
    """

    def __init__(self, folder: Path, crop: int, seed: int, jobs: int, exclude: Sequence[str] = ()) -> None:
        check_there(folder, "folder of pictures", TrainingError)
        if not folder.is_dir():
            raise TrainingError(f"The folder of pictures {folder} is a file; name the folder it is in.")
        self.crop, self._seed = crop, seed
        self._pool = ThreadPoolExecutor(jobs)
        self._damaged: set[Path] = set()
        found = sorted(folder / name for name in walk(folder, exclude))
        refusals = list(zip(found, self._pool.map(self._refusal, found), strict=True))
        self.files = [file for file, refusal in refusals if not refusal]
        self.left_out = [(file.relative_to(folder).as_posix(), refusal) for file, refusal in refusals if refusal]
        self.unreadable = [(name, refusal) for name, refusal in self.left_out if not refusal.startswith(_TOO_SMALL)]
        if not self.files:
            some = ": " + ", ".join(f"{name} ({why})" for name, why in self.left_out[:3]) if self.left_out else ""
            raise TrainingError(
                f"The folder of pictures {folder} holds no picture of at least {crop // 2} px a side among its "
                f"{len(found)} files{some}."
            )

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def ahead(self, files: range, group: int, count: int) -> Callable[[], list[NDArray[np.uint8]]]:
        """Begin to read `count` crops; returns a function that waits for them.

        files: numbers of the files to take crops from.
        group: number of the group of crops. The crops depend on the seed and on this number alone.
        The function returns arrays (h, w, 3) uint8, whose sides are multiples of 8 px.
        """
        waiting = [self._pool.submit(self._read, files, group, member) for member in range(count)]
        return lambda: [one.result() for one in waiting]

    def _refusal(self, file: Path) -> str:
        """Why a file cannot be trained on; empty if it can."""
        try:
            width, height = size_of(file)
        except SourceError as error:
            return reason(error, file)
        least = self.crop // 2
        return f"{_TOO_SMALL} {least} px a side: {width} x {height} px" if min(width, height) < least else ""

    def _read(self, files: range, group: int, member: int) -> NDArray[np.uint8]:
        rng = np.random.default_rng([self._seed, group, member])
        numbers = files
        for _ in range(_TRIES):
            file = self.files[numbers[int(rng.integers(len(numbers)))]]
            try:
                return self._random_crop(file, rng)
            except SourceError as error:  # it is damaged behind its header, and any other picture takes its place
                if file not in self._damaged:
                    self._damaged.add(file)
                    self.left_out.append((file.name, reason(error, file)))
                numbers = range(len(self.files))
        raise TrainingError(
            f"{_TRIES} pictures in a row cannot be read, {file} the last of them; remove what is damaged."
        )

    def _random_crop(self, file: Path, rng: np.random.Generator) -> NDArray[np.uint8]:
        """A crop at a random place of the picture, which is shrunk by a random factor first.

        The factor is log-uniform, down to where the crop just fits.
        """
        size = size_of(file)
        shorter, longer = sorted(size)
        factor = (self.crop / shorter) ** rng.uniform(0, 1) if shorter > self.crop else self.crop / shorter
        side = max(self.crop, round(longer * factor))
        across, down = (max(1, round(length * side / longer)) for length in size)
        image = open_whole(file, (across, down)).thumbnail_image(side, height=side, size="both")
        mirrored = bool(rng.integers(2))
        height, width = (min(self.crop, length) // 8 * 8 for length in (image.height, image.width))
        top, left = (int(rng.integers(0, most + 1)) for most in (image.height - height, image.width - width))
        if mirrored:  # the place is that in the mirrored picture
            left = image.width - width - left
        pixels = fetch(image.crop(left, top, width, height), width, height)
        return np.ascontiguousarray(pixels[:, ::-1] if mirrored else pixels)
