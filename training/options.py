"""The options of `nsfwscan-train` and of the jobs, and the configurations that they stand for.

In: what was typed. Out: frozen configurations. A wrong value is a `ConfigError`, or click's own usage error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from nsfwscan.cli.main import source_storage_options
from nsfwscan.config import StorageConfig
from training.config import DataConfig
from training.evaluate.config import EvaluateConfig
from training.fit.config import TrainConfig

Command = Callable[..., Any]

_STORAGE = ("endpoint_url", "region", "profile", "anonymous", "requester_pays", "sse", "sse_kms_key_id")
_DATA = (
    *("format", "seed", "validation_share", "test_share", "similar_distance", "max_per_class", "cache"),
    "retry_unreadable",
)


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
                "--similar-distance",
                type=click.IntRange(0, 64),
                help="Bits in which PDQ hashes of similar images differ at most (default 31).",
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
        values["labels"] = dict(_pair(label, "--label") for label in options["labels"])
    for section, name in (("read", "max_bytes"), ("decode", "max_pixels")):
        if options.get(name) is not None:
            values[section] = {name: options[name]}
    return DataConfig.of(values)


def storage_config(options: dict[str, Any]) -> StorageConfig:
    """How to reach the stores. Raises ConfigError."""
    return StorageConfig.of({name: options[name] for name in _STORAGE if options.get(name) is not None})


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


def evaluate_options(command: Command) -> Command:
    """What is evaluated, and how it is scanned with."""
    for option in reversed(
        (
            click.option(
                "--model",
                required=True,
                metavar="URI",
                help="Checkpoint directory, fsspec URI, hub id, or embedded:open-nsfw.",
            ),
            click.option("--against", metavar="URI", help="A second checkpoint, compared with the first on one page."),
            click.option(
                "--out", required=True, metavar="DIR", help="Where page, figures and lists go: a directory, or s3://…"
            ),
            click.option(
                "--model-label",
                "model_labels",
                multiple=True,
                metavar="LABEL=CATEGORY",
                help="What a label of --model means; repeatable.",
            ),
            click.option(
                "--against-label",
                "against_labels",
                multiple=True,
                metavar="LABEL=CATEGORY",
                help="What a label of --against means; repeatable.",
            ),
            click.option(
                "--dtype",
                type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
                help="Precision, as for a scan.",
            ),
            click.option("--batch-size", type=click.IntRange(1), help="Images in a forward pass, as for a scan."),
            click.option("--no-thumbnails", is_flag=True, help="No image on the page, not even blurred."),
            click.option("--address", help="Ray cluster; default: RAY_ADDRESS, or a local Ray."),
            click.option("--num-cpus", type=click.IntRange(1), help="CPUs of a local Ray; default all."),
        )
    ):
        command = option(command)
    return command


def evaluate_config(options: dict[str, Any]) -> EvaluateConfig:
    """The configuration that the options of `evaluate_options` stand for. Raises ConfigError."""
    if options["against_labels"] and not options["against"]:
        raise click.UsageError("--against-label explains a label of --against, which is not given")
    wanted = ("out", "dtype", "batch_size", "address", "num_cpus")
    values: dict[str, Any] = {name: options[name] for name in wanted if options.get(name) is not None}
    for name in ("model", "against"):
        if options[name]:
            labels = dict(_pair(label, f"--{name}-label") for label in options[f"{name}_labels"])
            values[name] = {"uri": options[name], "labels": labels}
    return EvaluateConfig.of(values | {"thumbnails": not options["no_thumbnails"]})


def _pair(label: str, option: str) -> tuple[str, str]:
    name, separator, category = label.rpartition("=")
    if not separator:
        raise click.BadParameter(f"{label!r} is not LABEL=CATEGORY", param_hint=option)
    return name, category
