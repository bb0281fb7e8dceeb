"""Options of `nsfwscan-train` and of the jobs, made from the fields of the configurations.

A field gives its option the name, the type with its limits, the default, and by the first sentence of its docstring the
help. Wrong values are a `ConfigError`, or click's own usage error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import annotated_types
import click
from pydantic.fields import FieldInfo

from nsfwscan.cli.console import Command, source_storage_options
from nsfwscan.config import DecodeConfig, Frozen, ReadConfig, StorageConfig
from training.config import DataConfig
from training.evaluate.config import EvaluateConfig
from training.fit.config import TrainConfig

Decorator = Callable[[Command], Command]
Config = TypeVar("Config", bound=Frozen)


def option(config: type[Frozen], field: str, *names: str, **given: Any) -> Decorator:
    """Return the option of a field.

    Args:
        names: of the option, and of its parameter; unset: the field's.
        given: what click is told in place of what the field says.
    """
    info = config.model_fields[field]
    dashed = field.replace("_", "-")
    settings: dict[str, Any] = {"required": info.is_required(), "default": None, "help": _help(info)}
    kind = _kind(info)
    if kind is bool:
        settings["is_flag"] = True
        names = names or (f"--{dashed}/--no-{dashed}" if info.default else f"--{dashed}", field)
    else:
        settings["type"] = _click_type(kind, info.metadata)
    return click.option(*(names or (f"--{dashed}", field)), **settings | given)


def options(config: type[Frozen], *fields: str) -> list[Decorator]:
    """Return the options of several fields."""
    return [option(config, field) for field in fields]


def _help(info: FieldInfo) -> str:
    said = " ".join((info.description or "").split()).split(". ")[0].rstrip(".")
    is_told = info.is_required() or info.default is None or isinstance(info.default, bool)
    return f"{said}." if is_told else f"{said} (default {info.default})."


def _kind(info: FieldInfo) -> Any:
    """Return the type of a field that is not None."""
    kind: Any = info.annotation
    if get_origin(kind) in (Union, UnionType):
        kind = next(inner for inner in get_args(kind) if inner is not NoneType)
    return kind


def _click_type(kind: Any, limits: Sequence[Any]) -> Any:
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    if kind not in (int, float):
        return str
    bounds: dict[str, Any] = {}
    for limit in limits:
        for name, end, is_open in (("ge", "min", 0), ("gt", "min", 1), ("le", "max", 0), ("lt", "max", 1)):
            if isinstance(limit, getattr(annotated_types, name.capitalize())):
                bounds |= {end: getattr(limit, name), f"{end}_open": bool(is_open)}
    if not bounds:
        return kind
    return click.IntRange(**bounds) if kind is int else click.FloatRange(**bounds)


def _pairs(_: click.Context, parameter: click.Parameter, labels: Sequence[str]) -> dict[str, str] | None:
    """Return `LABEL=CATEGORY` as a mapping; None where there is none."""
    for label in labels:
        if "=" not in label:
            raise click.BadParameter(f"{label!r} is not LABEL=CATEGORY", param=parameter)
    return dict(label.rsplit("=", 1) for label in labels) or None


def _labels(name: str, parameter: str, what: str) -> Decorator:
    said = f"What {what} means; repeatable."
    return click.option(name, parameter, multiple=True, callback=_pairs, metavar="LABEL=CATEGORY", help=said)


def _all(*decorators: Decorator) -> Decorator:
    """Return what adds all of these options to a command, in this order."""

    def add(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return add


_CLUSTER = (
    option(TrainConfig, "address", help="Ray cluster; default: RAY_ADDRESS, or a local Ray."),
    option(TrainConfig, "num_cpus", help="CPUs of a local Ray; default all."),
)

data_options = _all(
    click.argument("data", nargs=-1, required=True),
    option(DataConfig, "format"),
    _labels("--label", "labels", "a folder's or a table's label"),
    *options(DataConfig, "seed", "validation_share", "test_share", "similar_distance", "max_per_class"),
    *options(DataConfig, "retry_unreadable", "cache"),
    option(ReadConfig, "max_bytes", help="Do not read larger objects (default 64 MiB)."),
    option(DecodeConfig, "max_pixels", help="Do not decode larger images (default 100,000,000)."),
    source_storage_options,
)
train_options = _all(
    *options(TrainConfig, "backbone", "out", "epochs", "batch_size", "gradient_accumulation", "learning_rate"),
    *options(TrainConfig, "weight_decay", "warmup_share", "schedule", "layer_decay", "freeze_backbone"),
    *options(TrainConfig, "class_weights", "augment", "precision", "metric"),
    option(TrainConfig, "patience", type=click.IntRange(0)),
    option(TrainConfig, "checkpoint_steps"),
    option(TrainConfig, "seed", "--training-seed", "training_seed"),
    option(TrainConfig, "workers"),
    option(TrainConfig, "use_gpu", "--use-gpu/--no-gpu"),
    *options(TrainConfig, "loader_processes", "max_failures"),
    click.option("--export", "exported", type=click.Choice(["onnx"]), help="Write model.onnx, too: scans take it."),
    *_CLUSTER,
)
evaluate_options = _all(
    *options(EvaluateConfig, "model", "against", "out"),
    _labels("--model-label", "model_labels", "a label of --model"),
    _labels("--against-label", "against_labels", "a label of --against"),
    *options(EvaluateConfig, "write_policy", "dtype", "batch_size", "thumbnails"),
    *_CLUSTER,
)


def _of(config: type[Config], given: dict[str, Any], **over: Any) -> Config:
    """Return the configuration of the options that were given, and of what is said over them. Raises ConfigError."""
    values = {name: given[name] for name in config.model_fields if given.get(name) is not None}
    return config.of({name: value for name, value in (values | over).items() if value is not None})


def storage_config(given: dict[str, Any]) -> StorageConfig:
    """Return how the options reach the stores. Raises ConfigError."""
    return _of(StorageConfig, given)


def data_config(given: dict[str, Any]) -> DataConfig:
    """Return the configuration of `data_options`. Raises ConfigError."""
    limits = {
        section: {name: given[name]}
        for section, name in (("read", "max_bytes"), ("decode", "max_pixels"))
        if given.get(name) is not None
    }
    return _of(DataConfig, given, uris=given["data"], **limits)


def train_config(given: dict[str, Any]) -> TrainConfig:
    """Return the configuration of `train_options`. Raises ConfigError."""
    over = {"seed": given.get("training_seed"), "export_onnx": given.get("exported") == "onnx"}
    config = _of(TrainConfig, {**given, "seed": None, "patience": given.get("patience") or None}, **over)
    return config.model_copy(update={"patience": None}) if given.get("patience") == 0 else config


def evaluate_config(given: dict[str, Any]) -> EvaluateConfig:
    """Return the configuration of `evaluate_options`. Raises ConfigError."""
    if given["against_labels"] and not given["against"]:
        raise click.UsageError("--against-label explains a label of --against, which is not given")
    models = {
        name: {"uri": given[name], "labels": given[f"{name}_labels"] or {}}
        for name in ("model", "against")
        if given[name]
    }
    return _of(EvaluateConfig, given, **models)
