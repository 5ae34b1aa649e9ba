"""The tile map: which template lies where, as a table that people read, edit and give back.

One row a cell, in any order:

    row, column    from 0, from the top left corner
    template       path below the template folder, with forward slashes
    mirror         0 or 1: mirrored left to right, before it is turned
    rotate         0, 90, 180 or 270 degrees to the left
    score          of the decoder, higher is better; empty where the rules chose a template that was no candidate
    runner_up      path of the best other template; empty where there is none
    colour         #rrggbb, the mean colour of the source in this cell
    tint           0 to 1: how far the template's mean colour is moved towards it
"""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hirez_mosaic.errors import OutputError, SettingError, TileMapError
from hirez_mosaic.pixels.array_types import Array, ChunkedArray
from hirez_mosaic.templates import TemplateSet
from hirez_mosaic.templates.names import named
from hirez_mosaic.templates.template_set import Pose

SUFFIXES = (".csv", ".json", ".parquet")
COLUMNS = ("row", "column", "template", "mirror", "rotate", "score", "runner_up", "colour", "tint")
_DECIMALS = ("score", "tint")
_BATCH = 16_384  # rows of a Parquet row group

Cell = dict[str, Any]


def check_tile_map(path: Path) -> None:
    """Raise SettingError for a suffix that no tile map has, or where the library for it is missing."""
    if path.suffix.lower() not in SUFFIXES:
        raise SettingError(f"The tile map {path} has no known suffix; use one of {', '.join(SUFFIXES)}.")
    if path.suffix.lower() == ".parquet":
        _parquet()


def cells_of(
    templates: TemplateSet,
    tint: float,
    *,
    index_map: ChunkedArray,
    candidates: Array,
    scores: Array,
    colours: Array,
) -> Iterator[Cell]:
    """Yield the rows of a tile map, from arrays that are read a row of chunks at a time.

    tint: 0 to 1, of all cells.
    index_map: (rows, columns) uint32, choices.
    candidates: (rows, columns, k) uint32, choices.
    scores: (rows, columns, k) float32, of the candidates.
    colours: (rows, columns, 3) uint8 sRGB, means of the cells.
    """
    poses, step = len(templates.poses), index_map.chunks[0]
    for top in range(0, index_map.shape[0], step):
        band = slice(top, top + step)
        chosen, near, values, means = (np.asarray(array[band]) for array in (index_map, candidates, scores, colours))
        for row, column in np.ndindex(chosen.shape):
            name, pose = templates.template_of(int(chosen[row, column]))
            mine = near[row, column] == chosen[row, column]
            others = near[row, column][near[row, column] // poses != chosen[row, column] // poses]
            yield {
                "row": top + row,
                "column": column,
                "template": name,
                "mirror": int(pose.mirrored),
                "rotate": 90 * pose.turns,
                "score": float(values[row, column][mine.argmax()]) if mine.any() else None,
                "runner_up": templates.template_of(int(others[0]))[0] if len(others) else None,
                "colour": "#{:02x}{:02x}{:02x}".format(*means[row, column].tolist()),
                "tint": tint,
            }


def write_tile_map(cells: Iterable[Cell], path: Path) -> None:
    """Write a tile map, row by row. Raises OutputError where it cannot be written."""
    try:
        {".csv": _write_csv, ".json": _write_json, ".parquet": _write_parquet}[path.suffix.lower()](cells, path)
    except OSError as error:
        raise OutputError(f"The tile map {path} cannot be written: {error.strerror or error}.") from error


def _write_csv(cells: Iterable[Cell], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(cells)


def _write_json(cells: Iterable[Cell], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for number, cell in enumerate(cells):
            file.write(("[\n" if number == 0 else ",\n") + json.dumps(cell, ensure_ascii=False))
        file.write("\n]\n")


def _write_parquet(cells: Iterable[Cell], path: Path) -> None:
    arrow, parquet = _parquet()
    kinds = {
        "row": "uint32",
        "column": "uint32",
        "mirror": "uint8",
        "rotate": "uint16",
        "score": "float32",
        "tint": "float32",
    }
    schema = arrow.schema([(name, getattr(arrow, kinds.get(name, "string"))()) for name in COLUMNS])
    with parquet.ParquetWriter(path, schema) as writer:
        batch: list[Cell] = []
        for cell in cells:
            batch.append(cell)
            if len(batch) == _BATCH:
                writer.write_table(arrow.Table.from_pylist(batch, schema))
                batch = []
        writer.write_table(arrow.Table.from_pylist(batch, schema))


def _parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise SettingError(
            "Parquet needs pyarrow, which is not installed; pip install 'hirez-mosaic[parquet]', or use .csv."
        ) from error
    return pyarrow, pyarrow.parquet


@dataclass(frozen=True)
class TileMap:
    """A tile map that was read from a file.

    index_map: (rows, columns) uint32, choices from `templates`.
    colours: (rows, columns, 3) uint8, mean colours of the source.
    tint: (rows, columns) float32, 0 to 1.
    """

    templates: TemplateSet
    index_map: NDArray[np.uint32]
    colours: NDArray[np.uint8]
    tint: NDArray[np.float32]

    @property
    def source(self) -> NDArray[np.uint8] | None:
        """What is known of the source: its mean colours; None where the map has none."""
        return self.colours if self.colours.any() else None


def survey(path: Path) -> tuple[frozenset[str], tuple[int, int]]:
    """(names of the templates in a tile map, its (columns, rows)). Raises TileMapError for an entry that is wrong."""
    names, columns, rows = set[str](), 0, 0
    for cell in _read(path):
        names.add(cell.template)
        columns, rows = max(columns, cell.column + 1), max(rows, cell.row + 1)
    return frozenset(names), (columns, rows)


def read_tile_map(path: Path, templates: TemplateSet, banned: frozenset[str], tint: float | None = None) -> TileMap:
    """The tile map in a file. Holds 12 bytes a cell, and the whole of a JSON file.

    templates: in one pose; the map's own poses are added.
    banned: templates that are replaced by their runner-up, upright.
    tint: of all cells, instead of the map's.

    Raises TileMapError, with the row, for whatever is wrong with it, and for a banned template that neither map nor
    folder has.
    """
    rows = columns = count = 0
    poses, mapped = set(), set[str]()
    for cell in _read(path):
        mapped.add(cell.template)
        rows, columns, count = max(rows, cell.row + 1), max(columns, cell.column + 1), count + 1
        poses.add(cell.pose)
    if count != rows * columns or not count:
        raise TileMapError(
            f"The tile map {path} has {count} rows and its {rows} x {columns} cells want one each; complete it."
        )
    banned, unknown = named(mapped.union(templates.names), banned)
    if unknown:
        raise TileMapError(
            f"The banned template {min(unknown)} is neither in the tile map {path} nor in {templates.folder}; "
            "correct its path."
        )
    mirror, rotate = any(pose.mirrored for pose in poses), any(pose.turns for pose in poses)
    posed = templates.in_poses(mirror=mirror, rotate=rotate)
    numbers = {name: number for number, name in enumerate(templates.names)}
    index_map, seen = np.zeros((rows, columns), np.uint32), np.zeros((rows, columns), np.bool_)
    colours, strengths = np.zeros((rows, columns, 3), np.uint8), np.zeros((rows, columns), np.float32)
    for cell in _read(path):
        name, pose = cell.template, cell.pose
        if seen[cell.row, cell.column]:
            raise TileMapError(f"There are two lines for {cell.place} of the tile map {path}; remove one.")
        if name in banned:
            name, pose = cell.runner_up, Pose()
            if not name or name in banned:
                raise TileMapError(
                    f"The template {cell.template} of {cell.place} of the tile map {path} is banned and has no "
                    "runner-up that is not; name another there."
                )
        if name not in numbers:
            raise TileMapError(
                f"The template {name} of {cell.place} of the tile map {path} is not in {templates.folder}; name one "
                "that is."
            )
        index_map[cell.row, cell.column] = numbers[name] * len(posed.poses) + posed.poses.index(pose)
        strength = cell.tint if tint is None else tint
        if strength and cell.colour is None:
            raise TileMapError(
                f"{cell.place} of the tile map {path} has no colour to be tinted towards; name it there, or use "
                "`tint=0`."
            )
        colours[cell.row, cell.column], strengths[cell.row, cell.column] = cell.colour or (0, 0, 0), strength
        seen[cell.row, cell.column] = True
    return TileMap(posed, index_map, colours, strengths)


@dataclass(frozen=True)
class _Cell:
    row: int
    column: int
    template: str
    pose: Pose
    runner_up: str
    colour: tuple[int, int, int] | None
    tint: float

    @property
    def place(self) -> str:
        return f"row {self.row}, column {self.column}"


def _read(path: Path) -> Iterator[_Cell]:
    reader = {".csv": _read_csv, ".json": _read_json, ".parquet": _read_parquet}[path.suffix.lower()]
    for number, cell in enumerate(reader(path), 1):
        try:
            yield _parsed(cell)
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            what = f"has no column {error}" if isinstance(error, KeyError) else f"cannot be read: {error}"
            raise TileMapError(
                f"Entry {number} of the tile map {path} {what}; its columns are {', '.join(COLUMNS)}."
            ) from error


def _parsed(cell: Cell) -> _Cell:
    row, column, turns = int(cell["row"]), int(cell["column"]), int(cell.get("rotate") or 0) / 90
    colour, tint = bytes.fromhex((cell.get("colour") or "").removeprefix("#")), float(cell.get("tint") or 0)
    if not 0 <= row < 2**24 or not 0 <= column < 2**24:
        raise ValueError(f"row {row}, column {column}")
    if turns not in (0, 1, 2, 3) or int(cell.get("mirror") or 0) not in (0, 1):
        raise ValueError(f"mirror {cell.get('mirror')}, rotate {cell.get('rotate')}")
    if len(colour) not in (0, 3) or not 0 <= tint <= 1:  # NaN is out of range, too
        raise ValueError(f"colour {cell.get('colour')}, tint {cell.get('tint')}")
    if not cell["template"]:
        raise ValueError("no template")
    pose = Pose(bool(int(cell.get("mirror") or 0)), int(turns))
    return _Cell(
        row,
        column,
        str(cell["template"]),
        pose,
        str(cell.get("runner_up") or ""),
        (colour[0], colour[1], colour[2]) if colour else None,
        tint,
    )


def _read_csv(path: Path) -> Iterator[Cell]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            head = file.readline()
            file.seek(0)
            separator = max(",;\t", key=head.count)  # spreadsheets write semicolons where a comma is the decimal point
            for cell in csv.DictReader(file, delimiter=separator):
                yield (
                    cell
                    if separator == ","
                    else {**cell, **{name: str(cell.get(name) or "").replace(",", ".") for name in _DECIMALS}}
                )
    except (csv.Error, UnicodeDecodeError) as error:
        raise TileMapError(f"The tile map {path} is no CSV in UTF-8: {error}.") from error


def _read_json(path: Path) -> Iterator[Cell]:
    try:
        cells = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise TileMapError(f"The tile map {path} is no JSON in UTF-8: {error}.") from error
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise TileMapError(f"The tile map {path} is no JSON list of objects, one a cell.")
    yield from cells


def _read_parquet(path: Path) -> Iterator[Cell]:
    arrow, parquet = _parquet()
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH):
                yield from batch.to_pylist()
    except arrow.ArrowInvalid as error:
        raise TileMapError(f"The tile map {path} is no Parquet file: {error}.") from error
