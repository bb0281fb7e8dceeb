"""What filters, copies and further models did, in sentences."""

from __future__ import annotations

from typing import Any

from nsfwscan.reports.effects_text import describe_effects
from nsfwscan.runs.summary import Summary
from tests.runs.rows import as_record, record_of

NOTHING = {"copies": 0, "contents": 0, "clusters": 0, "clustered": 0, "looked_for_all": True, "reused": 0}


def said(**changed: Any) -> dict[str, str]:
    """Return what is said of a record, by subject."""
    return dict(describe_effects(as_record(record_of("made", **changed))))


def test_nothing_to_say() -> None:
    """Without copies, filters and further models there is nothing."""
    assert said() == {}


def test_people_and_opens() -> None:
    """Once there are verdicts: what is settled without a person, what was decided unopened, and what will be opened."""
    known = {"contents": 9, "parts": 1, "sha256": "0" * 64, "new": []}
    summary = {**Summary(rows=1000).as_dict(), "queue": {"adult": 30, "legal": 10}, "items": None}
    assert said(verdicts={**known, "given": 100, "opened": 20}, summary=summary) == {
        "people": "960 of 1,000 objects settled without one, 40 in queues",
        "opens": "100 verdicts, 80% (71% to 87%) unopened; at most 8.0 (5.1 to 11.7) opens expected of a thousand objects",
    }
    told = said(
        verdicts={**known, "given": 100, "opened": 20, "opens": 31, "open_hours": 0.5},
        summary={**summary, "items": 25},
    )
    assert told["opens"].endswith("; 5.0 (3.2 to 7.3) opens expected of a thousand objects")
    assert told["exposure"] == "31 originals opened in 30 min 00 s of review, as the pages counted"
    assert set(said(verdicts=known, summary=summary)) == {"people"}


def test_copies_and_clusters() -> None:
    """How many objects are the same or alike, what the model was spared, and whether all were compared."""
    found = {**NOTHING, "copies": 1200, "contents": 3, "reused": 1100, "clusters": 2, "clustered": 9}
    assert said(duplicates=found) == {
        "copies": "1,200 objects are copies of 3 others; the model was spared 1,100 of them",
        "alike": "9 objects in 2 clusters of near-duplicates",
    }
    one = {**found, "copies": 1, "contents": 1, "reused": 0, "clusters": 1}
    assert list(said(duplicates=one).values()) == [
        "1 object is a copy of 1 other",
        "9 objects in 1 cluster of near-duplicates",
    ]
    assert "only flagged ones" in said(duplicates={**found, "looked_for_all": False})["alike"]


def test_filters_and_models() -> None:
    """What was settled, what that saved, how often it was wrong and how sure that is; and what each model takes."""
    cascade = {
        "settled": 900,
        "settled_by": {"prefilter": 900},
        "forwarded": 100,
        "audit_sample": 50,
        "misses": 1,
        "miss_rate": 0.02,
        "miss_rate_interval": [0.0005, 0.106],
        "missed": [0.45, 95.4],
        "confidence": 0.95,
        "seconds_saved": 400.0,
    }
    light, model = {"images": 1000, "seconds_each": 0.024, "seconds": 24.0}, {"images": 0, "seconds": 0.0}
    times = {"prefilter": light, "classify": {**model, "seconds_each": None}}
    larger = {"enabled": True, "prefilter": {"uri": "/light"}}
    config = {**record_of("made")["config"], "cascade": larger}
    on: dict[str, Any] = {"config": config, "model_times": times}
    found = said(cascade=cascade, **on)
    assert found["filters"] == (
        "settled 900 contents, left 100 to the model, which saved 6 min 40 s of the model and took 24 s of the prefilter"
    )
    assert "1 of 50 settled images" in found["missed"] and "0.05% to 10.60%" in found["missed"]
    assert found["models"] == "prefilter 24.0 ms an image; classify 0 ms an image"
    unseen = {**cascade, "audit_sample": 0, "miss_rate": None, "miss_rate_interval": None, "missed": None}
    unseen["seconds_saved"] = None
    assert "unknown" in said(cascade=unseen, **on)["missed"]
    assert "missed" not in said(cascade={**unseen, "settled": 0}, **on), (
        "there is nothing that anybody could have missed"
    )
