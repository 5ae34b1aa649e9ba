"""The help of commands with many options: each stands below a heading."""

import click

from hirez_mosaic.cli.recipe import RecipeCommand

HEADINGS = {
    "Picture": "glob recursive scale columns source_page plane channel stretch max_source_px",
    "Templates": "templates tile crop mirror rotate ban dedupe exclude strict",
    "Choosing": "effort choose decoder fit refine far_weight prefer max_uses unique min_uses use_all min_distance"
    " no_repeat_neighbours",
    "Looks": "tint background",
    "Output": "output format compression quality dpi cog iiif preview no_preview tile_map page anonymous thumbnails"
    " overwrite",
    "Machine": "device precision weights jobs memory chunk workspace restart scheduler",
    "Messages": "json quiet log_file verbose print_recipe help",
}
"""Each heading with the options below it, by the longest of their names, in the order of the help."""


class GroupedCommand(RecipeCommand):
    """A command whose help shows its options below `HEADINGS`."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        given = (option for option in self.get_params(context) if isinstance(option, click.Option))
        options = {_name(option): option.get_help_record(context) for option in given}
        for heading, names in HEADINGS.items():
            rows = [record for name in names.split() if (record := options.pop(name, None)) is not None]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)
        if rows := [record for record in options.values() if record is not None]:
            with formatter.section("Others"):
                formatter.write_dl(rows)


def _name(option: click.Option) -> str:
    return max(option.opts, key=len).removeprefix("--").replace("-", "_")
