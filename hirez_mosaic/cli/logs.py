"""The package's log, as --log-file and -v show it: a line for each finished chunk and stage, each note and each error."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import click

from hirez_mosaic.errors import OutputError, sentence

_FIELDS = ("picture", "stage", "chunk", "bytes", "seconds")
_LOG = logging.getLogger("hirez_mosaic")


class _AsJson(logging.Formatter):
    """One JSON object a line: time (ISO 8601, UTC), level, message, and those of picture, stage, chunk, bytes and
    seconds there are.
    """

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "message": record.getMessage(),
        }
        told.update(_fields(record))
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told)


class _ForPeople(logging.Formatter):
    """The same without JSON, and without tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        told = _fields(record)
        where = " ".join(str(told.pop(name)) for name in ("picture", "stage") if name in told)
        rest = "".join(f", {name} {value}" for name, value in told.items())
        return f"{self.formatTime(record, '%H:%M:%S')} {where}: {record.getMessage()}{rest}".replace(" : ", " ")


class _ToStandardError(logging.Handler):
    """Standard error as it is when a line comes: above the bars while there are some."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


class _ToFile(logging.FileHandler):
    """A file. Once it cannot be written to any more, which is told, lines are lost and nothing else."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        if not self._told:
            print(
                f"The log file {self.baseFilename} cannot be written to any more: {sys.exc_info()[1]}.", file=sys.stderr
            )
        self._told = True

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def logged(log_file: str | None, verbose: bool) -> Iterator[None]:
    """Within, the log is written to a file, which is appended to, and to standard error, as asked; an error that ends
    the command, too.

    Raises OutputError for a file that cannot be written to.
    """
    handlers: list[logging.Handler] = []
    if log_file is not None:
        try:
            handlers.append(_ToFile(log_file, encoding="utf-8"))
        except OSError as error:
            raise OutputError(f"The log file {log_file} cannot be written to: {error.strerror}.") from error
        handlers[-1].setFormatter(_AsJson())
    if verbose:
        handlers.append(_ToStandardError())
        handlers[-1].setFormatter(_ForPeople())
    before = _LOG.level
    for handler in handlers:
        _LOG.addHandler(handler)
        _LOG.setLevel(logging.INFO)
    try:
        yield
    except Exception as error:
        _LOG.error(error.format_message() if isinstance(error, click.ClickException) else sentence(error))
        raise
    except (KeyboardInterrupt, SystemExit):  # the second of a job of a recipe
        _LOG.error("interrupted")
        raise
    finally:
        _LOG.setLevel(before)
        for handler in handlers:
            _LOG.removeHandler(handler)
            handler.close()


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name in _FIELDS if (value := getattr(record, name, None)) is not None}
