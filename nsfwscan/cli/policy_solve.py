"""`nsfwscan policy solve`: choose a threshold by what people said of drawn objects."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click
import yaml
from rich.console import Console

import nsfwscan
from nsfwscan.cli.console import complain, echo, exit_codes, given_options, json_option, storage_options
from nsfwscan.cli.help import command
from nsfwscan.cli.json_text import print_json
from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError
from nsfwscan.models.learned import in_words as learned_in_words
from nsfwscan.policy.rules import Policy, load_policy, parse_policy
from nsfwscan.runs.run import Run, find_run
from nsfwscan.storage.output import Output
from nsfwscan.text import duration, plural, printable
from nsfwscan.workflows.solve import Solved
from nsfwscan.workflows.solve import solve as solve_policy


@command()
@click.argument("run")
@click.option(
    "--miss",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    required=True,
    help="Largest share of what people would remove that the policy may allow: 0.05.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 1, max_open=True),
    default=0.95,
    show_default=True,
    help="With which it must keep to that.",
)
@click.option(
    "--opens-per-day",
    "opens",
    type=click.FloatRange(0, min_open=True),
    help="Originals that people can open a night; the threshold rises until it fits, whatever is then missed.",
)
@click.option("--hours", type=click.FloatRange(0, min_open=True), help="Hours that people have a night; the same.")
@click.option("--policy", "file", metavar="FILE|NAME", help="Policy to start from (default: that of RUN).")
@click.option(
    "--threshold",
    metavar="NAME",
    help="Threshold to choose, or a rule `nsfw_score >= NUMBER`, whose number it names (default: the lowest).",
)
@click.option("--out", required=True, metavar="FILE", help="The policy (YAML): a file, one in a store, or -.")
@json_option
@storage_options
def solve(
    run: str,
    miss: float,
    confidence: float,
    opens: float | None,
    hours: float | None,
    file: str | None,
    threshold: str | None,
    out: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Write a policy that misses few of what people would remove, and asks as little of people as it can.

    RUN (STORE/runs/ID, or a STORE's newest) has the scores. What is missed is known from draws alone: objects that
    `nsfwscan audit draw` or `label` drew with a known probability, and that people decided; those that a model of the
    run learned from are left out. The bound holds with the confidence that is asked for. With a budget of opens or
    hours, the threshold is the lowest that fits, and the command says what may then be missed. Exit with 1 if too few
    are known, and say how many are needed.
    """
    with exit_codes(Console(stderr=True), verbose=False, as_json=as_json):
        storage = StorageConfig.of(given_options(options))
        target = Output.given(out, storage, "--out", stdout=not as_json)
        scored = find_run(run, storage, complain)
        given = load_policy(file, storage) if file else parse_policy(scored.record().policy.content())
        found = solve_policy(scored, given, threshold, miss=miss, confidence=confidence, opens=opens, hours=hours)
        lines = list(_described(found, scored, miss, confidence))
        try:
            with target.appearing() as path:
                path.write_text(_text(found.policy, lines), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write {target}: {error.strerror}") from None
        if as_json:
            print_json(_json(found, scored, miss, confidence, str(target)))
        else:
            for line in (*lines, f"policy: {target}"):
                echo(line, err=target.is_stdout)


def _described(found: Solved, run: Run, miss: float, confidence: float) -> Iterator[str]:
    solution, effort = found.solution, found.effort
    yield f"${found.threshold} = {found.policy.thresholds[found.threshold]}"
    if found.within_budget and not solution.holds:
        yield f"a lower one would keep to {miss:.1%}, and asks for more than people have"
    yield (
        f"misses at most {solution.bound:.1%} of what people would remove, with a confidence of {confidence:.0%}: "
        f"{solution.missed:,} of {plural(found.positives, 'removed object')} among {found.drawn:,} drawn"
    )
    yield from learned_in_words(found.learned, found.unknown)
    yield (
        f"people see {found.views:,} of the {plural(found.looked_at, 'object')} that run {run.run_id} looked at "
        f"({found.views_before:,} by the policy as it was)"
    )
    took = "" if effort.seconds is None else f", and take {duration(found.views * effort.seconds)}"
    if effort.items:
        yield f"they open {found.views * effort.opened:,.0f} of them{took}, as in {plural(effort.items, 'verdict')}"


def _text(policy: Policy, lines: list[str]) -> str:
    made = f"Written by nsfwscan policy solve (nsfwscan {nsfwscan.__version__}), {datetime.now(UTC):%Y-%m-%d}."
    head = "".join(f"# {printable(line)}\n" for line in (made, *lines))
    content = policy.model_dump(mode="json", exclude_defaults=True)
    return head + yaml.safe_dump(content, sort_keys=False, width=120, allow_unicode=True)


def _json(found: Solved, run: Run, miss: float, confidence: float, target: str) -> dict[str, Any]:
    solution, effort = found.solution, found.effort
    return {
        "exit_code": 0,
        "run_id": run.run_id,
        "policy": target,
        "threshold": found.threshold,
        "value": solution.threshold,
        "miss": miss,
        "confidence": confidence,
        "bound": solution.bound,
        "holds": solution.holds,
        "missed": solution.missed,
        "positives": found.positives,
        "drawn": found.drawn,
        "learned": found.learned,
        "unknown": found.unknown,
        "looked_at": found.looked_at,
        "views": found.views,
        "views_before": found.views_before,
        "opens": found.views * effort.opened,
        "seconds": None if effort.seconds is None else found.views * effort.seconds,
    }
