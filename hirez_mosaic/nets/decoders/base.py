"""What every decoder is and can be asked, and what those share that learn: the trunk, the scalar product, and files."""

import copy
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, Self

import torch
from torch import nn

from hirez_mosaic.nets.decoders.files import save_whole
from hirez_mosaic.pixels.geometry import CELL
from hirez_mosaic.settings.decoders import KINDS

CELL_VALUES = 3 * CELL * CELL
"""Values of a cell's own px, or of a template at cell size: 8 x 8 x 3."""
FEATURES = 256
"""Channels of pool3: values of a cell's features."""
HALO = 1
"""Cells beyond a cell that its queries depend on: one, by the 3x3 convolution."""

EPSILON = 1e-12
"""Added to a layer norm's variance."""
FORMAT = "hirez-mosaic decoder 1"
"""Key of a decoder file's metadata."""


class Score(Protocol):
    """What scores templates."""

    def __call__(self, queries: torch.Tensor, block: slice, out: torch.Tensor | None = None) -> torch.Tensor:
        """Return the (cells, templates) float32 scores of a block of templates; higher is better.

        queries: (cells, D) float32.
        block: the templates, a slice of all N with both ends given.
        out: (cells, templates) float32 in which the scores may be written; new memory is cleared each time.
        """


@dataclass(frozen=True)
class TrunkNorm:
    """Mean and variance that the first layer norm divides by: one pair for a picture, over cells and channels together.

    mean, variance: scalars, float64.
    """

    mean: torch.Tensor
    variance: torch.Tensor


@dataclass(frozen=True)
class Looks:
    """How the px of a set are compared with a cell's, and colours with those seen from afar.

    sharp: 0 to 1, the share of the templates as they are; the rest are templates blurred as the loss does it.
    luma: 0 or more, so many times squared errors of luma count.
    chroma: 0 or more, the same for each of the two chroma channels.
    far: 0 or more, weight of the far view.
    """

    sharp: float
    luma: float
    chroma: float
    far: float


RICH = Looks(0.5, 1.25, 0.75, 1.0)
"""Of sets that match what lies within a cell."""
POOR = Looks(0.0, 1.0, 1.0, 0.5)
"""Of sets that do not, which is why they are compared blurred."""


class Decoder(nn.Module):
    """What scores the templates for each cell.

    template_count: number of templates, N.
    fingerprint: of the template set the decoder is for.
    query_length: values in a cell's query, D.
    """

    kind: ClassVar[str]
    """Its name in `settings.decoders.KINDS`."""
    description: ClassVar[str]
    """For people: a decoder of this kind that has learned nothing."""
    untrained_note: ClassVar[str] = ""
    """What to tell a person who renders with it before it has learned anything; empty for nothing."""
    reads_features: ClassVar[bool] = True
    """Whether its queries depend on the encoder's features, and not on px alone."""
    starts_for_picture: ClassVar[bool] = False
    """Whether `started_for` makes another one of it where a set is rich for the picture."""
    px_unit: float | None = None
    """Squared px errors of a cell to one of score, where scores are minus such distances; None where they mean
    something else.
    """

    def __init__(self, templates: int, fingerprint: str, query_length: int) -> None:
        super().__init__()
        self.template_count = templates
        self.fingerprint = fingerprint
        self.query_length = query_length

    @classmethod
    def unlearned(cls, templates: torch.Tensor, fingerprint: str) -> "Decoder":
        """Make what scores for this kind where nothing was learned and nothing will be.

        templates: (N, 8, 8, 3) float32 in [0, 1].
        """
        raise NotImplementedError

    def started_for(self, looks: Looks, templates: torch.Tensor) -> "Decoder":
        """Return the decoder for a picture whose set is looked at so; itself where the kind looks at all sets alike.

        templates: (N, 8, 8, 3) float32 in [0, 1].
        """
        return self

    def for_fitting(self) -> "LearnedDecoder":
        """Return a copy of itself that a fit may change. Raises TypeError where the kind cannot be fitted."""
        raise TypeError(f"A {self.kind} decoder cannot be fitted.")

    def learned(self) -> Iterable[torch.Tensor]:
        """Return all that it has learned, in a settled order; nothing where the kind learns nothing."""
        return ()

    @property
    def scoring_bytes(self) -> int:
        """Bytes that `score` holds beside the decoder itself."""
        return 0

    def trunk_norm(self, moments: torch.Tensor) -> TrunkNorm | None:
        """Return the layer norm's statistics of a picture; None where the kind reads no features.

        moments: (257, 257) float64, the sum over all cells of f f^T with f = (256 features, 1).
        """
        return None

    def queries(self, features: torch.Tensor | None, pixels: torch.Tensor, norm: TrunkNorm | None) -> torch.Tensor:
        """Return what each cell asks for: (rows x columns, D) float32, row-major.

        A cell at the rim of `features` comes out as at the edge of a picture.

        features: (1, 256, rows, columns) float32; None where the decoder reads none.
        pixels: (rows x columns, 192) float32 in [0, 1], each cell's own px as (8, 8, 3).
        norm: the picture's `trunk_norm`; None where the decoder reads no features.
        """
        raise NotImplementedError

    def score(self) -> Score:
        """Return what scores queries against a slice of the templates; it is made once for a stage."""
        raise NotImplementedError

    def template_keys(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return (N, D) keys and (N,) biases, where scores are queries . keys + bias; None where they are not."""
        return None


class LearnedDecoder(Decoder):
    """A network: the paper's trunk, and scores that are queries . keys + bias.

    Every kind is made of a number of templates and their fingerprint.

    inverse_temperature: 1 / temperature at the end of training, for whoever wants coefficients of this decoder.
    """

    scores_apart: ClassVar[bool] = True
    """Whether a template's logit does not depend on the others, so that a softmax over some of them is right."""
    fixed: ClassVar[tuple[str, ...]] = ()
    """Names of parameters that training leaves alone."""
    left_aside: ClassVar[str] = ""
    """Why renders do not take a trained one by themselves; empty where they do."""

    def __init__(self, templates: int, fingerprint: str, query_length: int, outputs: int) -> None:
        super().__init__(templates, fingerprint, query_length)
        self.inverse_temperature = 1.0
        self.squeeze = nn.Conv2d(FEATURES, FEATURES, 1)
        self.spread = nn.Conv2d(FEATURES, outputs, 3, padding=1)
        for conv in (self.squeeze, self.spread):
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    @classmethod
    def empty(cls, templates: int, fingerprint: str, seed: int | None = None) -> Self:
        """Make one with Xavier weights, and leave the random generator as it was.

        seed: of the weights; None where they will be replaced.
        """
        with torch.random.fork_rng(devices=[]):
            if seed is not None:
                torch.manual_seed(seed)
            return cls(templates, fingerprint)  # type: ignore[call-arg]  # of a kind, which has two parameters

    @classmethod
    def unlearned(cls, templates: torch.Tensor, fingerprint: str) -> Decoder:
        return cls.empty(len(templates), fingerprint, 0).start_from(templates)

    def start_from(self, small: torch.Tensor) -> Self:
        """Begin with what the templates give before any training; return itself.

        small: (N, 8, 8, 3) float32 in [0, 1].
        """
        return self

    def starts(self, small: torch.Tensor) -> list["LearnedDecoder"]:
        """Return the decoders that training may begin with instead of this one, itself first.

        small: (N, 8, 8, 3) float32 in [0, 1].
        """
        return [self]

    def for_fitting(self) -> "LearnedDecoder":
        return copy.deepcopy(self) if KINDS[self.kind].fits else super().for_fitting()

    def learned(self) -> Iterable[torch.Tensor]:
        return self.state_dict().values()

    @property
    def layers(self) -> tuple[nn.Conv2d, nn.Conv2d]:
        """The trunk's convolutions: 1x1 and 3x3."""
        return self.squeeze, self.spread

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        """Return the parameters that are trained: those of the trunk, and the others where there are some."""
        trunk = [parameter for layer in self.layers for parameter in layer.parameters()]
        ours = {id(parameter) for parameter in trunk}
        named = self.named_parameters()
        rest = [parameter for name, parameter in named if id(parameter) not in ours and name not in self.fixed]
        return [trunk, rest] if rest else [trunk]

    def trunk_norm(self, moments: torch.Tensor) -> TrunkNorm:
        """Return the layer norm's statistics from the second moments of the features alone.

        Gradients flow to the 1x1 convolution. Since that is h = W f, the sum of h is W times the last column of the
        moments M, and the sum of h^2 is the trace of W M W^T.

        moments: (257, 257) float64, the sum over all cells of f f^T with f = (256 features, 1).
        """
        bias = self.squeeze.bias[:, None]  # type: ignore[index]
        weight = torch.cat([self.squeeze.weight.flatten(1), bias], 1).double()
        moments = moments.to(weight.device)
        count = moments[-1, -1] * FEATURES
        mean = (weight @ moments[:, -1]).sum() / count
        square = ((weight @ moments) * weight).sum() / count
        return TrunkNorm(mean, (square - mean**2).clamp(min=0))

    def hidden(self, features: torch.Tensor | None, norm: TrunkNorm | None) -> torch.Tensor:
        """Return (1, 256, rows, columns) features after 1x1, layer norm and ReLU, in the same shape.

        Raises ValueError where features or norm are None.
        """
        if features is None or norm is None:
            raise ValueError("This decoder reads features.")
        return torch.relu((self.squeeze(features) - norm.mean) * (norm.variance + EPSILON) ** -0.5)

    def template_keys(self) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError

    def score(self) -> Score:
        with torch.no_grad():
            keys, bias = self.template_keys()
        return lambda queries, block, out=None: torch.addmm(bias[block], queries, keys[block].T, out=out)

    def logits(self, queries: torch.Tensor, templates: torch.Tensor | None = None) -> torch.Tensor:
        """Return (cells, N) logits as the softmax takes them, with gradients; all at once, for small pictures.

        queries: (cells, D) float32.
        templates: (n,) int64, the templates to score; all of them where None.
        """
        keys, bias = self.template_keys()
        if templates is not None:
            keys, bias = keys[templates], bias[templates]
        return self.normalised(torch.addmm(bias, queries, keys.T))

    def normalised(self, logits: torch.Tensor) -> torch.Tensor:
        """Return (cells, N) logits as the softmax takes them."""
        return logits

    def save(self, path: Path) -> None:
        """Write safetensors with kind, number and fingerprint of the templates in the metadata.

        The file appears when it is complete. Raises OSError where it cannot be written.
        """
        described = {
            "kind": self.kind,
            "templates": self.template_count,
            "fingerprint": self.fingerprint,
            "inverse_temperature": self.inverse_temperature,
        }
        save_whole(self.state_dict(), path, {FORMAT: json.dumps(described)})
