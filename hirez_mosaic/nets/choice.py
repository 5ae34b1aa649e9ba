"""A decoder that was chosen, and what is known of it."""

import hashlib
from dataclasses import dataclass

from hirez_mosaic.nets.decoders import Decoder, LearnedDecoder
from hirez_mosaic.nets.nearest import NearestAsSeen


@dataclass(frozen=True)
class Choice:
    """A decoder, what to call it, and how it is to be fitted to the source.

    told: for people. fit_steps: 0 for none. untouched: whether nothing was learned yet.
    """

    decoder: Decoder
    told: str
    fit_steps: int
    untouched: bool

    @property
    def started_for_picture(self) -> bool:
        """Whether it has learned nothing and will not, but begins otherwise with a set that is rich for the picture."""
        return isinstance(self.decoder, NearestAsSeen)

    @property
    def identity(self) -> str:
        """What the decoder is before it is fitted, of these templates: its kind, and a digest of what it has learned."""
        sha = hashlib.blake2b(digest_size=16)
        if isinstance(self.decoder, LearnedDecoder) and not self.untouched:
            for tensor in self.decoder.state_dict().values():
                sha.update(tensor.cpu().numpy().tobytes())
        return f"{self.decoder.kind} {sha.hexdigest()}"
