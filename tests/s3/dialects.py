"""S3 as other stores speak it: a proxy before a real S3 server that refuses, ignores or leaves out what they do.

In: an S3 server, and traits. Out: an endpoint that behaves so, over HTTP; what it refused is counted. The words of the
refusals are those that the stores give (OVHcloud, Backblaze B2, Google Cloud Storage, Ceph, MinIO, and others), collected
from their users' reports.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import http.client
import re
import threading
import urllib.parse
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from tests.s3.servers import HOP_BY_HOP, S3Endpoint

Refusal = tuple[int, str, str]

NOT_IMPLEMENTED = (501, "NotImplemented", "A header you provided implies functionality that is not implemented.")
NO_CHECKSUMS = {
    "b2": (400, "InvalidArgument", "Unsupported header 'x-amz-sdk-checksum-algorithm' received for this API call."),
    "ovh": NOT_IMPLEMENTED,
    "gcs": (403, "SignatureDoesNotMatch", "Access denied."),
    "ceph": (411, "MissingContentLength", "You must provide the Content-Length HTTP header."),
    "hash": (400, "XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not match."),
}


class OtherStore:
    """A store with these traits, one of which each of `_refusal` and `_changed` names."""

    def __init__(self, backend: S3Endpoint, *traits: str) -> None:
        self.traits = set(traits)
        self.refused: Counter[str] = Counter()
        self.requests: list[tuple[str, str]] = []
        self.backend = urllib.parse.urlsplit(backend.endpoint_url).netloc
        self._server = _Server(self)
        self.endpoint = dataclasses.replace(backend, endpoint_url=f"http://127.0.0.1:{self._server.server_address[1]}")
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, store: OtherStore) -> None:
        self.store = store
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _serve(self) -> None:
        store, body = self.server.store, self.rfile.read(int(self.headers.get("Content-Length", 0)))
        store.requests.append((self.command, self.path))
        if (refusal := self._refusal(body)) is not None:
            status, code, message = refusal
            store.refused[code] += 1
            self._send(status, [], f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode())
            return
        connection = http.client.HTTPConnection(store.backend, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
        path = self.path
        if "ignores-conditions" in store.traits:
            headers.pop("If-None-Match", None)
        if "small-pages" in store.traits and self.command == "GET" and "encoding-type" in path:
            path += "&max-keys=25"
        if "lists-by-v1-alone" in store.traits:
            path = path.replace("list-type=2&", "").replace("&list-type=2", "").replace("?list-type=2", "")
        connection.request(self.command, path, body, headers)
        answer = connection.getresponse()
        length, data = answer.getheader("Content-Length"), answer.read()
        kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in HOP_BY_HOP | {"content-length", "date"}]
        if "bare" in store.traits:
            kept = [(k, v.replace('"', "") if k.lower() == "etag" else v) for k, v in kept]
            if b"<ListBucketResult" in data:
                data = re.sub(rb"<(LastModified|StorageClass)>.*?</\1>", b"", data).replace(b"&quot;", b"")
                data = data.replace(b'<ETag>"', b"<ETag>").replace(b'"</ETag>', b"</ETag>")
        self._send(answer.status, kept, data, length if self.command == "HEAD" else None)
        connection.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _refusal(self, body: bytes) -> Refusal | None:
        names = {name.lower() for name in self.headers}
        bulk = self.command == "POST" and self.path.endswith("?delete")
        summed = any(name.startswith(("x-amz-checksum-", "x-amz-sdk-checksum-", "x-amz-trailer")) for name in names)
        chunked = "aws-chunked" in self.headers.get("Content-Encoding", "")
        writes = self.command == "PUT" or bulk
        given = self.headers.get("Content-MD5")
        wrong = given is not None and given != base64.b64encode(hashlib.md5(body).digest()).decode()
        refusals: list[tuple[str, bool, Refusal]] = [
            *((trait, writes and (summed or chunked), refusal) for trait, refusal in NO_CHECKSUMS.items()),
            (
                "wants-md5",
                writes and bool(body) and given is None,
                (400, "MissingContentMD5", "Content-Md5 is missing"),
            ),
            ("wants-md5", wrong, (400, "BadDigest", "The Content-Md5 you specified is another than ours.")),
            ("no-questions", "x-amz-checksum-mode" in names, (400, "InvalidArgument", "x-amz-checksum-mode: unknown")),
            ("no-list-v2", "list-type=2" in self.path, NOT_IMPLEMENTED),
            ("no-conditions", "if-none-match" in names, NOT_IMPLEMENTED),
            ("no-bulk-delete", bulk, NOT_IMPLEMENTED),
        ]
        return next((said for trait, met, said in refusals if met and trait in self.server.store.traits), None)

    def _send(self, status: int, headers: list[tuple[str, str]], data: bytes, length: str | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a test reads the counts."""
