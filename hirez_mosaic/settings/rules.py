"""Rules for repeating templates, as they were asked for, and whether a map can keep them."""

from dataclasses import dataclass

from hirez_mosaic.errors import TemplateError


@dataclass(frozen=True)
class Rules:
    """How often a template may and must be used, in whatever pose.

    max_uses: on the whole map; None for any number. min_distance: cells that must lie between two uses, in every
        direction; 0 for none.
    min_uses: on the whole map.
    """

    max_uses: int | None = None
    min_distance: int = 0
    min_uses: int = 0

    def __bool__(self) -> bool:
        return self.max_uses is not None or self.min_distance > 0 or self.min_uses > 0

    def needed(self, rows: int, columns: int) -> int:
        """Templates with which the rules can be kept on a map of so many cells, in whatever order it is filled."""
        around = self._around(rows, columns)
        return around + (1 if self.max_uses is None else -(-rows * columns // self.max_uses))

    def _around(self, rows: int, columns: int) -> int:
        """Cells around one that may not hold its template, at most."""
        side = 2 * self.min_distance + 1
        return min(side, rows) * min(side, columns) - 1

    def needed_cells(self, rows: int, columns: int, templates: int) -> int:
        """Cells with which each of so many templates finds room for all the uses it must have, in whatever order they
        are placed.
        """
        return templates * self.min_uses + max(0, self.min_uses - 1) * self._around(rows, columns)

    def check(self, rows: int, columns: int, templates: int) -> None:
        """Raise TemplateError where there are too few templates, or too many to use each."""
        cells, wanted = rows * columns, self.needed_cells(rows, columns, templates)
        if wanted > cells:
            uses = "once" if self.min_uses == 1 else f"{self.min_uses} times"
            apart = (
                f" and {self.min_distance} cells between two uses" if self.min_distance and self.min_uses > 1 else ""
            )
            raise TemplateError(
                f"{templates} templates with each used {uses} at least{apart} take {wanted} cells and there are "
                f"{cells}, "
                f"{wanted - cells} too few; use more `columns`, or ban or dedupe templates."
            )
        needed = self.needed(rows, columns)
        if templates >= needed:
            return
        uses = {None: "", 1: " with each used once"}.get(
            self.max_uses, f" with each used {self.max_uses} times at most"
        )
        apart = f" and {self.min_distance} cells between two uses" if self.min_distance else ""
        raise TemplateError(
            f"{rows * columns} cells{uses}{apart} take {needed} templates and there are {templates}, "
            f"{needed - templates} too few; "
            "add templates, allow more uses or less distance, or use fewer `columns`."
        )
