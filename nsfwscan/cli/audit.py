"""`nsfwscan audit …`: draw a random sample of what a run decided, and estimate from what people say of it.

Exit codes are those of all commands.
"""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console

from nsfwscan.cli.console import complain, echo, exit_codes, given_options, json_option, storage_options
from nsfwscan.cli.draws import draw_options, write_draw
from nsfwscan.cli.help import group
from nsfwscan.cli.json_text import print_json
from nsfwscan.config import StorageConfig
from nsfwscan.models.learned import in_words as learned_in_words
from nsfwscan.review.audit_sample import draw_sample
from nsfwscan.review.audits import Audited, estimate_audit
from nsfwscan.review.context import read_context
from nsfwscan.review.estimates import Estimate
from nsfwscan.runs.run import find_run
from nsfwscan.storage.output import Output
from nsfwscan.storage.store import Store
from nsfwscan.text import plural


@group()
def audit() -> None:
    """Know what is out there: draw a random sample of all objects, and estimate from people's verdicts on it."""


@audit.command("draw")
@click.argument("run")
@draw_options(500)
@storage_options
def draw_command(run: str, n: int, seed: int, floor: int, out: str, **options: Any) -> None:
    """Draw objects of RUN (STORE/runs/ID, or a STORE's newest) at random, the allowed ones too, as items for reviewers.

    Strata are decision, score and source. The items are those of `nsfwscan queues`, of kind audit, each with the
    probability of being drawn; the store keeps the draw. Items that people have decided already are left out.
    """
    with exit_codes(Console(stderr=True), verbose=False, again="the same command"):
        storage = StorageConfig.of(given_options(options))
        target = Output.given(out, storage, "--out", stdout=True)
        found = find_run(run, storage, complain)
        draw = draw_sample(found, n, seed, floor)
        strata = len(set(draw.rows["stratum"].to_pylist()))
        write_draw(found, draw, target, f", from {plural(strata, 'stratum', 'strata')}")


@audit.command("estimate")
@click.argument("store")
@click.argument("audit_id", metavar="AUDIT")
@click.option(
    "--context",
    metavar="FILE",
    help="CSV, JSON lines or Parquet with columns uri and views: estimate by views, too. Objects without are not seen.",
)
@click.option("--so-far", is_flag=True, help="Estimate although not all drawn objects are decided yet.")
@storage_options
@json_option
def estimate_command(
    store: str, audit_id: str, context: str | None, so_far: bool, as_json: bool, **options: Any
) -> None:
    """Estimate from the drawn sample AUDIT of a report STORE how much is harmful, and what the policy misses.

    Prevalence, recall and false positive rate have 95 % intervals. What matches an illegal bank was not drawn, and is
    in no figure.
    """
    with exit_codes(Console(stderr=True), verbose=False, as_json=as_json):
        storage = StorageConfig.of(given_options(options))
        known = None if context is None else read_context(context, storage)
        found = estimate_audit(Store.at(store, storage), audit_id, so_far=so_far, context=known)
        if as_json:
            print_json({"exit_code": 0, **found.as_json()})
        else:
            echo(_described(found))


def _described(found: Audited) -> str:
    """Render the estimates."""
    estimates, draw = found.estimates, found.draw
    open_ = f"; {found.undecided:,} not decided yet" if found.undecided else ""
    plain = (
        f"a plain random sample would take {estimates.plain_views:,} for intervals as narrow"
        if estimates.plain_views is not None
        else "what a plain random sample would take is unknown: all or none of it is harmful, or all was looked at"
    )
    rows = [
        ("harmful objects", estimate_line(estimates.harmful, "{:,.0f}")),
        ("prevalence", estimate_line(estimates.prevalence, "{:.4%}")),
        ("recall of the policy", estimate_line(estimates.recall, "{:.2%}")),
        ("false positive rate", estimate_line(estimates.false_positive_rate, "{:.4%}")),
    ]
    seen = f"{found.decided:,} looked at{open_}"
    head = f"audit {draw.audit_id} of {draw.objects:,} objects of run {draw.run_id}: {seen}"
    if found.by_views is not None:
        rows += [
            ("prevalence in views", estimate_line(found.by_views.prevalence, "{:.4%}")),
            ("recall in views", estimate_line(found.by_views.recall, "{:.2%}")),
            ("false pos. in views", estimate_line(found.by_views.false_positive_rate, "{:.4%}")),
        ]
    learned = (f"  {line}" for line in learned_in_words(found.learned, found.unknown))
    return "\n".join([head, *(f"  {name:<22}{text}" for name, text in rows), f"  {plain}", *learned])


def estimate_line(one: Estimate, form: str) -> str:
    """Render an estimate with its interval."""
    value = "unknown" if one.value is None else form.format(one.value)
    return f"{value}  ({form.format(one.low)} to {form.format(one.high)})"
