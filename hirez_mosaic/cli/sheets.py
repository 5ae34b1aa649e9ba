"""What a person at the terminal sees of a print: the plan, and a bar."""

from rich.table import Table
from rich.text import Text

from hirez_mosaic.cli.console import ConsoleListener
from hirez_mosaic.jobs.print import PrintListener, PrintPlan
from hirez_mosaic.settings.lengths import format_size
from hirez_mosaic.settings.parsing import format_bytes


class PrintConsole(ConsoleListener, PrintListener):
    """Writes to standard error."""

    def printing(self, plan: PrintPlan) -> None:
        wall, (width, height) = plan.wall, plan.template
        cells = "" if plan.cells is None else f", {plan.cells[0]:,} x {plan.cells[1]:,} cells"
        lap = wall.overlap or wall.bleed
        more = f"; {float(lap / wall.density):.1f} mm of {'overlap' if wall.overlap else 'bleed'}" if lap else ""
        sheets = f"{wall.grid[0]:,} across, {wall.grid[1]:,} down{more}" if not plan.stickers else ""
        rows = {
            "mosaic": f"{plan.mosaic} ({wall.size[0]:,} x {wall.size[1]:,} px{cells})",
            "print": f"{format_size(wall.millimetres)}, {wall.dots:,.0f} px an inch",
            "paper": f"{format_size(wall.paper.size)}, margins of {float(wall.paper.margin):g} mm",
            "sheets": sheets,
            "template": f"{format_size(plan.template_size)}, {width:,} x {height:,} px: {plan.face}",
            "colours": "sRGB" if plan.profile is None else f"CMYK by {plan.profile}",
            "output": f"{plan.output} ({plan.pages:,} pages, {format_bytes(plan.bytes)} at most, about)",
        }
        table = Table.grid(padding=(0, 2))
        for name, value in rows.items():
            if value:
                table.add_row(Text(name, style="bold"), Text(value))
        self.console.print(table)
