"""`nsfwscan policy …`: check a policy, and replay a committed run under it.

Exit codes are those of all commands; `check` exits with 1 if it finds anything, `replay --commit` with the exit code of
the run that it commits.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import click
from rich.console import Console

from nsfwscan.cli.console import (
    RESUMED_BY_ID,
    commit_options,
    complain,
    echo,
    exit_codes,
    given_options,
    storage_and_sections,
    storage_options,
)
from nsfwscan.cli.help import group
from nsfwscan.cli.json_text import print_json, scan_json
from nsfwscan.cli.policy_solve import solve
from nsfwscan.cli.policy_text import describe_comparison, describe_overlaps, describe_policy
from nsfwscan.cli.terminal import describe_delta, describe_scan
from nsfwscan.config import StorageConfig, parts_of
from nsfwscan.errors import ConfigError
from nsfwscan.policy.lint import bank_notes, lint, model_notes
from nsfwscan.policy.rules import Policy, load_policy
from nsfwscan.policy.values import Known
from nsfwscan.runs.pins import describe_pin_use
from nsfwscan.runs.record.inputs import PinRecord
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run, find_run
from nsfwscan.storage.output import Output
from nsfwscan.storage.store import to_json
from nsfwscan.storage.text_files import read_text
from nsfwscan.text import redacted_json
from nsfwscan.workflows.golden import look_again
from nsfwscan.workflows.lacking import Given, lacking_notes
from nsfwscan.workflows.notices import noticed
from nsfwscan.workflows.pin import Pinned
from nsfwscan.workflows.replay import commit_replay, overlaps
from nsfwscan.workflows.replay import replay as replay_run


@group()
def policy() -> None:
    """Check a policy, and see what it would change before you use it."""


policy.add_command(solve)


@policy.command()
@click.argument("file", metavar="FILE|NAME")
@click.option("--on", "run", metavar="RUN", help="Count on this run: STORE/runs/ID, or a STORE's newest.")
@storage_options
def check(file: str, run: str | None, **options: Any) -> None:
    """Bind the policy in FILE (or the preset policy NAME), and look for values that no column has, rules that never
    decide, and names that nothing uses.

    With --on, count on a committed run how many rows each rule matches and decides, how many rows are left to
    `otherwise`, and how many rows match two rules. Rules that match nothing there, and banks that the run did not have,
    are then wrong, too. A note says where the policy decides a match differently from the kind of its bank. Exit with 1
    if anything is wrong.
    """
    with exit_codes(Console(stderr=True), verbose=False):
        storage = StorageConfig.of(given_options(options))
        found = load_policy(file, storage)
        echo(describe_policy(found))
        committed = None if run is None else find_run(run, storage, complain)
        findings = list(lint(found, None if committed is None else _known_of(committed.record())))
        if committed is not None:
            counted = overlaps(committed, found)
            echo(describe_overlaps(counted, committed.run_id))
            if delta := describe_delta(committed.record()):
                echo(delta)
            findings += [finding for finding in counted.findings() if finding not in findings]
            _say_notes(found, committed.record())
        for finding in findings:
            echo(f"wrong: {finding}")
        echo(f"findings: {len(findings):,}" if findings else "nothing is wrong")
        sys.exit(1 if findings else 0)


@policy.command()
@click.argument("run")
@click.option(
    "--policy", "file", metavar="FILE|NAME", help="Policy to decide by (default: the one that the store pins)."
)
@click.option(
    "--json",
    "json_file",
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    help="Write the changes to this file, here or in a store; without a name, or as -, print them as one JSON object.",
)
@click.option("--commit", is_flag=True, help="Write the new decisions as a run, which names RUN as its parent.")
@click.option("--run-id", help="Id of that run (default: the time, UTC). The id of an unfinished run resumes it.")
@click.option(
    "--accept-drift",
    "accept",
    metavar="REASON",
    help="With --commit: go on although objects of the golden set are decided otherwise, and expect that from now on.",
)
@click.option(
    "--config",
    metavar="FILE",
    help="Configuration (YAML, a file or any fsspec URI); its sections `evidence` and `notify` count.",
)
@storage_options
@commit_options
def replay(
    run: str,
    file: str | None,
    json_file: str | None,
    commit: bool,
    run_id: str | None,
    accept: str | None,
    config: str | None,
    **options: Any,
) -> None:
    """Decide RUN (STORE/runs/ID, or a STORE's newest) again by another policy, from its stored scores.

    Show how many objects move from one decision to another, the load of each queue before and after, and a few objects
    of each move, and what becomes of the golden set. The command reads no image. If objects of that set are decided
    otherwise, --commit exits with 10 before anything is committed.
    """
    as_json = json_file == "-"
    with exit_codes(Console(stderr=True), verbose=False, again=RESUMED_BY_ID, as_json=as_json):
        if run_id and not commit:
            raise ConfigError("--run-id names the run that --commit writes: give both, or neither")
        if accept is not None and not (commit and accept.strip()):
            raise ConfigError("--accept-drift is for the run that --commit writes, and needs a reason")
        storage, sections = storage_and_sections(options)
        if "evidence" in sections and not commit:
            raise ConfigError("--anchor and --sign-… are for the run that --commit writes: give --commit, too")
        parts = parts_of(config, sections, partial(read_text, storage=storage, what="the configuration"))
        target = None if json_file is None or as_json else Output.given(json_file, storage, "--json")
        decided = find_run(run, storage, complain)
        file, by, pin = _policy_for(decided, file, storage)
        found = replay_run(decided, by).as_dict()
        golden = look_again(decided, by)
        changes = {"run_id": decided.run_id, **found, "golden": None if golden is None else golden.as_json()}
        if not as_json:
            _say_changes(found, decided, by)
            if golden is not None:
                echo(golden.describe())
        if target is not None:
            _write(target, to_json(redacted_json(changes)))
        result = None
        if commit:
            with noticed(parts.notify, "replay", decided.store.uri, complain) as notices:
                result = notices.committed(commit_replay(decided, by, file, run_id, pin, parts.evidence, accept))
        if as_json:
            print_json({**changes, "committed": None if result is None else scan_json(result)})
        elif result is not None:
            echo(f"\n{describe_scan(result)}")
        if result is not None:
            if result.unproved is not None:
                complain(result.unproved)
            sys.exit(result.exit_code)


def _policy_for(decided: Run, file: str | None, storage: StorageConfig) -> tuple[str, Policy, PinRecord | None]:
    """Return the policy of a replay and where it is from, and say where it is another than the store pins."""
    pinned = Pinned.of(decided.store, [] if file is not None else ["policy"])
    source = file if file is not None else pinned.policy_source
    if source is None:
        raise ConfigError(f"no policy is given, and {decided.store.uri} pins none: name one with --policy FILE")
    by = pinned.load_policy(source, storage)
    pin = pinned.record(by)
    for line in describe_pin_use(pin):
        complain(line)
    return source, by, pin


def _say_changes(found: dict[str, Any], decided: Run, by: Policy) -> None:
    record = decided.record()
    echo(describe_comparison(found, decided.run_id, record.policy.identity))
    if delta := describe_delta(record):
        echo(delta)
    _say_notes(by, record)


def _known_of(record: RunRecord) -> Known:
    """Return the names of the banks that a run matched with."""
    return Known(banks=tuple(bank.name for bank in record.banks) or None)


def _say_notes(policy: Policy, record: RunRecord) -> None:
    """Print a note where a policy decides differently from the kind of a run's hash bank, which is no fault, where its
    thresholds were made for other weights, and where its rules ask for what the run lacks."""
    for note in bank_notes(policy, [(bank.name, bank.kind) for bank in record.banks]):
        echo(f"note: {note}")
    beside = {one.name: one.sha256 for one in record.auxiliary_models}
    for note in model_notes(policy, {**beside, "model": record.model.sha256}):
        echo(f"note: {note}")
    for note in lacking_notes(policy, Given.of_record(record)):
        echo(f"note: {note}")


def _write(target: Output, data: bytes) -> None:
    try:
        with target.appearing() as path:
            path.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror}") from None
