"""Compare: the ways to choose templates side by side, on the same pictures, by the same measures."""

import csv
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyvips
import torch
import zarr
from numpy.typing import NDArray

from hirez_mosaic.engine.machine import free_memory
from hirez_mosaic.errors import OutputError, SettingError, WeightsError
from hirez_mosaic.files.cache import cache_folder
from hirez_mosaic.files.fresh import fresh
from hirez_mosaic.jobs.decoder import loss_network, trained_path
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.jobs.render import gather_moments, run_render
from hirez_mosaic.jobs.template_sets import cached_templates
from hirez_mosaic.nets.decoders import load_decoder
from hirez_mosaic.nets.device import resolve_device
from hirez_mosaic.nets.fitting import STEPS
from hirez_mosaic.nets.loss import MultiScaleLoss
from hirez_mosaic.nets.metrics import SIGMAS, SIZES, Eye, Judge, Judgement, mean_judgement
from hirez_mosaic.nets.objective import Picture, placed
from hirez_mosaic.nets.scoring import as_images
from hirez_mosaic.nets.training import soft_mosaic
from hirez_mosaic.nets.weights import resolve_alexnet, resolve_weights
from hirez_mosaic.outputs.appearing import check_output
from hirez_mosaic.pixels.geometry import CELL, Box
from hirez_mosaic.pixels.vips import captioned
from hirez_mosaic.settings.parsing import parse_colour, parse_tile
from hirez_mosaic.settings.spec import FAR_WEIGHT, RenderSpec
from hirez_mosaic.sources import open_source
from hirez_mosaic.templates import TemplateSet

SELECTIONS = ("L2", "SSIM", "residual", "trained", "fitted", "refined", "soft")
"""In the order of the table; "residual" is unfitted, "refined" is fitted first, "soft" is the fitted decoder's soft
mosaic.
"""
_LARGEST = 2048  # px of the longer side of an analysis image: pictures are judged whole
_FIGURE_SIDE = 512  # px of a panel's longer side


@dataclass(frozen=True)
class Row:
    """One picture under one selection.

    distinct: templates used, None for the soft mosaic. seconds: of the selection and all before it, without assembly; a
    fit that an earlier comparison left in the cache counts as long as it took to read.
    """

    source: Path
    selection: str
    judgement: Judgement
    distinct: int | None
    seconds: float


def compare(
    sources: Sequence[str | Path],
    templates: str | Path,
    tile: int | str | tuple[int, int] = 8,
    output: str | Path = "compared",
    *,
    side: int = 512,
    selections: Sequence[str] = SELECTIONS,
    trained: Sequence[str | Path] = (),
    fit: int = STEPS,
    refine: int = 15,
    far_weight: float = FAR_WEIGHT,
    device: str = "auto",
    precision: str = "auto",
    background: str | tuple[int, int, int] = "white",
    crop: str = "centre",
    exclude: Sequence[str] = (),
    strict: bool = False,
    weights: str | Path | None = None,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> list[Row]:
    """Make a mosaic of each source in every way, judge them, and leave a table and a figure for each source in the
    folder `output`.

    sources: pictures whose names, without suffix, differ.
    side: px of the longer side of the analysis image, 8 to a cell; at most 2,048, because pictures are judged whole.
    selections: some of `SELECTIONS`; "trained" is left out where there is no trained decoder.
    trained: decoder files; the cache's for these templates where there are none.
    The rest is as in `render`. Mosaics are judged with the templates at 8 x 8 px, in float32.

    Raises a subclass of HirezMosaicError.
    """
    listener = listener or Listener()
    folder, size = Path(output), parse_tile(tile)
    wrong = [name for name in selections if name not in SELECTIONS]
    if wrong or not selections:
        raise SettingError(f"There is no selection {', '.join(wrong) or 'given'}; use some of {', '.join(SELECTIONS)}.")
    if not CELL <= side <= _LARGEST:
        raise SettingError(f"The side is {side} px; use {CELL} to {_LARGEST}.")
    if not sources:
        raise SettingError("There is no source; name one picture or more.")
    stems = [Path(source).stem for source in sources]
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise SettingError(f"Two sources are called {twice}, and so would be their figures; rename one.")
    _check_outputs(
        [folder / _TABLE, *(folder / f"{stem}.png" for stem in stems)], [Path(source) for source in sources], overwrite
    )
    colour = parse_colour(background)
    found = cached_templates(Path(templates), size, colour, crop, listener, exclude=exclude, strict=strict)
    decoders = _decoders(selections, [Path(file) for file in trained], found, listener)
    named = None if weights is None else Path(weights)
    where = resolve_device(device)
    judge = _make_judge(resolve_weights(named, cache_folder("weights"), listener.note), where, listener)
    small = torch.from_numpy(found.at_cell_size())
    rows: list[Row] = []
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".compare-", dir=folder) as scratch:
        workspace = Path(scratch) / "workspace"
        for source in map(Path, sources):
            spec = RenderSpec(
                source=source,
                templates=Path(templates),
                tile=size,
                output=Path(scratch) / "mosaic.zarr",
                columns=_columns(source, side, size, colour),
                far_weight=far_weight,
                device=device,
                precision=precision,
                workspace=str(workspace),
                restart=True,
                overwrite=True,
                no_preview=True,
                memory=psutil.Process().memory_info().rss + free_memory(),
                background=colour,
                crop=crop,
                exclude=tuple(exclude),
                weights=named,
            )
            panels: dict[str, NDArray[np.uint8]] = {}
            seconds = 0.0
            for name, decoder in decoders.items():
                steps = fit if name in ("fitted", "refined", "soft") else 0
                with listener.stage(f"{source.stem}: {name}", 1, "mosaics"):
                    chosen = replace(spec, decoder=decoder, fit=steps, refine=refine if name == "refined" else 0)
                    result = run_render(chosen, Listener())
                panels.setdefault("input", np.asarray(zarr.open_array(workspace / "analysis", mode="r")))
                index_map = (
                    None
                    if name == "soft"
                    else np.asarray(zarr.open_array(workspace / "index_map", mode="r")).astype(np.int64)
                )
                mosaic = _soft(workspace, small, found.fingerprint) if index_map is None else _hard(index_map, small)
                seconds = max(
                    seconds, result.seconds.get("fit", 0.0)
                )  # the first fit is computed, later ones come from the cache
                spent = (
                    result.total_seconds
                    - result.seconds["assemble"]
                    - result.seconds.get("fit", 0.0)
                    + (seconds if steps else 0.0)
                )
                judgement = judge(as_images(panels["input"], where), mosaic.to(where), index_map, len(found.poses))
                rows.append(
                    Row(source, name, judgement, None if index_map is None else result.distinct_templates, spent)
                )
                panels[name] = mosaic[0].permute(1, 2, 0).mul(255).round().byte().numpy()
                _write_table(rows, folder / _TABLE)  # whatever goes wrong with the next
            _write_figure(panels, size, folder / f"{source.stem}.png")
    return rows


def _decoders(
    selections: Sequence[str], trained: Sequence[Path], templates: TemplateSet, listener: Listener
) -> dict[str, str]:
    """What renders each selection, in this order, every trained decoder being one. Raises SettingError, DecoderError."""
    if len({file.stem for file in trained}) < len(trained):
        raise SettingError("Two trained decoders have the same name, and so would have their panels; rename one.")
    cached = trained_path(cache_folder("decoders"), templates.fingerprint)
    files = {f"trained {file.stem}": file for file in trained} or ({"trained": cached} if cached.exists() else {})
    for file in files.values():
        load_decoder(file, len(templates), templates.fingerprint)
    if "trained" in selections and not files:
        listener.note("There is no trained decoder of these templates in the cache; the comparison goes without.")
    found: dict[str, str] = {}
    for name in selections:
        found |= (
            {one: str(file) for one, file in files.items()}
            if name == "trained"
            else {name: _DECODERS.get(name, "residual")}
        )
    if not found:
        raise SettingError("There is nothing left to compare; train a decoder, or name other selections.")
    return found


_DECODERS = {"L2": "l2", "SSIM": "ssim"}
_TABLE = "compared.csv"


def means(rows: Sequence[Row]) -> dict[str, Row]:
    """The mean of each selection over all sources, by name; `source` is the first."""
    found: dict[str, Row] = {}
    for name in dict.fromkeys(row.selection for row in rows):
        mine = [row for row in rows if row.selection == name]
        used = [row.distinct for row in mine if row.distinct is not None]
        judgement = mean_judgement([row.judgement for row in mine])
        distinct = round(float(np.mean(used))) if used else None
        found[name] = Row(mine[0].source, name, judgement, distinct, float(np.mean([row.seconds for row in mine])))
    return found


def _check_outputs(outputs: Sequence[Path], sources: Sequence[Path], overwrite: bool) -> None:
    """Raise SettingError for an output that is a source, OutputError for one that cannot be made or may not be
    replaced.
    """
    folder, ours = outputs[0].parent, {source.resolve() for source in sources}
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; name a folder with -o.")
    for path in outputs:
        if path.resolve() in ours:
            raise SettingError(f"The figure {path} would replace a source; name another folder with -o.")
        if folder.exists():
            check_output(path, overwrite)


def _make_judge(weights: dict[str, torch.Tensor], device: torch.device, listener: Listener) -> Judge:
    alexnet = None
    try:
        alexnet = resolve_alexnet(cache_folder("weights"), listener.note)
    except WeightsError as error:
        listener.note(f"LPIPS is left out, for AlexNet's weights are not to be had ({error}).")
    eye = None
    try:
        eye = Eye(device)
    except ImportError as error:
        listener.note(
            f"JOD and FLIP are left out, for they are not installed ({error}); pip install 'hirez-mosaic[eye]'."
        )
    return Judge(MultiScaleLoss(loss_network(weights, device, torch.float32)), alexnet, eye)


def _columns(source: Path, side: int, tile: tuple[int, int], background: tuple[int, int, int]) -> int:
    """Cells across at which the side of the analysis image with more cells has `side` px, about."""
    opened = open_source(source, background)
    try:
        across, down = opened.size[0] / tile[0], opened.size[1] / tile[1]
    finally:
        opened.close()
    return max(1, round(side / CELL * across / max(across, down)))


def _hard(index_map: NDArray[np.int64], templates: torch.Tensor) -> torch.Tensor:
    """(1, 3, 8 rows, 8 columns) the mosaic of an index map (rows, columns), at 8 px a cell. templates: (N, 8, 8, 3)."""
    return placed(
        templates.flatten(1)[torch.from_numpy(index_map).flatten()], Box(0, index_map.shape[0], 0, index_map.shape[1])
    )


def _soft(workspace: Path, templates: torch.Tensor, fingerprint: str) -> torch.Tensor:
    """The same of the coefficients (Eq. 1) of the decoder that a render left in its workspace, fitted."""
    group: Any = zarr.open_group(workspace, mode="r")
    decoder = load_decoder(workspace / "decoder.safetensors", len(templates), fingerprint)
    picture = Picture(group["analysis"], group["features"], gather_moments(group["moments"], lambda done: None))
    return soft_mosaic(decoder, picture, templates)


def _write_table(rows: Sequence[Row], path: Path) -> None:
    with fresh(path) as made, made.open("w", newline="") as file:
        writer = csv.writer(file)
        scales = [f"scale {scale}" for scale in range(len(rows[0].judgement.per_scale))]
        measures = [*scales, "Eq. 3", "LPIPS", "cell means", *(f"dE {sigma} px" for sigma in SIGMAS)]
        measures += [*(f"{name} {size}" for name in ("JOD", "FLIP") for size in SIZES), "equal neighbours"]
        writer.writerow(["source", "selection", *measures, "distinct", "seconds"])
        for row in rows:
            one = row.judgement
            values = [
                *one.per_scale,
                one.eq3,
                one.lpips,
                one.cell_means,
                *one.delta_e,
                *one.jod,
                *one.flip,
                one.equal_neighbours,
            ]
            writer.writerow([row.source, row.selection, *values, row.distinct, row.seconds])


def _write_figure(panels: dict[str, NDArray[np.uint8]], tile: tuple[int, int], path: Path) -> None:
    """All panels with their names, four in a row, in the shape that cells of `tile` (width, height) give them."""
    taller = tile[1] / tile[0]
    images = []
    for name, pixels in panels.items():
        image = pyvips.Image.new_from_array(np.ascontiguousarray(pixels)).copy(interpretation="srgb")
        factor = min(1.0, _FIGURE_SIDE / max(image.width, image.height * taller))
        image = image.resize(factor, vscale=factor * taller, kernel="lanczos3")
        images.append(captioned(image, name))
    with fresh(path) as made:
        pyvips.Image.arrayjoin(images, across=4, shim=8, background=[255, 255, 255]).write_to_file(str(made))
