"""The preview of a mosaic: the one that was asked for, or else, for a large mosaic, NAME.preview.jpg beside it."""

from collections.abc import Callable
from pathlib import Path

from hirez_mosaic.errors import SettingError
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.settings.writing import PREVIEW_FROM_PX, Writing

ENDING = ".preview.jpg"


def default_preview(output: Path) -> Path:
    """The path of an output's preview, unless another is named."""
    return output.with_name(output.stem + ENDING)


def preview_of(
    writing: Writing, size: tuple[int, int], check: Callable[[Path], None], listener: Listener
) -> Path | None:
    """The path of the preview: the one that was named, or one beside a mosaic of more than 50 Mpx; None for none.

    There is no preview, but a note, where a file of its name is there already or it would be in the way.

    size: (width, height) of the mosaic, px.
    check: raises SettingError for a path where it would be in the way.
    """
    if writing.preview is not None or writing.no_preview or size[0] * size[1] <= PREVIEW_FROM_PX:
        return writing.preview
    preview = default_preview(writing.output)
    if preview.is_dir() or (preview.exists() and not writing.overwrite):
        listener.note(f"{preview} is there already and stays as it is; `overwrite` replaces it.")
        return None
    try:
        check(preview)
    except SettingError:
        listener.note(f"There is no preview: {preview} would be in the way; name another place with `preview`.")
        return None
    return preview
