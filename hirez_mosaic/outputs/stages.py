"""The stages that write outputs: the mosaic, its tile map, its preview and its page."""

from typing import ClassVar

from hirez_mosaic.engine import arrays
from hirez_mosaic.outputs import mosaic_file, pages
from hirez_mosaic.stages.stage import Setup, Stage
from hirez_mosaic.templates import RESIDENT


class _Output(Stage):
    """A stage that reads the finished map, or the map as it grows, and writes files beside the workspace."""

    reads: ClassVar[tuple[str, ...]] = (arrays.INDEX_MAP.name, arrays.RULED_MAP.name, arrays.COLOURS.name)

    def memory(self, setup: Setup, chunk: tuple[int, int], workers: int) -> int:
        spec = setup.spec
        writing = mosaic_file.projected_bytes(setup.grid, spec.output, tinted=spec.tint > 0)
        return writing + _resident(setup) + setup.left_bytes


class _Assemble(_Output):
    """The mosaic."""

    name = "assemble"

    def output_bytes(self, setup: Setup) -> int:
        spec = setup.spec
        return mosaic_file.output_bytes(setup.grid.mosaic_size, spec.output, spec.encoding)


class _TileMap(_Output):
    """Which template lies where."""

    name = "tile map"
    reads = (*_Output.reads, arrays.CANDIDATES.name, arrays.SCORES.name)

    def runs(self, setup: Setup) -> bool:
        return setup.spec.tile_map is not None

    def memory(self, setup: Setup, chunk: tuple[int, int], workers: int) -> int:
        rows = chunk[0] * setup.grid.columns * (8 * setup.tools.candidates + 7)
        return rows + super().memory(setup, chunk, workers)  # some of what assembling takes is still held


class _Preview(_Output):
    """A small version of the mosaic."""

    name = "preview"

    def runs(self, setup: Setup) -> bool:
        return setup.spec.preview is not None


class _Page(_Output):
    """The page that a browser shows."""

    name = "page"

    def runs(self, setup: Setup) -> bool:
        return setup.spec.page is not None

    def memory(self, setup: Setup, chunk: tuple[int, int], workers: int) -> int:
        grid = setup.grid
        return _resident(setup) + pages.projected_bytes(grid.columns, grid.tile, workers, tinted=setup.spec.tint > 0)

    def output_bytes(self, setup: Setup) -> int:
        return pages.output_bytes(setup.grid.mosaic_size, setup.spec.tile, len(setup.tools.templates.names))


def _resident(setup: Setup) -> int:
    """Bytes of the templates that are in memory while templates are placed."""
    grid = setup.grid
    row = grid.columns * grid.tile[0] * grid.tile[1] * 3
    return min(setup.tools.templates.pixels.nbytes, RESIDENT + row)


ASSEMBLE, TILE_MAP, PREVIEW, PAGE = _Assemble(), _TileMap(), _Preview(), _Page()
