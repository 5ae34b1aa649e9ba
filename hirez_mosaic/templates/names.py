"""Text files that name templates, one a line: those to ban, and those to prefer."""

import unicodedata
from collections.abc import Collection
from pathlib import Path

import numpy as np

from hirez_mosaic.errors import SettingError
from hirez_mosaic.templates import TemplateSet


def read_names(path: Path, which: str) -> frozenset[str]:
    """The lines of a text file that are not blank; see `named` for what a line may mean.

    which: "banned" or "preferred", for the message.

    Raises SettingError for a file that is missing or no text.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise SettingError(f"The file of {which} templates {path} is not there.") from error
    except (UnicodeDecodeError, OSError) as error:
        raise SettingError(f"The file of {which} templates {path} is no text in UTF-8.") from error
    return frozenset(line for line in lines if line.strip())


def read_ban(path: Path) -> frozenset[str]:
    """The lines of a file of banned templates, see `read_names`."""
    return read_names(path, "banned")


def named(templates: Collection[str], lines: frozenset[str]) -> tuple[frozenset[str], list[str]]:
    """(the templates that lines mean, the lines that mean none and are no comments).

    A line may be the name itself, even one that begins with # or a blank. It may also have blanks around the name, or
    accents in one character or two, as other systems write them. Any other line that begins with # is a comment.
    """
    known, alike = set(templates), {unicodedata.normalize("NFC", name): name for name in templates}
    found, unknown = set[str](), []
    for line in sorted(lines):
        forms = [
            line,
            line.strip(),
            alike.get(unicodedata.normalize("NFC", line)),
            alike.get(unicodedata.normalize("NFC", line.strip())),
        ]
        name = next((form for form in forms if form in known), None)
        if name is not None:
            found.add(name)
        elif not line.strip().startswith("#"):
            unknown.append(line.strip())
    return frozenset(found), unknown


def check_names(templates: TemplateSet, names: frozenset[str], which: str) -> None:
    """Raise SettingError for names of templates that are not in the set. which: "banned" or "preferred"."""
    unknown = named(templates.names, names)[1]
    if unknown:
        some = ", ".join(unknown[:5])
        raise SettingError(
            f"{len(unknown)} {which} templates are not in {templates.folder}: {some}; name paths below it."
        )


def without(templates: TemplateSet, banned: frozenset[str]) -> TemplateSet:
    """The templates that are not banned.

    Raises SettingError for a banned one that is not in the set, and where no template is left.
    """
    if not banned:
        return templates
    check_names(templates, banned, "banned")
    left_out = named(templates.names, banned)[0]
    kept = np.array([number for number, name in enumerate(templates.names) if name not in left_out], np.int64)
    if not len(kept):
        raise SettingError(
            f"All {len(templates.names)} templates in {templates.folder} are banned; leave one at least."
        )
    return templates.subset(kept)
