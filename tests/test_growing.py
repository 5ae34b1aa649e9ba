"""Reading an array while it is being made."""

from concurrent.futures import Future, ThreadPoolExecutor, wait
from fractions import Fraction

import numpy as np
import pytest
import torch
import zarr

from hirez_mosaic.engine.graph import StageRun
from hirez_mosaic.engine.threads import Threads
from hirez_mosaic.pixels.geometry import Box, CellGrid
from hirez_mosaic.stages.growing import Growing, StoppedError

CHUNKS = [Box(top, top + 4, left, left + 4) for top in (0, 4, 8) for left in (0, 4)]


def growing(missing: list[Box]) -> Growing:
    array = zarr.create_array({}, shape=(12, 8), chunks=(4, 4), dtype="u4")
    array[:] = np.arange(96).reshape(12, 8)
    return Growing(array, missing)


def waits(rows: Growing, asked: slice) -> Future[np.ndarray]:
    """The answer to whoever asks for these rows, who has to wait."""
    pool = ThreadPoolExecutor(1)
    asking = pool.submit(lambda: rows[asked])
    pool.shutdown(wait=False)
    assert not wait([asking], timeout=0.1).done
    return asking


def test_rows_that_are_there_are_read_at_once() -> None:
    rows = growing(CHUNKS[2:])
    assert (rows[0:4] == np.arange(32).reshape(4, 8)).all()
    assert (rows.shape, rows.chunks) == ((12, 8), (4, 4))


def test_a_reader_waits_for_every_chunk_of_its_rows() -> None:
    rows = growing(CHUNKS[1:])
    asking = waits(rows, slice(0, 4))
    rows.add(CHUNKS[4])
    rows.add(CHUNKS[1])
    assert asking.result(timeout=10)[3, 7] == 31
    assert rows.waited >= 0.1


def test_chunks_that_nobody_told_of_are_there_at_the_end() -> None:
    rows = growing(CHUNKS)
    asking = waits(rows, slice(8, 12))
    rows.finish()
    assert asking.result(timeout=10)[3, 7] == 95


def test_a_reader_that_waits_or_comes_later_hears_that_there_will_be_no_more() -> None:
    rows = growing(CHUNKS[1:])
    rows.check()
    asking = waits(rows, slice(0, 4))
    rows.stop()
    with pytest.raises(StoppedError):
        asking.result(timeout=10)
    with pytest.raises(StoppedError):
        rows[0:1]
    with pytest.raises(StoppedError):
        rows.check()


class Unmarked:
    """Marks of a stage nothing of which is kept."""

    chunk = (1, 1)

    def all(self) -> np.ndarray:
        return np.zeros((12, 11), np.bool_)

    def has(self, box: Box) -> bool:
        return False

    def set(self, box: Box) -> None:
        pass


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_chunks_are_made_from_the_top(workers: int) -> None:
    made: list[Box] = []
    grid = CellGrid(12, 11, (8, 8), Fraction(1))
    stages = [StageRun(name, lambda device: lambda box: None, grid, Unmarked()) for name in ("decode", "select")]  # type: ignore[arg-type]
    heard = lambda name, box, seconds: made.append(box) if name == "select" else None  # noqa: E731
    Threads(torch.device("cpu"), workers).run(stages, workers, "", heard, print)
    assert len(made) == 132
    assert all(abs(number - (box.top * 11 + box.left)) <= 3 * workers for number, box in enumerate(made)), (
        "the first rows come first"
    )
