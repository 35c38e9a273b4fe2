"""A group of commands whose help shows each command's first sentence in full, under headings."""

from collections.abc import Mapping, Sequence
from typing import Any

import click


class CommandGroup(click.Group):
    """A click group with headings.

    Args:
        sections: names of commands by heading; default: one heading for all. A command in no section is listed under
            `Other commands`.
    """

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]] | None = None, **more: Any) -> None:
        super().__init__(*args, **more)
        self._sections = sections

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command as click does; suggest similar names for an unknown one."""
        name, known = args[0], self.list_commands(ctx)
        if not name.startswith("-") and name not in known:
            from difflib import get_close_matches  # imported here, so that a line starts faster

            similar = " or ".join(map(repr, get_close_matches(name, known)))
            ctx.fail(f"No such command {name!r}." + (f" Did you mean {similar}?" if similar else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands as click does, but without cutting sentences off."""
        rows = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                rows[name] = command.get_short_help_str(limit=10_000)
        widest = max(map(len, rows), default=0)
        sections = self._sections or {"Commands": list(rows)}
        named = {name for names in sections.values() for name in names}
        for heading, names in {**sections, "Other commands": [name for name in rows if name not in named]}.items():
            # Names are padded, so that the sentences of all sections are in one column.
            found = [(name.ljust(widest), rows[name]) for name in names if name in rows]
            if found:
                with formatter.section(heading):
                    formatter.write_dl(found)
