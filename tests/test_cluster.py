"""The same stages on a Dask cluster, the workspace in an object store: the bytes of a render on one machine."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from conftest import photo, save

from hirez_mosaic.engine import cluster
from hirez_mosaic.engine.holding import held
from hirez_mosaic.errors import ClusterError, WorkspaceError
from hirez_mosaic.jobs import choose as choosing
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.jobs.render import render
from hirez_mosaic.stages import decode as decoding

distributed = pytest.importorskip("distributed")
pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does"),
    pytest.mark.filterwarnings("ignore:Port 8787:UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket of an S3 server on loopback."""
    boto3, server = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    with pytest.MonkeyPatch.context() as patch:
        started = server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        started.start()
        host, port = started.get_host_and_port()
        given = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        for name, value in {**given, "AWS_DEFAULT_REGION": "us-east-1"}.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="jobs")
        yield "s3://jobs"
        started.stop()


@pytest.fixture(scope="module")
def workers(s3: str) -> Iterator[Any]:
    """Two processes with a thread each, started where the object store is known."""
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as local:
        yield local


@pytest.fixture
def job(
    tmp_path: Path, make_templates: Callable[[int], Path], own_cache: Path, with_random_weights: None
) -> Callable[..., bytes]:
    """Renders a picture of 30 x 36 cells, in 9 chunks; the mosaic's bytes."""
    source, folder = save(tmp_path / "s.tif", photo(240, 288)), make_templates(9)

    def run(**settings: Any) -> bytes:
        given = {
            "decoder": "paper",
            "chunk": 12,
            "overwrite": True,
            "device": "cpu",
            "precision": "float32",
            **settings,
        }
        return render(source, folder, 8, tmp_path / "m.png", **given).output.read_bytes()

    return run


def px(mosaic: bytes) -> np.ndarray:
    """Without what the file tells of how it was made."""
    return pyvips.Image.new_from_buffer(mosaic, "").numpy()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param({"decoder": "residual", "fit": 2, "refine": 1}, marks=pytest.mark.slow),
        pytest.param({"decoder": "ssim", "min_distance": 1}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_cluster_makes_what_one_machine_makes(
    settings: dict[str, Any], job: Callable[..., bytes], workers: Any
) -> None:
    assert job(scheduler=workers.scheduler_address, **settings) == job(**settings)


def test_a_workspace_in_an_object_store(job: Callable[..., bytes], workers: Any, s3: str) -> None:
    import s3fs

    place = f"{s3}/one/job"
    whole = job(workspace=place, scheduler=workers.scheduler_address)
    assert whole == job()
    assert {"zarr.json", "features", "done", "index_map"} <= {
        name.split("/")[-1] for name in s3fs.S3FileSystem().ls("jobs/one/job")
    }
    assert whole == job(workspace=place), "gone on with from another machine, everything done"
    with pytest.raises(WorkspaceError, match="that of another job: background differ"):
        job(workspace=place, background="black")
    again = job(workspace=place, background="black", restart=True)
    assert (px(again) == px(whole)).all(), "no template is transparent"
    with held(place), pytest.raises(WorkspaceError, match="Another render is at work in the workspace s3://"):
        job(workspace=place)


def test_a_fit_is_kept_in_an_object_store(job: Callable[..., bytes], s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = f"{s3}/fitted"
    with monkeypatch.context() as broken:
        broken.setattr(decoding, "decode_chunk", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            job(workspace=place, decoder="residual", fit=2)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(
            choosing, "fitted_decoder", lambda *_: 1 / 0
        )  # another machine has nothing of it in its cache
        gone_on = job(workspace=place, decoder="residual", fit=2)
    assert gone_on == job(decoder="residual", fit=2)


def test_what_is_no_workspace_in_an_object_store_is_left_alone(job: Callable[..., bytes], s3: str) -> None:
    import s3fs

    files = s3fs.S3FileSystem()
    files.pipe_file("jobs/photos/holiday.jpg", b"dear")
    with pytest.raises(WorkspaceError, match="is not empty and not a workspace of hirez-mosaic"):
        job(workspace=f"{s3}/photos", restart=True)
    assert files.cat_file("jobs/photos/holiday.jpg") == b"dear"
    with pytest.raises(WorkspaceError, match="cannot be opened"):
        job(workspace="s3://no-such-bucket/job")


def pid_of_a_worker(workers: Any, killed: Sequence[int]) -> int:
    """Of one that runs; a nanny has none, or that of a killed one, until it has started another."""
    while (pid := next(iter(workers.workers.values())).pid) in (None, *killed):
        time.sleep(0.05)
    return int(pid)


@pytest.mark.parametrize(
    "after", [(11, 16), pytest.param(range(2, 22, 2), marks=pytest.mark.slow)], ids=["2 kills", "10 kills"]
)
def test_a_lost_worker_costs_its_chunks_alone(after: Sequence[int], job: Callable[..., bytes], workers: Any) -> None:
    whole, finished, killed = job(), [], []

    class Killer(Listener):
        """Kills a worker each time that so many of the 28 chunks of ingest, encode, decode and select are finished."""

        @contextmanager
        def stage(self, name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
            def heard(done: int) -> None:
                if name in ("ingest", "encode", "decode", "select") and done:
                    finished.append(done)
                    if len(finished) in after:
                        killed.append(pid_of_a_worker(workers, killed))
                        os.kill(killed[-1], signal.SIGKILL)

            yield heard

    assert job(scheduler=workers.scheduler_address, listener=Killer()) == whole
    assert len(killed) == len(after)
    assert sum(finished) == 4 * 30 * 36


def test_a_cluster_that_cannot_be_used_is_told_in_a_sentence(
    job: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch, workers: Any
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(cluster, "__version__", "99")
        with pytest.raises(ClusterError, match=r"has hirez-mosaic \S+ and this is 99; install the same everywhere"):
            job(scheduler=workers.scheduler_address)  # with patience: its workers may just have been killed
    monkeypatch.setattr(cluster, "_PATIENCE", 1)
    with pytest.raises(ClusterError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        job(scheduler="tcp://127.0.0.1:9")
    with pytest.raises(ClusterError, match="No Dask scheduler answers at nonsense"):
        job(scheduler="nonsense")
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0") as empty,
        pytest.raises(ClusterError, match="has no workers"),
    ):
        job(scheduler=empty.scheduler_address)


def test_a_cluster_that_lost_all_workers_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_WATCH", 0.1)
    said: list[str] = []
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as local:
        engine = cluster.Cluster(local.scheduler_address, "cpu")
        monkeypatch.setattr(cluster, "_PATIENCE", 0.5)
        with engine._watched(said.append):
            local.scale(0)
            while not said:
                time.sleep(0.1)
            time.sleep(1)
        engine.close()
    assert len(said) == 1
    assert "has no workers any more; the job goes on as soon as it has some" in said[0]


def visible() -> str:
    return os.environ["CUDA_VISIBLE_DEVICES"]


@pytest.mark.slow
def test_each_gpu_of_a_host_gets_a_worker_that_sees_it_alone(
    job: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = cluster.one_worker_each(2)
    engine = cluster.Cluster(started, "cpu")
    assert sorted(engine._client.run(visible).values()) == ["0", "1"]
    assert engine.threads == 2
    whole = job()
    monkeypatch.setattr("hirez_mosaic.jobs.prepare.make_engine", lambda *_: engine)
    assert job() == whole
    assert not started.workers
