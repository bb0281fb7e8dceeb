"""Command line `nsfwscan`: all its commands, each of which is imported when it is asked for.

Exit codes: 0 committed; 1 could not run; 2 wrong usage; 3 does not balance, not committed; 4 committed, but over
--max-error-rate; 5 committed, but nothing was scored, or over --max-unsupported-rate; 6 over --max-deleted-rate, not
committed; 7 and 8 of `verify`, tampered and damaged; 9 committed, but not signed or anchored as asked; 10 the golden
set drifted, not committed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

import click

import nsfwscan
from nsfwscan.cli.help import Group

SECTIONS: dict[str, tuple[str, ...]] = {
    "Scan": ("demo", "doctor", "models", "pin", "scan", "classify", "match"),
    "Read reports": ("runs", "history", "diff", "why", "sql", "text", "export"),
    "Choose policies and thresholds": ("policy", "calibrate", "audit", "label"),
    "Let people decide": (
        "queues", "review", "verdicts", "banks", "quarantine", "norming", "coaching", "transparency",
    ),
    "Keep a store": ("verify", "hold", "prune", "forget", "gc"),
}  # fmt: skip
"""Commands by what one wants to do, as the help shows them."""
_MODULES = {"banks": "own_banks", "gc": "store", "hold": "retention", "prune": "retention", "runs": "store"}
"""Modules of commands that are not called as their module is."""


class _Commands(Mapping[str, click.Command]):
    """The commands by their names. To import all of them takes a third of a second, which a scan does not wait for."""

    def __getitem__(self, name: str) -> click.Command:
        if name not in set(self):
            raise KeyError(name)
        found: click.Command = getattr(import_module(f"nsfwscan.cli.{_MODULES.get(name, name)}"), name)
        return found

    def __iter__(self) -> Iterator[str]:
        return (name for names in SECTIONS.values() for name in names)

    def __len__(self) -> int:
        return sum(map(len, SECTIONS.values()))


class _Program(Group):
    """A group that lists its commands by section, with their whole first sentences."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands of the help."""
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(limit=200)) for name in names])


@click.group(cls=_Program, commands=_Commands(), context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(nsfwscan.__version__, prog_name="nsfwscan")
def main() -> None:
    """Scan media stores for NSFW and harmful images, and write a report that people can trust."""
