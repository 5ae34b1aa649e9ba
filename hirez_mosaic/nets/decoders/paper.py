"""The paper's decoder, as published."""

import torch
from torch.nn import functional

from hirez_mosaic.nets.decoders.base import EPSILON, FEATURES, LearnedDecoder, TrunkNorm


class PaperDecoder(LearnedDecoder):
    """The paper's decoder: queries are 3x3 neighbourhoods of the trunk, keys the kernels of 3x3xN_T.

    The second layer norm shifts and scales all logits of a picture alike, so it cannot change which template is best:
    only `logits` has it.
    """

    kind = "paper"
    description = "paper, untrained"
    untrained_note = (
        "The paper's decoder is untrained: its Xavier weights choose templates at random. Name a trained file instead."
    )
    scores_apart = False  # by the second layer norm
    left_aside = "it is the paper's, which is there to be compared"

    def __init__(self, templates: int, fingerprint: str) -> None:
        super().__init__(templates, fingerprint, FEATURES * 9, templates)

    def queries(self, features: torch.Tensor | None, pixels: torch.Tensor, norm: TrunkNorm | None) -> torch.Tensor:
        return functional.unfold(self.hidden(features, norm), 3, padding=1)[0].T  # (cells, 256 x 3 x 3)

    def template_keys(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.spread.weight.flatten(1), self.spread.bias  # type: ignore[return-value]

    def normalised(self, logits: torch.Tensor) -> torch.Tensor:
        """Apply the second layer norm: one mean and variance over all cells given and all templates.

        This is not torch's own layer norm, which gives so long a row to a GPU's single core.
        """
        variance, mean = torch.var_mean(logits, correction=0)
        return (logits - mean) * (variance + EPSILON).rsqrt()
