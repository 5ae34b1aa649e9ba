"""Decoders: from pool3 features and px to one score for every template in every cell.

    Decoder
    ├── NearestL2               nearest template by L2 distance    } (nets.nearest): nothing to learn,
    ├── NearestSSIM             template of highest SSIM           } no features needed
    ├── NearestAsSeen           nearest as the eye blurs and weighs px: the residual one before it has learned anything
    └── LearnedDecoder          the paper's trunk, files
        ├── PaperDecoder        3x3xN_T, as published; to be trained first
        └── ResidualDecoder     nearest template in px, moved by the trunk; good before it is trained

All but SSIM end in a scalar product, logits = queries . keys + bias. All score templates in blocks, so that neither the
logits of a picture nor those of a chunk ever exist at once. The trunk is the paper's (section 2.1): 1x1x256, layer norm
over the whole picture, ReLU, 3x3; `TrunkNorm` holds that picture-wide mean and variance.
"""

import errno
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from hirez_mosaic.errors import DecoderError
from hirez_mosaic.files.fresh import fresh
from hirez_mosaic.nets.blur import blur_tiled
from hirez_mosaic.pixels.geometry import CELL

CELL_VALUES = 3 * CELL * CELL
"""Values of a cell's own px, or of a template at cell size: 8 x 8 x 3."""
FEATURES = 256
HALO = 1
"""Cells beyond a cell that its queries depend on: one, by the 3x3 convolution."""
_EPSILON = 1e-12
_AT_ONCE = 16_384  # templates
_FORMAT = "hirez-mosaic decoder 1"


class Score(Protocol):
    """What scores templates."""

    def __call__(self, queries: torch.Tensor, block: slice, out: torch.Tensor | None = None) -> torch.Tensor:
        """(cells, D) queries and a slice of the templates -> (cells, templates) scores, higher is better.

        out: of that shape, where they may be written; memory that is new each time is cleared each time.
        """


@dataclass(frozen=True)
class TrunkNorm:
    """Mean and variance that the first layer norm divides by: one pair for a picture, over cells and channels together;
    scalars.
    """

    mean: torch.Tensor
    variance: torch.Tensor


class Decoder(nn.Module):
    """What scores the templates for each cell.

    template_count: number of templates, N.
    fingerprint: of the template set the decoder is for.
    query_length: values in a cell's query, D.
    """

    kind: ClassVar[str]
    reads_features: ClassVar[bool] = True
    px_unit: float | None = None
    """Squared px errors of a cell to one of score, where scores are minus such distances; None where they mean
    something else.
    """

    def __init__(self, templates: int, fingerprint: str, query_length: int) -> None:
        super().__init__()
        self.template_count = templates
        self.fingerprint = fingerprint
        self.query_length = query_length

    @property
    def scoring_bytes(self) -> int:
        """Bytes that `score` holds beside the decoder itself."""
        return 0

    def queries(self, features: torch.Tensor | None, pixels: torch.Tensor, norm: TrunkNorm | None) -> torch.Tensor:
        """What each cell asks for: (rows x columns, D), row-major.

        features: (1, 256, rows, columns). pixels: (rows x columns, 192) in [0, 1], each cell's own px as (8, 8, 3).
        A cell at the rim of `features` comes out as at the edge of a picture. Where the decoder reads no features, they
        and the norm are None.
        """
        raise NotImplementedError

    def score(self) -> Score:
        """What scores queries against a slice of the templates; made once for a stage."""
        raise NotImplementedError

    def template_keys(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """(N, D) keys and (N,) biases, where scores are queries . keys + bias; None where they are something else."""
        return None


class LearnedDecoder(Decoder):
    """What both networks share: the trunk, the scalar product, and files.

    inverse_temperature: 1 / temperature at the end of training, for whoever wants coefficients of this decoder.
    """

    def __init__(self, templates: int, fingerprint: str, query_length: int, outputs: int) -> None:
        super().__init__(templates, fingerprint, query_length)
        self.inverse_temperature = 1.0
        self.squeeze = nn.Conv2d(FEATURES, FEATURES, 1)
        self.spread = nn.Conv2d(FEATURES, outputs, 3, padding=1)
        for conv in (self.squeeze, self.spread):
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def trunk_norm(self, moments: torch.Tensor) -> TrunkNorm:
        """The layer norm's statistics from the second moments of the features alone; gradients flow to the 1x1
        convolution.

        moments: (257, 257) float64, the sum over all cells of f f^T with f = (256 features, 1). Since the 1x1
        convolution is h = W f, the sum of h is W times the last column and the sum of h^2 is the trace of W M W^T.
        """
        weight = torch.cat([self.squeeze.weight.flatten(1), self.squeeze.bias[:, None]], 1).double()  # type: ignore[index]
        moments = moments.to(weight.device)
        count = moments[-1, -1] * FEATURES
        mean = (weight @ moments[:, -1]).sum() / count
        square = ((weight @ moments) * weight).sum() / count
        return TrunkNorm(mean, (square - mean**2).clamp(min=0))

    def hidden(self, features: torch.Tensor | None, norm: TrunkNorm | None) -> torch.Tensor:
        """(1, 256, rows, columns) features -> the same shape after 1x1, layer norm and ReLU."""
        if features is None or norm is None:
            raise ValueError("This decoder reads features.")
        return torch.relu((self.squeeze(features) - norm.mean) * (norm.variance + _EPSILON) ** -0.5)

    def template_keys(self) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError

    def score(self) -> Score:
        with torch.no_grad():
            keys, bias = self.template_keys()
        return lambda queries, block, out=None: torch.addmm(bias[block], queries, keys[block].T, out=out)

    def logits(self, queries: torch.Tensor, templates: torch.Tensor | None = None) -> torch.Tensor:
        """(cells, N) logits as the softmax takes them, with gradients, of all templates or of those named by index.

        All at once: for windows and small pictures.
        """
        keys, bias = self.template_keys()
        if templates is not None:
            keys, bias = keys[templates], bias[templates]
        return self.normalised(torch.addmm(bias, queries, keys.T))

    def normalised(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (cells, N) as the softmax takes them."""
        return logits

    def save(self, path: Path) -> None:
        """Write safetensors with kind, number and fingerprint of the templates in the metadata; the file appears when
        it is complete.
        """
        told = {
            "kind": self.kind,
            "templates": self.template_count,
            "fingerprint": self.fingerprint,
            "inverse_temperature": self.inverse_temperature,
        }
        save_whole(self.state_dict(), path, {_FORMAT: json.dumps(told)})


def save_whole(tensors: Mapping[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write safetensors; the file appears, or replaces another, when it is complete. Raises OSError where it cannot be
    written.
    """
    try:
        with fresh(path) as made:
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, made, metadata=metadata
            )
    except SafetensorError as error:
        code = errno.ENOSPC if f"os error {errno.ENOSPC}" in str(error) else errno.EIO
        raise OSError(code, f"{path} cannot be written: {error}") from error


def read_whole(path: Path, key: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What `save_whole` wrote: the JSON under `key` of the metadata ({} where there is none), and the tensors. Raises
    OSError.
    """
    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {}).get(key, "{}"))
            return told, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise OSError(errno.EIO, f"{path} cannot be read: {error}") from error


class PaperDecoder(LearnedDecoder):
    """The paper's decoder: queries are 3x3 neighbourhoods of the trunk, keys the kernels of 3x3xN_T.

    The second layer norm shifts and scales all logits of a picture alike, so it cannot change which template is best:
    only `logits` has it.
    """

    kind = "paper"

    def __init__(self, templates: int, fingerprint: str) -> None:
        super().__init__(templates, fingerprint, FEATURES * 9, templates)

    def queries(self, features: torch.Tensor | None, pixels: torch.Tensor, norm: TrunkNorm | None) -> torch.Tensor:
        return functional.unfold(self.hidden(features, norm), 3, padding=1)[0].T  # (cells, 256 x 3 x 3)

    def template_keys(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.spread.weight.flatten(1), self.spread.bias  # type: ignore[return-value]

    def normalised(self, logits: torch.Tensor) -> torch.Tensor:
        """The second layer norm: one mean and variance over all cells given and all templates.

        Not torch's own, which gives a GPU's single core so long a row.
        """
        variance, mean = torch.var_mean(logits, correction=0)
        return (logits - mean) * (variance + _EPSILON).rsqrt()


class ResidualDecoder(LearnedDecoder):
    """logits_i = s (2 <t_i, x + d(f)> - |t_i|^2 + b_i): minus the squared distance of template i to the cell, up to a
    constant.

    x are the cell's own 8 x 8 x 3 px, t_i the template at 8 x 8 (learnable), d(f) the trunk, b_i a bias. d starts at
    zero, so it starts as a nearest neighbour: among templates blurred by B in a tiling of themselves, as the loss sees
    them, sharp ones, or both.
    """

    kind = "residual"

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

    def start_from(self, small: torch.Tensor, sharp: float = 0.0) -> "ResidualDecoder":
        """Begin with the distance sharp |x - t|^2 + (1 - sharp) |x - B t|^2 to the templates t; itself.

        Up to a constant that is the distance to sharp t + (1 - sharp) B t, and a bias against what B takes from t.
        small: (N, 8, 8, 3) in [0, 1].
        """
        with torch.no_grad():
            for targets, bias, some in zip(
                *(of.split(_AT_ONCE) for of in (self.targets, self.bias, small)), strict=True
            ):
                own, blurred = some.flatten(1), blur_tiled(some).flatten(1)
                targets.copy_(torch.lerp(blurred, own, sharp))
                bias.copy_(sharp * (sharp - 1) * (own - blurred).square().sum(1))
        return self

    def queries(self, features: torch.Tensor | None, pixels: torch.Tensor, norm: TrunkNorm | None) -> torch.Tensor:
        moved = self.spread(self.hidden(features, norm))[0].flatten(1).T  # (cells, 192)
        return 2 * self.scale * (pixels + moved)

    def template_keys(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.targets, self.scale * (self.bias - self.targets.square().sum(1))


_KINDS: dict[str, type[PaperDecoder] | type[ResidualDecoder]] = {"paper": PaperDecoder, "residual": ResidualDecoder}


def new_decoder(kind: str, templates: torch.Tensor, fingerprint: str, seed: int = 0) -> LearnedDecoder:
    """An untrained decoder: the residual one from the templates, the paper's from Xavier weights.

    templates: (N, 8, 8, 3) float32 in [0, 1].
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = _KINDS[kind](len(templates), fingerprint)
    return decoder.start_from(templates) if isinstance(decoder, ResidualDecoder) else decoder


def load_decoder(path: Path, templates: int, fingerprint: str) -> LearnedDecoder:
    """A decoder from its file, refused with DecoderError when it is damaged or was made for other templates."""
    if not path.is_file():
        raise DecoderError(
            f"There is no decoder file {path}; --decoder takes auto, residual, paper, l2, ssim or a file."
        )
    try:
        told, state = read_whole(path, _FORMAT)
    except OSError as error:
        raise DecoderError(f"{path} is not a decoder file: it cannot be read as safetensors.") from error
    if told.get("kind") not in _KINDS:
        raise DecoderError(f"{path} is not a decoder file of this version: its metadata hold no {_FORMAT!r}.")
    if told.get("fingerprint") != fingerprint:
        raise DecoderError(
            f"The decoder {path} was made for {told.get('templates')} other templates (fingerprint {told.get('fingerprint', '')[:12]}, "
            f"these {templates}: {fingerprint[:12]}); use its templates and tile without "
            "--ban, --dedupe, --mirror and --rotate, or --decoder residual."
        )
    with torch.random.fork_rng(devices=[]):
        decoder = _KINDS[told["kind"]](templates, fingerprint)
    try:
        decoder.load_state_dict(state)
        decoder.inverse_temperature = told["inverse_temperature"]
    except (RuntimeError, KeyError) as error:
        raise DecoderError(
            f"{path} is damaged: its tensors do not fit a {told['kind']} decoder of {templates} templates."
        ) from error
    return decoder
