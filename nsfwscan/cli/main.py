"""Command line `nsfwscan`: parse options, call the workflow, print the result; no logic.

Exit codes: 0 committed; 1 could not run; 2 wrong usage; 3 does not balance, not committed; 4 committed, but over
--max-error-rate; 5 committed, but nothing was scored, or over --max-unsupported-rate; 6 over --max-deleted-rate, not
committed; 7 and 8 of `verify`, tampered and damaged; 9 committed, but not signed or anchored as asked; 10 the golden
set drifted, not committed.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import click
from rich.console import Console

import nsfwscan
from nsfwscan.api import classify as classify_images
from nsfwscan.api import explain as explain_scan
from nsfwscan.api import load_config
from nsfwscan.api import scan as run_scan
from nsfwscan.cli.audit import audit
from nsfwscan.cli.calibrate import calibrate
from nsfwscan.cli.coaching import coaching
from nsfwscan.cli.console import (
    RESUMED_BY_ID,
    Command,
    commit_options,
    commit_sections,
    complain,
    echo,
    exit_codes,
    given_options,
    hanging,
    json_option,
    source_storage_options,
    storage_and_sections,
    storage_options,
)
from nsfwscan.cli.demo import demo
from nsfwscan.cli.diff import diff
from nsfwscan.cli.forget import forget
from nsfwscan.cli.history import history
from nsfwscan.cli.json_text import pins_json, print_json, runs_json, scan_json, verify_json
from nsfwscan.cli.label import label
from nsfwscan.cli.models import models
from nsfwscan.cli.norming import norming
from nsfwscan.cli.own_banks import banks
from nsfwscan.cli.pin_text import describe_pins
from nsfwscan.cli.policy import policy
from nsfwscan.cli.quarantine import quarantine
from nsfwscan.cli.queues import queues
from nsfwscan.cli.retention import hold, prune
from nsfwscan.cli.review import review
from nsfwscan.cli.sql import sql
from nsfwscan.cli.terminal import (
    describe_delta,
    describe_plan,
    describe_run,
    describe_scan,
    describe_verdict,
    describe_verified,
)
from nsfwscan.cli.text import text
from nsfwscan.cli.transparency import transparency
from nsfwscan.cli.verdicts import verdicts
from nsfwscan.cli.why import why
from nsfwscan.config import StorageConfig, merge, parts_of
from nsfwscan.errors import BrokenRecord, ConfigError
from nsfwscan.execution.native_logs import mute_at_exit, without_native_chatter
from nsfwscan.models.packs.catalogue import SCHEME as PACK
from nsfwscan.models.registry import PRESETS, READERS
from nsfwscan.policy.rules import load_policy
from nsfwscan.reports.export import FORMATS, export_run
from nsfwscan.reports.progress import choose_progress
from nsfwscan.runs.evidence import public_key
from nsfwscan.runs.finding import exit_code_of
from nsfwscan.runs.garbage import GIVEN_UP, collect
from nsfwscan.runs.overview import overview
from nsfwscan.runs.pins import pin_history
from nsfwscan.runs.run import find_run
from nsfwscan.storage.output import Output
from nsfwscan.storage.store import Store
from nsfwscan.storage.text_files import read_text
from nsfwscan.text import LogFormat, printable
from nsfwscan.workflows.match import FLOOD, match_store
from nsfwscan.workflows.notices import noticed
from nsfwscan.workflows.pin import clear_pin, pin_settings
from nsfwscan.workflows.verify import Verified, verify_all

if TYPE_CHECKING:
    from nsfwscan.workflows.scan import ScanResult


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(nsfwscan.__version__, prog_name="nsfwscan")
def main() -> None:
    """Scan media stores for NSFW and harmful images, and write a report that people can trust."""


_RESUMED = "the same command with --resume last goes on where it stopped"

bank_option = click.option(
    "--bank",
    "banks",
    multiple=True,
    metavar="NAME=URI[,kind=…]",
    help="List of known hashes: CSV, Parquet, JSON, or one hash per line. kind=block (default), allow, negative, "
    "illegal; distance=31, quality=50, hash=pdq|sha256|md5, column=NAME, tags=A+B, categories=1+2. Repeatable.",
)

detector_option = click.option(
    "--detector",
    "detectors",
    multiple=True,
    metavar="NAME[=URI]",
    help="Also ask this model; its scores become signals NAME.LABEL. Without a URI: the pack NAME, or text or "
    "link, which read text and codes in pictures. Repeatable.",
)

ignore_run_option = click.option(
    "--ignore-run",
    "ignore_runs",
    multiple=True,
    metavar="ID",
    help="Ignore this committed run, whose record is broken. Repeatable.",
)


def decode_options(command: Command) -> Command:
    """Add the options for decoding: size limits, mode and perceptual hash."""
    for option in reversed(
        (
            click.option(
                "--max-pixels", type=click.IntRange(1), help="Do not decode larger images (default 100,000,000)."
            ),
            click.option(
                "--decode",
                type=click.Choice(["fast", "exact"]),
                help="fast (default): decode large JPEGs at reduced scale, unless --pdq exact needs all pixels; moves "
                "scores by less than 0.02.",
            ),
            click.option(
                "--pdq",
                type=click.Choice(["exact", "reduced", "off"]),
                help="Perceptual hash: exact (default) needs all pixels; reduced hashes large JPEGs at the scale of "
                "--decode fast (a few of 256 bits differ; several times as fast); off: none.",
            ),
            click.option(
                "--screenshots/--no-screenshots",
                default=None,
                help="Say how likely a picture is one of a screen, or of a chat: signals screenshot, screenshot.chat.",
            ),
            click.option(
                "--c2pa",
                is_flag=True,
                default=None,
                help="Verify C2PA manifests, offline: signals c2pa.valid, c2pa.invalid (needs the extra c2pa).",
            ),
            click.option(
                "--c2pa-trust",
                metavar="FILE",
                help="Verify them, and call signers by these certificates (PEM) trusted: signal c2pa.trusted.",
            ),
            click.option("--max-bytes", type=click.IntRange(1), help="Do not read larger objects (default 64 MiB)."),
        )
    ):
        command = option(command)
    return command


def model_options(command: Command) -> Command:
    """Add the options for model, policy and hash banks, and `decode_options`."""
    command = decode_options(command)
    for option in reversed(
        (
            click.option(
                "--config",
                metavar="FILE",
                help="Configuration (YAML), a file or any fsspec URI; options on the command line win.",
            ),
            click.option(
                "--preset",
                type=click.Choice(sorted(PRESETS)),
                help="A public checkpoint with its label map and policy.",
            ),
            click.option(
                "--model",
                metavar="URI",
                help="embedded:open-nsfw (default), pack:NAME, a checkpoint directory, an fsspec URI or a hub id.",
            ),
            click.option(
                "--label",
                "labels",
                multiple=True,
                metavar="LABEL=CATEGORY",
                help="Map a label of the checkpoint to a category. Repeatable.",
            ),
            detector_option,
            click.option(
                "--dtype",
                type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
                help="Precision. auto (default): fp16 on CUDA, bf16 on CPUs that have it, fp32 elsewhere.",
            ),
            click.option(
                "--batch-size",
                type=click.IntRange(1),
                help="Images per forward pass (default: 8 on a CPU, 128 on a GPU).",
            ),
            click.option(
                "--compile",
                is_flag=True,
                default=None,
                help="Compile the model with torch.compile: a tenth faster, after minutes of preparation.",
            ),
            click.option(
                "--policy",
                metavar="FILE|NAME",
                help="Policy (a file or any fsspec URI), or name of a preset policy (default: the model's own).",
            ),
            bank_option,
        )
    ):
        command = option(command)
    return command


@main.command()
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
    help="Allow lists to name objects with this prefix. Without it, a list in a bucket names only objects there. "
    "Repeatable.",
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
@click.option(
    "--patterns",
    multiple=True,
    metavar="FILE",
    help="Search the text that detectors read for these patterns (YAML), such as example:en. Repeatable.",
)
@click.option("--block-hosts", metavar="FILE", help="Hosts, one a line, that codes in pictures must not lead to.")
@click.option("--allow-hosts", metavar="FILE", help="Hosts, one a line, that they may lead to.")
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
                plan = explain_scan(sources, out, preset=preset, config=config, **_sections(options))
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
                **_sections(options),
            )
    _show_result(result, as_json or log_format == "json", form)


@main.command()
@click.argument("images", nargs=-1, required=True)
@model_options
@source_storage_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.option("--verbose", is_flag=True, help="Show tracebacks.")
def classify(
    images: tuple[str, ...], config: str | None, preset: str | None, as_json: bool, verbose: bool, **options: Any
) -> None:
    """Score single IMAGES (paths or URIs) immediately, without Ray."""
    with exit_codes(Console(stderr=True), verbose):
        for verdict in classify_images(images, preset=preset, config=config, **_sections(options)):
            if as_json:
                click.echo(json.dumps(asdict(verdict)))  # for a program: the URI as the user gave it
            else:
                echo(describe_verdict(verdict))


@main.command()
@click.argument("store")
@storage_options
@json_option
def runs(store: str, as_json: bool, **options: Any) -> None:
    """List the runs of a report STORE with their states, the newest last."""
    with exit_codes(Console(stderr=True), verbose=False, as_json=as_json):
        place = Store.at(store, StorageConfig.of(given_options(options)))
        found = overview(place)
        if as_json:
            print_json(runs_json(place.uri, found))
            return
        for run in found:
            echo(describe_run(run))
        if not found:
            echo(f"no runs in {printable(store)}")


@main.command()
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
            sections["banks"] = dict(map(_bank, banks))
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
    _show_result(result, as_json)


def _show_result(result: ScanResult, as_json: bool, form: LogFormat | None = None) -> NoReturn:
    """Print a committed run, and exit with its code."""
    if result.unproved is not None:
        complain(result.unproved, form)
    if as_json:
        print_json(scan_json(result))
    else:
        echo(describe_scan(result))
    sys.exit(result.exit_code)


@main.command()
@click.argument("store")
@click.option("--policy", metavar="FILE|NAME", help="Policy to pin: a file, or the name of a preset.")
@bank_option
@click.option("--model", metavar="URI", help="Model to pin.")
@click.option(
    "--label", "labels", multiple=True, metavar="LABEL=CATEGORY", help="Map a label of the model. Repeatable."
)
@click.option("--preset", type=click.Choice(sorted(PRESETS)), help="Pin the model and the policy of a preset.")
@click.option("--config", metavar="FILE", help="Pin what a configuration (YAML) has of `policy`, `banks` and `model`.")
@click.option("--show", is_flag=True, help="Show what is pinned, and all pins before.")
@click.option("--clear", is_flag=True, help="Pin nothing any more; the history stays.")
@storage_options
@json_option
def pin(
    store: str, preset: str | None, config: str | None, show: bool, clear: bool, as_json: bool, **options: Any
) -> None:
    """Pin the policy, the hash banks and the model of a report STORE.

    A scan, match or replay that leaves an option out then goes by the pinned one; it stops where that cannot be read
    or was changed. One that is given another policy, bank or model says so loudly. Parts that are not given stay as
    they are pinned; all banks are pinned together.
    """
    with exit_codes(Console(stderr=True), verbose=False, again="the same command", as_json=as_json):
        sections = _sections(options)
        given = [name for name in ("policy", "banks", "model") if name in sections] or preset or config
        if show + clear + bool(given) > 1:
            raise ConfigError("--show, --clear, and something to pin: one of them at a time")
        settings = load_config(preset, config, merge(sections, {"source": {"uris": ()}, "out": store}))
        place = Store.at(store, settings.storage)
        if clear:
            head = "cleared: nothing is pinned" if clear_pin(place) else "nothing is pinned"
        elif show:
            head = ""
        else:
            head = "pinned" if pin_settings(place, settings)[1] else "pinned already"
        history = pin_history(place)
        if as_json:
            print_json(pins_json(place.uri, history))
        else:
            echo(describe_pins(head, history))
        sys.exit(1 if history and isinstance(history[-1], BrokenRecord) else 0)


@main.command()
@click.argument("run")
@storage_options
@click.option("--expect", metavar="SHA256", help="Digest of a run.json, as a commit printed it: a run must have it.")
@click.option("--anchor", metavar="URI", help="Place of the anchors (scan --anchor): all runs must fit them.")
@click.option(
    "--public-key",
    "public_keys",
    multiple=True,
    metavar="FILE",
    help="Ed25519 public key (PEM or OpenSSH) that must have signed each run, or a later one. Repeatable: one of them.",
)
@json_option
def verify(
    run: str, expect: str | None, anchor: str | None, public_keys: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Check that a committed RUN (STORE/runs/ID) is unchanged: every file, every row, every count, every decision.

    Given a STORE, check all its committed runs, and the chain that they form. Exit with 7 if something contradicts what
    was committed (tampered), else with 8 if something is absent or cannot be read (damaged).
    """
    with exit_codes(Console(stderr=True), verbose=False, as_json=as_json):
        checked: list[Verified] = []
        storage = StorageConfig.of(given_options(options))
        anchors = None if anchor is None else Store.at(anchor, storage)
        keys = [public_key(uri, storage) for uri in public_keys]
        for one in verify_all(run, storage, _digest(expect), anchors, keys):
            checked.append(one)
            if not as_json:
                echo(describe_verified(one))
        exit_code = exit_code_of(finding for one in checked for finding in one.findings)
        if as_json:
            print_json(verify_json(checked, exit_code))
        for one in checked:
            if one.is_head and not as_json:
                echo(f"head  {one.name}  {one.sha256}")
        sys.exit(exit_code)


def _digest(text: str | None) -> str | None:
    """Return a digest in lower case. Raise ConfigError for what is no SHA-256."""
    if text is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise ConfigError(f"--expect {text!r}: no SHA-256; it has 64 hex digits")
    return text and text.lower()


@main.command()
@click.argument("run")
@click.option(
    "--format",
    "kind",
    type=click.Choice(list(FORMATS)),
    required=True,
    help="The report's own columns (csv, parquet), or the format of another service.",
)
@click.option(
    "--out",
    required=True,
    metavar="FILE",
    help="File to write, here or in a store (s3://bucket/key); - is standard output.",
)
@click.option("--for", "reader", type=click.Choice(["excel"]), help="Program that will open the CSV.")
@storage_options
def export(run: str, kind: str, out: str, reader: str | None, **options: Any) -> None:
    """Write the report of RUN (STORE/runs/ID, or a STORE's newest) as one file.

    rekognition: the output manifest of a bulk analysis (JSON lines) and its summary; safesearch, azure: one response
    per image (JSON lines). The CSV is safe to open in a spreadsheet, and has no row limit; --for excel marks it as
    UTF-8, so that Excel shows names correctly.
    """
    with exit_codes(Console(stderr=True), verbose=False):
        storage = StorageConfig.of(given_options(options))
        target = Output.given(out, storage, "--out", stdout=True)
        if reader and kind != "csv":
            raise click.UsageError("--for excel is for --format csv")
        found = find_run(run, storage, complain)
        exported = export_run(found, kind, target, reader)
        files = ", ".join(map(str, exported.files))
        echo(f"{exported.rows:,} rows of run {found.run_id} in {files}", err=target.is_stdout)
        if delta := describe_delta(found.record()):
            echo(delta, err=target.is_stdout)


@main.command()
@click.argument("store")
@click.option(
    "--older-than",
    type=click.FloatRange(0, 36_500),
    metavar="DAYS",
    default=GIVEN_UP / timedelta(days=1),
    show_default=True,
    help="Age of the last work on an unfinished run, after which it counts as abandoned.",
)
@click.option("--dry-run", is_flag=True, help="List what would be removed; remove nothing.")
@storage_options
def gc(store: str, older_than: float, dry_run: bool, **options: Any) -> None:
    """Remove abandoned staging and half-written files from a report STORE.

    Exit with 1 if something could not be removed.
    """
    with exit_codes(Console(stderr=True), verbose=False):
        reports = Store.at(store, StorageConfig.of(given_options(options)))
        done, found, failed = "would remove" if dry_run else "removed", False, False
        for folder in collect(reports, older_than=timedelta(days=older_than), dry_run=dry_run):
            if folder.failed is not None:
                complain(f"{folder.folder}/{folder.run_id} could not be removed: {folder.failed}")
                failed = True
                continue
            what = f"{folder.folder}/{folder.run_id}" + ("" if folder.folder == "staging" else "/**/.tmp-*")
            echo(f"{done} {what}  {folder.files:,} files  {folder.reason}")
            found = True
        if not found and not failed:
            echo(f"nothing abandoned in {printable(reports.uri)}")
        sys.exit(1 if failed else 0)


@main.command()
@click.argument("sources", nargs=-1)
@click.option("--out", metavar="STORE", help="Report store to check for writing.")
@model_options
@source_storage_options
@commit_options
@click.option("--address", help="Address of a Ray cluster (default: RAY_ADDRESS, or a local Ray).")
@click.option("--num-cpus", type=click.IntRange(1), help="CPUs of a local Ray (default: all).")
def doctor(sources: tuple[str, ...], out: str | None, config: str | None, preset: str | None, **options: Any) -> None:
    """Check sources, store, model and banks before a scan, and print the findings line by line."""
    from nsfwscan.workflows.doctor import examine

    with without_native_chatter(verbose=False) as stream, exit_codes(Console(file=stream), verbose=False):
        given = {"source": {"uris": sources}, "out": out or ""}
        healthy = True
        for finding in examine(load_config(preset, config, merge(_sections(options), given))):
            echo(hanging(str(finding)))
            healthy = healthy and not finding.is_failure
        sys.exit(0 if healthy else 1)


main.add_command(audit)
main.add_command(banks)
main.add_command(calibrate)
main.add_command(coaching)
main.add_command(demo)
main.add_command(forget)
main.add_command(hold)
main.add_command(diff)
main.add_command(history)
main.add_command(label)
main.add_command(models)
main.add_command(norming)
main.add_command(policy)
main.add_command(prune)
main.add_command(quarantine)
main.add_command(queues)
main.add_command(sql)
main.add_command(review)
main.add_command(text)
main.add_command(transparency)
main.add_command(verdicts)
main.add_command(why)


_SECTIONS = {
    "source": ("include", "exclude", "limit", "truth", "max_unmatched_truth", "allow"),
    "storage": (
        "endpoint_url",
        "region",
        "profile",
        "anonymous",
        "requester_pays",
        "sse",
        "sse_kms_key_id",
        "s3_compatibility",
        "s3_addressing",
    ),
    "read": ("max_bytes", "max_requests_per_s"),
    "decode": ("max_pixels", "pdq", "screenshots", "c2pa", "c2pa_trust"),
    "views": ("tiles",),
    "text": ("keep",),
    "model": ("dtype", "batch_size", "compile"),
    "report": ("save_images", "max_error_rate", "max_unsupported_rate", "max_deleted_rate"),
    "engine": ("address", "num_cpus", "deadline"),
    "cost": ("prices", "rates"),
}


def _sections(options: dict[str, Any]) -> dict[str, Any]:
    """Return the given options as sections of the configuration."""
    given = given_options(options)
    sections: dict[str, Any] = {s: {k: given[k] for k in keys if k in given} for s, keys in _SECTIONS.items()}
    sections |= commit_sections(given)
    if "model" in given:
        sections["model"]["uri"] = given["model"]
    if "labels" in given:
        sections["model"]["labels"] = dict(_pair(label) for label in given["labels"])
    if "decode" in given:
        sections["decode"]["mode"] = given["decode"]
    if "report" in given:
        sections["report"]["mode"] = given["report"]
    if "cascade" in given:
        sections["cascade"] = {"enabled": given["cascade"]}
    of_text = {"text_key": "key", "patterns": "patterns", "block_hosts": "block", "allow_hosts": "allow"}
    sections["text"] |= {key: given[option] for option, key in of_text.items() if option in given}
    if "full" in given:
        sections["previous"] = {"reuse": not given["full"]}
    if "ignore_runs" in given:
        sections["previous"] = {**sections.get("previous", {}), "ignore_runs": given["ignore_runs"]}
    if "detectors" in given:
        sections["detectors"] = dict(map(_detector, given["detectors"]))
    if "banks" in given:
        sections["banks"] = dict(map(_bank, given["banks"]))
    named = {"golden": "uri", "golden_tolerance": "tolerance", "accept_drift": "accept"}
    sections["golden"] = {key: given[option] for option, key in named.items() if option in given}
    for name in ("policy", "shadow_policies"):
        if name in given:
            sections[name] = given[name]
    return {name: section for name, section in sections.items() if section != {}}


def _pair(label: str) -> tuple[str, str]:
    name, separator, category = label.rpartition("=")
    if not separator:
        raise click.BadParameter(f"{label!r} is not LABEL=CATEGORY", param_hint="--label")
    return name, category


def _detector(text: str) -> tuple[str, dict[str, str]]:
    name, separator, uri = text.partition("=")
    plain = name.removeprefix(PACK)
    embedded = f"embedded:{name}"
    return plain, {"uri": uri if separator else embedded if embedded in READERS else f"{PACK}{plain}"}


def _bank(text: str) -> tuple[str, dict[str, Any]]:
    """Parse a bank's name and settings from `NAME=URI,key=value,…`; a comma is the URI's unless a known key follows."""
    name, separator, rest = text.partition("=")
    uri, *settings = re.split(r",(?=(?:kind|distance|quality|hash|column|tags|categories)=)", rest)
    if not separator or not uri:
        raise click.BadParameter(f"{text!r} is not NAME=URI[,kind=…]", param_hint="--bank")
    bank: dict[str, Any] = {"uri": uri, **(dict(setting.split("=", 1) for setting in settings))}
    for name in {"tags", "categories"} & bank.keys():
        bank[name] = bank[name].split("+")
    return name, bank
