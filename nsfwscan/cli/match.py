"""`nsfwscan match`: match the hashes of all reports against hash banks."""

from __future__ import annotations

from functools import partial
from typing import Any

import click
from rich.console import Console

from nsfwscan.cli.console import (
    RESUMED_BY_ID,
    commit_options,
    complain,
    exit_codes,
    json_option,
    storage_and_sections,
    storage_options,
)
from nsfwscan.cli.help import command
from nsfwscan.cli.options import bank_of, bank_option, ignore_run_option
from nsfwscan.cli.results import show_result
from nsfwscan.config import parts_of
from nsfwscan.policy.rules import load_policy
from nsfwscan.storage.store import Store
from nsfwscan.storage.text_files import read_text
from nsfwscan.workflows.match import FLOOD, match_store
from nsfwscan.workflows.notices import noticed


@command()
@click.argument("store")
@bank_option
@click.option("--policy", metavar="FILE|NAME", help="Policy to decide by (default: the policy of the newest run).")
@click.option(
    "--flood",
    type=click.IntRange(1),
    default=FLOOD,
    show_default=True,
    metavar="N",
    help="Quarantine an entry that matches more objects than this, or more than 1 % of the store.",
)
@ignore_run_option
@click.option("--run-id", help="Id of the new run (default: the time, UTC). The id of an unfinished run resumes it.")
@click.option(
    "--config",
    metavar="FILE",
    help="Configuration (YAML, a file or any fsspec URI); of its sections, `banks`, `evidence` and `notify` count.",
)
@storage_options
@commit_options
@json_option
@click.option("--verbose", is_flag=True, help="Show tracebacks.")
def match(
    store: str,
    banks: tuple[str, ...],
    policy: str | None,
    flood: int,
    ignore_runs: tuple[str, ...],
    run_id: str | None,
    config: str | None,
    as_json: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Match the hashes in all reports of STORE against hash banks, without reading an image.

    The command writes a run. Its report has the objects that match, and its escalations/ has the illegal matches.
    """
    with exit_codes(Console(stderr=True), verbose, again=RESUMED_BY_ID, as_json=as_json):
        storage, sections = storage_and_sections(options)
        if banks:
            sections["banks"] = dict(map(bank_of, banks))
        given = parts_of(config, sections, partial(read_text, storage=storage, what="the configuration"))
        loaded = load_policy(policy, storage) if policy is not None else None
        reports = Store.at(store, storage)
        with noticed(given.notify, "match", reports.uri, complain) as notices:
            result = match_store(
                reports,
                given.banks,
                storage,
                policy=loaded,
                source=policy,
                run_id=run_id,
                flood=flood,
                ignored=ignore_runs,
                evidence=given.evidence,
            )
            notices.committed(result)
    show_result(result, as_json)
