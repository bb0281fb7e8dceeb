"""A run is proved by what lies outside of the store, or by a key that whoever writes the store lacks."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from nsfwscan.config import EvidenceConfig, StorageConfig
from nsfwscan.errors import ConfigError, NsfwscanError
from nsfwscan.runs.ending import UNPROVED
from nsfwscan.runs.evidence import SIGNATURE, Evidence, public_key, signed_text
from nsfwscan.runs.finding import DAMAGED, TAMPERED, exit_code_of
from nsfwscan.runs.pruning import plan_pruning, prune
from nsfwscan.runs.run import Run
from nsfwscan.storage.store import Store, to_json
from nsfwscan.workflows import finalize
from nsfwscan.workflows.replay import commit_replay
from nsfwscan.workflows.scan import ScanResult
from nsfwscan.workflows.verify import verify_all
from tests.runs.rows import decider, files, scanned

LOCAL = StorageConfig()
KEY = Ed25519PrivateKey.generate()
PEM = (Encoding.PEM, PrivateFormat.PKCS8)
Found = tuple[int, dict[str, list[str]]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a key, and a store of three runs: one without evidence, a scan and a replay with it."""
    folder = tmp_path_factory.mktemp("evidence")
    (folder / "key.pem").write_bytes(KEY.private_bytes(*PEM, NoEncryption()))
    (folder / "key.pub").write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (folder / "ssh.pub").write_bytes(KEY.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    files(folder / "media", 2)
    scanned(folder / "media", folder / "out", run_id="1")
    assert night(folder, "2").exit_code == 0
    replayed = commit_replay(run_of(folder, "2"), decider().policy, "open-nsfw", "3", evidence=config(folder))
    assert (replayed.exit_code, replayed.unproved) == (0, None)
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(copytree(made, tmp_path / "place"))


def config(folder: Path, **over: Any) -> EvidenceConfig:
    return EvidenceConfig.of({"anchor": str(folder / "anchors"), "sign_key": str(folder / "key.pem"), **over})


def night(folder: Path, run_id: str, **over: Any) -> ScanResult:
    given = config(folder, **over).model_dump() | {"sign_command": over.get("sign_command")}
    return scanned(folder / "media", folder / "out", run_id=run_id, evidence=given)


def run_of(folder: Path, run_id: str) -> Run:
    return Run(Store.at(str(folder / "out"), LOCAL), run_id)


def found(folder: Path, *, anchors: bool = True, key: str | None = "key.pub", run_id: str | None = None) -> Found:
    keys = [public_key(str(folder / key), LOCAL)] if key else []
    uri = str(folder / "out") + (f"/runs/{run_id}" if run_id else "")
    checked = list(verify_all(uri, LOCAL, None, Store.at(str(folder / "anchors"), LOCAL) if anchors else None, keys))
    exit_code = exit_code_of(finding for one in checked for finding in one.findings)
    return exit_code, {one.name: [f"{f.kind}: {f}" for f in one.findings] for one in checked if one.findings}


def rewrite(folder: Path, run_id: str) -> None:
    """Change a report's record as whoever may write the store can: nothing within the store contradicts it."""
    (folder / "out/runs.parquet").unlink()
    path = folder / "out/runs" / run_id / "run.json"
    path.write_bytes(to_json(json.loads(path.read_text()) | {"python": "3.0.0"}))


def test_what_a_commit_leaves(made: Path) -> None:
    """Each run has an anchor with its digest, made from its record, and a signature that other programs can check."""
    for run_id in "23":
        run = run_of(made, run_id)
        [anchor] = (made / "anchors").glob(f"{run_id}-*")
        content = json.loads(anchor.read_text())
        assert anchor.name == f"{run_id}-{run.digest()}.json" and content["sha256"] == run.digest()
        assert content["decision"] == run.record().summary.decision and content["store"] == run.store.uri
        text = f"nsfwscan run {run_id} {hashlib.sha256(run.folder.read('run.json')).hexdigest()}\n".encode()
        KEY.public_key().verify(run.folder.read(SIGNATURE), text)
        assert signed_text(run_id, run.digest()) == text
    assert run_of(made, "3").record().config.evidence.anchor == str(made / "anchors")


def test_a_later_run_vouches(made: Path) -> None:
    """A run of before there was evidence is noted, since a later one has it behind itself; alone it would be a finding."""
    vouched = ["note: not anchored itself: a later run is, and vouches for it"]
    vouched += ["note: not signed itself: a later run is, and vouches for it"]
    assert found(made) == found(made, key="ssh.pub") == (0, {"1": vouched})
    assert found(made, run_id="1") == (0, {"1": vouched})
    assert found(made, run_id="2") == (0, {})


def test_a_run_without_evidence(place: Path) -> None:
    """A newest run that nothing proves is a finding: it may have been put there by anybody."""
    scanned(place / "media", place / "out", run_id="4")
    exit_code, findings = found(place)
    assert exit_code == DAMAGED
    assert findings["4"][0] == "damaged: not anchored, nor is a later run that vouches for it"
    assert findings["4"][1] == "damaged: not signed, nor is a later run that vouches for it"


def test_the_newest_run_is_written_anew(place: Path) -> None:
    """With all of its digests: the store shows nothing, the anchor and the signature do, each alone."""
    rewrite(place, "3")
    assert found(place, anchors=False, key=None)[0] == 0
    exit_code, findings = found(place, key=None)
    assert exit_code == TAMPERED and "was anchored" in findings["3"][0]
    exit_code, findings = found(place, anchors=False)
    assert exit_code == TAMPERED and findings["3"][0].startswith("tampered: run.json.sig is by no key")
    assert found(place, anchors=False, run_id="3")[0] == found(place, key=None, run_id="3")[0] == TAMPERED
    (place / "out/runs/3" / SIGNATURE).unlink()
    assert found(place, anchors=False)[0] == DAMAGED


def test_the_newest_runs_are_deleted(place: Path) -> None:
    """What was anchored and is not there is named, whether runs are left or none."""
    rmtree(place / "out/runs/3")
    (place / "out/runs.parquet").unlink()
    assert found(place, anchors=False)[0] == 0
    exit_code, findings = found(place)
    assert exit_code == DAMAGED and findings["store"][0].startswith(
        "damaged: run 3 is gone: it was anchored, with the "
    )
    rmtree(place / "out/runs")
    exit_code, findings = found(place)
    assert exit_code == DAMAGED and [text[:22] for text in findings["store"]] == [
        f"damaged: run {n} is gone" for n in "23"
    ]


def test_a_signature_of_another(place: Path) -> None:
    """A key that was not given, and a signature that was copied from another run, prove nothing."""
    other = Ed25519PrivateKey.generate().public_key()
    (place / "key.pub").write_bytes(other.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    assert found(place)[0] == TAMPERED
    (place / "out/runs/2" / SIGNATURE).write_bytes((place / "out/runs/3" / SIGNATURE).read_bytes())
    exit_code, findings = found(place, key="ssh.pub")
    assert exit_code == TAMPERED and list(findings) == ["1", "2"]


def test_anchors_are_elsewhere(place: Path) -> None:
    """A place without any anchor is a finding of its own."""
    rmtree(place / "anchors")
    exit_code, findings = found(place)
    assert exit_code == DAMAGED and findings["store"][0].startswith("damaged: there is no anchor in ")


# --- commits --------------------------------------------------------------------------------------------------------


def test_a_commit_stands_without_its_evidence(place: Path) -> None:
    """What cannot be left is said, with a code of its own; the same again leaves it, and is then done."""
    command = f"sh -c 'rm -r {place}/anchors; touch {place}/anchors; exit 3'"
    result = night(place, "4", sign_key=None, sign_command=command)
    assert (result.exit_code, result.record.exit_code) == (UNPROVED, 0) and run_of(place, "4").is_committed()
    signed, anchored = str(result.unproved).splitlines()
    assert signed.startswith("run 4 is committed, but not signed: the signing command ended with exit code 3")
    assert anchored == f"run 4 is committed, but not anchored: {place / 'anchors'} is no folder"
    (place / "anchors").unlink()
    again = night(place, "4")
    assert (again.exit_code, again.unproved, again.already_committed) == (0, None, True)
    assert "4" not in found(place)[1]


def test_a_commit_that_is_cut_off(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies between `run.json` and `_SUCCESS` leaves the evidence to whoever completes the run."""

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(finalize.Evidence, "leave", killed)
        with pytest.raises(KeyboardInterrupt):
            night(place, "4")
    assert night(place, "4").exit_code == 0
    assert "4" not in found(place)[1]


def _base64(text: bytes) -> bytes:
    return base64.encodebytes(KEY.sign(text))


def _cut(text: bytes) -> bytes:
    return KEY.sign(text)[:63]


@pytest.mark.parametrize(
    ("answer", "lacking"),
    [(KEY.sign, None), (_base64, None), (_cut, "printed 63 bytes"), (lambda _: b"no", "printed 2 bytes")],
)
def test_a_signing_command(tmp_path: Path, made: Path, answer: Callable[[bytes], bytes], lacking: str | None) -> None:
    """It gets the line, and answers with 64 bytes or their Base64; anything else is no signature."""
    run = run_of(made, "1")
    (tmp_path / "answer").write_bytes(answer(signed_text("1", run.digest())))
    command = f"sh -c 'cat > {tmp_path}/asked; cat {tmp_path}/answer'"
    store = Store.at(str(tmp_path / "out"), LOCAL)
    copytree(made / "out/runs/1", tmp_path / "out/runs/1")
    left = Evidence.of(EvidenceConfig(sign_command=command), store, LOCAL).leave(
        Run(store, "1"), run.folder.read("run.json")
    )
    assert (tmp_path / "asked").read_bytes() == signed_text("1", run.digest())
    assert left is None if lacking is None else lacking in str(left)
    assert Run(store, "1").folder.exists(SIGNATURE) == (lacking is None)


def test_a_bad_set_up_stops_before_anything(made: Path, tmp_path: Path) -> None:
    """A key that is none, or behind a passphrase; a program that is not there; an anchor within the store, or nowhere."""
    rsa, there = generate_private_key(65537, 2048), tmp_path / "keys"
    there.mkdir()
    (there / "rsa.pem").write_bytes(rsa.private_bytes(*PEM, NoEncryption()))
    (there / "locked.pem").write_bytes(KEY.private_bytes(*PEM, BestAvailableEncryption(b"x")))
    (there / "text.pem").write_text("no key")
    (there / "raw").write_bytes(b"\xff" * 32)
    (tmp_path / "link").symlink_to(tmp_path / "out")
    cases: list[tuple[dict[str, str], str]] = [
        ({"sign_key": f"{there}/none.pem"}, "cannot read the signing key .*none.pem: "),
        *[({"sign_key": f"{there}/{name}"}, "no Ed25519 private key") for name in ("rsa.pem", "text.pem", "raw")],
        ({"sign_key": str(made / "key.pub")}, "no Ed25519 private key"),
        ({"sign_key": f"{there}/locked.pem"}, "behind a passphrase"),
        ({"sign_command": "no-such-program --key x"}, "not found: no-such-program"),
        ({"sign_command": "'"}, "cannot be split"),
        ({"sign_command": " "}, "it is empty"),
        ({"sign_command": "true", "sign_key": str(made / "key.pem")}, "give one of them"),
        ({"anchor": str(tmp_path / "out")}, "lies in the report store"),
        ({"anchor": str(tmp_path / "link/anchors")}, "lies in the report store"),
        ({"anchor": str(there / "raw/x")}, "cannot"),
        ({"anchor": "s3:/x"}, "is no place"),
    ]
    for given, words in cases:
        with pytest.raises(NsfwscanError, match=words):
            scanned(made / "media", tmp_path / "out", evidence=given)
        assert not (tmp_path / "out/runs").exists(), given
    with pytest.raises(ConfigError, match="no Ed25519 public key"):
        public_key(str(made / "key.pem"), LOCAL)


def test_secrets_of_a_command_stay_out_of_the_record(place: Path) -> None:
    """A command's words may be secret: no file of the store has them."""
    night(place, "4", sign_key=None, sign_command="false --pin not-to-be-told")
    written = [path for path in (place / "out").rglob("*") if path.is_file() and b"not-to-be-told" in path.read_bytes()]
    assert written == []


def test_signatures_have_the_mode_of_records(made: Path) -> None:
    """They and the anchors are readable as reports are."""
    for path in (made / "out/runs/3" / SIGNATURE, *(made / "anchors").iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_pruned_run_keeps_its_evidence(place: Path) -> None:
    """Its record and signature stay, and are checked as before."""
    assert [night(place, run_id).exit_code for run_id in "456"] == [0, 0, 0]
    store = run_of(place, "4").store
    pruned = [one.run_id for one in prune(store, plan_pruning(store, timedelta(0)), "prune") if one.kept is None]
    assert "4" in pruned and run_of(place, "4").folder.exists(SIGNATURE)
    exit_code, findings = found(place)
    assert exit_code == 0 and [text.split(" ")[1] for text in findings["4"]] == ["pruned"]
    rewrite(place, "4")
    assert found(place)[0] == TAMPERED
