"""An S3 bucket of nothing but keys, as many and as odd as you like.

In: keys. Out: a server on loopback, in this process, that lists them as S3 does (prefixes, delimiters, continuation,
URL encoding, UTF-8 binary order) after a delay, and counts. An object's content is its key.

`python -m tests.s3.synthetic FOLDERS KEYS_EACH DELAY_S` serves a large bucket from a process of its own, for benchmarks.
"""

from __future__ import annotations

import base64
import itertools
import sys
import threading
import time
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, quote_plus, unquote

from tests.s3.servers import S3Endpoint

_MODIFIED = "2026-11-01T12:00:00.000Z"


class ListingServer:
    """Lists `keys` under any bucket's name.

    Args:
        page: entries in an answer, at most.
        delay_s: of each answer.
        gate: answers are held back until so many requests are under way at once, for the first time, or 20 s have
            passed: a client that never sends so many shows itself in `most_in_flight`. What is asked about the prefix
            of the very first request is answered all the same.
        refuse: prefixes that begin with this are answered by AccessDenied.
        modified: times of change of keys that have another than all others; None: it is left out.
    """

    def __init__(
        self,
        keys: Iterable[str],
        *,
        page: int = 1000,
        delay_s: float = 0.0,
        gate: int = 0,
        refuse: str | None = None,
        modified: Mapping[str, str | None] | None = None,
    ) -> None:
        self.page = page
        self.delay_s = delay_s
        self.gate = gate
        self.refuse = refuse
        self.modified = modified or {}
        self.fill(keys)
        self.most_in_flight = 0
        self._in_flight = 0
        self._changed = threading.Condition()
        self._server = _Server(self)
        self.endpoint = S3Endpoint(f"http://127.0.0.1:{self._server.server_address[1]}", "testing", "testing")
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fill(self, keys: Iterable[str]) -> None:
        """Put these keys in the place of all others, and forget what was asked."""
        self.keys = sorted(set(keys))
        self.requests: list[dict[str, str]] = []

    def answer(self, query: dict[str, str]) -> str | None:
        """Return the XML of a page; None for AccessDenied."""
        prefix = query.get("prefix", "")
        with self._changed:
            self.requests.append(query)
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
            self._changed.notify_all()
            if prefix != self.requests[0].get("prefix", ""):
                self._changed.wait_for(lambda: self.most_in_flight >= self.gate, timeout=20)
        time.sleep(self.delay_s)
        try:
            if self.refuse is not None and prefix.startswith(self.refuse):
                return None
            return self._page(prefix, query.get("delimiter"), query.get("continuation-token"))
        finally:
            with self._changed:
                self._in_flight -= 1

    def _page(self, prefix: str, delimiter: str | None, token: str | None) -> str:
        last = base64.urlsafe_b64decode(token).decode() if token else ""
        entries = list(itertools.islice(self._entries(prefix, delimiter, last), self.page + 1))
        more = len(entries) > self.page
        entries = entries[: self.page]
        next_token = base64.urlsafe_b64encode(entries[-1].encode()).decode() if more else ""
        keys = [entry for entry in entries if not _is_folder(entry, prefix, delimiter)]
        folders = [entry for entry in entries if _is_folder(entry, prefix, delimiter)]
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>b</Name><Prefix>{_quoted(prefix)}</Prefix><KeyCount>{len(entries)}</KeyCount>"
            f"<MaxKeys>{self.page}</MaxKeys><EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>"
            + (f"<NextContinuationToken>{next_token}</NextContinuationToken>" if more else "")
            + "".join(_contents(key, self.modified.get(key, _MODIFIED)) for key in keys)
            + "".join(f"<CommonPrefixes><Prefix>{_quoted(f)}</Prefix></CommonPrefixes>" for f in folders)
            + "</ListBucketResult>"
        )

    def _entries(self, prefix: str, delimiter: str | None, last: str) -> Iterator[str]:
        """Keys and folders after `last`, in order; a folder stands for all its keys."""
        at = bisect_left(self.keys, prefix)
        if last:
            after_folder = _is_folder(last, prefix, delimiter)
            at = bisect_left(self.keys, _after(last)) if after_folder else bisect_right(self.keys, last)
        while at < len(self.keys) and self.keys[at].startswith(prefix):
            key = self.keys[at]
            end = key.find(delimiter, len(prefix)) if delimiter else -1
            if end >= 0:
                folder = key[: end + 1]
                yield folder
                at = bisect_left(self.keys, _after(folder), at)
            else:
                yield key
                at += 1


def _is_folder(entry: str, prefix: str, delimiter: str | None) -> bool:
    return delimiter is not None and entry.endswith(delimiter) and len(entry) > len(prefix)


def _after(folder: str) -> str:
    """Return the first string behind everything that begins with `folder`."""
    return folder[:-1] + chr(ord(folder[-1]) + 1)


def _quoted(key: str) -> str:
    return quote_plus(key, safe="/")


def _contents(key: str, modified: str | None) -> str:
    time_of_change = "" if modified is None else f"<LastModified>{modified}</LastModified>"
    return (
        f"<Contents><Key>{_quoted(key)}</Key>{time_of_change}"
        f"<ETag>&quot;{zlib.crc32(key.encode()):032x}&quot;</ETag><Size>{len(key.encode())}</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
    )


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listing: ListingServer) -> None:
        self.listing = listing
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent about clients that hang up, as one does that has enough of a listing."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        listing = self.server.listing
        if "list-type=2" in query:
            words = parse_qs(query, keep_blank_values=True)
            body = listing.answer({name: values[0] for name, values in words.items()})
        else:
            key = unquote(path).split("/", 2)[2]
            body = key if key in listing.keys else None
        content = (body or "<Error><Code>AccessDenied</Code><Message>no</Message></Error>").encode()
        self.send_response_only(200 if body is not None else 403)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a test reads the counts."""


def main(folders: int, keys_each: int, delay_s: float) -> None:
    """Serve until standard input ends; print the endpoint's URL first, and how many requests came last."""
    names = (f"media/{i:03d}/{j:06d}.jpg" for i in range(folders) for j in range(keys_each))
    with ListingServer(names, delay_s=delay_s) as server:
        print(server.endpoint.endpoint_url, flush=True)
        for _ in sys.stdin:
            print(len(server.requests), server.most_in_flight, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
