"""The digest is the content's, whatever else is wrong with it."""

from __future__ import annotations

import hashlib

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from nsfwscan.schema import BYTES, LISTING_SCHEMA
from nsfwscan.stages.base import fresh
from nsfwscan.stages.fingerprint import Digest


def digests(contents: list[bytes | None]) -> list[str | None]:
    stage = Digest()
    stage.open()
    rows = fresh(pa.Table.from_pylist([{"uri": f"/{i}"} for i in range(len(contents))], schema=LISTING_SCHEMA))
    found: list[str | None] = stage(rows.append_column(BYTES, pa.array(contents, BYTES.type)))["sha256"].to_pylist()
    return found


def test_known_digest() -> None:
    """SHA-256 in lower-case hex: the published vectors of FIPS 180-4 for the empty message and for `abc`."""
    assert digests([b"", b"abc"]) == [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    ]


@given(st.lists(st.none() | st.binary(max_size=100), max_size=8))
def test_every_object_that_was_read_has_its_digest(contents: list[bytes | None]) -> None:
    """Images, broken files and empty ones have the digest of their bytes; what was not read has none."""
    assert digests(contents) == [None if data is None else hashlib.sha256(data).hexdigest() for data in contents]
