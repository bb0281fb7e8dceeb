"""Queue files: whole or not at all, for queues of any name, with what a reviewer needs and no picture."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from nsfwscan.cli.main import main
from nsfwscan.config import BankConfig, StorageConfig
from nsfwscan.errors import ConfigError, SourceError
from nsfwscan.review import queues
from nsfwscan.review.context import read_context
from nsfwscan.review.queues import Queue, Written, describe_queues, write_queues
from nsfwscan.runs.run import Run, find_run
from nsfwscan.storage.store import Store
from nsfwscan.workflows.match import match_store
from tests.review.stores import committed, row
from tests.runs import rows as made_up
from tests.s3.servers import S3Endpoint


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def test_an_item_has_what_a_reviewer_needs(tmp_path: Path) -> None:
    """The decision and why, the scores, the signals, the match, the cluster, other places, earlier decisions, context."""
    committed(tmp_path, [row("/a.jpg", sha256="1", decision="allow", rule="otherwise")], "mon", day=1)
    first = row(
        "/a.jpg",
        sha256="1",
        label="porn",
        nsfw_score=0.75,
        score_neutral=0.25,
        score_porn=0.75,
        signals=[{"name": "c2pa.manifest", "value": 1.0}],
        match_bank="memes",
        match_id="7",
        match_kind="block",
        match_hash="pdq",
        match_distance=3,
        cluster="f00",
        cluster_size=2,
        cluster_places=4,
        skill="adult",
        width=10,
        height=20,
        format="JPEG",
    )
    run = committed(tmp_path, [first, row("/b.jpg", sha256="2", cluster="f00", severity=0)])
    context = tmp_path / "context.jsonl"
    context.write_text('{"uri": "/a.jpg", "age": 1}\n{"uri": "/a.jpg", "age": 3}\n{"uri": "/z.jpg", "age": 9}\n')

    written = write_queues(run, tmp_path / "out", context=read_context(str(context), StorageConfig()))
    [item] = lines(tmp_path / "out" / "adult.jsonl")
    assert item == {
        "queue": "adult",
        "rank": 1,
        "uri": "/a.jpg",
        "object_id": first["object_id"],
        "sha256": "1",
        "decision": "review",
        "rule": "made",
        "severity": 2,
        "skill": "adult",
        "shield": "blur",
        "decided_by": None,
        "status": "ok",
        "format": "JPEG",
        "width": 10,
        "height": 20,
        "frames": None,
        "label": "porn",
        "nsfw_score": 0.75,
        "scores": {"neutral": 0.25, "porn": 0.75},
        "uncertainty": 0.5,
        "signals": {"c2pa.manifest": 1.0},
        "duplicate_of": None,
        "match": {"bank": "memes", "id": "7", "kind": "block", "hash": "pdq", "distance": 3},
        "cluster": {"id": "f00", "size": 2, "places": 4},
        "reach": 4,
        "objects": 2,
        "elsewhere": {"count": 1, "uris": ["/b.jpg"]},
        "prior": [
            {
                "decision": "allow",
                "rule": "otherwise",
                "run_id": "mon",
                "decided_at": "2026-11-01T02:00:00.000+00:00",
                "runs": 1,
                "by": "uri",
            }
        ],
        "verdict": None,
        "verdict_at": None,
        "appeals": None,
        "near_verdicts": None,
        "context": {"age": 3},
        "scanned_at": None,
    }
    assert [(q.name, q.items, q.objects) for q in written.queues] == [("adult", 1, 2), ("empty", 0, 0)]
    assert (tmp_path / "out" / "empty.jsonl").read_bytes() == b""


def test_an_illegal_match_is_a_hash_and_a_place(tmp_path: Path) -> None:
    """Nothing that tells what is in the picture: no score, label, signal or size."""
    illegal = row(
        "/a.jpg",
        sha256="1",
        md5="2",
        label="porn",
        nsfw_score=0.9,
        score_porn=0.9,
        width=10,
        signals=[{"name": "c2pa.manifest", "value": 1.0}],
        decision="escalate",
        shield="hidden",
        match_bank="known",
        match_id="7",
        match_kind="illegal",
        match_hash="sha256",
        match_distance=0,
    )
    write_queues(committed(tmp_path, [illegal]), tmp_path / "out")
    [item] = lines(tmp_path / "out" / "adult.jsonl")
    assert item["match"]["kind"] == "illegal" and (item["sha256"], item["md5"]) == ("1", "2")
    told = {"status", "format", "width", "height", "frames", "label", "nsfw_score", "scores", "uncertainty", "signals"}
    assert not told & set(item) and "porn" not in json.dumps(item)


HOSTILE = [
    "../../etc/passwd",
    ".hidden",
    "a/b",
    "a\\b",
    "nul\0",
    "x" * 300,
    "ＡＤＵＬＴ",
    "adult",
    "Adult",
    "con\n",
    ".",
]


def test_queues_of_any_name_are_files_in_the_folder(tmp_path: Path) -> None:
    """No name leads elsewhere, is hidden, too long for a file system, or the same as another's in other letters."""
    run = committed(tmp_path / "store", [row(f"/{i}", queue=name) for i, name in enumerate(HOSTILE)])
    written = write_queues(run, tmp_path / "out")
    found = {queue.name: Path(queue.place) for queue in written.queues}
    assert set(found) == {*HOSTILE, "empty"}
    assert sorted(os.listdir(tmp_path / "out")) == sorted(path.name for path in found.values())
    assert len({path.name.lower() for path in found.values()}) == len(found)
    assert all(len(path.name) < 200 and path.name.isascii() and path.name[0] != "." for path in found.values())
    for name, path in found.items():
        assert [item["queue"] for item in lines(path)] == ([] if name == "empty" else [name])


@given(st.lists(st.text(min_size=1), unique=True))
def test_no_two_queues_share_a_file(names: list[str]) -> None:
    """Whatever they are called."""
    taken: set[str] = set()
    found = [queues.file_name(name.encode("utf-8", "replace").decode() + str(i), taken) for i, name in enumerate(names)]
    assert len({name.lower() for name in found}) == len(names)
    assert all("/" not in name and not name.startswith(".") for name in found)


def test_a_queue_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    """With those that there are, and without a file."""
    run = committed(tmp_path, [row("/a"), row("/b", queue="legal")])
    with pytest.raises(ConfigError, match=r"'adlut'.*adult, empty"):
        write_queues(run, tmp_path / "out", ["adlut", "adult"])
    assert os.listdir(tmp_path / "out") == []
    assert [q.name for q in write_queues(run, tmp_path / "out", ["legal"]).queues] == ["legal"]


def test_files_are_whole_or_as_they_were(tmp_path: Path) -> None:
    """Where anything fails, older files stay and nothing new is left behind."""
    run = committed(tmp_path, [row("/a"), row("/b", queue="kids")])
    write_queues(run, tmp_path / "out")
    before = {name: (tmp_path / "out" / name).read_bytes() for name in os.listdir(tmp_path / "out")}
    broken = tmp_path / "broken.csv"
    broken.write_text("uri\n/a\n\n,1\n")
    run = committed(tmp_path, [row("/c"), row("/d", queue="kids")])
    with pytest.raises(SourceError, match="no `uri`"):
        write_queues(run, tmp_path / "out", context=read_context(str(broken), StorageConfig()))
    (tmp_path / "out" / "zzz.jsonl").mkdir()
    run = committed(tmp_path, [row("/c"), row("/d", queue="zzz")])
    with pytest.raises(ConfigError, match="cannot write"):
        write_queues(run, tmp_path / "out")
    (tmp_path / "out" / "zzz.jsonl").rmdir()
    after = {name: (tmp_path / "out" / name).read_bytes() for name in os.listdir(tmp_path / "out")}
    assert set(after) == set(before)
    assert after["kids.jsonl"] == before["kids.jsonl"]


def test_the_table_says_what_is_where(tmp_path: Path) -> None:
    """Items, objects, and what was folded; and what has no queue although somebody should see it."""
    rows = [row(f"/{i}", sha256="a") for i in range(3)] + [row(f"/x{i}", queue=None) for i in range(2)]
    written = write_queues(committed(tmp_path, rows), tmp_path / "out")
    text = describe_queues(written)
    assert text.splitlines()[1].split()[:4] == ["adult", "1", "3", "2"]
    named = describe_queues(Written((Queue("a\n\x1b[31mb", str(tmp_path), 1, 1),), 0))
    assert named.splitlines()[1].startswith(r"a\n\x1b[31mb  ")
    assert text.splitlines()[-1].startswith("2 objects are to be reviewed")


def test_a_scan_and_its_replay_have_queues(tmp_path: Path) -> None:
    """Of a real run: by the command, into a folder of its own, and again after a replay, which knows of the scan."""
    media = made_up.files(tmp_path / "media", 6)

    def scored(uri: str) -> made_up.Row:
        return made_up.staged_row(uri, nsfw_score=0.9 if "0003" in uri else 0.3, sha256=Path(uri).name)

    policy = tmp_path / "policy.yaml"
    rules = '[{name: high, when: "nsfw_score >= 0.8", decision: block, queue: adult, severity: 3}]'
    policy.write_text(f"version: '1'\nrules: {rules}\notherwise: {{decision: review, queue: rest}}\n")
    made_up.scanned(media, tmp_path / "out", scored, policy=str(policy), run_id="night")
    with CliRunner().isolated_filesystem(tmp_path) as here:
        done = CliRunner().invoke(main, ["queues", str(tmp_path / "out")])
        assert done.exit_code == 0, done.output
        assert [item["uri"] for item in lines(Path(here, "queues/night/adult.jsonl"))] == [str(media / "0003.jpg")]
        assert len(lines(Path(here, "queues/night/rest.jsonl"))) == 5
        policy.write_text("version: '2'\nrules: []\notherwise: {decision: review, queue: all}\n")
        again = ["policy", "replay", str(tmp_path / "out"), "--policy", str(policy), "--commit", "--run-id", "again"]
        assert CliRunner().invoke(main, again).exit_code == 0
        done = CliRunner().invoke(main, ["queues", str(tmp_path / "out" / "runs" / "again"), "--out", "q"])
        assert done.exit_code == 0, done.output
        found = {item["uri"]: item["prior"] for item in lines(Path(here, "q/all.jsonl"))}
    assert [said["rule"] for said in found[str(media / "0003.jpg")]] == ["high"]
    assert len(found) == 6


def test_a_run_of_a_new_bank_has_queues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was matched long after it was scanned: with what the scan had decided, and where else it is."""
    monkeypatch.setenv("NSFWSCAN_CACHE", str(tmp_path / "cache"))
    media, known = made_up.files(tmp_path / "media", 4), hashlib.sha256(b"known").hexdigest()

    def scored(uri: str) -> made_up.Row:
        sha256 = known if "0001" in uri or "0002" in uri else hashlib.sha256(uri.encode()).hexdigest()
        return made_up.staged_row(uri, nsfw_score=0.1, sha256=sha256)

    made_up.scanned(media, tmp_path / "out", scored, run_id="night")
    (tmp_path / "bank.txt").write_text(f"sha256 {known}\n")
    bank = BankConfig.of({"name": "known", "uri": str(tmp_path / "bank.txt"), "kind": "illegal"})
    match_store(Store.at(str(tmp_path / "out"), StorageConfig()), (bank,), StorageConfig(), run_id="match")
    written = write_queues(find_run(str(tmp_path / "out" / "runs" / "match"), StorageConfig()), tmp_path / "q")
    [queue] = [queue for queue in written.queues if queue.items]
    [item] = lines(Path(queue.place))
    assert (item["uri"], item["decision"], item["shield"]) == (str(media / "0001.jpg"), "escalate", "hidden")
    assert item["elsewhere"] == {"count": 1, "uris": [str(media / "0002.jpg")]} and queue.objects == 2
    assert [(said["run_id"], said["decision"]) for said in item["prior"]] == [("night", "allow")]
    assert "scores" not in item and item["match"]["hash"] == "sha256"


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    """An unknown queue, a context that is none, a store without runs: a message, and the exit code of its kind."""
    committed(tmp_path / "store", [row("/a")])
    store, out = str(tmp_path / "store"), str(tmp_path / "out")
    for code, *wrong in ((2, "--queue", "no"), (1, "--context", str(tmp_path / "none.csv"))):
        done = CliRunner().invoke(main, ["queues", store, "--out", out, *map(str, wrong)])
        assert done.exit_code == code and wrong[-1] in done.output and "Traceback" not in done.output
    assert CliRunner().invoke(main, ["queues", str(tmp_path / "nothing")]).exit_code == 1


def test_a_store_on_s3_has_queues(moto: S3Endpoint, tmp_path: Path) -> None:
    """The run lies on S3, the files here."""
    storage = StorageConfig(endpoint_url=moto.endpoint_url)
    boto3.client("s3").create_bucket(Bucket="queues")
    committed("s3://queues/reports", [row("/a", decision="allow")], "mon", day=1, storage=storage)
    committed("s3://queues/reports", [row("/a")], storage=storage)
    run = Run(Store.at("s3://queues/reports", storage), "tonight")
    assert [q.items for q in write_queues(run, tmp_path).queues] == [1, 0]
    [item] = lines(tmp_path / "adult.jsonl")
    assert [said["run_id"] for said in item["prior"]] == ["mon"]
