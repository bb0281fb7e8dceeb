"""Give the rows of a committed report the verdicts that people gave since, and decide again where these are others.

So a queue that is written after people decided knows it, as the next night will, without a run of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import parse_policy
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run
from nsfwscan.schema import DECISION_COLUMNS, REPORT_SCHEMA, VERDICT_COLUMNS
from nsfwscan.verdicts.standing import StandingVerdicts, standing

_DECISION = [field.name for field in DECISION_COLUMNS]
_VERDICT = [field.name for field in VERDICT_COLUMNS]


class Knowing:
    """Verdicts of now, over the rows of a run.

    Attributes:
        verdicts: what stands in the store now.
        is_needed: whether the store has other verdicts than the run knew.
    """

    def __init__(self, run: Run, record: RunRecord) -> None:
        self.verdicts = standing(run.store)
        self._record = record
        known = StandingVerdicts().digest if record.verdicts is None else record.verdicts.sha256
        self.is_needed = self.verdicts.digest != known

    @cached_property
    def _decider(self) -> Decider:
        return Decider(parse_policy(self._record.policy.content(), f"the policy of run {self._record.run_id}"))

    def columns(self, asked: Sequence[str]) -> list[str]:
        """Return the columns of the report that `decided` needs to return those asked for."""
        further = [*_VERDICT, *_DECISION, "sha256", *self._decider.columns] if self.is_needed else []
        return list(dict.fromkeys([*asked, *further]))

    def decided(self, rows: pa.Table, asked: Sequence[str]) -> pa.Table:
        """Return the columns asked for. Raises PolicyError where the run's policy cannot decide a row.

        Args:
            rows: with `columns`.
        """
        if not self.is_needed:
            return rows.select(asked)
        rows = rows.cast(pa.schema([REPORT_SCHEMA.field(name).remove_metadata() for name in rows.column_names]))
        known = self.verdicts.onto(rows)
        others = pa.array(_differs(known["verdict"], rows["verdict"]) | _differs(known["appeals"], rows["appeals"]))
        if pc.any(others).as_py():
            found = self._decider(known.filter(others))
            for name in _DECISION:
                now = pc.replace_with_mask(known[name].combine_chunks(), others, found[name].combine_chunks())
                known = known.set_column(known.schema.get_field_index(name), known.schema.field(name), now)
        return known.select(asked)


def _differs(now: pa.ChunkedArray, then: pa.ChunkedArray) -> np.ndarray:
    same = pc.if_else(pc.is_null(then), pc.is_null(now), pc.fill_null(pc.equal(now, then), False))
    return np.asarray(pc.invert(same).to_numpy())
