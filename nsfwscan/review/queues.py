"""Review queues as files for reviewers' tools: JSON lines, one item per line, the most urgent first.

Each queue becomes a file of its own. Every file is whole, and none appears before all are written. The files hold no
pixels and nothing that shows any; for an illegal match they hold the hashes, the place, and who must review it. On
standard output they follow one another; each item names its queue. A file that cannot be written is a `ConfigError`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from nsfwscan.errors import ConfigError
from nsfwscan.policy.rules import NO_QUEUE
from nsfwscan.policy.signals import signals_of_row
from nsfwscan.reports.export import json_line
from nsfwscan.reports.reading import shortest
from nsfwscan.review.ranking import EARLIER_RUNS, MATCHED, Item, ranked
from nsfwscan.runs.record.inputs import PolicyRecord
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run
from nsfwscan.schema import BankKind, Category, in_utc, score_column
from nsfwscan.storage.output import Output
from nsfwscan.text import printable

_NAME_LENGTH = 100
_ALWAYS = (
    *("queue", "rank", "uri", "object_id", "decision", "rule", "severity", "skill", "shield", "decided_by"),
    "sha256",
)
_SEEN = ("status", "format", "width", "height", "frames", "label")


@dataclass(frozen=True)
class Queue:
    """A written queue."""

    name: str
    place: str
    """Path or URI of its file, or `standard output`."""
    items: int
    objects: int
    """Rows of the report that the items represent."""


@dataclass(frozen=True)
class Written:
    """Queues of a run, in the order of their names."""

    queues: tuple[Queue, ...]
    unassigned: int
    """Objects that rules without a queue send to review or escalation: they are in no file."""


def write_queues(
    run: Run,
    out: Output | Path,
    names: Collection[str] = (),
    context: Iterable[pa.RecordBatch] = (),
    earlier_runs: int = EARLIER_RUNS,
) -> Written:
    """Write the queues of a run into a folder, over older files of the same names. Raises StoreError where a report
    cannot be read, or a store does not take a file; ConfigError where a file cannot be written here, or neither the
    policy nor a row has a queue of a given name.

    Args:
        names: write only these queues; if empty, all queues that the policy names, even empty ones, or that rows name.
        context, earlier_runs: as for `ranked`.
    """
    known = _queues_of(run.record().policy)
    if isinstance(out, Path):
        out = Output.given(out, run.store.storage, "out")
    try:
        out.make_folder()
        with ranked(run, names, context, earlier_runs) as found:
            queues = _write(found.items, out, sorted(names or known), known)
            return Written(tuple(queues), found.unassigned)
    except OSError as error:
        raise ConfigError(f"cannot write queues to {out}: {error.strerror or error}") from error


def check_queues(record: RunRecord, names: Collection[str]) -> None:
    """Raise ConfigError for a queue that neither the policy nor a row of the run has."""
    known = {*_queues_of(record.policy), *record.summary.queue}
    for name in names:
        if name not in known:
            raise ConfigError(_unknown(name, known))


def _unknown(name: str, known: Collection[str]) -> str:
    there = ", ".join(sorted(known)) or "none"
    return f"there is no queue {name!r}: neither the policy nor a row of the run names it; there are: {there}"


def _queues_of(policy: PolicyRecord) -> set[str]:
    """Return every queue that the policy of a record names."""
    named = [outcome.queue for outcome in (*policy.rules, policy.otherwise)]
    named += [change.queue for override in policy.overrides for change in override.rules.values()]
    return {*policy.queues, *(queue for queue in named if queue)} - {NO_QUEUE}


def _write(items: Iterator[Item], out: Output, expected: list[str], known: set[str]) -> list[Queue]:
    """Write one file after the other; all appear under their names when the last one is written."""
    done: dict[str, Queue] = {}
    taken: set[str] = set()
    with ExitStack() as places:
        printed = places.enter_context(out.appearing()) if out.is_stdout else None

        def write(name: str, queued: Iterable[Item]) -> None:
            place = out.child(file_name(name, taken))
            count = objects = 0
            with (printed or places.enter_context(place.appearing())).open("a", encoding="utf-8") as file:
                for item in queued:
                    file.write(json_line(shown_item(item)))
                    count += 1
                    objects += item.row["objects"]
            done[name] = Queue(name, str(place), count, objects)

        for name, queued in groupby(items, key=lambda item: str(item.row["queue"])):
            write(name, queued)
        for name in expected:
            if name not in done and name not in known:
                raise ConfigError(_unknown(name, known))
            if name not in done:
                write(name, ())
    return sorted(done.values(), key=lambda queue: queue.name)


def file_name(queue: str, taken: set[str]) -> str:
    """Return a file name of letters, digits, `_`, `-`, `.`, `~` and `%XX`, unique on any file system."""
    name = quote(queue, safe="")
    if name.startswith(".") or not name or len(name) > _NAME_LENGTH or name.lower() in taken:
        name = f"{name.lstrip('.')[:_NAME_LENGTH]}-{hashlib.sha256(queue.encode()).hexdigest()[:16]}"
    taken.add(name.lower())
    return f"{name}.jsonl"


def shown_item(item: Item) -> dict[str, Any]:
    """Return an item as a line of a queue's file."""
    row = item.row
    match = {name.removeprefix("match_"): row[name] for name in MATCHED if row[name] is not None}
    cluster = {name: row[f"cluster_{name}"] for name in ("size", "places")} | {"id": row["cluster"]}
    illegal = row["match_kind"] == BankKind.ILLEGAL
    return {
        **{name: row[name] for name in _ALWAYS},
        **({"md5": row["md5"]} if illegal else _content(row)),
        "match": match or None,
        "cluster": cluster if row["cluster"] is not None else None,
        "reach": row["reach"],
        "objects": row["objects"],
        "elsewhere": {"count": item.others, "uris": item.elsewhere},
        "prior": item.prior,
        "verdict": row["verdict"],
        "verdict_at": in_utc(row["verdict_at"]),
        "appeals": row["appeals"],
        "near_verdicts": item.near or None,
        "context": json.loads(item.context) if item.context is not None else None,
        "scanned_at": in_utc(row["scanned_at"]),
    }


def _content(row: dict[str, Any]) -> dict[str, Any]:
    """Return the fields about the picture; items of illegal matches lack them."""
    scores = {str(c): shortest(row[score_column(c)]) for c in Category if row[score_column(c)] is not None}
    return {
        **{name: row[name] for name in _SEEN},
        "nsfw_score": None if row["nsfw_score"] is None else shortest(row["nsfw_score"]),
        "scores": scores or None,
        "uncertainty": row["uncertainty"],
        "signals": {name: shortest(value) for name, value in signals_of_row(row["signals"]).items()} or None,
        "duplicate_of": row["duplicate_of"],
    }


def describe_queues(written: Written) -> str:
    """Render a table for the terminal: queue, items, objects, and the number of objects folded into others."""
    names = [printable(queue.name) for queue in written.queues]
    width = max(map(len, ["queue", *names]))
    lines = [f"{'queue':{width}}  {'items':>10}  {'objects':>10}  {'folded':>10}  file"]
    for name, queue in zip(names, written.queues, strict=True):
        counts = (queue.items, queue.objects, queue.objects - queue.items)
        lines.append("  ".join([f"{name:{width}}", *(f"{n:10,}" for n in counts), printable(queue.place)]))
    if not written.queues:
        lines = ["the policy names no queue"]
    if written.unassigned:
        lines.append(f"{written.unassigned:,} objects are to be reviewed or escalated by rules that name no queue")
    return "\n".join(lines)
