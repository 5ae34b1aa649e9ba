"""Private names, and what is left under them by those who are no more."""

import errno
import os
import time
from pathlib import Path

import psutil
import pytest

from hirez_mosaic.files import fresh as module
from hirez_mosaic.files.fresh import HERE, fresh, private

GONE = 2**22 + 1  # no system gives a process such a number


def left(folder: Path, host: str, process: int, age: float, *, inside: float | None = None) -> Path:
    """What a process left `age` seconds ago under a private name of m.tif; a folder with a file of age `inside`."""
    made = folder / f".{host}-{process}-0123abcd.m.tif"
    made.mkdir()
    (made / "m.tif").touch()
    for path, seconds in ((made / "m.tif", age if inside is None else inside), (made, age)):
        os.utime(path, (time.time() - seconds,) * 2)
    return made


DAY = 24 * 3600
ABANDONED = [(HERE, GONE, 0.0), (HERE, os.getpid(), 30 * DAY), ("other-host", 1, 8 * DAY)]
KEPT = [(HERE, os.getpid(), 0.0), ("other-host", GONE, 6 * DAY)]


@pytest.mark.parametrize(("host", "process", "age"), ABANDONED, ids=range(len(ABANDONED)))
def test_what_was_abandoned_is_removed(host: str, process: int, age: float, tmp_path: Path) -> None:
    made = left(tmp_path, host, process, age + time.time() - psutil.boot_time() if process == os.getpid() else age)
    private(tmp_path / "m.tif")
    assert not made.exists()


@pytest.mark.parametrize(("host", "process", "age"), KEPT, ids=range(len(KEPT)))
def test_what_somebody_may_still_write_stays(host: str, process: int, age: float, tmp_path: Path) -> None:
    made = left(tmp_path, host, process, age)
    other = tmp_path / f".{HERE}-{GONE}-0123abcd.other.tif"
    mine = tmp_path / ".mine-1-2.m.tif"  # like ours, and is not
    for path in (other, mine):
        path.touch()
        os.utime(path, (0, 0))
    private(tmp_path / "m.tif")
    assert made.exists()
    assert other.exists()
    assert mine.exists()


def test_a_folder_whose_file_is_being_written_stays(tmp_path: Path) -> None:
    made = left(tmp_path, "other-host", 1, 30 * DAY, inside=60)
    private(tmp_path / "m.tif")
    assert made.exists()


def test_a_file_is_on_the_disk_before_it_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Path) -> None:
        assert not (tmp_path / "a").exists()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "flush", full)
    with pytest.raises(OSError, match="No space left"), fresh(tmp_path / "a") as made:
        made.write_text("half")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", [121, 223, 243, 255])
def test_a_long_name_is_written_and_what_was_left_of_it_removed(tmp_path: Path, length: int) -> None:
    name = "x" * (length - 4) + ".png"
    with fresh(tmp_path / name) as made:
        made.write_text("whole")
        assert made.suffix == ".png"
    assert [path.name for path in tmp_path.iterdir()] == [name]
