"""Keep the calibrations of a store, and fill the column `calibrated_score` by the one that fits a run's model.

Each calibration is a file of its own, `calibrations/000001.json`, which is created only if it is not there and never
changed; of those made for a model, the last one holds. It names the SHA-256 of the file before it, so the history is a
chain. One that is cut off, changed or of a newer version is a `BrokenRecord`; of two people who calibrate at the same
moment, the second gets a `RunConflict`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from nsfwscan.config import Frozen
from nsfwscan.errors import BrokenRecord, PolicyError
from nsfwscan.models.calibration import ScoreMap
from nsfwscan.models.reliability import Interval, Reliability
from nsfwscan.policy.decide import Decider
from nsfwscan.runs.finding import Finding, damaged, tampered
from nsfwscan.runs.numbered import History, Numbered
from nsfwscan.runs.parts import read_rows
from nsfwscan.runs.record.fields import RunId, Sha256, Time
from nsfwscan.runs.record.inputs import CalibrationRecord
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run, read_records, runs_of
from nsfwscan.schema import CALIBRATED
from nsfwscan.storage.store import Store

FOLDER = "calibrations"
_VERSION = 1


class Origin(Frozen):
    """The run and the sample that a calibration was made from.

    Attributes:
        run_id: whose scores were taken.
        draws: samples that people looked at; `truth` for the report's truth, `verdicts` for verdicts that say with
            which probability their object was drawn, where the store has no such draw.
        objects, removed: looked at, and removed of these.
        undecided: objects that were drawn and that nobody decided: others of their strata stand for them.
        passed_over: draws that say nothing, each with the reason.
        learned: contents that were left out, since the model learned from them.
        unknown: the model, where nothing says what it learned from.
    """

    run_id: RunId
    draws: tuple[str, ...]
    objects: int
    removed: int
    undecided: int = 0
    passed_over: dict[str, str] = Field(default_factory=dict)
    learned: int = 0
    unknown: tuple[str, ...] = ()


class Calibration(Numbered):
    """A map from scores to probabilities, and how true these are on objects that it was not fitted to."""

    calibration_version: int = _VERSION
    made_at: Time
    made_by: str
    """User and machine."""
    nsfwscan: str
    model: str
    """`name@digest`, as in the rows."""
    model_sha256: Sha256
    map: ScoreMap
    origin: Origin
    held_out: int
    """Objects that it was measured on, and not fitted to."""
    before: Reliability
    after: Reliability
    gain: Interval
    """By how much the log loss falls on these."""

    @property
    def version(self) -> int:
        """Return the version of the file's form."""
        return self.calibration_version

    def as_record(self) -> CalibrationRecord:
        """Return the section of `run.json`."""
        return CalibrationRecord(
            number=self.number,
            sha256=self.sha256,
            model=self.model,
            made_at=self.made_at,
            map=self.map,
        )


HISTORY = History(
    FOLDER,
    Calibration,
    _VERSION,
    "calibration",
    "nsfwscan calibrate",
    "put it back from a backup, or remove it and calibrate anew (`nsfwscan calibrate STORE`)",
)


def calibrated(rows: pa.Table, calibration: Calibration | CalibrationRecord | None) -> pa.Table:
    """Return rows (with `nsfw_score` and `model`) with `calibrated_score`, whatever it was before: null without a
    calibration, without a score, and where another model gave the score."""
    column = pa.nulls(rows.num_rows, CALIBRATED.type)
    if calibration is not None:
        apply = calibration.map
        scores = pc.if_else(pc.equal(rows["model"], calibration.model), rows["nsfw_score"], None).combine_chunks()
        missing = scores.is_null().to_numpy(zero_copy_only=False)
        found = apply(scores.fill_null(np.nan).to_numpy(zero_copy_only=False).astype(np.float64))
        column = pa.array(found.astype(np.float32), CALIBRATED.type, mask=missing)
    place = rows.schema.get_field_index(CALIBRATED.name)
    return rows.append_column(CALIBRATED, column) if place < 0 else rows.set_column(place, CALIBRATED, column)


def calibration_for(store: Store, model: str, sha256: str, deciders: Iterable[Decider]) -> Calibration | None:
    """Return the calibration of a model that holds in a store; None where there is none, and no policy asks for it.

    Args:
        model: `name@digest`.
        sha256: of the model.
        deciders: policies that are to decide its rows.

    Raises:
        PolicyError: one of them asks for `calibrated_score`, and there is no calibration of the model.
        BrokenRecord: a calibration is not what was written.
    """
    found = next((one for one in HISTORY.newest_first(store) if one.model_sha256 == sha256), None)
    for decider in deciders:
        if found is None and CALIBRATED.name in decider.columns:
            others = sorted({one.model for one in HISTORY.newest_first(store)})
            there = f"its calibrations are of {', '.join(others)}" if others else "it has no calibration"
            raise PolicyError(
                f"policy {decider.policy.identity} asks for {CALIBRATED.name}, and {store.uri} cannot give one for the "
                f"model {model}: {there}. `nsfwscan calibrate {store.uri}` makes one from a committed run with this "
                "model and another policy"
            )
    return found


def read_calibrated(
    run: Run, record: RunRecord, columns: Sequence[str], deciders: Iterable[Decider]
) -> Iterator[pa.Table]:
    """Yield the rows of a run's report as `read_rows` does, with the `calibrated_score` that they have today.

    Args:
        deciders: policies that are to decide them.

    Raises as `calibration_for` and `read_rows` do.
    """
    found = calibration_for(run.store, record.model.identity, record.model.sha256, deciders)
    asked = CALIBRATED.name in columns
    further = ["nsfw_score", "model"] if asked else []
    for rows in read_rows(run, record, list(dict.fromkeys([*columns, *further]))):
        yield calibrated(rows, found) if asked else rows


def verify_calibrations(store: Store) -> Iterator[Finding]:
    """Yield what is wrong with the calibrations of a store: one that was changed, or that a run went by and is gone."""
    digests: dict[int, str] = {}
    for one in HISTORY.all(store):
        if isinstance(one, BrokenRecord):
            yield tampered(str(one))
        else:
            digests[one.number] = one.sha256
    named = _named(store)
    for number in sorted(named):
        sha256, run_id = named[number]
        if number not in digests:
            yield damaged(f"{FOLDER}/{number:06}.json: absent or broken, although run {run_id} went by it")
        elif digests[number] != sha256:
            yield tampered(f"{FOLDER}/{number:06}.json is not the one that run {run_id} went by")


def _named(store: Store) -> dict[int, tuple[str, str]]:
    """Return the calibrations that runs went by: by number, the SHA-256 of the file and one of the runs."""
    named: dict[int, tuple[str, str]] = {}
    for run, record in read_records(runs_of(store)):
        if isinstance(record, RunRecord) and record.calibration is not None:
            named[record.calibration.number] = (record.calibration.sha256, run.run_id)
    return named
