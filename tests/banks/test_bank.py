"""A bank is read once, is kept on the node, and is the same for all who open it."""

from __future__ import annotations

import os
import random
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from nsfwscan.banks import bank as banks
from nsfwscan.banks.bank import BankSpec, open_bank, resolve_banks
from nsfwscan.banks.pdq_index import LARGE
from nsfwscan.config import BankConfig, StorageConfig
from nsfwscan.errors import BankError
from nsfwscan.location import Location
from nsfwscan.storage.filesystems import filesystem
from tests.s3.servers import S3Endpoint

STORAGE = StorageConfig()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NSFWSCAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def resolved(path: Path | str, **settings: object) -> BankSpec:
    [spec] = resolve_banks((BankConfig.of({"name": "b", "uri": str(path), **settings}),), STORAGE)
    return spec


def hashes(count: int, seed: int = 0) -> list[str]:
    found = np.random.default_rng(seed).integers(0, 256, (count, 32), dtype=np.uint8)
    return [row.tobytes().hex() for row in found]


def written(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_every_entry_is_found_and_nothing_else(tmp_path: Path) -> None:
    """Ten thousand digests, zeros and repetitions among them; others, the closest ones too, are not found."""
    known = [*hashes(10_000), "00" * 32, "ff" * 32, "00" * 31 + "01", "01" + "00" * 31]
    mixed = [*known, *known[:100]]
    random.Random(0).shuffle(mixed)
    spec = resolved(written(tmp_path / "a.txt", mixed), hash="sha256")
    assert spec.entries["sha256"] == len(known)
    entries = open_bank(spec, STORAGE).entries["sha256"]
    asked = np.array([list(bytes.fromhex(h)) for h in known], np.uint8)
    places = entries.find(asked)
    assert [entries.hashes[i].tobytes().hex() for i in places] == known
    near = asked.copy()
    near[:, -1] ^= 2
    assert (entries.find(near) == -1).all()
    assert entries.find(asked[:0]).tolist() == []


def test_of_equal_hashes_the_first_id_counts(tmp_path: Path) -> None:
    """The smallest; an entry without an id gives way to one that has one."""
    one, two, three = hashes(3)
    lines = ["hash,id", f"{one},b", f"{one},a", f"{one},", f"{two},", f"{two},z", f"{three},"]
    entries = open_bank(resolved(written(tmp_path / "a.csv", lines), hash="sha256"), STORAGE).entries["sha256"]
    named = {entries.hashes[i].tobytes().hex(): entries.id_of(i) for i in range(3)}
    assert named == {one: "a", two: "z", three: three}


def test_a_version_is_of_all_that_decides(tmp_path: Path) -> None:
    """Content, distance, quality, kind; neither the bank's name nor its place."""
    first = written(tmp_path / "a.txt", hashes(2))
    copy = written(tmp_path / "copy.txt", hashes(2))
    spec = resolved(first, hash="pdq")
    assert resolved(copy, hash="pdq", name="other").version == spec.version
    assert spec.identity == f"b@{spec.version[:16]}"
    others = [
        resolved(first, hash="pdq", **changed).version
        for changed in ({"distance": 30}, {"quality": 40}, {"kind": "illegal"})
    ]
    others.append(resolved(first, hash="sha256").version)
    others.append(resolved(written(copy, hashes(3)), hash="pdq").version)
    assert len({spec.version, *others}) == 6


def test_what_is_recorded_holds_no_secret(tmp_path: Path) -> None:
    """Name, place, kind, settings, version, entries by kind, malformed ones with examples; a signed URI is redacted."""
    spec = resolved(written(tmp_path / "a.txt", [*hashes(2), "x"]), hash="pdq", kind="illegal")
    signed = replace(spec, config=spec.config.model_copy(update={"uri": "https://h/a.txt?X-Amz-Signature=secret"}))
    record = signed.as_json()
    assert "secret" not in str(record)
    assert {name: record[name] for name in ("name", "kind", "distance", "quality", "version", "entries", "malformed")} == {
        "name": "b",
        "kind": "illegal",
        "distance": 31,
        "quality": 50,
        "version": spec.version,
        "entries": {"sha256": 0, "md5": 0, "pdq": 2},
        "malformed": 1,
    }  # fmt: skip
    assert record["examples"] == ("line 3: 'x' is not 64 hex digits, as pdq has",)


def test_a_node_reads_a_bank_once(tmp_path: Path) -> None:
    """Whoever opens it later has it from the node's own disk, though the file is gone; without either it is an error."""
    spec = resolved(written(tmp_path / "a.txt", hashes(2)), hash="pdq")
    (tmp_path / "a.txt").unlink()
    assert len(open_bank(spec, STORAGE).entries["pdq"].hashes) == 2
    banks.shutil.rmtree(spec.folder)
    with pytest.raises(BankError, match=r"bank b: cannot read .*a\.txt"):
        open_bank(spec, STORAGE)


def test_a_bank_that_changes_under_a_run_stops_it(tmp_path: Path) -> None:
    """A node that comes later and finds another file does not match by it."""
    spec = resolved(written(tmp_path / "a.txt", hashes(2)), hash="pdq")
    banks.shutil.rmtree(spec.folder)
    written(tmp_path / "a.txt", hashes(3))
    with pytest.raises(BankError, match=r"bank b: .* has changed since the run began .* or start a new run"):
        open_bank(spec, STORAGE)
    written(tmp_path / "a.txt", hashes(2))
    assert len(open_bank(spec, STORAGE).entries["pdq"].hashes) == 2


def test_a_bank_in_an_object_store(moto: S3Endpoint, tmp_path: Path) -> None:
    """Read through the source's storage options."""
    storage = StorageConfig(endpoint_url=moto.endpoint_url)
    filesystem(Location.of("s3://banks"), storage).mkdir("s3://banks")
    filesystem(Location.of("s3://banks"), storage).pipe_file("s3://banks/a.csv", f"pdq\n{hashes(1)[0]}\n".encode())
    [spec] = resolve_banks((BankConfig.of({"name": "b", "uri": "s3://banks/a.csv"}),), storage)
    assert spec.entries["pdq"] == 1


def test_old_banks_are_forgotten(tmp_path: Path) -> None:
    """A new version removes those that nobody opened for days, and those alone."""
    old = resolved(written(tmp_path / "a.txt", hashes(2)), hash="pdq")
    used = resolved(written(tmp_path / "b.txt", hashes(3)), hash="pdq")
    for spec in (old, used):
        os.utime(spec.folder, (time.time() - 5 * 86400,) * 2)
    open_bank(used, STORAGE)
    new = resolved(written(tmp_path / "c.txt", hashes(4)), hash="pdq")
    assert not old.folder.exists() and used.folder.exists() and new.folder.exists()


def _opened(spec: BankSpec) -> int:
    return len(open_bank(spec, STORAGE).entries["pdq"].hashes)


@pytest.mark.long
def test_many_workers_open_a_bank_at_once(tmp_path: Path) -> None:
    """On a node that has not got it, each has it whole."""
    spec = resolved(written(tmp_path / "a.txt", hashes(2000)), hash="pdq")
    banks.shutil.rmtree(spec.folder)
    with ProcessPoolExecutor(4, get_context("spawn")) as workers:
        assert list(workers.map(_opened, [spec] * 8)) == [2000] * 8


def test_a_large_index_is_built_once_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second who asks reads the first one's file; a damaged file is built again."""
    monkeypatch.setattr(banks, "LARGE", 100)
    spec = resolved(written(tmp_path / "a.txt", hashes(300)), hash="pdq")
    bank = open_bank(spec, STORAGE)
    asked = bank.entries["pdq"].hashes[:5]
    first = bank.near().search(asked).entries.tolist()
    file = spec.folder / "pdq-31.index"
    written_at = file.stat().st_mtime_ns
    assert open_bank(spec, STORAGE).near().search(asked).entries.tolist() == first == [0, 1, 2, 3, 4]
    assert file.stat().st_mtime_ns == written_at
    file.write_bytes(file.read_bytes()[:100])
    assert open_bank(spec, STORAGE).near().search(asked).entries.tolist() == first
    assert file.stat().st_mtime_ns != written_at


@pytest.mark.full
def test_a_bank_of_a_million_entries(tmp_path: Path) -> None:
    """Half of them digests, half PDQ: all of a sample are found again, those 31 bits off too, and none of 32 bits."""
    known = hashes(1_000_000)
    lines = ["type,hash,id", *(f"{('pdq', 'sha256')[i % 2]},{h},{i}" for i, h in enumerate(known))]
    spec = resolved(written(tmp_path / "a.csv", lines))
    assert spec.entries == {"sha256": 500_000, "md5": 0, "pdq": 500_000} and LARGE < 500_000
    bank = open_bank(spec, STORAGE)
    picked = np.random.default_rng(1).choice(500_000, 500, replace=False) * 2
    exact = np.array([list(bytes.fromhex(known[i + 1])) for i in picked], np.uint8)
    found = bank.entries["sha256"].find(exact)
    assert [bank.entries["sha256"].id_of(i) for i in found] == [str(i + 1) for i in picked]
    index, shuffled = bank.near(), np.random.default_rng(2)
    for bits, is_found in ((31, True), (32, False)):
        asked = np.unpackbits(np.array([list(bytes.fromhex(known[i])) for i in picked], np.uint8), axis=1)
        for row in asked:
            row[shuffled.choice(256, bits, replace=False)] ^= 1
        near = index.search(np.packbits(asked, axis=1))
        ids = [bank.entries["pdq"].id_of(i) for i in near.entries.tolist()]
        assert ids == ([str(i) for i in picked] if is_found else [])
