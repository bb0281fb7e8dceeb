"""Canaries in every place that may hold a secret, scans that succeed and fail, and a search for them afterwards.

The one place where they may be is the column `uri` of Parquet files: a signed URL in a manifest is that object's name.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from nsfwscan.demo.media import DemoObject
from tests.s3.servers import FaultyProxy, S3Endpoint
from tests.s3.test_servers import client

pytestmark = pytest.mark.long

CANARY = "cAnArY5oWqRzXcVbNmLkJhGf"
KEY_ID = "AKIACANARY5OWQRZXCVB"
BUCKET = "secretive"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": KEY_ID,
    "AWS_SECRET_ACCESS_KEY": f"{CANARY}-env",
    "AWS_SESSION_TOKEN": f"{CANARY}-token",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture
def proxy(moto: S3Endpoint, demo: tuple[Path, list[DemoObject]]) -> Iterator[FaultyProxy]:
    """A bucket of three images that anyone may read, behind a proxy."""
    s3 = client(moto)
    s3.create_bucket(Bucket=BUCKET)
    for name in ("coffee.png", "rocket.jpg", "chelsea.png"):
        body = (demo[0] / "neutral" / "coffee.png").read_bytes()
        s3.put_object(Bucket=BUCKET, Key=f"media/{name}", Body=body, ACL="public-read")
    with FaultyProxy(moto) as faulty:
        yield faulty


_COMMANDS = """
import json, sys
from click.testing import CliRunner
from nsfwscan.cli.main import main
done = [CliRunner().invoke(main, command) for command in json.load(sys.stdin)]
print(json.dumps([[one.exit_code, one.stdout, one.stderr] for one in done]))
"""


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def run(*commands: Sequence[str | Path], **environment: str) -> list[Done]:
    """Commands in a process of their own, with canaries for credentials; their output is searched at once."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        [sys.executable, "-c", _COMMANDS],
        input=json.dumps([list(map(str, command)) for command in commands]),
        capture_output=True,
        text=True,
        check=False,
        env={**others, **ENVIRONMENT, **environment},
    )
    assert_clean(done.stdout)
    assert_clean(done.stderr)
    assert done.returncode == 0, done.stderr
    return [Done(*one) for one in json.loads(done.stdout)]


def assert_clean(text: str) -> None:
    for canary in (CANARY, KEY_ID):
        assert canary not in text, text


def assert_clean_below(folder: Path) -> int:
    """Search all files of a store, Parquet files cell by cell; return how many there were."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            places = [name for name in ("uri", "duplicate_of") if name in table.column_names]
            assert_clean(str(table.drop_columns(places).to_pydict()) + str(table.schema))
        else:
            assert_clean(path.read_bytes().decode(errors="replace"))
    return len(files)


def test_a_scan_that_succeeds_writes_no_secret(proxy: FaultyProxy, tmp_path: Path) -> None:
    """Signed URLs in a manifest, of a web server of this machine that is allowed to it, and keys in the environment: none in
    the report, the page or the output, though some of the URLs fail and are examples in the summary."""
    url = proxy.endpoint.endpoint_url
    signature = f"X-Amz-Credential={KEY_ID}&X-Amz-Signature={CANARY}-signature"
    signed = [f"{url}/{BUCKET}/media/{name}?{signature}" for name in ("coffee.png", "absent.png", "refused.png")]
    proxy.fail(lambda method, path: "refused.png" in path, status=503)
    manifest, config, out = tmp_path / "manifest.jsonl", tmp_path / "scan.yaml", tmp_path / "reports"
    uris = [*signed, f"s3://{BUCKET}/media/rocket.jpg"]
    manifest.write_text("".join(json.dumps({"uri": uri}) + "\n" for uri in uris))
    config.write_text(json.dumps({"storage": {"endpoint_url": url}, "read": {"attempts": 2}}))
    arguments = ["--out", out, "--run-id", "r", "--num-cpus", "1", "--max-error-rate", "1", "--verbose"]
    arguments += ["--allow-source", f"{url}/"]
    scan = ["scan", manifest, *arguments, "--config", config]
    for done in run(scan, ["runs", out], ["verify", out]):
        assert done.returncode == 0, done.stderr
    assert_clean_below(out)
    record = json.loads((out / "runs" / "r" / "run.json").read_text())
    assert record["summary"]["status"] == {"ok": 2, "not_found": 1, "fetch_error": 1}
    assert "absent.png?X-Amz-Credential=***" in json.dumps(record["summary"])


SAID = {
    "expired": "ExpiredToken",
    "denied": "permission denied",
    "away": "credentials encoded in URL",
    "reset": "Connection",
}
"""What a scan says of each fault."""
AWAY = f"http://{KEY_ID}:{CANARY}-url@127.0.0.1:9"
"""An endpoint of the environment is not the configuration's to refuse."""


@contextmanager
def configured(fault: str, moto: S3Endpoint, folder: Path) -> Iterator[Path]:
    """A configuration whose storage options hold canaries, for a store with a fault; two attempts a request, so that
    failing is quick."""
    options: dict[str, object] = {"key": KEY_ID, "secret": f"{CANARY}-option", "token": f"{CANARY}-option"}
    options |= {"config_kwargs": {"retries": {"total_max_attempts": 2, "mode": "standard"}}}
    with FaultyProxy(moto) as proxy:
        if fault == "reset":
            proxy.reset(lambda method, path: True)
        else:
            status, code = (400, "ExpiredToken") if fault == "expired" else (403, "AccessDenied")
            proxy.fail(lambda method, path: True, status=status, code=code)
        there = {} if fault == "away" else {"endpoint_url": proxy.endpoint.endpoint_url}
        path = folder / f"{fault}.yaml"
        path.write_text(json.dumps({"storage": {"options": options, **there}}))
        yield path


@pytest.mark.parametrize("faults", [("denied", "away", "reset"), pytest.param(("expired",), marks=pytest.mark.full)])
def test_a_scan_that_fails_tells_no_secret(moto: S3Endpoint, tmp_path: Path, faults: tuple[str, ...]) -> None:
    """Refused, absent and broken stores, with tracebacks of all that led to it, and `doctor` about the same."""
    commands: list[list[str | Path]] = []
    with ExitStack() as stack:
        for fault in faults:
            config = stack.enter_context(configured(fault, moto, tmp_path))
            out = tmp_path / "reports" if fault in ("denied", "away") else f"s3://{BUCKET}/reports"
            commands.append([f"s3://{BUCKET}/media/", "--out", out, "--config", config])
        found = run(*(["scan", *one, "--run-id", "r", "--verbose"] for one in commands), AWS_ENDPOINT_URL=AWAY)
        for fault, done in zip(faults, found, strict=True):
            assert done.returncode == 1 and "Traceback" in done.stderr, done.stderr
            assert SAID[fault] in done.stderr, done.stderr
        assert_clean_below(tmp_path / "reports")
        if "expired" in faults:
            [done] = run(["doctor", *commands[0], "--num-cpus", "1"], AWS_ENDPOINT_URL=AWAY)
            assert SAID["expired"] in done.stdout


def test_a_password_on_the_command_line_is_not_repeated(tmp_path: Path) -> None:
    """A URI with a password is wrong usage of every command, and so is a file that cannot be parsed."""
    broken = tmp_path / "broken.yaml"
    broken.write_text(f"storage: {{options: {{secret: {CANARY}")
    commands: list[list[str | Path]] = []
    for command in ("scan", "doctor", "classify", "runs"):
        out = ["--out", str(tmp_path)] if command in ("scan", "doctor") else []
        commands.append([command, f"ftp://user:{CANARY}@host/media", *out])
        commands.append([command, tmp_path, *out, "--endpoint-url", f"http://user:{CANARY}@minio:9000"])
        if command != "runs":
            commands.append([command, tmp_path, *out, "--config", broken])
    for command, done in zip(commands, run(*commands), strict=True):
        assert done.returncode == 2 and "Traceback" not in done.stderr, (command, done.stderr)
