"""Decoders by the names of their kinds: made from templates, or loaded from files."""

from importlib import import_module
from pathlib import Path
from typing import cast

import torch

from hirez_mosaic.errors import DecoderError
from hirez_mosaic.nets.decoders.base import FORMAT, Decoder, LearnedDecoder
from hirez_mosaic.nets.decoders.files import read_whole
from hirez_mosaic.settings.decoders import DEFAULT, KINDS


def _class(kind: str) -> type[Decoder]:
    module, name = KINDS[kind].place.split(":")
    found: type[Decoder] = getattr(import_module(module, __package__), name)
    return found


def _learned_class(kind: str) -> type[LearnedDecoder]:
    return cast("type[LearnedDecoder]", _class(kind))


def unlearned_decoder(kind: str, templates: torch.Tensor, fingerprint: str) -> Decoder:
    """Make what scores for a kind where nothing was learned and nothing will be.

    kind: one of `KINDS`.
    templates: (N, 8, 8, 3) float32 in [0, 1].
    fingerprint: of the template set.
    """
    return _class(kind).unlearned(templates, fingerprint)


def new_decoder(kind: str, templates: torch.Tensor, fingerprint: str, seed: int = 0) -> LearnedDecoder:
    """Make an untrained decoder that is to learn: the residual one from the templates, the paper's from Xavier weights.

    kind: one of `KINDS` that learns.
    templates: (N, 8, 8, 3) float32 in [0, 1].
    fingerprint: of the template set.
    seed: of the weights that are random.
    """
    return _learned_class(kind).empty(len(templates), fingerprint, seed).start_from(templates)


def load_decoder(path: Path, templates: int, fingerprint: str) -> LearnedDecoder:
    """Load a decoder from its file.

    templates: their number.
    fingerprint: of the template set that it is wanted for.

    Raises DecoderError where the file is not there, is damaged, or was made for other templates.
    """
    if not path.is_file():
        raise DecoderError(f"There is no decoder file {path}; `decoder` takes {', '.join(('auto', *KINDS))} or a file.")
    try:
        described, state = read_whole(path, FORMAT)
    except OSError as error:
        raise DecoderError(f"{path} is not a decoder file: it cannot be read as safetensors.") from error
    kind = described.get("kind")
    if kind not in KINDS or not KINDS[kind].learns:
        raise DecoderError(f"{path} is not a decoder file of this version: its metadata hold no {FORMAT!r}.")
    if described.get("fingerprint") != fingerprint:
        raise DecoderError(
            f"The decoder {path} was made for {described.get('templates')} other templates (fingerprint "
            f"{described.get('fingerprint', '')[:12]}, these {templates}: {fingerprint[:12]}); use its templates and "
            f"tile without `ban`, `dedupe`, `mirror` and `rotate`, or `decoder={DEFAULT}`."
        )
    decoder = _learned_class(kind).empty(templates, fingerprint)
    try:
        decoder.load_state_dict(state)
        decoder.inverse_temperature = described["inverse_temperature"]
    except (RuntimeError, KeyError) as error:
        raise DecoderError(
            f"{path} is damaged: its tensors do not fit a {kind} decoder of {templates} templates."
        ) from error
    return decoder
