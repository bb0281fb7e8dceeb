"""New banks over old reports: every object once, by its stored hashes, without a read; floods do not reach a queue."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from nsfwscan.cli.terminal import describe_run, describe_scan
from nsfwscan.config import BankConfig, ScanConfig, StorageConfig
from nsfwscan.errors import BankError, ConfigError, RunConflict, StoreError
from nsfwscan.policy.rules import load_policy, parse_policy
from nsfwscan.runs.overview import overview
from nsfwscan.runs.previous import find_previous, live_runs
from nsfwscan.runs.record.figures import MatchingRecord
from nsfwscan.runs.run import Run, find_run
from nsfwscan.runs.verify import verify
from nsfwscan.storage.store import Store
from nsfwscan.workflows import match as matching
from nsfwscan.workflows.match import match_store
from nsfwscan.workflows.replay import commit_replay
from nsfwscan.workflows.scan import ScanResult
from tests.runs.rows import files, scanned, staged_row

PDQ = [np.packbits(np.random.default_rng(i).integers(0, 2, 256, np.uint8)).tobytes().hex() for i in range(400)]


def near(hash_: str, bits: int) -> str:
    """So many bits off."""
    return f"{int(hash_, 16) ^ ((1 << bits) - 1):064x}"


def sha(uri: str) -> str:
    return hashlib.sha256(Path(uri).name.encode()).hexdigest()


def row(uri: str, **values: Any) -> dict[str, Any]:
    """A row of an object named `0007.jpg`: its digests are of its name, its looks are `PDQ[7]`."""
    number = int(Path(uri).stem)
    hashes = {"sha256": sha(uri), "md5": hashlib.md5(uri.encode()).hexdigest(), "pdq": PDQ[number], "pdq_quality": 90}
    return staged_row(uri, **{**hashes, **values})


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSFWSCAN_CACHE", str(tmp_path / "cache"))


def lost(folder: Path) -> Path:
    """Return the folder of a store that has seen 300 objects in `media`, and lost them since."""
    media = files(folder / "media", 300)
    scanned(media, folder / "out", row, run_id="first")
    for path in media.iterdir():
        path.unlink()
    return folder / "out"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store that has seen 300 objects, and lost them since."""
    return lost(tmp_path_factory.mktemp("seen"))


@pytest.fixture
def store(seen: Path, tmp_path: Path) -> Store:
    """A copy of that store."""
    return Store.at(str(shutil.copytree(seen, tmp_path / "out")), StorageConfig())


@pytest.fixture
def bank(tmp_path: Path) -> Callable[..., BankConfig]:
    def made(name: str, *entries: str, **settings: Any) -> BankConfig:
        path = tmp_path / f"{name}.txt"
        path.write_text("".join(f"{entry}\n" for entry in entries))
        return BankConfig.of({"name": name, "uri": str(path), **settings})

    return made


def match(store: Store, *banks: BankConfig, **more: Any) -> ScanResult:
    result = match_store(store, banks, StorageConfig(), **{"run_id": "match", **more})
    assert list(verify(Run(store, result.run_id))) == []
    return result


def rows_of(result: ScanResult) -> dict[str, dict[str, Any]]:
    rows = [row for path in result.report_files for row in pq.read_table(path).to_pylist()]
    assert len({row["uri"] for row in rows}) == len(rows)
    return {Path(row["uri"]).stem: row for row in rows}


def test_a_new_bank_finds_what_old_reports_saw(store: Store, bank: Callable[..., BankConfig]) -> None:
    """By digest and by looks, no object being there any more; the rows keep their scores, and are decided."""
    first = bank("block", f"sha256 {sha('0007.jpg')}", f"pdq {near(PDQ[9], 31)}", f"pdq {near(PDQ[11], 32)}")
    result = match(store, first, bank("good", f"sha256 {sha('0100.jpg')}", kind="allow"))
    rows = rows_of(result)
    found = {
        n: (r["match_bank"], r["match_hash"], r["match_distance"], r["decision"], r["rule"]) for n, r in rows.items()
    }
    assert found == {
        "0007": ("block", "sha256", 0, "block", "known-bad"),
        "0009": ("block", "pdq", 31, "block", "known-bad"),
        "0100": ("good", "sha256", 0, "allow", "known-good"),
    }
    assert [r["nsfw_score"] for r in rows.values()] == pytest.approx([0.1] * 3)
    assert {(r["accounted_as"], r["carried_from"], r["run_id"]) for r in rows.values()} == {
        ("carried", "first", "match")
    }
    record = result.record
    assert (record.kind, record.parent.run_id) == ("match", "first")
    assert record.matching == MatchingRecord(objects=300, without={}, quarantined=(), flooding=())
    assert record.summary.match_bank == {"block": 2, "good": 1}
    assert {b.name: b.entries["pdq"] for b in record.banks} == {"block": 2, "good": 0}
    assert "looked at  300 objects" in describe_scan(result) and "match of first" in describe_run(overview(store)[-1])
    assert "Hash banks" in Path(result.uri, "summary.html").read_text(encoding="utf-8")


def test_nothing_is_found(store: Store, bank: Callable[..., BankConfig]) -> None:
    """A run all the same: it says what was looked at."""
    result = match(store, bank("block", "sha256 " + "0" * 64))
    assert rows_of(result) == {} and result.exit_code == 0
    assert result.record.matching.objects == 300


def test_illegal_matches_are_escalated_and_told_apart(store: Store, bank: Callable[..., BankConfig]) -> None:
    """Hidden, in `escalations/`; neither the page nor the terminal names one of them."""
    result = match(store, bank("csam", f"pdq {PDQ[3]}", kind="illegal"))
    [found] = rows_of(result).values()
    assert (found["decision"], found["shield"], found["decided_by"]) == ("escalate", "hidden", "bank")
    [file] = [f for f in result.record.files if f.path.startswith("escalations/")]
    assert file.rows == 1
    assert "0003.jpg" not in Path(result.uri, "summary.html").read_text(encoding="utf-8") + describe_scan(result)


def plain(uri: str, looks: str) -> dict[str, Any]:
    return staged_row(uri, sha256=sha(uri), pdq=looks, pdq_quality=90)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 of 350 objects look the same; 30 of those are in steps of one bit closer to another entry."""
    folder = tmp_path_factory.mktemp("many")
    media = files(folder / "media", 350)

    def looks(uri: str) -> dict[str, Any]:
        number = int(Path(uri).stem)
        return plain(uri, near(PDQ[0], 10) if number < 30 else PDQ[0] if number < 120 else PDQ[number])

    scanned(media, folder / "out", looks, run_id="first")
    return folder / "out"


@pytest.fixture
def meme(many: Path, tmp_path: Path) -> Store:
    """A copy of the store that has seen them."""
    return Store.at(str(shutil.copytree(many, tmp_path / "out")), StorageConfig())


def test_an_entry_that_floods_is_quarantined(meme: Store, bank: Callable[..., BankConfig]) -> None:
    """Its matches are not reported; what matches another entry as well is, by that one; run and page say so."""
    block = bank("block", f"pdq {PDQ[0]}", f"pdq {near(PDQ[0], 30)}", f"pdq {PDQ[200]}", distance=20)
    result = match(meme, block)
    [entry] = result.record.matching.quarantined
    assert (entry.bank, entry.hash, entry.id, entry.kind, entry.objects) == (
        "block",
        "pdq",
        PDQ[0],
        "block",
        120,
    )
    assert len(entry.examples) == 3
    found = rows_of(result)
    assert set(found) == {f"{i:04}" for i in range(30)} | {"0200"}
    assert {r["match_id"] for n, r in found.items() if n != "0200"} == {near(PDQ[0], 30)}
    assert "quarantined" in describe_scan(result)
    assert "Quarantined" in Path(result.uri, "summary.html").read_text(encoding="utf-8")


def test_what_is_a_flood(meme: Store, bank: Callable[..., BankConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    """More than N, or more than a hundredth of the store, from a hundred on."""
    block = bank("block", f"pdq {PDQ[0]}", distance=0)  # ninety objects
    assert match(meme, block).record.matching.quarantined == ()
    assert len(match(meme, block, run_id="low", flood=89).record.matching.quarantined) == 1
    assert match(meme, block, run_id="just", flood=90).record.matching.quarantined == ()
    monkeypatch.setattr(matching, "_LEAST_FLOOD", 90)
    assert len(match(meme, block, run_id="share").record.matching.quarantined) == 1


def test_an_illegal_entry_is_never_quarantined(meme: Store, bank: Callable[..., BankConfig]) -> None:
    """All that it matches is escalated; the flood is told, without an example."""
    result = match(meme, bank("csam", f"pdq {PDQ[0]}", kind="illegal"))
    assert result.record.matching.quarantined == ()
    [entry] = result.record.matching.flooding
    assert (entry.objects, entry.examples) == (120, ())
    assert len(rows_of(result)) == 120
    assert "floods, kept" in describe_scan(result)


def test_every_object_counts_once_by_what_is_known_last(bank: Callable[..., BankConfig], tmp_path: Path) -> None:
    """Of several runs the newest row; what it reported gone is not looked at; what another source has, is."""
    store, media = Store.at(str(lost(tmp_path)), StorageConfig()), tmp_path / "media"
    for number in range(10):
        (media / f"{number:04}.jpg").write_bytes(b"changed")
    scanned(
        media,
        tmp_path / "out",
        lambda uri: row(uri, sha256="c" * 64, pdq=PDQ[350]),
        run_id="second",
        report={"max_deleted_rate": 1},
    )
    other = files(tmp_path / "other", 5)
    scanned(other, tmp_path / "out", row, run_id="third")
    assert [base.run.run_id for base in live_runs(store)] == ["third", "second"]
    result = match(store, bank("block", f"sha256 {'c' * 64}", f"sha256 {sha('0003.jpg')}", f"pdq {PDQ[100]}"))
    assert result.record.matching.objects == 15
    rows = [r for path in result.report_files for r in pq.read_table(path).to_pylist()]
    assert sorted(Path(r["uri"]).parent.name for r in rows) == ["media"] * 10 + ["other"]


def test_what_has_no_hash_is_told(tmp_path: Path, bank: Callable[..., BankConfig]) -> None:
    """By the kinds that the banks hold."""
    scanned(
        files(tmp_path / "m", 4),
        tmp_path / "o",
        lambda uri: row(uri, pdq=None, pdq_quality=None, md5=None) if "0001" in uri else row(uri),
    )
    store = Store.at(str(tmp_path / "o"), StorageConfig())
    block = bank("block", f"pdq {PDQ[0]}", f"sha256 {'0' * 64}")
    assert match(store, block).record.matching.without == {"pdq": 1}


def test_the_policy_is_the_newest_runs_or_the_one_given(store: Store, bank: Callable[..., BankConfig]) -> None:
    """Both stand in the record."""
    block = bank("block", f"pdq {PDQ[3]}")
    assert match(store, block).record.policy.identity == load_policy("open-nsfw").identity
    rules = [{"name": "known", "when": "match_bank = 'block'", "decision": "review", "queue": "known"}]
    own = parse_policy({"name": "own", "version": "1", "rules": rules, "otherwise": {"decision": "allow"}})
    [found] = rows_of(match(store, block, run_id="own", policy=own)).values()
    assert (found["decision"], found["rule"], found["policy"]) == ("review", "known", own.identity)


def test_a_match_is_nothing_to_go_on_from(seen: Path, store: Store, bank: Callable[..., BankConfig]) -> None:
    """The next night goes on from the scan; the store's newest report is the scan's; a match is not matched again."""
    match(store, bank("block", f"pdq {PDQ[3]}"))
    config = ScanConfig.of({"source": {"uris": [str(seen.parent / "media")]}, "out": store.uri})
    assert [base.run.run_id for base in find_previous(Run.named(store, "next"), config)] == ["first"]
    assert find_run(store.uri, StorageConfig()).run_id == "first"
    assert [base.run.run_id for base in live_runs(store)] == ["first"]


def test_a_match_is_gone_on_with(
    store: Store, bank: Callable[..., BankConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off before its commit, the same again completes it, and a committed one is left alone; with another bank it is refused."""
    block = bank("block", f"pdq {PDQ[3]}")
    with monkeypatch.context() as patch:
        patch.setattr(matching, "commit_record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            match(store, block)
    with pytest.raises(RunConflict, match="banks was"):
        match(store, bank("other", f"pdq {PDQ[4]}"))
    assert not match(store, block).already_committed
    assert match(store, block).already_committed


def test_there_must_be_something_to_match(tmp_path: Path, store: Store, bank: Callable[..., BankConfig]) -> None:
    """A store without reports, and a bank without hashes."""
    with pytest.raises(StoreError, match="no committed scan"):
        match_store(Store.at(str(tmp_path / "empty"), StorageConfig()), (bank("b", f"pdq {PDQ[0]}"),), StorageConfig())
    with pytest.raises(BankError, match="no usable"):
        match(store, bank("b", ""))


def test_a_match_is_not_replayed(store: Store, bank: Callable[..., BankConfig]) -> None:
    """A run of matches alone is no report over a listing, and no later night may take a replay of it for one."""
    matched = match(store, bank("block", f"sha256 {sha('0007.jpg')}"))
    with pytest.raises(ConfigError, match="run match holds only matches"):
        commit_replay(Run(store, matched.run_id), load_policy("open-nsfw"), "open-nsfw", "again")
