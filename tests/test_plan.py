"""What a render may take: free memory, where control groups limit it."""

from pathlib import Path

import psutil
import pytest
from conftest import photo, save

from hirez_mosaic.engine.machine import free_memory
from hirez_mosaic.errors import BudgetError
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.jobs.plan import Plan, _too_small, make_room
from hirez_mosaic.jobs.render import render
from hirez_mosaic.pixels.geometry import CellGrid

MIB = 1 << 20
V1 = {"limit": "memory.limit_in_bytes", "usage": "memory.usage_in_bytes", "cached": "total_inactive_file"}
V2 = {"limit": "memory.max", "usage": "memory.current", "cached": "inactive_file"}


def system(root: Path, told: str, groups: dict[str, tuple[str, int, int]], names: dict[str, str]) -> Path:
    """A tree of the system's files: the groups by their folders, with (limit, usage, cached files) each."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(told)
    for folder, (limit, usage, cached) in groups.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / names["limit"]).write_text(f"{limit}\n")
        (root / folder / names["usage"]).write_text(f"{usage}\n")
        (root / folder / "memory.stat").write_text(f"anon 1\n{names['cached']} {cached}\nunevictable 0\n")
    return root


@pytest.fixture(autouse=True)
def machine_with_1000_mib_free(monkeypatch):
    monkeypatch.setattr(
        "psutil.virtual_memory", lambda: type("Memory", (), {"available": 1000 * MIB, "total": 8000 * MIB})
    )


@pytest.mark.parametrize(
    ("told", "groups", "names", "free"),
    [
        ("0::/\n", {"sys/fs/cgroup": (f"{500 * MIB}", 300 * MIB, 40 * MIB)}, V2, 240),
        ("0::/\n", {"sys/fs/cgroup": ("max", 300 * MIB, 0)}, V2, 1000),
        ("0::/\n", {"sys/fs/cgroup": (f"{5000 * MIB}", 300 * MIB, 0)}, V2, 1000),
        ("0::/\n", {"sys/fs/cgroup": (f"{500 * MIB}", 501 * MIB, 0)}, V2, 0),
        ("0::/\n", {}, V2, 1000),
        (
            "0::/a/b\n",
            {"sys/fs/cgroup/a": (f"{400 * MIB}", 100 * MIB, 0), "sys/fs/cgroup/a/b": ("max", 100 * MIB, 0)},
            V2,
            300,
        ),
        (
            "7:cpu:/\n4:memory:/job\n0::/\n",
            {"sys/fs/cgroup/memory/job": (f"{600 * MIB}", 200 * MIB, 10 * MIB)},
            V1,
            410,
        ),
        ("4:memory:/docker/1f\n0::/\n", {"sys/fs/cgroup/memory": (f"{600 * MIB}", 200 * MIB, 0)}, V1, 400),
        ("4:memory:/\n0::/\n", {"sys/fs/cgroup/memory": ("9223372036854771712", 200 * MIB, 0)}, V1, 1000),
    ],
    ids=[
        "v2",
        "v2 no limit",
        "v2 beyond the machine",
        "v2 full",
        "v2 root",
        "v2 parent",
        "v1",
        "v1 as a container sees it",
        "v1 no limit",
    ],
)
def test_the_least_of_machine_and_control_groups_is_free(tmp_path, told, groups, names, free):
    assert free_memory(system(tmp_path, told, groups, names)) == free * MIB


@pytest.mark.usefixtures("own_cache", "with_random_weights")
@pytest.mark.parametrize(("free", "memory"), [(4000, None), (600, None), (200, None), (4000, "200MiB")])
def test_a_quarter_of_what_is_free_is_taken_or_three_if_that_is_too_little(
    tmp_path, make_templates, monkeypatch, free, memory
):
    class Hears(Listener):
        def planned(self, job):
            planned.append(job.plan)

    planned = []
    monkeypatch.setattr(
        "psutil.virtual_memory", lambda: type("Memory", (), {"available": free * MIB, "total": 8000 * MIB})
    )
    source, templates = save(tmp_path / "a.png", photo(64, 64)), make_templates(9)
    settings = {"fit": 0, "chunk": 4, "memory": memory, "precision": "float32", "device": "cpu", "listener": Hears()}
    if free == 200 or memory:
        told = (
            "The memory budget of 200 MiB"
            if memory
            else r"The memory budget of .* \(what this process has, and three quarters of what is free\)"
        )
        with pytest.raises(BudgetError, match=f"{told} is too small: .* use `memory=\\d+MiB` or a smaller `chunk`"):
            render(source, templates, 8, tmp_path / "m.png", **settings)
    else:
        render(source, templates, 8, tmp_path / "m.png", **settings)
        (plan,) = planned
        assert plan.budget == plan.room.process + free * MIB // 4 * (1 if free == 4000 else 3)


def test_the_limit_of_a_clusters_workers_is_told_as_theirs():
    engine = type("Engine", (), {"memory": 300 * MIB})()
    assert not make_room(100 * MIB, engine).of_workers
    room = make_room(None, engine)
    assert (room.budget, room.most, room.of_workers) == (300 * MIB, 300 * MIB, True)
    plan = Plan(CellGrid.over((64, 64), (8, 8)), (8, 8), 1, False, room, {"encode": 500 * MIB, "refine": 0})
    with pytest.raises(
        BudgetError,
        match=r"The workers' memory, of which 300 MiB may be taken, is too small: .*; start them with --memory-l",
    ):
        raise _too_small(plan, "")


def test_without_control_groups_the_machine_counts(tmp_path):
    assert free_memory(tmp_path) == 1000 * MIB == psutil.virtual_memory().available
