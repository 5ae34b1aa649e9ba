"""Batch: a mosaic of every picture in a folder, unattended.

What does not depend on the picture is loaded once. What is finished stands in the journal, so the same call goes on
where one was broken off, and makes again what changed.
"""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Unpack

from hirez_mosaic.engine.machine import settled
from hirez_mosaic.errors import OutputExistsError, SettingError, SourceNotFoundError, sentence
from hirez_mosaic.jobs.batch_pictures import Kinds, pictures_below
from hirez_mosaic.jobs.batch_records import BatchRecords
from hirez_mosaic.jobs.batch_result import GALLERY, REPORT, BatchResult, write_batch_gallery, write_report
from hirez_mosaic.jobs.batch_run import BatchListener, BatchRun
from hirez_mosaic.jobs.journal import open_journal
from hirez_mosaic.jobs.listener import Logged
from hirez_mosaic.jobs.prepare import make_tools
from hirez_mosaic.outputs.appearing import check_output
from hirez_mosaic.settings.formats import NAMES
from hirez_mosaic.settings.spec import MakingSettings, make_spec
from hirez_mosaic.settings.writing import TILE_MAPS
from hirez_mosaic.sources.folder import stems_of_mosaics


@settled
def batch(
    folder: str | Path,
    templates: str | Path,
    output: str | Path,
    tile: int | str | tuple[int, int] = 32,
    *,
    glob: str = "*",
    recursive: bool = False,
    format: str = "tif",  # noqa: A002 (the name of the option)
    jobs: int = 1,
    preview: bool = False,
    tile_map: str | None = None,
    page: bool = False,
    listener: BatchListener | None = None,
    **settings: Unpack[MakingSettings],
) -> BatchResult:
    """Make a photomosaic of every picture in `folder`, in the folder `output`, which mirrors it.

    A mosaic that an earlier call with the same `output` made is left as it is while the content of its picture and the
    settings are the same; what failed is tried again. A picture that fails does not stop the others. `output` may lie
    inside `folder`. report.json in it tells what became of every picture.

    glob: which files, by name; with a slash, by path below `folder`.
    recursive: take pictures in subfolders, too.
    format: of the mosaics: tif, dzi, png, jpg, webp, zarr or iiif. A mosaic has the name of its picture with the other
        suffix, or with both suffixes where two pictures would have the same mosaic.
    jobs: pictures at a time, which share memory and cores; several are quicker where the pictures are small.
    preview: write NAME.preview.jpg of small mosaics, too.
    tile_map: also write NAME.csv, NAME.json or NAME.parquet: one of these suffixes without its dot.
    page: also write the folders NAME.page, and index.html, a gallery of them.
    workspace: folder, or URL, in which each picture has a workspace of its own, which is kept.
    overwrite: make every mosaic again, and replace files that no earlier batch made; without it these are an error.
    exclude: patterns of files to leave out, pictures and templates.
    The rest is as in `render`; templates are decoded by all cores.

    Raises a subclass of HirezMosaicError for what is wrong with the settings, before the first picture. Raises
    KeyboardInterrupt as soon as what is running has dropped its work since the last finished chunk; the same call then
    goes on.
    """
    start = time.perf_counter()
    folder, output, listener = Path(folder), Path(output), listener or BatchListener()
    _check(folder, output, format, tile_map, jobs)
    shared = make_spec(folder, templates, tile, output / f"all.{format}", settings)
    listing = pictures_below(folder, output, shared, glob, recursive)
    kinds = Kinds(format, preview, shared.no_preview, tile_map, page)
    stems = stems_of_mosaics(listing.pictures, kinds.endings, taken=(REPORT, GALLERY))
    specs = {picture.as_posix(): kinds.spec(shared, folder / picture, output / stem) for picture, stem in stems.items()}
    next(iter(specs.values())).check_places("picture")
    with open_journal(output) as journal, ExitStack() as cleanup:
        if journal.is_new and not shared.overwrite:
            for own_file in (REPORT, GALLERY)[: 1 + page]:
                check_output(output / own_file, overwrite=False)
        tools = make_tools(shared, Logged(listener, None), cleanup, jobs)
        records = BatchRecords(specs, tools, output, journal)
        outcomes = BatchRun(specs, tools, records, listener).run(jobs)
        left_out = tuple(name.as_posix() for name in listing.left_out)
        result = BatchResult(outcomes, left_out, output / REPORT, time.perf_counter() - start)
        try:
            write_report(result, folder)
            if page:
                write_batch_gallery(result, folder, specs)
        except OSError as error:  # a full disk; the journal tells the same
            listener.note(f"The report could not be written: {sentence(error)}")
    return result


def _check(folder: Path, output: Path, format: str, tile_map: str | None, jobs: int) -> None:  # noqa: A002
    """Raise an error for what is wrong with a batch's own settings."""
    if not folder.is_dir():
        raise SourceNotFoundError(f"There is no folder {folder}; for one picture use render.")
    there, below = output.resolve(), folder.resolve()
    if there == below or there in below.parents:
        raise SettingError(
            f"The mosaics of {folder} would lie among the pictures in {output}; name another output folder."
        )
    if output.exists() and not output.is_dir():
        raise OutputExistsError(f"The output {output} is a file; name a folder.")
    if format not in NAMES:
        raise SettingError(f"The format is {format!r}; use one of {', '.join(NAMES)}.")
    if tile_map not in (None, *TILE_MAPS):
        raise SettingError(f"The tile map is {tile_map!r}; use one of {', '.join(TILE_MAPS)}.")
    if jobs < 1:
        raise SettingError(f"The number of jobs is {jobs}; use 1 or more.")
