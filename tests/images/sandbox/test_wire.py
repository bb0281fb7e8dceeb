"""Messages over a socket: whole or not at all, of bounded length, and never later than the deadline."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.sandbox import wire
from nsfwscan.images.sandbox.wire import Settings

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


_json = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=9), lambda v: st.lists(v, max_size=3))


@settings(max_examples=50, deadline=None)
@given(said=st.dictionaries(st.text(max_size=9), _json, max_size=4), data=st.binary(max_size=200))
def test_a_message_arrives_as_it_was_sent(said: wire.Said, data: bytes) -> None:
    """Whatever JSON and bytes are sent come out on the other side, one message after the other."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for _ in range(2):
            wire.send(ours, said, data)
            assert wire.receive(theirs, most=200) == (said, data)


def test_a_large_message_arrives_in_pieces(pair: Pair) -> None:
    """Bytes that no socket takes at once arrive whole, with a deadline and without."""
    data = bytes(range(256)) * 2**16
    for deadline in (None, time.monotonic() + 60):
        sending = threading.Thread(target=wire.send, args=(pair[0], {"a": 1}, data), kwargs={"deadline": deadline})
        sending.start()
        assert wire.receive(pair[1], deadline=deadline) == ({"a": 1}, data)
        sending.join()


def test_nobody_waits_beyond_the_deadline(pair: Pair) -> None:
    """Neither for a message, nor for the rest of one, nor for someone to take one, nor for one that trickles in."""
    deadline = time.monotonic() + 0.2
    with pytest.raises(TimeoutError):
        wire.receive(pair[0], deadline=deadline)
    with pytest.raises(TimeoutError):
        wire.receive(pair[0], deadline=deadline)
    with pytest.raises(TimeoutError):
        wire.send(pair[0], {}, deadline=deadline)
    with pytest.raises(TimeoutError):
        wire.send(pair[0], {}, bytes(2**24), deadline=time.monotonic() + 0.2)
    pair[1].sendall(struct.pack("!IQ", 2, 10**6) + b"{}")
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.01):
            pair[1].send(b"x")

    trickling = threading.Thread(target=trickle)
    trickling.start()
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        wire.receive(pair[0], deadline=started + 0.3)
    assert time.monotonic() - started < 30  # it trickles on until it is stopped
    stop.set()
    trickling.join()


@pytest.mark.parametrize("said", [b"", b"\0\0\0", struct.pack("!IQ", 2, 5) + b"{", struct.pack("!IQ", 2, 5) + b"{}abc"])
def test_a_peer_that_is_gone_is_noticed(pair: Pair, said: bytes) -> None:
    """A message that breaks off is none."""
    pair[1].sendall(said)
    pair[1].close()
    with pytest.raises(EOFError):
        wire.receive(pair[0], deadline=time.monotonic() + 5)
    with pytest.raises(ConnectionError):
        wire.send(pair[0], {}, bytes(2**20), deadline=time.monotonic() + 5)


@pytest.mark.parametrize(
    ("text", "length", "data"),
    [
        (b"", 0, 0),
        (b"{", 1, 0),
        (b"[]", 2, 0),
        (b"null", 4, 0),
        (b"\xff\xfe", 2, 0),
        (b"[" * 60_000, 60_000, 0),
        (b'{"a": ' + b"9" * 5000 + b"}", 5007, 0),
        (b"{}", 2, 101),
        (b"{}", 2, 2**63),
        (b"{}", 65_537, 0),
        (b"{}", 2**32 - 1, 0),
    ],
)
def test_nonsense_is_refused(pair: Pair, text: bytes, length: int, data: int) -> None:
    """What is no JSON object, or longer than it may be, is refused before room is made for it."""
    pair[1].sendall(struct.pack("!IQ", length, data) + text)
    with pytest.raises(ValueError):  # noqa: PT011
        wire.receive(pair[0], most=100, deadline=time.monotonic() + 5)


@pytest.mark.parametrize(
    "geometry",
    [Geometry((224, 192), 2), Geometry(256, Image.Resampling.BICUBIC, (224, 200)), Geometry((8, 8), 0, (4, 4), True)],
)
def test_settings_survive_the_wire(geometry: Geometry) -> None:
    """Settings come out equal on the other side."""
    given = Settings(
        (geometry, Geometry((3, 5), 2)), True, False, True, 10**8, {"JXL": "pillow_jxl"}, 20.0, 2**31, trust="PEM"
    )
    said, trust = given.said()
    assert Settings.heard(json.loads(json.dumps(said)), trust) == given


def test_memory_that_both_see_cannot_be_cut() -> None:
    """What one side puts there the other finds; neither can take the memory away, which would kill who reads it."""
    fd = wire.area_file()
    ours, theirs = wire.Area(fd), wire.Area(fd)
    places = [ours.put_file(data) for data in (b"file" * 1000, b"next" * 2000)]
    assert [theirs.file(place) for place in places if place] == [b"file" * 1000, b"next" * 2000]
    assert ours.put_file(bytes(wire.AREA_FILE_BYTES + 1)) is None
    for size in (0, os.fstat(fd).st_size + 1):
        with pytest.raises(PermissionError):
            os.truncate(fd, size)
    os.close(fd)
