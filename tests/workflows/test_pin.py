"""A store pins its policy and banks: what is left out is as pinned, what is another is said loudly, what changed stops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from click.testing import CliRunner, Result

from nsfwscan.cli.main import main
from nsfwscan.cli.terminal import describe_scan
from nsfwscan.config import ScanConfig, StorageConfig
from nsfwscan.errors import BankError, BrokenRecord, PolicyError, RunConflict
from nsfwscan.runs.pins import FOLDER, Pin, current_pin, pin_history, write_pin
from nsfwscan.storage.store import Store
from nsfwscan.workflows.doctor import examine
from nsfwscan.workflows.scan import ScanResult
from tests.runs.rows import scanned, staged_row
from tests.s3.servers import S3Endpoint

MD5 = "0" * 32


def policy(folder: Path, name: str, limit: float) -> Path:
    rule = {"name": "explicit", "when": f"nsfw_score > {limit}", "decision": "block", "queue": "adult"}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"version": name, "rules": [rule], "otherwise": {"decision": "allow"}}))
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two objects, two policies, a bank that none of the objects is in, and another one."""
    monkeypatch.setenv("NSFWSCAN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "media").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "media" / name).write_bytes(b"x")
    policy(tmp_path, "strict", 0.3)
    policy(tmp_path, "lax", 0.9)
    for name, entry in (("known", "1" * 32), ("other", "2" * 32)):
        (tmp_path / f"{name}.txt").write_text(f"{entry}\n")
    return tmp_path


def pinned(folder: Path, *more: str, out: str | None = None) -> Result:
    given = more or ("--policy", str(folder / "strict.yaml"), "--bank", f"known={folder / 'known.txt'},hash=md5")
    return call("pin", out or folder / "out", *given)


def night(folder: Path, run_id: str, out: str | None = None, **sections: Any) -> ScanResult:
    def row(uri: str) -> dict[str, Any]:
        return staged_row(uri, nsfw_score=0.5, md5=MD5)

    return scanned(folder / "media", out or folder / "out", row, run_id=run_id, **sections)


def test_what_is_left_out_is_as_pinned(folder: Path) -> None:
    """Scan, match and replay go by the pinned policy and banks, and their records and the terminal say so."""
    assert pinned(folder).exit_code == 0
    first = night(folder, "1")
    assert first.record.policy.version == "strict" and first.record.summary.decision == {"block": 2}
    assert [bank.name for bank in first.record.banks] == ["known"]
    pin = first.record.pin
    assert pin is not None and (pin.number, pin.used, pin.others) == (1, ("policy", "banks"), ())
    assert "as the store pins it: policy, banks of pin 1 (by " in describe_scan(first)
    assert "Not as the store pins it" not in Path(first.uri, "summary.html").read_text()
    matched = json.loads(call("match", folder / "out", "--run-id", "2", "--json").stdout)
    assert matched["banks"] == [bank.identity for bank in first.record.banks] and matched["pin"]["used"] == [
        "policy",
        "banks",
    ]
    replayed = call("policy", "replay", folder / "out", "--commit", "--run-id", "3", "--json")
    assert json.loads(replayed.stdout)["committed"]["policy"] == first.record.policy.identity, replayed.output


def test_another_is_said_loudly(folder: Path) -> None:
    """Another policy or bank holds for its run: the terminal, the record and the page say it, with both versions."""
    pinned(folder)
    other = {"other": {"uri": str(folder / "other.txt"), "hash": "md5"}}
    found = night(folder, "1", policy=str(folder / "lax.yaml"), banks=other)
    assert found.record.policy.version == "lax" and found.record.pin is not None and found.record.pin.used == ()
    others = [(one.what, one.name) for one in found.record.pin.others]
    assert others == [("policy", ""), ("rule", "explicit"), ("bank", "known"), ("bank", "other")]
    lines = describe_scan(found).splitlines()
    assert lines[2].startswith("NOT AS THE STORE PINS IT, pin 1 (by ") and ", version strict → lax@" in lines[3]
    page = Path(found.uri, "summary.html").read_text()
    assert page.index("Not as the store pins it") < page.index("<main>")
    replayed = call("policy", "replay", folder / "out", "--policy", folder / "lax.yaml")
    assert replayed.exit_code == 0 and "NOT AS THE STORE PINS IT" in replayed.stderr
    same = night(folder, "2", policy=str(folder / "strict.yaml"))
    assert same.record.pin is not None and (same.record.pin.used, same.record.pin.others) == (("banks",), ())
    again = night(folder, "3", policy=str(folder / "lax.yaml"), banks=other)  # run 2 was as pinned: one list says both
    assert again.record.pin is not None and again.record.differences == again.record.pin.others
    assert "settings are others than in run" not in describe_scan(again)
    assert 'id="differences"' not in Path(again.uri, "summary.html").read_text()


@pytest.mark.parametrize("how", ["changed", "gone"])
def test_a_pinned_file_that_is_another_stops_at_once(folder: Path, how: str) -> None:
    """A policy or bank that was changed, or cannot be read, ends with what to do, and nothing is listed."""
    pinned(folder)
    file = folder / "strict.yaml"
    before = file.read_text()
    file.write_text(before.replace("0.3", "0.4")) if how == "changed" else file.unlink()
    said = r"(?s)strict\.yaml.*the store pins it \(pin 1, by .*nsfwscan pin STORE --policy ….*give --policy"
    with pytest.raises(PolicyError, match=said):
        night(folder, "1")
    assert [found.subject for found in examine(config(folder)) if found.is_failure and found.subject == "pin"]
    assert night(folder, "0", policy="open-nsfw").exit_code == 0  # for one run alone
    file.write_text(before)
    bank = folder / "known.txt"
    bank.write_text("3" * 32 + "\n") if how == "changed" else bank.unlink()
    with pytest.raises(BankError, match=r"(?s)bank known: .*the store pins it.*--bank …"):
        night(folder, "1")
    stopped = call("match", folder / "out", "--run-id", "2")
    assert stopped.exit_code == 1 and "the store pins it" in stopped.stderr
    assert not (folder / "out" / "runs" / "1").exists()
    call("pin", folder / "out", "--policy", file, "--bank", f"other={folder / 'other.txt'},hash=md5")
    assert [one.name for one in night(folder, "1").record.banks] == ["other"]


def config(folder: Path) -> ScanConfig:
    return ScanConfig.of({"source": {"uris": [str(folder / "media")]}, "out": str(folder / "out")})


def test_the_history_is_kept(folder: Path) -> None:
    """Each pin is a file; parts that are not given stay pinned; the same again is no new pin; clearing is one, too."""
    out = folder / "out"
    assert call("pin", out).exit_code == 2 and call("pin", out, "--show").stdout == "nothing is pinned\n"
    assert pinned(folder).stdout.startswith("pinned\n") and pinned(folder).stdout.startswith("pinned already\n")
    pinned(folder, "--policy", "open-nsfw")
    assert call("pin", out, "--clear", "--show").exit_code == 2
    assert call("pin", out, "--clear").stdout.startswith("cleared") and "nothing is pinned" in (
        call("pin", out, "--clear").stdout
    )
    shown = json.loads(call("pin", out, "--show", "--json").stdout)
    assert [one["parts"] for one in shown["history"]] == [["policy", "banks"], ["policy", "banks"], []]
    assert [one["previous"] for one in shown["history"]] == [None, *(one["sha256"] for one in shown["history"][:2])]
    assert shown["history"][0]["policy"]["record"]["rules"][0]["when"] == "nsfw_score > 0.3"
    assert shown["history"][1]["policy"]["source"] == "open-nsfw" and "@" in shown["pin"]["pinned_by"]
    found = night(folder, "1")
    assert found.record.pin is None and found.record.banks == ()


def test_a_model_is_pinned(folder: Path) -> None:
    """The model of a run that names none is the pinned one; another is said."""
    pinned(folder, "--model", "embedded:open-nsfw")
    pin = night(folder, "1").record.pin
    assert pin is not None and pin.used == ("model",)
    assert "open_nsfw" in call("pin", folder / "out", "--show").stdout.replace("-", "_")


def test_a_broken_pin_stops(folder: Path) -> None:
    """A pin that was changed by hand, or does not follow the one before, is told; clearing goes on without it."""
    pinned(folder)
    pinned(folder, "--policy", "open-nsfw")
    store = Store.at(str(folder / "out"), StorageConfig())
    file = folder / "out" / FOLDER / "000001.json"
    file.write_bytes(file.read_bytes().replace(b"0.3", b"0.9"))
    assert [type(one) for one in pin_history(store)] == [Pin, BrokenRecord]
    assert call("pin", folder / "out", "--show").exit_code == 1
    newest = folder / "out" / FOLDER / "000002.json"
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.raises(BrokenRecord, match=r"000002\.json is broken.*--clear"):
        night(folder, "1")
    assert call("pin", folder / "out", "--policy", "open-nsfw").exit_code == 1
    call("pin", folder / "out", "--clear")
    assert night(folder, "1").exit_code == 0


def test_of_two_who_pin_at_once_one_wins(folder: Path) -> None:
    """The second is told, and overwrites nothing."""
    pinned(folder)
    store = Store.at(str(folder / "out"), StorageConfig())
    held = current_pin(store)
    assert held is not None
    with pytest.raises(RunConflict, match="somebody else pinned"):
        write_pin(store, held.model_copy(update={"pinned_by": "me"}))
    assert current_pin(store) == held


def test_secrets_are_not_pinned(folder: Path) -> None:
    """A URI with a token in it would be readable to everybody who reads the store."""
    shown = call(
        "pin", folder / "out", "--bank", "known=https://127.0.0.1:9/known.txt?X-Amz-Signature=abcdef0123456789"
    )
    assert shown.exit_code in (1, 2) and not (folder / "out" / FOLDER).exists() and "abcdef0123" not in shown.output


@pytest.mark.long
def test_pins_on_s3(folder: Path, moto: S3Endpoint) -> None:
    """The same where the store, the policy and the bank lie on S3; what changed there stops, too."""
    client = boto3.client("s3")
    client.create_bucket(Bucket="pins")
    for name in ("strict.yaml", "known.txt"):
        client.put_object(Bucket="pins", Key=name, Body=(folder / name).read_bytes())
    given = ["--policy", "s3://pins/strict.yaml", "--bank", "known=s3://pins/known.txt,hash=md5"]
    assert pinned(folder, *given, out="s3://pins/out").exit_code == 0
    found = night(folder, "1", out="s3://pins/out")
    assert found.record.policy.version == "strict" and found.record.pin is not None
    assert found.record.pin.used == ("policy", "banks")
    client.put_object(Bucket="pins", Key="known.txt", Body=b"3" * 32)
    with pytest.raises(BankError, match="was changed"):
        night(folder, "2", out="s3://pins/out")
    assert call("pin", "s3://pins/out", "--clear").exit_code == 0
    assert night(folder, "2", out="s3://pins/out").record.banks == ()
