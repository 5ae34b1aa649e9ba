"""The baselines: nearest neighbours in px, which nothing is learned for and no network looks at."""

import torch

from hirez_mosaic.nets.blur import blur_tiled
from hirez_mosaic.nets.decoders import CELL_VALUES, Decoder, Score, TrunkNorm
from hirez_mosaic.pixels.geometry import CELL

_WINDOW = 7  # px a side of SSIM's window: scikit-image's, and the largest odd one in a cell
_AT_ONCE = 16_384  # templates
_QUERIES = 64  # scored at once, so that intermediate results stay in the processor's cache
_C1, _C2 = 0.01**2, 0.03**2  # SSIM's constants for values in [0, 1] (Wang et al., 2004, Eq. 13)


class _Nearest(Decoder):
    """A baseline: a cell's query is its own px."""

    reads_features = False

    def queries(self, features: torch.Tensor | None, pixels: torch.Tensor, norm: TrunkNorm | None) -> torch.Tensor:
        return pixels


class _NearestByDistance(_Nearest):
    """One whose scores are scalar products: minus a squared distance, up to a constant of the cell. keys: (N, 192).
    bias: (N,).
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
    """Minus the squared L2 distance: 2 <t, x> - |t|^2. templates: (N, 8, 8, 3) float32 in [0, 1]."""

    kind = "l2"

    def __init__(self, templates: torch.Tensor, fingerprint: str) -> None:
        own = templates.flatten(1)
        super().__init__(2 * own, -own.square().sum(1), fingerprint)


class NearestAsSeen(_NearestByDistance):
    """The residual decoder before it has learned anything: minus sharp |x - t|^2 + (1 - sharp) |x - B t|^2, as the eye
    weighs px.

    templates: t, (N, 8, 8, 3) float32 in [0, 1]. sharp: 0 to 1; B blurs them as the loss does (see `blur_tiled`), which
    suits sets that cannot match what lies within a cell.
    channels: (3, 3) float32, rows of weights that turn sRGB into the channels in which px are compared.
    """

    kind = "residual"

    def __init__(self, templates: torch.Tensor, fingerprint: str, sharp: float, channels: torch.Tensor) -> None:
        keys, bias = torch.empty(len(templates), CELL_VALUES), torch.empty(len(templates))
        metric = channels.T @ channels
        for start in range(0, len(templates), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            own, blurred = templates[some], blur_tiled(templates[some])
            keys[some] = (2 * torch.lerp(blurred, own, sharp) @ metric).flatten(1)
            bias[some] = -sum(
                part * (of @ metric * of).flatten(1).sum(1) for part, of in ((sharp, own), (1 - sharp, blurred))
            )
        super().__init__(keys, bias, fingerprint)


class NearestSSIM(_Nearest):
    """The structural similarity (Wang et al., 2004, Eq. 13) of template and cell, the mean over windows and channels.

    Windows are 7 x 7 px, uniform, with sample covariances: scikit-image's `structural_similarity` with its own
    settings.
    """

    kind = "ssim"

    def __init__(self, templates: torch.Tensor, fingerprint: str) -> None:
        super().__init__(len(templates), fingerprint, CELL_VALUES)
        self.register_buffer("templates", templates.flatten(1))

    @property
    def scoring_bytes(self) -> int:
        return (
            2 * 4 * 12 * _WINDOW**2 * self.template_count
        )  # every window of every template, and its deviations from the mean

    def score(self) -> Score:
        theirs = _windows(self.get_buffer("templates"))
        (their_mean, their_spread), theirs = _statistics(theirs), theirs - theirs.mean(2, keepdim=True)
        samples = _WINDOW**2 - 1

        def score(queries: torch.Tensor, block: slice, out: torch.Tensor | None = None) -> torch.Tensor:
            ours = _windows(queries)
            means, spreads = _statistics(ours)
            ours = (ours - ours.mean(2, keepdim=True)) * (2 / samples)
            scores = queries.new_zeros(len(queries), len(range(their_mean.shape[1])[block]))
            for few in range(0, len(queries), _QUERIES):
                part = slice(few, few + _QUERIES)
                total = scores[part]
                for window in range(len(ours)):
                    mean, other_mean = means[window, part, None], their_mean[window, None, block]
                    similar = (ours[window, part] @ theirs[window, block].T).add_(_C2)
                    similar *= torch.addcmul(_C1 + 0 * mean, 2 * mean, other_mean)
                    norm = mean.square() + (other_mean.square() + _C1)
                    norm *= spreads[window, part, None] + (their_spread[window, None, block] + _C2)
                    total += similar.div_(norm)
            return scores.div_(len(ours))

        return score


def _windows(pixels: torch.Tensor) -> torch.Tensor:
    """(n, 192) px -> (windows x channels, n, 49)."""
    images = pixels.unflatten(1, (CELL, CELL, 3))
    cut = images.unfold(1, _WINDOW, 1).unfold(2, _WINDOW, 1)  # (n, 2, 2, 3, 7, 7)
    return cut.permute(1, 2, 3, 0, 4, 5).flatten(4).flatten(0, 2).contiguous()


def _statistics(windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and sample variances, (windows x channels, n) each."""
    return windows.mean(2), windows.var(2)
