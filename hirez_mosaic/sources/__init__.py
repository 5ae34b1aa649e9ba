"""Source pictures of every kind, read box by box."""

from hirez_mosaic.sources.opening import open_source
from hirez_mosaic.sources.source import MAX_SOURCE_PX, Source, unpack

__all__ = ["MAX_SOURCE_PX", "Source", "open_source", "unpack"]
