"""Decide which rows a detector wants: its `when`, an SQL condition over what is known by then.

A condition is what a policy's rule may be, over the columns and signals that reading, hashing, decoding, the model and
the detectors before it have filled. A share of the contents that it holds back is looked at all the same: the shadow
sample. A condition that does not bind, or asks for what comes later, raises `PolicyError`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nsfwscan.config import DetectorConfig
from nsfwscan.errors import PolicyError
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import Policy, parse_policy
from nsfwscan.schema import DUPLICATE_COLUMNS, REPORT_SCHEMA, as_schema

_LATE = frozenset(field.name for field in DUPLICATE_COLUMNS)
_ASKED = re.compile(r"'(?:boxes\.|gate\.)?([a-z0-9][a-z0-9_-]*)[.']")
_DIGITS = 12

Mask = NDArray[np.bool_]


class Gate:
    """The condition of one detector, bound.

    Args:
        name: of the detector.
        config: has a `when`.
    """

    def __init__(self, name: str, config: DetectorConfig) -> None:
        self._decider = Decider(policy_of(name, config))
        self.name, self._shadow = name, config.shadow
        self._schema = pa.schema([REPORT_SCHEMA.field(column) for column in self._decider.columns])
        if late := sorted(_LATE & set(self._decider.columns)):
            raise PolicyError(f"detectors.{name}.when asks for {late[0]}, which is known only when all objects are")

    def __call__(self, rows: pa.Table) -> Mask:
        """Return which rows the detector wants; columns that no stage has filled yet are null."""
        found = self._decider.matches(as_schema(rows, self._schema))
        return np.asarray(found[:, 0], np.bool_)

    def in_shadow(self, sha256: list[str | None]) -> Mask:
        """Return which contents are looked at although they are held back: where the first digits of
        MD5(`shadow:<detector>:<sha256>`), as a share of their range, are below `shadow`."""
        limit = int(self._shadow * 16**_DIGITS)
        return np.array([one is not None and self._digits(one) < limit for one in sha256], np.bool_)

    def _digits(self, sha256: str) -> int:
        text = f"shadow:{self.name}:{sha256}".encode()
        return int(hashlib.md5(text, usedforsecurity=False).hexdigest()[:_DIGITS], 16)


def policy_of(name: str, config: DetectorConfig) -> Policy:
    """Return a policy whose only rule is a detector's condition. Raises PolicyError where it does not bind."""
    rule = {"name": "when", "when": config.when, "decision": "review"}
    given = {"name": name, "version": "1", "rules": [rule], "otherwise": {"decision": "allow"}}
    return parse_policy(given, f"detectors.{name}")


def check_gates(detectors: Mapping[str, DetectorConfig]) -> None:
    """Bind the conditions of all detectors. Raises PolicyError where one is wrong, or asks what its own detector or a
    later one says."""
    names = list(detectors)
    for place, (name, config) in enumerate(detectors.items()):
        if config.when is None:
            continue
        Gate(name, config)
        if later := sorted(set(_ASKED.findall(config.when)) & set(names[place:])):
            raise PolicyError(
                f"detectors.{name}.when asks for signals of {later[0]}, which does not come before it: detectors are "
                f"asked in the order {', '.join(names)}"
            )
