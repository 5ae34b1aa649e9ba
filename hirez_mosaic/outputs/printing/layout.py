"""How a picture of a physical size is cut into sheets: px, mm and names."""

from dataclasses import dataclass
from fractions import Fraction

from hirez_mosaic.errors import SettingError
from hirez_mosaic.pixels.geometry import Box
from hirez_mosaic.settings.lengths import INCH, Size, format_size

MOST_PAGES = 20_000


@dataclass(frozen=True)
class Paper:
    """A sheet of paper. size: (width, height), mm. margin: mm on every side, in which no part of the picture lies."""

    size: Size
    margin: Fraction

    @property
    def room(self) -> Size:
        """(width, height) between the margins, mm; 0 or less where they leave none."""
        return self.size[0] - 2 * self.margin, self.size[1] - 2 * self.margin

    @property
    def turned(self) -> "Paper":
        """The same, turned by a quarter."""
        return Paper((self.size[1], self.size[0]), self.margin)


@dataclass(frozen=True)
class Wall:
    """A picture on sheets that lie side by side.

    size: (width, height), px.
    density: px a mm.
    paper: of each sheet.
    overlap: px that two neighbours both show.
    bleed: px beyond the line at which a sheet is cut.
    """

    size: tuple[int, int]
    density: Fraction
    paper: Paper
    overlap: int = 0
    bleed: int = 0

    @property
    def millimetres(self) -> Size:
        """(width, height) of the whole picture, mm."""
        return self.size[0] / self.density, self.size[1] / self.density

    @property
    def dots(self) -> float:
        """Px an inch."""
        return float(self.density * INCH)

    @property
    def room(self) -> tuple[int, int]:
        """(width, height) of the part that a sheet holds after it is cut, px."""
        across, down = (int(side * self.density) - 2 * self.bleed for side in self.paper.room)
        return across, down

    @property
    def grid(self) -> tuple[int, int]:
        """(columns, rows) of sheets."""
        across, down = (count(length, room, self.overlap) for length, room in zip(self.size, self.room, strict=True))
        return across, down

    @property
    def px(self) -> int:
        """How many px all sheets have together."""
        columns, rows = self.grid
        across = sum(self.box(column, 0).width + 2 * self.bleed for column in range(columns))
        return across * sum(self.box(0, row).height + 2 * self.bleed for row in range(rows))

    def box(self, column: int, row: int) -> Box:
        """The px that a sheet shows after it is cut."""
        left, right = part(column, self.size[0], self.room[0], self.overlap)
        top, bottom = part(row, self.size[1], self.room[1], self.overlap)
        return Box(top, bottom, left, right)

    def check(self) -> None:
        """Raise SettingError where the paper is too small, or the wall takes too many sheets."""
        check_room(self.paper)
        if min(self.room) <= self.overlap:
            raise SettingError(
                f"The paper of {format_size(self.paper.size)} has too little room for margins of "
                f"{float(self.paper.margin):g} mm, overlap and bleed at {self.dots:.3g} px an inch; "
                "use larger paper, or less of these."
            )
        columns, rows = self.grid
        if columns * rows > MOST_PAGES:
            raise SettingError(
                f"{format_size(self.millimetres)} take {columns:,} x {rows:,} sheets of {format_size(self.paper.size)} "
                f"and {MOST_PAGES:,} are the most; use larger paper, or a smaller print."
            )


def check_room(paper: Paper) -> None:
    """Raise SettingError where the margins leave no room."""
    if min(paper.room) <= 0:
        raise SettingError(
            f"The paper of {format_size(paper.size)} is smaller than its margins of {float(paper.margin):g} mm on "
            "every side; use larger paper, or a smaller `margin`."
        )


def laid(size: tuple[int, int], density: Fraction, paper: Paper, turnable: bool, overlap: int, bleed: int) -> Wall:
    """The wall on paper as it is, or turned where that takes fewer sheets.

    turnable: whether the paper may be turned. The rest is as in `Wall`. Raises SettingError, see `Wall.check`.
    """
    ways = [Wall(size, density, one, overlap, bleed) for one in (paper, paper.turned)[: 1 + turnable]]
    fitting = [wall for wall in ways if min(wall.room) > overlap]
    if not fitting:
        ways[0].check()
    best = min(fitting, key=lambda wall: wall.grid[0] * wall.grid[1])
    best.check()
    return best


def count(length: int, room: int, overlap: int = 0) -> int:
    """How many parts, which overlap and have at most `room`, cover a length.

    >>> count(100, 40), count(100, 40, 10), count(40, 40, 10)
    (3, 3, 1)
    """
    return 1 if length <= room else -(-(length - overlap) // (room - overlap))


def part(number: int, length: int, room: int, overlap: int = 0) -> tuple[int, int]:
    """[start, stop) of one of these parts."""
    start = number * (room - overlap)
    return start, min(start + room, length)


def name_of(column: int, row: int) -> str:
    """The name of a sheet or a cell, as in spreadsheets.

    >>> name_of(0, 0), name_of(27, 9)
    ('A1', 'AB10')
    """
    letters = ""
    column += 1
    while column:
        column, letter = divmod(column - 1, 26)
        letters = chr(ord("A") + letter) + letters
    return f"{letters}{row + 1}"
