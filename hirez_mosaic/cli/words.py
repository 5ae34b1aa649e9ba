"""The library names settings as Python does, `max_uses` or `memory=2GiB`; the command line spells them as flags."""

import re

_SETTING = re.compile(r"`([a-z_]+)(?:=([^`]*))?`")


def spelled(text: str) -> str:
    """A message of the library in the words of the command line.

    >>> spelled("use `overwrite` or another `max_uses`, for example `max_uses=2`, or `restart=True`")
    'use --overwrite or another --max-uses, for example --max-uses 2, or --restart'
    """
    return _SETTING.sub(_flag, text)


def _flag(match: re.Match[str]) -> str:
    name, value = match[1], match[2]
    flag = "-o" if name == "output" else f"--{name.replace('_', '-')}"
    return flag if value in (None, "True") else f"{flag} {value}"
