"""The decoder that a render uses: the one that is named, a trained one from the cache, or the residual one."""

from pathlib import Path

import torch

from hirez_mosaic.errors import SettingError
from hirez_mosaic.nets.choice import Choice
from hirez_mosaic.nets.decoders import load_decoder, new_decoder, unlearned_decoder
from hirez_mosaic.settings.decoders import DEFAULT, KINDS, fitting_kinds
from hirez_mosaic.settings.spec import RenderSpec
from hirez_mosaic.templates import TemplateSet


def trained_path(cache: Path, fingerprint: str) -> Path:
    """The file in the cache in which `train` leaves a decoder for renders with the same templates."""
    return cache / f"{fingerprint}.safetensors"


def choose_decoder(spec: RenderSpec, templates: TemplateSet, cache: Path) -> Choice:
    """The decoder for these settings and templates.

    Raises SettingError, and DecoderError for a file that does not fit.
    """
    file, steps = _file(spec, templates.fingerprint, cache), spec.fit_steps
    if file is not None:
        return _from_file(spec, file, templates)
    kind = spec.decoder if spec.decoder in KINDS else DEFAULT
    small = torch.from_numpy(templates.at_cell_size())
    if steps:
        description = f"{kind}, fitted to the source in {steps} steps"
        return Choice(new_decoder(kind, small, templates.fingerprint), description, steps, True)
    decoder = unlearned_decoder(kind, small, templates.fingerprint)
    return Choice(decoder, decoder.description, 0, True)


def _file(spec: RenderSpec, fingerprint: str, cache: Path) -> Path | None:
    """The file that holds the decoder; None where a kind is named, or where the cache holds no decoder of the set."""
    if spec.decoder in KINDS:
        return None
    if spec.decoder != "auto":
        return Path(spec.decoder)
    trained = trained_path(cache, fingerprint)
    return trained if trained.exists() else None


def _from_file(spec: RenderSpec, file: Path, templates: TemplateSet) -> Choice:
    decoder, steps = load_decoder(file, len(templates), templates.fingerprint), spec.fit_steps
    if steps and not KINDS[decoder.kind].fits:
        asked = spec.who_fits
        raise SettingError(
            f"{asked} adapts {' or '.join(fitting_kinds())} decoders and {file} holds a {decoder.kind} decoder; "
            f"leave {asked} out."
        )
    further = f", fitted to the source in {steps} steps" if steps else ""
    return Choice(decoder, f"{decoder.kind}, trained ({file}){further}", steps, False)
