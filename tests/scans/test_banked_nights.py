"""Banks from night to night: what is carried is matched with tonight's, and read again only where it must be."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw
from skimage import data

from nsfwscan.banks.matcher import BankSet
from nsfwscan.config import ScanConfig, StorageConfig
from nsfwscan.errors import BankError, ConfigError, RunConflict
from nsfwscan.images.pdq import pdq_of
from nsfwscan.policy.rules import load_policy
from nsfwscan.runs.run import Run
from nsfwscan.runs.verify import verify
from nsfwscan.schema import REPORT_SCHEMA
from nsfwscan.storage.store import Store
from nsfwscan.workflows.classify import classify_images
from nsfwscan.workflows.replay import commit_replay, replay
from nsfwscan.workflows.scan import ScanResult
from tests.scans.test_nightly import backdate, night


@cache
def photos() -> dict[str, Image.Image]:
    return {name: Image.fromarray(getattr(data, name)()) for name in ("astronaut", "coffee", "chelsea", "rocket")}


def encoded(image: Image.Image, fmt: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, fmt, **options)
    return out.getvalue()


@pytest.fixture
def media(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four photographs, a broken one and a text, an hour old."""
    monkeypatch.setenv("NSFWSCAN_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "media"
    folder.mkdir()
    for name, photo in photos().items():
        (folder / f"{name}.jpg").write_bytes(encoded(photo))
    rocket = encoded(photos()["rocket"])
    (folder / "broken.jpg").write_bytes(rocket[: rocket.index(b"\xff\xda")])
    (folder / "notes.txt").write_text("no image")
    for path in folder.iterdir():
        backdate(path)
    return folder


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def bank(folder: Path, name: str, *entries: str, **settings: Any) -> dict[str, Any]:
    path = folder / f"{name}.txt"
    path.write_text("".join(f"{entry}\n" for entry in entries))
    return {name: {"uri": str(path), **settings}}


def rows_of(result: ScanResult) -> dict[str, dict[str, Any]]:
    assert list(verify(Run(Store.at(result.uri.rsplit("/runs/", 1)[0], StorageConfig()), result.run_id))) == []
    rows = [row for path in result.report_files for row in pq.read_table(path).to_pylist()]
    return {Path(row["uri"]).stem: row for row in rows}


@pytest.mark.long
def test_new_banks_over_carried_rows(media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read again: stored hashes are matched, scores stay; the night after, with the same banks, not even that."""
    out = tmp_path / "out"
    night(media, out, "one")
    banks = bank(tmp_path, "bad", f"sha256 {sha(media / 'coffee.jpg')}", f"sha256 {sha(media / 'broken.jpg')}")
    banks |= bank(tmp_path, "csam", f"pdq {pdq_of(photos()['chelsea'])[0]}", kind="illegal")
    result, looked_at = night(media, out, "two", banks=banks)
    assert looked_at == set()
    rows = rows_of(result)
    found = {
        name: (r["match_bank"], r["decision"], r["nsfw_score"] is None) for name, r in rows.items() if r["match_kind"]
    }
    assert found == {
        "coffee": ("bad", "block", False),
        "broken": ("bad", "block", True),
        "chelsea": ("csam", "escalate", False),
    }
    assert {r["accounted_as"] for r in rows.values()} == {"carried"}
    assert versions(rows) == {f"{b.name}@{b.version[:16]}" for b in result.record.banks}
    assert rows["broken"]["error_code"] == "truncated" and rows["notes"]["error_code"] == "text"
    assert result.record.changes.newly_flagged == 3
    [file] = [f for f in result.record.files if f.path.startswith("escalations/")]
    assert file.rows == 1

    def never(*_: object, **__: object) -> None:
        raise AssertionError("matched again although nothing changed")

    monkeypatch.setattr(BankSet, "_columns", never)
    again, _ = night(media, out, "three", banks=banks)
    monkeypatch.undo()
    same = ("match_bank", "match_bank_version", "match_id", "match_distance", "decision", "rule", "queue", "nsfw_score")
    assert {n: [r[c] for c in same] for n, r in rows_of(again).items()} == {
        n: [r[c] for c in same] for n, r in rows.items()
    }


def versions(rows: Mapping[str, Mapping[str, Any]]) -> set[str]:
    return {f"{row['match_bank']}@{row['match_bank_version']}" for row in rows.values() if row["match_bank"]}


@pytest.mark.long
def test_a_match_names_the_version_that_it_was_matched_with(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tonight's for a carried row; after a replay, and for an illegal match whose bank is left out, that of before. A
    report of before the column says it too, once its rows are carried over."""
    out, entries = tmp_path / "out", [f"sha256 {sha(media / f'{name}.jpg')}" for name in ("coffee", "rocket")]
    with monkeypatch.context() as patch:  # the columns of before
        old = pa.schema([f for f in REPORT_SCHEMA if f.name not in ("match_bank_version", "error_code")])
        patch.setattr("nsfwscan.runs.writing.REPORT_SCHEMA", old)
        patch.setattr("nsfwscan.runs.writing.select_escalations", lambda rows: rows.slice(0, 0))
        patch.setattr("nsfwscan.runs.summary.Summary._add_errors", lambda *_: None)
        first, _ = night(media, out, "one", banks=bank(tmp_path, "csam", entries[0]))
    assert "error_code" not in pq.read_schema(first.report_files[0]).names
    second, looked_at = night(media, out, "two", banks=bank(tmp_path, "csam", entries[0]))
    assert looked_at == set() and versions(rows_of(second)) == {f"csam@{first.record.banks[0].version[:16]}"}
    assert {n: rows_of(second)[n]["error_code"] for n in ("broken", "notes")} == {
        "broken": "decode_error",
        "notes": "unsupported",
    }
    third, _ = night(media, out, "three", banks=bank(tmp_path, "csam", *entries, kind="illegal"))
    assert third.record.banks[0].version != first.record.banks[0].version
    [version] = versions(rows_of(third))
    assert version == f"csam@{third.record.banks[0].version[:16]}"
    again = commit_replay(Run(Store.at(str(out), StorageConfig()), "three"), load_policy("five-class"), "x", "four")
    assert versions(rows_of(again)) == {version}
    fifth, _ = night(media, out, "five")
    assert versions(rows_of(fifth)) == {version}


@pytest.mark.long
def test_what_a_bank_gives_up_is_scored(media: Path, tmp_path: Path) -> None:
    """Settled without a score under yesterday's bank, unknown to tonight's: read and scored; what it still holds is not."""
    out = tmp_path / "out"
    entries = {name: f"sha256 {sha(media / f'{name}.jpg')}" for name in ("coffee", "rocket")}
    first, _ = night(media, out, "one", banks=bank(tmp_path, "good", *entries.values(), kind="allow"))
    assert first.record.balance.matched == 2
    assert {rows_of(first)[name]["decision"] for name in entries} == {"allow"}
    second, looked_at = night(media, out, "two", banks=bank(tmp_path, "good", entries["coffee"], kind="allow"))
    assert looked_at == {"rocket.jpg"}
    rows = rows_of(second)
    assert (rows["coffee"]["accounted_as"], rows["coffee"]["match_bank"]) == ("carried", "good")
    assert (rows["rocket"]["accounted_as"], rows["rocket"]["match_bank"]) == ("scored", None)
    _, looked_at = night(media, out, "three")
    assert looked_at == {"coffee.jpg"}


def test_a_match_is_no_error(media: Path, tmp_path: Path) -> None:
    """A broken file that is in a bank counts neither as unreadable nor among the errors; it is matched."""
    banks = bank(tmp_path, "bad", *(f"sha256 {sha(path)}" for path in sorted(media.iterdir())))
    result, _ = night(media, tmp_path / "out", "one", banks=banks)
    summary = result.record.summary
    assert result.record.balance.matched == 6
    assert (summary.unreadable, summary.error_rate, summary.errors) == (0, 0.0, ())
    assert summary.match_bank == {"bad": 6}


def test_an_unfinished_run_keeps_its_banks(media: Path, tmp_path: Path) -> None:
    """Begun with one version, it is not gone on with by another: named and refused, as for a policy."""
    banks = bank(tmp_path, "bad", f"sha256 {sha(media / 'coffee.jpg')}")
    result, _ = night(media, tmp_path / "out", "one", banks=banks)
    for name in ("run.json", "_SUCCESS"):
        os.unlink(f"{result.uri}/{name}")
    bank(tmp_path, "bad", f"sha256 {sha(media / 'rocket.jpg')}")
    with pytest.raises(RunConflict, match=r"banks was \['bad@\w{16}'\], is \['bad@\w{16}'\]"):
        night(media, tmp_path / "out", "one", banks=banks)


def test_banks_that_cannot_be_used_stop_the_scan_before_it_starts(media: Path, tmp_path: Path) -> None:
    """One that is not there; one of looks, where no looks are hashed."""
    with pytest.raises(BankError, match="bank none: "):
        night(media, tmp_path / "out", "one", banks={"none": {"uri": str(tmp_path / "none.csv")}})
    looks = bank(tmp_path, "bad", f"pdq {pdq_of(photos()['coffee'])[0]}")
    with pytest.raises(ConfigError, match=r"bank bad holds PDQ hashes, and decode\.pdq is off"):
        night(media, tmp_path / "out", "one", banks=looks, decode={"pdq": "off"})
    assert not (tmp_path / "out" / "runs").exists() or not os.listdir(tmp_path / "out" / "runs")


def test_a_replay_decides_matches_as_the_scan_did(media: Path, tmp_path: Path) -> None:
    """By the stored match alone: nothing moves under the same policy, blocked ones move under a rule that names their bank,
    and illegal ones under none."""
    banks = bank(tmp_path, "bad", f"sha256 {sha(media / 'coffee.jpg')}")
    banks |= bank(tmp_path, "csam", f"sha256 {sha(media / 'rocket.jpg')}", kind="illegal")
    night(media, tmp_path / "out", "one", banks=banks)
    run = Run(Store.at(str(tmp_path / "out"), StorageConfig()), "one")
    assert replay(run, load_policy("open-nsfw")).as_dict()["moved"] == 0
    allow = tmp_path / "allow.yaml"
    allow.write_text(
        "version: '1'\nrules:\n  - {name: a, when: 'true', decision: allow}\notherwise: {decision: allow}\n"
    )
    assert replay(run, load_policy(str(allow))).as_dict()["moves"] == []
    allow.write_text(allow.read_text().replace("'true'", "match_bank = 'bad'"))
    moves = replay(run, load_policy(str(allow))).as_dict()["moves"]
    assert [(move["from"], move["to"]) for move in moves] == [("block", "undetermined")]


def test_one_image_is_matched_as_in_a_scan(media: Path, tmp_path: Path) -> None:
    """`classify` says which bank it is in, and gives no score."""
    banks = bank(tmp_path, "bad", f"pdq {pdq_of(photos()['chelsea'])[0]}")
    small = tmp_path / "small.png"
    small.write_bytes(encoded(photos()["chelsea"].resize((200, 140)), "PNG"))
    uris = [str(small), str(media / "coffee.jpg")]
    found, other = classify_images(uris, ScanConfig.of({"source": {"uris": uris}, "out": "", "banks": banks}))
    assert found.match is not None and found.match.bank == "bad" and 0 < found.match.distance <= 31
    assert (found.decision, found.rule, found.scores) == ("block", "known-bad", {})
    assert other.match is None and other.nsfw_score is not None


# What PDQ promises: measured on these photographs, in bits; over 31 is not found.


def signed(image: Image.Image) -> Image.Image:
    """With a translucent name in a corner."""
    name = Image.new("RGBA", image.size)
    place = (image.width * 0.6, image.height * 0.88)
    ImageDraw.Draw(name).text(place, "@somebody", (255, 255, 255, 160), font_size=image.height // 12)
    return Image.alpha_composite(image.convert("RGBA"), name).convert("RGB")


def covered(image: Image.Image) -> Image.Image:
    """With a white box over two fifths of its area."""
    marked, side = image.copy(), 0.4**0.5
    marked.paste((255, 255, 255), (0, 0, int(image.width * side), int(image.height * side)))
    return marked


TRANSFORMS = {
    "resized to a half": (lambda i: encoded(i.resize((i.width // 2, i.height // 2)), "PNG"), True),
    "resized to 160 pixels": (lambda i: encoded(i.resize((160, 160 * i.height // i.width)), "PNG"), True),
    "encoded again at quality 30": (lambda i: encoded(i, quality=30), True),
    "encoded as WebP": (lambda i: encoded(i, "WEBP", quality=60), True),
    "with a watermark": (lambda i: encoded(signed(i)), True),
    "with a box over two fifths": (lambda i: encoded(covered(i)), False),
    "cut by a fifth on each side": (
        lambda i: encoded(i.crop((i.width // 5, i.height // 5, i.width * 4 // 5, i.height * 4 // 5))),
        False,
    ),
    "mirrored": (lambda i: encoded(i.transpose(Image.Transpose.FLIP_LEFT_RIGHT)), False),
    "turned": (lambda i: encoded(i.transpose(Image.Transpose.ROTATE_90)), False),
}


def test_transformed_copies_are_found_as_pdq_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resized, encoded again and lightly marked ones are; cropped, mirrored, turned and covered ones are not; and a match
    says how far it is off."""
    monkeypatch.setenv("NSFWSCAN_CACHE", str(tmp_path / "cache"))
    media = tmp_path / "media"
    media.mkdir()
    for name, photo in photos().items():
        for i, (change, _) in enumerate(TRANSFORMS.values()):
            (media / f"{name}-{i}.img").write_bytes(change(photo))
    banks = bank(tmp_path, "photos", *(f"pdq {pdq_of(photo)[0]}" for photo in photos().values()))
    result, _ = night(media, tmp_path / "out", "one", banks=banks)
    rows = rows_of(result)
    for i, (what, (_, is_found)) in enumerate(TRANSFORMS.items()):
        for name, photo in photos().items():
            row = rows[f"{name}-{i}"]
            off = (int(row["pdq"], 16) ^ int(pdq_of(photo)[0], 16)).bit_count()
            assert (off <= 31) == is_found == (row["match_bank"] is not None), (what, name, off)
            assert row["match_distance"] == (off if is_found else None)
