"""The options that sign and anchor a run, and what `verify` makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from nsfwscan.cli.main import main
from tests.runs.rows import files, scanned


def call(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def said(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one scan, a key, a bank, and a configuration with the section `evidence`."""
    folder, key = tmp_path_factory.mktemp("proved"), Ed25519PrivateKey.generate()
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "key.pub").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (folder / "bank.csv").write_text("sha256\n" + "0" * 64 + "\n")
    (folder / "config.yaml").write_text(f"evidence: {{anchor: {folder}/anchors, sign_key: {folder}/key.pem}}\n")
    scanned(files(folder / "media", 1), folder / "out", run_id="1")
    return folder


def test_every_command_that_commits_leaves_evidence(folder: Path) -> None:
    """By options or by a configuration; `verify` takes the anchors and the public key."""
    out, proved = str(folder / "out"), [f"--anchor={folder}/anchors", f"--sign-key={folder}/key.pem"]
    bank = ["--bank", f"b={folder}/bank.csv"]
    assert call("match", out, *bank, "--run-id", "2", *proved).exit_code == 0
    assert call("match", out, *bank, "--run-id", "3", f"--config={folder}/config.yaml").exit_code == 0
    replay = ["policy", "replay", out, "--policy", "open-nsfw"]
    assert call(*replay, "--commit", "--run-id", "4", *proved).exit_code == 0
    assert call(*replay, "--commit", "--run-id", "5", f"--config={folder}/config.yaml").exit_code == 0
    assert [path.name[0] for path in sorted((folder / "anchors").iterdir())] == ["2", "3", "4", "5"]
    checked = call("verify", out, f"--anchor={folder}/anchors", f"--public-key={folder}/key.pub", "--json")
    assert checked.exit_code == 0, checked.stdout
    assert [(one["run_id"], len(one["findings"])) for one in said(checked)["runs"]] == [
        (n, 2 * (n == "1")) for n in "12345"
    ]
    refused = call(*replay, *proved)
    assert refused.exit_code == 2 and "give --commit, too" in refused.stderr
    assert call("verify", out, f"--public-key={folder}/key.pem").exit_code == 2


def test_a_commit_without_its_evidence_has_a_code_of_its_own(folder: Path) -> None:
    """9, with the reason on standard error and in the JSON, while the record has its own code."""
    bank = ["--bank", f"b={folder}/bank.csv", "--run-id", "unsigned"]
    result = call("match", str(folder / "out"), *bank, "--sign-command", "false", "--json")
    words = "run unsigned is committed, but not signed: the signing command ended with exit code 1"
    assert result.exit_code == said(result)["exit_code"] == 9 and said(result)["unproved"] == words
    assert words in result.stderr
    assert json.loads((folder / "out/runs/unsigned/run.json").read_text())["exit_code"] == 0
