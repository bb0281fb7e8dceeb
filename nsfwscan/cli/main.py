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


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(nsfwscan.__version__, prog_name="nsfwscan")
def main() -> None:
    """Scan media stores for NSFW and harmful images, and write a report that people can trust."""


for command in (
    audit,
    banks,
    calibrate,
    classify,
    coaching,
    demo,
    diff,
    doctor,
    export,
    forget,
    gc,
    history,
    hold,
    label,
    match,
    models,
    norming,
    pin,
    policy,
    prune,
    quarantine,
    queues,
    review,
    runs,
    scan,
    sql,
    text,
    transparency,
    verdicts,
    verify,
    why,
):
    main.add_command(command)
