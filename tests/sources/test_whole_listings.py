"""A listing is what a store really listed, all of it; anything else that answers fails it, by name."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from nsfwscan.config import SourceConfig, StorageConfig
from nsfwscan.errors import SourceError, StoreError
from nsfwscan.sources.listing import list_sources
from nsfwscan.storage.store import Store
from tests.s3.servers import S3Endpoint

Answer = tuple[int, bytes]
Script = Callable[[str | None, int], Answer]
"""From the continuation token and how many requests came before, what is answered."""


class ScriptedStore:
    """A server that answers each listing as a script says."""

    def __init__(self) -> None:
        self.script: Script = lambda token, number: page(["a"])
        self.asked: list[str | None] = []
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                token = parse_qs(urlsplit(self.path).query).get("continuation-token", [None])[0]
                store.asked.append(token)
                status, body = store.script(token, len(store.asked) - 1)
                self.send_response_only(status)
                if status == 302:
                    self.send_header("Location", "/login/page")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def storage(self) -> StorageConfig:
        once = {"config_kwargs": {"retries": {"total_max_attempts": 1, "mode": "standard"}}}
        return StorageConfig(endpoint_url=f"http://127.0.0.1:{self.server.server_address[1]}", options=once)


@pytest.fixture(scope="module")
def server(moto: S3Endpoint) -> Iterator[ScriptedStore]:
    """One server for all; moto only for the credentials in the environment."""
    store = ScriptedStore()
    yield store
    store.server.shutdown()
    store.server.server_close()


@pytest.fixture
def store(server: ScriptedStore) -> ScriptedStore:
    server.asked.clear()
    return server


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between attempts."""
    monkeypatch.setattr("nsfwscan.sources.s3_listing.backoff_s", lambda attempt: 0.0)


def page(keys: list[str], token: str | None = None, *, more: bool | None = None, **other: str) -> Answer:
    """A page as S3 writes it."""
    fields = {"Name": "<Name>b</Name>", "IsTruncated": f"<IsTruncated>{str(bool(token or more)).lower()}</IsTruncated>"}
    fields |= {"Next": f"<NextContinuationToken>{token}</NextContinuationToken>"} if token else {}
    fields |= other
    entries = "".join(f"<Contents><Key>{key}</Key><Size>1</Size><ETag>&quot;e&quot;</ETag></Contents>" for key in keys)
    root = '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    return 200, f'<?xml version="1.0"?>{root}{"".join(fields.values())}{entries}</ListBucketResult>'.encode()


def names(store: ScriptedStore, prefix: str = "", **options: int) -> list[str]:
    source = SourceConfig(uris=(f"s3://b/{prefix}",), **options)
    return sorted(u.removeprefix("s3://b/") for t in list_sources(source, store.storage) for u in t["uri"].to_pylist())


def second(answer: Answer) -> Script:
    """A good first page, and then always this."""
    return lambda token, number: page(["a", "b"], "t1") if token is None else answer


WRONG: dict[str, tuple[Script, str]] = {
    "HTML": (second((200, b"<!DOCTYPE html><html>session expired</html>")), "no listing but begins '<!DOCTYPE html>"),
    "HTML as XML": (second((200, b"<html><body>login</body></html>")), "no listing but begins '<html>"),
    "JSON": (second((200, b'{"error": "try later"}')), "(the answer is empty|no listing but begins)"),
    "nothing": (second((200, b"")), "the answer is empty"),
    "cut": (second((200, page(["c", "d"])[1][:-40])), "no whole XML: it is cut off"),
    "no name": (second(page(["c"], Name="")), "the listing has no Name"),
    "no IsTruncated": (second(page(["c"], IsTruncated="")), "the listing has no IsTruncated"),
    "another list": (
        second((200, page(["c"])[1].replace(b"ListBucketResult", b"ListVersionsResult"))),
        "no listing but",
    ),
    "no token": (second(page(["c"], more=True)), "breaks off: it says that there is more, and not how to go on"),
    "the same token": (second(page(["c"], "t1")), "the same continuation token again"),
    "fewer than announced": (second(page(["c"], Count="<KeyCount>9</KeyCount>")), "has 1 of the 9 entries"),
    "without names": (second((200, page(["c"])[1].replace(b"<Key>c</Key>", b""))), "an entry without a name"),
    "backwards": (second(page(["a"])), "the keys are not in order: 'a' comes after 'b'"),
    "twice": (second(page(["c", "c"])), "the keys are not in order: 'c' comes after 'c'"),
    "round and round": (lambda token, number: page(["a", "b"], f"t{number}"), "the keys are not in order"),
    "empty without end": (lambda token, number: page([], f"t{number}"), "100 pages in a row have no object"),
    "a login page": (lambda token, number: (302, b"") if token is None else (200, b""), "."),
}


@pytest.mark.parametrize("limit", [None, 1000])
@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_listing_fails_it_by_name(store: ScriptedStore, kind: str, limit: int | None) -> None:
    """HTML, cut XML, missing names and tokens, loops: no page of it is taken for all there is, the message names the
    source and what came, and the store is asked a bounded number of times."""
    store.script, said = WRONG[kind]
    with pytest.raises(SourceError, match=rf"cannot list s3://b/: .*{said}"):
        names(store, **({} if limit is None else {"limit": limit}))
    assert len(store.asked) <= 105


def test_the_message_says_what_to_do(store: ScriptedStore) -> None:
    """A person reads what may stand in the store's place, and that the same command may be run again."""
    store.script = WRONG["HTML"][0]
    with pytest.raises(SourceError, match=r"login page.* check the endpoint, then run the same command again"):
        names(store)


@pytest.mark.parametrize("kind", ["HTML", "cut", "no name", "no token", "nothing"])
def test_a_bad_moment_is_got_over(store: ScriptedStore, kind: str) -> None:
    """Where the next attempt brings the page, the listing is whole, each key once."""
    bad = WRONG[kind][0]("t1", 0)

    def script(token: str | None, number: int) -> Answer:
        if token is None:
            return page(["a", "b"], "t1")
        return bad if number < 4 else page(["c"])

    store.script = script
    assert names(store) == ["a", "b", "c"]
    assert store.asked == [None, "t1", "t1", "t1", "t1"]


def test_keys_outside_the_prefix_fail_the_listing(store: ScriptedStore) -> None:
    """A gateway that leaves the prefix out of the question lists another's objects: refused, with an example."""
    store.script = lambda token, number: page(["mine/a", "other/b"])
    with pytest.raises(SourceError, match="has 'other/b', which does not begin with 'mine/'"):
        names(store, "mine/")


def test_some_empty_pages_are_gone_through(store: ScriptedStore) -> None:
    """A bucket full of delete markers: pages without keys, and then some."""
    store.script = lambda token, number: page([], f"t{number}") if number < 50 else page(["a"])
    assert names(store) == ["a"]


def test_the_order_of_folders_is_an_order(store: ScriptedStore) -> None:
    """Stores that keep files list folder by folder: `a/x` before `a-b`, where S3 has them the other way round."""
    store.script = lambda token, number: page(["a/x", "a/y", "a-b", "b"])
    assert names(store) == ["a-b", "a/x", "a/y", "b"]


@pytest.mark.parametrize("kind", ["HTML", "no name", "no token", "cut"])
def test_a_report_store_is_listed_in_full_or_not_at_all(
    store: ScriptedStore, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store of reports whose listing is none is an error, never a store without runs."""
    monkeypatch.setattr("nsfwscan.storage.failures.backoff_s", lambda attempt: 0.0)
    bad = WRONG[kind][0]("t1", 0)
    store.script = lambda token, number: bad
    with pytest.raises(StoreError, match="cannot list s3://b/reports/runs"):
        Store.at("s3://b/reports", store.storage).names("runs")


def test_an_error_in_a_page_of_status_200_is_that_error(store: ScriptedStore) -> None:
    """S3 may answer an error with status 200: it is told as what it is."""
    error = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>no</Message></Error>"
    store.script = lambda token, number: (403, error)
    with pytest.raises(SourceError, match=r"permission denied \(AccessDenied\)"):
        names(store)
