"""`nsfwscan why STORE URI`: explain an object's decision, and print its history.

Exit codes are those of all commands.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console

from nsfwscan.cli.console import complain, echo, exit_codes, given_options, storage_options
from nsfwscan.cli.help import command
from nsfwscan.config import StorageConfig
from nsfwscan.storage.store import Store
from nsfwscan.text import printable, redacted_json
from nsfwscan.workflows.why import Why, explain_object


@command()
@click.argument("store")
@click.argument("uri")
@click.option("--run", "run_id", metavar="ID", help="Run to explain (default: the newest scan or replay that has it).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@storage_options
def why(store: str, uri: str, run_id: str | None, as_json: bool, **options: Any) -> None:
    """Explain why the object URI of a report STORE was decided as it was.

    Show the rule with its numbers and overrides, what it looked at, policy, bank and model with their versions, and
    every run in which something of the object changed.
    """
    with exit_codes(Console(stderr=True), verbose=False):
        found = explain_object(Store.at(store, StorageConfig.of(given_options(options))), uri, run_id, complain)
        if as_json:
            click.echo(json.dumps(redacted_json(asdict(found)), ensure_ascii=False))
        else:
            echo(describe_why(found))


def describe_why(found: Why) -> str:
    """Render an explanation."""
    run, rule = found.run, found.rule
    held = "" if run["stands_in"] == run["run_id"] else f"; its row stands in run {run['stands_in']}"
    again = {True: "; decided again now: the same", False: "; DECIDED AGAIN NOW: NOT THE SAME", None: ""}[rule["again"]]
    rows = [
        ("run", f"{run['run_id']} ({run['kind']}), committed {run['committed_at']}{held}"),
        ("decision", ", ".join(_outcome(found.outcome)) + again),
        ("rule", f"{rule['name']}: {rule['when']}"),
        *([("written", rule["written"])] if rule["written"] and rule["overrides"] else []),
        *[("override", title) for title in rule["overrides"]],
        *[("looked at", f"{name} = {_value(value)}") for name, value in rule["looked_at"].items()],
        *([("not true", ", ".join(rule["not_true"]))] if rule["not_true"] else []),
        *(
            [("passed over", ", ".join(rule["true_too"]) + " (true, and may not decide it)")]
            if rule["true_too"]
            else []
        ),
        *([("note", rule["note"])] if rule.get("note") else []),
        ("policy", f"{found.policy['identity']}, version {found.policy['version']}"),
        ("match", _match(found)),
        ("model", _model(found)),
        *[(name, _value(value)) for name, value in found.values.items()],
        *[("detector", f"{name}: {said}") for name, said in found.detectors.items()],
        *[("signal", f"{name} {number:.3g}") for name, number in found.signals.items()],
        ("read", f"{found.read['scanned_at']}" + _carried(found)),
    ]
    lines = [printable(found.uri), *(f"  {name:<15}{printable(str(text))}" for name, text in rows), "", "history"]
    return "\n".join([*lines, *map(_entry, found.history)])


def _outcome(outcome: dict[str, Any]) -> list[str]:
    named = [
        f"{name} {outcome[name]}" for name in ("queue", "skill", "shield", "severity") if outcome[name] is not None
    ]
    return [outcome["decision"], *named, f"decided by the {outcome['decided_by']}"]


def _match(found: Why) -> str:
    match = found.match
    if match is None:
        return "none"
    version = f"@{match['version'][:16]}" if match["version"] else ", of which no run of the store tells the version"
    asked = (
        "" if match["asked_in"] == found.run["run_id"] else f", which this run did not ask; run {match['asked_in']} did"
    )
    near = f", {match['distance']} bits off" if match["distance"] else ""
    return f"{match['bank']}{version} ({match['kind']}){asked}; entry {match['id']} by {match['hash']}{near}"


def _model(found: Why) -> str:
    if found.model is None:
        return "none scored it"
    digest = f", weights with SHA-256 {found.model['sha256']}" if found.model["sha256"] else ""
    return f"{found.model['identity']}{digest}"


def _carried(found: Why) -> str:
    return (
        f", by run {found.read['carried_from']}; unchanged since, and carried over"
        if found.read["carried_from"]
        else ""
    )


def _value(value: Any) -> str:
    return "null" if value is None else str(value)


def _entry(entry: dict[str, Any]) -> str:
    causes = f" ({', '.join(entry['causes'])})" if entry["causes"] else ""
    what = f"{entry['change']}{causes}"
    return printable(f"  {entry['run_id']}  {entry['kind']:<7}{what:<28} {entry['decision']} by rule {entry['rule']}")
