"""A webhook is told what becomes of a run, and nothing else; whatever it does, the run goes on."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from nsfwscan.errors import BalanceError, ConfigError, NsfwscanError
from nsfwscan.reports.progress import Silent
from nsfwscan.workflows import notices, scan
from tests.runs.rows import ILLEGAL_MATCH, files, scanned, staged_row

LOGIN = f"Basic {base64.b64encode(b'nightly:p/w').decode()}"


class Told(Silent):
    """Lines that a scan says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


class Webhook:
    """A server that keeps what it gets, and answers with each of some codes in turn, then with 204."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.got: list[dict[str, Any]] = []
        self.logins: set[str | None] = set()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                hook.logins.add(self.headers["Authorization"])
                self.send_response(hook.answers.pop(0) if hook.answers else 204)
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.place = f"127.0.0.1:{self.server.server_port}/services/XSECRETX"

    @property
    def events(self) -> list[str]:
        return [one["event"] for one in self.got]


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    hook = Webhook()
    Thread(target=hook.server.serve_forever, daemon=True).start()
    yield hook
    hook.server.shutdown()
    hook.server.server_close()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_AGAIN_S", 0.01)


def night(folder: Path, url: str, **over: Any) -> list[str]:
    """Scan, and return what was said; no file of the store, and no line, names the webhook."""
    told = Told()
    try:
        given = {"notify": {"url": url, "timeout_s": 5}, "report": {"max_error_rate": 0}, **over}
        scanned(files(folder / "media-of-a-person", 2), folder / "out", progress=told, **given)
    finally:
        written = b"".join(path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file())
        for secret in ("XSECRETX", "p%2Fw", "p/w"):
            assert secret.encode() not in written and not any(secret in line for line in told.lines)
    return told.lines


def test_a_night(webhook: Webhook, tmp_path: Path) -> None:
    """Its start and its commit, with counts and the exit code, and no name of an object."""

    def unreadable(uri: str) -> dict[str, Any]:
        return staged_row(uri, status="decode_error" if "0001" in uri else "ok")

    night(tmp_path, f"http://nightly:p%2Fw@{webhook.place}", row=unreadable)
    assert webhook.events == ["start", "commit"] and webhook.logins == {LOGIN}
    commit = webhook.got[1]
    assert (commit["run_id"], commit["kind"], commit["exit_code"], commit["unreadable"]) == ("made", "scan", 4, 1)
    assert "exit code 4: more images were unreadable than" in commit["text"] and commit["store"] == str(
        tmp_path / "out"
    )
    assert "media-of-a-person" not in json.dumps(webhook.got)


def test_escalations(webhook: Webhook, tmp_path: Path) -> None:
    """They are counted in a notice of their own."""

    def known(uri: str) -> dict[str, Any]:
        return staged_row(uri, nsfw_score=None, status="ok", accounted_as="matched", sha256="0" * 64, **ILLEGAL_MATCH)

    night(tmp_path, f"http://{webhook.place}", row=known)
    assert webhook.events == ["start", "commit", "escalations"] and webhook.got[2]["escalations"] == 2


@pytest.mark.parametrize(("error", "code"), [(BalanceError("x"), 3), (NsfwscanError("x"), 1), (KeyboardInterrupt(), 1)])
def test_a_failure(
    webhook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    """A run that is not committed says so, with its code, and raises what it raised."""

    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(scan, "write_report", fails)
    with pytest.raises(type(error)):
        night(tmp_path, f"http://{webhook.place}")
    assert webhook.events == ["start", "failure"] and webhook.got[1]["exit_code"] == code


def test_a_source_that_is_not_there(webhook: Webhook, tmp_path: Path) -> None:
    """What stops a run before it has begun is told, too."""
    with pytest.raises(NsfwscanError):
        scanned(tmp_path / "x", tmp_path / "out", notify={"url": f"http://{webhook.place}"}, policy=str(tmp_path / "p"))
    assert webhook.events == ["failure"]


@pytest.mark.parametrize(
    ("answers", "events", "said"),
    [
        ([503, 429], ["start", "start", "start", "commit"], None),
        ([503, 503, 503], ["start", "start", "start", "commit"], "it answered 503"),
        ([404], ["start", "commit"], "it answered 404"),
        ([302], ["start", "commit"], "it answered 302"),
    ],
)
def test_a_webhook_that_does_not_take_it(
    webhook: Webhook, tmp_path: Path, answers: list[int], events: list[str], said: str | None
) -> None:
    """It is asked a few times where that may help; nobody is led elsewhere; and it is told which notice was lost."""
    webhook.answers = answers
    lines = [line for line in night(tmp_path, f"http://{webhook.place}") if line.startswith("notify")]
    assert webhook.events == events
    assert lines == ([] if said is None else [f"notify   127.0.0.1 did not take the notice of the start: {said}"])


def test_nobody_is_there(tmp_path: Path) -> None:
    """The run goes on, and both losses are told."""
    lines = night(tmp_path, "http://127.0.0.1:1/services/XSECRETX")
    assert sum("127.0.0.1 did not take the notice of the" in line for line in lines) == 2


@pytest.mark.parametrize(
    "url", ["XSECRETX", "ftp://XSECRETX/x", "http://", "https://h:x/XSECRETX", "http://h/ XSECRETX"]
)
def test_what_is_no_webhook(tmp_path: Path, url: str) -> None:
    """It stops the scan at once, and is not repeated."""
    with pytest.raises(ConfigError, match="no http or https URL") as raised:
        night(tmp_path, url)
    assert "XSECRETX" not in str(raised.value) and not (tmp_path / "out").exists()


@pytest.fixture
def dripping() -> Iterator[str]:
    """A server that answers with a byte now and then, and never comes to an end."""
    ended = Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            with suppress(OSError):
                while not ended.wait(0.05):
                    self.wfile.write(b"H")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/XSECRETX"
    ended.set()
    server.shutdown()
    server.server_close()


def test_a_webhook_that_answers_byte_by_byte_is_given_up(dripping: str, tmp_path: Path) -> None:
    """The time-out is of an attempt as a whole, not of each byte."""
    began = time.monotonic()
    lines = night(tmp_path, dripping, notify={"url": dripping, "timeout_s": 0.3, "attempts": 2})
    assert [line for line in lines if line.startswith("notify")] == [
        f"notify   127.0.0.1 did not take the notice of the {event}: no answer within 0.3 s"
        for event in ("start", "commit")
    ]
    assert time.monotonic() - began < 30


def test_a_signal_that_comes_while_notices_are_delivered_undoes_no_commit(
    webhook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is committed, so the command ends as if they had been delivered."""

    def close(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(notices.Notices, "close", close)
    lines = night(tmp_path, f"http://{webhook.place}")
    assert "notify   stopped waiting for the delivery of notices" in lines
    assert (tmp_path / "out" / "runs" / "made" / "_SUCCESS").exists()
