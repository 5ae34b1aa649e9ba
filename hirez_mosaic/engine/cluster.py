"""The same stages on the workers of a Dask cluster: `dask scheduler` and `dask worker` by hand or by SSH, Kubernetes,
Slurm, dask-cuda.

Workspace and source must be where every worker can reach them under the same names: a shared folder, or an object store
for the workspace. What a stage needs besides, networks and decoder, travels to each worker once, as a plugin; later
workers get it when they join. A task is no more than a stage's name and a box.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import partial
from threading import Event, Semaphore, Thread, get_ident
from typing import Any

import torch
from distributed import (
    Client,
    KilledWorker,
    Nanny,
    Scheduler,
    SpecCluster,
    Worker,
    WorkerPlugin,
    as_completed,
    get_worker,
)
from distributed.comm.core import CommClosedError

from hirez_mosaic import __version__
from hirez_mosaic.engine.graph import Heard, StageRun, graph
from hirez_mosaic.engine.machine import OF_LIMIT, cores, memory_errors, settle_process
from hirez_mosaic.errors import ClusterError
from hirez_mosaic.nets.device import resolve_device
from hirez_mosaic.pixels.geometry import Box

_PATIENCE = 30  # seconds for a scheduler to answer, and for a first worker
_WATCH = 5  # seconds between two looks whether there are workers


def one_worker_each(gpus: int) -> SpecCluster:
    """A cluster on this host with a worker for each GPU, which sees that one alone; two chunks at a time, one on its
    way in or out.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(
        map(str, range(gpus))
    )  # a batch system may have given us some of them
    workers = {
        name: {"cls": Nanny, "options": {"nthreads": 2, "memory_limit": 0, "env": {"CUDA_VISIBLE_DEVICES": name}}}
        for name in named.split(",")
    }
    return SpecCluster(
        workers=workers, scheduler={"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard": False}}
    )


class Cluster:
    """A Dask cluster as an engine.

    address: of its scheduler; a cluster that was started for this job is closed with it.
    threads: of the worker with the most. memory: bytes that the worker with the least may take, None where it has no
        limit.
    cores: of this process.
    Raises ClusterError where no scheduler answers, no worker comes, or one has another version of this package.
    """

    def __init__(self, address: str | SpecCluster, device: str) -> None:
        self._own = None if isinstance(address, str) else address
        self._address = address if isinstance(address, str) else address.scheduler_address
        address, self._device, self.cores = self._address, device, cores()
        try:
            self._client = Client(address, timeout=_PATIENCE, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise ClusterError(
                f"No Dask scheduler answers at {address}; start one, or name another `scheduler`."
            ) from error
        try:
            self._client.wait_for_workers(1, timeout=_PATIENCE)
        except TimeoutError as error:
            self._client.close()
            raise ClusterError(
                f"The Dask scheduler at {address} has no workers; start some: dask worker {address}."
            ) from error
        for name, version in self._client.run(_version, on_error="return").items():
            if version != __version__ and not isinstance(version, OSError):  # that worker is lost already
                self._client.close()
                told = (
                    f"lacks hirez-mosaic ({version})"
                    if isinstance(version, Exception)
                    else f"has hirez-mosaic {version}"
                )
                raise ClusterError(f"The worker {name} {told} and this is {__version__}; install the same everywhere.")
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        self.threads = max(worker["nthreads"] for worker in workers)
        least = min((worker["memory_limit"] for worker in workers if worker["memory_limit"]), default=None)
        self.memory = None if least is None else int(OF_LIMIT * least)

    def close(self) -> None:
        """Take leave of the scheduler."""
        self._client.close()
        if self._own is not None:
            self._own.close()

    def run(
        self, stages: Sequence[StageRun], workers: int, place: str, heard: Heard, say: Callable[[str], None]
    ) -> None:
        plugin, name = _Stages(stages, workers, self._device, __version__), _name(place)
        try:
            self._tell_all(lambda: self._client.register_plugin(plugin, name=name))
            while calls := graph(stages, partial(_on_worker, name)):
                with self._watched(say):
                    if self._run(calls, heard):
                        break
        finally:
            self.dismiss(place)
        if graph(stages, _on_worker):
            raise ClusterError(
                f"Workers of {self._address} finished chunks that are not in the workspace as it is seen from here; "
                "name a `workspace` that all of them share."
            )

    def dismiss(self, place: str) -> None:
        with suppress(ValueError):  # there is nothing to dismiss
            self._tell_all(lambda: self._client.unregister_worker_plugin(_name(place)))

    def _tell_all(self, tell: Callable[[], object]) -> None:
        """Tell all workers something; again where one was lost meanwhile, of which the scheduler then tells instead of
        an answer.
        """
        for left in reversed(range(_PATIENCE)):
            try:
                tell()
                return
            except ValueError:
                raise
            except CommClosedError as error:
                if not left:
                    raise self._gone() from error
                time.sleep(1)
            except AttributeError as error:  # of a client that was closed when its scheduler was
                raise self._gone() from error
            except Exception as error:  # whatever happened on a worker
                raise ClusterError(f"A worker of {self._address} cannot begin: {error}.") from error

    @contextmanager
    def _watched(self, say: Callable[[str], None]) -> Iterator[None]:
        """Within, say when no worker is left, for which a scheduler waits as long as it takes."""
        over = Event()

        def watch() -> None:
            alone = 0.0
            while not over.wait(_WATCH):
                alone = 0.0 if self._client.scheduler_info(n_workers=-1)["workers"] else alone + _WATCH
                if _PATIENCE <= alone < _PATIENCE + _WATCH:
                    say(
                        f"The Dask scheduler at {self._address} has no workers any more; the job goes on as soon as "
                        "it has some."
                    )

        watcher = Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join(_WATCH)  # no longer: a scheduler that is gone may leave it without an answer

    def _gone(self) -> ClusterError:
        return ClusterError(
            f"The Dask scheduler at {self._address} does not answer any more; start it, and run the same command again."
        )

    def _run(self, calls: list[Any], heard: Heard) -> bool:
        """Run the calls: whether all ended well; False where workers were lost again and again, yet chunks ended."""
        futures = self._client.compute(calls)
        ended = 0
        try:
            for future in as_completed(futures, loop=self._client.loop):
                heard(*future.result())
                ended += 1
        except KilledWorker as error:
            if not ended:
                raise ClusterError(
                    f"Workers of {self._address} die of the same chunk again and again; give them more memory."
                ) from error
            return False
        except CancelledError as error:
            raise self._gone() from error
        finally:
            with suppress(CommClosedError, AttributeError):
                self._client.cancel(futures, force=True)
        return True


def _name(place: str) -> str:
    """Of the plugin for the job in a workspace: a later start takes the place of one that was killed."""
    return f"hirez-mosaic-{hashlib.blake2b(place.encode(), digest_size=16).hexdigest()}"


def _version() -> str:
    return __version__


def _on_worker(job: str, name: str, box: Box, *_: object) -> tuple[str, Box, float]:
    plugin: _Stages = get_worker().plugins[job]  # type: ignore[assignment]
    return name, box, plugin.run(name, box)


class _Stages(WorkerPlugin):
    """The stages of a job on a worker, which runs `at_once` chunks at a time; each computes with its share of the
    worker's threads.
    """

    def __init__(self, stages: Sequence[StageRun], at_once: int, device: str, version: str) -> None:
        self._stages, self._at_once, self._device, self._version = stages, at_once, device, version

    def setup(self, worker: Worker) -> None:
        if self._version != __version__:
            raise ClusterError(f"it has hirez-mosaic {__version__}, and the job {self._version}")
        settle_process()
        device = resolve_device(self._device)
        self._threads = max(1, worker.state.nthreads // self._at_once)
        self._tasks = {stage.name: stage.on(device) for stage in self._stages}
        self._free = Semaphore(self._at_once)
        self._running: set[int] = set()

    async def teardown(self, worker: Worker) -> None:
        while self._running:  # so that nobody writes to the workspace any more when a job is over
            await asyncio.sleep(0.05)

    def run(self, name: str, box: Box) -> float:
        self._running.add(get_ident())
        try:
            with self._free, memory_errors():
                torch.set_num_threads(self._threads)  # counts in the thread that calls it
                return self._tasks[name](box)
        finally:
            self._running.remove(get_ident())
