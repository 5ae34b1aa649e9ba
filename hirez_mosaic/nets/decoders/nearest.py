"""Nearest neighbours by a squared distance of px, which learn nothing and need no network."""

import torch

from hirez_mosaic.nets.blur import blur_tiled
from hirez_mosaic.nets.decoders.base import CELL_VALUES, POOR, Decoder, Looks, Score, TrunkNorm
from hirez_mosaic.pixels.far_view import OPPONENT

_AT_ONCE = 16_384  # templates


class Nearest(Decoder):
    """A nearest neighbour of any kind: a cell's query is its own px.

    Every kind is made of templates, (N, 8, 8, 3) float32 in [0, 1], and their fingerprint.
    """

    reads_features = False

    @classmethod
    def unlearned(cls, templates: torch.Tensor, fingerprint: str) -> Decoder:
        return cls(templates, fingerprint)  # type: ignore[arg-type, call-arg]  # of a kind, which has two parameters

    def queries(self, features: torch.Tensor | None, pixels: torch.Tensor, norm: TrunkNorm | None) -> torch.Tensor:
        return pixels


class _NearestByDistance(Nearest):
    """One whose scores are scalar products: minus a squared distance, up to a constant of the cell.

    keys: (N, 192) float32.
    bias: (N,) float32.
    """

    px_unit = 1.0

    def __init__(self, keys: torch.Tensor, bias: torch.Tensor, fingerprint: str) -> None:
        super().__init__(len(keys), fingerprint, CELL_VALUES)
        self.register_buffer("keys", keys)
        self.register_buffer("bias", bias)

    def template_keys(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.get_buffer("keys"), self.get_buffer("bias")

    def score(self) -> Score:
        keys, bias = self.template_keys()
        return lambda queries, block, out=None: torch.addmm(bias[block], queries, keys[block].T, out=out)


class NearestL2(_NearestByDistance):
    """Minus the squared L2 distance: 2 <t, x> - |t|^2.

    templates: t, (N, 8, 8, 3) float32 in [0, 1].
    """

    kind = "l2"
    description = "nearest by L2"

    def __init__(self, templates: torch.Tensor, fingerprint: str) -> None:
        own = templates.flatten(1)
        super().__init__(2 * own, -own.square().sum(1), fingerprint)


class NearestAsSeen(_NearestByDistance):
    """The residual decoder before it has learned anything: minus sharp |x - t|^2 + (1 - sharp) |x - B t|^2.

    B blurs templates as the loss does (see `blur_tiled`), which suits sets that cannot match what lies within a cell.
    Px are compared in luma and two chroma channels, as the eye weighs them.

    templates: t, (N, 8, 8, 3) float32 in [0, 1].
    looks: sharp, and the weights of luma and chroma.
    """

    kind = "residual"
    description = "residual, not fitted"
    starts_for_picture = True

    def __init__(self, templates: torch.Tensor, fingerprint: str, looks: Looks = POOR) -> None:
        keys, bias = torch.empty(len(templates), CELL_VALUES), torch.empty(len(templates))
        channels = torch.tensor([looks.luma, looks.chroma, looks.chroma]).sqrt()[:, None] * torch.from_numpy(OPPONENT)
        metric = channels.T @ channels
        for start in range(0, len(templates), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            own, blurred = templates[some], blur_tiled(templates[some])
            keys[some] = (2 * torch.lerp(blurred, own, looks.sharp) @ metric).flatten(1)
            bias[some] = -sum(
                part * (of @ metric * of).flatten(1).sum(1)
                for part, of in ((looks.sharp, own), (1 - looks.sharp, blurred))
            )
        super().__init__(keys, bias, fingerprint)
        self.looks = looks

    def started_for(self, looks: Looks, templates: torch.Tensor) -> Decoder:
        return self if looks == self.looks else NearestAsSeen(templates, self.fingerprint, looks)
