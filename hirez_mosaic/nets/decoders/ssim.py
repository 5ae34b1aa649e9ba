"""The nearest neighbour by structural similarity."""

import torch

from hirez_mosaic.nets.decoders.base import CELL_VALUES, Score
from hirez_mosaic.nets.decoders.nearest import Nearest
from hirez_mosaic.pixels.geometry import CELL

_WINDOW = 7  # px a side of SSIM's window: scikit-image's, and the largest odd one in a cell
_QUERIES = 64  # scored at once, so that intermediate results stay in the processor's cache
_C1, _C2 = 0.01**2, 0.03**2  # SSIM's constants for values in [0, 1] (Wang et al., 2004, Eq. 13)


class NearestSSIM(Nearest):
    """The structural similarity (Wang et al., 2004, Eq. 13) of template and cell, the mean over windows and channels.

    Windows are 7 x 7 px, uniform, with sample covariances: scikit-image's `structural_similarity` with its own
    settings.

    templates: (N, 8, 8, 3) float32 in [0, 1].
    """

    kind = "ssim"
    description = "nearest by SSIM"

    def __init__(self, templates: torch.Tensor, fingerprint: str) -> None:
        super().__init__(len(templates), fingerprint, CELL_VALUES)
        self.register_buffer("templates", templates.flatten(1))

    @property
    def scoring_bytes(self) -> int:
        each = 4 * 12 * _WINDOW**2  # every window of a template
        return 2 * each * self.template_count  # and their deviations from the mean

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
    """Cut (n, 192) px into windows: (windows x channels, n, 49)."""
    images = pixels.unflatten(1, (CELL, CELL, 3))
    cut = images.unfold(1, _WINDOW, 1).unfold(2, _WINDOW, 1)  # (n, 2, 2, 3, 7, 7)
    return cut.permute(1, 2, 3, 0, 4, 5).flatten(4).flatten(0, 2).contiguous()


def _statistics(windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return means and sample variances, (windows x channels, n) each."""
    return windows.mean(2), windows.var(2)
