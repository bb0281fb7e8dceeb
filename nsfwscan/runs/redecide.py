"""Decide the rows of a committed report again, by the policy in `run.json`, and compare.

A decision is a function of the other columns of its row (`policy/decide.py`), also of a row that was carried over: this
run decided it anew. So a row whose decision, rule or queue was edited is found, even if all digests were written anew.
What an edit of scores or matches, together with the decision that follows from them, looks like cannot be told from
here; the chain, an anchor and a signature tell it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from importlib import metadata
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

import nsfwscan
from nsfwscan.errors import PolicyError
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import parse_policy
from nsfwscan.runs.calibrations import calibrated
from nsfwscan.runs.false_positives import is_false_positive
from nsfwscan.runs.finding import Finding, damaged, tampered
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.schema import CALIBRATED, DECISION_COLUMNS

_DERIVED = [*(field.name for field in DECISION_COLUMNS), "false_positive", "run_id", CALIBRATED.name]
"""Columns that follow from the others, the policy, the calibration and the run."""
_ROUNDING = 1e-6
_BESIDE = ["uri", "truth", "label", "nsfw_score", "model"]


class Redecision:
    """Recorded policy of a run, ready to decide its rows again.

    Attributes:
        columns: what `findings` needs of the rows, in the order of the report.
        problem: a finding on the policy itself; None where it is as it was.
    """

    def __init__(self, record: RunRecord) -> None:
        self._record = record
        self._decider: Decider | None = None
        self.problem: Finding | None = None
        try:
            policy = parse_policy(record.policy.content(), "the policy of run.json")
            self._decider = Decider(policy)
        except PolicyError as error:
            self.problem = damaged(f"the rows cannot be decided again: {error}")
            return
        if policy.identity != record.policy.identity:
            self.problem = tampered(f"the policy in run.json is {policy.identity}, not {record.policy.identity}")

    @property
    def decider(self) -> Decider | None:
        """Return what decides by the recorded policy; None where that does not bind."""
        return self._decider

    @property
    def columns(self) -> list[str]:
        """Columns of the report that are compared, or decided by."""
        asked = self._decider.columns if self._decider is not None else []
        return list(dict.fromkeys([*_BESIDE, *asked, *_DERIVED]))

    def findings(self, rows: pa.Table, where: str) -> Iterator[Finding]:
        """Yield whether rows have other decisions than the policy gives them.

        Args:
            rows: of the report, with at least `columns`.
            where: what the rows are, for the text.
        """
        if self._decider is None or not rows.num_rows:
            return
        try:
            decided = self._decider(rows)
        except PolicyError as error:
            yield damaged(f"{where}: the rows cannot be decided again: {error}")
            return
        run_id = pa.repeat(pa.scalar(self._record.run_id, pa.string()), rows.num_rows)
        derived = decided.append_column("false_positive", is_false_positive(rows)).append_column("run_id", run_id)
        derived = derived.append_column(CALIBRATED, calibrated(rows, self._record.calibration)[CALIBRATED.name])
        unlike = {name: _unlike(rows[name], derived[name]) for name in _DERIVED}
        wrong = reduce(pc.or_, unlike.values())
        if not (count := pc.sum(wrong).as_py()):
            return
        at = pc.index(wrong, True).as_py()
        differs = [name for name in _DERIVED if unlike[name][at].as_py()]
        said = ", ".join(f"{name} {rows[name][at].as_py()!r}, not {derived[name][at].as_py()!r}" for name in differs)
        text = f"{where}: {count:,} rows are not decided as the policy decides them, e.g. {rows['uri'][at]}: {said}"
        other = self._other_software()
        yield tampered(text) if other is None else damaged(f"{text}; {other}")

    def _other_software(self) -> str | None:
        """Return which software decided the rows, where it is not this one and so may have decided otherwise."""
        here = {"nsfwscan": nsfwscan.__version__, "duckdb": metadata.version("duckdb")}
        then = {"nsfwscan": self._record.nsfwscan, "duckdb": self._record.libraries.get("duckdb")}
        if here == then:
            return None
        names = " and ".join(f"{name} {version}" for name, version in then.items())
        return f"the run was decided by {names}: verify it with these"


def _unlike(column: pa.ChunkedArray, other: Any) -> pa.Array:
    """Return where two columns differ; a null equals a null."""
    other = pa.chunked_array([other]) if isinstance(other, pa.Array) else other
    equal = pc.equal(column, other)
    if pa.types.is_floating(column.type):  # another processor may round the last digit otherwise
        equal = pc.less(pc.abs(pc.subtract(column, other)), _ROUNDING)
    same = pc.if_else(pc.is_null(column), pc.is_null(other), pc.fill_null(equal, False))
    return pc.invert(same).combine_chunks()
