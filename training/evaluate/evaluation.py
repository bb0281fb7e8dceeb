"""Content of `evaluation.json`: every figure, the data and the checkpoints behind it, without secrets."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import nsfwscan
from nsfwscan.models.spec import ModelSpec
from nsfwscan.text import redacted_json
from training.config import DataConfig
from training.data.dataset import Prepared
from training.evaluate.comparison import paired
from training.evaluate.figures import covers, figures, right_class, right_side
from training.evaluate.held_out import Predictions

if TYPE_CHECKING:
    from nsfwscan.workflows.scan import ScanResult

_EXAMPLES = 20
"""Images without a score that are named; `predictions.csv` has them all."""


@dataclass(frozen=True)
class EvaluatedModel:
    """A checkpoint, and what it says of the held-out images.

    Attributes:
        predictions: by split.
        copies: where the scan saved a copy of each of its confirmed false positives, by the image's URI; None where it
            saved none.
        training: the content of `training.json` beside the checkpoint, where there is one.
    """

    spec: ModelSpec
    result: ScanResult
    predictions: dict[str, Predictions]
    copies: dict[str, str | None]
    training: dict[str, Any] | None

    @property
    def knows_classes(self) -> bool:
        """True where the checkpoint knows all categories of the images."""
        return covers(self.spec.known, self.predictions["test"])


def evaluation(evaluated: Sequence[EvaluatedModel], prepared: Prepared, data: DataConfig) -> dict[str, Any]:
    """Return the record: `data`, `models`, and the `comparison` of two of them (None for one)."""
    record = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "nsfwscan": nsfwscan.__version__,
        "python": platform.python_version(),
        "data": {
            "uris": list(data.uris),
            "fingerprint": prepared.fingerprint,
            "labels": [str(label) for label in prepared.labels],
            "counts": prepared.counts,
            "unreadable": len(prepared.unreadable),
            "notes": list(prepared.notes),
            "settings": data.model_dump(mode="json", exclude={"uris", "cache"}),
        },
        "models": [
            _model(one, title, prepared.fingerprint) for one, title in zip(evaluated, titles(evaluated), strict=True)
        ],
        "comparison": _comparison(*evaluated) if len(evaluated) == 2 else None,
    }
    found: dict[str, Any] = redacted_json(record)
    return found


def titles(evaluated: Sequence[EvaluatedModel]) -> list[str]:
    """Return the name of each checkpoint, with its digest where names are the same."""
    names = [one.spec.name for one in evaluated]
    return names if len(set(names)) == len(names) else [f"{j.spec.name}@{j.spec.digest[:8]}" for j in evaluated]


def shared_task(models: Sequence[dict[str, Any]]) -> str:
    """Return the task that all checkpoints in `evaluation.json` can be measured by: `classes`, or else `nsfw`."""
    return "classes" if all(model["classes"] for model in models) else "nsfw"


def _model(one: EvaluatedModel, title: str, fingerprint: str) -> dict[str, Any]:
    spec, run = one.spec, one.result.record
    return {
        "title": title,
        "uri": spec.uri,
        "identity": spec.identity,
        "digest": spec.digest,
        "labels": dict(zip(spec.labels, map(str, spec.categories), strict=True)),
        "preprocessing": str(spec.geometry),
        "temperature": spec.temperature,
        "policy": run.policy.identity,
        "held_out": _held_out(one, fingerprint),
        "scan": {"run_id": one.result.run_id, "uri": one.result.uri},
        "unscored": {side: _unscored(predictions) for side, predictions in one.predictions.items()},
        **figures(one.predictions, spec.known),
    }


def _held_out(one: EvaluatedModel, fingerprint: str) -> dict[str, Any]:
    """Say whether the checkpoint is known not to have learned from the test images, and why."""
    record = one.training
    if record is None:
        return _doubt("there is no training.json beside it, so what it learned from is not known")
    if record.get("digest") != one.spec.digest:
        return _doubt("the training.json beside it is that of other weights")
    learned_from = record.get("data", {}).get("fingerprint")
    if learned_from != fingerprint:
        return _doubt("it was trained on other images, or with another division of these")
    return {"is_known": True, "why": "its training.json names the same images and the same division of them"}


def _doubt(why: str) -> dict[str, Any]:
    return {"is_known": False, "why": why}


def _unscored(predictions: Predictions) -> dict[str, Any]:
    bad = [
        {"uri": uri, "label": str(truth), "status": row["status"], "error": row["error"]}
        for uri, truth, row in zip(predictions.uris, predictions.truth, predictions.rows, strict=True)
        if row["nsfw_score"] is None
    ]
    return {
        "images": len(predictions.rows),
        "count": len(bad),
        "by_status": dict(Counter(str(row["status"]) for row in bad).most_common()),
        "examples": bad[:_EXAMPLES],
    }


def _comparison(first: EvaluatedModel, second: EvaluatedModel) -> dict[str, Any]:
    """Compare on the test images that both score, by class where both know the classes, and by side."""
    one, other = first.predictions["test"], second.predictions["test"]
    both = one.scored & other.scored
    by_class = first.knows_classes and second.knows_classes
    return {
        "classes": paired(right_class(one)[both], right_class(other)[both]) if by_class else None,
        "nsfw": paired(right_side(one)[both], right_side(other)[both]),
    }
