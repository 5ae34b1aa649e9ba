"""Importing changes nothing of the process; a job sets it up, in one place."""

import ctypes
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import photo, save

import hirez_mosaic
from hirez_mosaic.engine.machine import settle_process

STATE = '''
import ctypes, json, locale, logging, os, pkgutil, signal, sys, warnings
from importlib import import_module
import dask, distributed, fsspec, imagecodecs, lpips, numba, numpy, pi_heif, PIL.Image
import pyvips, scipy, tifffile, torch, zarr
import click, distributed.comm.core, PIL.ImageDraw, platformdirs
import psutil, rich.console, safetensors.torch, scipy.optimize

def state():
    """What can be seen of the process's switches, but for malloc's."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return {
        "environment": dict(os.environ),
        "torch": [torch.get_num_threads(), str(torch.get_default_dtype()), torch.is_grad_enabled(),
            torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled(),
            matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, cudnn.enabled,
            torch.get_rng_state().sum().item()],
        "numpy": [numpy.geterr(), repr(numpy.random.get_state())],
        "libvips": [pyvips.vips_lib.vips_cache_get_max(), pyvips.vips_lib.vips_cache_get_max_files()],
        "pillow": PIL.Image.MAX_IMAGE_PIXELS,
        "logging": [repr(logging.root.handlers), logging.root.level, logging.root.manager.disable],
        "warnings": [repr(one) for one in warnings.filters],
        "signals": [repr(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
        "hooks": [repr(sys.excepthook), repr(sys.displayhook), sys.getrecursionlimit()],
        "locale": locale.setlocale(locale.LC_ALL),
        "configuration": [repr(dask.config.config), repr(zarr.config.pprint) and str(zarr.config.config)],
        "folder": os.getcwd(),
    }

class Info(ctypes.Structure):
    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    _fields_ = [(name, ctypes.c_size_t) for name in _names]

def steady():
    """Whether malloc maps a large block after a larger one was freed, which raises its threshold unless that is set."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes, libc.mallinfo2.restype = [ctypes.c_void_p], Info
    libc.free(libc.malloc(31 << 20))
    before = libc.mallinfo2().hblks
    block = libc.malloc(30 << 20)  # more than lies free at the heap's end
    after = libc.mallinfo2().hblks
    libc.free(block)
    return after > before

def import_all():
    import hirez_mosaic
    names = [one.name for one in pkgutil.walk_packages(hirez_mosaic.__path__, "hirez_mosaic.")]
    for name in names:
        if not name.endswith("__main__"):
            import_module(name)
    return len(names)
'''


def told(program: str, *arguments: object) -> dict[str, object]:
    """What a program prints as JSON at its end, in a process of its own."""
    command = [sys.executable, "-c", STATE + program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def has_mallinfo() -> bool:
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallinfo2")


@pytest.mark.skipif(not has_mallinfo(), reason="asks glibc 2.33 or later")
def test_importing_every_module_changes_nothing_of_the_process() -> None:
    found = told(
        "before = json.loads(json.dumps(state()))\n"
        "count = import_all()\n"
        "print(json.dumps({'count': count, 'before': before, 'after': state(), 'steady': steady()}))"
    )
    files = list(Path(hirez_mosaic.__file__).parent.rglob("*.py"))
    assert found["count"] == len(files) - 1  # the package's own front is no module below it
    assert found["after"] == found["before"]
    assert not found["steady"]


@pytest.mark.skipif(not has_mallinfo(), reason="asks glibc 2.33 or later")
def test_a_render_sets_the_process_up(tmp_path: Path, own_cache: Path) -> None:
    folder = tmp_path / "templates"
    folder.mkdir()
    for number in range(3):
        save(folder / f"{number}.png", photo(8, 8, seed=number))
    source = save(tmp_path / "source.png", photo(16, 16))
    found = told(
        "import_all()\n"
        "from hirez_mosaic import render\n"
        "render(sys.argv[1], sys.argv[2], 8, sys.argv[3], decoder='l2', device='cpu', precision='float32')\n"
        "tensor = torch.empty(16 << 20, dtype=torch.uint8)\n"
        "offset = tensor.data_ptr() % os.sysconf('SC_PAGE_SIZE')\n"
        "print(json.dumps({'steady': steady(), 'offset': offset, 'state': state()}))",
        source,
        folder,
        tmp_path / "m.png",
    )
    state = found["state"]
    assert isinstance(state, dict)
    assert found["steady"]
    assert found["offset"] == 0  # torch begins tensors at a page where it asks for huge ones, which no import hindered
    assert state["environment"]["THP_MEM_ALLOC_ENABLE"] == "1"
    assert state["torch"][6] is False
    assert state["libvips"][0] == 0
    assert state["pillow"] is None


def test_a_process_is_set_up_once() -> None:
    settle_process()
    assert settle_process.cache_info().misses == 1


JOBS = (
    "batch.batch",
    "bench.bench",
    "compare.compare",
    "inspect.inspect",
    "page.make_pages",
    "remake.assemble_tile_map",
    "render.run_render",
    "train.train",
    "view.served",
)


@pytest.mark.parametrize("job", JOBS)
def test_every_job_sets_the_process_up(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class ReachedError(Exception):
        pass

    def reached() -> None:
        raise ReachedError

    module, name = job.split(".")
    monkeypatch.setattr("hirez_mosaic.engine.machine.settle_process", reached)
    with pytest.raises(ReachedError):
        getattr(importlib.import_module(f"hirez_mosaic.jobs.{module}"), name)()


def test_the_command_line_settles_how_long_threads_spin_before_torch_is_there() -> None:
    program = """
import os, sys
os.environ.pop("GOMP_SPINCOUNT", None)
from hirez_mosaic.cli.main import main
main(["weights", "--help"], standalone_mode=False)
print(os.environ["GOMP_SPINCOUNT"], "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "1000 False"
