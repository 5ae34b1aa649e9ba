"""Source pictures of every kind, read box by box."""

from hirez_mosaic.sources.opening import open_source
from hirez_mosaic.sources.source import Source, unpack

__all__ = ["Source", "open_source", "unpack"]
