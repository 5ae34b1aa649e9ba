"""Which preview a mosaic has: the one that was asked for, or of a large one NAME.preview.jpg beside it."""

from dataclasses import replace
from pathlib import Path

from hirez_mosaic.errors import SettingError
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.settings.spec import PREVIEW_FROM_PX, RenderSpec

ENDING = ".preview.jpg"


def default_preview(output: Path) -> Path:
    """Where the preview of an output is unless another place is named."""
    return output.with_name(output.stem + ENDING)


def with_preview(spec: RenderSpec, size: tuple[int, int], source: str, listener: Listener) -> RenderSpec:
    """The spec, with a preview where the mosaic has more than 50 Mpx and nothing was said of one.

    size: (width, height) of the mosaic, px. source: what to call what the mosaic is made of.
    A file that is there already, and a place where the preview would be in the way, are left alone, with a note.
    """
    if spec.preview is not None or spec.no_preview or size[0] * size[1] <= PREVIEW_FROM_PX:
        return spec
    preview = default_preview(spec.output)
    if preview.is_dir() or (preview.exists() and not spec.overwrite):
        listener.note(f"{preview} is there already and stays as it is; `overwrite` replaces it.")
        return spec
    try:
        wanted = replace(spec, preview=preview)
        wanted.check_places(source)
    except SettingError:
        listener.note(f"There is no preview: {preview} would be in the way; name another place with `preview`.")
        return spec
    return wanted
