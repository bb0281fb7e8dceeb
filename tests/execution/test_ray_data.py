"""The pipeline on a real Ray: the same rows as inline, in both layouts, and errors that come back as themselves."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nsfwscan.banks.pdq_index import LARGE
from nsfwscan.config import ScanConfig, StorageConfig
from nsfwscan.demo.media import DemoObject
from nsfwscan.errors import DeadlineReached, ModelError, NsfwscanError, Stalled
from nsfwscan.execution.deadline import Deadline
from nsfwscan.execution.inline import run_inline
from nsfwscan.execution.layout import Layout
from nsfwscan.execution.pipeline import Job
from nsfwscan.images.pdq import pdq_of
from nsfwscan.models.registry import resolve
from nsfwscan.models.spec import ModelSpec
from nsfwscan.policy.rules import load_policy
from nsfwscan.reports.progress import Silent
from nsfwscan.runs.plan import Shard
from nsfwscan.runs.run import Run
from nsfwscan.runs.staging import ShardResult
from nsfwscan.schema import REPORT_SCHEMA
from nsfwscan.storage.store import Store
from nsfwscan.workflows.scan import Engine, ScanResult, run_scan
from tests.checkpoints import make_vit
from tests.later import later
from tests.runs.rows import begun, finished

ray_data = later("nsfwscan.execution.ray_data")
ray = later("ray")


pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_local")]

_SPLIT = Layout("split", cpu_actors=1, model_actors=1)
"""What runs where there are GPUs, here on one that is only a number."""
_SECOND_LOOKS = {"views": {"most": 3, "spike": 0.0}}
"""Every animation with more frames gets a second look."""


@pytest.fixture(autouse=True)
def gives_back() -> Iterator[None]:
    """However a run ends, and with its exception still at hand, its actors are gone: the CPUs are free again."""
    yield
    ended = time.monotonic()
    while ray.available_resources().get("CPU") != 2:
        assert time.monotonic() - ended < 60, ray.available_resources()
        time.sleep(0.2)


def _scan(media: Path, out: Path, run: Engine, **sections: object) -> ScanResult:
    config = ScanConfig.load(None, {"source": {"uris": [str(media)]}, "out": str(out), **sections})
    return run_scan(config, "test", run, Silent())


def _report(result: ScanResult) -> pa.Table:
    """Return the report's rows by URI, without what differs between any two runs."""
    parts = [pq.read_table(io.BytesIO(Path(uri).read_bytes())) for uri in result.report_files]
    table = pa.concat_tables(parts)
    assert table.schema == REPORT_SCHEMA
    return table.sort_by("uri").drop_columns(["scanned_at"])


@pytest.fixture(scope="module")
def inline(demo: tuple[Path, list[DemoObject]], tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    return _report(_scan(demo[0], tmp_path_factory.mktemp("inline"), run_inline, **_SECOND_LOOKS))


@pytest.mark.parametrize("layout", [None, _SPLIT], ids=["fused", "split"])
def test_ray_equals_inline(
    demo: tuple[Path, list[DemoObject]], inline: pa.Table, tmp_path: Path, layout: Layout
) -> None:
    """A scan on Ray reports exactly what the same stages report inline, scores to the bit, in either layout."""
    result = _scan(demo[0], tmp_path, partial(ray_data.run_shards, layout=layout), **_SECOND_LOOKS)
    assert _report(result).equals(inline)
    assert result.record.media is not None and result.record.media["animation"].closer == 3
    helpers = {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)}
    assert not helpers & {"ActorLocationTracker", "AutoscalingCoordinator", "datasets_stats_actor"}


def test_a_model_scores_while_second_looks_are_decoded() -> None:
    """A block whose second looks take their time holds no other: as long as they are decoded elsewhere, the model is
    free, and it has one block at a time."""
    scoring, second_scored, most = threading.Semaphore(1), threading.Event(), []

    def score(rows: pa.Table) -> pa.Table:
        most.append(scoring.acquire(blocking=False))
        scoring.release()
        return rows

    def look(rows: pa.Table) -> pa.Table:
        if rows["row"][0].as_py() == "first":
            assert second_scored.wait(60)
        else:
            second_scored.set()
        return rows

    to_nobody = SimpleNamespace(remote=lambda *_: None)
    model = ray_data._Model(None, None, SimpleNamespace(begin=to_nobody, move=to_nobody), {}, [])
    model.__dict__ |= {"_score": score, "_look": look}
    blocks = [ray_data._with_shard(pa.table({"row": [row]}), Shard(0, 0, 1, row)) for row in ("first", "second")]
    with ThreadPoolExecutor(2) as calls:
        done = list(calls.map(model, blocks, timeout=60))
    assert [ray_data._without_shard(block)[1]["row"].to_pylist() for block in done] == [["first"], ["second"]]
    assert most == [True, True]


@pytest.mark.long
def test_filters_and_detectors_on_ray(demo: tuple[Path, list[DemoObject]], tmp_path: Path) -> None:
    """With filters and further models, on actors that pass several columns of pixels on, the report is that of a scan
    without Ray, where one reads pictures again, too; what was settled has no score, and what a model cost is known."""
    pytest.importorskip("zxingcpp", reason="the extra text is not installed")
    make_vit(tmp_path / "vit")
    sections: dict[str, Any] = {
        "model": {"uri": str(tmp_path / "vit"), "dtype": "float32"},
        "cascade": {"enabled": True, "audit_sample": 0.3},
        "detectors": {
            "other": {"uri": str(tmp_path / "vit"), "labels": {"porn": "hot"}},
            "light": {},
            "link": {"uri": "embedded:link"},
        },
    }
    one_thread = {"engine": {"num_cpus": 1}}
    alone = _report(_scan(demo[0], tmp_path / "inline", run_inline, **sections, **one_thread))
    result = _scan(demo[0], tmp_path / "ray", partial(ray_data.run_shards, layout=_SPLIT), **sections)
    assert _report(result).equals(alone)
    assert result.record.balance.filtered > 10 and result.record.cascade.audit_sample > 3
    assert {"classify", "prefilter", "detect-other", "detect-light", "detect-link"} == set(result.record.model_times)


def test_every_object_as_declared(demo: tuple[Path, list[DemoObject]], inline: pa.Table) -> None:
    """Every object of the demo store ends in exactly one row, with the status, format and size that it has."""
    root, objects = demo
    rows = inline.to_pylist()
    assert [row["uri"] for row in rows] == sorted(str(root / o.path) for o in objects)
    by_path = {o.path: o for o in objects}
    for row in rows:
        expected = by_path[row["uri"].removeprefix(f"{root}/")]
        found = (
            row["status"],
            row["format"],
            row["width"],
            row["height"],
            row["camera"],
            row["software"],
            row["truth"],
        )
        assert found == (
            expected.status,
            expected.format,
            expected.width,
            expected.height,
            expected.camera,
            expected.software,
            expected.truth,
        ), expected
        assert (row["error"] is None) == (expected.status == "ok")
        assert (row["nsfw_score"] is None) == (expected.status != "ok")
        assert (row["decision"] == "undetermined") == (expected.status != "ok")
        assert row["sha256"] is not None
        if expected.status == "ok":
            assert row["frames"] == expected.frames
            assert 0 <= row["nsfw_score"] <= 1
            assert abs(row["score_neutral"] + row["score_nsfw"] - 1) < 1e-5


def test_duplicates_score_alike(demo: tuple[Path, list[DemoObject]], inline: pa.Table) -> None:
    """The same bytes get the same score to the bit, in whatever shard and batch they fell."""
    scores: dict[str, set[float]] = {}
    for row in inline.to_pylist():
        scores.setdefault(row["sha256"], set()).add(row["nsfw_score"])
    assert max(len(found) for found in scores.values()) == 1
    assert len(scores) < inline.num_rows


def test_worker_error_is_itself(demo: tuple[Path, list[DemoObject]], tmp_path: Path) -> None:
    """A set-up that breaks on a worker stops the run with the worker's own message, and stages nothing."""
    with pytest.raises(ModelError, match="float32 only"):
        _scan(demo[0] / "drawings", tmp_path, ray_data.run_shards, model={"dtype": "float16"})
    assert list((tmp_path / "staging").rglob("*.arrow")) == []  # but for the note of the attempt


def test_full_disk_is_not_success(
    demo: tuple[Path, list[DemoObject]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A staging area that cannot be written stops the run instead of ending in a report without rows."""
    (tmp_path / "staging").mkdir()
    engine = partial(_with_staging_in_the_way, tmp_path)
    with pytest.raises(NsfwscanError, match=r"cannot (read|write)"):
        _scan(demo[0] / "drawings", tmp_path, engine)
    assert not (tmp_path / "runs" / "test" / "_SUCCESS").exists()
    assert not list((tmp_path / "staging").rglob(".tmp-*"))


def _with_staging_in_the_way(out: Path, job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
    for shard in shards:
        (out / "staging" / "test" / shard.part).mkdir(parents=True)
    return ray_data.run_shards(job, shards, deadline)


def _asked_by_the_model_stage(name: str) -> bool:
    return name == "categories" and "default_worker" in sys.argv[0]  # the driver looks at all fields, to show them


class DeadlySpec(ModelSpec):
    """A model that kills its worker whenever it is asked, as a fault in a driver or a kernel would."""

    def __getattribute__(self, name: str) -> Any:
        if _asked_by_the_model_stage(name):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getattribute__(name)


class StuckSpec(ModelSpec):
    """A model that never answers."""

    def __getattribute__(self, name: str) -> Any:
        if _asked_by_the_model_stage(name):
            time.sleep(600)
        return super().__getattribute__(name)


def _with_model(kind: type[ModelSpec], layout: Layout | None) -> Engine:
    def engine(job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
        spec = kind(**{field.name: getattr(job.spec, field.name) for field in fields(ModelSpec)})
        return ray_data.run_shards(replace(job, spec=spec), shards, deadline, layout=layout)

    return engine


@pytest.mark.long
@pytest.mark.parametrize(
    "layout", [pytest.param(Layout("fused", 1), id="fused", marks=pytest.mark.full), pytest.param(_SPLIT, id="split")]
)
def test_a_model_that_keeps_dying_stops_the_run(
    demo: tuple[Path, list[DemoObject]], inline: pa.Table, tmp_path: Path, layout: Layout
) -> None:
    """Ray would restart its actor for ever: the watchdog stops the run and names the shard; resumed, it ends right."""
    with pytest.raises(
        Stalled, match=r"begun 2 times and never finished.*\n  shard 00000-000\d: row group \d of listing/"
    ):
        _scan(demo[0], tmp_path, _with_model(DeadlySpec, layout), engine={"max_attempts": 2}, **_SECOND_LOOKS)
    assert _report(_scan(demo[0], tmp_path, ray_data.run_shards, **_SECOND_LOOKS)).equals(inline)


@pytest.mark.parametrize(
    ("engine", "error", "message"),
    [
        (
            {"stall_timeout_s": 4},
            Stalled,
            r"no worker has moved for \d+ s \(engine.stall_timeout_s\); in hand:\n  shard",
        ),
        pytest.param(
            {"deadline": "8s"},
            DeadlineReached,
            r"the deadline .* has come\n0 of \d+ objects are done; --run-id test or",
            marks=pytest.mark.full,
        ),
    ],
)
def test_a_model_that_hangs_does_not_hold_the_run(
    demo: tuple[Path, list[DemoObject]],
    tmp_path: Path,
    engine: dict[str, Any],
    error: type[NsfwscanError],
    message: str,
) -> None:
    """A run in which nothing moves is stopped by the watchdog, and one that is out of time by its deadline."""
    began = time.monotonic()
    with pytest.raises(error, match=message):
        _scan(demo[0], tmp_path, _with_model(StuckSpec, Layout("fused", 1)), engine=engine)
    assert time.monotonic() - began < 200  # the model would answer after 600 s
    assert Run(Store.at(str(tmp_path), StorageConfig()), "test").state() == "unfinished"


@pytest.mark.parametrize(
    "layout", [pytest.param(Layout("fused", 1), id="fused", marks=pytest.mark.long), pytest.param(_SPLIT, id="split")]
)
def test_a_staged_shard_is_not_worked_on_again(tmp_path: Path, layout: Layout) -> None:
    """A task that Ray runs again, as when a node is lost, finds its shard staged: no read, no score, the same result."""
    run, plan = begun(tmp_path, [f"/nowhere/{i}.jpg" for i in range(40)])
    first = finished(run, plan.shards)
    config = ScanConfig.load(None, {"source": {"uris": ["/nowhere"]}, "out": str(tmp_path)})
    job = Job(config, resolve(config.model, config.storage), load_policy("open-nsfw"), run)
    before = {path: path.read_bytes() for path in (tmp_path / "staging").rglob("*.arrow")}
    again = list(ray_data.run_shards(job, plan.shards, layout=layout))
    assert sorted(again, key=lambda result: result.shard) == first
    assert {path: path.read_bytes() for path in (tmp_path / "staging").rglob("*.arrow")} == before


@pytest.mark.long
def test_a_large_bank_is_held_once_a_node(
    demo: tuple[Path, list[DemoObject]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its index lives in an actor that the workers ask: the same matches as inline, and the actor is gone afterwards."""
    monkeypatch.setenv("NSFWSCAN_CACHE", str(tmp_path / "cache"))
    others = np.random.default_rng(0).integers(0, 256, (LARGE + 1, 32), np.uint8)
    looks, _ = pdq_of(Image.open(demo[0] / "neutral/coffee.png").convert("RGB"))
    bank = tmp_path / "bank.txt"
    bank.write_text("".join(f"{row.tobytes().hex()}\n" for row in others) + looks)
    banks = {"large": {"uri": str(bank), "hash": "pdq"}}
    inline = _report(_scan(demo[0], tmp_path / "inline", run_inline, banks=banks))
    held: list[list[Any]] = []
    make = ray_data._indexes
    monkeypatch.setattr(
        "nsfwscan.execution.ray_data._indexes", lambda job: held.append(list((made := make(job)).values())) or made
    )
    found = _report(_scan(demo[0], tmp_path / "ray", ray_data.run_shards, banks=banks))
    assert found.equals(inline)
    matched = [row["uri"] for row in found.to_pylist() if row["match_bank"] == "large"]
    assert str(demo[0] / "neutral/coffee.png") in matched
    [[index]] = held
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(index.search.remote(0, others[:1]))
