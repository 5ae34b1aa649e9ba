"""What a page knows of its cells, in blocks that a browser loads one by one.

Each is a script that calls hirezMosaicBlock(name, content), because a page that was opened by double click may load
scripts, but no data:

    index/ROW/COLUMN   choices of a square of cells, row by row: base64 of uint32, little end first
    uses/N             cells (row x columns + column), sorted by the template that stands there: base64, too
    names/N            {"names": paths of templates, "first": where in `uses` each begins, and where the last ends}
    search/N           {three letters: which blocks of names have them}
"""

import base64
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

INDEX = 64  # side of a block of the index map, cells
USES = 8192  # entries of a block of uses
NAMES = 256  # templates of a block of names
DRAWERS = 256  # blocks that three letters are spread over


def write_block(folder: Path, name: str, content: Any) -> None:
    """Write one block. content: an array of whole numbers, or what JSON can hold."""
    written = (
        base64.b64encode(np.ascontiguousarray(content, "<u4").tobytes()).decode()
        if isinstance(content, np.ndarray)
        else content
    )
    file = folder / f"{name}.js"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"hirezMosaicBlock({json.dumps(name)},{json.dumps(written, separators=(',', ':'))})\n", "ascii")


def write_index(folder: Path, choices: NDArray[np.uint32]) -> None:
    """Write the blocks of an index map (rows, columns)."""
    for top in range(0, choices.shape[0], INDEX):
        for left in range(0, choices.shape[1], INDEX):
            write_block(
                folder, f"index/{top // INDEX}/{left // INDEX}", choices[top : top + INDEX, left : left + INDEX]
            )


def sorted_uses(numbers: Iterator[NDArray[np.uint32]], counts: NDArray[np.int64], uses: NDArray[np.uint32]) -> None:
    """Fill `uses` (cells,) with the cells, sorted by their template and then by place, a part of the map at a time.

    numbers: parts (n,) of the templates' numbers in all cells, row by row.
    counts: (templates,) how many cells each template has.
    """
    free, start = np.cumsum(counts) - counts, 0
    for part in numbers:
        order = np.argsort(part, kind="stable")
        found, first, times = np.unique(part[order], return_index=True, return_counts=True)
        places = np.repeat(free[found] - first, times) + np.arange(len(part))
        uses[places] = start + order
        free[found] += times
        start += len(part)


def write_uses(folder: Path, uses: NDArray[np.uint32]) -> None:
    """Write the blocks of `sorted_uses`."""
    for number in range(-(-len(uses) // USES)):
        write_block(folder, f"uses/{number}", uses[number * USES : (number + 1) * USES])


def write_names(folder: Path, names: tuple[str, ...] | None, counts: NDArray[np.int64]) -> None:
    """Write the blocks of names, with the places in `uses` at which each template's begin.

    names: None leaves the names out. counts: see `sorted_uses`.
    """
    first = np.concatenate([[0], np.cumsum(counts)])
    for number in range(-(-len(counts) // NAMES)):
        some = slice(number * NAMES, (number + 1) * NAMES)
        named = {} if names is None else {"names": names[some]}
        write_block(folder, f"names/{number}", {**named, "first": first[some.start : some.stop + 1].tolist()})


def write_search(folder: Path, names: tuple[str, ...]) -> None:
    """Write which three letters, in lower case, occur in which blocks of names.

    Holds about 8 bytes for each three letters of each block.
    """
    drawers: list[dict[str, list[int]]] = [defaultdict(list) for _ in range(DRAWERS)]
    for number in range(-(-len(names) // NAMES)):
        some = map(str.lower, names[number * NAMES : (number + 1) * NAMES])
        for three in sorted({name[at : at + 3] for name in some for at in range(len(name) - 2)}):
            drawers[drawer_of(three)][three].append(number)
    for number, drawer in enumerate(drawers):
        write_block(folder, f"search/{number}", drawer)


def drawer_of(three: str) -> int:
    """The block of the search in which these letters stand; viewer.js computes the same."""
    total = 0
    for letter in three:
        total = (total * 31 + ord(letter)) % DRAWERS
    return total
