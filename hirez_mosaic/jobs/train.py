"""Training: a decoder learned from a folder of pictures under Eq. 3 and the far view, in steps that a killed run can go
on from.

OUT.training/
├── checkpoint.safetensors   every 50 steps: decoder, Adam's state, the best decoder so far, the step; metadata: the settings
├── log.csv                  one line a step
├── preview.png              every 50 steps: pictures kept for judging, source above mosaic
└── tensorboard/             where TensorBoard is installed

All that is random follows from the seed and the step, so a resumed run sees what the undisturbed one would have seen.
"""

import csv
import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
import torch

from hirez_mosaic.engine.machine import cores, settled
from hirez_mosaic.engine.threads import shared_cores
from hirez_mosaic.errors import OutputError, OutputExistsError, SettingError, TrainingError
from hirez_mosaic.files.cache import cache_folder
from hirez_mosaic.files.fresh import fresh
from hirez_mosaic.jobs.decoder import trained_path
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.jobs.photos import Photos
from hirez_mosaic.jobs.template_sets import cached_templates, check_readable
from hirez_mosaic.nets.decoders import LearnedDecoder, new_decoder, read_whole, save_whole
from hirez_mosaic.nets.device import device_name, resolve_device, resolve_precision
from hirez_mosaic.nets.fitting import RICH_SET, best_start
from hirez_mosaic.nets.loss import SCALES, MultiScaleLoss, loss_network
from hirez_mosaic.nets.objective import Objective, Picture, Told, window_of
from hirez_mosaic.nets.training import PAPER, Recipe, Trainer
from hirez_mosaic.nets.vgg import VGG16, make_encoder
from hirez_mosaic.nets.weights import resolve_weights
from hirez_mosaic.pixels.geometry import CELL, Box
from hirez_mosaic.settings.choosing import FAR_WEIGHT
from hirez_mosaic.settings.decoders import DEFAULT, learning_kinds
from hirez_mosaic.settings.parsing import parse_colour, parse_tile
from hirez_mosaic.stages.encode import encode, second_moments, stored
from hirez_mosaic.templates import TemplateSet

RECIPES = {
    "default": Recipe(600, 2, 32, 3e-4, 1e-4, "cosine", (4.0, 60.0), far_weight=FAR_WEIGHT, warm_up=20, forgets=0.99),
    "paper": PAPER,
}
CROP = 512
"""Side of the crops that pictures are cut to, px; windows are cut out of these."""
EVERY = 50
"""Steps between two checkpoints: what a killed run loses at most."""
_REUSE = 4  # steps that look at other windows of the same crops, where windows are smaller than crops
_JUDGED = 4  # pictures kept for judging
_COLLAPSED = 0.25  # share of the distinct templates at the start below which a warning is due


@dataclass(frozen=True)
class TrainResult:
    """What came out.

    output: the decoder. hard_loss: (at the start, of the decoder kept) Eq. 3 + far view of hard mosaics of pictures
        kept for judging.
    distinct_templates: of those mosaics, (at the start, at the end). steps: in all. seconds: of this run's steps.
    """

    output: Path
    recipe: str
    device: str
    precision: str
    pictures: int
    left_out: tuple[tuple[str, str], ...]
    steps: int
    hard_loss: tuple[float, float]
    distinct_templates: tuple[int, int]
    seconds: float


@dataclass
class _Run:
    """A training under way: what a checkpoint holds."""

    trainer: Trainer
    best: dict[str, torch.Tensor]
    least: float
    start: tuple[float, int]


@settled
def train(
    templates: str | Path,
    images: str | Path,
    output: str | Path,
    tile: int | str | tuple[int, int] = 32,
    *,
    decoder: str = DEFAULT,
    recipe: str = "default",
    steps: int | None = None,
    batch: int | None = None,
    rate: float | None = None,
    far_weight: float | None = None,
    scales: Sequence[int] = (0, 1, 2),
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    precision: str = "auto",
    background: str | tuple[int, int, int] = "white",
    crop: str = "centre",
    exclude: Sequence[str] = (),
    strict: bool = False,
    weights: str | Path | None = None,
    listener: Listener | None = None,
) -> TrainResult:
    """Train a decoder for the pictures in the folder `templates` on those in the folder `images`; leave it in `output`.

    A residual decoder that became better than its start under the loss that renders fit by is left in the cache as
    well, where renders of these templates find it.
    decoder: "residual" or "paper". recipe: "default" or "paper" (the paper's section 3.1, with the linear rise of 1 /
        tau of its public code). Of either the best decoder is kept, judged by pictures that no step sees.
    steps, batch, rate, far_weight: instead of the recipe's. scales: of Eq. 3's pyramid. seed: of crops, and of the
        paper's decoder.
    resume: go on from the last checkpoint in OUT.training, to the same result as without the break.
    precision: of the networks that look at pictures; the decoder is trained in float32.
    exclude: of templates and images. strict: raise TemplateError for a file in either folder that cannot be read.
    The rest is as in `render`.

    Raises TrainingError where there is nothing to train on, where the checkpoint is of other settings, and where the
    loss becomes NaN; another subclass of HirezMosaicError for other wrong input.
    """
    listener, output = listener or Listener(), Path(output)
    if recipe not in RECIPES or decoder not in learning_kinds():
        raise SettingError(
            f"There is no recipe {recipe!r} or decoder {decoder!r}; use {' or '.join(RECIPES)}, and "
            f"{' or '.join(learning_kinds())}."
        )
    wanted = {"steps": steps, "batch": batch, "rate": rate, "far_weight": far_weight}
    given = {name: value for name, value in wanted.items() if value is not None}
    chosen = dataclasses.replace(RECIPES[recipe], **given)  # type: ignore[arg-type]
    numbers = 0 < chosen.rate < np.inf and 0 <= chosen.far_weight < np.inf and min(chosen.steps, chosen.batch) >= 1
    if not numbers or not set(scales) <= {0, 1, 2, 3} or not scales:
        raise SettingError(
            "Steps and batch are 1 or more, the rate is more than 0, the far weight 0 or more, scales are some of 0 to 3."
        )
    home = output.with_name(f"{output.name}.training")
    _check_places(output, home, (Path(templates), Path(images)), resume, overwrite)
    where = resolve_device(device)
    kind = resolve_precision(precision, where)
    size, colour = parse_tile(tile), parse_colour(background)
    found = cached_templates(Path(templates), size, colour, crop, listener, exclude=exclude, strict=strict)
    photos = Photos(Path(images), CROP, seed, cores(), exclude)
    try:
        check_readable(Path(images), photos.unreadable if strict else photos.left_out, listener, strict)
        vgg = resolve_weights(None if weights is None else Path(weights), cache_folder("weights"), listener.note)
        stream = _Stream(photos, make_encoder(vgg, where, kind), chosen, seed)
        small = torch.from_numpy(found.at_cell_size()).to(where)
        edge = "zero" if recipe == "paper" else "replicate"
        objective = Objective(
            MultiScaleLoss(loss_network(vgg, where, kind), tuple(scales), edge=edge), small, chosen.far_weight
        )
        settings = {
            **dataclasses.asdict(chosen),
            "decoder": decoder,
            "scales": list(scales),
            "seed": seed,
            "templates": found.fingerprint,
            "pictures": len(photos.files),
            "precision": str(kind),
            "recipe": recipe,
            "rate given": rate is not None,
        }
        told = json.loads(json.dumps(settings))
        with shared_cores(1):
            run, seconds = _train(found, small, objective, stream, chosen, decoder, seed, home, told, resume, listener)
        kept = _with_state(run.trainer.decoder, run.best)
        kept.inverse_temperature = run.trainer.recipe.inverse_temperature[1]  # whatever it was at the best step
        value, distinct = objective.hard(kept, *stream.judged())
        kept.save(output)
        if lack := _lack(kept.left_aside, recipe, chosen.far_weight, scales, better=run.least < run.start[0]):
            listener.note(
                f"Renders will not take this decoder by themselves, because {lack}; name it to them with --decoder {output}."
            )
        else:
            kept.save(trained_path(cache_folder("decoders"), found.fingerprint))
    finally:
        photos.close()
    return TrainResult(
        output=output,
        recipe=recipe,
        device=device_name(where),
        precision=str(kind).removeprefix("torch."),
        pictures=len(photos.files),
        left_out=tuple(photos.left_out),
        steps=run.trainer.step,
        hard_loss=(run.start[0], value),
        distinct_templates=(run.start[1], distinct),
        seconds=seconds,
    )


def _lack(left_aside: str, recipe: str, far_weight: float, scales: Sequence[int], *, better: bool) -> str:
    """Why a decoder is not for every render of its templates; empty where it is. left_aside: for its kind alone."""
    if left_aside:
        return left_aside
    if recipe == "paper" or not far_weight or set(scales) != set(SCALES):
        return "it was trained as the paper does, without the far view, or for other scales than theirs"
    return "" if better else "it is no better than its start, which they fit to each source"


def _check_places(output: Path, home: Path, inputs: Sequence[Path], resume: bool, overwrite: bool) -> None:
    if output.suffix != ".safetensors":
        raise SettingError(f"The output {output} should end in .safetensors.")
    if not output.absolute().parent.is_dir():
        raise OutputError(f"The output folder {output.absolute().parent} is not there; make it first.")
    for folder in inputs:
        if folder.resolve() in output.resolve().parents:
            raise SettingError(
                f"The output {output} and its preview would lie among the pictures in {folder}; name another place."
            )
    checkpoint = home / _CHECKPOINT
    if resume and not checkpoint.exists():
        raise TrainingError(f"There is no checkpoint {checkpoint} to go on from; leave --resume out.")
    if not resume and not overwrite:
        for path in (output, checkpoint):
            if path.exists():
                raise OutputExistsError(
                    f"{path} is there already; use --resume to go on with it, or --overwrite to begin anew."
                )


_CHECKPOINT = "checkpoint.safetensors"
_FORMAT = "hirez-mosaic training 1"


class _Stream:
    """Windows to train on: crops of random pictures, encoded whole, several windows out of each before the next are
    read.
    """

    def __init__(self, photos: Photos, encoder: VGG16, recipe: Recipe, seed: int) -> None:
        self._photos, self._encoder, self._recipe, self._seed = photos, encoder, recipe, seed
        kept = min(_JUDGED, max(1, len(photos.files) // 5)) if len(photos.files) > 1 else 0
        self._for_training, self._for_judging = range(kept, len(photos.files)), range(kept or 1)
        self._judged: list[Picture] = []

    def judged(self) -> tuple[list[Picture], list[Box]]:
        """The pictures no step sees (unless there is but one), and all of each."""
        if not self._judged:
            crops = [self._photos.ahead(range(number, number + 1), 2**31, 1) for number in self._for_judging]
            self._judged = [self._encoded(crop) for ready in crops for crop in ready()]
        return self._judged, [picture.box for picture in self._judged]

    def windows(self, step: int) -> Iterator[list[tuple[Picture, Box]]]:
        """The windows of this step, and of the next, and so on."""
        recipe = self._recipe
        reuse = _REUSE if recipe.window * CELL < CROP else 1
        group = step // reuse
        ready = self._photos.ahead(self._for_training, group, recipe.batch)
        while True:
            pictures = [self._encoded(crop) for crop in ready()]
            ready = self._photos.ahead(self._for_training, group + 1, recipe.batch)
            while step // reuse == group:
                rng = np.random.default_rng([self._seed, 2**30, step])
                yield [(picture, window_of(picture.box, recipe.window, rng)) for picture in pictures]
                step += 1
            group += 1

    def _encoded(self, crop: Any) -> Picture:
        features = encode(self._encoder, crop)[0].permute(1, 2, 0)
        return Picture(crop, stored(features), torch.from_numpy(second_moments(features)))


def _train(
    templates: TemplateSet,
    small: torch.Tensor,
    objective: Objective,
    stream: _Stream,
    recipe: Recipe,
    kind: str,
    seed: int,
    home: Path,
    settings: dict[str, Any],
    resume: bool,
    listener: Listener,
) -> tuple[_Run, float]:
    """All steps, from the start or from the checkpoint."""
    decoder = new_decoder(kind, small.cpu(), templates.fingerprint, seed).to(small.device)
    pictures, boxes = stream.judged()
    if resume:
        run = _restored(home / _CHECKPOINT, decoder, settings)
    else:
        decoder, start, rich = best_start(decoder, objective, pictures, boxes)
        if rich and settings["recipe"] == "default":
            slow = recipe.rate if settings["rate given"] else RICH_SET.rate
            recipe = dataclasses.replace(recipe, inverse_temperature=RICH_SET.inverse_temperature, rate=slow)
        trainer = Trainer(decoder, recipe)
        decoder.inverse_temperature = recipe.inverse_temperature[1]
        run = _Run(trainer, _state(decoder), start[0], start)
        home.mkdir(parents=True, exist_ok=True)
        _keep(home / _CHECKPOINT, run, settings)
    trainer = run.trainer
    warned, begun = False, time.perf_counter()
    with _Log(home, trainer.step) as log, listener.stage("train", recipe.steps, "steps") as progress:
        progress(trainer.step)
        for windows in stream.windows(trainer.step):
            if trainer.step >= recipe.steps:
                break
            inverse = trainer.inverse_temperature
            told = trainer.run(objective, windows)
            if not np.isfinite(told.loss + told.far + told.entropy):
                raise _not_finite(f"a loss of {told.loss}", trainer.step, home)
            hard = None
            if trainer.step % EVERY == 0 or trainer.step == recipe.steps:
                hard = objective.hard(trainer.decoder, pictures, boxes)
                if hard[0] < run.least:
                    run.best, run.least = _state(trainer.decoder), hard[0]
                if not all(bool(parameter.isfinite().all()) for parameter in trainer.decoder.parameters()):
                    raise _not_finite("a weight that is no number", trainer.step, home)
                _keep(home / _CHECKPOINT, run, settings)
                _write_preview(home / "preview.png", trainer.decoder, objective, pictures)
                if not warned and hard[1] < _COLLAPSED * run.start[1]:
                    warned = True
                    listener.note(
                        f"The selection is collapsing: {hard[1]} distinct templates on the pictures kept for judging, {run.start[1]} at "
                        "the start. A smaller --rate helps; the best decoder so far is kept."
                    )
            log.write(trainer.step, told, inverse, hard)
            listener.status(
                f"loss {told.loss:.2f}, far view {told.far:.4f}, 1/temperature {inverse:.1f}, entropy {told.entropy:.2f}, "
                f"{told.distinct} distinct, best {run.least:.2f}"
            )
            progress(1)
    return run, time.perf_counter() - begun


def _not_finite(what: str, step: int, home: Path) -> TrainingError:
    return TrainingError(
        f"Step {step} ended with {what}; the last good checkpoint is {home / _CHECKPOINT} (step {(step - 1) // EVERY * EVERY}). "
        "Begin anew with a smaller --rate, or another --seed."
    )


def _state(decoder: LearnedDecoder) -> dict[str, torch.Tensor]:
    state = {name: tensor.detach().cpu().clone() for name, tensor in decoder.state_dict().items()}
    return {**state, _INVERSE: torch.tensor(decoder.inverse_temperature, dtype=torch.float64)}


_INVERSE = "inverse_temperature"


def _with_state(decoder: LearnedDecoder, state: dict[str, torch.Tensor]) -> LearnedDecoder:
    decoder.load_state_dict({name: tensor for name, tensor in state.items() if name != _INVERSE})
    decoder.inverse_temperature = state[_INVERSE].item()
    return decoder


def _keep(path: Path, run: _Run, settings: dict[str, Any]) -> None:
    """Write the checkpoint; it replaces the last when it is complete."""
    tensors = {f"decoder.{name}": tensor for name, tensor in _state(run.trainer.decoder).items()}
    tensors |= {f"best.{name}": tensor for name, tensor in run.best.items()}
    for number, state in run.trainer.optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{number}.{name}": torch.as_tensor(value).cpu().contiguous() for name, value in state.items()}
    told = {
        "settings": settings,
        "recipe": dataclasses.asdict(run.trainer.recipe),
        "progress": [run.trainer.step, run.least, *run.start],
    }
    save_whole(tensors, path, {_FORMAT: json.dumps(told)})


def _restored(path: Path, decoder: LearnedDecoder, settings: dict[str, Any]) -> _Run:
    """The run as a checkpoint of the same settings left them. Raises TrainingError for one of others."""
    try:
        told, tensors = read_whole(path, _FORMAT)
    except OSError as error:
        raise TrainingError(f"The checkpoint {path} is damaged; begin anew with --overwrite.") from error
    before = told.get("settings", {})
    other = [name for name in settings if before.get(name) != settings[name]]
    if other:
        named = ", ".join(f"{name} {before.get(name)} instead of {settings[name]}" for name in other)
        raise TrainingError(
            f"The checkpoint {path} is of a training with {named}; name the same settings, or begin anew with --overwrite."
        )
    recipe: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in told["recipe"].items()
    }
    trainer = Trainer(_with_state(decoder, _part(tensors, "decoder.")), Recipe(**recipe))
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in _part(tensors, "adam.").items():
        number, what = name.split(".")
        state.setdefault(int(number), {})[what] = tensor
    trainer.optimiser.load_state_dict({**trainer.optimiser.state_dict(), "state": state})
    trainer.step, least, *start = told["progress"]
    return _Run(trainer, _part(tensors, "best."), least, (start[0], start[1]))


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


class _Log:
    """log.csv, and TensorBoard's events where it is installed; lines after `step`, of a run that was killed, are
    dropped.
    """

    _HEAD = ("step", "loss", "far view", "inverse temperature", "entropy", "distinct", "hard loss", "hard distinct")

    def __init__(self, home: Path, step: int) -> None:
        self._path = home / "log.csv"
        kept: list[list[str]] = []
        if step and self._path.exists():
            with self._path.open(newline="") as file:
                kept = [row for row in list(csv.reader(file))[1:] if row and int(row[0]) <= step]
        with fresh(self._path) as made, made.open("w", newline="") as file:
            csv.writer(file).writerows([self._HEAD, *kept])
        self._file = self._path.open("a", newline="")
        self._csv = csv.writer(self._file)
        self._board = _tensorboard(home / "tensorboard", step)

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()

    def write(self, step: int, told: Told, inverse_temperature: float, hard: tuple[float, int] | None) -> None:
        values = (told.loss, told.far, inverse_temperature, told.entropy, told.distinct, *(hard or ("", "")))
        self._csv.writerow([step, *values])
        self._file.flush()
        if self._board is not None:
            for name, value in zip(self._HEAD[1:], values, strict=True):
                if value != "":
                    self._board.add_scalar(name, value, step)


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


@torch.no_grad()
def _write_preview(path: Path, decoder: LearnedDecoder, objective: Objective, pictures: Sequence[Picture]) -> None:
    """The judged pictures side by side, source above mosaic."""
    score, columns = decoder.score(), []
    for picture in pictures:
        _, mosaic = objective.hard_mosaic(decoder, score, picture, picture.box)
        pixels = mosaic[0].permute(1, 2, 0).mul(255).round().byte().cpu().numpy()
        columns.append(pyvips.Image.new_from_array(np.ascontiguousarray(np.concatenate([picture.analysis, pixels]))))
    with fresh(path) as made:
        pyvips.Image.arrayjoin(columns, across=len(columns), shim=8).write_to_file(str(made))
