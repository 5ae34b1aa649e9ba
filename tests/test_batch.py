"""A folder of pictures: each gets the mosaic that `render` makes, whatever happens to the others and however often it
is broken off.
"""

import errno
import json
import logging
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import tifffile
import zarr
from click.testing import CliRunner, Result
from conftest import photo, png_claiming, save

from hirez_mosaic.cli.main import main
from hirez_mosaic.engine.store import bytes_below
from hirez_mosaic.errors import OutputError, OutputExistsError, SettingError, SourceNotFoundError
from hirez_mosaic.files.fresh import remove
from hirez_mosaic.jobs import batch_records, batch_run, clock, disk, plan
from hirez_mosaic.jobs import render as rendering
from hirez_mosaic.jobs.batch import batch
from hirez_mosaic.jobs.batch_result import BatchResult
from hirez_mosaic.jobs.batch_run import BatchListener
from hirez_mosaic.jobs.journal import Journal, digest, open_journal
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.jobs.render import render
from hirez_mosaic.pixels.geometry import Box
from hirez_mosaic.settings.formats import NAMES
from hirez_mosaic.sources.folder import list_pictures, stems_of_mosaics
from hirez_mosaic.stages import decode as decoding
from hirez_mosaic.stages import encode as encoding
from hirez_mosaic.stages import ingest as ingesting

pytestmark = pytest.mark.usefixtures("own_cache", "with_random_weights")
PLAIN: dict[str, Any] = {
    "tile": 8,
    "decoder": "paper",
    "fit": 0,  # which looks at features
    "device": "cpu",
    "precision": "float32",
}
BROKEN = ("broken.jpg", "empty.png", "bomb.png", "nothing.zarr", "truncated.tif", "gone.webp")
Call = Callable[..., BatchResult]


def mixed(folder: Path) -> None:
    """Eight pictures of every kind, six broken ones, three files that are none, and a hidden one."""
    (folder / "sub" / "deep").mkdir(parents=True)
    save(folder / "rgb.png", photo(64, 80))
    save(folder / "sub" / "grey.jpg", photo(70, 50, 1)[..., :1])
    tifffile.imwrite(
        folder / "sub" / "deep" / "sixteen.tif",
        photo(64, 64, 2).astype(np.uint16) * 257,
        tile=(32, 32),
        photometric="rgb",
    )
    image = pyvips.Image.new_from_array(photo(56, 72, 3)).copy(interpretation="srgb")
    image.bandjoin(128).copy(interpretation="srgb").write_to_file(str(folder / "alpha.png"))
    image.icc_transform("cmyk", input_profile="srgb").tiffsave(str(folder / "cmyk.tif"))
    turned = image.copy()
    turned.set_type(pyvips.GValue.gint_type, "orientation", 6)
    turned.jpegsave(str(folder / "turned"))  # no suffix
    image.webpsave(str(folder / "sub" / "picture.txt"))  # another's
    array = zarr.create_array(folder / "array.zarr", shape=(48, 64, 3), chunks=(16, 16, 3), dtype="u1")
    array[:] = photo(48, 64, 4)
    whole = (folder / "sub" / "grey.jpg").read_bytes()
    (folder / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").touch()
    png_claiming(folder / "bomb.png", 2_000_000, 2_000_000)
    (folder / "nothing.zarr").mkdir()
    tiff = (folder / "sub" / "deep" / "sixteen.tif").read_bytes()
    (folder / "truncated.tif").write_bytes(tiff[: len(tiff) // 2])
    (folder / "gone.webp").symlink_to("nowhere.webp")
    (folder / "notes.txt").write_text("no picture")
    (folder / "table.csv").write_text("1,2\n3,4\n")
    (folder / "sub" / "script.py").write_text("print()")
    (folder / ".hidden.png").write_bytes((folder / "rgb.png").read_bytes())
    (folder / "loop").symlink_to(folder)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three pictures of 10 x 8 cells."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate("abc"):
        save(folder / f"{name}.png", photo(64, 80, number))
    return folder


@pytest.fixture
def call(pictures: Path, tmp_path: Path, make_templates: Callable[[int], Path]) -> Call:
    """Makes the mosaics of `pictures` in out/."""
    templates = make_templates(9)

    def run(folder: Path = pictures, output: Path = tmp_path / "out", **settings: Any) -> BatchResult:
        return batch(folder, templates, output, **{**PLAIN, **settings})

    return run


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Seeds a list with an entry for each chunk that is encoded."""
    made: list[int] = []
    encode = encoding.encode_chunk
    monkeypatch.setattr(encoding, "encode_chunk", lambda box, **given: (encode(box, **given), made.append(1)))
    return made


def files(folder: Path) -> dict[str, bytes]:
    """All files but the report and the journal."""
    found = (
        path
        for path in folder.rglob("*")
        if path.is_file() and path.name != "report.json" and ".hirez-mosaic" not in path.parts
    )
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(found)}


def statuses(result: BatchResult) -> dict[str, str]:
    return {one.source: one.status for one in result.pictures}


def test_every_picture_becomes_the_mosaic_that_render_makes_and_the_others_are_named(
    call: Call, tmp_path: Path
) -> None:
    folder = tmp_path / "mixed"
    mixed(folder)
    result = call(folder, folder / "out", recursive=True)  # inside, and not eaten
    assert result.counts == {"made": 8, "unchanged": 0, "failed": 6, "left out": 3}
    assert set(result.left_out) == {"notes.txt", "table.csv", "sub/script.py"}
    told = {one.source: one for one in result.pictures}
    assert {one.source for one in result.pictures if one.error} == set(BROKEN)
    for name in BROKEN:
        assert name in str(told[name].error)
        assert "unexpected" not in str(told[name].error)
    made = [one for one in result.pictures if one.status == "made"]
    assert set(files(folder / "out")) == {one.output for one in made}
    for one in made:
        single = render(
            folder / one.source, tmp_path / "templates-9", output=tmp_path / "single.tif", overwrite=True, **PLAIN
        )
        assert (folder / "out" / one.output).read_bytes() == (tmp_path / "single.tif").read_bytes(), one.source
        assert (one.source_size, one.size, one.cells) == (single.source_size, single.size, single.cells)
        assert one.bytes == (tmp_path / "single.tif").stat().st_size
        assert one.sha256 == digest("sha256", tmp_path / "single.tif")
    assert told["turned"].source_size == (56, 72)
    report = json.loads((folder / "out" / "report.json").read_text())
    assert report["counts"] == result.counts
    assert [one["sha256"] for one in report["pictures"]] == [one.sha256 for one in result.pictures]
    assert [path.name for path in (folder / "out").glob(".*")] == [".hirez-mosaic"], "a workspace was left"
    assert call(folder, folder / "out", recursive=True).counts == {
        "made": 0,
        "unchanged": 8,
        "failed": 6,
        "left out": 3,
    }
    shutil.move(folder / "out", tmp_path / "one at a time")
    assert call(folder, folder / "out", recursive=True, jobs=3).counts == result.counts
    assert files(folder / "out") == files(tmp_path / "one at a time")


def test_fits_are_those_of_single_renders(
    call: Call, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fit trains its decoder in place, and yet changes none that the next picture starts from."""
    how = {**PLAIN, "decoder": "residual", "fit": 1}
    render(pictures / "c.png", tmp_path / "templates-9", output=tmp_path / "c.tif", workspace=tmp_path / "work", **how)
    fitted = {"fit": 2, "decoder": tmp_path / "work" / "decoder.safetensors"}
    call(**fitted, glob="[ab]*", preview=True, tile_map="csv")
    monkeypatch.setenv("HIREZ_MOSAIC_CACHE", str(tmp_path / "another"))
    single = {"output": tmp_path / "x.tif", "preview": tmp_path / "x.jpg", "tile_map": tmp_path / "x.csv"}
    render(pictures / "b.png", tmp_path / "templates-9", **{**PLAIN, **fitted, **single})
    for made, wanted in (("b.tif", "x.tif"), ("b.preview.jpg", "x.jpg"), ("b.csv", "x.csv")):
        assert (tmp_path / "out" / made).read_bytes() == (tmp_path / wanted).read_bytes(), made


# Run again


def test_only_what_changed_by_content_is_made_again(
    call: Call, pictures: Path, tmp_path: Path, encoded: list[int]
) -> None:
    call()
    assert len(encoded) == 3
    first = files(tmp_path / "out")
    os.utime(pictures / "b.png", (1, 1))
    assert statuses(call()) == dict.fromkeys(("a.png", "b.png", "c.png"), "unchanged")
    assert len(encoded) == 3, "something was made again"
    before = (pictures / "b.png").stat()
    save(pictures / "b.png", photo(64, 80, 9))
    os.utime(pictures / "b.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert statuses(call()) == {"a.png": "unchanged", "b.png": "made", "c.png": "unchanged"}
    second = files(tmp_path / "out")
    assert {name for name in first if first[name] != second[name]} == {"b.tif"}


def test_an_output_that_is_gone_or_edited_is_made_again_and_a_touched_one_is_not(
    call: Call, tmp_path: Path, encoded: list[int]
) -> None:
    call(preview=True)
    first = files(tmp_path / "out")
    (tmp_path / "out" / "a.tif").unlink()
    edited = tmp_path / "out" / "b.tif"
    edited.write_bytes(edited.read_bytes()[:-1] + b"x")
    os.utime(tmp_path / "out" / "c.tif", (1, 1))
    assert statuses(call(preview=True)) == {"a.png": "made", "b.png": "made", "c.png": "unchanged"}
    (tmp_path / "out" / "c.preview.jpg").unlink()
    assert statuses(call(preview=True)) == {"a.png": "unchanged", "b.png": "unchanged", "c.png": "made"}
    assert files(tmp_path / "out") == first


@pytest.mark.parametrize(
    "changed",
    [{"quality": 50}, {"tint": 0.5}, {"columns": 5}, {"background": "black"}, {"decoder": "l2"}, {"mirror": True}],
    ids=str,
)
def test_other_settings_make_all_again(changed: dict[str, Any], call: Call, tmp_path: Path) -> None:
    call(glob="a*")
    assert call(glob="a*", **changed).counts["made"] == 1
    assert call(glob="a*", **changed).counts["unchanged"] == 1


def test_what_cannot_change_a_mosaic_changes_nothing(call: Call, tmp_path: Path) -> None:
    call()
    result = call(chunk=4, memory="4GiB", jobs=2, workspace=tmp_path / "work")
    assert result.counts["unchanged"] == 3
    assert call(overwrite=True).counts["made"] == 3


def test_a_failure_is_tried_again(call: Call, pictures: Path) -> None:
    whole = (pictures / "b.png").read_bytes()
    (pictures / "b.png").write_bytes(whole[:2000])
    assert statuses(call()) == {"a.png": "made", "b.png": "failed", "c.png": "made"}
    (pictures / "b.png").write_bytes(whole)
    assert statuses(call()) == {"a.png": "unchanged", "b.png": "made", "c.png": "unchanged"}


def test_a_file_that_no_batch_made_is_left_alone(call: Call, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.tif").write_text("mine")
    result = call()
    assert statuses(result)["b.png"] == "failed"
    assert "is there already; use `overwrite`" in str(result.pictures[1].error)
    assert call().pictures[1].status == "failed"
    assert (tmp_path / "out" / "b.tif").read_text() == "mine"
    assert call(overwrite=True).counts["made"] == 3


def test_a_report_that_no_batch_wrote_is_left_alone(call: Call, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"report\.json is there already"):
        call()
    assert (tmp_path / "out" / "report.json").read_text() == "mine"
    assert files(tmp_path / "out") == {}


def test_a_line_of_the_journal_that_was_broken_off_does_not_count(call: Call, tmp_path: Path) -> None:
    call()
    file = tmp_path / "out" / ".hirez-mosaic" / "journal.jsonl"
    file.write_bytes(file.read_bytes()[:-40])
    assert statuses(call()) == {"a.png": "unchanged", "b.png": "unchanged", "c.png": "made"}
    assert call().counts["unchanged"] == 3
    assert Journal(file).owns("c.tif")


# Names


def test_names_that_collide_are_kept_whole(tmp_path: Path) -> None:
    def stems(*names: str, endings: tuple[str, ...] = (".tif",)) -> list[str]:
        return [
            stem.as_posix()
            for stem in stems_of_mosaics([Path(name) for name in names], endings, taken=("report.json",)).values()
        ]

    assert stems("a.jpg", "b.jpg", "x/a.jpg") == ["a", "b", "x/a"]
    assert stems("a.jpg", "a.png", "A.webp") == ["a.jpg", "a.png", "A.webp"]
    assert stems("a.jpg", "a.png", "a.jpg.png") == ["a.jpg", "a.png", "a.jpg.png"]
    assert stems("caf\u00e9.jpg", "cafe\u0301.png") == ["caf\u00e9.jpg", "cafe\u0301.png"]
    assert stems("b.jpg", "b.tif/c.png") == ["b.jpg", "b.tif/c.png"], "b.tif would be a file and a folder"
    assert stems("a.png", "a_files/b.png", endings=(".dzi", "_files")) == ["a.png", "a_files/b.png"]
    assert stems("a.png", "a.preview.png", endings=(".jpg", ".preview.jpg")) == ["a.png", "a.preview.png"]
    assert stems("report.png", endings=(".tif", ".json")) == ["report.png"]
    with pytest.raises(
        SettingError,
        match=r"The mosaics of A\.tif and a\.tif would have the same name on some file systems; rename one",
    ):
        stems("A.tif", "a.tif")


def test_collisions_are_refused_before_the_start(pictures: Path, call: Call, tmp_path: Path) -> None:
    save(pictures / "a.jpg", photo(64, 80))
    assert {one.output for one in call().pictures} == {"a.jpg.tif", "a.png.tif", "b.tif", "c.tif"}
    shutil.copy(pictures / "b.png", pictures / "B.png")
    if len(list(pictures.iterdir())) == 5:  # else this file system takes them for the same
        with pytest.raises(SettingError, match=r"B\.png and b\.png"):
            call(output=tmp_path / "other")
        assert not (tmp_path / "other").exists()


def test_what_is_listed(tmp_path: Path) -> None:
    mixed(tmp_path)
    (tmp_path / "readable.zarr").symlink_to("array.zarr")
    os.mkfifo(tmp_path / "pipe.png")
    flat = {path.name for path in list_pictures(tmp_path, "*", recursive=False, without=()).pictures}
    assert flat == {"rgb.png", "alpha.png", "cmyk.tif", "turned", "array.zarr", *BROKEN}
    deep = list_pictures(tmp_path, "*", recursive=True, without={tmp_path / "sub" / "deep"})
    assert {path.as_posix() for path in deep.pictures} == flat | {"sub/grey.jpg", "sub/picture.txt"}
    assert list(deep.pictures) == sorted(deep.pictures)
    assert [path.name for path in list_pictures(tmp_path, "*.jpg", recursive=True, without=()).pictures] == [
        "broken.jpg",
        "grey.jpg",
    ]
    assert [path.name for path in list_pictures(tmp_path, "sub/*.jpg", recursive=True, without=()).pictures] == [
        "grey.jpg"
    ]


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"folder": Path("none")}, SourceNotFoundError, "There is no folder none"),
        ({"output": Path("photos")}, SettingError, "would lie among the pictures in photos; name another"),
        ({"output": Path()}, SettingError, "would lie among the pictures"),
        ({"output": Path("photos/a.png")}, OutputExistsError, "is a file; name a folder"),
        ({"output": Path("templates-9/out")}, SettingError, "would lie among the templates"),
        (
            {"glob": "*.tif"},
            SourceNotFoundError,
            r"holds no pictures that match \*\.tif; use another `glob`, or `recursive`",
        ),
        ({"format": "bmp"}, SettingError, "The format is 'bmp'; use one of tif, dzi"),
        ({"tile_map": "xls"}, SettingError, "The tile map is 'xls'; use one of csv, json"),
        ({"jobs": 0}, SettingError, "The number of jobs is 0; use 1 or more"),
        ({"quality": 0}, SettingError, "The quality is 0"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_wrong_settings_are_refused_before_the_start(
    settings: dict[str, Any],
    kind: type[Exception],
    message: str,
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=message):
        call(**settings)
    assert not list(tmp_path.rglob(".hirez-mosaic"))


def test_templates_may_lie_among_the_pictures_or_be_the_pictures(pictures: Path, tmp_path: Path, call: Call) -> None:
    shutil.copytree(tmp_path / "templates-9", pictures / "templates")
    result = batch(
        pictures, pictures / "templates", pictures / "out", recursive=True, workspace=pictures / "work", **PLAIN
    )
    assert len(result.pictures) == 3
    result = batch(
        pictures, pictures / "templates", pictures / "out", recursive=True, workspace=pictures / "work", **PLAIN
    )
    assert statuses(result) == dict.fromkeys(("a.png", "b.png", "c.png"), "unchanged")
    assert {path.name for path in (pictures / "work").iterdir()} == {"a.tif", "b.tif", "c.tif"}
    assert batch(pictures, pictures, tmp_path / "selves", **PLAIN).counts["made"] == 3


@pytest.mark.parametrize("format", NAMES)
def test_every_format_is_recognised_when_it_is_unchanged(format: str, call: Call, tmp_path: Path) -> None:  # noqa: A002
    result = call(format=format, glob="a*")
    assert result.pictures[0].output == f"a.{format}"
    assert call(format=format, glob="a*").counts["unchanged"] == 1
    part = tmp_path / "out" / ("a_files" if format == "dzi" else f"a.{format}")
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    again = call(format=format, glob="a*")
    assert (again.pictures[0].status, again.pictures[0].sha256) == ("made", result.pictures[0].sha256)


# Broken off


def test_the_second_batch_on_a_folder_is_told_so(call: Call, tmp_path: Path) -> None:
    with (
        open_journal(tmp_path / "out"),
        pytest.raises(OutputError, match=r"Another batch is at work in .*out; wait for it"),
    ):
        call()
    assert call().counts["made"] == 3


class At(BatchListener):
    """Does something when so many pictures have begun."""

    def __init__(self, number: int, action: Callable[[], None]) -> None:
        self.left, self.action, self.lines = number, action, []

    def note(self, line: str) -> None:
        self.lines.append(line)

    def picture(self, source: str) -> Any:
        self.left -= 1
        if self.left == 0:
            self.action()
        return super().picture(source)


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")
def test_an_interrupted_batch_goes_on_to_the_same_end(
    jobs: int, call: Call, tmp_path: Path, encoded: list[int]
) -> None:
    call(chunk=5)
    whole, chunks = files(tmp_path / "out"), len(encoded)
    encoded.clear()
    at = At(2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        call(output=tmp_path / "again", listener=at, chunk=5, jobs=jobs)
    kept = [line for line in at.lines if "paper's decoder is untrained" not in line]
    assert kept == [line for line in kept if "the same command goes on from there" in line] != []
    assert threading.active_count() == 1 or not any("ThreadPool" in thread.name for thread in threading.enumerate()), (
        "something runs on"
    )
    assert len(files(tmp_path / "again")) > 0
    assert call(output=tmp_path / "again", chunk=5, jobs=jobs).counts["failed"] == 0
    assert files(tmp_path / "again") == whole
    assert len(encoded) == chunks, "a finished chunk was made again"


def test_the_workspace_of_another_picture_or_other_settings_is_discarded(
    call: Call, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(decoding, "decode_chunk", lambda *_, **__: 1 / 0)
        assert call().counts["failed"] == 3
    assert (tmp_path / "out" / ".a.tif.workspace").exists()
    save(pictures / "a.png", photo(64, 80, 7))
    assert call(background="black").counts["made"] == 3
    assert set(files(tmp_path / "out")) == {"a.tif", "b.tif", "c.tif"}


def test_the_next_picture_is_ingested_while_one_is_worked_on(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every encode but the last waits until the next picture is ingested, in its own workspace."""
    encode, waited = encoding.encode_chunk, []

    def patient(box: Box, **given: Any) -> None:
        place = str(given["analysis"].store_path)
        following = {"a": "b", "b": "c"}.get(place[place.index(".tif") - 1])
        marks = tmp_path / "out" / f".{following}.tif.workspace" / "done" / "ingest" / "c"
        if following:
            while not marks.exists():
                time.sleep(0.01)
            waited.append(following)
        encode(box, **given)

    monkeypatch.setattr(encoding, "encode_chunk", patient)
    assert call(chunk=16).counts["made"] == 3
    assert set(waited) == {"b", "c"}


def test_nothing_is_ingested_ahead_where_memory_would_not_do(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    run = clock.Clock._run
    monkeypatch.setattr(plan.Plan, "looking_bytes", property(lambda self: 1 << 60))
    monkeypatch.setattr(
        clock.Clock, "_run", lambda self, stages, *given: (ran.append(stages[0].name), run(self, stages, *given))[1]
    )
    call()
    assert ran == ["ingest", "decode"] * 3


def test_a_full_disk_fails_a_picture_with_the_bytes_missing_and_the_next_start_goes_on(
    call: Call, tmp_path: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = decoding.decode_chunk
    with monkeypatch.context() as full:

        def fails(box: Box, **given: Any) -> None:
            if ".b.tif" in str(given["analysis"].store_path):
                full.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
                raise OSError(errno.ENOSPC, "No space left on device")
            full.setattr("shutil.disk_usage", usage)
            decode(box, **given)

        usage = shutil.disk_usage
        full.setattr(decoding, "decode_chunk", fails)
        result = call()
    failed = [one for one in result.pictures if one.error]
    assert "b.png" in [one.source for one in failed]
    assert all("bytes are missing; free some" in str(one.error) for one in failed)
    assert (tmp_path / "out" / ".b.tif.workspace").exists()
    call()
    assert len(encoded) == 3
    assert set(files(tmp_path / "out")) == {"a.tif", "b.tif", "c.tif"}


def test_jobs_share_the_budget(call: Call) -> None:
    planned: list[plan.Plan] = []

    class Hears(BatchListener):
        def picture(self, source: str) -> Any:
            from contextlib import nullcontext

            one = Listener()
            one.planned = lambda job: planned.append(job.plan)  # type: ignore[method-assign]
            return nullcontext(one)

    call(memory="3GiB", listener=Hears())
    single = planned[-1].projected
    assert call(memory="3GiB", jobs=3, overwrite=True, listener=Hears()).counts["made"] == 3
    assert planned[-1].projected > single
    result = call(memory=single + 1, jobs=3, overwrite=True)
    assert {"or fewer `jobs`" in str(one.error) for one in result.pictures} == {True}


def test_an_unexpected_error_is_one_pictures_failure_with_its_traceback_in_the_log(
    call: Call, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = batch_run.run_render

    def fails(spec: Any, *given: Any) -> Any:
        return plain(spec, *given) if spec.source.name != "b.png" else {}["what"]

    monkeypatch.setattr(batch_run, "run_render", fails)
    with caplog.at_level(logging.ERROR, "hirez_mosaic"):
        result = call()
    assert statuses(result) == {"a.png": "made", "b.png": "failed", "c.png": "made"}
    assert result.pictures[1].error == "unexpected KeyError: 'what'"
    (record,) = caplog.records
    assert record.exc_info


# The command


def command(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


WORDS = ("--tile", 8, "--decoder", "paper", "--device", "cpu", "--precision", "float32")


def test_the_command_tells_of_each_and_exits_with_3_if_some_failed(pictures: Path, tmp_path: Path, call: Call) -> None:
    (pictures / "broken.png").write_bytes((pictures / "a.png").read_bytes()[:2000])
    words = ("batch", pictures, "--templates", tmp_path / "templates-9", "-o", tmp_path / "out", *WORDS)
    result = command(*words, "--json", "--log-file", tmp_path / "log", "-v")
    assert result.exit_code == 3
    told = json.loads(result.stdout)
    assert told["counts"] == {"made": 3, "unchanged": 0, "failed": 1, "left out": 0}
    assert json.loads(Path(told["report"]).read_text())["counts"] == told["counts"]
    assert "3 made, 0 unchanged, 1 failed, 0 left out" in result.stderr
    assert "a.png encode: chunk finished, chunk [0, 8, 0, 10]" in result.stderr
    (pictures / "broken.png").unlink()
    assert command(*words, "--quiet").exit_code == 0
    assert command(*words, "--quality", 0).exit_code == 2
    assert command("batch", "nowhere", *words[2:]).exit_code == 1
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert all({"time", "level", "message"} <= set(line) for line in lines)
    assert {Path(line["picture"]).name for line in lines if "picture" in line} == {
        "a.png",
        "b.png",
        "c.png",
        "broken.png",
    }
    chunks = [line for line in lines if line["message"] == "chunk finished" and line["picture"].endswith("a.png")]
    assert {line["stage"]: line["bytes"] for line in chunks} == {
        "ingest": 80 * 195,
        "encode": 80 * 256 * 4,
        "decode": 80 * (9 * 8 + 4),
        "select": 80 * 4,
    }
    assert all(line["chunk"] == [0, 8, 0, 10] and line["seconds"] >= 0 for line in chunks)
    (error,) = (line for line in lines if line["level"] == "ERROR")
    assert "broken.png is damaged or truncated" in error["message"]


def test_a_render_and_a_recipe_are_logged_too_and_a_recipe_goes_on_after_failures(
    pictures: Path, tmp_path: Path, call: Call
) -> None:
    (pictures / "broken.png").write_bytes((pictures / "a.png").read_bytes()[:2000])
    templates = f'templates = "{tmp_path / "templates-9"}"\ntile = 8\ndecoder = "paper"\n'
    recipe = tmp_path / "job.toml"
    recipe.write_text(
        f'[batch]\nfolder = "photos"\n{templates}output = "out"\n'
        f'[render]\nsource = "photos/a.png"\n{templates}output = "a.tif"\n'
    )
    result = command("run", recipe, "--log-file", tmp_path / "log")
    assert result.exit_code == 3, result.output
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "out" / "a.tif").read_bytes()
    before = (tmp_path / "log").read_text()
    assert '"message": "made"' in before
    command(
        "render",
        pictures / "broken.png",
        *WORDS,
        "--templates",
        tmp_path / "templates-9",
        "-o",
        tmp_path / "x.tif",
        "--log-file",
        tmp_path / "log",
    )
    after = (tmp_path / "log").read_text()
    assert after.startswith(before)
    assert json.loads(after.splitlines()[-1])["level"] == "ERROR"
    assert not logging.getLogger("hirez_mosaic").isEnabledFor(logging.INFO)
    there = pictures / "broken.png", "--templates", tmp_path / "templates-9"
    result = command("render", *there, "--log-file", tmp_path / "no" / "log")
    assert result.exit_code == 1
    assert "cannot be written to: No such file or directory" in result.stderr


def break_in_20_ways(folder: Path) -> None:
    """Twenty pictures that cannot be read, each for a reason of its own."""
    whole = save(folder / "whole.png", photo(64, 80)).read_bytes()
    jpeg = save(folder / "whole.jpg", photo(64, 80)).read_bytes()
    tifffile.imwrite(folder / "whole.tif", photo(64, 80), tile=(32, 32), photometric="rgb")
    tiff = (folder / "whole.tif").read_bytes()
    array = zarr.create_array(folder / "x17.zarr", shape=(48, 64, 3), chunks=(16, 16, 3), dtype="u1")
    array[:] = photo(48, 64)
    for chunk in (folder / "x17.zarr" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"no codec's")
    ways: dict[str, bytes] = {
        "x00.jpg": b"",
        "x01.jpg": b"no picture at all",
        "x02.jpg": jpeg[: len(jpeg) // 2],
        "x03.jpg": jpeg[:20],
        "x04.png": whole[: len(whole) // 2],
        "x05.png": whole[:30],
        "x06.png": whole[:200] + bytes(400) + whole[600:],
        "x07.tif": tiff[: len(tiff) // 2],
        "x08.tif": tiff[:8],
        "x09.tif": b"II*\0" + bytes(100),
        "x10.webp": b"RIFF\x10\0\0\0WEBPVP8 ",
        "x11.gif": b"GIF89a" + bytes(4),
        "x12.svg": b"<svg",
        "x13.heic": b"\0\0\0\x18ftypheic" + bytes(12),
        "x14.jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20),
    }
    for name, data in ways.items():
        (folder / name).write_bytes(data)
    png_claiming(folder / "x15.png", 2_000_000, 2_000_000)
    (folder / "x16.png").symlink_to("nowhere.png")
    zarr.create_group(folder / "x18.zarr")
    (folder / "x19.psd").write_bytes(b"8BPS" + struct.pack(">H6xHIIHH", 1, 5, 16, 16, 8, 7) + bytes(2000))  # five inks
    for name in ("whole.png", "whole.jpg", "whole.tif"):
        (folder / name).unlink()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
@pytest.mark.timeout(3000)
def test_200_pictures_20_broken_killed_five_times(
    tmp_path: Path, make_templates: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL at random moments, real weights, processes of their own: the mosaics and errors of an undisturbed run,
    and nothing left.
    """
    monkeypatch.delenv("HIREZ_MOSAIC_CACHE")
    folder, rng = tmp_path / "photos", random.Random(5)
    folder.mkdir()
    endings = {
        "jpg": {},
        "png": {},
        "webp": {},
        "tif": {"tile": True, "tile_width": 64, "tile_height": 64, "compression": "deflate"},
    }
    for number in range(180):
        ending = list(endings)[number % 4]
        image = pyvips.Image.new_from_array(photo(*(rng.randrange(48, 400) for _ in range(2)), number)).copy(
            interpretation="srgb"
        )
        if number % 5 == 1 and ending != "jpg":
            image = image.bandjoin(200)
        if number % 3 == 1 and ending in ("png", "tif"):
            image = (image.cast("ushort") << 8).copy(interpretation="rgb16")
        (folder / f"{number % 7}").mkdir(exist_ok=True)
        image.write_to_file(str(folder / f"{number % 7}" / f"{number:03d}.{ending}"), **endings[ending])
    break_in_20_ways(folder)
    words = [
        folder,
        "--recursive",
        "--templates",
        make_templates(40),
        "--tile",
        8,
        "--decoder",
        "paper",
        "--preview",
        "--json",
        "--quiet",
    ]

    def start(output: str) -> "subprocess.Popen[str]":
        command = [
            str(word) for word in (sys.executable, "-m", "hirez_mosaic", "batch", *words, "-o", tmp_path / output)
        ]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def report(output: str) -> dict[str, tuple[Any, ...]]:
        told = json.loads((tmp_path / output / "report.json").read_text())["pictures"]
        return {
            one["source"]: (one["status"] == "failed", one["error"], one["output"], one["sha256"], one["cells"])
            for one in told
        }

    begun = time.monotonic()
    undisturbed = start("undisturbed")
    said, complaint = undisturbed.communicate()
    took = time.monotonic() - begun
    assert undisturbed.returncode == 3, complaint
    assert json.loads(said)["counts"] == {"made": 180, "unchanged": 0, "failed": 20, "left out": 0}
    for _ in range(5):
        child = start("killed")
        with pytest.raises(subprocess.TimeoutExpired):
            child.communicate(timeout=rng.uniform(0.08, 0.16) * took)
        child.send_signal(signal.SIGKILL)
        child.communicate()
    last = start("killed")
    said, complaint = last.communicate()
    assert last.returncode == 3, complaint
    assert 0 < json.loads(said)["counts"]["unchanged"] < 180
    assert report("killed") == report("undisturbed")
    assert files(tmp_path / "killed") == files(tmp_path / "undisturbed")
    errors = [error for failed, error, *_ in report("killed").values() if failed]
    assert len(errors) == 20
    assert not any("unexpected" in error for error in errors)
    print(*errors, sep="\n")


def test_a_tile_map_that_no_batch_made_is_left_alone(call: Call, tmp_path: Path) -> None:
    assert call().counts["made"] == 3
    (tmp_path / "out" / "b.csv").write_text("mine")
    result = call(tile_map="csv")
    assert statuses(result) == {"a.png": "made", "b.png": "failed", "c.png": "made"}
    assert "b.csv is there already" in str(result.pictures[1].error)
    assert (tmp_path / "out" / "b.csv").read_text() == "mine"
    (tmp_path / "out" / "b.csv").unlink()
    assert call(tile_map="csv").counts == {"made": 1, "unchanged": 2, "failed": 0, "left out": 0}
    assert call(tile_map="csv", quality=80).counts["made"] == 3


def test_a_mosaic_of_a_killed_batch_stays_its_own_whatever_fails_afterwards(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:  # between the mosaic and the line that says so
        killed.setattr(batch_records, "_made_outcome", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            call()
    assert (tmp_path / "out" / "a.tif").exists()
    with monkeypatch.context() as full:
        full.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
        assert call().counts["failed"] == 3
    assert call().counts["made"] == 3


def test_a_file_put_in_the_place_of_a_mosaic_that_failed_is_left_alone(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(decoding, "decode_chunk", lambda *_, **__: 1 / 0)
        assert call().counts["failed"] == 3
    (tmp_path / "out" / "b.tif").write_text("mine")
    assert statuses(call()) == {"a.png": "made", "b.png": "failed", "c.png": "made"}
    assert (tmp_path / "out" / "b.tif").read_text() == "mine"


def test_a_record_that_could_not_be_written_spoils_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    record = {"status": "made", "files": ["a.tif"]}
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            journal.append({**record, "source": "a", "output": "a.tif"})
    text = (tmp_path / "journal.jsonl").read_bytes()
    (tmp_path / "journal.jsonl").write_bytes(text[:20])  # what of it came through
    journal.append({**record, "source": "b", "output": "b.tif"})
    assert Journal(tmp_path / "journal.jsonl").last("b") is not None


def test_a_mosaic_counts_as_made_before_its_workspace_is_removed(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """What no `except Exception` catches, as SIGKILL is not caught."""

    def killed(place: str) -> None:
        raise Killed

    with monkeypatch.context() as broken:
        broken.setattr(rendering, "discard", killed)
        with pytest.raises(Killed):
            call()
    assert (tmp_path / "out" / ".a.tif.workspace").exists()
    assert statuses(call()) == {"a.png": "unchanged", "b.png": "made", "c.png": "made"}
    assert set(files(tmp_path / "out")) == {"a.tif", "b.tif", "c.tif"}


def test_the_workspace_of_another_render_beside_a_made_mosaic_is_kept(
    call: Call, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call()
    with monkeypatch.context() as broken:
        broken.setattr(decoding, "decode_chunk", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            render(
                pictures / "a.png",
                tmp_path / "templates-9",
                output=tmp_path / "out" / "a.tif",
                overwrite=True,
                **PLAIN,
                refine=1,
            )
    assert call().counts["unchanged"] == 3
    assert (tmp_path / "out" / ".a.tif.workspace").exists()


def test_a_mosaic_is_made_even_if_the_disk_has_no_room_for_saying_so_before_its_workspace_is_gone(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Journal.append

    def full(self: Journal, record: dict[str, Any]) -> None:
        if record["status"] == "made" and (tmp_path / "out" / f".{record['output']}.workspace" / "index_map").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, record)

    monkeypatch.setattr(Journal, "append", full)
    assert call().counts["made"] == 3
    assert call().counts["unchanged"] == 3


@pytest.mark.parametrize(
    ("at", "vanishes"), [("0", "index_map"), ("index_map/0", "index_map/c"), ("index_map/c/0", "index_map/c/0")]
)
def test_a_workspace_is_measured_while_its_picture_is_finished(
    at: str, vanishes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --jobs a picture that begins asks what the others have yet to write, and those remove their workspaces
    meanwhile.
    """
    (tmp_path / "index_map" / "c").mkdir(parents=True)
    for name in ("0", "index_map/0", "index_map/c/0"):
        (tmp_path / name).write_bytes(bytes(10))
    assert bytes_below(tmp_path) == 30
    ask = os.stat

    def asked(path: Any, **how: Any) -> os.stat_result:
        if Path(path) == tmp_path / at:
            monkeypatch.undo()
            remove(tmp_path / vanishes)
        return ask(path, **how)

    monkeypatch.setattr(os, "stat", asked)
    assert bytes_below(tmp_path) in (10, 20)
    assert not (tmp_path / vanishes).exists()


@pytest.mark.parametrize(
    "written", [False, True], ids=["beside what others will write", "beside what others have written"]
)
def test_pictures_at_a_time_wait_for_room_on_the_disk(
    written: bool, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = []
    check = disk.DiskNeeded.check

    def checked(self: disk.DiskNeeded, beside: Any) -> None:
        needed.append(sum(self.places.values()))
        check(self, beside)

    monkeypatch.setattr(disk.DiskNeeded, "check", checked)
    assert call(jobs=3).counts["made"] == 3
    most = max(needed)
    running: list[int] = []
    together: list[int] = []
    begin = ingesting.ingest_chunk

    def ingest(box: Box, **given: Any) -> None:
        running.append(1)
        together.append(len(running))
        time.sleep(0.2)
        begin(box, **given)
        running.pop()

    monkeypatch.setattr(ingesting, "ingest_chunk", ingest)
    monkeypatch.setattr(
        "shutil.disk_usage",
        lambda path: shutil._ntuple_diskusage(10**12, 0, most // 2 if written and running else most + most // 4),
    )
    result = call(jobs=3, overwrite=True)
    assert [one.error for one in result.pictures] == [None] * 3
    assert max(together) == 1
