"""Scores in the words of other services: each word where it belongs, and none about what nobody looked at."""

from __future__ import annotations

from typing import Any

import pytest

from nsfwscan.errors import Status
from nsfwscan.reports.vendor_formats import azure, rekognition, rekognition_error, safesearch
from nsfwscan.schema import NSFW_CATEGORIES, Category, score_column


def row(**scores: float) -> dict[str, Any]:
    """A scored row; categories that are not named are unknown to the model."""
    known = {score_column(category): scores.get(category) for category in Category}
    nsfw = sum(scores.get(category, 0.0) for category in NSFW_CATEGORIES)
    return {"uri": "s3://b/a.jpg", "status": "ok", "error": None, "model": "vit@0", "nsfw_score": nsfw, **known}


def failed(status: str) -> dict[str, Any]:
    return {**row(), "status": status, "error": "why", "nsfw_score": None, "model": None}


def labels(**scores: float) -> list[tuple[str, str, int]]:
    found = rekognition(row(**scores))["detect-moderation-labels"]["ModerationLabels"]
    return [(label["Name"], label["ParentName"], label["TaxonomyLevel"]) for label in found]


EXPLICIT, NUDITY = ("Explicit", "", 1), ("Explicit Nudity", "Explicit", 2)
_SUGGESTIVE = "Non-Explicit Nudity of Intimate parts and Kissing"


def test_rekognition_names_levels_and_parents() -> None:
    """A label comes with its parent; what is below half is left out; a binary model says no more than the first level."""
    assert labels(porn=0.9, neutral=0.1) == [EXPLICIT, NUDITY]
    assert labels(porn=0.3, hentai=0.3, neutral=0.4) == [EXPLICIT, NUDITY]
    assert labels(sexy=0.6, neutral=0.4) == [(_SUGGESTIVE, "", 1), ("Non-Explicit Nudity", _SUGGESTIVE, 2)]
    assert labels(nsfw=0.9, neutral=0.1) == [EXPLICIT]
    assert labels(porn=0.3, sexy=0.3, neutral=0.4) == labels(neutral=1.0) == []


def test_rekognition_s_answer_is_whole() -> None:
    """Confidence in percent, the model by its own name, drawings as a type of content, and errors by their names."""
    answer = rekognition(row(hentai=0.75, drawings=0.25))
    assert answer["source-ref"] == "s3://b/a.jpg"
    found = answer["detect-moderation-labels"]
    assert found["ModerationLabels"][0]["Confidence"] == 75.0 and found["ModerationModelVersion"] == "vit@0"
    assert found["ContentTypes"] == [{"Confidence": 100.0, "Name": "Illustrated"}]
    assert rekognition(row(porn=1.0))["detect-moderation-labels"]["ContentTypes"] == []
    for status in set(Status) - {Status.OK}:
        error = rekognition_error(failed(status), 7)
        assert (error["line-number"], error["source-ref"], error["message"]) == (7, "s3://b/a.jpg", "why")
        assert error["code"].endswith(("Exception", "Error"))


@pytest.mark.parametrize(
    ("probability", "word"),
    [(0.0, "VERY_UNLIKELY"), (0.25, "UNLIKELY"), (0.5, "POSSIBLE"), (0.75, "LIKELY"), (0.8, "VERY_LIKELY"), (1.0, "VERY_LIKELY")],
)  # fmt: skip
def test_safesearch_in_five_steps(probability: float, word: str) -> None:
    """Explicit images are adult and racy, suggestive ones racy alone; the rest is unknown."""
    answer = safesearch(row(porn=probability, neutral=1 - probability))
    unknown = {"spoof": "UNKNOWN", "medical": "UNKNOWN", "violence": "UNKNOWN"}
    assert answer["safeSearchAnnotation"] == {"adult": word, "racy": word, **unknown}
    racy = safesearch(row(sexy=probability, neutral=1 - probability))["safeSearchAnnotation"]
    assert (racy["adult"], racy["racy"]) == ("VERY_UNLIKELY", word)
    assert safesearch(failed("denied")) == {
        "error": {"message": "why (denied)"}, "context": {"uri": "s3://b/a.jpg"}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("scores", "severity"),
    [({"porn": 0.85}, 6), ({"porn": 0.4, "hentai": 0.3}, 4), ({"sexy": 0.9}, 2), ({"porn": 0.3, "sexy": 0.3}, 2), ({"neutral": 0.9}, 0)],
)  # fmt: skip
def test_azure_in_four_severities(scores: dict[str, float], severity: int) -> None:
    """The more explicit the more severe; categories that nobody looked at are left out."""
    assert azure(row(**scores))["categoriesAnalysis"] == [{"category": "Sexual", "severity": severity}]
    assert azure(failed("timeout")) == {"uri": "s3://b/a.jpg", "error": {"code": "timeout", "message": "why"}}


def test_what_was_settled_before_the_model_has_no_score() -> None:
    """A row that is `ok` and was never scored is an answer without one, and does not tell which list it is in."""
    known = {**row(), "nsfw_score": None, "model": None, "match_kind": "illegal", "match_bank": "csam"}
    answers = [rekognition_error(known, 3), safesearch(known), azure(known)]
    assert [answers[0]["code"], answers[2]["error"]["code"]] == ["InternalServerError", "not_scored"]
    for answer in answers:
        assert "settled before any model saw it" in str(answer)
        assert "csam" not in str(answer) and "illegal" not in str(answer)
