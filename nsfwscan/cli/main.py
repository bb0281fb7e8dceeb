"""Command line `nsfwscan`: all its commands.

Exit codes: 0 committed; 1 could not run; 2 wrong usage; 3 does not balance, not committed; 4 committed, but over
--max-error-rate; 5 committed, but nothing was scored, or over --max-unsupported-rate; 6 over --max-deleted-rate, not
committed; 7 and 8 of `verify`, tampered and damaged; 9 committed, but not signed or anchored as asked; 10 the golden
set drifted, not committed.
"""

from __future__ import annotations

import click

import nsfwscan
from nsfwscan.cli.audit import audit
from nsfwscan.cli.calibrate import calibrate
from nsfwscan.cli.classify import classify
from nsfwscan.cli.coaching import coaching
from nsfwscan.cli.demo import demo
from nsfwscan.cli.diff import diff
from nsfwscan.cli.doctor import doctor
from nsfwscan.cli.export import export
from nsfwscan.cli.forget import forget
from nsfwscan.cli.help import Group
from nsfwscan.cli.history import history
from nsfwscan.cli.label import label
from nsfwscan.cli.match import match
from nsfwscan.cli.models import models
from nsfwscan.cli.norming import norming
from nsfwscan.cli.own_banks import banks
from nsfwscan.cli.pin import pin
from nsfwscan.cli.policy import policy
from nsfwscan.cli.quarantine import quarantine
from nsfwscan.cli.queues import queues
from nsfwscan.cli.retention import hold, prune
from nsfwscan.cli.review import review
from nsfwscan.cli.scan import scan
from nsfwscan.cli.sql import sql
from nsfwscan.cli.store import gc, runs
from nsfwscan.cli.text import text
from nsfwscan.cli.transparency import transparency
from nsfwscan.cli.verdicts import verdicts
from nsfwscan.cli.verify import verify
from nsfwscan.cli.why import why

SECTIONS: dict[str, tuple[click.Command, ...]] = {
    "Scan": (demo, doctor, models, pin, scan, classify, match),
    "Read reports": (runs, history, diff, why, sql, text, export),
    "Choose policies and thresholds": (policy, calibrate, audit, label),
    "Let people decide": (queues, review, verdicts, banks, quarantine, norming, coaching, transparency),
    "Keep a store": (verify, hold, prune, forget, gc),
}
"""Commands by what one wants to do, as the help shows them."""


class _Program(Group):
    """A group that lists its commands by section, with their whole first sentences."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands of the help."""
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(str(command.name), command.get_short_help_str(limit=200)) for command in commands])


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(nsfwscan.__version__, prog_name="nsfwscan")
def main() -> None:
    """Scan media stores for NSFW and harmful images, and write a report that people can trust."""


for section in SECTIONS.values():
    for command in section:
        main.add_command(command)
