"""Train a checkpoint: check, prepare, train on Ray, ship.

What would make a training pointless is an error before it starts: data that cannot be learned from, a backbone that
does not load or prepares images in its own way, an OUT that cannot be written, is full, or holds something else. The
same command, submitted again after a kill, goes on from the last checkpoint; after the end it says so. Other settings,
data or labels are a `RunConflict` that names what differs.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any
from uuid import uuid4

import nsfwscan
from nsfwscan.config import StorageConfig
from nsfwscan.errors import RunConflict
from nsfwscan.execution.ray_session import check_reachable
from nsfwscan.models.labels import categories_of
from nsfwscan.storage.store import Store, to_json
from nsfwscan.text import redacted_json
from training.config import DataConfig
from training.data.dataset import Prepared, prepare
from training.fit.backbone import Backbone, find_backbone
from training.fit.checkpoints import check_room
from training.fit.config import TrainConfig
from training.fit.ship import CONFIG, RECORD
from training.fit.worker import TrainJob
from training.places import absolute, open_out

RUN = "state/run.json"
ATTEMPTS = "state/attempts"
_LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "ray", "pillow", "numpy")

Say = Callable[[str], None]
Launch = Callable[[TrainJob, Say], None]
"""Runs `training.fit.worker.work` on every worker; returns when the checkpoint is shipped."""


@dataclass(frozen=True)
class TrainingResult:
    """A finished checkpoint."""

    uri: str
    record: dict[str, Any]
    """Content of `training.json`."""
    is_new: bool
    """False where the same command had finished before."""


def train(
    config: TrainConfig,
    data: DataConfig,
    storage: StorageConfig,
    say: Say,
    *,
    launch: Launch | None = None,
    verbose: bool = False,
) -> TrainingResult:
    """Train a checkpoint, or go on with it.

    Args:
        say: takes lines about the progress.
        launch: unset: on Ray, as the configuration says.
        verbose: show what Ray says.

    Raises:
        NsfwscanError: see the module; finished work is kept.
    """
    from training.fit.ray import on_ray

    out, backbone_uri = Store.at(config.out, storage).uri, absolute(config.backbone)
    config = config.model_copy(update={"out": out, "backbone": backbone_uri})
    cache = data.cache and os.path.abspath(data.cache)
    data = data.model_copy(update={"uris": tuple(map(absolute, data.uris)), "cache": cache})
    if launch is None:
        check_reachable(config.cluster)
        launch = partial(on_ray, verbose=verbose)
    store = open_out(config.out, storage)
    if store.exists(CONFIG) and not store.exists(RUN):
        raise RunConflict(f"{store.uri} holds a checkpoint that was not trained there: choose another --out")
    backbone = find_backbone(config.backbone, storage)
    check_room(store, _bytes_needed(backbone, config))
    prepared = prepare(data, storage)
    categories_of([str(label) for label in prepared.labels], {}, ", ".join(data.uris))
    job = _job(config, data, storage, store, backbone, prepared)
    finished = _begin(store, job)
    if finished is not None:
        say(f"{store.uri} is finished already; nothing was done")
        return TrainingResult(store.uri, finished, is_new=False)
    for line in [*prepared.notes, _about(prepared)]:
        say(line)
    launch(job, say)
    record = store.read_json(RECORD)
    if record is None:
        raise RunConflict(f"{store.uri}: the workers ended, but there is no {RECORD}: was it deleted meanwhile?")
    return TrainingResult(store.uri, record, is_new=True)


def _bytes_needed(backbone: Backbone, config: TrainConfig) -> int:
    """Return the bytes for the newest checkpoint, the best, the one being written, and the shipped: fp32 weights, and
    two moments of Adam (Kingma & Ba 2015) for each that is trained."""
    weights = 4 * sum(_parameters(path) for path in backbone.folder.glob("model*.safetensors"))
    moments = 0 if config.freeze_backbone else 2 * weights
    return 3 * (weights + moments) + 2 * weights


def _parameters(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(str(path), framework="np") as file:
        return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118  # no dict


def _job(
    config: TrainConfig, data: DataConfig, storage: StorageConfig, store: Store, backbone: Backbone, prepared: Prepared
) -> TrainJob:
    now = datetime.now(UTC)
    record = {
        "settings": redacted_json(config.model_dump(mode="json", exclude={"address"}) | {"learning_rate": config.rate}),
        "data": {
            "uris": redacted_json(list(data.uris)),
            "fingerprint": prepared.fingerprint,
            "counts": prepared.counts,
            "unreadable": len(prepared.unreadable),
            "settings": redacted_json(data.model_dump(mode="json", exclude={"uris", "cache"})),
        },
        "backbone": {
            "uri": redacted_json(config.backbone),
            "digest": backbone.digest,
            "preprocessing": str(backbone.geometry),
        },
        "versions": {"nsfwscan": nsfwscan.__version__, "python": platform.python_version()}
        | {name: version(name) for name in _LIBRARIES},
    }
    return TrainJob(
        config=config,
        storage=store.storage,
        prepare=partial(prepare, data, storage),
        fingerprint=prepared.fingerprint,
        backbone_digest=backbone.digest,
        attempt=f"{now:%Y%m%dT%H%M%SZ}-{uuid4().hex[:8]}",
        record=record,
    )


def _begin(store: Store, job: TrainJob) -> dict[str, Any] | None:
    """Write down what is begun, or compare it with what was; return the record of a finished training."""
    deciding = job.config.deciding() | {
        "backbone": job.backbone_digest,
        "data": job.fingerprint,
        "labels": list(job.record["data"]["counts"]["train"]),
    }
    begun = store.read_json(RUN)
    if begun is None:
        begun = {"deciding": deciding, "begun_at": datetime.now(UTC).isoformat(timespec="seconds")}
        store.write(RUN, to_json(begun))
    differing = [
        f"{name}: {_shown(begun['deciding'].get(name))} then, {_shown(now)} now"
        for name, now in deciding.items()
        if begun["deciding"].get(name) != now
    ]
    if differing:
        raise RunConflict(
            f"{store.uri} was begun with other settings and can only go on with the same; choose another --out, or "
            "delete it:\n  " + "\n  ".join(differing)
        )
    finished = store.read_json(RECORD)
    if finished is not None and store.exists(CONFIG):
        return finished
    attempt = {"host": socket.gethostname(), "began_at": datetime.now(UTC).isoformat(timespec="seconds")}
    store.write(f"{ATTEMPTS}/{job.attempt}.json", to_json(attempt | {"versions": job.record["versions"]}))
    job.record.update(deciding=deciding, begun_at=begun["begun_at"], attempts=len(store.names(ATTEMPTS)))
    return None


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _about(prepared: Prepared) -> str:
    sides = ", ".join(f"{sum(counts.values()):,} for {side}" for side, counts in prepared.counts.items())
    left_out = f"; {len(prepared.unreadable):,} unreadable are left out" if prepared.unreadable else ""
    return f"images: {sides}{left_out}"


def describe(result: TrainingResult) -> str:
    """Return what a person reads at the end."""
    test = result.record["metrics"]["test"]
    lines = [
        f"test split: {test['images']:,} images, accuracy {test['accuracy']:.4f}, macro-F1 {test['macro_f1']:.4f}",
        *(
            f"  {label}: precision {found['precision']:.4f}, recall {found['recall']:.4f}, {found['images']:,} images"
            for label, found in test["classes"].items()
        ),
        f"checkpoint {result.record['digest'][:16]} in {result.uri}",
        f"nsfwscan scan SOURCE --out STORE --model {result.uri}",
    ]
    return "\n".join(lines)
