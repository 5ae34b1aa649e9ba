"""What a notebook shows of a finished mosaic: a small picture and its figures, and its page in a frame."""

import html
import math
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from os.path import relpath
from pathlib import Path
from urllib.parse import quote

import pyvips

from hirez_mosaic.errors import HirezMosaicError, SettingError
from hirez_mosaic.jobs.page import make_pages
from hirez_mosaic.pixels.geometry import Box
from hirez_mosaic.settings.formats import format_of, parts_of
from hirez_mosaic.settings.writing import PREVIEW_FROM_PX
from hirez_mosaic.sources import open_source

_SIDE = 800  # px of the picture that is shown, at most
_UNREADABLE = ("iiif",)  # that no page is made of afterwards


@dataclass(frozen=True)
class MosaicView:
    """A mosaic as a notebook shows it.

    output: its file or folder.
    size: (width, height), px.
    preview: a small picture of it; None where there is none.
    figures: for people, by name.
    """

    output: Path
    size: tuple[int, int]
    preview: Path | None
    figures: Mapping[str, str]

    def png(self) -> bytes | None:
        """A small picture of the mosaic as PNG; None where none can be had quickly."""
        try:
            image = self._image()
            return None if image is None else bytes(image.write_to_buffer(".png"))
        except (OSError, pyvips.Error, HirezMosaicError, StopIteration):  # somebody has moved or removed it
            return None

    def html(self) -> str:
        """The picture and the figures."""
        png, name = self.png(), html.escape(self.output.name)
        picture = ""
        if png is not None:
            data = b64encode(png).decode("ascii")
            picture = f'<img src="data:image/png;base64,{data}" alt="The mosaic {name}" style="max-width:100%">'
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(key)}</th><td "
            f"style='text-align:left'>{html.escape(value)}</td></tr>"
            for key, value in self.figures.items()
        )
        return f"<figure>{picture}<figcaption><table>{rows}</table></figcaption></figure>"

    def _image(self) -> pyvips.Image | None:
        if self.preview is not None and self.preview.is_file():
            return pyvips.Image.thumbnail(str(self.preview), _SIDE, height=_SIDE, size="down")
        form = format_of(self.output)
        if not form.levels and math.prod(self.size) > PREVIEW_FROM_PX:
            return None
        return _SMALL.get(form.name, _thumbnail)(self.output)


def _thumbnail(file: Path) -> pyvips.Image:
    return pyvips.Image.thumbnail(str(file), _SIDE, height=_SIDE, size="down")


def _of_deep_zoom(output: Path) -> pyvips.Image:
    """The largest level that is a single tile."""
    levels = sorted(parts_of(output)[0].iterdir(), key=lambda level: -int(level.name))
    return _thumbnail(next(level for level in levels if len(list(level.iterdir())) == 1) / "0_0.jpg")


def _of_iiif(output: Path) -> pyvips.Image:
    """The one tile that holds the whole picture."""
    return _thumbnail(next((output / "full").iterdir()) / "0" / "default.jpg")


def _of_zarr(output: Path) -> pyvips.Image:
    """The smallest level that is as large as what is shown, or else the mosaic itself."""
    source = open_source(output)
    try:
        large = [number for number, level in enumerate(source.levels) if max(level.size) >= _SIDE] or [0]
        chosen = replace(source, level=large[-1])
        width, height = chosen.stored_size
        px = chosen.read(Box(0, height, 0, width))
        image = pyvips.Image.new_from_array(px).copy(interpretation="srgb")
    finally:
        source.close()
    return image.thumbnail_image(_SIDE, height=_SIDE, size="down")


_SMALL: dict[str, Callable[[Path], pyvips.Image]] = {"dzi": _of_deep_zoom, "iiif": _of_iiif, "zarr": _of_zarr}


@dataclass(frozen=True)
class ShownPage:
    """A page of a mosaic, which a notebook shows in a frame. folder: of the page. height: of the frame, px."""

    folder: Path
    height: int = 600

    @property
    def index(self) -> Path:
        """The file that a browser opens."""
        return self.folder / "index.html"

    def _repr_html_(self) -> str:
        try:
            address = quote(Path(relpath(self.index)).as_posix())  # notebooks serve what lies below them
        except ValueError:  # on another drive
            address = self.index.absolute().as_uri()
        return (
            f'<iframe src="{address}" title="The mosaic in a viewer" width="100%" height="{self.height}" '
            f'style="border:0" allowfullscreen></iframe><p><a href="{address}">{html.escape(str(self.index))}</a></p>'
        )


def page_of(
    output: Path,
    tile_map: Path | None,
    tile: tuple[int, int],
    folder: str | Path | None,
    templates: str | Path | None,
    overwrite: bool,
) -> Path:
    """Write the page of a finished mosaic; returns its folder.

    tile: (width, height) of a template, px.
    folder: NAME.page beside the mosaic where None.
    templates: folder of the templates; with it and a tile map the page shows every cell.

    Raises SettingError, and what `make_pages` raises.
    """
    made = output.with_name(f"{output.stem}.page") if folder is None else Path(folder)
    if templates is not None:
        if tile_map is None:
            raise SettingError("A page that knows its templates needs the tile map; render with `tile_map`.")
        make_pages([tile_map], made, templates, tile, overwrite=overwrite)
    elif format_of(output).name in _UNREADABLE:
        raise SettingError(f"No page can be made of {output} afterwards; render with `page`.")
    else:
        make_pages([output], made, overwrite=overwrite)
    return made
