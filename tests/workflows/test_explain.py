"""`--explain` says what a scan would do, and does none of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import nsfwscan
from nsfwscan.cli.main import main
from nsfwscan.cli.terminal import describe_plan
from nsfwscan.config import ScanConfig
from nsfwscan.errors import ConfigError, ModelError, SourceError
from nsfwscan.execution.deadline import Deadline
from nsfwscan.execution.layout import Fleet, Layout, Node
from nsfwscan.execution.machine import this_machine
from nsfwscan.execution.pipeline import Job
from nsfwscan.reports.progress import Silent
from nsfwscan.runs.plan import Shard, shard_count
from nsfwscan.runs.staging import ShardResult
from nsfwscan.workflows import explain
from nsfwscan.workflows.explain import Explanation
from nsfwscan.workflows.scan import run_scan
from tests.checkpoints import make_vit
from tests.runs.rows import begun, engine, files

GIB = 2**30


def explained(media: Path | str, out: Path | str, /, **sections: Any) -> Explanation:
    return nsfwscan.explain(media, out, **sections)


def scan_on_this_machine(media: Path, out: Path, **sections: Any) -> str:
    """A committed run with made-up rows, on this machine as it is."""
    fleets: list[Fleet] = []

    def told(job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
        fleets.append(Fleet((this_machine(),), Layout("fused", 2)))
        yield from engine()(job, shards, deadline)

    config = ScanConfig.load(None, {"source": {"uris": [str(media)]}, "out": str(out), **sections})
    return run_scan(config, None, told, Silent(), fleets=fleets).run_id


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vit(tmp_path_factory.mktemp("vit"))


def test_nothing_is_done(tmp_path: Path) -> None:
    """It lists nothing, writes nothing, and starts neither Ray nor torch; a source that is not there is not missed."""
    script = (
        "import nsfwscan, sys; p = nsfwscan.explain(sys.argv[1], sys.argv[2]); q = nsfwscan.explain(*sys.argv[1:]);"
        "print(p.model == q.model, {'ray', 'torch'} & {*sys.modules})"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "media"), str(tmp_path / "out")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert shown.stdout == "True set()\n"
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path: Path) -> None:
    """The command prints the plan and exits with 0: model, device, machines, actors, memory, shards, and no estimate
    where nothing was measured."""
    command = ["scan", str(tmp_path / "media"), "--out", str(tmp_path / "out"), "--explain", "--num-cpus", "3"]
    done = CliRunner().invoke(main, [*command, "--limit", "70000", "--batch-size", "4"])
    assert (done.exit_code, done.stderr) == (0, "")
    lines = {line[:12].strip(): line[12:] for line in done.stdout.splitlines()}
    assert lines["model"].startswith("open-nsfw@") and lines["model"].endswith("224 × 224 pixels")
    assert lines["device"].startswith("CPU, float32, batches of 4, ")
    assert lines["machines"].startswith("1 × 3 CPUs")
    assert lines["actors"].endswith("in all, the model in each")
    assert "with Ray and the driver" in lines["memory"] and lines["memory"].endswith("object store 512.0 MiB")
    assert lines["shards"] == "of 256 objects, 36.8 MiB of pixels"
    assert lines["objects"] == "70,000: at most, by --limit"
    assert lines["estimate"].startswith("none: nothing was measured")
    assert "money" not in lines and list(tmp_path.iterdir()) == []


def test_errors_come_now(tmp_path: Path) -> None:
    """What would stop the scan at once stops its explanation: a wrong option, price table or model."""
    with pytest.raises(ConfigError, match=r"engine\.shard_rows"):
        explained("media", tmp_path, engine={"shard_rows": 0})
    with pytest.raises(ConfigError, match="cannot read"):
        explained("media", tmp_path, cost={"prices": str(tmp_path / "none.yaml")})
    with pytest.raises(ModelError, match="no such model directory"):
        explained("media", tmp_path, model={"uri": str(tmp_path / "none")})


# --- how many objects -----------------------------------------------------------------------------------------------


def manifest(path: Path, rows: int) -> Path:
    pq.write_table(pa.table({"uri": [f"/media/{i}.jpg" for i in range(rows)]}), path)
    return path


def test_a_manifest_is_counted(tmp_path: Path) -> None:
    """The rows of Parquet manifests are known from their footers; --limit takes fewer, never more."""
    source = manifest(tmp_path / "m.parquet", 1200)
    both = nsfwscan.explain([source, manifest(tmp_path / "n.parquet", 34)], tmp_path / "out")
    assert (both.objects, both.objects_from) == (1234, "by the manifest's row count")
    few = explained(source, tmp_path / "out", source={"limit": 5})
    assert (few.objects, few.layout.cpu_actors, few.objects_from) == (5, 1, "at most, by --limit")
    assert explained(source, tmp_path / "out", source={"limit": 5000}).objects == 1200
    filtered = explained(source, tmp_path / "out", source={"include": ["*.png"]})
    assert filtered.objects_from == "by the manifest's row count (before --include and --exclude)"


def test_a_manifest_that_cannot_be_read(tmp_path: Path) -> None:
    """A manifest that is none, or that is not there, is an error now and not at night."""
    (tmp_path / "m.parquet").write_bytes(b"uri\na.jpg\n")
    for name in ("m.parquet", "none.parquet"):
        with pytest.raises(SourceError, match=name):
            explained(tmp_path / name, tmp_path / "out")


@pytest.mark.parametrize("rows", [0, 1, 16, 17, 479, 480, 481, 5000])
@pytest.mark.parametrize("shard_rows", [10, 256])
def test_shards_are_counted_as_they_are_cut(tmp_path: Path, rows: int, shard_rows: int) -> None:
    """The number of shards is known from the number of objects."""
    uris = [f"/media/{i:05}" for i in range(rows)]
    cut = len(begun(tmp_path, uris, shard_rows=shard_rows)[1].shards) if rows else 0
    assert shard_count(rows, shard_rows) == cut


# --- hours and money ------------------------------------------------------------------------------------------------


def test_the_last_run_tells(tmp_path: Path) -> None:
    """A committed run over the same sources tells how many objects there are, and how long they took on this machine;
    it is not taken for another source's, nor for another model's."""
    media, out = files(tmp_path / "media", 40), tmp_path / "out"
    run_id = scan_on_this_machine(media, out)
    plan = explained(media, out)
    assert plan.objects_from == f"listed by run {run_id}, which read 40 of them"
    assert plan.estimate is not None and plan.estimate.cost.objects == plan.objects == 40
    assert plan.per_million is None, "forty objects tell nothing of a million"
    assert f"40 objects, run {run_id}" in describe_plan(plan)
    other = explained(tmp_path / "elsewhere", out)
    assert (other.objects, other.estimate) == (None, None)
    assert other.why_no_estimate == "how many objects there are is not known"
    assert explained(media, out, decode={"pdq": "off"}).estimate is None


def test_a_run_of_a_part_is_no_count(tmp_path: Path) -> None:
    """What was listed under --limit, or with other filters, is not the whole source."""
    media, out = files(tmp_path / "media", 9), tmp_path / "out"
    scan_on_this_machine(media, out, source={"uris": [str(media)], "limit": 3})
    assert explained(media, out).objects is None
    scan_on_this_machine(media, out, source={"uris": [str(media)], "exclude": ["*1.jpg"]})
    assert explained(media, out).objects is None
    assert explained(media, out, source={"exclude": ["*1.jpg"]}).objects == 8


def test_rates_of_a_benchmark(tmp_path: Path) -> None:
    """With a benchmark's JSON there is an estimate, by the user's prices, where no run was measured."""
    rates, prices = tmp_path / "bench.json", tmp_path / "prices.yaml"
    machine = {"cpu": "Xeon", "cores": 1, "gpus": []}
    figures = [{"key": "scan.steady", "value": 1.0}, {"key": "embedded.steady", "value": 10.0}]
    rates.write_text(json.dumps({"machine": machine, "settings": {"model": "vit-b-16"}, "figures": figures}))
    prices.write_text("{name: ours, currency: EUR, date: 2026-11-01, source: contract, vcpu_hour: 0.5}")
    command = ["scan", str(tmp_path / "media"), "--out", str(tmp_path / "out"), "--explain", "--num-cpus", "2"]
    command += ["--limit", "72000", "--rates", str(rates), "--prices", str(prices)]
    lines = {line[:12].strip(): line[12:] for line in CliRunner().invoke(main, command).stdout.splitlines()}
    assert lines["time"] == "1 h 00 min, 2 core-hours, if all are read"
    assert lines["money"] == "EUR 1.00"
    assert lines["a million"] == "13 h 53 min, 27.8 core-hours, EUR 13.89"
    assert lines["measured"].endswith("on 1 cores of Xeon; taken times 2, as the machines are")
    assert lines["prices"] == "ours (2026-11-01)"


def test_few_objects_need_no_ray(tmp_path: Path, vit: Path) -> None:
    """A few objects without a cluster are scanned in this process, and the plan says so; one more, and Ray is there."""
    plan = explained("media", tmp_path, model={"uri": str(vit)}, source={"limit": 1000}, engine={"num_cpus": 2})
    text = describe_plan(plan)
    assert (plan.layout.kind, plan.layout.cpu_actors, plan.layout.threads) == ("inline", 2, 1)
    assert "  cluster   none: in this process" in text
    assert "  threads 2, the model in each" in text
    assert "actors" not in text and "object store" not in text
    assert "a Ray on this machine" in describe_plan(explained("media", tmp_path, source={"limit": 1001}))


# --- machines -------------------------------------------------------------------------------------------------------


def test_a_cluster_of_cores_and_gpus(tmp_path: Path, vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of machine is told of by itself: what it has, what would run there, what that takes."""
    nodes = (
        *[Node(64, memory_bytes=200 * GIB, object_store_bytes=60 * GIB)] * 3,
        Node(16, 1, "A10G", memory_bytes=50 * GIB, object_store_bytes=19 * GIB),
        Node(32, memory_bytes=5 * GIB, object_store_bytes=2 * GIB),
    )
    monkeypatch.setattr(explain, "_nodes", lambda *_: nodes)
    plan = explained(tmp_path / "media", tmp_path / "out", model={"uri": str(vit)}, source={"limit": 10**8})
    assert (plan.hardware.device, plan.hardware.dtype, plan.hardware.batch_size) == ("cuda", "float16", 128)
    assert [(e.count, e.place.cpu_actors, e.place.model_actors) for e in plan.expected] == [
        (3, 64, 0),
        (1, 14, 1),
        (1, 11, 0),
    ]
    text = describe_plan(plan)
    assert "3 × 64 CPUs\n" in text and "1 × 16 CPUs, 1 × A10G\n" in text
    assert "217 that read and decode, 55 that do for second looks, 1 with the model, 1 that stages" in text
    assert "memory for no more actors than these: cores stay idle" in text
    assert "of pixels in the object store" in text


@pytest.mark.ray
@pytest.mark.full
def test_a_run_on_ray_is_what_was_planned(
    ray_local: None, tmp_path: Path, vit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is planned for a cluster is what the scan then runs there, and records; and the next plan goes by it."""
    import ray

    address = ray.get_runtime_context().gcs_address
    media, out = files(tmp_path / "media", 20), tmp_path / "out"
    given: dict[str, Any] = {"model": {"uri": str(vit)}, "engine": {"address": address}}
    before = explained(media, out, **given)
    assert (before.cluster, before.layout.kind, before.estimate) == (address, "split", None)
    result = nsfwscan.scan(media, out, **given)
    assert result.record.as_json()["machine"] == before.fleet.as_json()
    assert result.record.cost.objects == 20 and result.record.cost.gpu_hours > 0
    assert result.record.cost.missing == "no price for a GPU of the kind unknown (gpu_hour)"
    after = explained(media, out, **given)
    assert after.estimate is not None and after.estimate.basis.startswith(f"{result.record.images_per_s:,.1f}/s")
