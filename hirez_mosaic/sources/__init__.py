"""Source pictures of every kind, read box by box."""

from hirez_mosaic.sources.opening import files_of, open_source
from hirez_mosaic.sources.source import Source, unpack, unpacked

__all__ = ["Source", "files_of", "open_source", "unpack", "unpacked"]
