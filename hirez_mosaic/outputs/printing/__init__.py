"""Printing: a mosaic as sheets of paper that make a wall, or as stickers with a grid that tells where they go."""

from hirez_mosaic.outputs.printing.cells import StickerPaper, Stickers, fewest, grid_pages, grid_parts, sticker_pages
from hirez_mosaic.outputs.printing.layout import Paper, Wall, check_room, laid
from hirez_mosaic.outputs.printing.page import Page
from hirez_mosaic.outputs.printing.pdf import write_pdf
from hirez_mosaic.outputs.printing.px import COMPRESSIONS, Ink, MosaicPx, Readable
from hirez_mosaic.outputs.printing.sheets import plan_page, sheet_pages, sheet_parts
from hirez_mosaic.outputs.printing.tif import write_tifs

__all__ = [
    "COMPRESSIONS",
    "Ink",
    "MosaicPx",
    "Page",
    "Paper",
    "Readable",
    "StickerPaper",
    "Stickers",
    "Wall",
    "check_room",
    "fewest",
    "grid_pages",
    "grid_parts",
    "laid",
    "plan_page",
    "sheet_pages",
    "sheet_parts",
    "sticker_pages",
    "write_pdf",
    "write_tifs",
]
