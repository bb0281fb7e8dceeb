"""`nsfwscan-train`: look at labelled images, and learn from them. Parse, call, print; no logic.

Exit codes: 0 done; 1 could not; 2 wrong usage.
"""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

import nsfwscan
from nsfwscan.chatter import mute_at_exit, without_native_chatter
from nsfwscan.cli import source_storage_options
from nsfwscan.config import StorageConfig
from nsfwscan.display import printable_lines, redacted
from nsfwscan.errors import SetupError
from training.config import DataConfig
from training.progress import shown_progress
from training.train_config import TrainConfig

Command = Callable[..., Any]

_STORAGE = ("endpoint_url", "region", "profile", "anonymous", "requester_pays", "sse", "sse_kms_key_id")
_DATA = (
    *("format", "seed", "validation_share", "test_share", "near_duplicate_distance", "max_per_class", "cache"),
    "retry_unreadable",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(nsfwscan.__version__, prog_name="nsfwscan-train")
def main() -> None:
    """From a folder of labelled images to a checkpoint that the scan trusts."""


def data_options(command: Command) -> Command:
    """What is learned from, and how it is divided."""
    for option in reversed(
        (
            click.argument("data", nargs=-1, required=True),
            click.option(
                "--format",
                type=click.Choice(["auto", "folders", "zip", "table", "verdicts"]),
                help="What DATA is; default: by its name, and a table by its columns.",
            ),
            click.option(
                "--label",
                "labels",
                multiple=True,
                metavar="LABEL=CATEGORY",
                help="What a folder's or a table's label means; repeatable.",
            ),
            click.option("--seed", type=int, help="Of the splits (default 0)."),
            click.option("--validation-share", type=click.FloatRange(0, 1, True, True), help="Default 0.1."),
            click.option("--test-share", type=click.FloatRange(0, 1, True, True), help="Default 0.1."),
            click.option(
                "--near-duplicate-distance",
                type=click.IntRange(0, 64),
                help="Bits in which PDQ hashes of near-duplicates differ at most (default 31).",
            ),
            click.option(
                "--max-per-class", type=click.IntRange(1), help="For a quick look: only so many of each class."
            ),
            click.option(
                "--retry-unreadable", is_flag=True, help="Try again what could not be read for a reason that may pass."
            ),
            click.option("--cache", metavar="FOLDER", help="Where images are kept; default ~/.cache/nsfwscan."),
            click.option("--max-bytes", type=click.IntRange(1), help="Do not read larger objects (default 64 MiB)."),
            click.option(
                "--max-pixels", type=click.IntRange(1), help="Do not decode larger images (default 100,000,000)."
            ),
        )
    ):
        command = option(command)
    return source_storage_options(command)


def data_config(options: dict[str, Any]) -> DataConfig:
    """The configuration that the options of `data_options` stand for. Raises ConfigError."""
    values: dict[str, Any] = {name: options[name] for name in _DATA if options.get(name) is not None}
    values["uris"] = options["data"]
    if options.get("labels"):
        values["labels"] = dict(_pair(label) for label in options["labels"])
    for section, name in (("read", "max_bytes"), ("decode", "max_pixels")):
        if options.get(name) is not None:
            values[section] = {name: options[name]}
    return DataConfig.of(values)


def storage_config(options: dict[str, Any]) -> StorageConfig:
    """How to reach the stores. Raises ConfigError."""
    return StorageConfig.of({name: options[name] for name in _STORAGE if options.get(name) is not None})


@main.command()
@data_options
@click.option("--out", metavar="FILE", default="explore.html", show_default=True, help="The page to write.")
@click.option(
    "--model",
    metavar="URI",
    help="Checkpoint whose features tell likely label errors; default embedded:open-nsfw, `none` leaves them out.",
)
@click.option("--no-thumbnails", is_flag=True, help="No image on the page, not even blurred.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.option("--verbose", is_flag=True, help="Show tracebacks.")
def explore(out: str, model: str | None, no_thumbnails: bool, quiet: bool, verbose: bool, **options: Any) -> None:
    """Look at DATA before learning from it: write a page, and beside it a table of all that was found.

    DATA is class folders, a zip of them, a table of uri and label, a file of reviewers' verdicts (local paths, s3://,
    any fsspec URI), or the hub's deepghs/nsfw_detect.
    """
    from training.explore import explore as look

    with exit_codes(verbose):
        config, storage = data_config(options), storage_config(options)
        with shown_progress(is_quiet=quiet) as progress:
            findings = look(config, storage, out, model=model, thumbnails=not no_thumbnails, progress=progress)
        for line in findings:
            echo(line)


def train_options(command: Command) -> Command:
    """How a checkpoint is trained."""
    for option in reversed(
        (
            click.option(
                "--backbone",
                required=True,
                metavar="URI",
                help="Checkpoint directory, fsspec URI or hub id to start from.",
            ),
            click.option(
                "--out", required=True, metavar="DIR", help="Where the checkpoint goes: a directory, or s3://…"
            ),
            click.option("--epochs", type=click.IntRange(1), help="Default 5."),
            click.option(
                "--batch-size", type=click.IntRange(1), help="Images in a step, over all workers (default 32)."
            ),
            click.option(
                "--gradient-accumulation", type=click.IntRange(1), help="Parts that a step is computed in (default 1)."
            ),
            click.option(
                "--learning-rate",
                type=click.FloatRange(0, min_open=True),
                help="Peak (default 2e-5; 1e-3 with --freeze-backbone).",
            ),
            click.option("--weight-decay", type=click.FloatRange(0), help="Default 0.05."),
            click.option("--warmup-share", type=click.FloatRange(0, 1), help="Of all steps (default 0.1)."),
            click.option("--schedule", type=click.Choice(["cosine", "linear", "constant_with_warmup"])),
            click.option(
                "--layer-decay",
                type=click.FloatRange(0, 1, min_open=True),
                help="Each layer learns so much slower than the one above it (default 1: all alike).",
            ),
            click.option(
                "--freeze-backbone", is_flag=True, default=None, help="Train the head alone (a linear probe)."
            ),
            click.option("--class-weights", type=click.Choice(["balanced", "none"]), help="Default balanced."),
            click.option("--augment/--no-augment", default=None, help="Flip, crop and jitter colours (default)."),
            click.option(
                "--precision",
                type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
                help="auto: bf16 where the hardware has it, fp16 on older GPUs, fp32 elsewhere.",
            ),
            click.option(
                "--metric", type=click.Choice(["accuracy", "macro_f1"]), help="Which the best epoch is chosen by."
            ),
            click.option(
                "--patience",
                type=click.IntRange(0),
                help="End after so many epochs without gain (default 3; 0: never).",
            ),
        )
    ):
        command = option(command)
    return command


def placing_options(command: Command) -> Command:
    """Where a training runs, by which seed, and what it writes."""
    for option in reversed(
        (
            click.option(
                "--checkpoint-steps",
                type=click.IntRange(1),
                help="Steps between checkpoints in an epoch (default 500).",
            ),
            click.option(
                "--training-seed", type=click.IntRange(0), help="Of head, order and augmentation (default 0)."
            ),
            click.option("--workers", type=click.IntRange(1), help="Processes, with GPUs one each (default 1)."),
            click.option("--use-gpu/--no-gpu", default=None, help="Default: where the cluster has enough."),
            click.option("--loader-processes", type=click.IntRange(0), help="Of each worker, that decode images."),
            click.option("--max-failures", type=click.IntRange(0), help="Lost workers that are replaced (default 3)."),
            click.option(
                "--export", "exported", type=click.Choice(["onnx"]), help="Write model.onnx, too, and compare it."
            ),
            click.option("--address", help="Ray cluster; default: RAY_ADDRESS, or a local Ray."),
            click.option("--num-cpus", type=click.IntRange(1), help="CPUs of a local Ray; default all."),
        )
    ):
        command = option(command)
    return command


_TRAIN = (
    *("backbone", "out", "epochs", "batch_size", "gradient_accumulation", "learning_rate", "weight_decay"),
    *("warmup_share", "schedule", "layer_decay", "freeze_backbone", "class_weights", "augment", "precision", "metric"),
    *("patience", "checkpoint_steps", "workers", "use_gpu", "loader_processes", "max_failures", "max_pixels"),
    *("address", "num_cpus"),
)


def train_config(options: dict[str, Any]) -> TrainConfig:
    """The configuration that the options of `train_options` and `placing_options` stand for. Raises ConfigError."""
    values = {name: options[name] for name in _TRAIN if options.get(name) is not None}
    if values.get("patience") == 0:
        values["patience"] = None
    if options.get("training_seed") is not None:
        values["seed"] = options["training_seed"]
    return TrainConfig.of(values | {"export_onnx": options.get("exported") == "onnx"})


@main.command()
@data_options
@train_options
@placing_options
@click.option("--verbose", is_flag=True, help="Show what Ray says, and tracebacks.")
def fit(verbose: bool, **options: Any) -> None:
    """Train a checkpoint on DATA, for `nsfwscan scan --model`.

    The same command goes on where a stopped one was, from the last checkpoint in --out. DATA is as for explore.
    """
    from training.train import describe, train

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped job ends as with Ctrl-C
    if not verbose:
        mute_at_exit()
    with without_native_chatter(verbose=verbose) as stream, exit_codes(verbose):
        config, data, storage = train_config(options), data_config(options), storage_config(options)

        def say(line: str) -> None:
            click.echo(printable_lines(redacted(line)), file=stream)

        outcome = train(config, data, storage, say, verbose=verbose)
        echo(describe(outcome))


@main.command()
@click.argument("folder")
@click.option("--verbose", is_flag=True, help="Show tracebacks.")
def export(folder: str, verbose: bool) -> None:
    """Write model.onnx into the checkpoint directory FOLDER, if its scores are the checkpoint's."""
    from training.export import export_onnx

    with exit_codes(verbose):
        found = export_onnx(Path(folder))
        echo(f"{folder}/{found['file']} agrees with the checkpoint within {found['largest_difference']:.1e}")


@contextmanager
def exit_codes(verbose: bool) -> Iterator[None]:
    """Turns our errors into one message and their exit code; with --verbose the traceback comes first, and always for
    an error that is none of ours."""
    try:
        yield
    except SetupError as error:
        if verbose:
            _show("".join(traceback.format_exception(error)).rstrip())
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted; the same command goes on where it stopped", 1)
    except click.ClickException:
        raise
    except Exception as error:  # noqa: BLE001  # Python would print it with whatever secret it holds
        _show("".join(traceback.format_exception(error)).rstrip())
        _fail("this should not have happened: please report the lines above", 1)


def echo(text: object) -> None:
    """To standard output; names in it come from strangers, and must not act on the terminal, nor hold a secret."""
    click.echo(printable_lines(redacted(str(text))))


def _fail(message: str, code: int) -> NoReturn:
    _show(f"nsfwscan-train: {message}")
    sys.exit(code)


def _show(text: str) -> None:
    click.echo(printable_lines(redacted(text)), err=True)


def _pair(label: str) -> tuple[str, str]:
    name, separator, category = label.rpartition("=")
    if not separator:
        raise click.BadParameter(f"{label!r} is not LABEL=CATEGORY", param_hint="--label")
    return name, category


if __name__ == "__main__":
    main()
