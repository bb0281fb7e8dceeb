"""An object is erased from everything that a store says, and the store still balances and verifies."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import shutil
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from nsfwscan.cli.main import main
from nsfwscan.config import StorageConfig
from nsfwscan.policy.rules import load_policy
from nsfwscan.runs.run import Run
from nsfwscan.storage import store as storing
from nsfwscan.storage.confined import Confined
from nsfwscan.storage.store import Store
from nsfwscan.workflows.replay import commit_replay
from tests.runs.rows import ILLEGAL_MATCH, Row, begun, scanned, staged_row
from tests.s3.servers import S3Endpoint
from tests.verdicts.lines import file, line

NAMES = [f"{i:02}" for i in range(30)]  # more flagged ones than run.json names


def sha256(name: str) -> str:
    return hashlib.sha256(("07" if name == "08" else name).encode()).hexdigest()


def row(uri: str) -> Row:
    name = Path(uri).stem
    score = 0.3 if name in ("07", "08") else 0.9
    return staged_row(uri, nsfw_score=score, sha256=sha256(name), md5="0" * 32, camera=f"camera of {name}")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a verdict, an audit, two nights and a delta, in which 07 has a copy, 08."""
    folder = tmp_path_factory.mktemp("forget")
    (folder / "media").mkdir()
    for name in NAMES:
        (folder / "media" / f"{name}.jpg").write_bytes(name.encode())
    scanned(folder / "media", folder / "out", row, run_id="1")
    lines = [line("1", "07", "approve", sha256=sha256("07"), uri=str(folder / "media" / "07.jpg"), reason="his face")]
    lines += [line(name, name, "approve", sha256=sha256(name)) for name in ("03", "20")]
    assert run("verdicts", "import", folder / "out", file(folder / "v.jsonl", lines)).exit_code == 0
    scanned(folder / "media", folder / "out", row, run_id="2")
    assert run("audit", "draw", folder / "out", "--n", 30, "--out", folder / "items.jsonl").exit_code == 0
    scanned(folder / "media", folder / "out", row, run_id="3", report={"mode": "delta"})
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "out", tmp_path / "out")
    return tmp_path


def forget(folder: Path, *options: object) -> Result:
    return run("forget", folder / "out", "--by", "Data protection", "--reason", "request 7", "--yes", *options)


def texts(folder: Path) -> str:
    """Everything that the store's files say."""
    found = []
    for path in (folder / "out").rglob("*"):
        if path.suffix == ".parquet":
            found.append(str(pq.read_table(io.BytesIO(path.read_bytes())).to_pylist()))
        elif path.is_file():
            found.append(path.read_text(errors="replace"))  # a signature is none
    return "\n".join(found)


def test_an_object_is_erased_and_the_store_verifies(made: Path, folder: Path) -> None:
    """No file names it, its bytes, its camera or what was said of it; every count is as before; the next night, a replay
    and an estimate go on, and the object is new to a scan that finds it again."""
    uri = str(made / "media" / "07.jpg")
    before = json.loads(run("runs", folder / "out", "--json").stdout)
    done = forget(folder, "--uri", uri)
    assert done.exit_code == 0 and "1 object forgotten" in done.output, done.output
    said = texts(folder)
    for secret in (uri, hashlib.sha256(uri.encode()).hexdigest()[:32], "camera of 07", "his face"):
        assert secret not in said, secret
    assert "forgotten:" in said and "request 7" in said
    checked = run("verify", folder / "out")
    assert checked.exit_code == 0 and "written anew since, to forget objects" in checked.output, checked.output
    assert json.loads(run("runs", folder / "out", "--json").stdout) == before
    store = Store.at(str(folder / "out"), StorageConfig())
    commit_replay(Run(store, "2"), load_policy("open-nsfw"), "open-nsfw", "r")
    night = scanned(made / "media", folder / "out", row, run_id="4")
    rows = {found["uri"]: found for found in night.to_arrow().to_pylist()}
    assert len(rows) == len(NAMES) and rows[uri]["verdict"] is None and uri not in str(night.record.previous_runs)
    assert run("verify", folder / "out").exit_code == 0
    assert run("queues", folder / "out", "--out", folder / "q").exit_code == 0
    assert "no reports" not in run("why", folder / "out", uri).output
    assert run("verdicts", "list", folder / "out").exit_code == 0


def test_what_run_json_names_is_erased_too(made: Path, tmp_path: Path) -> None:
    """The first object of a part, which is among the most severe too: run.json is written anew, and the chain, a
    signature, an anchor and the list of runs still hold; the next night goes on, and a second object is forgotten; names
    that only begin alike stay."""
    key, public, anchors = tmp_path / "key.pem", tmp_path / "public.pem", tmp_path / "anchors"
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    pem, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    key.write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    public.write_bytes(private.public_key().public_bytes(pem, form))
    media = tmp_path / "media"
    shutil.copytree(made / "media", media)
    (media / "00.jpg.old.jpg").write_bytes(b"another")
    evidence = {"anchor": str(anchors), "sign_key": str(key)}
    for run_id in ("1", "2"):
        scanned(media, tmp_path / "out", row, run_id=run_id, evidence=evidence)
    before = json.loads(run("runs", tmp_path / "out", "--json").stdout)
    uri, proofs = str(media / "00.jpg"), ("--anchor", anchors, "--public-key", public)
    for name in ("00.jpg", "01.jpg"):
        assert str(media / name) in (tmp_path / "out" / "runs" / "1" / "run.json").read_text()
        done = forget(tmp_path, "--uri", media / name)
        assert done.exit_code == 0, done.output
    said = texts(tmp_path)
    assert f'"{uri}"' not in said and f"'{uri}'" not in said and str(media / "01.jpg") not in said
    assert str(media / "00.jpg.old.jpg") in said
    checked = run("verify", tmp_path / "out", *proofs)
    assert checked.exit_code == 0 and "run.json: written anew since, to forget objects" in checked.output, (
        checked.output
    )
    assert json.loads(run("runs", tmp_path / "out", "--json").stdout) == before
    night = scanned(media, tmp_path / "out", row, run_id="3", evidence=evidence)
    assert night.record.plan.actions == {"new": 2, "changed": 29}, "the others are found by their part"
    assert run("verify", tmp_path / "out", *proofs).exit_code == 0
    record = tmp_path / "out" / "runs" / "1" / "run.json"
    record.write_bytes(record.read_bytes().replace(b'"kind":', b'"kind" :'))
    assert run("verify", tmp_path / "out", *proofs).exit_code == 7


def test_every_folder_is_covered(made: Path, folder: Path) -> None:
    """Whatever Parquet lies in a store, with a column `uri`: also in a folder, and with columns, that nobody knows yet."""
    uri = str(made / "media" / "07.jpg")
    for place in ("runs/1/embeddings", "runs/1/text", "later"):
        (folder / "out" / place).mkdir(parents=True)
        rows = {"uri": [uri, "/other"], "vector": [[0.25, 0.5], [1.0, 2.0]], "words": ["his name", "nothing"]}
        pq.write_table(pa.table(rows), folder / "out" / place / "part-0.parquet")
    assert forget(folder, "--uri", uri).exit_code == 0
    said = texts(folder)
    assert uri not in said and "his name" not in said and "[0.25, 0.5]" not in said
    assert said.count("[1.0, 2.0]") == 3 and said.count("'nothing'") == 3
    written = {path.parent.name for path in (folder / "out" / "runs").rglob("*.parquet")}
    known = {"report", "listing", "changes", "drift", "false_positives", "embeddings", "text"}
    assert written <= known | {"views", "detections", "escalations", "known_illegal"}, (
        "test_an_object_is_erased… must have it"
    )


def test_all_with_the_same_bytes(made: Path, folder: Path) -> None:
    """By its digest, the copy is erased too; a second time there is nothing."""
    done = forget(folder, "--sha256", sha256("07").upper())
    assert done.exit_code == 0 and "2 objects forgotten" in done.output, done.output
    said = texts(folder)
    assert sha256("07") not in said and "08.jpg" not in said and "07.jpg" not in said
    assert run("verify", folder / "out").exit_code == 0
    assert "nothing to forget" in forget(folder, "--sha256", sha256("07")).output


def test_what_was_cut_off_is_finished(made: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after any file: no file is taken for damaged, and the same command finishes with the same tombstone."""
    uri, write, writes = str(made / "media" / "07.jpg"), storing.Store.write, []

    def killed(self: Store, name: str, data: bytes) -> None:
        writes.append(name)
        if len(writes) == 7:
            raise KeyboardInterrupt
        write(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(storing.Store, "write", killed)
        assert forget(folder, "--uri", uri).exit_code == 1
    assert forget(folder, "--uri", uri).exit_code == 0
    assert uri not in texts(folder) and run("verify", folder / "out").exit_code == 0
    assert len(list((folder / "out" / "forgotten").iterdir())) == 1


@pytest.mark.long
def test_forgotten_on_s3(made: Path, moto: S3Endpoint) -> None:
    """The same in a bucket: erased, verified, and passed over by the next night."""
    boto3.client("s3").create_bucket(Bucket="forget")
    scanned(made / "media", "s3://forget/out", row, run_id="1")
    uri = str(made / "media" / "07.jpg")
    done = run("forget", "s3://forget/out", "--uri", uri, "--by", "L", "--reason", "request 7", "--yes")
    assert done.exit_code == 0, done.output
    checked = run("verify", "s3://forget/out")
    assert checked.exit_code == 0 and "to forget objects" in checked.output, checked.output
    assert scanned(made / "media", "s3://forget/out", row, run_id="2").record.plan.actions["new"] == 1


def test_what_is_not_forgotten(made: Path, folder: Path, tmp_path: Path) -> None:
    """Unknown objects; a store with an unfinished run; what is illegal is kept."""
    assert "nothing to forget" in forget(folder, "--uri", "s3://no/such").output
    assert "give --uri or --sha256" in forget(folder).output
    begun(folder / "out", ["/media/x"], run_id="open")
    assert "run open is not finished" in forget(folder, "--uri", made / "media" / "07.jpg").output

    def illegal(uri: str) -> Row:
        return {**row(uri), **ILLEGAL_MATCH}

    scanned(made / "media", tmp_path / "legal" / "out", illegal, run_id="1")
    assert "the law asks to keep" in forget(tmp_path / "legal", "--uri", made / "media" / "07.jpg").output


def test_copies_and_later_verdicts_are_told_of(made: Path, folder: Path) -> None:
    """Another URI with the same bytes stays, and is told of; with --sha256 nothing stays. A verdict file that was taken in
    before brings nothing back; a new verdict from an older page does, and the import says so."""
    uri, store = made / "media" / "07.jpg", folder / "out"
    done = forget(folder, "--uri", uri)
    assert "1 other URI in the store" in done.output and str(made / "media" / "08.jpg") in done.output, done.output
    again = run("verdicts", "import", store, made / "v.jsonl")
    assert again.exit_code == 0 and "named again" not in again.output and str(uri) not in texts(folder)
    later = line("later", "07", "remove", sha256=sha256("07"), uri=str(uri))
    other = line("other", "03", "remove", sha256=sha256("03"))
    told = run("verdicts", "import", store, file(folder / "later.jsonl", [later, other]))
    assert told.exit_code == 0 and "1 forgotten object is named again" in told.output, told.output
    gone = forget(folder, "--sha256", sha256("07"))
    assert "other URI" not in gone.output and str(uri) not in texts(folder), gone.output


def test_what_is_not_reached_is_said_and_what_is_forgotten_is_in_no_plan(made: Path, folder: Path) -> None:
    """A bank of people's verdicts keeps the hash, and is named; no manifest and no page has an object that is no more."""
    confirmed = run(
        "banks", "confirm", folder / "out", "ok", "--kind", "allow", "--bytes", "--by", "L", "--reason", "r"
    )
    assert confirmed.exit_code == 0, confirmed.output
    done = forget(folder, "--uri", made / "media" / "07.jpg")
    assert done.exit_code == 0 and "not reached: the object itself" in done.output, done.output
    assert "banks/ok.jsonl still has its hash" in done.output
    plan = run("quarantine", folder / "out" / "runs" / "2", "--where", "true", "--reason", "r", "--out", "-")
    assert plan.exit_code == 0 and "forgotten:" not in plan.output and plan.output.count('"action"') == len(NAMES) - 1
    page = run("review", folder / "out" / "runs" / "2", "--where", "true", "--no-covers", "--out", folder / "page")
    assert page.exit_code == 0 and "forgotten:" not in (folder / "page" / "index.html").read_text(), page.output


def test_what_dead_processes_left_is_removed(made: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a committed run that are still staged, and half-written files, name the object, too. Where they may not be
    removed, nothing is forgotten, and it says so."""
    uri = str(made / "media" / "07.jpg")
    left = [folder / "out/staging/2/00000-0000.arrow", folder / "out/runs/2/report/.tmp-0123"]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"a row of {uri}")
    with monkeypatch.context() as denied:
        denied.setattr(Confined, "remove", lambda self, name: raise_denied(name))
        refused = forget(folder, "--uri", uri)
    assert refused.exit_code == 1 and "cannot delete" in refused.output and "staging/2: Permission" in refused.output
    assert uri in texts(folder)
    assert forget(folder, "--uri", uri).exit_code == 0
    assert uri not in texts(folder) and not any(path.exists() for path in left)


def raise_denied(name: str) -> None:
    if name.lstrip("/").startswith("staging/2"):
        raise PermissionError(errno.EACCES, "Permission denied")
