"""A decoder that was chosen, and what is known of it."""

import hashlib
from dataclasses import dataclass

from hirez_mosaic.nets.decoders import Decoder


@dataclass(frozen=True)
class Choice:
    """A decoder, what to call it, and how it is to be fitted to the source.

    told: for people.
    fit_steps: 0 or more; 0 for no fit.
    untouched: whether nothing was learned yet.
    """

    decoder: Decoder
    told: str
    fit_steps: int
    untouched: bool

    @property
    def started_for_picture(self) -> bool:
        """Whether it has learned nothing and will not, but begins otherwise with a set that is rich for the picture."""
        return self.decoder.starts_for_picture

    @property
    def note(self) -> str:
        """What to tell a person before anything is made with it; empty for nothing."""
        return self.decoder.untrained_note if self.untouched else ""

    @property
    def identity(self) -> str:
        """What the decoder is before it is fitted: its kind, and a digest of what it has learned."""
        sha = hashlib.blake2b(digest_size=16)
        for tensor in () if self.untouched else self.decoder.learned():
            sha.update(tensor.cpu().numpy().tobytes())
        return f"{self.decoder.kind} {sha.hexdigest()}"
