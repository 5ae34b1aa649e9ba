"""Every error a caller may want to catch.

    HirezMosaicError
    ├── SettingError            (also ValueError)         a setting out of range or of the wrong form
    ├── SourceError                                       the picture cannot be used
    │   └── SourceNotFoundError (also FileNotFoundError)
    ├── TemplateError                                     the template folder cannot be used
    ├── WeightsError                                      the encoder's weights cannot be had or are not the right ones
    ├── TileMapError                                      a tile map cannot be used
    ├── DecoderError                                      a decoder file is unusable or made for other templates
    ├── TrainingError                                     training cannot begin, or cannot go on
    ├── DeviceError                                       the device asked for is not there
    ├── BudgetError                                       not even the smallest chunk fits the memory budget
    ├── WorkspaceError                                    the workspace is not this job's, is taken, or cannot be opened
    │   └── OtherJobError                                 an earlier render of another source, settings, or version
    ├── ClusterError                                      the Dask cluster cannot be used
    └── OutputError                                       the mosaic cannot be written
        ├── OutputExistsError   (also FileExistsError)
        └── DiskSpaceError

A message is one sentence or two: the fact, the values, the remedy.
"""

import re

__all__ = [
    "BudgetError",
    "ClusterError",
    "DecoderError",
    "DeviceError",
    "DiskSpaceError",
    "HirezMosaicError",
    "OtherJobError",
    "OutputError",
    "OutputExistsError",
    "SettingError",
    "SourceError",
    "SourceNotFoundError",
    "TemplateError",
    "TileMapError",
    "TrainingError",
    "WeightsError",
    "WorkspaceError",
]


class HirezMosaicError(Exception):
    """Root of all errors this package raises on purpose."""


class SettingError(HirezMosaicError, ValueError):
    """A setting is out of range or of the wrong form."""


class SourceError(HirezMosaicError):
    """The source picture cannot be used."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """There is no file or folder of the source's name."""


class TemplateError(HirezMosaicError):
    """The template folder cannot be used."""


class TileMapError(HirezMosaicError):
    """The tile map cannot be used."""


class WeightsError(HirezMosaicError):
    """The encoder's weights cannot be had, or are not the right ones."""


class DecoderError(HirezMosaicError):
    """A decoder file is unusable, or made for other templates."""


class TrainingError(HirezMosaicError):
    """Training cannot begin with these pictures or this checkpoint, or its loss is no number any more."""


class DeviceError(HirezMosaicError):
    """The device asked for is not there."""


class BudgetError(HirezMosaicError):
    """Not even the smallest chunk fits the memory budget."""


class WorkspaceError(HirezMosaicError):
    """The workspace is that of something else, taken by another render, or cannot be opened."""


class OtherJobError(WorkspaceError):
    """The workspace holds what another job, or another version, left; it may be discarded."""


class ClusterError(HirezMosaicError):
    """The Dask cluster cannot be reached, or cannot run the job."""


class OutputError(HirezMosaicError):
    """The mosaic cannot be written."""


class OutputExistsError(OutputError, FileExistsError):
    """The output is there already and may not be replaced."""


class DiskSpaceError(OutputError):
    """The disk has too little room for the workspace or the mosaic."""


def sentence(error: Exception) -> str:
    """What a person is told of an error of this package, of the system, or of memory."""
    if isinstance(error, HirezMosaicError):
        return str(error)
    if isinstance(error, MemoryError):
        return "The machine is out of memory; use a smaller `memory`."
    if isinstance(error, OSError):
        return f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}."
    return f"unexpected {type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"


def first_line(error: Exception) -> str:
    """The first line of another library's message, without its full stop; the error's kind where that is no word."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines and re.search("[A-Za-z]", lines[0]) else type(error).__name__
