"""Tell a webhook what becomes of a run: its start, its commit, its failure, and escalations.

A notice is a small JSON object of names and counts, never of objects; its `text` is what chat services show. A thread
sends them in order, with a time-out and a few attempts each. A notice that is not delivered is told in words, without
the webhook's URL, which may be a secret as a whole; it never fails a run.
"""

from __future__ import annotations

import base64
import json
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

from nsfwscan.config import NotifyConfig
from nsfwscan.errors import ConfigError
from nsfwscan.runs.run import Run
from nsfwscan.storage.threads import Hung, Threads
from nsfwscan.text import plural, redacted
from nsfwscan.workflows.finalize import now

if TYPE_CHECKING:
    from nsfwscan.workflows.scan import ScanResult

Event = Literal["start", "commit", "escalations", "failure"]

_MEANING = {
    2: "an option, a configuration or a run id is wrong",
    3: "the report does not balance; it was not committed",
    4: "more images were unreadable than --max-error-rate allows",
    5: "nothing could be scored, or too many objects are no images",
    6: "too many known objects are missing from the listing; nothing was committed",
    9: "it could not be signed or anchored as asked",
}
"""Exit codes in words that quote nothing of a run."""
_AGAIN_S = 1.0
_STOPPED_S = 5.0
"""Longest wait after a signal: Kubernetes kills a pod 30 s after it."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes no redirection, so that a notice and its credentials go nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        """Return nothing: the answer stands as an error."""


class Notices:
    """Notices of a run, sent one after the other."""

    def __init__(self, config: NotifyConfig, kind: str, store: str, tell: Callable[[str], None]) -> None:
        self._config, self._kind, self._store, self._tell = config, kind, store, tell
        self._url = None if config.url is None else _checked(config.url.get_secret_value())
        self._run_id: str | None = None
        self._waiting: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, daemon=True, name="notices")
        if self._url is not None:
            self._calls = Threads(1, "notice")
            self._thread.start()

    def started(self, run: Run) -> None:
        """Tell that a run begins, or goes on."""
        self._run_id = run.run_id
        self._send("start", f"{self._kind} {run.run_id} has begun")

    def committed(self, result: ScanResult) -> ScanResult:
        """Tell that a run is committed, and of its escalations, if it has any; return its result."""
        self._run_id = result.run_id
        summary, code, escalated = result.record.summary, result.exit_code, result.record.rows_in("escalations")
        counts = {"objects": summary.rows, "flagged": summary.flagged, "unreadable": summary.unreadable}
        why = f"; exit code {code}: {_MEANING.get(code, 'see its reason')}" if code else ""
        said = ", ".join(
            [plural(summary.rows, "object"), *(f"{counts[name]:,} {name}" for name in ("flagged", "unreadable"))]
        )
        facts = {"exit_code": code, **counts, "escalations": escalated, "decisions": summary.decision}
        where = {"summary": redacted(f"{result.uri}/summary.html"), "sha256": result.sha256}
        self._send("commit", f"{self._kind} {result.run_id} is committed: {said}{why}", **facts, **where)
        if escalated:
            words = f"{plural(escalated, 'illegal match', 'illegal matches')} in {self._kind} {result.run_id}"
            self._send("escalations", f"{words}: for the specialist only", escalations=escalated)
        return result

    def failed(self, error: BaseException) -> None:
        """Tell that a run ended without a commit."""
        code = getattr(error, "exit_code", 1)
        stopped = "it was stopped" if isinstance(error, KeyboardInterrupt) else "it could not start, or not go on"
        why = _MEANING.get(code, stopped)
        self._send("failure", f"{self._kind} {self._run_id or ''} ended with exit code {code}: {why}", exit_code=code)

    def close(self, wait_s: float) -> None:
        """Wait until all notices are delivered or given up, so long at most."""
        if self._url is not None:
            self._waiting.put(None)
            self._thread.join(wait_s)

    @property
    def longest_s(self) -> float:
        """Seconds in which a few notices are delivered or given up."""
        return 3 * self._config.attempts * (self._config.timeout_s + _AGAIN_S * 2.0 ** (self._config.attempts - 1))

    def _send(self, event: Event, text: str, **facts: Any) -> None:
        head = {"event": event, "text": f"nsfwscan: {text}", "at": now(), "run_id": self._run_id, "kind": self._kind}
        self._waiting.put({**head, "store": redacted(self._store), **facts})

    def _work(self) -> None:
        while (notice := self._waiting.get()) is not None:
            for attempt in range(1, self._config.attempts + 1):
                problem, is_final = self._in_time(notice)
                if problem is None or is_final or attempt == self._config.attempts:
                    break
                time.sleep(_AGAIN_S * 2 ** (attempt - 1))
            if problem is not None:
                host = urlsplit(str(self._url)).hostname
                self._tell(f"notify   {host} did not take the notice of the {notice['event']}: {problem}")

    def _in_time(self, notice: dict[str, Any]) -> tuple[str | None, bool]:
        """Deliver a notice as `_deliver` does, and give it up where that takes too long: the time-out of a connection
        starts anew with each byte of an answer, and has no hold over the search for a host's address."""
        call = self._calls.submit(lambda _: self._deliver(notice))
        call.expect_within(self._config.timeout_s)
        try:
            return call.result()
        except Hung:
            self._calls.replace(call)
            return self._no_answer, False

    @property
    def _no_answer(self) -> str:
        return f"no answer within {self._config.timeout_s:g} s"

    def _deliver(self, notice: dict[str, Any]) -> tuple[str | None, bool]:
        """Return why a notice was not taken, in words; None where it was; and whether another attempt is in vain."""
        parts = urlsplit(str(self._url))
        headers = {"Content-Type": "application/json", "User-Agent": "nsfwscan"}
        if parts.username:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(login).decode()}"
        url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        request = urllib.request.Request(url, json.dumps(notice).encode(), headers, method="POST")
        try:
            urllib.request.build_opener(_NoRedirect).open(request, timeout=self._config.timeout_s).close()
        except urllib.error.HTTPError as error:
            return f"it answered {error.code}", error.code < 500 and error.code != 429
        except TimeoutError:
            return self._no_answer, False
        except Exception as error:  # noqa: BLE001  # the words of some name the URL
            return _words(error), False
        return None, True


def _words(error: Exception) -> str:
    cause = getattr(error, "reason", error)
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    return getattr(cause, "strerror", None) or f"it cannot be reached ({type(cause).__name__})"


def _checked(url: str) -> str:
    """Return the URL. Raises ConfigError for what is none, without repeating it."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigError("--notify: that is no http or https URL (it is not repeated here: it may hold a secret)")
    return url


@contextmanager
def noticed(config: NotifyConfig, kind: str, store: str, tell: Callable[[str], None]) -> Iterator[Notices]:
    """Yield the notices of a run; tell of a failure that ends the block, and wait for delivery.

    A signal that comes while it waits at the end of a block that did its work only ends the waiting.

    Raises:
        ConfigError: the webhook's URL is none.
    """
    notices = Notices(config, kind, store, tell)
    try:
        yield notices
    except BaseException as error:
        notices.failed(error)
        notices.close(_STOPPED_S if isinstance(error, KeyboardInterrupt) else notices.longest_s)
        raise
    try:
        notices.close(notices.longest_s)
    except KeyboardInterrupt:  # all else is done
        tell("notify   stopped waiting for the delivery of notices")
