"""The paper's Fig. 5 job against its floor.

    python benchmarks/fig5.py --source starry.jpg --templates hubble/

Job: 5,280 x 3,960 px (a source of another size is scaled to it and kept as a tiled, deflated TIFF), 17,500 templates of
32 px, --scale 2, so 330 x 248 cells and a tiled pyramidal BigTIFF, JPEG Q 90, of 10,560 x 7,936 px.

Method: the command `hirez-mosaic render`, a process of its own with its templates cached, and the floor
(hirez_mosaic/jobs/floor.py), another, take turns; medians and extremes of --rounds are printed. Start-up is the
process's wall time less its stages: imports, weights, the template cache. The ratio is the job's stages over the
floor's parts, round by round. Exits 0 whatever comes out.
"""

import json
import statistics
import tempfile
from fractions import Fraction
from functools import partial
from pathlib import Path

import click
from common import Run, machine_facts, print_table, render_command, run, scaled_source, spread

from hirez_mosaic.jobs.bench import in_own_process
from hirez_mosaic.jobs.floor import render_floor

SIZE, TILE, SCALE = (5280, 3960), (32, 32), Fraction(2)


def job_command(picture: Path, templates: Path, output: Path, *more: str) -> list[str]:
    """The command line of the job."""
    return render_command(picture, templates, TILE[0], output, "--scale", str(SCALE), *more)


@click.command()
@click.option("--source", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--templates", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--precision", default="auto", type=click.Choice(["auto", "float32", "bfloat16"]))
@click.option("--memory", default="2GiB", help="Budget of the job.")
@click.option("--rounds", default=5, help="Times that job and floor take turns.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Folder for source and mosaic.  [default: a temporary one]"
)
def main(source: Path, templates: Path, precision: str, memory: str, rounds: int, folder: Path | None) -> None:
    """Run job and floor in turn and print their ratio."""
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        mosaic = place / "fig5.tif"
        scaled = scaled_source(source, *SIZE, place)
        job = job_command(scaled, templates, mosaic, "--precision", precision, "--memory", memory)
        first = run(job)  # caches templates and weights
        chunk, seconds = tuple(json.loads(first.output)["chunk"]), json.loads(first.output)["seconds"]
        jobs, floors = [], []
        for _ in range(rounds):
            jobs.append(run(job))
            floors.append(
                in_own_process(
                    partial(
                        render_floor,
                        *(scaled, mosaic, templates, TILE, chunk),
                        precision=precision,
                        encoded="encode" in seconds,
                    )
                )
            )
    report(jobs, floors, first.wall)


def report(jobs: list[Run], floors: list[dict[str, float]], uncached: float) -> None:
    """Per stage and in total: seconds, the floor's, and the ratio."""
    told = [json.loads(job.output) for job in jobs]
    rows = []
    for stage in told[0]["seconds"]:
        took = [job["seconds"][stage] for job in told]
        floor = [parts[stage] for parts in floors if stage in parts]
        ratio = spread([a / b for a, b in zip(took, floor, strict=True)]) if floor else ""
        peak = statistics.median([job["peak_bytes"][stage] for job in told]) / 2**30
        rows.append([stage, spread(took), spread(floor) if floor else "", ratio, f"{peak:.2f}"])
    totals, sums = [job["total_seconds"] for job in told], [sum(parts.values()) for parts in floors]
    rows.append(["total", spread(totals), spread(sums), spread([a / b for a, b in zip(totals, sums, strict=True)]), ""])
    rows.append(["start-up", spread([job.wall - total for job, total in zip(jobs, totals, strict=True)]), "", "", ""])
    rows.append(["whole process", spread([job.wall for job in jobs]), "", "", ""])
    one = told[0]
    print(
        f"Fig. 5: {one['cells'][0]} x {one['cells'][1]} cells, {one['templates']} templates, {one['size'][0]} x "
        f"{one['size'][1]} px,"
    )
    print(
        f"{one['precision']}, chunks of {one['chunk'][0]} x {one['chunk'][1]} cells; medians (least to most) of "
        f"{len(jobs)} rounds."
    )
    print(machine_facts() + "\n")
    print_table(["stage", "job, s", "floor, s", "ratio", "peak so far, GiB"], rows)
    peak = statistics.median([job.peak for job in jobs]) / 2**30
    print(f"\nPeak resident memory {peak:.2f} GiB, projected {one['projected_bytes'] / 2**30:.2f} GiB.")
    print(f"With templates and weights not yet cached the first process took {uncached:.1f} s.")


if __name__ == "__main__":
    main()
