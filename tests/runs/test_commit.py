"""From staged shards to a report whose files are exactly what was listed, and to copies of what was wrongly flagged."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nsfwscan.errors import BalanceError, ErrorCode
from nsfwscan.policy.decide import Decider, Indices
from nsfwscan.runs import commit
from nsfwscan.runs import plan as planning
from nsfwscan.runs.commit import Report
from nsfwscan.runs.false_positives import FALSE_POSITIVE_SCHEMA
from nsfwscan.runs.plan import Plan
from nsfwscan.runs.previous import Part, PreviousRun
from nsfwscan.runs.run import Run
from nsfwscan.runs.staging import stage_part
from nsfwscan.schema import REPORT_SCHEMA
from tests.later import later
from tests.runs.rows import begun, decider, finished, is_of_schema, reported, scanned, staged, staged_row
from tests.s3.servers import S3Endpoint

s3fs = later("s3fs")

URIS = [f"/media/{i:03}.jpg" for i in range(35)]


def mixed(uri: str) -> dict[str, object]:
    """Return every fifth object flagged, every seventh unreadable."""
    number = int(uri[-7:-4])
    if number % 7 == 0:
        return staged_row(uri, status="decode_error")
    return staged_row(uri, nsfw_score=0.9 if number % 5 == 0 else 0.1, truth="neutral" if number % 2 else None)


def tables(run: Run, report: Report, folder: str) -> list[pa.Table]:
    """Return the files of a folder as the report names them, each checked against its record."""
    found = []
    for file in report.files:
        if file.path.startswith(folder):
            data = run.folder.read(file.path)
            table = pq.read_table(io.BytesIO(data))
            assert (len(data), table.num_rows) == (file.bytes, file.rows)
            assert hashlib.sha256(data).hexdigest() == file.sha256
            assert file.path.endswith(f"-{file.sha256}.parquet")
            found.append(table)
    return found


def test_every_error_has_a_code(tmp_path: Path) -> None:
    """`error_code` is null exactly where `error` is, and the row's status is the code's, whatever staged the row."""
    given = {
        "/media/a": staged_row("/media/a", status="denied", error_code="http_403"),
        "/media/b": staged_row("/media/b", status="crashed"),  # by an older nsfwscan
        "/media/c": staged_row("/media/c", nsfw_score=None, error="no score"),
        "/media/d": staged_row("/media/d", error_code="left behind"),
    }
    run, plan = begun(tmp_path, list(given))
    finished(run, plan.shards, given.__getitem__)
    [rows] = tables(run, reported(run, plan), "report/")
    found = {row["uri"]: row["error_code"] for row in rows.to_pylist()}
    assert found == {"/media/a": "http_403", "/media/b": "crashed", "/media/c": "no_score", "/media/d": None}
    for row in rows.to_pylist():
        assert row["error_code"] is None or ErrorCode(row["error_code"]).status == row["status"]


def written(folder: Path) -> set[str]:
    """Return every file below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# --- the report -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("range_rows", [1, 10, 50_000])
def test_ranges_hold_every_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, range_rows: int) -> None:
    """In one file or in many, the report has each listed object once, files in the order of URIs, rows by decision."""
    monkeypatch.setattr(planning, "RANGE_ROWS", range_rows)
    run, plan = begun(tmp_path, [*URIS, *URIS[:4]], shard_rows=4)
    finished(run, plan.shards, mixed)
    report = reported(run, plan)
    parts = tables(run, report, "report/")
    assert len(parts) == {1: 35, 10: 4, 50_000: 1}[range_rows]
    assert [sorted(part["uri"].to_pylist()) for part in parts] == sorted(sorted(p["uri"].to_pylist()) for p in parts)
    assert sorted(uri for part in parts for uri in part["uri"].to_pylist()) == URIS
    for part in parts:
        assert is_of_schema(part, REPORT_SCHEMA)
        order = list(zip(part["decision"].to_pylist(), part["uri"].to_pylist(), strict=True))
        assert order == sorted(order)
        assert set(part["run_id"].to_pylist()) == {"made"}
    assert report.balance.as_dict()["listed"] == report.summary.rows == 35
    assert report.balance.as_dict()["errored"] == 5
    assert str(report.balance).endswith("(4 listed again and counted once)")
    assert sum(part.num_rows for part in tables(run, report, "false_positives/")) == 3


def test_the_same_run_gives_the_same_files(tmp_path: Path) -> None:
    """A second commit of the same shards writes the very same files over the first ones."""
    run, plan = begun(tmp_path, URIS, shard_rows=4)
    finished(run, plan.shards, mixed)
    first = reported(run, plan)
    before = written(Path(run.folder.uri))
    second = reported(run, plan)
    assert second.files == first.files
    assert written(Path(run.folder.uri)) == before


@pytest.mark.parametrize("at_once", [1, 3])
def test_ranges_at_once_come_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """On one core or many, the files, their order and all counts are the same."""
    monkeypatch.setattr(planning, "RANGE_ROWS", 4)
    run, plan = begun(tmp_path, URIS, shard_rows=4)
    finished(run, plan.shards, mixed)
    expected = reported(run, plan)
    monkeypatch.setattr(commit, "_RANGES_AT_ONCE", at_once)
    found = reported(run, plan)
    assert found.files == expected.files and len(found.paths("report")) == 9
    assert found.summary.as_dict() == expected.summary.as_dict() and found.balance == expected.balance


@pytest.mark.parametrize("at_once", [1, 8])
def test_a_range_that_fails_ends_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """Whichever of several ranges at once fails, its error is raised, and nothing waits for ever."""
    monkeypatch.setattr(planning, "RANGE_ROWS", 4)
    monkeypatch.setattr(commit, "_RANGES_AT_ONCE", at_once)
    run, plan = begun(tmp_path, URIS, shard_rows=4)
    finished(run, [*plan.shards[:3], *plan.shards[4:]], mixed)
    with pytest.raises(BalanceError, match=f"shard {plan.shards[3].name} .* was never finished"):
        reported(run, plan)


def test_no_false_positives_no_file(tmp_path: Path) -> None:
    """Where nothing was wrongly flagged, there is no empty file to open."""
    run, plan = begun(tmp_path, URIS)
    finished(run, plan.shards)
    report = reported(run, plan, save_images=True)
    assert report.paths("false_positives") == []
    assert len(report.paths("report")) == 1


def test_an_unfinished_shard_does_not_balance(tmp_path: Path) -> None:
    """Rows that were never made are not filled in: the message names the shard and says what to do."""
    run, plan = begun(tmp_path, URIS, shard_rows=4)
    finished(run, plan.shards[:-1])
    with pytest.raises(BalanceError, match=r"shard 00000-0008 \(3 objects\) was never finished; run the same command"):
        reported(run, plan)


def spoil_part(run: Run, plan: Plan) -> None:
    run.staging.write("00000-0001.arrow", run.staging.read("00000-0001.arrow")[:-20])


def empty_part(run: Run, plan: Plan) -> None:
    run.staging.write("00000-0001.arrow", b"")


def swap_parts(run: Run, plan: Plan) -> None:
    stage_part(run.staging, plan.shards[1], staged([staged_row(uri) for uri in URIS[:4]]), decider())


def rename_row(run: Run, plan: Plan) -> None:
    rows = [staged_row(uri) for uri in [*URIS[4:7], "/media/invented.jpg"]]
    stage_part(run.staging, plan.shards[1], staged(rows), decider())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_part, "staged part of shard 00000-0001 is damaged: delete it"),
        (empty_part, "staged part of shard 00000-0001 is damaged: delete it"),
        (swap_parts, "4 listed objects have no row and 4 rows have no object"),
        (rename_row, r"1 listed objects have no row and 1 rows have no object, e\.g\. '/media/007\.jpg'"),
    ],
)
def test_parts_that_are_not_the_listing_do_not_balance(
    tmp_path: Path, spoil: Callable[[Run, Plan], None], message: str
) -> None:
    """A part that is damaged, another shard's, or has another object's row is found before anything is committed."""
    run, plan = begun(tmp_path, URIS, shard_rows=4)
    finished(run, plan.shards)
    spoil(run, plan)
    with pytest.raises(BalanceError, match=message):
        reported(run, plan)


# --- copies of images -----------------------------------------------------------------------------------------------

BUCKET = "media-to-copy"
KEYS = [
    "plain.jpg",
    "../../escape.jpg",
    "a/../../../b/./c.jpg",
    "/leading//slashes.jpg",
    "nul\0byte.jpg",
    "квадрат \U0001f4f7 %2e%2e%2f #?.jpg",
    "long/" + "x" * 1019,
]


@pytest.fixture(scope="module")
def bucket(moto: S3Endpoint) -> dict[str, bytes]:
    """A bucket of keys that no file system likes: each object's URI and content."""
    files = s3fs.S3FileSystem(endpoint_url=moto.endpoint_url, key="testing", secret="testing")
    files.makedirs(BUCKET, exist_ok=True)
    contents = {f"s3://{BUCKET}/{key}": f"content of {key!r}".encode() for key in KEYS}
    for key in KEYS:
        files.call_s3("put_object", Bucket=BUCKET, Key=key, Body=contents[f"s3://{BUCKET}/{key}"])
    return contents


def wrongly_flagged(contents: dict[str, bytes]) -> Callable[[str], dict[str, object]]:
    """Neutral images with an NSFW label, with the digests of what was read."""

    def row(uri: str) -> dict[str, object]:
        sha256 = hashlib.sha256(contents[uri]).hexdigest()
        return staged_row(
            uri, nsfw_score=0.9, truth="neutral", sha256=sha256, format="MPO" if "plain" in uri else "PNG"
        )

    return row


def copied(run: Run, report: Report) -> dict[str, bytes | None]:
    """Return what the report's false positives say of each URI: the content of its copy, or None."""
    [table] = tables(run, report, "false_positives/")
    assert table.schema == FALSE_POSITIVE_SCHEMA
    return {
        row["uri"]: None if row["image"] is None else run.folder.read(row["image"])
        for row in table.select(["uri", "image"]).to_pylist()
    }


def test_copies_have_safe_names(tmp_path: Path, bucket: dict[str, bytes]) -> None:
    """Whatever its key, an object's copy lies under `false_positives/images`, named by its id and its real format."""
    broken_name = tmp_path / "media" / "line\nbreak\r\x1b[2J;$(id).jpg"  # moto knows no keys of two lines
    broken_name.parent.mkdir()
    broken_name.write_bytes(b"local")
    bucket = {**bucket, str(broken_name): b"local"}
    run, plan = begun(tmp_path / "store", list(bucket))
    finished(run, plan.shards, wrongly_flagged(bucket))
    report = reported(run, plan, save_images=True)
    assert copied(run, report) == bucket
    images = {
        name
        for name in written(tmp_path) - {f"media/{broken_name.name}"}
        if not name.endswith((".parquet", ".arrow", ".json"))
    }
    assert images == {
        f"store/runs/made/false_positives/images/{hashlib.sha256(uri.encode()).hexdigest()[:32]}."
        + ("mpo" if "plain" in uri else "png")
        for uri in bucket
    }


def test_changed_and_vanished_objects_are_not_copied(tmp_path: Path) -> None:
    """An object that is no longer what was scored is not put before a person as if it were; its row stays."""
    contents = {str(tmp_path / "media" / name): name.encode() for name in ("same", "changed", "gone", "folder")}
    run, plan = begun(tmp_path / "out", list(contents))
    finished(run, plan.shards, wrongly_flagged(contents))
    (tmp_path / "media" / "folder").mkdir(parents=True)
    (tmp_path / "media" / "same").write_bytes(b"same")
    (tmp_path / "media" / "changed").write_bytes(b"another")
    report = reported(run, plan, save_images=True)
    found = {Path(uri).name: data for uri, data in copied(run, report).items()}
    assert found == {"same": b"same", "changed": None, "gone": None, "folder": None}
    assert len(written(Path(run.folder.uri, "false_positives", "images"))) == 1


@pytest.mark.parametrize("range_rows", [7, 50_000])
def test_a_row_is_decided_once_and_a_part_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, range_rows: int
) -> None:
    """However many ranges a night has, and wherever they begin: of carried rows each is decided once, and each part of
    the earlier report is read once."""
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("uri,size,etag\n" + "".join(f"s3://media/{i:03}.jpg,1000,e\n" for i in range(35)))
    monkeypatch.setattr(planning, "RANGE_ROWS", 10)
    scanned(manifest, tmp_path / "out", lambda uri: staged_row(uri, etag="e"), run_id="1")
    monkeypatch.setattr(planning, "RANGE_ROWS", range_rows)
    choose, read = Decider.choose, PreviousRun.read
    decided, parts = list[str](), list[str]()

    def choosing(self: Decider, table: pa.Table) -> Indices:
        decided.extend(table["uri"].to_pylist())
        return choose(self, table)

    def reading(self: PreviousRun, part: Part) -> pa.Table:
        parts.append(part.file.path)
        return read(self, part)

    monkeypatch.setattr(Decider, "choose", choosing)
    monkeypatch.setattr(PreviousRun, "read", reading)
    result = scanned(manifest, tmp_path / "out", run_id="2")
    assert result.record.balance.carried == 35
    assert sorted(decided) == [f"s3://media/{i:03}.jpg" for i in range(35)]
    assert len(parts) == len(set(parts)) == 4


def test_nothing_is_copied_unasked(tmp_path: Path) -> None:
    """Without --save-images no image leaves its place."""
    (tmp_path / "a.jpg").write_bytes(b"a")
    contents = {str(tmp_path / "a.jpg"): b"a"}
    run, plan = begun(tmp_path / "out", list(contents))
    finished(run, plan.shards, wrongly_flagged(contents))
    report = reported(run, plan)
    assert copied(run, report) == dict.fromkeys(contents)
    assert not Path(run.folder.uri, "false_positives", "images").exists()
