"""Hours and money: of a finished run as it was measured, and of one to come at the rate that was measured.

In: machines, seconds, counts; a price table; the records of committed runs, or the JSON of a benchmark. Out: a `Cost`.
Nothing is made up: without a measurement there is no estimate, and without a price no amount. A price table or
benchmark that cannot be read is a `ConfigError`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from nsfwscan.config import Frozen, read_yaml
from nsfwscan.errors import ConfigError, StoreError
from nsfwscan.execution.layout import Node
from nsfwscan.location import Location
from nsfwscan.runs.record import RunRecord
from nsfwscan.runs.run import Run, runs_of
from nsfwscan.storage.store import Store

PRICES = Path(__file__).parent / "prices.yaml"
_LIST_PAGE = 1000
"""Keys that S3 gives for one LIST request."""
_LOOKED_AT = 50
"""Committed runs, the newest, among which a measurement is looked for."""
STEADY = 2000
"""Objects of a run in which its start does not count for much any more."""
_AT_ONCE = 16
_STEADY_FIGURE, _EMBEDDED_FIGURE = "scan.steady", "embedded.steady"
"""Keys of a benchmark's rates: of a scan with its ViT, and with the embedded model."""

Kinds = Counter[tuple[float, float, str | None, str | None]]
"""How many machines, by `Node.kind`."""


class Prices(Frozen):
    """What a machine and a store ask for; `nsfwscan/prices.yaml` says how the figures are meant."""

    name: str
    currency: str = Field(pattern="^[A-Z]{3}$")
    date: date
    source: str
    vcpu_hour: float = Field(ge=0)
    gpu_hour: dict[str, float] = Field(default_factory=dict)
    """By kind of GPU, e.g. `A10G`; beside the machine's vCPUs."""
    get_per_1000: float = Field(0.0, ge=0)
    list_per_1000: float = Field(0.0, ge=0)
    egress_per_gib: float = Field(0.0, ge=0)

    @classmethod
    def load(cls, path: str | None = None) -> Prices:
        """The table of that file, or the one that comes with nsfwscan.

        Raises:
            ConfigError: it cannot be read, or a key or value is wrong.
        """
        return cls.of(read_yaml(path or str(PRICES)), path)

    def of_gpu(self, kind: str | None) -> float | None:
        """Price of a GPU-hour: under its name, or a part of it (`A100` of `A100-SXM4`); None where there is none."""
        if kind is None:
            return None
        if kind in self.gpu_hour:
            return self.gpu_hour[kind]
        return next((self.gpu_hour[word] for word in re.split(r"[\s-]", kind) if word in self.gpu_hour), None)


@dataclass(frozen=True)
class Requests:
    """What was asked of an object store that charges for it."""

    get: int = 0
    list: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Cost:
    """What some objects take: time of the machines, and money."""

    objects: int
    """That were read and scored, or are to be."""
    hours: float
    core_hours: float
    gpu_hours: float
    requests: Requests
    currency: str
    amount: float | None
    """None where a price is missing."""
    missing: str | None
    """Which price that is."""
    prices: str
    """The price table, and its date."""

    @property
    def per_million(self) -> float | None:
        """The amount for a million objects."""
        return self.amount / self.objects * 1e6 if self.amount is not None and self.objects else None

    def as_json(self) -> dict[str, Any]:
        """As it stands in `run.json`."""
        return {**asdict(self), "per_million": self.per_million, "steady": self.objects >= STEADY}


def cost_of(nodes: Sequence[Node], seconds: float, objects: int, requests: Requests, prices: Prices) -> Cost:
    """What these machines ask for that time, idle or not, and the store for these requests."""
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
    """Requests to S3, at the least: a page of keys each thousand listed, a GET each object read; none elsewhere."""
    remote = any(Location.of(uri).is_s3 for uri in sources)
    return Requests(read, -(-listed // _LIST_PAGE), read_bytes) if remote else Requests()


@dataclass(frozen=True)
class Rate:
    """How fast it went once, on which machines."""

    per_s: float
    """Objects a second while scanning."""
    beside_s: float
    """Seconds an object for listing and commit."""
    machines: Kinds | None
    """None: of a benchmark, which is taken for what it is."""
    cores: float
    gpus: float
    basis: str
    """Where it was measured, in words."""
    bytes_per_object: float = 0.0
    steady: bool = True
    """Measured over so many objects that it may be taken for many more."""


def measured(store: Store, made_with: Mapping[str, str], nodes: Sequence[Node]) -> Rate | None:
    """The rate of the newest committed run with the same models, filters, preprocessing and precision on machines of
    the same kind; one that was long enough, if there is one. None where nothing was measured.

    Args:
        made_with: the reuse_keys of what would be run.

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
    except StoreError:  # one that cannot be read tells nothing; the others may
        return None


def _rate_of(record: RunRecord) -> tuple[Rate, int] | None:
    """Return a run's rate, and over how many objects it was measured; None of a run that read nothing, or whose
    machines are not known."""
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
    """What is read of a benchmark's JSON."""

    class Machine(BaseModel):
        cpu: str
        cores: int = Field(ge=1)
        gpus: list[str]

    class Settings(BaseModel):
        model: str

    machine: Machine
    settings: Settings
    figures: list[_Figure]


def benchmarked(path: str, *, embedded: bool) -> Rate:
    """The steady rate that a benchmark measured.

    Args:
        embedded: with the embedded model; else with the benchmark's own, a ViT of a size that `basis` names.

    Raises:
        ConfigError: the file cannot be read, is no benchmark's, or holds no rate of a scan.
    """
    try:
        found = _Bench.model_validate(json.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"cannot read the rates {path}: {error.strerror}") from None
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
    """What a scan to come will take, and on what ground that is said."""

    cost: Cost
    basis: str


def estimate(
    objects: int, rate: Rate, nodes: Sequence[Node], sources: Sequence[str], prices: Prices
) -> Estimate | None:
    """What reading and scoring that many objects takes on these machines, in proportion to those measured; None where
    only one side has GPUs, so that the rate says nothing."""
    factor = _factor(rate, nodes)
    if not factor:
        return None
    seconds = objects * (1 / (rate.per_s * factor) + rate.beside_s)
    requests = requests_for(sources, objects, objects, round(objects * rate.bytes_per_object))
    times = "" if factor == 1 else f"; taken times {factor:,.3g}, as the machines are"
    return Estimate(cost_of(nodes, seconds, objects, requests, prices), rate.basis + times)


def _factor(rate: Rate, nodes: Sequence[Node]) -> float | None:
    """How much more the machines are than those measured, by what there is the least more of."""
    if rate.machines is not None:
        now = Counter(node.kind for node in nodes)
        return float(min(now[kind] / count for kind, count in rate.machines.items()))
    cores, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    if bool(gpus) != bool(rate.gpus):
        return None
    return min(cores / rate.cores, gpus / rate.gpus) if gpus else cores / rate.cores
