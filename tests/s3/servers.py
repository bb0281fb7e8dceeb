"""S3 servers on loopback for tests, each in processes of its own, and a reverse proxy that injects faults.

In: nothing, or a directory for Ceph. Out: an :class:`S3Endpoint` that says where the server listens and with which
keys, for this process and for any other (a Ray worker, a command) through :meth:`S3Endpoint.environment`.
Goes wrong: a server that does not come up raises ``RuntimeError`` with the end of its output.

Nothing here needs pytest, so benchmarks and demos can use it too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import os
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self, TypedDict, Unpack

CEPH_SCRIPT = Path(__file__).with_name("ceph.sh")
CHUNK_BYTES = 64 * 1024
# Headers that concern one connection and so are not passed on (RFC 9110, 7.6.1), and Expect, which the proxy has
# answered itself. Signature version 4 leaves all of them out of what it signs.
HOP_BY_HOP = {
    *("connection", "expect", "keep-alive", "proxy-authenticate", "proxy-connection"),
    *("te", "trailer", "transfer-encoding", "upgrade"),
}


@dataclasses.dataclass(frozen=True)
class S3Endpoint:
    """Address of an S3 server, and the keys it takes."""

    endpoint_url: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"

    def environment(self) -> dict[str, str]:
        """Return the variables that make boto, s3fs and the AWS command line use this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
        }


def free_port(span: int = 1) -> int:
    """Return the first of ``span`` consecutive TCP ports that are free on 127.0.0.1 now; another process may be quicker."""
    for _ in range(100):
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                for offset in range(1, span):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port + offset))
            except (OSError, OverflowError):
                continue
        return port
    raise RuntimeError(f"found no {span} consecutive free ports on 127.0.0.1")


@contextlib.contextmanager
def moto_server(timeout_s: float = 60.0) -> Iterator[S3Endpoint]:
    """moto's S3 in a process of its own, empty at the start. It takes any keys."""
    for attempt in range(3):  # the port may be taken between finding it free and the server's bind
        with tempfile.TemporaryFile() as output:
            port = free_port()
            command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
            try:
                if not _wait_until_listening(process, port, timeout_s):
                    if attempt < 2 and process.poll() is not None:
                        continue
                    raise RuntimeError(f"moto did not start on port {port}:\n{_tail(output)}")
                yield S3Endpoint(f"http://127.0.0.1:{port}", "testing", "testing")
            finally:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            return


def _wait_until_listening(process: subprocess.Popen[bytes], port: int, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return process.poll() is None
        time.sleep(0.05)
    return False


def _tail(output: BinaryIO, size: int = 4000) -> str:
    output.seek(0, os.SEEK_END)
    output.seek(max(0, output.tell() - size))
    return output.read().decode(errors="replace")


@contextlib.contextmanager
def ceph_server(directory: Path, timeout_s: float = 600.0) -> Iterator[S3Endpoint]:
    """A one-node Ceph with its data in memory; ``directory`` (absent or empty) holds its sockets and logs, and goes.

    The first start on a machine installs the packages, see ``ceph.sh``. Unix sockets lie in the directory, whose path
    must therefore be short: about 80 characters.
    """
    bash = shutil.which("bash")
    if bash is None:
        raise RuntimeError("ceph.sh needs bash")
    script = [bash, str(CEPH_SCRIPT)]
    try:
        start = subprocess.run(
            [*script, "start", str(directory), str(free_port(span=3))],
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
        if start.returncode:
            raise RuntimeError(f"Ceph did not start ({start.returncode}):\n{start.stderr[-4000:]}")
        exported = dict(re.findall(r"^export (\w+)=(\S+)$", start.stdout, re.MULTILINE))
        yield S3Endpoint(
            exported["AWS_ENDPOINT_URL"],
            exported["AWS_ACCESS_KEY_ID"],
            exported["AWS_SECRET_ACCESS_KEY"],
            exported["AWS_DEFAULT_REGION"],
        )
    finally:
        subprocess.run([*script, "stop", str(directory)], check=False, capture_output=True, timeout=60)


Match = Callable[[str, str], bool]


class When(TypedDict, total=False):
    """Choice of the matching requests that a rule strikes; all of them, unless it says otherwise."""

    times: int
    """The first so many."""
    every: int
    """Each so-many-th."""
    share: float
    """Each with this probability, from 0 to 1, drawn from the proxy's seed."""
    after: int
    """None of the first so many."""


@dataclasses.dataclass
class _Rule:
    kind: str  # the name of the method that added it: the key in FaultyProxy.injected
    match: Match
    when: When
    status: int = 503
    code: str = "SlowDown"
    seconds: float = 0.0
    matched: int = 0
    done: int = 0

    def takes(self, method: str, path: str, chance: random.Random) -> bool:
        """Return whether this rule strikes now; counts the request. Called under the proxy's lock."""
        if not self.match(method, path) or self.done >= self.when.get("times", self.done + 1):
            return False
        self.matched += 1
        if self.matched <= self.when.get("after", 0) or self.matched % self.when.get("every", 1):
            return False
        if "share" in self.when and chance.random() >= self.when["share"]:
            return False
        self.done += 1
        return True


class FaultyProxy:
    """An HTTP reverse proxy on loopback that passes S3 requests on unchanged, except where a rule strikes.

    ``match(method, path)`` gets the request line's own words: ``path`` is still quoted and has the query, such as
    ``/bucket/a%20key?partNumber=2``. Which of those requests are struck, :class:`When` says. Rules are asked in the
    order they were added, and the first of a kind that strikes is used: one request may be delayed and then failed.
    Every method is safe to call from any thread.

    The client's Host header goes on as it came, since the request's signature covers it.

    >>> with moto_server() as backend, FaultyProxy(backend) as proxy:  # doctest: +SKIP
    ...     proxy.fail(lambda method, path: method == "GET", times=2)
    ...     proxy.endpoint.environment()
    """

    def __init__(self, backend: S3Endpoint, *, seed: int = 0) -> None:
        parts = urllib.parse.urlsplit(backend.endpoint_url)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"the proxy speaks to plain http only, not to {backend.endpoint_url}")
        self._backend_address = (parts.hostname, parts.port or 80)
        self._lock = threading.Lock()
        self._chance = random.Random(seed)
        self._rules: list[_Rule] = []
        self._injected: Counter[str] = Counter()
        self._requests: Counter[str] = Counter()
        self._stopping = threading.Event()
        self._server = _Server(self)
        port = self._server.server_address[1]
        self.endpoint = dataclasses.replace(backend, endpoint_url=f"http://127.0.0.1:{port}")
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()  # ends the delays, stalls and drips
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fail(self, match: Match, *, status: int = 503, code: str = "SlowDown", **when: Unpack[When]) -> None:
        """Answer with an S3 error in the backend's stead; the backend never sees the request."""
        self._add(_Rule("fail", match, when, status=status, code=code))

    def reset(self, match: Match, **when: Unpack[When]) -> None:
        """Drop the connection (RST) before any answer; the backend never sees the request."""
        self._add(_Rule("reset", match, when))

    def cut_body(self, match: Match, **when: Unpack[When]) -> None:
        """Announce the whole body, send half of it and drop the connection. Predictions without a body don't count."""
        self._add(_Rule("cut_body", match, when))

    def truncate(self, match: Match, **when: Unpack[When]) -> None:
        """Announce and send half of the body, with the whole one's headers, as a broken cache does."""
        self._add(_Rule("truncate", match, when))

    def stall(self, match: Match, **when: Unpack[When]) -> None:
        """Announce the whole body, send half of it and then nothing, with the connection open until the proxy ends."""
        self._add(_Rule("stall", match, when))

    def drip(self, match: Match, seconds: float, **when: Unpack[When]) -> None:
        """Announce the whole body and send it byte by byte, so many seconds apart."""
        self._add(_Rule("drip", match, when, seconds=seconds))

    def delay(self, match: Match, seconds: float, **when: Unpack[When]) -> None:
        """Wait before the request is passed on (or failed)."""
        self._add(_Rule("delay", match, when, seconds=seconds))

    def clear(self) -> None:
        """Forget every rule; the counts stay."""
        with self._lock:
            self._rules.clear()

    @property
    def injected(self) -> Counter[str]:
        """Return how many faults were injected so far, by kind: ``fail``, ``cut_body``, ``delay``, …"""
        with self._lock:
            return self._injected.copy()

    @property
    def requests(self) -> Counter[str]:
        """Return how many requests came so far, by method, failed ones included."""
        with self._lock:
            return self._requests.copy()

    def _add(self, rule: _Rule) -> None:
        for name in ("times", "every"):
            number = rule.when.get(name, 1)
            if number < 1:  # type: ignore[operator]
                raise ValueError(f"{name} must be at least 1, not {number}")
        with self._lock:
            self._rules.append(rule)

    def _struck(self, kind: str, method: str, path: str) -> _Rule | None:
        with self._lock:
            for rule in self._rules:
                if rule.kind == kind and rule.takes(method, path, self._chance):
                    self._injected[kind] += 1
                    return rule
        return None

    def _saw(self, method: str) -> None:
        with self._lock:
            self._requests[method] += 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # hundreds of Ray workers may connect at once

    def __init__(self, proxy: FaultyProxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent about clients that hang up, which tests make them do; speak about anything else."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _serve(self) -> None:
        proxy = self.server.proxy
        proxy._saw(self.command)
        if (delayed := self._struck("delay")) is not None:
            proxy._stopping.wait(delayed.seconds)
        if (failed := self._struck("fail")) is not None:
            self._send_failure(failed)
            return
        if self._struck("reset") is not None:
            self._reset()
            return
        backend = http.client.HTTPConnection(*proxy._backend_address, timeout=120)
        try:
            try:
                self._pass_request_on(backend)
                response = backend.getresponse()
            except (OSError, http.client.HTTPException) as error:
                self.close_connection = True  # the request's body may be half read
                self._send_error_body(502, "BackendUnreachable", str(error))
                return
            self._pass_response_on(response)
        finally:
            backend.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_OPTIONS = _serve

    def _send_failure(self, rule: _Rule) -> None:
        for _ in self._request_body():
            pass  # a server that answers before it has read the body looks like a broken pipe to some clients
        self._send_error_body(rule.status, rule.code, "Injected by the test's proxy.")

    def _send_error_body(self, status: int, code: str, message: str) -> None:
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>injected</RequestId></Error>"
        ).encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-amz-request-id", "injected")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _request_is_chunked(self) -> bool:
        return "chunked" in self.headers.get("Transfer-Encoding", "").lower()

    def _request_body(self) -> Iterator[bytes]:
        if self._request_is_chunked():
            yield from self._chunked_request_body()
            return
        yield from _pieces(self.rfile, int(self.headers.get("Content-Length", 0)))

    def _chunked_request_body(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(1024).split(b";")[0], 16):
            yield from _pieces(self.rfile, size)
            self.rfile.readline(1024)  # the line's end after the chunk
        while self.rfile.readline(65536).strip():
            pass  # HTTP trailers; those of aws-chunked lie inside the body and have gone on with it

    def _pass_request_on(self, backend: http.client.HTTPConnection) -> None:
        backend.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in HOP_BY_HOP:
                backend.putheader(name, value)
        chunked = self._request_is_chunked()
        if chunked:
            backend.putheader("Transfer-Encoding", "chunked")
        backend.putheader("Connection", "close")
        backend.endheaders()
        for piece in self._request_body():
            backend.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            backend.send(b"0\r\n\r\n")

    def _pass_response_on(self, response: http.client.HTTPResponse) -> None:
        length = response.getheader("Content-Length")
        bodiless = self.command == "HEAD" or response.status in (204, 304) or length == "0"
        headers = [(name, value) for name, value in response.getheaders() if name.lower() not in HOP_BY_HOP]
        if length is not None and not bodiless and self._struck("truncate"):
            length = str(int(length) // 2)
            headers = [(name, length if name.lower() == "content-length" else value) for name, value in headers]
        self.send_response_only(response.status, response.reason)
        for name, value in headers:
            self.send_header(name, value)
        if length is None and not bodiless:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if not bodiless:
            self._pass_body_on(response, length)

    def _pass_body_on(self, response: http.client.HTTPResponse, length: str | None) -> None:
        if self._struck("cut_body"):
            self._send_half(response, length)
            self._hang_up()
        elif self._struck("stall"):
            self._send_half(response, length)
            self.server.proxy._stopping.wait()
        elif length is not None and (dripping := self._struck("drip")):
            for byte in response.read():
                self.wfile.write(bytes([byte]))
                if self.server.proxy._stopping.wait(dripping.seconds):
                    break
        elif length is not None:
            left = int(length)
            while left and (piece := response.read1(min(left, CHUNK_BYTES))):
                self.wfile.write(piece)
                left -= len(piece)
            if left:
                self._hang_up()  # the backend hung up: so do we, or the client would wait for the rest
        else:
            for piece in iter(lambda: response.read1(CHUNK_BYTES), b""):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

    def _struck(self, kind: str) -> _Rule | None:
        return self.server.proxy._struck(kind, self.command, self.path)

    def _send_half(self, response: http.client.HTTPResponse, length: str | None) -> None:
        if length is None:
            piece = response.read(1)
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        else:
            self.wfile.writelines(_pieces(response, int(length) // 2))

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a test reads the counts."""


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _pieces(stream: _Readable, size: int) -> Iterable[bytes]:
    """``size`` bytes of the stream in pieces, so that no body is held whole; ``ConnectionError`` if it ends before."""
    while size > 0:
        piece = stream.read(min(size, CHUNK_BYTES))
        if not piece:
            raise ConnectionError(f"{size} bytes short of the announced body")
        size -= len(piece)
        yield piece
