"""Whole scans of a media store that misbehaves, into a report store that fails: nothing lost, nothing half, one clear word.

In: a few objects of the demo store on an S3 server, behind a proxy that injects faults. Without Ray: faults of stores
are met by the same code with and without it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nsfwscan.config import ScanConfig
from nsfwscan.demo.media import DemoObject
from nsfwscan.errors import NsfwscanError, StoreError
from nsfwscan.execution.deadline import Deadline
from nsfwscan.execution.inline import run_inline
from nsfwscan.execution.pipeline import Job
from nsfwscan.reports.progress import Silent
from nsfwscan.runs.plan import Shard
from nsfwscan.runs.pruning import plan_pruning, prune
from nsfwscan.runs.run import Run
from nsfwscan.runs.staging import ShardResult
from nsfwscan.runs.verify import verify
from nsfwscan.storage.store import Store
from nsfwscan.workflows.scan import ScanResult, run_scan
from tests.runs.rows import scanned
from tests.s3.servers import FaultyProxy, S3Endpoint
from tests.s3.test_servers import client

pytestmark = pytest.mark.long

MEDIA, REPORTS = "faulty-media", "faulty-reports"
_OF_ONE_RUN = {"run_id", "scanned_at"}

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def media(moto: S3Endpoint, demo: tuple[Path, list[DemoObject]]) -> str:
    """A dozen objects in a bucket, good and bad ones, and a bucket for reports."""
    s3 = client(moto)
    s3.create_bucket(Bucket=MEDIA)
    s3.create_bucket(Bucket=REPORTS)
    names = [o.path for o in demo[1] if "\n" not in o.path]
    for name in [*names[:: len(names) // 9], "broken/garbage.jpg", "broken/empty.jpg"]:
        s3.put_object(Bucket=MEDIA, Key=name, Body=(demo[0] / name).read_bytes())
    return f"s3://{MEDIA}/"


def settings(media: str, out: str, proxy: FaultyProxy | None) -> ScanConfig:
    """A scan in shards of three objects, through the proxy if there is one."""
    storage = {"endpoint_url": proxy.endpoint.endpoint_url} if proxy else {}
    small = {"engine": {"shard_rows": 3}, "model": {"batch_size": 3}}
    return ScanConfig.load(None, {"source": {"uris": [media]}, "out": out, "storage": storage, **small})


class Counting:
    """Runs shards in this process, and remembers which it finished."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def __call__(self, job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
        for result in run_inline(job, shards, deadline):
            self.ran.append(result.shard)
            yield result


def scan(config: ScanConfig, engine: Any = run_inline) -> ScanResult:
    return run_scan(config, "r", engine, Silent())


def run_of(config: ScanConfig) -> Run:
    """Return the run, reached past the proxy."""
    return Run(Store.at(config.out, config.storage.model_copy(update={"endpoint_url": None})), "r")


def rows(run: Run) -> Rows:
    """Return the committed report's rows by URI, but for what is another in each run."""
    files = [file.path for file in run.record().files if file.path.startswith("report/")]
    table = pa.concat_tables([pq.read_table(io.BytesIO(run.folder.read(file))) for file in files])
    return [{k: v for k, v in row.items() if k not in _OF_ONE_RUN} for row in table.sort_by("uri").to_pylist()]


@pytest.fixture(scope="module")
def undisturbed(media: str) -> Rows:
    """Rows of a scan in which nothing went wrong."""
    config = settings(media, f"s3://{REPORTS}/undisturbed", None)
    scan(config)
    return rows(run_of(config))


def in_media(method: str, path: str) -> bool:
    return method == "GET" and path.startswith(f"/{MEDIA}/") and "list-type" not in path


def in_listing(method: str, path: str) -> bool:
    return method == "GET" and path.startswith(f"/{MEDIA}") and "list-type" in path


def writing_reports(method: str, path: str) -> bool:
    return method == "PUT" and path.startswith(f"/{REPORTS}/")


def reading_reports(method: str, path: str) -> bool:
    return method in ("GET", "HEAD") and path.startswith(f"/{REPORTS}")


def is_unseen(run: Run) -> bool:
    """Return whether a reader that follows `_SUCCESS` and `run.json` sees nothing of the run."""
    return run.state() != "committed" and not run.folder.exists("_SUCCESS")


def test_a_store_that_fails_now_and_then_loses_nothing(media: str, undisturbed: Rows, proxy: FaultyProxy) -> None:
    """One request in ten answered 500, 503 or SlowDown, at random, others cut, truncated or reset, for media and reports
    alike: the very rows of an undisturbed scan, and a report that verifies."""
    everywhere: Callable[[str, str], bool] = lambda method, path: True  # noqa: E731
    proxy.fail(everywhere, status=500, code="InternalError", share=0.03)
    proxy.fail(everywhere, status=503, code="ServiceUnavailable", share=0.03)
    proxy.fail(everywhere, status=503, code="SlowDown", share=0.04)
    proxy.cut_body(lambda method, path: method == "GET", every=9)
    proxy.truncate(in_media, every=4)
    proxy.reset(lambda method, path: method in ("GET", "HEAD"), every=11)
    config = settings(media, f"s3://{REPORTS}/faults", proxy)
    scan(config)
    assert all(proxy.injected[kind] > 0 for kind in ("fail", "cut_body", "truncate", "reset")), proxy.injected
    assert rows(run_of(config)) == undisturbed
    assert not list(verify(run_of(config)))


@pytest.mark.parametrize(
    ("what", "after"),
    [(in_listing, 0), (in_media, 7), (writing_reports, 0), (writing_reports, 5), (reading_reports, 8)],
    ids=["listing", "media", "first write", "a staged part", "reading the store"],
)
def test_credentials_that_expire_stop_the_run_and_lose_nothing(
    media: str, undisturbed: Rows, proxy: FaultyProxy, what: Any, after: int
) -> None:
    """The run stops at once, with what to check; with good ones the same command goes on where it stopped."""
    config = settings(media, f"s3://{REPORTS}/expired-{what.__name__}-{after}", proxy)
    proxy.fail(what, status=400, code="ExpiredToken", after=after)
    first, second = Counting(), Counting()
    with pytest.raises(NsfwscanError, match=r"the store refuses the credentials \(ExpiredToken\).*AWS_SESSION_TOKEN"):
        scan(config, first)
    run = run_of(config)
    staged = {name.removesuffix(".arrow") for name in run.staging.names("") if name.endswith(".arrow")}
    assert staged >= set(first.ran) and is_unseen(run) and not run.folder.exists("run.json")
    proxy.clear()
    scan(config, second)
    assert not staged & set(second.ran)
    assert rows(run) == undisturbed
    assert not list(verify(run))
    assert run.store.names("staging") == []


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("/listing/", 507),
        ("/plan.json", 403),
        ("/staging/r/0", 507),
        ("/report/", 403),
        ("/summary.html", 507),
        ("/run.json", 403),
        ("/_SUCCESS", 507),
    ],
)
def test_a_report_store_that_fails_shows_no_half_report(
    media: str, undisturbed: Rows, proxy: FaultyProxy, name: str, status: int
) -> None:
    """Whichever write fails, for a full bucket or one that became read-only: the run stops with the reason, readers see
    nothing, and the same command ends it."""
    config = settings(media, f"s3://{REPORTS}/fails-{name.strip('/').replace('/', '-')}", proxy)
    code, said = ("QuotaExceeded", "the store is full") if status == 507 else ("AccessDenied", "permission denied")
    proxy.fail(lambda method, path: method == "PUT" and name in path, status=status, code=code)
    with pytest.raises(StoreError, match=rf"cannot write s3://{REPORTS}/.*{name}.*: {said} \({code}\)"):
        scan(config)
    run = run_of(config)
    assert is_unseen(run)
    assert run.folder.exists("run.json") is (name == "/_SUCCESS")
    proxy.clear()
    scan(config)
    assert rows(run) == undisturbed
    assert not list(verify(run))


def test_denied_deletions_of_a_prune_are_told(proxy: FaultyProxy, media: str) -> None:
    """Where no report may be deleted, as with the permissions of a scan, nothing is pruned; where some file may not be, the
    run is named with the reason, counts as pruned, and goes once it may."""
    out = f"s3://{REPORTS}/denied"
    for run_id in ("1", "2", "3"):
        scanned(media, out, run_id=run_id)
    store = Store.at(out, settings(media, out, proxy).storage)
    for place in ("/runs/", "/report/"):
        proxy.clear()
        proxy.fail(lambda method, path: "?delete" in path, status=501, code="NotImplemented")  # one by one, then
        proxy.fail(lambda method, path, p=place: method == "DELETE" and p in path, status=403, code="AccessDenied")
        if place == "/runs/":
            with pytest.raises(StoreError, match=r"cannot delete .*: permission denied \(AccessDenied\)"):
                list(prune(store, plan_pruning(store, timedelta(0)), "prune it"))
            assert Run(store, "1").is_committed()
        else:
            [one] = prune(store, plan_pruning(store, timedelta(0)), "prune it")
            assert "permission denied (AccessDenied)" in str(one.failed)
            assert Run(store, "1").state() == "pruned"
    proxy.clear()
    [one] = prune(store, plan_pruning(store, timedelta(0)), "prune it")
    assert one.failed is None
    assert Run(store, "1").folder.names("") == ["pruned.json", "run.json"]


def test_a_failure_between_the_parts_of_a_report(
    media: str, undisturbed: Rows, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts that were written before the store failed are no report; the next attempt writes the same ones again."""
    monkeypatch.setattr("nsfwscan.runs.plan.RANGE_ROWS", 4)
    config = settings(media, f"s3://{REPORTS}/between", proxy)
    proxy.fail(lambda method, path: method == "PUT" and "/report/" in path, status=507, code="QuotaExceeded", after=2)
    with pytest.raises(StoreError, match="the store is full"):
        scan(config)
    run = run_of(config)
    written = run.folder.names("report")
    assert len(written) == 2 and is_unseen(run)
    proxy.clear()
    scan(config)
    assert set(written) < set(run.folder.names("report"))
    assert rows(run) == undisturbed and not list(verify(run))


@pytest.mark.parametrize("left_kib", [8, 60])
def test_a_disk_that_runs_full_heals(media: str, undisturbed: Rows, small_disk: Path, left_kib: int) -> None:
    """A full disk stops the run wherever it is, and leaves no temporary file; with room the same command ends it."""
    config = settings(media, str(small_disk / "reports"), None)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(4 * 2**20 - left_kib * 1024))
    with pytest.raises(StoreError, match=r"the store is full \(No space left on device\): make room"):
        scan(config)
    run = run_of(config)
    assert is_unseen(run) and not run.folder.exists("run.json")
    assert not [name for _, _, names in os.walk(small_disk) for name in names if name.startswith(".tmp-")]
    ballast.unlink()
    scan(config)
    assert rows(run) == undisturbed and not list(verify(run))
