"""Records of the time, the machines and the money that a run took."""

from __future__ import annotations

from typing import Literal

from nsfwscan.runs.record.fields import OPTIONAL, Count, Seconds, Section


class ModelTime(Section):
    """Time of one model."""

    images: Count
    seconds: Seconds
    seconds_each: Seconds | None
    """Seconds per image; None without images."""


class Timings(Section):
    """Seconds of each step that this kind of run has, summed over all attempts of the run."""

    listing_s: Seconds | None = OPTIONAL
    scan_s: Seconds | None = OPTIONAL
    match_s: Seconds | None = OPTIONAL
    commit_s: Seconds | None = OPTIONAL
    resumed_shards: Count
    """Shards that an earlier attempt of this run finished."""
    attempts: Count | None = OPTIONAL
    """Attempts that the seconds and the cost are of; None: of the last one alone, as runs of old were recorded."""

    @property
    def steps(self) -> dict[str, float]:
        """Seconds by step."""
        taken = {name: getattr(self, f"{name}_s") for name in ("listing", "scan", "match", "commit")}
        return {name: seconds for name, seconds in taken.items() if seconds is not None}

    @property
    def total_s(self) -> float:
        """Seconds of all steps."""
        return sum(self.steps.values())


class NodeRecord(Section):
    """Nodes of one kind."""

    count: Count
    cpus: float
    gpus: float
    gpu: str | None
    """Kind of GPU."""
    cpu: str | None
    memory_bytes: Count | None
    """Memory of the smallest of these nodes."""

    @property
    def kind(self) -> tuple[float, float, str | None, str | None]:
        """Kind of the nodes, comparable with `Node.kind`."""
        return self.cpus, self.gpus, self.gpu, self.cpu


class LayoutRecord(Section):
    """Actors that ran; see `execution/layout.py`."""

    kind: Literal["fused", "split", "inline"]
    cpu_actors: Count
    model_actors: Count
    gpus_per_model_actor: float
    cpus_per_actor: float
    threads: Count


class MachineRecord(Section):
    """Nodes and actors of the scan."""

    nodes: tuple[NodeRecord, ...]
    layout: LayoutRecord


class RequestsRecord(Section):
    """Requests to object stores that charge for them, and the bytes read."""

    get: Count
    list: Count
    bytes: Count


class CostRecord(Section):
    """Machine time and money."""

    objects: Count
    """Objects that were read and scored."""
    hours: float
    core_hours: float
    gpu_hours: float
    requests: RequestsRecord
    currency: str
    amount: float | None
    """None where a price is missing."""
    missing: str | None
    """Name of the missing price."""
    prices: str
    """The price table and its date."""
    per_million: float | None
    """The amount per million objects."""
    steady: bool
    """Enough objects were read that the time of the start hardly matters."""
