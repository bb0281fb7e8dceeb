"""Confirm contents into a store's own hash banks, from what people decided, and retract them.

A content enters a `block` bank where people removed it, an `allow` or `negative` bank where they approved it; one that
matches an illegal bank enters none of them. There is no way into an `illegal` bank from here: that takes more than one
person's word. A store that fails is a `StoreError`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.banks.confirmed import Entry, confirmed, parsed, path_of, retracted, taken_back, written
from nsfwscan.errors import ConfigError
from nsfwscan.runs.contents import contents_of_store
from nsfwscan.runs.run import Run
from nsfwscan.schema import BankKind, StandingVerdict
from nsfwscan.storage.store import Store
from nsfwscan.verdicts.standing import standing
from nsfwscan.workflows.finalize import now

KINDS = {
    BankKind.BLOCK: StandingVerdict.REMOVE,
    BankKind.ALLOW: StandingVerdict.APPROVE,
    BankKind.NEGATIVE: StandingVerdict.APPROVE,
}
"""Kinds of banks that people confirm contents into, with the verdict that it takes."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LEASE = ".banks"
"""Id under which a command holds the banks against another one; no run can have it."""
_TRUSTED = 50
"""Least PDQ quality of a hash that others are matched by."""


@dataclass(frozen=True)
class Confirmed:
    """Outcome of a bank."""

    uri: str
    added: int
    retracted: int
    active: int
    left_out: int
    """Contents that match an illegal bank, or that no report has: they enter no bank."""
    taken_back: int = 0
    """Contents whose entry was retracted, and on which nobody gave a verdict since: they are not added again."""


def confirm(
    store: Store, name: str, kind: BankKind, by: str, reason: str, sha256s: Sequence[str] = (), *, looks: bool = True
) -> Confirmed:
    """Add contents to a bank of a store.

    Args:
        name: of the bank.
        sha256s: the contents; empty: all that people decided so, but those that were retracted since.
        looks: whether to add PDQ hashes, so that what looks alike matches, too.

    Raises:
        ConfigError: the bank is of another kind, or people did not decide so of a content that is named.
        RunConflict: another command is at work on the banks.
    """
    verdict, stands = KINDS[kind], standing(store).contents
    fitting = stands.filter(pc.equal(stands["verdict"], str(verdict)))
    if sha256s:
        asked = pa.array([one.lower() for one in sha256s], pa.string())
        fitting = fitting.filter(pc.is_in(fitting["sha256"], asked))
        if missing := set(asked.to_pylist()) - set(fitting["sha256"].to_pylist()):
            raise ConfigError(f"{min(missing)}: the verdict on it is not {verdict}: no entry of a bank of kind {kind}")
    known = contents_of_store(store, fitting["sha256"], ("md5", "pdq", "pdq_quality", "match_kind"))
    contents = []
    for row in fitting.to_pylist():
        seen = known.get(row["sha256"])
        if seen is None or seen["match_kind"] == BankKind.ILLEGAL:
            continue
        pdq = seen["pdq"] if looks and (seen["pdq_quality"] or 0) >= _TRUSTED else None
        contents.append({**row, "md5": seen["md5"], "pdq": pdq})
    with Run(store, _LEASE).lease():
        before = _entries(store, name)
        if other := {str(entry["confirmed_as"]) for entry in before} - {str(kind)}:
            raise ConfigError(f"the bank {name} is of kind {min(other)}, not {kind}: take another name")
        gone = set() if sha256s else _taken_back(before, contents)
        wanted = [content for content in contents if content["sha256"] not in gone]
        entries = confirmed(before, wanted, by, now(), reason, str(kind))
        done = _kept(store, name, before, entries, left_out=fitting.num_rows - len(contents))
        return replace(done, taken_back=len(gone))


def _taken_back(entries: Sequence[Entry], contents: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the contents that are not added again by themselves: a retracted entry would come back every week."""
    retired: dict[str, list[Entry]] = {}
    for entry in entries:
        retired.setdefault(entry["sha256"], []).append(entry)
    return {one["sha256"] for one in contents if taken_back(retired.get(one["sha256"], []), one)}


def retract(store: Store, name: str, by: str, reason: str, sha256s: Sequence[str] = ()) -> Confirmed:
    """Disable entries of a bank of a store; they stay there as history.

    Args:
        sha256s: the contents; empty: all whose verdict is another by now.

    Raises:
        ConfigError: the store has no such bank, or it no such content.
        RunConflict: another command is at work on the banks.
    """
    with Run(store, _LEASE).lease():
        before = _entries(store, name)
        if not before:
            raise ConfigError(f"{store.uri} has no bank {name} of its own")
        active = {entry["sha256"] for entry in before if "retracted_by" not in entry}
        gone = {one.lower() for one in sha256s}
        if missing := gone - active:
            raise ConfigError(f"{min(missing)} is no active entry of the bank {name}")
        if not sha256s:
            contents = standing(store).contents
            wanted = str(KINDS[BankKind(before[0]["confirmed_as"])])
            gone = active - set(contents.filter(pc.equal(contents["verdict"], wanted))["sha256"].to_pylist())
        return _kept(store, name, before, retracted(before, gone, by, now(), reason))


def _entries(store: Store, name: str) -> list[Entry]:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name of a bank: letters, digits, `.`, `_` and `-` only, at most 64")
    try:
        data = store.read(path_of(name))
    except FileNotFoundError:
        return []
    return parsed(data, store.locate(path_of(name)))


def _kept(store: Store, name: str, before: list[Entry], entries: list[Entry], left_out: int = 0) -> Confirmed:
    """Write a bank, where it is another than before."""
    if entries != before:
        store.write(path_of(name), written(entries))
    gone = sum("retracted_by" in entry for entry in entries)
    newly = gone - sum("retracted_by" in entry for entry in before)
    uri = store.locate(path_of(name))
    return Confirmed(uri, len(entries) - len(before), newly, len(entries) - gone, left_out)
