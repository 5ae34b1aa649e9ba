"""Source pictures of every kind, read box by box."""

from hirez_mosaic.sources.opening import Reading, files_of, open_source
from hirez_mosaic.sources.ranges import flat_note
from hirez_mosaic.sources.source import Source, unpack, unpacked
from hirez_mosaic.sources.whole import open_whole, reason, size_of

__all__ = [
    "Reading",
    "Source",
    "files_of",
    "flat_note",
    "open_source",
    "open_whole",
    "reason",
    "size_of",
    "unpack",
    "unpacked",
]
