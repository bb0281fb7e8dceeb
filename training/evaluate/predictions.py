"""Write the CSV lists of an evaluation: what each checkpoint says of each image, and the false positives."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsfwscan.schema import Category, score_column
from nsfwscan.text import write_csv
from training.evaluate.audit import FalsePositive
from training.evaluate.evaluation import EvaluatedModel, titles
from training.evaluate.figures import right_class, right_side
from training.evaluate.held_out import Predictions

_SCORES = tuple(map(score_column, Category))
PREDICTION_COLUMNS = (
    *("model", "split", "uri", "sha256", "truth", "label", "right", "right_side", "only_right"),
    *("confidence", "nsfw_score", *_SCORES, "decision", "status", "error"),
)
"""`right`: the label is the truth, empty where the checkpoint does not know the classes; `right_side`: both are NSFW,
or both are safe; `only_right`: this checkpoint is right and the other one is wrong."""
FALSE_POSITIVE_COLUMNS = (
    *("model", "rank", "uri", "sha256", "label", "confidence", "nsfw_score", *_SCORES),
    *("decision", "format", "width", "height", "image"),
)
_YES_NO = {True: "yes", False: "no"}


def predictions_csv(evaluated: Sequence[EvaluatedModel], splits: Sequence[str]) -> bytes:
    """Return a CSV with a line for each image of each split and each checkpoint."""
    return _csv(PREDICTION_COLUMNS, (row for split in splits for row in _predictions(evaluated, split)))


def false_positive_csv(found: Iterable[FalsePositive]) -> bytes:
    """Return a CSV with a line for each false positive, by checkpoint and rank."""
    facts = ({**fp.row, "model": fp.model, "rank": fp.rank, "uri": fp.uri, "image": fp.image} for fp in found)
    return _csv(FALSE_POSITIVE_COLUMNS, (_cells(row, FALSE_POSITIVE_COLUMNS) for row in facts))


def _predictions(evaluated: Sequence[EvaluatedModel], split: str) -> Iterator[list[Any]]:
    by_class = all(one.knows_classes for one in evaluated)
    right = [(right_class if by_class else right_side)(one.predictions[split]) for one in evaluated]
    for place, (one, title) in enumerate(zip(evaluated, titles(evaluated), strict=True)):
        predictions = one.predictions[split]
        blank = [""] * len(predictions.rows)
        of_class = map(_YES_NO.get, right_class(predictions).tolist()) if one.knows_classes else blank
        sides = right_side(predictions).tolist()
        alone = (
            _alone(right[place], right[1 - place], evaluated[1 - place].predictions[split])
            if len(evaluated) == 2
            else blank
        )
        for uri, sha256, truth, row, of, side, only in zip(
            predictions.uris,
            predictions.sha256,
            predictions.truth,
            predictions.rows,
            of_class,
            sides,
            alone,
            strict=True,
        ):
            said = ("", "", "") if row["nsfw_score"] is None else (of, _YES_NO[side], only)
            rest = _cells(row, PREDICTION_COLUMNS[9:])
            yield [title, split, uri, sha256, str(truth), row["label"] or "", *said, *rest]


def _alone(right: NDArray[np.bool_], other_right: NDArray[np.bool_], other: Predictions) -> list[str]:
    """Say for each image whether only the one is right; nothing where the other gave no score."""
    pairs = zip((right & ~other_right).tolist(), other.scored.tolist(), strict=True)
    return [_YES_NO[only] if scored else "" for only, scored in pairs]


def _cells(row: dict[str, Any], columns: Sequence[str]) -> list[Any]:
    return ["" if row[name] is None else row[name] for name in columns]


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    with tempfile.TemporaryDirectory(prefix="nsfwscan-") as folder:
        path = Path(folder) / "list.csv"
        write_csv(path, columns, rows)
        return path.read_bytes()
