"""Threads that end before what they work on does."""

import os
import signal
import sys
import threading
import time

import pytest
import torch

from hirez_mosaic.engine.threads import shared_cores, threads


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
def test_however_often_one_interrupts_no_thread_runs_on() -> None:
    begun, ended = threading.Event(), []

    def work() -> None:
        begun.set()
        time.sleep(1.5)
        ended.append(torch.get_num_threads())

    def interrupt() -> None:
        begun.wait()
        for _ in range(3):
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)

    impatient = threading.Thread(target=interrupt)
    impatient.start()

    def run() -> None:
        with shared_cores(1, 3), threads(1) as pool:
            pool.submit(work)
            time.sleep(30)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert ended == [3]
    impatient.join()
