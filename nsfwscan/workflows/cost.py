"""Compute the hours and the money of runs: measured for finished runs, estimated at a measured rate for future ones.

Rates come from the records of committed runs or from a benchmark's JSON, prices from a price table. Without a
measurement there is no estimate, and without a price no amount. A price table or benchmark that cannot be read raises
`ConfigError`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from nsfwscan.config import Frozen, StorageConfig, read_yaml
from nsfwscan.errors import ConfigError, StoreError
from nsfwscan.execution.layout import Node
from nsfwscan.location import Location
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run, runs_of
from nsfwscan.storage.store import Store
from nsfwscan.storage.text_files import read_text

PRICES = Path(__file__).parent / "prices.yaml"
_LIST_PAGE = 1000
"""Keys that S3 returns for one LIST request."""
_LOOKED_AT = 50
"""Number of newest committed runs in which a measurement is searched."""
STEADY = 2000
"""Number of objects from which on a run's start hardly affects its rate."""
_AT_ONCE = 16
_STEADY_FIGURE, _EMBEDDED_FIGURE = "scan.steady", "embedded.steady"
"""Keys of a benchmark's rates: of a scan with its ViT, and of one with the embedded model."""

Kinds = Counter[tuple[float, float, str | None, str | None]]
"""Number of machines by `Node.kind`."""


class Prices(Frozen):
    """Prices of machines and of an object store; `prices.yaml`, beside this file, explains the figures."""

    name: str
    currency: str = Field(pattern="^[A-Z]{3}$")
    date: date
    source: str
    vcpu_hour: float = Field(ge=0)
    gpu_hour: dict[str, float] = Field(default_factory=dict)
    """By GPU model, e.g. `A10G`, on top of the machine's vCPUs."""
    get_per_1000: float = Field(0.0, ge=0)
    list_per_1000: float = Field(0.0, ge=0)
    egress_per_gib: float = Field(0.0, ge=0)

    @classmethod
    def load(cls, path: str | None = None, storage: StorageConfig | None = None) -> Prices:
        """Return the price table in a file, here or in a store, or the one that comes with nsfwscan.

        Raises:
            ConfigError: the file cannot be read, or a key or value is wrong.
        """
        read = partial(read_text, storage=storage or StorageConfig(), what="the prices")
        return cls.of(read_yaml(path or str(PRICES), read), path)

    def of_gpu(self, kind: str | None) -> float | None:
        """Return the price of a GPU-hour, found by the GPU's name or a part of it (`A100` of `A100-SXM4`), or None."""
        if kind is None:
            return None
        if kind in self.gpu_hour:
            return self.gpu_hour[kind]
        return next((self.gpu_hour[word] for word in re.split(r"[\s-]", kind) if word in self.gpu_hour), None)


@dataclass(frozen=True)
class Requests:
    """Requests to an object store that charges for them, and the bytes read from it."""

    get: int = 0
    list: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Cost:
    """Machine time and money for a number of objects."""

    objects: int
    """Objects that were read and scored, or are to be."""
    hours: float
    core_hours: float
    gpu_hours: float
    requests: Requests
    currency: str
    amount: float | None
    """Money in `currency`; None if a price is missing."""
    missing: str | None
    """The missing price, in words."""
    prices: str
    """Name and date of the price table."""

    @property
    def per_million(self) -> float | None:
        """Return the amount for a million objects; None without an amount or without objects."""
        return self.amount / self.objects * 1e6 if self.amount is not None and self.objects else None

    def as_json(self) -> dict[str, Any]:
        """Return the `cost` section of `run.json`."""
        return {**asdict(self), "per_million": self.per_million, "steady": self.objects >= STEADY}


def cost_of(nodes: Sequence[Node], seconds: float, objects: int, requests: Requests, prices: Prices) -> Cost:
    """Return the cost of these machines for that time, idle or not, and of these requests to the store."""
    hours = seconds / 3600
    cores, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    unknown = sorted({node.gpu or "unknown" for node in nodes if node.gpus and prices.of_gpu(node.gpu) is None})
    gpu_rate = sum(node.gpus * (prices.of_gpu(node.gpu) or 0.0) for node in nodes)
    amount = (
        hours * (cores * prices.vcpu_hour + gpu_rate)
        + requests.get / 1000 * prices.get_per_1000
        + requests.list / 1000 * prices.list_per_1000
        + requests.bytes / 2**30 * prices.egress_per_gib
    )
    return Cost(
        objects,
        hours,
        hours * cores,
        hours * gpus,
        requests,
        prices.currency,
        None if unknown else amount,
        f"no price for a GPU of the kind {', '.join(unknown)} (gpu_hour)" if unknown else None,
        f"{prices.name} ({prices.date})",
    )


def requests_for(sources: Sequence[str], listed: int, read: int, read_bytes: int) -> Requests:
    """Return the least number of requests to S3: one LIST per thousand objects listed, one GET per object read; none
    if no source is on S3."""
    remote = any(Location.of(uri).is_s3 for uri in sources)
    return Requests(read, -(-listed // _LIST_PAGE), read_bytes) if remote else Requests()


@dataclass(frozen=True)
class Rate:
    """A measured rate, and the machines that it was measured on."""

    per_s: float
    """Objects per second while scanning."""
    beside_s: float
    """Seconds per object for listing and commit."""
    machines: Kinds | None
    """The machines by kind; None for a benchmark, of which only the numbers of cores and GPUs are compared."""
    cores: float
    gpus: float
    basis: str
    """Where the rate was measured, in words."""
    bytes_per_object: float = 0.0
    steady: bool = True
    """True if measured over enough objects to hold for many more."""


def measured(store: Store, made_with: Mapping[str, str], nodes: Sequence[Node]) -> Rate | None:
    """Return the rate of the newest committed run of at least `STEADY` objects with the same models, filters,
    preprocessing and precision on machines of the same kinds; of the longest such run if all are shorter; else None.

    Args:
        made_with: the reuse_keys of the planned scan.

    Raises:
        StoreError: the store cannot be read.
    """
    runs = [run for run in runs_of(store) if run.is_committed_or_broken()][-_LOOKED_AT:]
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        records = [record for record in threads.map(_record, reversed(runs)) if record is not None]
    kinds = Counter(node.kind for node in nodes)
    found = [
        rate
        for record in records
        if (record.reuse_keys.scoring, record.reuse_keys.filtering) == (made_with["scoring"], made_with["filtering"])
        for rate in [_rate_of(record)]
        if rate is not None and rate[0].machines is not None and set(rate[0].machines) == set(kinds)
    ]
    steady = next((rate for rate, objects in found if objects >= STEADY), None)
    return steady or (max(found, key=lambda rate: rate[1])[0] if found else None)


def _record(run: Run) -> RunRecord | None:
    try:
        return run.record()
    except StoreError:  # a record that cannot be read is skipped; others may hold a rate
        return None


def _rate_of(record: RunRecord) -> tuple[Rate, int] | None:
    """Return a run's rate, and the number of objects that it was measured over; None if the run read nothing or its
    machines are unknown."""
    machine, cost, per_s, steps = record.machine, record.cost, record.images_per_s, record.timings.steps
    if not machine or not cost or not per_s:
        return None
    nodes, objects = machine.nodes, cost.objects
    kinds: Kinds = Counter({node.kind: node.count for node in nodes})
    short = "" if objects >= STEADY else "; so few that most of it may be the start"
    rate = Rate(
        per_s,
        (steps["listing"] + steps["commit"]) / max(1, record.plan.distinct),
        kinds,
        sum(node.cpus * node.count for node in nodes),
        sum(node.gpus * node.count for node in nodes),
        f"{per_s:,.1f}/s over {objects:,} objects, run {record.run_id}{short}",
        cost.requests.bytes / max(1, objects),
        steady=objects >= STEADY,
    )
    return rate, objects


class _Figure(BaseModel):
    key: str
    value: float | None


class _Bench(BaseModel):
    """Fields that are read from a benchmark's JSON."""

    class Machine(BaseModel):
        cpu: str
        cores: int = Field(ge=1)
        gpus: list[str]

    class Settings(BaseModel):
        model: str

    machine: Machine
    settings: Settings
    figures: list[_Figure]


def benchmarked(path: str, *, embedded: bool, storage: StorageConfig | None = None) -> Rate:
    """Return the steady rate that a benchmark measured.

    Args:
        path: its JSON, here or in a store.
        embedded: True: with the embedded model; False: with the benchmark's own, a ViT of a size that `basis` names.

    Raises:
        ConfigError: the file cannot be read, is not a benchmark's, or holds no rate of a scan with this model.
    """
    try:
        found = _Bench.model_validate(json.loads(read_text(path, storage or StorageConfig(), "the rates")))
    except (ValueError, ValidationError):
        raise ConfigError(f"{path} is not the JSON of a benchmark (`jobs/bench.py --json FILE`)") from None
    key = _EMBEDDED_FIGURE if embedded else _STEADY_FIGURE
    rate = next((one.value for one in found.figures if one.key == key), None)
    if not rate:
        raise ConfigError(f"{path} holds no rate of a scan with this model ({key}): let the benchmark measure it")
    machine = found.machine
    on = f"{machine.cores} cores of {machine.cpu}" + (f" with {len(machine.gpus)} GPUs" if machine.gpus else "")
    basis = f"{rate:,.1f}/s with {'the same model' if embedded else found.settings.model}, the benchmark"
    return Rate(rate, 0.0, None, machine.cores, len(machine.gpus), f"{basis} {Path(path).name} on {on}")


@dataclass(frozen=True)
class Estimate:
    """Cost of a future scan, and the measurement that it is based on."""

    cost: Cost
    basis: str


def estimate(
    objects: int, rate: Rate, nodes: Sequence[Node], sources: Sequence[str], prices: Prices
) -> Estimate | None:
    """Return the cost of reading and scoring that many objects on these machines, scaled from the measured machines;
    None if only one side has GPUs, so that the rate says nothing."""
    factor = _factor(rate, nodes)
    if not factor:
        return None
    seconds = objects * (1 / (rate.per_s * factor) + rate.beside_s)
    requests = requests_for(sources, objects, objects, round(objects * rate.bytes_per_object))
    times = "" if factor == 1 else f"; taken times {factor:,.3g}, as the machines are"
    return Estimate(cost_of(nodes, seconds, objects, requests, prices), rate.basis + times)


def _factor(rate: Rate, nodes: Sequence[Node]) -> float | None:
    """Return the scaling factor against the measured machines, set by the scarcest resource; None as for `estimate`."""
    if rate.machines is not None:
        now = Counter(node.kind for node in nodes)
        return float(min(now[kind] / count for kind, count in rate.machines.items()))
    cores, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    if bool(gpus) != bool(rate.gpus):
        return None
    return min(cores / rate.cores, gpus / rate.gpus) if gpus else cores / rate.cores
