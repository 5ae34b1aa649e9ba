"""The residual decoder: the nearest template in px, moved by the trunk."""

import copy
from typing import Self

import torch
from torch import nn

from hirez_mosaic.nets.blur import blur_tiled
from hirez_mosaic.nets.decoders.base import CELL_VALUES, POOR, Decoder, LearnedDecoder, TrunkNorm
from hirez_mosaic.nets.decoders.nearest import NearestAsSeen

_AT_ONCE = 16_384  # templates
_SHARP = (0.2, 1.0)  # of the starts that are tried beside the blurred one, see `start_from`


class ResidualDecoder(LearnedDecoder):
    """logits_i = s (2 <t_i, x + d(f)> - |t_i|^2 + b_i): minus the squared distance of template i to the cell, up to a
    constant.

    x are the cell's own 8 x 8 x 3 px, t_i the template at 8 x 8 (learnable), d(f) the trunk, b_i a bias. d starts at
    zero, so it starts as a nearest neighbour: among templates blurred by B in a tiling of themselves, as the loss sees
    them, sharp ones, or both.
    """

    kind = "residual"
    description = "residual, not fitted"
    fixed = ("scale",)

    @property
    def scoring_bytes(self) -> int:
        return 4 * CELL_VALUES * self.template_count  # squares, for a moment

    @property
    def px_unit(self) -> float:  # type: ignore[override]
        return 1 / float(self.scale.detach())

    def __init__(self, templates: int, fingerprint: str) -> None:
        super().__init__(templates, fingerprint, CELL_VALUES, CELL_VALUES)
        nn.init.zeros_(self.spread.weight)
        self.targets = nn.Parameter(torch.zeros(templates, CELL_VALUES))
        self.bias = nn.Parameter(torch.zeros(templates))
        self.scale = nn.Parameter(torch.ones(()))

    @classmethod
    def unlearned(cls, templates: torch.Tensor, fingerprint: str) -> Decoder:
        """Make the nearest neighbour that it starts as, which needs no features.

        templates: (N, 8, 8, 3) float32 in [0, 1].
        """
        return NearestAsSeen(templates, fingerprint, POOR)

    def start_from(self, small: torch.Tensor, sharp: float = 0.0) -> Self:
        """Begin with the distance sharp |x - t|^2 + (1 - sharp) |x - B t|^2 to the templates t; return itself.

        Up to a constant that is the distance to sharp t + (1 - sharp) B t, and a bias against what B takes from t.

        small: (N, 8, 8, 3) float32 in [0, 1], the templates t.
        sharp: 0 to 1.
        """
        with torch.no_grad():
            for targets, bias, some in zip(
                *(of.split(_AT_ONCE) for of in (self.targets, self.bias, small)), strict=True
            ):
                own, blurred = some.flatten(1), blur_tiled(some).flatten(1)
                targets.copy_(torch.lerp(blurred, own, sharp))
                bias.copy_(sharp * (sharp - 1) * (own - blurred).square().sum(1))
        return self

    def starts(self, small: torch.Tensor) -> list[LearnedDecoder]:
        """Return itself, and copies that start from sharper templates.

        small: (N, 8, 8, 3) float32 in [0, 1].
        """
        return [self, *(copy.deepcopy(self).start_from(small, sharp) for sharp in _SHARP)]

    def queries(self, features: torch.Tensor | None, pixels: torch.Tensor, norm: TrunkNorm | None) -> torch.Tensor:
        moved = self.spread(self.hidden(features, norm))[0].flatten(1).T  # (cells, 192)
        return 2 * self.scale * (pixels + moved)

    def template_keys(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.targets, self.scale * (self.bias - self.targets.square().sum(1))
