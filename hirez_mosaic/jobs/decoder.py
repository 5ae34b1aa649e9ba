"""Which decoder a render uses: the one named, a trained one of these templates out of the cache, or the residual one,
fitted or not.
"""

from pathlib import Path

import torch

from hirez_mosaic.errors import SettingError
from hirez_mosaic.nets.choice import Choice
from hirez_mosaic.nets.decoders import ResidualDecoder, load_decoder, new_decoder
from hirez_mosaic.nets.loss import MultiScaleLoss
from hirez_mosaic.nets.nearest import NearestL2, NearestSSIM
from hirez_mosaic.nets.objective import Objective
from hirez_mosaic.nets.vgg import VGG16
from hirez_mosaic.settings.spec import RenderSpec
from hirez_mosaic.stages.start import POOR, unfitted_decoder
from hirez_mosaic.templates import TemplateSet


def trained_path(cache: Path, fingerprint: str) -> Path:
    """Where `hirez-mosaic train` leaves a decoder for renders with the same templates."""
    return cache / f"{fingerprint}.safetensors"


def choose_decoder(spec: RenderSpec, templates: TemplateSet, cache: Path) -> Choice:
    """The decoder for these settings and templates. Raises SettingError, and DecoderError for a file that does not fit."""
    count, fingerprint = len(templates), templates.fingerprint
    if spec.decoder in ("l2", "ssim"):
        nearest = NearestL2 if spec.decoder == "l2" else NearestSSIM
        return Choice(
            nearest(torch.from_numpy(templates.at_cell_size()), fingerprint),
            f"nearest by {spec.decoder.upper()}",
            0,
            False,
        )
    if spec.decoder == "paper":
        return Choice(
            new_decoder("paper", torch.from_numpy(templates.at_cell_size()), fingerprint), "paper, untrained", 0, True
        )
    file = trained_path(cache, fingerprint) if spec.decoder == "auto" else Path(spec.decoder)
    if spec.decoder != "residual" and (spec.decoder != "auto" or file.exists()):
        decoder = load_decoder(file, count, fingerprint)
        steps = spec.fit_steps
        if steps and not isinstance(decoder, ResidualDecoder):
            asked = "--fit" if spec.fit else f"--effort {spec.effort}"
            raise SettingError(
                f"{asked} adapts residual decoders and {file} holds a {decoder.kind} decoder; leave {asked} out."
            )
        further = f", fitted to the source in {steps} steps" if steps else ""
        return Choice(decoder, f"{decoder.kind}, trained ({file}){further}", steps, False)
    steps = spec.fit_steps
    if not steps:
        return Choice(unfitted_decoder(templates, POOR), "residual, not fitted", 0, True)
    told = f"residual, fitted to the source in {steps} steps"
    return Choice(new_decoder("residual", torch.from_numpy(templates.at_cell_size()), fingerprint), told, steps, True)


def window_objective(vgg: VGG16, templates: TemplateSet, far_weight: float) -> Objective:
    """What fitting and refining minimise: Eq. 3 of windows out of a larger picture, and the far view."""
    small = torch.from_numpy(templates.at_cell_size()).to(next(vgg.parameters()).device)
    return Objective(MultiScaleLoss(vgg, edge="replicate"), small, far_weight)
