"""Measure what a run took: the seconds of each step, the machines and the cost, over all of its attempts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from nsfwscan.execution.layout import Fleet, Node
from nsfwscan.runs.attempts import Attempt, Attempts
from nsfwscan.runs.plan import Plan
from nsfwscan.runs.record.cost import MachineRecord
from nsfwscan.storage.store import Store, to_json
from nsfwscan.workflows.cost import Cost, Prices, Requests, cost_of, requests_for

STEPS = ("listing_s", "scan_s", "commit_s")
_NOTED_EVERY_S = 20.0


class Effort:
    """Clock of this attempt, which also remembers earlier ones.

    Args:
        staging: the run's staging folder, where notes of all attempts lie.
        fleets: list to which the engine appends its machines when it begins.
    """

    def __init__(self, staging: Store, fleets: Sequence[Fleet]) -> None:
        self._attempts, self._fleets = Attempts(staging), fleets
        self._took = dict.fromkeys(STEPS, 0.0)
        self._step, self._scanned = STEPS[0], 0
        self._last = self._noted = time.monotonic()

    def begin(self, step: str) -> None:
        """End the step before, and begin another."""
        self._lap()
        self._step = step

    def scanned(self, rows: int) -> None:
        """Count objects whose rows are staged; now and then write a note, for the case that this process is killed."""
        self._scanned += rows
        if time.monotonic() - self._noted >= _NOTED_EVERY_S:
            self._note()

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Write a note where the block, which can be resumed, does not come to its end."""
        try:
            yield
        except BaseException:
            self._note()
            raise

    def as_record(self, sources: Sequence[str], plan: Plan, resumed: int, prices: Prices) -> dict[str, Any]:
        """Return the sections `timings`, `images_per_s`, `machine` and `cost` of `run.json`.

        A rate needs machines of one kind. Of an attempt that ended before its machines were known we take those of
        another one.

        Args:
            sources: URIs of the run's sources.
            resumed: shards that earlier attempts finished.
        """
        self._lap()
        attempts = [*self._attempts.earlier(), self._attempt()]
        steps = {step: round(sum(getattr(one, step) for one in attempts), 3) for step in STEPS}
        scanned, machines = sum(one.scanned for one in attempts), [one.machine for one in attempts if one.machine]
        alike = len({frozenset(node.kind for node in machine.nodes) for machine in machines}) <= 1
        found = {
            "timings": {**steps, "resumed_shards": resumed, "attempts": len(attempts)},
            "images_per_s": round(scanned / steps["scan_s"], 2) if scanned and steps["scan_s"] and alike else None,
            "machine": None,
            "cost": None,
        }
        if not machines:
            return found
        read = plan.distinct - plan.carried
        spans = [(_nodes(one.machine or machines[-1]), one.total_s) for one in attempts]
        cost = _cost(spans, read, requests_for(sources, plan.listed, read, plan.bytes), prices)
        return {**found, "machine": machines[-1].model_dump(), "cost": cost.as_json()}

    def _lap(self) -> None:
        now = time.monotonic()
        self._took[self._step] += now - self._last
        self._last = now

    def _attempt(self) -> Attempt:
        fleet = self._fleets[-1] if self._fleets else None
        machine = MachineRecord.model_validate_json(to_json(fleet.as_json())) if fleet else None
        steps = {step: round(seconds, 3) for step, seconds in self._took.items()}
        return Attempt(**steps, scanned=self._scanned, machine=machine)

    def _note(self) -> None:
        self._lap()
        self._noted = self._last
        self._attempts.note(self._attempt())


def _nodes(machine: MachineRecord) -> list[Node]:
    return [Node(node.cpus, node.gpus, node.gpu) for node in machine.nodes for _ in range(node.count)]


def _cost(spans: Sequence[tuple[Sequence[Node], float]], objects: int, requests: Requests, prices: Prices) -> Cost:
    """Return the cost of machines for as long as each was used, and of requests."""
    *others, last = (
        cost_of(nodes, seconds, objects, requests if i == len(spans) else Requests(), prices)
        for i, (nodes, seconds) in enumerate(spans, start=1)
    )
    parts = [*others, last]
    missing = next((part.missing for part in parts if part.missing), None)
    return replace(
        last,
        hours=sum(part.hours for part in parts),
        core_hours=sum(part.core_hours for part in parts),
        gpu_hours=sum(part.gpu_hours for part in parts),
        amount=None if missing else sum(part.amount or 0.0 for part in parts),
        missing=missing,
    )
