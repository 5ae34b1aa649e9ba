"""Where this program keeps what it has made or fetched: weights, decoders, decoded templates."""

import os
from pathlib import Path

import platformdirs


def cache_folder(kind: str) -> Path:
    """The folder for one kind of cached file, made if it is not there.

    It lies below the user's cache folder, or below $HIREZ_MOSAIC_CACHE where that is set.

    kind: "weights", "decoders", "templates" and so on.
    """
    root = os.environ.get("HIREZ_MOSAIC_CACHE") or platformdirs.user_cache_dir("hirez-mosaic", appauthor=False)
    folder = Path(root) / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder
