"""Chain the runs of a store: each `run.json` names, by SHA-256, the runs that were committed just before it.

A commit reads the records of all runs and names the heads, which no other run names yet, whatever their sources are. As
a rule there is one. Two runs that are committed at the same time name the same head; the next run names both, so that
the chain is whole again, and every run is behind the newest one. The moment of a commit is the creation of `run.json`.

`links_of` says which named runs are gone or have another record, and `Chain.forks` which run was not named although it
had long been committed. Whoever writes the newest runs anew, with all that follows, contradicts nothing within the
store: an anchor or a signature does (`evidence.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from graphlib import TopologicalSorter

from nsfwscan.errors import BrokenRecord, ForeignRecord
from nsfwscan.runs.finding import Finding, damaged, note, tampered
from nsfwscan.runs.record.fields import Json, ParentRecord
from nsfwscan.runs.record.reading import read_record
from nsfwscan.runs.record.run import ChainRecord
from nsfwscan.runs.run import Run, runs_of
from nsfwscan.storage.forgotten import digest_of
from nsfwscan.storage.store import Store

_AT_ONCE = 16
_SAME_TIME = timedelta(seconds=90)
"""Two runs of which neither names the other were committed at the same time if their records lie no further apart: as
long as a lease lasts, with room for clocks that differ."""
_NOTHING = ChainRecord(after=(), passed_over=())
_UNKNOWN = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Link:
    """Part of a run's `run.json` that the chain needs.

    Attributes:
        sha256: of the file's bytes; None where the file is absent.
        error: why the record cannot be read; None for a sound one.
    """

    run: Run
    sha256: str | None
    error: BrokenRecord | None = None
    kind: str = ""
    committed_at: datetime = _UNKNOWN
    store: str = ""
    named: ChainRecord = _NOTHING

    @classmethod
    def of(cls, run: Run) -> Link | None:
        """Return the link of a run; None where it was never committed."""
        data: bytes | None = None
        try:
            data = run.folder.read("run.json")
            record = read_record(data, run.folder.locate("run.json"), run.run_id)
        except FileNotFoundError:
            if not run.is_committed_or_broken():
                return None
            return cls(run, None, BrokenRecord(run.folder.locate("run.json"), "is absent"))
        except BrokenRecord as error:
            return cls(run, None if data is None else digest_of(run.folder, data), error)
        at = datetime.fromisoformat(record.committed_at)
        return cls(run, digest_of(run.folder, data), None, record.kind, at, record.store, record.chain)

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return self.run.run_id

    @property
    def reference(self) -> ParentRecord:
        """Return the section by which a later run names this one."""
        return ParentRecord(run_id=self.run_id, sha256=self.sha256 or "")


@dataclass(frozen=True)
class Chain:
    """Links of all committed runs of a store, by run id."""

    links: Mapping[str, Link] = field(default_factory=dict)

    @property
    def heads(self) -> list[Link]:
        """Runs with a sound record that no other run names, the newest last."""
        named = {(one.run_id, one.sha256) for link in self._sound for one in link.named.after}
        return [link for link in self._sound if (link.run_id, link.sha256) not in named]

    def as_record(self) -> Json:
        """Return the section `chain` of a run that is committed now."""
        broken = sorted(run_id for run_id, link in self.links.items() if link.error is not None)
        after = tuple(link.reference for link in self.heads)
        return ChainRecord(after=after, passed_over=tuple(broken)).model_dump(mode="json")

    def behind(self, link: Link) -> set[str]:
        """Return the ids of the runs that a run vouches for: those that it names, those that they name, and so on."""
        mask = self._ancestors.get(link.run_id, 0)
        return {one.run_id for i, one in enumerate(self._sound) if mask >> i & 1}

    def forks(self, link: Link) -> Iterator[Finding]:
        """Yield the earlier runs that a run with a sound record neither names nor has behind it."""
        if link.run_id not in self._whole:
            return  # what lies behind the gap is not known
        told = [self.links[one.run_id] for one in link.named.after]
        for other in self._missed(link):
            if other.run_id in link.named.passed_over or any(other in self._missed(one, _SAME_TIME) for one in told):
                continue
            apart, at = link.committed_at - other.committed_at, other.committed_at.isoformat()
            if link.run_id in self.behind(other):
                yield note(
                    f"run {other.run_id} goes on from this one, but is dated {apart} before it: a clock went back"
                )
            elif apart <= _SAME_TIME:
                yield note(f"run {other.run_id} was committed at the same time ({at}): neither names the other")
            else:
                yield tampered(
                    f"a fork: run {other.run_id} was committed at {at}, {apart} before this one, which does not "
                    "name it: one of the two was put there later, or the clocks of two machines differ"
                )

    def _missed(self, link: Link, by: timedelta = timedelta(0)) -> list[Link]:
        """Return the runs that were committed earlier, by more than some time, and are not behind this one."""
        place, behind = self._places[link.run_id], self._ancestors[link.run_id]
        missed = ((1 << place) - 1) & ~behind
        found = [one for i, one in enumerate(self._sound[:place]) if missed >> i & 1] if missed else []
        return [one for one in found if not by or link.committed_at - one.committed_at > by]

    @cached_property
    def _sound(self) -> list[Link]:
        found = [link for link in self.links.values() if link.error is None]
        return sorted(found, key=lambda link: (link.committed_at, link.run_id))

    @cached_property
    def _places(self) -> dict[str, int]:
        return {link.run_id: i for i, link in enumerate(self._sound)}

    def _holding(self, link: Link) -> list[str]:
        """Return the named runs that have the record that was named."""
        there = ((one, self.links.get(one.run_id)) for one in link.named.after)
        return [one.run_id for one, found in there if found and not found.error and found.sha256 == one.sha256]

    @cached_property
    def _ancestors(self) -> dict[str, int]:
        """For each run a bit for each run behind it, by its place in `_sound`."""
        held = {link.run_id: self._holding(link) for link in self._sound}
        found: dict[str, int] = {}
        for run_id in TopologicalSorter(held).static_order():  # a circle of digests cannot be made
            found[run_id] = 0
            for one in held[run_id]:
                found[run_id] |= found[one] | 1 << self._places[one]
        return found

    @cached_property
    def _whole(self) -> set[str]:
        """Runs behind which nothing is missing."""
        gaps = [link for link in self._sound if len(self._holding(link)) < len(link.named.after)]
        bits = sum(1 << self._places[link.run_id] for link in gaps)
        cut = {link.run_id for link in gaps}
        return {run_id for run_id, mask in self._ancestors.items() if not mask & bits and run_id not in cut}


def read_chain(store: Store) -> Chain:
    """Return the chain of a store. Raises StoreError where the store fails."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        found = threads.map(Link.of, runs_of(store))
        return Chain({link.run_id: link for link in found if link is not None})


def links_of(named: ChainRecord, there: Mapping[str, Link | None]) -> Iterator[Finding]:
    """Yield which of the runs that a run names are not there as they were named.

    Args:
        there: links of the named runs; none for a run that is gone.
    """
    for one in named.after:
        if (found := problem_with(one, there.get(one.run_id), "which was committed before this one")) is not None:
            yield found
    for run_id in named.passed_over:
        yield note(f"the record of run {run_id} could not be read when this run was committed, which does not name it")


def problem_with(named: ParentRecord, there: Link | None, who: str) -> Finding | None:
    """Return what is wrong with a run that another one names; None where nothing is.

    Args:
        who: what the named run is to the other one, a clause.
    """
    run = f"run {named.run_id}, {who},"
    if there is None:
        return damaged(f"{run} is gone: its rows may be here, its record is not")
    if there.sha256 == named.sha256:
        return None
    if there.error is None or isinstance(there.error, ForeignRecord):
        return tampered(f"{run} has another run.json than then")
    return damaged(f"{run} cannot be looked up: its run.json {there.error.reason}")
