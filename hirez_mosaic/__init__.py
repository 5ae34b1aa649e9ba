"""Photomosaics of any size that look right from afar and up close.

>>> import hirez_mosaic
>>> hirez_mosaic.render("starry.tif", templates="hubble/", tile=32)  # doctest: +SKIP
"""

import logging
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from hirez_mosaic import errors
from hirez_mosaic.errors import HirezMosaicError

if TYPE_CHECKING:
    from hirez_mosaic.jobs.batch import batch
    from hirez_mosaic.jobs.batch_result import BatchResult, Outcome
    from hirez_mosaic.jobs.batch_run import BatchListener
    from hirez_mosaic.jobs.compare import compare
    from hirez_mosaic.jobs.listener import Listener
    from hirez_mosaic.jobs.print import PrintListener, PrintPlan, PrintResult, print_sheets
    from hirez_mosaic.jobs.remake import assemble_tile_map
    from hirez_mosaic.jobs.render import RenderResult, render
    from hirez_mosaic.jobs.text_listener import TextListener
    from hirez_mosaic.jobs.train import train
    from hirez_mosaic.templates.augmenting import Augmentation, augmented
    from hirez_mosaic.templates.making import write_templates

_LAZY = {
    "Augmentation": "templates.augmenting",
    "BatchListener": "jobs.batch_run",
    "BatchResult": "jobs.batch_result",
    "Listener": "jobs.listener",
    "Outcome": "jobs.batch_result",
    "PrintListener": "jobs.print",
    "PrintPlan": "jobs.print",
    "PrintResult": "jobs.print",
    "RenderResult": "jobs.render",
    "TextListener": "jobs.text_listener",
    "assemble_tile_map": "jobs.remake",
    "augmented": "templates.augmenting",
    "batch": "jobs.batch",
    "compare": "jobs.compare",
    "print_sheets": "jobs.print",
    "render": "jobs.render",
    "train": "jobs.train",
    "write_templates": "templates.making",
}
__version__ = version("hirez-mosaic")
logging.getLogger(__name__).addHandler(logging.NullHandler())  # who wants to read the log, says so
__all__ = [
    "Augmentation",
    "BatchListener",
    "BatchResult",
    "HirezMosaicError",
    "Listener",
    "Outcome",
    "PrintListener",
    "PrintPlan",
    "PrintResult",
    "RenderResult",
    "TextListener",
    "__version__",
    "assemble_tile_map",
    "augmented",
    "batch",
    "compare",
    "errors",
    "print_sheets",
    "render",
    "train",
    "write_templates",
]


def __getattr__(name: str) -> Any:
    """Import PyTorch and the rest only when something is made of it: `hirez-mosaic --help` should not take seconds."""
    if name in _LAZY:
        return getattr(import_module(f"hirez_mosaic.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What completion shows: the names that have yet to be imported, too."""
    return sorted({*globals(), *__all__})
