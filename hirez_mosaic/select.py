"""Select: from the candidates to the index map, one template for every cell."""

from typing import Any

from hirez_mosaic.geometry import Box


def select_chunk(candidates: Any, index_map: Any, box: Box) -> None:
    """Fill the write box of the index map (rows, columns) uint32 with each cell's best candidate."""
    index_map[box.slices] = candidates[box.slices][..., 0]
