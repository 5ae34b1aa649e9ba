"""The command line as a person meets it: what it prints, what it exits with, what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tifffile
from click.testing import CliRunner, Result
from conftest import photo, save

from hirez_mosaic import errors, render
from hirez_mosaic.cli.main import main
from hirez_mosaic.errors import OutputExistsError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path, with_random_weights: None) -> Path:
    """An empty current folder with a source and eight templates; the weights are RANDOM."""
    folder = tmp_path / "here"
    (folder / "templates").mkdir(parents=True)
    monkeypatch.chdir(folder)
    save(folder / "starry.png", photo(60, 80))
    for number in range(8):
        save(folder / "templates" / f"{number}.png", photo(24, 24, seed=number))
    return folder


def call(*words: str) -> Result:
    return CliRunner().invoke(main, list(words), catch_exceptions=False)


def listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_render_shows_plan_stages_and_summary_and_writes_the_default_output(here: Path) -> None:
    result = call("render", "starry.png", "--templates", "templates", "--tile", "16")
    assert result.exit_code == 0
    for said in (
        "source",
        "templates",
        "cells",
        "decoder",
        "device",
        "chunks",
        "projected",
        "select",
        "Mpx/s",
        "8 templates used",
    ):
        assert said in result.stderr, said
    assert result.stdout == ""
    with tifffile.TiffFile("starry.mosaic.tif") as mosaic:
        assert mosaic.series[0].shape == (64, 80, 3)
    assert listing(here) == {"starry.png", "templates", "starry.mosaic.tif"}


def test_quiet_json_is_one_line(here: Path) -> None:
    result = call(
        "render",
        "starry.png",
        "--templates",
        "templates",
        "--tile",
        "10x20",
        "--columns",
        "12",
        "--quiet",
        "--json",
        "-o",
        "m.png",
    )
    assert result.exit_code == 0
    assert result.stderr == ""
    told = json.loads(result.stdout)
    assert told["size"] == [120, 100]
    assert told["cells"] == [12, 5]
    assert set(told["seconds"]) == {"unpack", "ingest", "start", "decode", "select", "assemble"}


def test_skipped_templates_are_named_and_counted(here: Path) -> None:
    (here / "templates" / "notes.txt").write_text("no picture")
    result = call("render", "starry.png", "--templates", "templates", "--tile", "16")
    assert result.exit_code == 0
    assert "1 file was left out: templates/notes.txt is not a picture that can be read" in " ".join(
        result.stderr.split()
    )
    strict = call("render", "starry.png", "--templates", "templates", "--tile", "16", "--strict", "-o", "strict.tif")
    assert strict.exit_code == 1
    assert "1 of the files in templates cannot be read, notes.txt for one" in strict.stderr
    assert "Traceback" not in strict.stderr
    assert not (here / "strict.tif").exists()
    assert (
        call(
            "render",
            "starry.png",
            "--templates",
            "templates",
            "--tile",
            "16",
            "--strict",
            "--exclude",
            "*.txt",
            "-o",
            "s.tif",
        ).exit_code
        == 0
    )


BAD = {
    "no such file": (["none.tif"], 1, "There is no file or folder none.tif"),
    "not a picture": (["notes.txt"], 1, "notes.txt is not a picture that can be read"),
    "truncated": (["truncated.jpg"], 1, "truncated.jpg is damaged or truncated"),
    "no templates": (["starry.png", "--templates", "nowhere"], 1, "There is no folder of templates nowhere"),
    "empty templates": (["starry.png", "--templates", "empty"], 1, "holds no files"),
    "unreadable templates": (
        ["starry.png", "--templates", "texts"],
        1,
        "None of the 1 files in texts is a readable picture",
    ),
    "tile of 0": (["starry.png", "--tile", "0"], 2, "The tile is 0 x 0 px; use 1 to"),
    "tile in words": (["starry.png", "--tile", "big"], 2, "use a number of px such as 32, or WxH"),
    "scale of 0": (["starry.png", "--scale", "0"], 2, "The scale is 0; use 0.000001 or more"),
    "scale without a cell": (
        ["starry.png", "--scale", "0.001"],
        2,
        "gives no cell of 32 x 32 px; use a larger --scale",
    ),
    "scale and columns": (["starry.png", "--scale", "2", "--columns", "4"], 2, "give one of them"),
    "output exists": (["starry.png", "-o", "there.tif"], 1, "there.tif is there already; use --overwrite"),
    "output folder missing": (["starry.png", "-o", "deep/down/x.tif"], 1, "is not there; make it first"),
    "unknown suffix": (["starry.png", "-o", "x.bmp"], 2, "has no known suffix; use one of .tif"),
    "too large for jpeg": (["starry.png", "-o", "x.jpg", "--scale", "1000"], 1, "ends at 65500 px a side; use .tif"),
    "too large for webp": (["starry.png", "-o", "x.webp", "--scale", "300"], 1, "ends at 16383 px a side; use .tif"),
    "no such GPU": (["starry.png", "--device", "cuda:7"], 1, "The device cuda:7 was asked for"),
    "no such device": (["starry.png", "--device", "abacus"], 2, "use auto, cpu, cuda or cuda:N"),
    "memory too small": (["starry.png", "--memory", "10MB"], 1, "is too small: with one chunk of"),
    "memory in words": (["starry.png", "--memory", "lots"], 2, "use for example 2GiB"),
    "no such decoder": (
        ["starry.png", "--decoder", "none.safetensors"],
        1,
        "There is no decoder file none.safetensors",
    ),
    "negative steps": (["starry.png", "--fit", "-1"], 2, "The number of steps to fit is -1; use 0 for none, or more"),
    "fitting a baseline": (
        ["starry.png", "--fit", "9", "--decoder", "l2"],
        2,
        "--fit adapts the residual decoder and --decoder is l2",
    ),
    "far weight below 0": (["starry.png", "--far-weight", "-1"], 2, "The far weight is -1.0; use 0 or more"),
    "colour in words": (["starry.png", "--background", "mauve"], 2, "use white, black, grey, #rrggbb or r,g,b"),
    "output is the source": (
        ["starry.png", "-o", "starry.png", "--overwrite"],
        2,
        "are the same or one inside the other",
    ),
    "source in the output": (
        ["w_files/starry.png", "-o", "w.dzi", "--overwrite"],
        2,
        "are the same or one inside the other",
    ),
    "templates in the output": (
        ["starry.png", "-o", "w.dzi", "--templates", "w_files", "--overwrite"],
        2,
        "would replace the templates",
    ),
    "output at a URL": (["starry.png", "-o", "s3://bucket/w.tif"], 2, "nothing but a workspace may be at one"),
    "preview is the output": (
        ["starry.png", "-o", "x.png", "--preview", "x.png"],
        2,
        "are the same or one inside the other",
    ),
    "output in the workspace": (
        ["starry.png", "-o", "w/x.png", "--workspace", "w"],
        2,
        "are the same or one inside the other",
    ),
    "workspace around the templates": (["starry.png", "--workspace", ".."], 2, "name other"),
    "foreign workspace": (
        ["starry.png", "--workspace", "texts"],
        1,
        "is not empty and not a workspace of hirez-mosaic",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(case: str, here: Path) -> None:
    words, code, sentence = BAD[case]
    if case == "no such GPU" and __import__("torch").cuda.device_count() > 7:
        pytest.skip("there is such a GPU")
    (here / "notes.txt").write_text("no picture")
    (here / "there.tif").write_text("precious")
    (here / "empty").mkdir()
    (here / "texts").mkdir()
    (here / "texts" / "a.txt").write_text("no picture")
    save(here / "whole.jpg", photo(200, 200))
    (here / "w_files").mkdir()
    save(here / "w_files" / "starry.png", photo(60, 80))
    (here / "truncated.jpg").write_bytes((here / "whole.jpg").read_bytes()[:6000])
    before = listing(here)
    templates = [] if "--templates" in words else ["--templates", "templates"]
    result = call("render", *words, *templates, "--quiet")
    assert result.exit_code == code, result.output
    assert sentence in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert listing(here) == before
    assert (here / "there.tif").read_text() == "precious"


def test_a_full_disk_is_refused_before_the_work(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, said in (
        (1000, "has 1000 B free and 8 templates of"),
        (32_000, "has 31.2 KiB free and the job takes about"),
    ):
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr("hirez_mosaic.jobs.disk.shutil.disk_usage", lambda _, usage=usage: usage)
        result = call("render", "starry.png", "--templates", "templates", "--quiet")
        assert result.exit_code == 1
        assert said in " ".join(result.stderr.split())
    assert listing(here) == {"starry.png", "templates"}


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="nothing is forbidden to root")
def test_an_output_folder_that_cannot_be_written(here: Path) -> None:
    (here / "locked").mkdir(mode=0o500)
    result = call("render", "starry.png", "--templates", "templates", "-o", "locked/m.tif")
    assert result.exit_code == 1
    assert "cannot be written to" in result.stderr


def test_overwrite_replaces(here: Path) -> None:
    assert call("render", "starry.png", "--templates", "templates", "-o", "m.png", "--quiet").exit_code == 0
    first = (here / "m.png").read_bytes()
    save(here / "starry.png", photo(60, 80, seed=9))
    assert (
        call("render", "starry.png", "--templates", "templates", "-o", "m.png", "--quiet", "--overwrite").exit_code == 0
    )
    assert (here / "m.png").read_bytes() != first


def test_from_python_the_same_errors_can_be_caught(here: Path) -> None:
    render("starry.png", "templates", 16, "m.png")
    with pytest.raises(OutputExistsError, match="`overwrite`"):
        render("starry.png", "templates", 16, "m.png")
    assert issubclass(OutputExistsError, FileExistsError)
    assert issubclass(errors.SettingError, ValueError)


def test_a_workspace_is_kept_and_replaced_when_asked(here: Path) -> None:
    words = (
        "render",
        "starry.png",
        "--templates",
        "templates",
        "--workspace",
        "work",
        "--overwrite",
        "--quiet",
        "--restart",
    )
    for tile in ("16", "8"):
        assert call(*words, "--tile", tile).exit_code == 0
    assert {"analysis", "candidates", "scores", "best", "index_map"} <= listing(here / "work")


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_render_goes_on_at_the_next_start(number: signal.Signals, here: Path, thin_child: str) -> None:
    """In a process of its own, to which the signal comes with its second encoded chunk, the others waiting."""
    (here / "out").mkdir()
    words = ["render", "starry.png", "--templates", "templates", "--tile", "8", "-o", "out/m.tif"]
    words += ["--chunk", "2", "--decoder", "paper"]
    code = (
        "import os, runpy, signal, sys, threading, hirez_mosaic.stages.encode as stages\n"
        "begun, heard, encode, interrupt = [], threading.Event(), stages.encode_chunk, signal.default_int_handler\n"
        "def hear(*given):\n"
        "    heard.set()\n"
        "    interrupt(*given)\n"
        "def second(*given, **named):\n"
        "    begun.append(1)\n"
        "    if len(begun) == 2:\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "    if len(begun) > 1:\n"
        "        heard.wait()\n"
        "    encode(*given, **named)\n"
        "signal.default_int_handler, stages.encode_chunk = hear, second\n"
        "signal.signal(signal.SIGINT, hear)  # a shell ignores it for what it starts in the background\n"
        "runpy.run_module('hirez_mosaic', run_name='__main__', alter_sys=True)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", thin_child + code, *words], stderr=subprocess.PIPE, text=True, check=False
    )
    said = child.stderr
    assert child.returncode == 130, said
    assert "Interrupted; nothing is left half-written." in said
    assert "What is finished is kept in out/.m.tif.workspace: the same command goes on from there" in said
    assert "Traceback" not in said
    assert listing(here / "out") == {".m.tif.workspace"}
    result = call(*words, "--overwrite", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert listing(here / "out") == {"m.tif"}


def test_weights_verifies_what_is_there(tmp_path: Path, own_cache: Path) -> None:
    result = call("weights", "--offline")
    assert result.exit_code == 1
    assert "Four ways out" in result.stderr
    (tmp_path / "x.pth").write_text("nonsense")
    result = call("weights", "--weights", str(tmp_path / "x.pth"))
    assert result.exit_code == 1
    assert "neither safetensors nor a PyTorch state dictionary" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["render", "--help"],
        ["weights", "--help"],
        ["train", "--help"],
        ["compare", "--help"],
        ["--version"],
    ],
)
def test_help_works(words: list[str]) -> None:
    assert call(*words).exit_code == 0


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="knows no such signal")
def test_nohup_is_heeded(here: Path) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        call("render", "none.png", "--templates", "templates")
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no disk that is always full")
def test_a_log_on_a_full_disk_costs_its_lines_alone(here: Path) -> None:
    result = call("render", "starry.png", "--templates", "templates", "-o", "m.png", "--log-file", "/dev/full")
    assert result.exit_code == 0, result.output
    assert (
        " ".join(result.stderr.split()).count(
            "/dev/full cannot be written to any more: [Errno 28] No space left on device."
        )
        == 1
    )
    assert "Traceback" not in result.stderr
    assert (here / "m.png").exists()


LARGE = ["torch", "zarr", "dask", "numba", "scipy", "pyvips", "rich", "numpy"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--help", "Photomosaics of any size"),
        ("--version", "version"),
        ("render --help", "--templates"),
        ("render none.jpg --templates .", "There is no file or folder none.jpg."),
        ("render . --templates none", "There is no folder of templates none."),
        ("batch none --templates . -o made", "There is no folder none."),
        ("templates inspect none", "There is no folder of templates none."),
        ("view none.tif", "There is no file or folder none.tif."),
        ("page none.csv -o made", "There is no mosaic or tile map none.csv."),
        ("run none.toml", "The recipe none.toml cannot be read"),
    ],
)
def test_help_and_a_missing_file_are_told_before_the_libraries_load(words: str, said: str, tmp_path: Path) -> None:
    code = f"""
import sys
from hirez_mosaic.cli.main import main
try:
    main({words.split()!r})
finally:
    print("loaded:", *(name for name in {LARGE!r} if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("loaded:\n")
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_importing_the_package_loads_no_library_and_shows_all_of_its_names() -> None:
    code = f"""
import sys, hirez_mosaic
assert not [name for name in {LARGE!r} if name in sys.modules]
assert set(hirez_mosaic.__all__) <= set(dir(hirez_mosaic))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
