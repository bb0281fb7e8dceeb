"""Report rows as the responses of other services, for programs that read those.

Each function turns a row (a dict) into the service's response about the image, as JSON values. A category that no model
knows (violence, say) is unknown, never "very unlikely". If a service publishes no thresholds, the steps are
nsfwscan's own, and this module defines them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nsfwscan.errors import Status
from nsfwscan.schema import Category, score_column

Row = Mapping[str, Any]

_EXPLICIT = (Category.PORN, Category.HENTAI, Category.NSFW)
"""The `nsfw` of a binary model does not tell how explicit an image is: it counts as explicit."""

MIN_CONFIDENCE = 50.0
"""Percent; labels below it are left out, as Rekognition does by default."""

# https://docs.aws.amazon.com/rekognition/latest/dg/moderation-api.html, taxonomy of version 7.0. Its third level names
# visible body parts; no category tells these.
_SUGGESTIVE = "Non-Explicit Nudity of Intimate parts and Kissing"
_LABELS: tuple[tuple[str, str, int, tuple[Category, ...]], ...] = (
    ("Explicit", "", 1, _EXPLICIT),
    ("Explicit Nudity", "Explicit", 2, (Category.PORN, Category.HENTAI)),
    (_SUGGESTIVE, "", 1, (Category.SEXY,)),
    ("Non-Explicit Nudity", _SUGGESTIVE, 2, (Category.SEXY,)),
)
"""Name, parent, level, and the categories whose probabilities add up to the label's confidence."""
_DRAWN = (Category.DRAWINGS, Category.HENTAI)
_REKOGNITION_ERRORS = {
    Status.NOT_FOUND: "InvalidS3ObjectException",
    Status.DENIED: "AccessDeniedException",
    Status.TOO_LARGE: "ImageTooLargeException",
    Status.UNSUPPORTED: "InvalidImageFormatException",
    Status.DECODE_ERROR: "InvalidImageFormatException",
    Status.CRASHED: "InvalidImageFormatException",
    Status.FETCH_ERROR: "InternalServerError",
    Status.TIMEOUT: "InternalServerError",
}
"""The errors of DetectModerationLabels."""

_SETTLED = "it was settled before any model saw it"
"""Message for rows that a hash bank or a filter settled; these formats cannot name which."""
_LIKELIHOODS = ("VERY_UNLIKELY", "UNLIKELY", "POSSIBLE", "LIKELY", "VERY_LIKELY")
"""Each covers a fifth of the probabilities; Google publishes no steps."""
_SEVERE, _MEDIUM, _LOW = (0.8, 6), (0.5, 4), (0.5, 2)
"""(Least probability, Azure's severity); Microsoft publishes no steps."""


def rekognition(row: Row) -> dict[str, Any]:
    """Return a line of a bulk analysis's output manifest: `source-ref`, `detect-moderation-labels`."""
    labels = [
        {"Confidence": confidence, "Name": name, "ParentName": parent, "TaxonomyLevel": level}
        for name, parent, level, categories in _LABELS
        if (confidence := _percent(row, categories)) >= MIN_CONFIDENCE
    ]
    drawn = _percent(row, _DRAWN)
    return {
        "source-ref": row["uri"],
        "detect-moderation-labels": {
            "ModerationLabels": labels,
            "ModerationModelVersion": row["model"],
            "ContentTypes": [{"Confidence": drawn, "Name": "Illustrated"}] if drawn >= MIN_CONFIDENCE else [],
        },
    }


def rekognition_error(row: Row, line: int) -> dict[str, Any]:
    """Return an entry for the `errors` of a bulk analysis's summary.

    Args:
        line: number of the object's row in the report, from 1.
    """
    code = _REKOGNITION_ERRORS.get(Status(row["status"]), "InternalServerError")
    return {"line-number": line, "source-ref": row["uri"], "code": code, "message": row["error"] or _SETTLED}


def safesearch(row: Row) -> dict[str, Any]:
    """Return a response of Vision's SafeSearch with the URI as its context; an `error` if the row has no score."""
    context = {"context": {"uri": row["uri"]}}
    if row["nsfw_score"] is None:
        return {"error": {"message": _why(row)}, **context}
    unknown = dict.fromkeys(("spoof", "medical", "violence"), "UNKNOWN")
    adult, racy = _likelihood(_sum(row, _EXPLICIT)), _likelihood(row["nsfw_score"])
    return {"safeSearchAnnotation": {"adult": adult, "racy": racy, **unknown}, **context}


def azure(row: Row) -> dict[str, Any]:
    """Return a result of Content Safety's image analysis in four severities (0, 2, 4, 6), with the URI beside it.

    A row without a score gives an `error`. Categories that no model knows are left out.
    """
    if row["nsfw_score"] is None:
        code = "not_scored" if row["status"] == Status.OK else row["status"]
        return {"uri": row["uri"], "error": {"code": code, "message": row["error"] or _SETTLED}}
    explicit, suggestive = _sum(row, _EXPLICIT), row["nsfw_score"]
    steps = ((explicit, _SEVERE), (explicit, _MEDIUM), (suggestive, _LOW))
    severity = next((severity for score, (least, severity) in steps if score >= least), 0)
    return {"uri": row["uri"], "categoriesAnalysis": [{"category": "Sexual", "severity": severity}]}


def _sum(row: Row, categories: tuple[Category, ...]) -> float:
    """Return the probability of any of the categories; a category that the model does not know counts as 0."""
    return min(1.0, sum(row[score_column(category)] or 0.0 for category in categories))


def _percent(row: Row, categories: tuple[Category, ...]) -> float:
    return round(100 * _sum(row, categories), 4)


def _likelihood(probability: float) -> str:
    return _LIKELIHOODS[min(int(probability * len(_LIKELIHOODS)), len(_LIKELIHOODS) - 1)]


def _why(row: Row) -> str:
    return f"{row['error'] or _SETTLED} ({row['status']})"
