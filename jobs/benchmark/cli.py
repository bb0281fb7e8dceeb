"""Command of the benchmark: parse, measure, print.

It prints the table on the terminal, and on request writes it as JSON and into a page. Exit code 1 if it cannot run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from jobs.benchmark import table
from jobs.benchmark.banks import ENTRIES, measure_bank
from jobs.benchmark.banks import as_markdown as bank_as_markdown
from jobs.benchmark.checkpoint import make_checkpoint
from jobs.benchmark.committing import ROWS, measure_commit
from jobs.benchmark.committing import as_markdown as commit_as_markdown
from jobs.benchmark.keeping import Keeper, check_folder
from jobs.benchmark.machine import busy, cores_here, describe_machine, gpus, in_words
from jobs.benchmark.media import (
    MIXES,
    QUALITY,
    SUBSAMPLING,
    bytes_per_pixel,
    make_pictures,
    megapixels,
    whole_blocks,
)
from jobs.benchmark.suite import PARTS, Suite
from jobs.benchmark.timing import LOG, apart
from jobs.benchmark.workload import Workload
from nsfwscan.errors import NsfwscanError

MODELS = {"vit-b-16": "vit-b-16", "small": "free"}
"""Values of `--model-size`, with the kind of checkpoint that each selects."""
_ALONE = ("banks", "commit")
"""Parts that need neither pictures nor models."""
_PARTS = (*PARTS, "memory", *_ALONE)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=Path("build/bench"),
    show_default=True,
    metavar="DIR",
    help="Where pictures, stores and models are kept for the next time.",
)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(_PARTS),
    help="Only this part; repeatable. `memory`, `banks`, `commit` are long.",
)
@click.option("--skip", multiple=True, type=click.Choice(list(PARTS)), help="Not this part; repeatable.")
@click.option(
    "--images",
    type=click.IntRange(1),
    metavar="N",
    help="Objects of a scanned store at most (a planned one: 100 times as many); default: as the time asks.",
)
@click.option(
    "--distinct",
    type=click.IntRange(1),
    default=400,
    show_default=True,
    metavar="N",
    help="Distinct pictures; larger stores repeat them.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    help="About how long each rate is measured.",
)
@click.option(
    "--repetitions",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Of each rate, within that time, and of each cold start.",
)
@click.option(
    "--mix", type=click.Choice(list(MIXES)), default="user-content", show_default=True, help="Sizes of the pictures."
)
@click.option(
    "--model-size",
    type=click.Choice(list(MODELS)),
    default="vit-b-16",
    show_default=True,
    help="`small` only tries the benchmark itself.",
)
@click.option(
    "--bank-entries",
    type=click.IntRange(1000),
    default=ENTRIES,
    show_default=True,
    metavar="N",
    help="PDQ hashes of the bank of `--only banks`.",
)
@click.option(
    "--commit-rows",
    type=click.IntRange(1000),
    default=ROWS,
    show_default=True,
    metavar="N",
    help="Rows of each night of `--only commit`.",
)
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Cores to use; default: all.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), metavar="FILE", help="Write everything here, too."
)
@click.option(
    "--page",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Put the table into this page, between its comments `bench` (`bench-gpu`, `packs`, `memory`, `banks`).",
)
@click.option("--markdown", is_flag=True, help="Print Markdown in place of the table.")
def bench(
    only: tuple[str, ...],
    skip: tuple[str, ...],
    json_path: Path | None,
    page: Path | None,
    markdown: bool,
    bank_entries: int,
    commit_rows: int,
    **options: Any,
) -> None:
    """Measure decoding, the model, whole scans and comparable tools on this machine."""
    console, told = Console(), Console(stderr=True)
    parts = [name for name in PARTS if name in (only or PARTS) and name not in skip]
    keep = Keeper(json_path, page)
    try:
        keep.check(
            [*([_place(gpus(), parts)] if parts else []), *(name for name in ("memory", *_ALONE) if name in only)]
        )
        check_folder(options["work"])
        _check_cores(options["threads"])
        if "banks" in only:
            _ask_a_bank(options["work"], bank_entries, options["threads"], options["seconds"], told, console, keep)
        if "commit" in only:
            _commit(options["work"], commit_rows, options["threads"], options["repetitions"], told, console, keep)
        if only and set(only) <= set(_ALONE):
            return
        workload, settings = prepare(told, **options)
        if parts:
            _measure(workload, settings, parts, told, console, markdown, keep)
        if "memory" in only:
            _draw_curve(workload, told, console, keep)
    except NsfwscanError as error:
        told.print(f"error: {error}", style="red", markup=False)
        sys.exit(error.exit_code)


def prepare(
    told: Console,
    *,
    work: Path,
    images: int | None,
    distinct: int,
    seconds: float,
    mix: str,
    model_size: str,
    repetitions: int,
    threads: int | None,
) -> tuple[Workload, dict[str, Any]]:
    """Make missing pictures and models, and return the workload, and the settings as JSON types.

    Raises:
        NsfwscanError: `threads` is more than the cores of this machine.
    """
    cores = _restrict_to(threads or cores_here())
    work, shares = work.resolve(), MIXES[mix]
    distinct = whole_blocks(shares, distinct)
    work.mkdir(parents=True, exist_ok=True)
    os.environ[LOG] = str(work / "bench.log")
    told.print(f"pictures, models, log: {work}", highlight=False)
    pictures = apart(make_pictures, work, shares, distinct)
    model, free = (apart(make_checkpoint, work, kind) for kind in (MODELS[model_size], "free"))
    workload = Workload(work, shares, tuple(pictures), model, free, cores, seconds, repetitions, images)
    total = sum(share.of_block for share in shares)
    settings = {
        "mix": [{"width": s.width, "height": s.height, "of": s.of_block / total} for s in shares],
        "distinct": distinct,
        "megapixels": megapixels(shares),
        "bytes_per_pixel": bytes_per_pixel(pictures),
        "jpeg": {"quality": QUALITY, "subsampling": SUBSAMPLING},
        "model": model_size,
        "cores": cores,
        "seconds": seconds,
        "repetitions": repetitions,
        "images": images,
    }
    return workload, settings


def _check_cores(wanted: int | None) -> None:
    """Raise NsfwscanError if `wanted` is more than the cores of this machine."""
    if wanted is not None and wanted > cores_here():
        raise NsfwscanError(f"--threads {wanted}: this machine has {cores_here()} cores")


def _restrict_to(cores: int) -> int:
    """Keep this process and its children on that many cores. Raises NsfwscanError if there are fewer."""
    _check_cores(cores)
    if cores < cores_here():
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    return cores


def _place(gpus: Sequence[Any], parts: Sequence[str]) -> str:
    """Return the name of the place in a page: the main table's, or that of packs measured by themselves."""
    return "packs" if parts == ["packs"] else "bench-gpu" if gpus else "bench"


def _measure(
    workload: Workload,
    settings: dict[str, Any],
    parts: Sequence[str],
    told: Console,
    console: Console,
    markdown: bool,
    keep: Keeper,
) -> None:
    """Run the parts and print the table. Keep all figures after each part, so that an interrupted run leaves them."""
    machine = {**describe_machine(), "cores": workload.cores}
    suite = Suite(workload, partial(told.print, highlight=False, markup=False))
    place = _place(machine["gpus"], parts)
    if warning := busy(machine):
        told.print(warning, style="yellow", markup=False)
    for figures in suite.run(parts):
        settings = {**settings, "not_measured": [name for name in PARTS if name not in suite.done]}
        text = table.as_markdown(machine, settings, figures)
        keep(place, text, table.as_json(machine, settings, figures))
    shown = text if markdown else table.as_table(machine, suite.figures)
    console.print(shown, soft_wrap=markdown, markup=False)


def _draw_curve(workload: Workload, told: Console, console: Console, keep: Keeper) -> None:
    from jobs.benchmark.memory import as_markdown, measure_memory, up_to

    machine = describe_machine()
    say = partial(told.print, highlight=False, markup=False)
    curve = measure_memory(workload, say, *up_to(workload.most_images))
    text = f"Machine: {in_words(machine)}.\n\n{as_markdown(curve)}"
    keep("memory", text, {"machine": machine, **curve.as_json()})
    console.print(text, soft_wrap=True, markup=False)


def _ask_a_bank(
    work: Path, entries: int, threads: int | None, seconds: float, told: Console, console: Console, keep: Keeper
) -> None:
    cores = _restrict_to(threads or cores_here())
    work.mkdir(parents=True, exist_ok=True)
    os.environ[LOG] = str(work.resolve() / "bench.log")
    machine, say = describe_machine(), partial(told.print, highlight=False, markup=False)
    found = measure_bank(work.resolve(), entries, cores, seconds, say)
    text = f"Machine: {in_words(machine)}.\n\n{bank_as_markdown(found)}"
    keep("banks", text, {"machine": machine, **found.as_json()})
    console.print(text, soft_wrap=True, markup=False)


def _commit(
    work: Path, rows: int, threads: int | None, repetitions: int, told: Console, console: Console, keep: Keeper
) -> None:
    cores = _restrict_to(threads or cores_here())
    os.environ[LOG] = str(work.resolve() / "bench.log")
    machine, say = describe_machine(), partial(told.print, highlight=False, markup=False)
    found = measure_commit(work.resolve(), rows, repetitions, say)
    text = f"Machine: {in_words(machine)}, {cores} cores used.\n\n{commit_as_markdown(found)}"
    keep("commit", text, {"machine": machine, **found.as_json()})
    console.print(text, soft_wrap=True, markup=False)
