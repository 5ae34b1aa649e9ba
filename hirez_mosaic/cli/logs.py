"""The package's log, as --log-file and -v show it: a line for each finished chunk, stage, note and error."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import click

from hirez_mosaic.cli.words import spelled
from hirez_mosaic.errors import OutputError, sentence

_FIELDS = ("picture", "stage", "chunk", "bytes", "seconds")
_LOG = logging.getLogger("hirez_mosaic")


class _AsJson(logging.Formatter):
    """A record as one line of JSON: time (ISO 8601, UTC), level, message, and the fields `_FIELDS` that it has."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "message": record.getMessage(),
        }
        line.update(_fields(record))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _ForPeople(logging.Formatter):
    """A record as one line for people, without a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        where = " ".join(str(fields.pop(name)) for name in ("picture", "stage") if name in fields)
        rest = "".join(f", {name} {value}" for name, value in fields.items())
        return f"{self.formatTime(record, '%H:%M:%S')} {where}: {record.getMessage()}{rest}".replace(" : ", " ")


class _ToStandardError(logging.Handler):
    """Writes to what is standard error when a line comes: above the bars while there are some."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


class _ToFile(logging.FileHandler):
    """Writes to a file. When that fails, one message says so; lines are lost, and the command goes on."""

    _has_failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        if not self._has_failed:
            print(
                f"The log file {self.baseFilename} cannot be written to any more: {sys.exc_info()[1]}.", file=sys.stderr
            )
        self._has_failed = True

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def logged(log_file: str | None, verbose: bool) -> Iterator[None]:
    """Write the log to a file, which is appended to, and to standard error; an error that ends the command too.

    log_file: None for no file.
    verbose: whether to write to standard error.

    Raises OutputError for a file that cannot be written to.
    """
    handlers = _handlers(log_file, verbose)
    before = _LOG.level
    for handler in handlers:
        _LOG.addHandler(handler)
        _LOG.setLevel(logging.INFO)
    try:
        yield
    except Exception as error:
        _LOG.error(error.format_message() if isinstance(error, click.ClickException) else spelled(sentence(error)))
        raise
    except (KeyboardInterrupt, SystemExit):  # a job of a recipe ends with SystemExit
        _LOG.error("interrupted")
        raise
    finally:
        _LOG.setLevel(before)
        for handler in handlers:
            _LOG.removeHandler(handler)
            handler.close()


def _handlers(log_file: str | None, verbose: bool) -> list[logging.Handler]:
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
    return handlers


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """Those of `_FIELDS` that the record has."""
    return {name: value for name in _FIELDS if (value := getattr(record, name, None)) is not None}
