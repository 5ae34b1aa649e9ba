"""The log of a training: log.csv, a line a step, and TensorBoard's events where it is installed."""

import csv
from pathlib import Path
from typing import Any, Self

from hirez_mosaic.files.fresh import fresh
from hirez_mosaic.nets.objective import Told

_HEAD = ("step", "loss", "far view", "inverse temperature", "entropy", "distinct", "hard loss", "hard distinct")


class TrainingLog:
    """An open log. Lines that a killed run wrote after its last checkpoint are dropped.

    folder: where log.csv and the folder tensorboard lie.
    step: the step from which the training goes on.
    """

    def __init__(self, folder: Path, step: int) -> None:
        path = folder / "log.csv"
        kept = _lines_until(path, step) if step and path.exists() else []
        with fresh(path) as made, made.open("w", newline="") as file:
            csv.writer(file).writerows([_HEAD, *kept])
        self._file = path.open("a", newline="")
        self._csv = csv.writer(self._file)
        self._board = _tensorboard(folder / "tensorboard", step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()

    def write(self, step: int, figures: Told, inverse_temperature: float, hard: tuple[float, int] | None) -> None:
        """Add the line of a step.

        hard: (hard loss, distinct templates) on the pictures kept for judging; None where it was not computed.
        """
        values = (figures.loss, figures.far, inverse_temperature, figures.entropy, figures.distinct)
        cells = (*values, *(hard or ("", "")))
        self._csv.writerow([step, *cells])
        self._file.flush()
        if self._board is not None:
            for name, value in zip(_HEAD[1:], cells, strict=True):
                if value != "":
                    self._board.add_scalar(name, value, step)


def _lines_until(path: Path, step: int) -> list[list[str]]:
    """The lines of a log up to a step, without the head."""
    with path.open(newline="") as file:
        return [row for row in list(csv.reader(file))[1:] if row and int(row[0]) <= step]


def _tensorboard(folder: Path, step: int) -> Any:
    """What writes TensorBoard's events; None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
