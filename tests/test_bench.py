"""Bench: what it measures, and that what it projects follows from that."""

import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pyvips
from click.testing import CliRunner, Result

from hirez_mosaic.cli.main import main
from hirez_mosaic.engine.machine import peak_memory
from hirez_mosaic.errors import WeightsError
from hirez_mosaic.jobs import synthetic
from hirez_mosaic.jobs.bench import bench, in_own_process
from hirez_mosaic.jobs.bench_result import BenchResult, Loading, Measured
from hirez_mosaic.nets.weights import resolve_weights

TINY = {"count": 20, "tile": 16}


def call(*words: str) -> Result:
    return CliRunner().invoke(main, ["bench", "--count", "20", "--tile", "16", *words], catch_exceptions=False)


@pytest.fixture
def here(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own_cache: Path,
    with_random_weights: None,
    thin_weights: dict[str, Any],
) -> Path:
    """An empty current folder; what is measured runs in this process, since another would not know of the RANDOM
    weights.
    """

    def near(work: Callable[[], Any], environment: Mapping[str, str] | None = None) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            for name, value in (environment or {}).items():
                inner.setenv(name, value)
            return work()

    monkeypatch.setattr("hirez_mosaic.jobs.bench.in_own_process", near)
    monkeypatch.setattr("hirez_mosaic.jobs.synthetic._BASE", 128)
    for module in ("jobs.bench", "jobs.floor"):
        monkeypatch.setattr(f"hirez_mosaic.{module}.resolve_weights", lambda *_, **__: thin_weights)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_every_stage_of_every_size_is_measured_beside_its_floor(here: Path) -> None:
    result = bench((0.02, 0.05), **TINY, scale=2, fit=1, folder=here)
    assert [run.result.size for run in result.runs] == [(144, 144), (224, 224)]
    assert [run.source_size for run in result.runs] == [(72, 72), (112, 112)]
    for run in result.runs:
        assert set(run.floor) == {"ingest", "encode", "decode", "assemble"} < set(run.result.seconds)
        assert min(run.floor.values()) > 0
        assert run.mosaic_bytes > 1000
        assert run.workspace_bytes > run.cells * (192 + 256 * 2)  # the analysis image and the features
        assert run.work("ingest") == (run.source_size[0] ** 2 / 1e6, "source Mpx")
        assert run.work("encode") == (run.cells * 64 / 1e6, "analysis Mpx")
    assert result.loading.templates == 20
    assert result.loading.cached_bytes > 20 * 16 * 16 * 3
    assert list(here.iterdir()) == []


def test_without_a_fit_nothing_is_encoded_and_so_it_has_no_floor(here: Path) -> None:
    (run,) = bench((0.02,), **TINY, folder=here).runs
    assert set(run.floor) == {"ingest", "decode", "assemble"}
    assert "encode" not in run.result.seconds


def made(cells: int, width: int) -> Measured:
    """A run of which everything can be projected in one's head."""
    seconds = {"ingest": 1 + 0.1 * cells, "fit": 7.0, "decode": 0.2 * cells}
    peaks = {"ingest": 900, "decode": 1000 + 2 * width}
    result = SimpleNamespace(size=(width, 16), cells=(cells, 1), templates=20, seconds=seconds, peak_bytes=peaks)
    return Measured((width, 16), result, 2.0, {"decode": 1.0}, 10 * cells, 3 * cells)


def test_a_projection_is_the_sum_of_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "hirez_mosaic.outputs.mosaic_file.projected_bytes", lambda grid, output: grid.mosaic_size[0] // 160
    )
    result = BenchResult(
        2,
        10**9,
        "cpu",
        "float32",
        (16, 16),
        1.0,
        True,
        20,
        50_000,
        Loading(20, 5.0, 4.0, 400),
        (made(100, 100), made(300, 200)),
    )
    job = result.project((16_000, 1_599), 60)
    assert (job.size, job.cells, job.templates) == ((16_000, 1_600), 100_000, 60)
    expected = {"templates": 15, "start-up": 2, "ingest": 1 + 10_000, "fit": 7, "decode": 3 * 20_000}
    assert job.seconds == pytest.approx(expected)
    assert job.total_seconds == pytest.approx(sum(expected.values()))
    assert (job.workspace_bytes, job.mosaic_bytes, job.cache_bytes) == (10 * 100_000, 3 * 100_000, 3 * 400)
    assert job.memory == pytest.approx(1000 + 2 * 16_000, abs=1)
    assert result.project((160_000, 16)).memory == 50_000  # the budget
    assert result.project((16_000_000, 16)).memory > 100_000  # what assembling it takes, whatever the budget
    assert result.project((160_000, 16)).templates == 20


def test_own_templates_are_taken_evenly_and_projected_in_full(
    here: Path, make_templates: Callable[[int], Path]
) -> None:
    folder = make_templates(9)
    result = bench((0.02,), templates=folder, count=3, tile=16)
    assert not result.synthetic
    assert result.loading.templates == 3
    assert result.project((160, 160)).templates == 9
    assert len(list(folder.iterdir())) == 9


def test_from_the_command_line(here: Path) -> None:
    pytest.importorskip("matplotlib")
    done = call("--sizes", "0.02,0.05", "--project", "1000x500", "-o", "bench.png", "--json")
    assert done.exit_code == 0
    for said in (
        "machine",
        "20 synthetic ones of 16 x 16 px",
        "decode",
        "floor",
        "source Mpx/s",
        "1,008 x 512 px",
        "Not measured: fitting",
    ):
        assert said in done.stderr, said
    told = json.loads(done.stdout)
    assert told["projection"]["total_seconds"] == pytest.approx(sum(told["projection"]["seconds"].values()))
    first, rate = told["runs"][0]["result"], told["rates"][0]
    assert rate["decode"] == pytest.approx(81 / first["seconds"]["decode"])
    assert rate["templates scored"] == pytest.approx(20 * rate["decode"])
    plot = pyvips.Image.new_from_file("bench.png")
    assert plot.width > 800
    assert plot.deviate() > 10  # not blank
    assert {path.name for path in here.iterdir()} == {"bench.png"}


def test_without_matplotlib_the_plot_alone_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    wrong = call("-o", "bench.png")
    assert wrong.exit_code == 2
    assert "pip install 'hirez-mosaic[bench]'" in wrong.stderr


def test_bad_settings_are_one_sentence(here: Path) -> None:
    (here / "empty").mkdir()
    for words, code, said in (
        (["--sizes", "many"], 2, "use numbers of Mpx such as 2,8,24"),
        (["--sizes", "4,2"], 2, "name some that grow"),
        (["--sizes", "4,4.00001"], 2, "name some that grow"),
        (["--sizes", "0"], 2, "use more than 0"),
        (["--sizes", "nan"], 2, "use more than 0"),
        (["--count", "0"], 2, "use 1 or more"),
        (["--project-templates", "-3"], 2, "x>=1"),
        (["--project", "wide"], 2, "use WxH in px such as 100000x100000"),
        (["--sizes", "0.001", "--scale", "1000"], 2, "less than 1 px"),
        (["--memory", "lots"], 2, "The memory budget is 'lots'"),
        (["--templates", "none"], 1, "There is no folder of templates none"),
        (["--templates", "empty"], 1, "holds no files"),
        (["--folder", "none"], 1, "make it first"),
        (["-o", "bench.txt"], 2, "use .png, .svg or .pdf"),
    ):
        wrong = call(*words)
        assert wrong.exit_code == code, words
        assert said in wrong.stderr, words
        assert wrong.stderr.count("Error: ") == 1
    assert {path.name for path in here.iterdir()} == {"empty"}


def test_what_runs_apart_has_its_environment_and_its_errors_arrive(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"There is no weights file .*none\.pth"):
        in_own_process(
            partial(resolve_weights, None, tmp_path, fetch=False),
            environment={"HIREZ_MOSAIC_WEIGHTS": str(tmp_path / "none.pth")},
        )
    assert "none.pth" not in os.environ.get("HIREZ_MOSAIC_WEIGHTS", "")


@pytest.mark.slow
def test_the_peak_of_what_runs_apart_is_its_own() -> None:
    held = np.ones(200_000_000)
    assert peak_memory() > held.nbytes > 1 << 30 > in_own_process(peak_memory)


def test_synthetic_pictures_are_the_same_for_the_same_seed_and_like_photos(tmp_path: Path) -> None:
    first, same, other = (synthetic.picture(128, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    spectrum = np.abs(np.fft.fft2(first[..., 0].astype(float) - first[..., 0].mean())) ** 2
    assert spectrum[1:5, 1:5].mean() > 30 * spectrum[20:40, 20:40].mean()  # noise has as much everywhere
    synthetic.write_source(tmp_path / "s.tif", (1500, 700), seed=1)
    source = np.asarray(pyvips.Image.new_from_file(str(tmp_path / "s.tif")))
    assert source.shape == (700, 1500, 3)
    assert (tmp_path / "s.tif").stat().st_size > source.size / 3  # as hard to compress as photos
    assert source.std() > 30
    synthetic.write_set(tmp_path / "set", 30, (24, 16), seed=1)
    templates = [np.asarray(pyvips.Image.new_from_file(str(path))) for path in sorted((tmp_path / "set").glob("*.png"))]
    assert len(templates) == 30
    assert {one.shape for one in templates} == {(16, 24, 3)}
    assert np.std([one.mean((0, 1)) for one in templates]) > 20  # of many colours
