"""The measurement of replays."""

from __future__ import annotations

from jobs.benchmark.replaying import replay_rates


def test_each_policy_is_replayed() -> None:
    """The made-up run is one that a replay reads, with each policy."""
    rates = replay_rates(400, 1)
    assert rates.keys() == {"preset", "places", "sample"} and min(rates.values()) > 0
