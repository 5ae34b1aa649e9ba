"""The kinds of decoders, and what settings need to know of each before PyTorch is loaded.

All that names kinds follows from this table: what --decoder takes, in render and in train, its messages, and how a
decoder is made or loaded (`nets.decoders`). A new kind is a file in `nets/decoders`, and a line here.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class DecoderKind:
    """What is known of a kind of decoder by its name.

    place: "module:class"; a module that begins with a point is one of `nets.decoders`.
    learns: whether it can be trained and kept in files; its class is a `LearnedDecoder` then.
    fits: whether it can be fitted to a source.
    together: whether cells are chosen together with their neighbours unless a person says otherwise.
    """

    place: str
    learns: bool = False
    fits: bool = False
    together: bool = True


KINDS = {
    "residual": DecoderKind(".residual:ResidualDecoder", learns=True, fits=True),
    "paper": DecoderKind(".paper:PaperDecoder", learns=True),
    "l2": DecoderKind(".nearest:NearestL2", together=False),
    "ssim": DecoderKind(".ssim:NearestSSIM", together=False),
}
"""Every kind by its name, in the order that help and messages show."""
DEFAULT = "residual"
"""The kind that "auto" means where there is no trained decoder of the templates."""


def kinds_alone() -> list[str]:
    """Names of the kinds whose cells are chosen alone unless a person says otherwise."""
    return [name for name, kind in KINDS.items() if not kind.together]


def learning_kinds() -> list[str]:
    """Names of the kinds that can be trained."""
    return [name for name, kind in KINDS.items() if kind.learns]


def fitting_kinds() -> list[str]:
    """Names of the kinds that can be fitted to a source."""
    return [name for name, kind in KINDS.items() if kind.fits]
