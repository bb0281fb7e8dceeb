"""Say which signals of an item ask for a person's attention, and write them in their units.

A detector also says how sure it is that nothing is there (`gore.SFW`, `nudity.FACE_MALE`), a reader how much it read
(`text.chars`), a run what it counted (`boxes.nudity`): none of these asks for anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from nsfwscan.models.labels import category_of, plain
from nsfwscan.models.packs.catalogue import catalogue
from nsfwscan.policy.signals import probabilities_of
from nsfwscan.schema import NSFW_CATEGORIES, SIGNAL_GROUPS

HEARD = 0.01
"""Probability from which a detector is named."""
_OF_NOBODY = frozenset({"adult"})
"""Further labels that ask for nobody: of apparent age, in the policy `factory`."""
_COUNTS = ("blocked", "odd", "profanity")
"""What readers count that asks for attention."""
_ACCOUNTS = ("boxes", "gate", "lines", "vectors")
"""Groups of signals that a run counts."""
_SHARES = frozenset(
    {
        "decode.complete",
        "jpeg.double_quantisation",
        "prefilter.nsfw",
        "screenshot",
        "screenshot.chat",
        "view.max",
        "view.unseen",
    }
)
"""Signals of the file between 0 and 1; the others there are flags and counts."""
_WHOLE = frozenset({("decode.complete", 1.0), ("view.closer", 1.0)})
"""What is so with any ordinary file."""


def concerns_of(signals: Mapping[str, float]) -> dict[str, float]:
    """Return what detectors say as probabilities, without labels that mean that nothing is there."""
    return {name: value for name, value in probabilities_of(signals).items() if _concerns(name.partition(".")[2])}


def shown_of(signals: Mapping[str, float]) -> list[str]:
    """Return the signals that ask for attention, in words: what detectors say, the most probable first, what readers
    count, then what is odd in the file."""
    said = sorted(concerns_of(signals).items(), key=lambda one: -one[1])
    counted = [(name, value) for name, value in signals.items() if name.rpartition(".")[2] in _COUNTS and value >= 1]
    counted = [one for one in counted if one[0].partition(".")[0] not in SIGNAL_GROUPS and one not in said]
    of_file = [(name, value) for name, value in signals.items() if _is_of_file(name, value)]
    return [
        *(f"{name} {value:.0%}" for name, value in said if value >= HEARD),
        *(f"{name} {value:,.0f}" for name, value in counted),
        *(_of_file(name, value) for name, value in of_file),
    ]


def _is_of_file(name: str, value: float) -> bool:
    group = name.partition(".")[0]
    least = HEARD if name in _SHARES else 0.0
    return group in SIGNAL_GROUPS and group not in _ACCOUNTS and value > least and (name, value) not in _WHOLE


def _of_file(name: str, value: float) -> str:
    return f"{name} {value:.0%}" if name in _SHARES else name if value == 1 else f"{name} {value:.3g}"


def _concerns(label: str) -> bool:
    category = category_of(label)
    return plain(label) not in _harmless() and (category is None or category in NSFW_CATEGORIES)


@lru_cache(maxsize=1)
def _harmless() -> frozenset[str]:
    return _OF_NOBODY | {plain(label) for pack in catalogue().values() for label in pack.harmless}
