"""A whole scan from S3 to S3 over HTTP, on Ray, through a store that misbehaves; on moto, and on Ceph in the full suite."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nsfwscan.config import ScanConfig, StorageConfig
from nsfwscan.demo.media import DemoObject
from nsfwscan.errors import SourceError
from nsfwscan.execution.deadline import Deadline
from nsfwscan.execution.inline import run_inline
from nsfwscan.execution.pipeline import Job
from nsfwscan.reports.progress import Silent
from nsfwscan.runs.plan import Shard
from nsfwscan.runs.run import Run
from nsfwscan.runs.staging import ShardResult
from nsfwscan.schema import DUPLICATE_COLUMNS
from nsfwscan.storage.store import Store
from nsfwscan.workflows.scan import Engine, ScanResult, run_scan
from tests.later import later
from tests.s3.servers import FaultyProxy, S3Endpoint, ceph_server
from tests.s3.test_servers import client

ray_data = later("nsfwscan.execution.ray_data")


VANISHING = "neutral/rocket.jpg"
MOTO_KEY = "testing"


@pytest.fixture(scope="module", params=["moto", pytest.param("ceph", marks=pytest.mark.full)])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Endpoint]:
    if request.param == "moto":
        yield request.getfixturevalue("moto")
        return
    with ceph_server(tmp_path_factory.mktemp("ceph")) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def media(server: S3Endpoint, demo: tuple[Path, list[DemoObject]]) -> str:
    """Demo store in a bucket, and a bucket for reports."""
    s3 = client(server)
    s3.create_bucket(Bucket="media")
    s3.create_bucket(Bucket="reports")
    for o in uploaded(server, demo[1]):
        s3.put_object(Bucket="media", Key=f"demo/{o.path}", Body=(demo[0] / o.path).read_bytes())
    return "s3://media/demo/"


def uploaded(server: S3Endpoint, objects: list[DemoObject]) -> list[DemoObject]:
    """Return all objects; moto has no route for a key with a newline, Ceph has."""
    return [o for o in objects if "\n" not in o.path or server.access_key != MOTO_KEY]


def storage(server: S3Endpoint, proxy: FaultyProxy | None = None) -> dict[str, Any]:
    """Return the server's keys as options, so that a Ray of any environment reaches it."""
    url = proxy.endpoint.endpoint_url if proxy else server.endpoint_url
    return {"endpoint_url": url, "options": {"key": server.access_key, "secret": server.secret_key}}


def rows(result: ScanResult, config: ScanConfig) -> list[dict[str, Any]]:
    """Return the report's rows by URI, read as `run.json` names them."""
    folder = Store.at(result.uri, config.store_options())
    parts = [f.path for f in result.record.files if f.path.startswith("report/")]
    table = pa.concat_tables([pq.read_table(io.BytesIO(folder.read(part))) for part in parts])
    return table.sort_by("uri").to_pylist()


def engine(workers: str, request: pytest.FixtureRequest) -> Engine:
    """Return what runs shards: in this process, or on Ray."""
    if workers == "ray":
        request.getfixturevalue("ray_local")
    return ray_data.run_shards if workers == "ray" else run_inline


def vanish(
    run: Engine, server: S3Endpoint, job: Job, shards: Sequence[Shard], deadline: Deadline
) -> Iterator[ShardResult]:
    """Run the shards after one of the listed objects is gone, and put it back."""
    lost = {"Bucket": "media", "Key": f"demo/{VANISHING}"}
    body = client(server).get_object(**lost)["Body"].read()
    client(server).delete_object(**lost)
    yield from run(job, shards, deadline)
    client(server).put_object(**lost, Body=body)


@pytest.mark.parametrize("workers", ["inline", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.long])])
def test_scan_of_a_failing_store(
    server: S3Endpoint,
    media: str,
    demo: tuple[Path, list[DemoObject]],
    tmp_path: Path,
    workers: str,
    request: pytest.FixtureRequest,
) -> None:
    """With 503s, cut bodies and a vanished key, the report from S3 has the very rows of the report from local disk."""
    local = ScanConfig.load(None, {"source": {"uris": [str(demo[0])]}, "out": str(tmp_path)})
    expected = {
        r["uri"].removeprefix(f"{demo[0]}/"): r for r in rows(run_scan(local, "local", run_inline, Silent()), local)
    }
    with FaultyProxy(server) as proxy:
        proxy.fail(
            lambda method, path: method == "GET" and "/media/demo/" in path, status=503, code="SlowDown", every=7
        )
        proxy.cut_body(lambda method, path: method == "GET" and "/media/demo/" in path, every=11)
        config = ScanConfig.load(
            None,
            {"source": {"uris": [media]}, "out": f"s3://reports/nightly-{workers}", "storage": storage(server, proxy)},
        )
        result = run_scan(config, "faulty", partial(vanish, engine(workers, request), server), Silent())
        assert proxy.injected["fail"] > 5 and proxy.injected["cut_body"] > 2, proxy.injected
    found = rows(result, config)
    assert len(found) == len(uploaded(server, demo[1]))
    same = {"accounted_as", *(field.name for field in DUPLICATE_COLUMNS)}  # a copy is gone
    ignored = {"uri", "object_id", "etag", "modified_at", "run_id", "scanned_at", *same}
    for row in found:
        path = row["uri"].removeprefix(media)
        if path == VANISHING:
            assert (row["status"], row["accounted_as"], row["decision"]) == ("not_found", "errored", "undetermined")
            continue
        twin = expected[path]
        assert {k: v for k, v in row.items() if k not in ignored} == {k: v for k, v in twin.items() if k not in ignored}
        assert row["etag"]
    assert result.record.balance.listed == len(uploaded(server, demo[1]))


def test_the_second_night_asks_only_for_what_changed(
    server: S3Endpoint, media: str, demo: tuple[Path, list[DemoObject]]
) -> None:
    """Over HTTP: a listing, and one GET for each new, changed or failed object; the rest is carried by its etag."""
    s3 = client(server)
    s3.create_bucket(Bucket="nights")
    pictures = [demo[0] / o.path for o in demo[1] if o.status == "ok"][:12]
    for number, path in enumerate(pictures[:10]):
        s3.put_object(Bucket="nights", Key=f"{number}", Body=path.read_bytes())
    asked: list[str] = []

    def note(method: str, path: str) -> bool:
        asked.extend([path] if method == "GET" and path.startswith("/nights/") and "?" not in path else [])
        return False

    with FaultyProxy(server) as proxy:
        sections = {"out": "s3://reports/nights", "storage": storage(server, proxy)}
        config = ScanConfig.load(None, {"source": {"uris": ["s3://nights/"]}, **sections})
        proxy.fail(lambda method, path: path == "/nights/7", status=403, code="AccessDenied")
        run_scan(config, "1", run_inline, Silent())
        proxy.clear()
        proxy.delay(note, 0)
        s3.put_object(Bucket="nights", Key="3", Body=pictures[10].read_bytes())
        s3.put_object(Bucket="nights", Key="new", Body=pictures[11].read_bytes())
        s3.put_object(Bucket="nights", Key="4", Body=pictures[4].read_bytes())  # the same bytes again: the same etag
        s3.delete_object(Bucket="nights", Key="5")
        result = run_scan(config, "2", run_inline, Silent())
    assert sorted(asked) == ["/nights/3", "/nights/7", "/nights/new"]
    assert result.record.plan.actions == {"carried": 7, "changed": 1, "failed": 1, "new": 1}
    assert result.record.changes.deleted == 1
    assert {row["status"] for row in rows(result, config)} == {"ok"}
    assert [row["uri"][-1] for row in rows(result, config) if row["carried_from"] == "1"] == list("0124689")


@pytest.mark.parametrize("workers", ["inline", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.long])])
def test_the_store_is_asked_no_faster_than_allowed(
    server: S3Endpoint, media: str, workers: str, request: pytest.FixtureRequest
) -> None:
    """With --max-requests-per-s, listing and reading together keep under the rate, however many workers there are."""
    run = engine(workers, request)
    times: list[float] = []

    def note(method: str, path: str) -> bool:
        times.extend([time.monotonic()] if method == "GET" and path.startswith("/media") else [])
        return False

    with FaultyProxy(server) as proxy:
        proxy.delay(note, 0)
        config = ScanConfig.load(
            None,
            {
                "source": {"uris": [media], "limit": 50},
                "out": f"s3://reports/paced-{workers}",
                "storage": storage(server, proxy),
                "read": {"max_requests_per_s": 20},
                "previous": {"reuse": False},
            },
        )
        run_scan(config, "paced", run, Silent())
    assert len(times) > 40
    assert times[-1] - times[0] >= (len(times) - 1) / 20 * 0.9, times
    apart = [later - sooner for sooner, later in zip(times, times[20:], strict=False)]
    assert min(apart) >= 0.5, apart  # a second, less what network and threads push together


def test_committed_on_s3(server: S3Endpoint, media: str) -> None:
    """A run on S3 is committed as on disk: found by its state, left alone by a second start, without staging or secrets."""
    options = storage(server)
    config = ScanConfig.load(
        None, {"source": {"uris": [media], "limit": 12}, "out": "s3://reports/commit", "storage": options}
    )
    first = run_scan(config, "once", run_inline, Silent())
    again = run_scan(config, "once", run_inline, Silent())
    store = Store.at(config.out, config.store_options())
    assert again.already_committed and again.record == first.record
    assert Run(store, "once").state() == "committed"
    assert store.names("staging") == []
    assert server.secret_key.encode() not in store.read("runs/once/run.json")
    assert sorted(store.names("runs/once")) == [
        "_SUCCESS",
        "drift",
        "listing",
        "plan.json",
        "report",
        "run.json",
        "summary.html",
    ]


def test_create_refuses_to_overwrite(server: S3Endpoint, media: str) -> None:
    """A file that must be new is not written over an older one, even where the look-up beforehand saw none."""
    store = Store.at("s3://reports/create", ScanConfig.load(None, {"source": {"uris": []}, "out": "", "storage": storage(server)}).storage)  # fmt: skip
    store.create("one", b"first")
    blind = Store(store.location, store.storage)
    object.__setattr__(blind, "exists", lambda name: False)
    with pytest.raises(FileExistsError):
        blind.create("one", b"second")
    assert store.read("one") == b"first"


@pytest.mark.parametrize(
    ("source", "message"),
    [("s3://no-such-bucket/x", "bucket does not exist"), ("s3://media/no/such/prefix/", "nothing to scan")],
)
def test_wrong_source(server: S3Endpoint, media: str, source: str, message: str) -> None:
    """A bucket that does not exist, or a prefix without objects, is a clear error before anything starts."""
    config = ScanConfig.load(
        None, {"source": {"uris": [source]}, "out": "s3://reports/wrong", "storage": storage(server)}
    )
    with pytest.raises(SourceError, match=message):
        run_scan(config, "wrong", run_inline, Silent())
    assert Store.at(config.out, config.store_options()).names("staging") == []


def test_endpoint_of_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint that the printed query needs is the option's, or the environment's; a local store has none."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio:9000")
    assert Store.at("s3://reports/x", StorageConfig()).endpoint_url == "http://minio:9000"
    assert Store.at("s3://reports/x", StorageConfig(endpoint_url="http://other")).endpoint_url == "http://other"
    assert Store.at("/reports", StorageConfig()).endpoint_url is None
