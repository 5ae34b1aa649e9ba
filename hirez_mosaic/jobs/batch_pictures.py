"""The pictures of a batch: which they are, and what is written of each, under which names."""

from dataclasses import dataclass, replace
from pathlib import Path

from hirez_mosaic.errors import SourceNotFoundError
from hirez_mosaic.jobs.preview import ENDING as PREVIEW
from hirez_mosaic.settings.formats import FORMATS
from hirez_mosaic.settings.parsing import is_url
from hirez_mosaic.settings.spec import RenderSpec
from hirez_mosaic.sources.folder import Listing, list_pictures

_PAGE = ".page"


def pictures_below(folder: Path, output: Path, shared: RenderSpec, glob: str, recursive: bool) -> Listing:
    """The pictures in a folder, without mosaics, templates and workspaces. Raises SourceNotFoundError for none.

    output: the folder of mosaics. shared: the spec of any picture. glob, recursive: see `batch`.
    """
    apart = [output, shared.templates]
    if shared.workspace is not None and not is_url(shared.workspace):
        apart.append(Path(shared.workspace))
    listing = list_pictures(folder, glob, recursive, {path.resolve() for path in apart}, shared.exclude)
    if not listing.pictures:
        others = f" ({len(listing.left_out)} other files were left out)" if listing.left_out else ""
        raise SourceNotFoundError(
            f"The folder {folder} holds no pictures that match {glob}{others}; use another `glob`, or `recursive`."
        )
    return listing


@dataclass(frozen=True)
class Kinds:
    """What is written of every picture.

    format: of the mosaic, its suffix without the dot.
    preview: whether small mosaics are previewed, too. no_preview: whether large ones are not.
    tile_map: its suffix without the dot; None for none.
    page: whether a page is written.
    """

    format: str
    preview: bool
    no_preview: bool
    tile_map: str | None
    page: bool

    @property
    def endings(self) -> list[str]:
        """How the names of what is written end."""
        beside = [found.folder for found in FORMATS if found.name == self.format]
        endings = [f".{self.format}", *filter(None, beside)]
        endings += [] if self.no_preview else [PREVIEW]
        endings += [_PAGE] * self.page
        return endings if self.tile_map is None else [*endings, f".{self.tile_map}"]

    def spec(self, shared: RenderSpec, source: Path, stem: Path) -> RenderSpec:
        """The spec of one picture.

        shared: what the specs of all pictures have in common. stem: the path of the mosaic without its suffix.
        """

        def place(ending: str) -> Path:
            return stem.with_name(stem.name + ending)

        mosaic, workspace = place(f".{self.format}"), shared.workspace
        if workspace is not None:
            workspace = f"{workspace.rstrip('/')}/{mosaic.relative_to(shared.output.parent).as_posix()}"
        return replace(
            shared,
            source=source,
            output=mosaic,
            preview=place(PREVIEW) if self.preview else None,
            page=place(_PAGE) if self.page else None,
            tile_map=None if self.tile_map is None else place(f".{self.tile_map}"),
            workspace=workspace,
        )
