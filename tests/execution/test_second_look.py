"""Where to look closer, until it is known where what scored high begins and ends."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from nsfwscan.execution.second_look import look_closer

Views = dict[int, dict[str, Any]]
SPIKE = 0.4


def view(index: int, bad: range, reason: str = "spread") -> dict[str, Any]:
    """A view of a video of 25 frames a second, in which some frames are bad."""
    return {"index": index, "at_s": index / 25, "reason": reason, "nsfw_score": 0.9 if index in bad else 0.1}


def looked_at(length: int, bad: range, first: range, most: int = 16) -> tuple[Views, list[int]]:
    """Return all views of a video of which every frame looks different, and how many each look added."""
    views, added = {index: view(index, bad) for index in first}, []
    for left in (2, 1, 0):
        asked = look_closer([views[index] for index in sorted(views)], SPIKE, length, most, left)
        if asked is None:
            break
        known = sum(one["reason"] == "spike" for one in views.values())
        new = [index for index in asked["frames"] if index not in views][: asked["views"] - known]
        assert set(asked["frames"][:known]) == {index for index in views if views[index]["reason"] == "spike"}
        views |= {index: view(index, bad, "spike") for index in new}
        added.append(len(new))
    return views, added


def gaps(views: Views) -> list[float]:
    """Return the seconds between the views on both sides of each beginning and each end."""
    places = sorted(views)
    return [
        (b - a) / 25
        for a, b in pairwise(places)
        if (views[a]["nsfw_score"] < SPIKE) != (views[b]["nsfw_score"] < SPIKE)
    ]


def test_a_scene_gets_a_beginning_and_an_end() -> None:
    """A minute within ten, of which the first look saw one frame: both ends are known to three seconds, where they were
    known to a minute and a half, with sixteen frames in three looks."""
    bad, first = range(6250, 7750), range(0, 15000, 2142)
    before = gaps({index: view(index, bad) for index in first})
    views, added = looked_at(15000, bad, first)
    assert before == [pytest.approx(85.7, abs=0.1)] * 2 and added == [8, 4, 4]
    assert len(gaps(views)) == 2 and max(gaps(views)) < 3


def test_it_ends_as_soon_as_both_are_known() -> None:
    """A scene between two views that are near needs no further look after the first, which asks how long it lasts."""
    views, added = looked_at(1000, range(500, 520), range(0, 1000, 20))
    assert max(gaps(views)) <= 1 and len(added) == 1


def test_what_never_ends_is_not_looked_for() -> None:
    """Where all views score high, there is one look around the worst; where none does, there is none."""
    _, added = looked_at(1000, range(1000), range(0, 1000, 200))
    assert added == [16]
    assert look_closer([view(0, range(0)), view(500, range(0))], SPIKE, 1000, 16, 2) is None
    assert look_closer([view(0, range(9)), view(500, range(9), "spike")], SPIKE, 1000, 1, 1) is None
