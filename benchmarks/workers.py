"""One to four processes of a local Dask cluster, against the threads of one.

    python benchmarks/workers.py --source starry.jpg --templates hubble/

Method: the Fig. 5 job (see fig5.py), or --columns of it, once by the threads of one process and once with `--scheduler`
on a `distributed.LocalCluster` of n processes with one thread each; templates cached, all n in turn, --rounds times,
medians (least to most). The cluster is started and its workers have imported what they need before the clock starts:
one small render goes ahead. Speed-up is the stages' time of one worker over that of n; with more workers than cores
none is to be expected, and what shows is the cost of processes. Memory is the client's peak and the largest of the
workers', each in a process of its own.
"""

import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
from common import Run, machine_facts, print_table, render_command, run, scaled_source, spread
from distributed import Client, LocalCluster
from fig5 import SCALE, SIZE, TILE

from hirez_mosaic.engine.machine import cores, peak_memory


@click.command()
@click.option("--source", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--templates", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--workers", default="1,2,3,4", show_default=True, help="Processes.")
@click.option("--columns", default=0, help="Cells across.  [default: 330, as in Fig. 5]")
@click.option("--memory", default="2GiB", show_default=True)
@click.option("--rounds", default=3, show_default=True, help="Times that all take turns.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Folder for source and mosaic.  [default: a temporary one]"
)
def main(
    source: Path, templates: Path, workers: str, columns: int, memory: str, rounds: int, folder: Path | None
) -> None:
    """Print a row for each number of processes."""
    counts = [int(one) for one in workers.split(",")]
    runs: dict[int, list[Run]] = {0: [], **{count: [] for count in counts}}
    peaks = dict.fromkeys(runs, 0)
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        picture = scaled_source(source, *SIZE, place)

        def command(across: int, *more: str) -> list[str]:
            size = ["--columns", str(across)] if across else ["--scale", str(SCALE)]
            return render_command(picture, templates, TILE[0], place / "workers.tif", *size, "--memory", memory, *more)

        run(command(20))  # caches templates and weights
        for _ in range(rounds):
            runs[0].append(run(command(columns)))
            for count in counts:
                done, peak = on_cluster(count, command, columns)
                runs[count].append(done)
                peaks[count] = max(peaks[count], peak)
    report(runs, peaks)


def on_cluster(count: int, command: Callable[..., list[str]], columns: int) -> tuple[Run, int]:
    """One job on a cluster of `count` processes: how it went, and the largest worker's peak, bytes."""
    with (
        LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        run(command(20, "--scheduler", cluster.scheduler_address))
        done = run(command(columns, "--scheduler", cluster.scheduler_address))
        return done, max(client.run(peak_memory).values())


def report(runs: dict[int, list[Run]], peaks: dict[int, int]) -> None:
    """Times, speed-up and memory."""
    totals = {count: [json.loads(one.output)["total_seconds"] for one in done] for count, done in runs.items()}
    one = statistics.median(totals[min(count for count in runs if count)])
    told = json.loads(runs[0][0].output)
    print(
        f"{told['cells'][0]} x {told['cells'][1]} cells, {told['templates']:,} templates, {told['size'][0]:,} x "
        f"{told['size'][1]:,} px,"
    )
    print(f"{told['precision']}; {cores()} cores; medians (least to most) of {len(runs[0])} rounds.")
    print(machine_facts() + "\n")
    rows = []
    for count, took in totals.items():
        name = f"{count} worker{'s' if count > 1 else ''}" if count else "threads of one process"
        rows.append(
            [
                name,
                spread(took, 1),
                spread([run.wall for run in runs[count]], 1),
                f"{one / statistics.median(took):.2f}",
                f"{max(run.peak for run in runs[count]) / 2**20:,.0f}",
                f"{peaks[count] / 2**20:,.0f}" if count else "",
            ]
        )
    print_table(["processes", "stages, s", "whole process, s", "speed-up", "peak, MiB", "largest worker's, MiB"], rows)


if __name__ == "__main__":
    main()
