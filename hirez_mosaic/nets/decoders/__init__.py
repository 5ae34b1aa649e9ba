"""Decoders: from pool3 features and px to one score for every template in every cell.

    Decoder                     base
    ├── NearestL2               nearest: nearest template by L2 distance
    ├── NearestAsSeen           nearest: nearest as the eye blurs and weighs px; the residual one before it has learned
    ├── NearestSSIM             ssim: template of highest SSIM
    └── LearnedDecoder          base: the paper's trunk, files
        ├── PaperDecoder        paper: 3x3xN_T, as published; to be trained first
        └── ResidualDecoder     residual: nearest template in px, moved by the trunk; good before it is trained

The nearest ones learn nothing and read no features. All but SSIM end in a scalar product, logits = queries . keys +
bias. All score templates in blocks, so that neither the logits of a picture nor those of a chunk ever exist at once.
The trunk is the paper's (section 2.1): 1x1x256, layer norm over the whole picture, ReLU, 3x3; `TrunkNorm` holds that
picture-wide mean and variance.

Nobody asks a decoder of which class it is. What differs between kinds is an attribute or a method of `Decoder` or of
`LearnedDecoder`. A new kind is a file in this folder, and a line in `settings.decoders.KINDS`.
"""

from hirez_mosaic.nets.decoders.base import (
    CELL_VALUES,
    FEATURES,
    HALO,
    POOR,
    RICH,
    Decoder,
    LearnedDecoder,
    Looks,
    Score,
    TrunkNorm,
)
from hirez_mosaic.nets.decoders.files import read_whole, save_whole
from hirez_mosaic.nets.decoders.kinds import load_decoder, new_decoder, unlearned_decoder

__all__ = [
    "CELL_VALUES",
    "Decoder",
    "FEATURES",
    "HALO",
    "LearnedDecoder",
    "Looks",
    "POOR",
    "RICH",
    "Score",
    "TrunkNorm",
    "load_decoder",
    "new_decoder",
    "read_whole",
    "save_whole",
    "unlearned_decoder",
]
