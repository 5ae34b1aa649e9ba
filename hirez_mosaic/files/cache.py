"""Where this program keeps what it made or fetched once: weights, decoded templates."""

import os
from pathlib import Path

import platformdirs


def cache_folder(kind: str) -> Path:
    """The folder for one kind of cached file, made if it is not there.

    It is below the user's cache folder, or below $HIREZ_MOSAIC_CACHE where that is set.
    """
    root = os.environ.get("HIREZ_MOSAIC_CACHE") or platformdirs.user_cache_dir("hirez-mosaic", appauthor=False)
    folder = Path(root) / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder
