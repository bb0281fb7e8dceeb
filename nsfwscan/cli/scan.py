"""`nsfwscan scan`: read, score and decide a media store, and commit a report."""

from __future__ import annotations

import sys
from typing import Any

import click
from rich.console import Console

from nsfwscan.api import explain as explain_scan
from nsfwscan.api import scan as run_scan
from nsfwscan.cli.console import commit_options, echo, exit_codes, json_option, source_storage_options
from nsfwscan.cli.help import command
from nsfwscan.cli.options import ignore_run_option, model_options, reading_options, sections_of
from nsfwscan.cli.results import show_result
from nsfwscan.cli.terminal import describe_plan
from nsfwscan.errors import ConfigError
from nsfwscan.execution.native_logs import mute_at_exit, without_native_chatter
from nsfwscan.reports.progress import choose_progress
from nsfwscan.text import LogFormat

_RESUMED = "the same command with --resume last goes on where it stopped"


@command()
@click.argument("sources", nargs=-1, required=True)
@click.option("--out", required=True, metavar="STORE", help="Report store: a directory, or s3://bucket/prefix.")
@click.option("--run-id", help="Id of the run (default: the time, UTC). The id of an unfinished run resumes it.")
@click.option(
    "--resume",
    type=click.Choice(["last"]),
    help="Resume the newest unfinished run over the same sources; begin a new one if there is none.",
)
@click.option(
    "--include",
    multiple=True,
    metavar="GLOB",
    help="Scan only objects whose path within the source matches; * also matches /. Repeatable.",
)
@click.option("--exclude", multiple=True, metavar="GLOB", help="Leave out objects whose path matches. Repeatable.")
@click.option("--limit", type=click.IntRange(1), help="Scan only the first N listed objects.")
@click.option(
    "--truth",
    metavar="path|none|FILE",
    help="Source of truth: class folders in the path (default), none, or a file with columns uri and truth.",
)
@click.option(
    "--max-unmatched-truth",
    type=click.FloatRange(0, 1),
    help="Stop if a larger share of the truth file's objects within the sources is not listed (default 0.5).",
)
@click.option(
    "--allow-source",
    "allow",
    multiple=True,
    metavar="PREFIX",
    help="Allow lists to name objects with this prefix, and symbolic links to lead there. Without it, a list in a "
    "bucket names only objects there. Repeatable.",
)
@click.option(
    "--links",
    type=click.Choice(["follow", "within"]),
    help="Where symbolic links in folders may lead: anywhere but to the system's places such as /etc and /dev, or only "
    "to places within the sources (default follow).",
)
@click.option(
    "--full",
    is_flag=True,
    default=None,
    help="Read all objects again, also unchanged ones; earlier runs are only compared with.",
)
@ignore_run_option
@click.option(
    "--report",
    type=click.Choice(["snapshot", "delta"]),
    help="snapshot (default): a row for every listed object; delta: only for objects that were read or got another "
    "decision.",
)
@click.option(
    "--deadline",
    metavar="WHEN",
    help="Stop at this time; the run can be resumed. 90m, 6h30m, 06:00, or an ISO 8601 time.",
)
@click.option(
    "--max-requests-per-s",
    type=click.FloatRange(0, min_open=True),
    help="Limit of requests to the media store, for the whole run.",
)
@model_options
@click.option(
    "--cascade/--no-cascade",
    default=None,
    help="Let cheap filters and a light model remove clearly benign images before the model.",
)
@click.option(
    "--tiles/--no-tiles",
    default=None,
    help="Also score overlapping parts of large pictures, which finds small things in them.",
)
@click.option(
    "--text/--no-text",
    "keep",
    default=None,
    help="Keep the text that detectors read in pictures, in text/ (default); --no-text: only what it comes to.",
)
@reading_options
@click.option(
    "--text-key", metavar="FILE", help="Encrypt that text for the holder of the private key to this public one (PEM)."
)
@click.option(
    "--shadow-policy",
    "shadow_policies",
    multiple=True,
    metavar="FILE|NAME",
    help="Also count what this policy would decide. Repeatable.",
)
@click.option(
    "--save-images", is_flag=True, default=None, help="Copy the images of false positives into the run's folder."
)
@click.option(
    "--max-error-rate",
    type=click.FloatRange(0, 1),
    help="Exit with 4 if a larger share of the images is unreadable (default 0.05).",
)
@click.option(
    "--max-unsupported-rate",
    type=click.FloatRange(0, 1),
    help="Exit with 5 if a larger share of the objects are no images (default 0.8), or if nothing could be scored.",
)
@click.option(
    "--max-deleted-rate",
    type=click.FloatRange(0, 1),
    help="Exit with 6, before anything is read, if a larger share of the known objects is missing from the listing "
    "(default 0.2, and more than 20 objects); 1: never.",
)
@click.option(
    "--golden",
    metavar="URI",
    help="Score this fixed set of objects first (a folder, prefix or list), and exit with 10, before anything is "
    "committed, if a score or a decision is another than before.",
)
@click.option(
    "--golden-tolerance",
    type=click.FloatRange(0, 1),
    help="By how much the score of a golden object may move (default 0.02).",
)
@click.option(
    "--accept-drift",
    metavar="REASON",
    help="Go on although the golden set drifted, and expect its new scores and decisions from now on.",
)
@source_storage_options
@commit_options
@click.option("--address", help="Address of a Ray cluster (default: RAY_ADDRESS, or a local Ray).")
@click.option("--num-cpus", type=click.IntRange(1), help="CPUs of a local Ray (default: all).")
@click.option(
    "--explain",
    is_flag=True,
    help="Say what would run where, how long it would take and what it would cost; read and write nothing.",
)
@click.option(
    "--prices",
    metavar="FILE",
    help="Price table (YAML, a file or any fsspec URI; default: list prices).",
)
@click.option(
    "--rates",
    metavar="FILE",
    help="Estimate from a benchmark's JSON, a file or any fsspec URI (default: from earlier runs of the store).",
)
@json_option
@click.option(
    "--log-format",
    "log_format",
    type=click.Choice(["text", "json"]),
    help="Give each line on standard error its time (UTC) and level; json: as an object, and so the result (default: "
    "on a terminal neither, elsewhere text).",
)
@click.option("--verbose", is_flag=True, help="Show Ray's messages, and tracebacks.")
def scan(
    sources: tuple[str, ...],
    out: str,
    run_id: str | None,
    resume: str | None,
    config: str | None,
    preset: str | None,
    explain: bool,
    as_json: bool,
    log_format: LogFormat | None,
    verbose: bool,
    **options: Any,
) -> None:
    """Scan SOURCES and commit a report to STORE.

    A source is a file, a directory, s3://bucket/prefix, any fsspec URI, or a list of objects (Parquet, CSV,
    JSON, one URI per line, compressed or not; the manifest.json of an S3 Inventory). The scan does not read
    objects again that are unchanged since the last run over the same source.
    """
    if not verbose:
        mute_at_exit()
    form: LogFormat | None = log_format or (None if sys.stderr.isatty() else "text")
    with without_native_chatter(verbose=verbose, form=form) as stream:
        console = Console(file=stream)
        with exit_codes(console, verbose, again=_RESUMED, as_json=as_json, form=form):
            if explain and as_json:
                raise ConfigError("--explain prints a table, and no JSON: leave --json out")
            if explain:
                plan = explain_scan(sources, out, preset=preset, config=config, **sections_of(options))
                echo(describe_plan(plan))
                return
            result = run_scan(
                sources,
                out,
                run_id=run_id,
                resume=resume == "last",
                preset=preset,
                config=config,
                progress=choose_progress(console, form),
                verbose=verbose,
                **sections_of(options),
            )
    show_result(result, as_json or log_format == "json", form)
