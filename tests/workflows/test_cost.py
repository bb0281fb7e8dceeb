"""Hours and money are what was measured, times what a price table says; without either, nothing is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nsfwscan.config import ScanConfig, StorageConfig
from nsfwscan.errors import ConfigError
from nsfwscan.execution.deadline import Deadline
from nsfwscan.execution.layout import Fleet, Layout, Node
from nsfwscan.execution.pipeline import Job
from nsfwscan.reports.progress import Silent
from nsfwscan.runs.plan import Shard
from nsfwscan.runs.run import Run
from nsfwscan.runs.staging import ShardResult
from nsfwscan.storage.store import Store, to_json
from nsfwscan.workflows.cost import Prices, Rate, Requests, benchmarked, cost_of, estimate, measured, requests_for
from nsfwscan.workflows.scan import run_scan
from tests.runs.rows import engine, files

TABLE = {
    "name": "ours",
    "currency": "EUR",
    "date": "2026-11-01",
    "source": "the contract",
    "vcpu_hour": 0.05,
    "gpu_hour": {"A10G": 0.8, "A100": 2.0},
    "get_per_1000": 0.0004,
    "list_per_1000": 0.005,
    "egress_per_gib": 0.09,
}
OURS = Prices.of(TABLE)
CPU_NODE, GPU_NODE = Node(4, cpu="Xeon"), Node(16, 1, "A10G")


# --- price tables ---------------------------------------------------------------------------------------------------


def test_our_own_table_is_whole() -> None:
    """The table that comes with nsfwscan loads, names its source and date, and says that it is to be checked."""
    prices = Prices.load()
    assert "check yours" in prices.name and prices.source and prices.currency == "USD"
    assert prices.vcpu_hour > 0 and all(price > 0 for price in prices.gpu_hour.values())
    assert prices.egress_per_gib == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vcpu_hour": -1}, "vcpu_hour: Input should be greater than or equal to 0"),
        ({"vcpu_hour": "dear"}, "vcpu_hour: Input should be a valid number"),
        ({"currency": "euros"}, "currency: String should match pattern"),
        ({"gpu_hours": {}}, "gpu_hours: Extra inputs are not permitted"),
        ({"gpu_hour": {"T4": None}}, "gpu_hour.T4: Input should be a valid number"),
        ({"date": "soon"}, "date: "),
        ({"name": None}, "name: "),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """A price table with a wrong key or value is refused, with the file and the key."""
    table = tmp_path / "prices.yaml"
    table.write_text(json.dumps(TABLE | change))  # JSON is YAML
    with pytest.raises(ConfigError, match=r"wrong configuration in .*prices\.yaml") as refused:
        Prices.load(str(table))
    assert message in str(refused.value)


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    """A price table that cannot be read is a wrong option, before anything runs."""
    config = ScanConfig.load(None, {"source": {"uris": ["/m"]}, "out": "/o", "cost": {"prices": str(tmp_path / "no")}})
    with pytest.raises(ConfigError, match=r"cannot read .*no: No such file"):
        run_scan(config, "r", engine(), Silent())


@pytest.mark.parametrize(
    ("kind", "price"), [("A10G", 0.8), ("A100-SXM4", 2.0), ("A10", None), ("A1000", None), (None, None)]
)
def test_prices_of_gpus(kind: str | None, price: float | None) -> None:
    """A GPU's price is found under its name or a word of it, and never under one that is only alike."""
    assert OURS.of_gpu(kind) == price


# --- a finished run -------------------------------------------------------------------------------------------------


def test_the_sum() -> None:
    """Machines cost their vCPUs and GPUs for the whole time, idle or not; the store its requests and what leaves it."""
    requests = Requests(get=2_000_000, list=3000, bytes=10 * 2**30)
    cost = cost_of([CPU_NODE, GPU_NODE, GPU_NODE], 1800, 2_000_000, requests, OURS)
    assert (cost.hours, cost.core_hours, cost.gpu_hours) == (0.5, 18, 1)
    assert cost.amount == pytest.approx(18 * 0.05 + 1 * 0.8 + 2000 * 0.0004 + 3 * 0.005 + 10 * 0.09)
    assert cost.per_million == pytest.approx(cost.amount / 2)
    assert (cost.currency, cost.prices) == ("EUR", "ours (2026-11-01)")


def test_no_price_no_amount() -> None:
    """A GPU that the table does not name leaves the hours without an amount, and says which one it is."""
    cost = cost_of([Node(8, 1, "B300"), GPU_NODE], 3600, 10, Requests(), OURS)
    assert (cost.core_hours, cost.gpu_hours, cost.amount, cost.per_million) == (24, 2, None, None)
    assert cost.missing == "no price for a GPU of the kind B300 (gpu_hour)"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("s3://media/2026/", Requests(900, 2, 5000)),
        ("/mnt/media", Requests()),
        ("gs://media/2026/", Requests()),
    ],
)
def test_requests(source: str, expected: Requests) -> None:
    """S3 asks for a LIST each thousand keys and a GET each object; of other stores no price is known."""
    assert requests_for([source], 1001, 900, 5000) == expected


def scanned_on(media: Path, out: Path, run_id: str, nodes: Sequence[Node], **sections: Any) -> dict[str, Any]:
    """A run with made-up rows, on made-up machines."""
    fleets: list[Fleet] = []

    def told(job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
        fleets.append(Fleet(tuple(nodes), Layout("fused", 2)))
        yield from engine()(job, shards, deadline)

    given = {"source": {"uris": [str(media)]}, "out": str(out), "previous": {"reuse": False}, **sections}
    return run_scan(ScanConfig.load(None, given), run_id, told, Silent(), fleets=fleets).record


def test_what_a_run_records(tmp_path: Path) -> None:
    """`run.json` has the machines and the cost of the run, by the user's table, from its own timings."""
    table = tmp_path / "prices.yaml"
    table.write_text(json.dumps(TABLE))
    media = files(tmp_path / "media", 30)
    record = scanned_on(media, tmp_path / "out", "r", [CPU_NODE], cost={"prices": str(table)})
    assert [node.model_dump() for node in record.machine.nodes] == [
        {"count": 1, "cpus": 4, "gpus": 0, "gpu": None, "cpu": "Xeon", "memory_bytes": None}
    ]
    seconds = record.timings.listing_s + record.timings.scan_s + record.timings.commit_s
    cost = record.cost
    assert (cost.objects, cost.steady) == (30, False)
    assert cost.amount == pytest.approx(seconds / 3600 * 4 * 0.05)
    assert cost.per_million == pytest.approx(cost.amount / 30 * 1e6)
    assert cost.requests.model_dump() == {"get": 0, "list": 0, "bytes": 0}


def test_machines_that_nobody_names(tmp_path: Path) -> None:
    """An engine that does not say what it runs on leaves the cost of the run unknown."""
    config = ScanConfig.load(
        None, {"source": {"uris": [str(files(tmp_path / "media", 3))]}, "out": str(tmp_path / "out")}
    )
    record = run_scan(config, "r", engine(), Silent()).record
    assert (record.machine, record.cost) == (None, None)


# --- a run to come --------------------------------------------------------------------------------------------------


def rewritten(store: Store, run_id: str, **changes: Any) -> None:
    """Change what a run says of itself, as if it had been larger or faster."""
    folder = Run(store, run_id).folder
    record = folder.read_json("run.json")
    assert record is not None
    cost = record["cost"] and {**record["cost"], "objects": changes.pop("objects", record["cost"]["objects"])}
    folder.write("run.json", to_json({**record, "cost": cost, **changes}))


@pytest.fixture(scope="module")
def four_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A long run, one on other machines, one with another preprocessing, a short one."""
    folder = tmp_path_factory.mktemp("runs")
    media, out = files(folder / "media", 20), folder / "out"
    store = Store.at(str(out), StorageConfig())
    timings = {"listing_s": 1.0, "scan_s": 100.0, "commit_s": 1.0, "resumed_shards": 0}
    scanned_on(media, out, "1", [CPU_NODE, CPU_NODE])
    rewritten(store, "1", images_per_s=50.0, objects=5000, timings=timings)
    scanned_on(media, out, "2", [GPU_NODE])
    rewritten(store, "2", images_per_s=900.0, objects=5000)
    scanned_on(media, out, "3", [CPU_NODE], decode={"pdq": "off"})
    rewritten(store, "3", images_per_s=40.0, objects=5000)
    scanned_on(media, out, "4", [CPU_NODE])
    rewritten(store, "4", images_per_s=2.0, objects=20)
    return out


@pytest.fixture
def store(four_runs: Path, tmp_path: Path) -> Store:
    """These runs, to be changed by a test."""
    return Store.at(str(shutil.copytree(four_runs, tmp_path / "out")), StorageConfig())


def made_with(store: Store, run_id: str) -> dict[str, str]:
    return Run(store, run_id).record().reuse_keys.model_dump()


def test_the_rate_is_that_of_a_run_like_this(store: Store) -> None:
    """The rate comes from a run with the same model and preprocessing on such machines; a long one counts more than
    the newest, which was hardly more than its start."""
    rate = measured(store, made_with(store, "1"), [CPU_NODE])
    assert rate is not None and (rate.per_s, rate.steady) == (50.0, True)
    assert rate.basis == "50.0/s over 5,000 objects, run 1"
    exact = measured(store, made_with(store, "3"), [CPU_NODE])
    assert exact is not None and exact.per_s == 40.0
    gpu = measured(store, made_with(store, "1"), [GPU_NODE, GPU_NODE])
    assert gpu is not None and gpu.per_s == 900.0


def test_a_short_run_is_better_than_none(store: Store) -> None:
    """Where there is only a short run, its rate is given, and said to be mostly its start."""
    Run(store, "1").folder.delete("_SUCCESS")
    rate = measured(store, made_with(store, "1"), [CPU_NODE])
    assert rate is not None and (rate.per_s, rate.steady) == (2.0, False)
    assert rate.basis.endswith("run 4; so few that most of it may be the start")


@pytest.mark.parametrize("nodes", [[Node(8, cpu="Xeon")], [Node(4, cpu="EPYC")], [CPU_NODE, GPU_NODE], [Node(16, 1)]])
def test_nothing_is_made_up(store: Store, nodes: list[Node]) -> None:
    """On machines of a kind that was never measured, or with a model that never ran, there is no rate."""
    assert measured(store, made_with(store, "1"), nodes) is None
    assert measured(store, {**made_with(store, "1"), "scoring": "another"}, [CPU_NODE]) is None


def test_records_of_old(store: Store) -> None:
    """Runs whose machines are not known, and runs whose record is damaged, are passed over."""
    for run_id in ("1", "4"):
        record = {**Run(store, run_id).record().as_json(), "machine": None, "cost": None}
        Run(store, run_id).folder.write("run.json", to_json(record))
    Run(store, "2").folder.write("run.json", b"{")
    assert measured(store, made_with(store, "3"), [CPU_NODE]) is not None
    assert measured(store, made_with(store, "1"), [CPU_NODE]) is None
    assert measured(store, made_with(store, "3"), [GPU_NODE]) is None


def test_more_machines_take_less_time(store: Store) -> None:
    """A rate is taken in proportion to the machines, and the estimate says so; listing and commit are not."""
    rate = measured(store, made_with(store, "1"), [CPU_NODE])
    assert rate is not None
    found = estimate(10_000, rate, [CPU_NODE] * 6, ["s3://media/"], OURS)
    assert found is not None
    assert found.cost.hours == pytest.approx((10_000 / 150 + 10_000 * 2 / 20) / 3600)
    assert found.basis == "50.0/s over 5,000 objects, run 1; taken times 3, as the machines are"
    assert (found.cost.requests.get, found.cost.requests.list) == (10_000, 10)


def bench(path: Path, *, gpus: Sequence[str] = (), value: float | None = 30.0, key: str = "scan.steady") -> str:
    """Return what jobs/bench.py writes, as far as it is read."""
    machine = {"cpu": "Xeon", "cores": 2, "gpus": list(gpus), "measured_at": "2026-11-01"}
    figures = [{"key": "model", "value": 40.0, "unit": "images/s"}, {"key": key, "value": value, "label": "a scan"}]
    settings = {"model": "vit-b-16"}
    path.write_text(json.dumps({"machine": machine, "settings": settings, "figures": figures, "ratios": {}}))
    return str(path)


def test_a_benchmark(tmp_path: Path) -> None:
    """A benchmark's steady rate is taken in proportion to cores, or to GPUs where it had some; never from one to the
    other."""
    rate = benchmarked(bench(tmp_path / "b.json"), embedded=False)
    assert rate.basis == "30.0/s with vit-b-16, the benchmark b.json on 2 cores of Xeon"
    found = estimate(3600, rate, [Node(4), Node(4)], ["/media"], OURS)
    assert found is not None and found.cost.hours == pytest.approx(3600 / 120 / 3600)
    assert estimate(3600, rate, [GPU_NODE], ["/media"], OURS) is None
    with_gpu = Rate(100.0, 0.0, None, 16, 1, "a benchmark")
    assert estimate(1, with_gpu, [CPU_NODE], ["/media"], OURS) is None
    starved = estimate(100, with_gpu, [Node(8, 1, "A10G")], ["/media"], OURS)
    assert starved is not None and starved.cost.hours == pytest.approx(2 / 3600)


def test_a_benchmark_of_the_embedded_model(tmp_path: Path) -> None:
    """The embedded model has a rate of its own; a ViT's is not taken for it."""
    rate = benchmarked(bench(tmp_path / "b.json", key="embedded.steady"), embedded=True)
    assert rate.basis == "30.0/s with the same model, the benchmark b.json on 2 cores of Xeon"
    with pytest.raises(ConfigError, match=r"no rate of a scan with this model \(embedded.steady\)"):
        benchmarked(bench(tmp_path / "a.json"), embedded=True)


def test_what_is_no_benchmark(tmp_path: Path) -> None:
    """A file of rates that is none, or that lacks the rate of a scan, is a wrong option."""
    (tmp_path / "x").write_text("{]")
    for path, message in (
        (str(tmp_path / "no"), "cannot read the rates .*No such file"),
        (str(tmp_path / "x"), "is not the JSON of a benchmark"),
        (bench(tmp_path / "a.json", value=None), "holds no rate of a scan"),
        (bench(tmp_path / "b.json", key="cold.first"), "holds no rate of a scan"),
    ):
        with pytest.raises(ConfigError, match=message):
            benchmarked(path, embedded=False)


def test_the_benchmark_is_read_as_it_is_written(tmp_path: Path) -> None:
    """What the benchmark writes can be given as --rates."""
    from jobs.benchmark.figures import figure
    from jobs.benchmark.machine import describe_machine
    from jobs.benchmark.table import as_json

    path = tmp_path / "bench.json"
    path.write_text(
        json.dumps(as_json(describe_machine(), {"model": "small"}, [figure("scan.steady", "a scan", [7.0, 9.0, 8.0])]))
    )
    assert benchmarked(str(path), embedded=False).per_s == 8.0
