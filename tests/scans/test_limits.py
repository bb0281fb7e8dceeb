"""No body is read further than `--max-bytes`, whatever its sender says of it."""

from __future__ import annotations

import gzip
import threading
import zlib
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fsspec
import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.errors import RowError, Status
from nsfwscan.location import Location
from nsfwscan.storage.objects import Fetched, fetch, read_file
from tests.s3.servers import S3Endpoint

LIMIT = 2**20
PICTURE = bytes(range(256)) * 64


@cache
def bomb() -> bytes:
    """Return a small body that unpacks to 300 times the limit."""
    return gzip.compress(bytes(300 * LIMIT), 1)


class Bodies:
    """A server whose bodies go by the last part of the path; `sent` counts bytes."""

    def __init__(self) -> None:
        self.sent = 0
        bodies = self
        packed = {"gz": gzip.compress(PICTURE), "zlib": zlib.compress(PICTURE), "bomb": bomb()}
        packed |= {"members": gzip.compress(PICTURE[:500]) + gzip.compress(PICTURE[500:]), "cut": packed["gz"][:-9]}
        packed |= {"damaged": packed["gz"][:20] + b"?" * 20}

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                name = self.path.rsplit("/", 1)[-1]
                self.send_response_only(200)
                self.send_header("ETag", 'W/"weak"')
                if name in packed:
                    self.send_header("Content-Encoding", "deflate" if name == "zlib" else "gzip")
                body = packed.get(name, PICTURE)
                self.send_header(
                    *(("Transfer-Encoding", "chunked") if "endless" in name else ("Content-Length", str(len(body))))
                )
                self.end_headers()
                try:
                    while "endless" in name:
                        self.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
                        bodies.sent += 0x10000
                    self.wfile.write(body)
                except ConnectionError:
                    self.close_connection = True

            do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *args: None  # type: ignore[method-assign]  # clients hang up
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture(scope="module")
def bodies(moto: S3Endpoint) -> Iterator[Bodies]:
    """Server; moto only for the credentials in the environment."""
    server = Bodies()
    yield server
    server.server.shutdown()
    server.server.server_close()


def get(bodies: Bodies, kind: str, name: str) -> Fetched:
    uri = f"s3://bucket/{name}" if kind == "s3" else f"{bodies.url}/bucket/{name}"
    storage = StorageConfig(endpoint_url=bodies.url) if kind == "s3" else StorageConfig()
    return fetch(Location.of(uri), storage, max_bytes=LIMIT, timeout_s=30, attempts=2)


@pytest.mark.parametrize("kind", ["s3", "http"])
def test_a_body_without_an_end_is_stopped_at_the_limit(bodies: Bodies, kind: str) -> None:
    """No length and no end: `too_large`, at once, and little more than the limit has been taken."""
    before = bodies.sent
    with pytest.raises(RowError, match=r"goes on over the limit of 1,048,576 bytes \(--max-bytes\)") as error:
        get(bodies, kind, "endless")
    assert error.value.status == Status.TOO_LARGE
    assert bodies.sent - before < 64 * LIMIT  # what fits into the buffers of two sockets


def test_a_packed_answer_is_not_unpacked_beyond_the_limit(bodies: Bodies) -> None:
    """A small gzip that unpacks to 300 times the limit is `too_large`."""
    assert len(bomb()) < 2 * LIMIT
    with pytest.raises(RowError, match="goes on over the limit") as error:
        get(bodies, "http", "bomb")
    assert error.value.status == Status.TOO_LARGE


@pytest.mark.parametrize("name", ["gz", "zlib", "members", "plain"])
def test_what_a_server_packs_for_the_way_is_unpacked(bodies: Bodies, name: str) -> None:
    """Over HTTP, an answer is what a browser gets, though the server packs it unasked; a weak tag is a tag."""
    assert get(bodies, "http", name) == Fetched(PICTURE, "weak")


@pytest.mark.parametrize(("name", "said"), [("cut", "ends before its end"), ("damaged", "is damaged")])
def test_a_packed_answer_that_is_not_whole_is_tried_again(bodies: Bodies, name: str, said: str) -> None:
    """A packed body without its end, or with other bytes, is a `fetch_error`, never half a picture."""
    with pytest.raises(RowError, match=f"the packed body {said}.* after 2 attempts") as error:
        get(bodies, "http", name)
    assert error.value.status == Status.FETCH_ERROR


def test_an_object_is_what_its_store_keeps(bodies: Bodies) -> None:
    """On S3, `Content-Encoding: gzip` is a note on the object: its bytes, size and hashes are those of the gzip."""
    assert gzip.decompress(get(bodies, "s3", "gz").data) == PICTURE


class More(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """A filesystem whose object has more bytes than it says; counts what was asked for."""

    protocol = "more"
    asked = 0

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        return {"name": path, "type": "file", "size": None if "unsaid" in path else 10}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        assert end is not None, "the whole of it was asked for"
        More.asked = end
        return bytes(end)


@pytest.mark.parametrize("path", ["said", "unsaid"])
def test_other_filesystems_are_asked_for_no_more_than_the_limit(path: str) -> None:
    """Whatever size is told, or none: one byte over the limit is asked for, and it is `too_large`."""
    fsspec.register_implementation("more", More, clobber=True)
    with pytest.raises(RowError) as error:
        fetch(Location.of(f"more://{path}"), StorageConfig(), max_bytes=1000, timeout_s=5, attempts=1)
    assert error.value.status == Status.TOO_LARGE and More.asked == 1001


def test_files_of_ours_have_a_bound_too(bodies: Bodies, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest, bank or policy that never ends is an error that says so."""
    monkeypatch.setattr("nsfwscan.storage.objects._MOST_OF_OURS", LIMIT)
    with pytest.raises(OSError, match="it has more than 1,048,576 bytes"):
        read_file(Location.of(f"{bodies.url}/endless"), StorageConfig())
