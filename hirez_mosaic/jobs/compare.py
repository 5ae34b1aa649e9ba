"""Compare: the ways to choose templates side by side, on the same pictures, by the same measures."""

import csv
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import psutil
import pyvips
import torch
import zarr
from numpy.typing import NDArray

from hirez_mosaic.engine.machine import free_memory, settled
from hirez_mosaic.errors import OutputError, SettingError, WeightsError
from hirez_mosaic.files.cache import cache_folder
from hirez_mosaic.files.fresh import fresh
from hirez_mosaic.jobs.choose import gather_moments
from hirez_mosaic.jobs.decoder import trained_path
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.jobs.render import RenderResult, run_render
from hirez_mosaic.jobs.template_sets import cached_templates
from hirez_mosaic.nets.decoders import load_decoder
from hirez_mosaic.nets.device import resolve_device
from hirez_mosaic.nets.fitting import STEPS
from hirez_mosaic.nets.loss import MultiScaleLoss, loss_network
from hirez_mosaic.nets.metrics import Eye, Judge, Judgement, mean_judgement
from hirez_mosaic.nets.objective import Picture, placed
from hirez_mosaic.nets.scoring import as_images
from hirez_mosaic.nets.training import soft_mosaic
from hirez_mosaic.nets.weights import resolve_alexnet, resolve_weights
from hirez_mosaic.outputs.appearing import check_output
from hirez_mosaic.pixels.geometry import CELL, Box
from hirez_mosaic.pixels.vips import captioned
from hirez_mosaic.settings.choosing import FAR_WEIGHT
from hirez_mosaic.settings.decoders import DEFAULT
from hirez_mosaic.settings.parsing import parse_tile
from hirez_mosaic.settings.shared import Shared, SharedSettings
from hirez_mosaic.settings.spec import RenderSpec, parse_settings
from hirez_mosaic.sources import open_source
from hirez_mosaic.templates import TemplateSet

_REFINING = 15  # steps
SELECTIONS = ("L2", "SSIM", "residual", "trained", "fitted", "refined", "soft")
"""The ways to choose templates, in the order of the table.

"residual" is not fitted; "refined" is fitted first; "soft" is the soft mosaic of the fitted decoder.
"""
_FITTED = ("fitted", "refined", "soft")
_DECODERS = {"L2": "l2", "SSIM": "ssim"}
_TABLE = "compared.csv"
_LARGEST = 2048  # px of the longer side of an analysis image at most, because pictures are judged whole
_FIGURE_SIDE = 512  # px of a panel's longer side


@dataclass(frozen=True)
class Row:
    """One source under one selection.

    source: the picture.
    selection: one of `SELECTIONS`, or "trained NAME" for one of several trained decoders.
    judgement: how far the mosaic is from the source.
    distinct: how many templates the mosaic uses; None for the soft mosaic.
    seconds: of the selection and all stages before it, without assembly. A fit that an earlier comparison left in the
        cache counts as long as it took to read.
    """

    source: Path
    selection: str
    judgement: Judgement
    distinct: int | None
    seconds: float


@settled
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
    refine: int = _REFINING,
    far_weight: float = FAR_WEIGHT,
    overwrite: bool = False,
    listener: Listener | None = None,
    **settings: Unpack[SharedSettings],
) -> list[Row]:
    """Make a mosaic of each source in every way, judge it, and write a table and a figure for each source.

    Mosaics are judged with templates of 8 x 8 px, in float32.

    sources: pictures; their names without suffix must differ.
    templates: folder of templates.
    output: folder for the table and the figures.
    side: longer side of the analysis image, px, 8 to a cell; from 8 to 2,048, because pictures are judged whole.
    selections: some of `SELECTIONS`. "trained" is left out where there is no trained decoder.
    trained: files of decoders; where there are none, the one in the cache for these templates.
    fit: steps of fitting.
    refine: steps of refining.
    overwrite: replace a table and figures that are there.
    The rest is as in `render`.

    Raises a subclass of HirezMosaicError.
    """
    listener, folder, paths = listener or Listener(), Path(output), [Path(source) for source in sources]
    size, shared = parse_tile(tile), Shared(**parse_settings(settings))
    _check_settings(selections, side)
    _check_effect(selections, fit, refine, far_weight)
    _check_outputs(folder, paths, overwrite)
    found = cached_templates(
        Path(templates), size, shared.background, shared.crop, listener, exclude=shared.exclude, strict=shared.strict
    )
    decoders = _decoders(selections, [Path(file) for file in trained], found, listener)
    where = resolve_device(shared.device)
    judge = _make_judge(resolve_weights(shared.weights, cache_folder("weights"), listener.note), where, listener)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix=".compare-", dir=folder) as scratch:
        workspace = Path(scratch) / "workspace"
        small = torch.from_numpy(found.at_cell_size())
        comparison = _Comparison(folder, workspace, found, small, decoders, fit, refine, judge, where, listener)
        for source in paths:
            spec = RenderSpec(
                source=source,
                templates=Path(templates),
                tile=size,
                output=Path(scratch) / "mosaic.zarr",
                columns=_columns(source, side, size, shared.background),
                far_weight=far_weight,
                workspace=str(workspace),
                restart=True,
                overwrite=True,
                no_preview=True,
                memory=psutil.Process().memory_info().rss + free_memory(),
                **vars(shared),
            )
            comparison.add(spec, rows)
    return rows


@dataclass(frozen=True)
class _Comparison:
    """What the sources of a comparison share.

    folder: for the table and the figures.
    workspace: of each render in turn.
    small: (N, 8, 8, 3) the templates as a cell sees them, in [0, 1].
    decoders: by selection, what `RenderSpec.decoder` takes.
    fit, refine: steps.
    """

    folder: Path
    workspace: Path
    templates: TemplateSet
    small: torch.Tensor
    decoders: dict[str, str]
    fit: int
    refine: int
    judge: Judge
    device: torch.device
    listener: Listener

    def add(self, spec: RenderSpec, rows: list[Row]) -> None:
        """Add a row for each selection of one source, and write its figure.

        spec: a render of the source, whatever its decoder and its steps.
        The table is written after every row, so that a later failure loses nothing.
        """
        panels: dict[str, NDArray[np.uint8]] = {}
        fit_seconds = 0.0
        for selection in self.decoders:
            result = self._render(spec, selection)
            # Only the first fit is computed; the later ones come from the cache.
            fit_seconds = max(fit_seconds, result.seconds.get("fit", 0.0))
            panels.setdefault("input", np.asarray(zarr.open_array(self.workspace / "analysis", mode="r")))
            mosaic, index_map = self._mosaic(selection)
            rows.append(
                Row(
                    spec.source,
                    selection,
                    self._judgement(panels["input"], mosaic, index_map),
                    None if index_map is None else result.distinct_templates,
                    _seconds(result, fit_seconds if selection in _FITTED else 0.0),
                )
            )
            panels[selection] = mosaic[0].permute(1, 2, 0).mul(255).round().byte().numpy()
            _write_table(rows, self.folder / _TABLE)
        _write_figure(panels, spec.tile, self.folder / f"{spec.source.stem}.png")

    def _render(self, spec: RenderSpec, selection: str) -> RenderResult:
        fit = self.fit if selection in _FITTED else 0
        refine = self.refine if selection == "refined" else 0
        with self.listener.stage(f"{spec.source.stem}: {selection}", 1, "mosaics"):
            return run_render(replace(spec, decoder=self.decoders[selection], fit=fit, refine=refine), Listener())

    def _mosaic(self, selection: str) -> tuple[torch.Tensor, NDArray[np.int64] | None]:
        """((1, 3, 8 rows, 8 columns) the mosaic of the last render, (rows, columns) its index map, if it is hard)."""
        if selection == "soft":
            return _soft(self.workspace, self.small, self.templates.fingerprint), None
        index_map = np.asarray(zarr.open_array(self.workspace / "index_map", mode="r")).astype(np.int64)
        return _hard(index_map, self.small), index_map

    def _judgement(
        self, analysis: NDArray[np.uint8], mosaic: torch.Tensor, index_map: NDArray[np.int64] | None
    ) -> Judgement:
        source = as_images(analysis, self.device)
        return self.judge(source, mosaic.to(self.device), index_map, len(self.templates.poses))


def _seconds(result: RenderResult, fit_seconds: float) -> float:
    """Seconds of a render without assembly, as if its fit had taken `fit_seconds`."""
    return result.total_seconds - result.seconds["assemble"] - result.seconds.get("fit", 0.0) + fit_seconds


def mean_rows(rows: Sequence[Row]) -> dict[str, Row]:
    """The mean of each selection over all sources, by name; `source` is the first."""
    return {
        name: _mean_row([row for row in rows if row.selection == name])
        for name in dict.fromkeys(row.selection for row in rows)
    }


def _mean_row(rows: Sequence[Row]) -> Row:
    distinct = [row.distinct for row in rows if row.distinct is not None]
    return Row(
        rows[0].source,
        rows[0].selection,
        mean_judgement([row.judgement for row in rows]),
        round(float(np.mean(distinct))) if distinct else None,
        float(np.mean([row.seconds for row in rows])),
    )


def _check_settings(selections: Sequence[str], side: int) -> None:
    wrong = [name for name in selections if name not in SELECTIONS]
    if wrong or not selections:
        raise SettingError(f"There is no selection {', '.join(wrong) or 'given'}; use some of {', '.join(SELECTIONS)}.")
    if not CELL <= side <= _LARGEST:
        raise SettingError(f"The side is {side} px; use {CELL} to {_LARGEST}.")


def _check_effect(selections: Sequence[str], fit: int, refine: int, far_weight: float) -> None:
    """Raise SettingError for a setting that no selection heeds."""
    for name, given, heeding in (
        ("fit", fit != STEPS, _FITTED),
        ("refine", refine != _REFINING, ("refined",)),
        ("far_weight", far_weight != FAR_WEIGHT, _FITTED),
    ):
        if given and not set(heeding) & set(selections):
            raise SettingError(f"`{name}` is of the selections {', '.join(sorted(heeding))}; add one, or leave it out.")


def _check_outputs(folder: Path, sources: Sequence[Path], overwrite: bool) -> None:
    """Raise an error where table or figures cannot be made, may not be replaced, or would replace a source."""
    if not sources:
        raise SettingError("There is no source; name one picture or more.")
    stems = [source.stem for source in sources]
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise SettingError(f"Two sources are called {twice}, and so would be their figures; rename one.")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; name a folder with `output`.")
    resolved = {source.resolve() for source in sources}
    for path in (folder / _TABLE, *(folder / f"{stem}.png" for stem in stems)):
        if path.resolve() in resolved:
            raise SettingError(f"The figure {path} would replace a source; name another folder with `output`.")
        if folder.exists():
            check_output(path, overwrite)


def _decoders(
    selections: Sequence[str], trained: Sequence[Path], templates: TemplateSet, listener: Listener
) -> dict[str, str]:
    """What `RenderSpec.decoder` takes, by selection, in this order; every trained decoder is a selection of its own.

    Raises SettingError where nothing is left to compare, DecoderError for a file that does not fit the templates.
    """
    files = _trained_files(trained, templates)
    if "trained" in selections and not files:
        listener.note("There is no trained decoder of these templates in the cache; the comparison goes without.")
    found: dict[str, str] = {}
    for name in selections:
        found |= files if name == "trained" else {name: _DECODERS.get(name, DEFAULT)}
    if not found:
        raise SettingError("There is nothing left to compare; train a decoder, or name other selections.")
    return found


def _trained_files(trained: Sequence[Path], templates: TemplateSet) -> dict[str, str]:
    """The decoders that are named, or else the one in the cache, by selection."""
    if len({file.stem for file in trained}) < len(trained):
        raise SettingError("Two trained decoders have the same name, and so would have their panels; rename one.")
    cached = trained_path(cache_folder("decoders"), templates.fingerprint)
    files = {f"trained {file.stem}": file for file in trained} or ({"trained": cached} if cached.exists() else {})
    for file in files.values():
        load_decoder(file, len(templates), templates.fingerprint)
    return {name: str(file) for name, file in files.items()}


def _make_judge(weights: dict[str, torch.Tensor], device: torch.device, listener: Listener) -> Judge:
    """A judge with all measures that can be had; the listener gets a note of those that cannot."""
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
    """Cells across at which the longer side of the analysis image has about `side` px."""
    opened = open_source(source, background)
    try:
        across, down = opened.size[0] / tile[0], opened.size[1] / tile[1]
    finally:
        opened.close()
    return max(1, round(side / CELL * across / max(across, down)))


def _hard(index_map: NDArray[np.int64], templates: torch.Tensor) -> torch.Tensor:
    """(1, 3, 8 rows, 8 columns) the mosaic of an index map (rows, columns), at 8 px a cell.

    templates: (N, 8, 8, 3) in [0, 1].
    """
    rows, columns = index_map.shape
    return placed(templates.flatten(1)[torch.from_numpy(index_map).flatten()], Box(0, rows, 0, columns))


def _soft(workspace: Path, templates: torch.Tensor, fingerprint: str) -> torch.Tensor:
    """(1, 3, 8 rows, 8 columns) the soft mosaic (Eq. 1) of the fitted decoder in the workspace of a render.

    templates: (N, 8, 8, 3) in [0, 1].
    """
    group: Any = zarr.open_group(workspace, mode="r")
    decoder = load_decoder(workspace / "decoder.safetensors", len(templates), fingerprint)
    picture = Picture(group["analysis"], group["features"], gather_moments(group["moments"], lambda done: None))
    return soft_mosaic(decoder, picture, templates)


def _write_table(rows: Sequence[Row], path: Path) -> None:
    with fresh(path) as made, made.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["source", "selection", *rows[0].judgement.named(), "distinct", "seconds"])
        for row in rows:
            values = row.judgement.named().values()
            writer.writerow([row.source, row.selection, *values, row.distinct, row.seconds])


def _write_figure(panels: dict[str, NDArray[np.uint8]], tile: tuple[int, int], path: Path) -> None:
    """Write all panels with their names, four in a row, stretched to the shape of tiles (width, height)."""
    taller = tile[1] / tile[0]
    images = []
    for name, pixels in panels.items():
        image = pyvips.Image.new_from_array(np.ascontiguousarray(pixels)).copy(interpretation="srgb")
        factor = min(1.0, _FIGURE_SIDE / max(image.width, image.height * taller))
        image = image.resize(factor, vscale=factor * taller, kernel="lanczos3")
        images.append(captioned(image, name))
    with fresh(path) as made:
        pyvips.Image.arrayjoin(images, across=4, shim=8, background=[255, 255, 255]).write_to_file(str(made))
