"""Training: a decoder learned from a folder of pictures under Eq. 3 and the far view. A killed run can be resumed.

OUT.training/
├── checkpoint.safetensors   every 50 steps: decoder, Adam's state, the best decoder so far, the step, the settings
├── log.csv                  one line a step
├── preview.png              every 50 steps: the pictures kept for judging, source above mosaic
└── tensorboard/             where TensorBoard is installed

All random numbers follow from the seed and the step, so a resumed run gives the result of an undisturbed one.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pyvips
import torch

from hirez_mosaic.engine.machine import cores, settled
from hirez_mosaic.engine.threads import shared_cores
from hirez_mosaic.errors import OutputError, OutputExistsError, SettingError, TrainingError
from hirez_mosaic.files.cache import cache_folder
from hirez_mosaic.files.fresh import fresh
from hirez_mosaic.jobs.checkpoint import (
    TrainingState,
    decoder_state,
    load_checkpoint,
    restore_decoder,
    save_checkpoint,
)
from hirez_mosaic.jobs.decoder import trained_path
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.jobs.photos import Photos
from hirez_mosaic.jobs.template_sets import cached_templates, check_readable
from hirez_mosaic.jobs.training_log import TrainingLog
from hirez_mosaic.jobs.training_windows import TrainingWindows
from hirez_mosaic.nets.decoders import LearnedDecoder, new_decoder
from hirez_mosaic.nets.device import device_name, resolve_device, resolve_precision
from hirez_mosaic.nets.fitting import RICH_SET, best_start
from hirez_mosaic.nets.loss import SCALES, MultiScaleLoss, loss_network
from hirez_mosaic.nets.objective import Objective, Picture, Told
from hirez_mosaic.nets.training import CENTRED, PAPER, Trainer, TrainingRecipe
from hirez_mosaic.nets.vgg import make_encoder
from hirez_mosaic.nets.weights import resolve_weights
from hirez_mosaic.pixels.geometry import CELL
from hirez_mosaic.settings.choosing import FAR_WEIGHT
from hirez_mosaic.settings.decoders import DEFAULT, learning_kinds
from hirez_mosaic.settings.parsing import parse_tile
from hirez_mosaic.settings.shared import Shared, SharedSettings
from hirez_mosaic.settings.spec import parse_settings
from hirez_mosaic.templates import TemplateSet

RECIPES = {
    "default": TrainingRecipe(
        600, 2, 32, 3e-4, 1e-4, "cosine", (4.0, 60.0), far_weight=FAR_WEIGHT, warm_up=20, forgets=0.99
    ),
    "paper": PAPER,
}
DEFAULTS = {"paper": CENTRED}
"""The default recipe of a kind of decoder that has one of its own."""
CROP_SIDE = 512
"""Side of the crops that are cut out of the pictures, px; windows are cut out of the crops."""
EVERY = 50
"""Steps between two checkpoints: a killed run loses at most so many."""
_COLLAPSED = 0.25  # a warning comes when fewer than this share of the distinct templates at the start is left
_CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class TrainResult:
    """The result of a training.

    output: the decoder's file.
    recipe: "default" or "paper".
    device: name of the device.
    precision: of the encoder and the loss network.
    pictures: how many were trained on or kept for judging.
    left_out: (name, reason) of each file in the folder of pictures that was not used.
    steps: all that were taken, those before a break too.
    hard_loss: (at the start, of the decoder that was kept) Eq. 3 + far view of hard mosaics of the judged pictures.
    distinct_templates: (at the start, of the decoder that was kept) in these mosaics.
    seconds: of this run's steps.
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
    window: int | None = None,
    rate: float | None = None,
    far_weight: float | None = None,
    scales: Sequence[int] = (0, 1, 2),
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
    **settings: Unpack[SharedSettings],
) -> TrainResult:
    """Train a decoder for the templates in one folder on the pictures in another, and write it to `output`.

    The best decoder is kept, judged by pictures that no step sees. A residual decoder that became better than its
    start, under the loss that renders fit by, also goes into the cache, where renders of these templates find it.

    templates: folder of templates.
    images: folder of pictures to learn from; subfolders count.
    output: file of the decoder, .safetensors.
    decoder: "residual" or "paper".
    recipe: "default", or "paper": the paper's section 3.1, with the linear rise of 1 / tau of its public code. The
        default one of the paper's decoder is the same in steps and rates that keep most templates in use.
    steps: 1 or more, instead of the recipe's. Annealing and decay keep their shares of them.
    batch: windows a step, 1 or more, instead of the recipe's.
    window: side of a window, px, 64 to 512 by 8, instead of the recipe's.
    rate: learning rate above 0, instead of the recipe's; of the default recipe of the paper's decoder the share of each
        layer's Xavier range, 0 to 1.
    far_weight: weight of the far view, 0 or more, instead of the recipe's.
    scales: levels of Eq. 3's pyramid, some of 0 to 3.
    seed: of the crops, and of the paper's decoder.
    resume: go on from the last checkpoint in OUT.training; the result is that of an unbroken run.
    overwrite: replace an output and checkpoints that are there.
    precision: of the encoder and the loss network; the decoder is trained in float32.
    exclude: patterns of files to leave out of both folders.
    strict: raise TemplateError for a file in either folder that cannot be read.
    The rest is as in `render`.

    Raises TrainingError where there is nothing to train on, where the checkpoint was written with other settings, and
    where the loss becomes NaN. Raises another subclass of HirezMosaicError for other wrong input.
    """
    listener, output, folders = listener or Listener(), Path(output), (Path(templates), Path(images))
    chosen = _chosen_recipe(recipe, decoder, steps, batch, window, rate, far_weight)
    choices = _Choices(decoder, recipe, chosen, tuple(scales), seed, rate is not None)
    home = output.with_name(f"{output.name}.training")
    _check_places(output, home, folders, resume, overwrite)
    shared = Shared(**parse_settings(settings))
    where = resolve_device(shared.device)
    dtype = resolve_precision(shared.precision, where)
    found = cached_templates(
        folders[0],
        parse_tile(tile),
        shared.background,
        shared.crop,
        listener,
        exclude=shared.exclude,
        strict=shared.strict,
    )
    with closing(Photos(folders[1], CROP_SIDE, seed, cores(), shared.exclude)) as photos:
        unused = photos.unreadable if shared.strict else photos.left_out
        check_readable(folders[1], unused, listener, shared.strict)
        vgg = resolve_weights(shared.weights, cache_folder("weights"), listener.note)
        training = _Training(choices, found, photos, vgg, where, dtype, home, listener)
        with shared_cores(1):
            state = training.restored() if resume else training.begun()
            seconds = training.run(state)
        kept = training.best(state)
        hard_loss, distinct = training.hard(kept)
    _publish(kept, output, _why_not_cached(kept.left_aside, choices, better=state.best_loss < state.start[0]), listener)
    return TrainResult(
        output=output,
        recipe=recipe,
        device=device_name(where),
        precision=str(dtype).removeprefix("torch."),
        pictures=len(photos.files),
        left_out=tuple(photos.left_out),
        steps=state.trainer.step,
        hard_loss=(state.start[0], hard_loss),
        distinct_templates=(state.start[1], distinct),
        seconds=seconds,
    )


@dataclass(frozen=True)
class _Choices:
    """The settings that decide the result of a training, besides its pictures and templates.

    decoder: "residual" or "paper".
    recipe_name: "default" or "paper".
    recipe: the one of that name with what was given instead.
    scales: levels of Eq. 3's pyramid, some of 0 to 3.
    seed: of the crops, and of the paper's decoder.
    rate_given: whether the learning rate was given.
    Raises SettingError for a value out of range.
    """

    decoder: str
    recipe_name: str
    recipe: TrainingRecipe
    scales: tuple[int, ...]
    seed: int
    rate_given: bool

    def __post_init__(self) -> None:
        recipe = self.recipe
        weights = 0 < recipe.rate < np.inf and 0 <= recipe.far_weight < np.inf
        scales = self.scales and set(self.scales) <= {0, 1, 2, 3}
        if not weights or not scales or min(recipe.steps, recipe.batch) < 1:
            raise SettingError(
                "Steps and batch are 1 or more, the rate is more than 0, the far weight 0 or more, "
                "scales are some of 0 to 3."
            )

    def to_json(self, fingerprint: str, pictures: int, dtype: torch.dtype) -> dict[str, Any]:
        """All that decides the result, as JSON values, for the checkpoint.

        fingerprint: of the templates. pictures: how many there are. dtype: of the networks.
        """
        settings = {
            **dataclasses.asdict(self.recipe),
            "decoder": self.decoder,
            "scales": self.scales,
            "seed": self.seed,
            "templates": fingerprint,
            "pictures": pictures,
            "precision": str(dtype),
            "recipe": self.recipe_name,
            "rate given": self.rate_given,
        }
        return json.loads(json.dumps(settings))


def _chosen_recipe(
    name: str,
    decoder: str,
    steps: int | None,
    batch: int | None,
    window: int | None,
    rate: float | None,
    far_weight: float | None,
) -> TrainingRecipe:
    """The recipe of that name, with what is given instead.

    Raises SettingError for a name that does not exist, or a window of no whole cells.
    """
    if name not in RECIPES or decoder not in learning_kinds():
        raise SettingError(
            f"There is no recipe {name!r} or decoder {decoder!r}; use {' or '.join(RECIPES)}, and "
            f"{' or '.join(learning_kinds())}."
        )
    if window is not None and (not 64 <= window <= 512 or window % CELL):
        raise SettingError(f"The window is {window} px; use 64 to 512, a multiple of {CELL}.")
    recipe = DEFAULTS.get(decoder, RECIPES[name]) if name == "default" else RECIPES[name]
    changed = dataclasses.replace(
        recipe,
        batch=recipe.batch if batch is None else batch,
        window=recipe.window if window is None else window // CELL,
        rate=recipe.rate if rate is None else rate,
        far_weight=recipe.far_weight if far_weight is None else far_weight,
    )
    return changed if steps is None else changed.in_steps(steps)


def _check_places(output: Path, home: Path, inputs: Sequence[Path], resume: bool, overwrite: bool) -> None:
    """Raise an error for an output that cannot be written or lies among the inputs, or for a missing checkpoint."""
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
        raise TrainingError(f"There is no checkpoint {checkpoint} to go on from; leave `resume` out.")
    if not resume and not overwrite:
        for path in (output, checkpoint):
            if path.exists():
                raise OutputExistsError(
                    f"{path} is there already; use `resume` to go on with it, or `overwrite` to begin anew."
                )


def _publish(decoder: LearnedDecoder, output: Path, reason: str, listener: Listener) -> None:
    """Write the decoder to `output`, and into the cache unless there is a reason against it."""
    decoder.save(output)
    if reason:
        listener.note(
            f"Renders will not take this decoder by themselves, because {reason}; "
            f"name it to them with `decoder={output}`."
        )
    else:
        decoder.save(trained_path(cache_folder("decoders"), decoder.fingerprint))


def _why_not_cached(left_aside: str, choices: _Choices, *, better: bool) -> str:
    """Why renders should not find the decoder in the cache; empty where they should.

    left_aside: the reason that holds for its kind, empty for none.
    better: whether it became better than its start.
    """
    if left_aside:
        return left_aside
    recipe = choices.recipe
    if choices.recipe_name == "paper" or not recipe.far_weight or set(choices.scales) != set(SCALES):
        return "it was trained as the paper does, without the far view, or for other scales than theirs"
    return "" if better else "it is no better than its start, which they fit to each source"


class _Training:
    """What the steps of a training share: templates, windows, objective, checkpoint and listener.

    weights: VGG-16's.
    where: device of all networks.
    dtype: of the encoder and the loss network.
    home: folder for checkpoint, log and preview.
    """

    def __init__(
        self,
        choices: _Choices,
        templates: TemplateSet,
        photos: Photos,
        weights: dict[str, torch.Tensor],
        where: torch.device,
        dtype: torch.dtype,
        home: Path,
        listener: Listener,
    ) -> None:
        self._choices, self._home, self._listener = choices, home, listener
        self._small = torch.from_numpy(templates.at_cell_size())
        self._fingerprint = templates.fingerprint
        edge = "zero" if choices.recipe_name == "paper" else "replicate"
        loss = MultiScaleLoss(loss_network(weights, where, dtype), choices.scales, edge=edge)
        self._objective = Objective(loss, self._small.to(where), choices.recipe.far_weight)
        self._windows = TrainingWindows(photos, make_encoder(weights, where, dtype), choices.recipe, choices.seed)
        self._settings = choices.to_json(templates.fingerprint, len(photos.files), dtype)
        self._where = where
        self._warned = False

    def begun(self) -> TrainingState:
        """The state before the first step, with the best start and a first checkpoint."""
        recipe, judged = self._choices.recipe, self._windows.judged()
        decoder, start, rich = best_start(self._new_decoder(), self._objective, judged, [one.box for one in judged])
        if rich and self._choices.recipe_name == "default":
            rate = recipe.rate if self._choices.rate_given else RICH_SET.rate
            recipe = dataclasses.replace(recipe, inverse_temperature=RICH_SET.inverse_temperature, rate=rate)
        trainer = Trainer(decoder, recipe)
        decoder.inverse_temperature = recipe.inverse_temperature[1]
        state = TrainingState(trainer, decoder_state(decoder), start[0], start)
        self._home.mkdir(parents=True, exist_ok=True)
        save_checkpoint(self._home / _CHECKPOINT, state, self._settings)
        return state

    def restored(self) -> TrainingState:
        """The state that the checkpoint holds. Raises TrainingError where it is damaged or of other settings."""
        return load_checkpoint(self._home / _CHECKPOINT, self._new_decoder(), self._settings)

    def _new_decoder(self) -> LearnedDecoder:
        kind, seed = self._choices.decoder, self._choices.seed
        return new_decoder(kind, self._small, self._fingerprint, seed).to(self._where)

    def run(self, state: TrainingState) -> float:
        """Take all steps that are left; returns the seconds they took. Raises TrainingError where the loss is NaN."""
        start, trainer, steps = time.perf_counter(), state.trainer, self._choices.recipe.steps
        with TrainingLog(self._home, trainer.step) as log, self._listener.stage("train", steps, "steps") as progress:
            progress(trainer.step)
            for windows in islice(self._windows.since(trainer.step), steps - trainer.step):
                inverse = trainer.inverse_temperature
                figures = trainer.run(self._objective, windows)
                if not np.isfinite(figures.loss + figures.far + figures.entropy):
                    raise self._not_finite(f"a loss of {figures.loss}", trainer.step)
                hard = self._checkpoint(state) if trainer.step % EVERY == 0 or trainer.step == steps else None
                log.write(trainer.step, figures, inverse, hard)
                self._listener.status(_status(figures, inverse, state.best_loss))
                progress(1)
        return time.perf_counter() - start

    def _checkpoint(self, state: TrainingState) -> tuple[float, int]:
        """Judge the decoder, keep it if it is the best so far, and write checkpoint and preview; returns `hard` of it.

        Raises TrainingError where a weight is not finite.
        """
        decoder = state.trainer.decoder
        value, distinct = self.hard(decoder)
        if value < state.best_loss:
            state.best, state.best_loss = decoder_state(decoder), value
        if not all(bool(parameter.isfinite().all()) for parameter in decoder.parameters()):
            raise self._not_finite("a weight that is no number", state.trainer.step)
        save_checkpoint(self._home / _CHECKPOINT, state, self._settings)
        _write_preview(self._home / "preview.png", decoder, self._objective, self._windows.judged())
        self._warn_of_collapse(distinct, state.start[1])
        return value, distinct

    def hard(self, decoder: LearnedDecoder) -> tuple[float, int]:
        """(hard loss, distinct templates) of a decoder on the pictures kept for judging."""
        judged = self._windows.judged()
        return self._objective.hard(decoder, judged, [picture.box for picture in judged])

    def best(self, state: TrainingState) -> LearnedDecoder:
        """The best decoder so far, at the last temperature of its recipe, whatever it was at the best step."""
        decoder = restore_decoder(state.trainer.decoder, state.best)
        decoder.inverse_temperature = state.trainer.recipe.inverse_temperature[1]
        return decoder

    def _warn_of_collapse(self, distinct: int, at_start: int) -> None:
        """Note once that few distinct templates are left."""
        if self._warned or distinct >= _COLLAPSED * at_start:
            return
        self._warned = True
        self._listener.note(
            f"The selection is collapsing: {distinct} distinct templates on the pictures kept for judging, "
            f"{at_start} at the start. A smaller `rate` helps; the best decoder so far is kept."
        )

    def _not_finite(self, what: str, step: int) -> TrainingError:
        return TrainingError(
            f"Step {step} ended with {what}; the last good checkpoint is {self._home / _CHECKPOINT} "
            f"(step {(step - 1) // EVERY * EVERY}). Begin anew with a smaller `rate`, or another `seed`."
        )


def _status(figures: Told, inverse_temperature: float, best_loss: float) -> str:
    return (
        f"loss {figures.loss:.2f}, far view {figures.far:.4f}, 1/temperature {inverse_temperature:.1f}, "
        f"entropy {figures.entropy:.2f}, {figures.distinct} distinct, best {best_loss:.2f}"
    )


@torch.no_grad()
def _write_preview(path: Path, decoder: LearnedDecoder, objective: Objective, pictures: Sequence[Picture]) -> None:
    """Write the judged pictures side by side, source above mosaic."""
    score, columns = decoder.score(), []
    for picture in pictures:
        _, mosaic = objective.hard_mosaic(decoder, score, picture, picture.box)
        pixels = mosaic[0].permute(1, 2, 0).mul(255).round().byte().cpu().numpy()
        columns.append(pyvips.Image.new_from_array(np.ascontiguousarray(np.concatenate([picture.analysis, pixels]))))
    with fresh(path) as made:
        pyvips.Image.arrayjoin(columns, across=len(columns), shim=8).write_to_file(str(made))
