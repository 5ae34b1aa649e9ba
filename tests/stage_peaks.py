"""Renders as its argument, a JSON object of settings, says, and prints what was measured and projected, as JSON; on
Linux alone.

measured: by stage, (the process's peak resident bytes up to its eighth chunk, to its end), each stage on its own.
projected: by stage, bytes. budget: bytes. chunks: how many.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hirez_mosaic.engine.machine import peak_memory
from hirez_mosaic.jobs.job import Job
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.jobs.render import render

FIRST = 8


class Peaks(Listener):
    """Measures every stage after the plan."""

    def __init__(self) -> None:
        self.measured: dict[str, tuple[int, int]] = {}

    def planned(self, job: Job) -> None:
        self.plan = job.plan
        self.measured.clear()  # of what came before

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        peaks: list[int] = []
        yield lambda done: peaks.append(peak_memory()) if len(peaks) < FIRST else None
        self.measured[name] = (peaks[-1] if peaks else peak_memory(), peak_memory())


if __name__ == "__main__":
    listener = Peaks()
    render(**json.loads(sys.argv[1]), listener=listener)
    plan = listener.plan
    projected = {stage: plan.projected_of(stage) for stage in listener.measured}
    print(
        json.dumps(
            {"measured": listener.measured, "projected": projected, "budget": plan.budget, "chunks": plan.chunk_count}
        )
    )
