"""A detector's `when`: bound before a scan begins, over what is known by then."""

from __future__ import annotations

import pyarrow as pa
import pytest

from nsfwscan.config import DetectorConfig
from nsfwscan.errors import PolicyError
from nsfwscan.policy.gate import Gate, check_gates
from nsfwscan.policy.signals import signals_array


def config(when: str | None, shadow: float = 0.01) -> DetectorConfig:
    return DetectorConfig(when=when, shadow=shadow)


def test_a_gate_lets_rows_through() -> None:
    """Columns and signals that are there; what is not filled yet is null, and so the condition is not true."""
    rows = pa.table(
        {
            "nsfw_score": pa.array([0.1, 0.9, None], pa.float32()),
            "signals": signals_array([{"a.b": 1}, {}, {"a.b": 0.5}]),
        }
    )
    assert Gate("x", config("nsfw_score > 0.5"))(rows).tolist() == [False, True, False]
    assert Gate("x", config("signals['a.b'] > 0.7 or width > 3"))(rows).tolist() == [True, False, False]


def test_the_shadow_sample_is_drawn_by_content() -> None:
    """About its share, the same contents again, others for another detector; none without a content."""
    contents = [f"{number:064x}" for number in range(2000)]
    one, other = (Gate(name, config("true", 0.1)).in_shadow([*contents, None]) for name in "ab")
    assert 150 < one.sum() < 250 and not one[-1]
    assert 0 < (one & other).sum() < one.sum()
    assert not Gate("a", config("true", 0)).in_shadow(contents).any()
    assert Gate("a", config("true", 1)).in_shadow(contents).all()


@pytest.mark.parametrize(
    ("detectors", "said"),
    [
        ({"a": "nsfwscore > 1"}, r"detectors\.a: rule 'when': .*nsfwscore"),
        ({"a": "random() > 0.5"}, "must follow from the row alone"),
        ({"a": "cluster_size > 1"}, r"detectors\.a\.when asks for cluster_size, which is known only when all objects"),
        ({"a": "truth = 'porn'"}, "truth"),
        ({"a": "decision = 'allow'"}, "decision"),
        ({"a": "signals['a.x'] > 1"}, r"asks for signals of a, which does not come before it"),
        ({"a": "signals['boxes.b'] > 1", "b": None}, "asks for signals of b, .*in the order a, b"),
    ],
)
def test_a_wrong_condition_is_refused(detectors: dict[str, str | None], said: str) -> None:
    """Each is said before anything is read."""
    with pytest.raises(PolicyError, match=said):
        check_gates({name: config(when) for name, when in detectors.items()})


def test_a_later_detector_may_ask_an_earlier_one() -> None:
    """By its signals, its boxes or its gate; without a `when` there is nothing to check."""
    conditions = {"a": None, "b": "signals['a.x'] > 1 and signals['boxes.a'] > 0", "c": "signals['gate.b'] = 1"}
    check_gates({name: config(when) for name, when in conditions.items()})
