"""The checkpoint of a training: decoder, Adam's state, the best decoder so far and the step, in one file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hirez_mosaic.errors import TrainingError
from hirez_mosaic.nets.decoders import LearnedDecoder, read_whole, save_whole
from hirez_mosaic.nets.training import Trainer, TrainingRecipe

Tensors = dict[str, torch.Tensor]

_FORMAT = "hirez-mosaic training 1"
_INVERSE = "inverse_temperature"


@dataclass
class TrainingState:
    """How far a training is.

    trainer: the decoder, its optimiser, and the step it has reached.
    best: `decoder_state` of the decoder with the lowest hard loss so far.
    best_loss: this hard loss.
    start: (hard loss, distinct templates) before the first step.
    """

    trainer: Trainer
    best: Tensors
    best_loss: float
    start: tuple[float, int]


def decoder_state(decoder: LearnedDecoder) -> Tensors:
    """A copy of the decoder's tensors and of its inverse temperature, on the CPU."""
    state = {name: tensor.detach().cpu().clone() for name, tensor in decoder.state_dict().items()}
    return {**state, _INVERSE: torch.tensor(decoder.inverse_temperature, dtype=torch.float64)}


def restore_decoder(decoder: LearnedDecoder, state: Tensors) -> LearnedDecoder:
    """Give the decoder what `decoder_state` copied; returns the same decoder."""
    decoder.load_state_dict({name: tensor for name, tensor in state.items() if name != _INVERSE})
    decoder.inverse_temperature = state[_INVERSE].item()
    return decoder


def save_checkpoint(path: Path, state: TrainingState, settings: dict[str, Any]) -> None:
    """Write a checkpoint; it replaces the last one when it is complete.

    settings: JSON values that decide the result; `load_checkpoint` compares them.
    """
    tensors = {f"decoder.{name}": tensor for name, tensor in decoder_state(state.trainer.decoder).items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best.items()}
    for number, values in state.trainer.optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{number}.{name}": torch.as_tensor(one).cpu().contiguous() for name, one in values.items()}
    metadata = {
        "settings": settings,
        "recipe": asdict(state.trainer.recipe),
        "progress": [state.trainer.step, state.best_loss, *state.start],
    }
    save_whole(tensors, path, {_FORMAT: json.dumps(metadata)})


def load_checkpoint(path: Path, decoder: LearnedDecoder, settings: dict[str, Any]) -> TrainingState:
    """Read a checkpoint into `decoder` and a new trainer.

    Raises TrainingError for a damaged file, and for one that was written with other settings.
    """
    try:
        metadata, tensors = read_whole(path, _FORMAT)
    except OSError as error:
        raise TrainingError(f"The checkpoint {path} is damaged; begin anew with `overwrite`.") from error
    _check_settings(path, metadata.get("settings", {}), settings)
    recipe: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in metadata["recipe"].items()
    }
    trainer = Trainer(restore_decoder(decoder, _part(tensors, "decoder.")), TrainingRecipe(**recipe))
    adam = _by_parameter(_part(tensors, "adam."))
    trainer.optimiser.load_state_dict({**trainer.optimiser.state_dict(), "state": adam})
    trainer.step, best_loss, *start = metadata["progress"]
    return TrainingState(trainer, _part(tensors, "best."), best_loss, (start[0], start[1]))


def _check_settings(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    different = [f"{name} {before.get(name)} instead of {now[name]}" for name in now if before.get(name) != now[name]]
    if different:
        raise TrainingError(
            f"The checkpoint {path} is of a training with {', '.join(different)}; "
            "name the same settings, or begin anew with `overwrite`."
        )


def _part(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _by_parameter(tensors: Tensors) -> dict[int, Tensors]:
    """Adam's state by the number of the parameter, from tensors named "NUMBER.NAME"."""
    state: dict[int, Tensors] = {}
    for key, tensor in tensors.items():
        number, name = key.split(".")
        state.setdefault(int(number), {})[name] = tensor
    return state
