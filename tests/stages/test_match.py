"""What a bank knows goes no further: bytes that are illegal are not decoded, and no pixel of a match leaves the worker."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nsfwscan.banks.bank import resolve_banks
from nsfwscan.banks.matcher import BankSet
from nsfwscan.config import BankConfig, StorageConfig
from nsfwscan.models.views import pixels_column
from nsfwscan.schema import BYTES, LISTING_SCHEMA, REPORT_SCHEMA, BankKind
from nsfwscan.stages.base import fresh
from nsfwscan.stages.match import MatchDigests, MatchHashes

FILES = [b"illegal", b"blocked", b"allowed", b"unknown"]
PIXELS = 12
"""Bytes of a view."""
PDQS = ["0" * 64, "f" * 64, "0f" * 32, "3c" * 32]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def banks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BankSet:
    """First three files by their digests, and PDQ hashes that the first two rows of pixels have."""
    monkeypatch.setenv("NSFWSCAN_CACHE", str(tmp_path / "cache"))
    configs = []
    for kind, data, looks in zip((BankKind.ILLEGAL, BankKind.BLOCK, BankKind.ALLOW), FILES, PDQS, strict=False):
        path = tmp_path / f"{kind}.txt"
        path.write_text(f"sha256 {sha(data)}\n" + (f"pdq {looks}\n" if kind != BankKind.ALLOW else ""))
        configs.append(BankConfig(name=str(kind), uri=str(path), kind=kind))
    return BankSet(resolve_banks(tuple(configs), StorageConfig()), StorageConfig())


def read(files: list[bytes | None]) -> pa.Table:
    """Files as the stages before hand them over."""
    listing = pa.Table.from_pylist([{"uri": f"/{i}"} for i in range(len(files))], schema=LISTING_SCHEMA)
    digests = pa.array([None if data is None else sha(data) for data in files], pa.string())
    table = fresh(listing).append_column(BYTES, pa.array(files, BYTES.type))
    return table.append_column("sha256", digests)


def decoded(pdqs: list[str | None], sha256: list[str | None], pixels: list[bytes | None]) -> pa.Table:
    """Rows as decoding leaves them."""
    listing = pa.Table.from_pylist([{"uri": f"/{i}"} for i in range(len(pdqs))], schema=LISTING_SCHEMA)
    images = np.frombuffer(b"".join(p or b"" for p in pixels), np.uint8).reshape(-1, PIXELS)
    column = pixels_column(images, [int(p is not None) for p in pixels])
    columns = {
        "sha256": pa.array(sha256, pa.string()),
        "pdq": pa.array(pdqs, pa.string()),
        "pdq_quality": pa.array([None if p is None else 100 for p in pdqs], pa.int32()),
        "pixels": column,
    }
    table = fresh(listing)
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table


def test_only_illegal_bytes_are_taken_away(banks: BankSet) -> None:
    """Other matches go on to be decoded, for what the file says of itself; the match columns are filled for all."""
    stage = MatchDigests(banks)
    stage.open()
    out = stage(read([*FILES, None]))
    assert out["bytes"].to_pylist() == [None, *FILES[1:], None]
    assert out["match_kind"].to_pylist() == ["illegal", "block", "allow", None, None]
    assert out["match_id"].to_pylist()[:2] == [sha(FILES[0]), sha(FILES[1])]
    assert out["match_hash"].to_pylist()[:2] == ["sha256", "sha256"]
    assert out["status"].to_pylist() == ["ok"] * 5
    for field in stage.adds:
        assert out.schema.field(field.name) == REPORT_SCHEMA.field(field.name)


def test_no_pixel_of_a_match_is_left_in_the_column(banks: BankSet) -> None:
    """What matches by its looks or its bytes has none, and what was null has none: only the others' are sent."""
    stage = MatchHashes(banks)
    images = [bytes([i + 1] * 12) for i in range(5)]
    pixels = [images[0], images[1], images[2], images[3], None, images[4]]
    digests = [None, None, sha(b"allowed"), sha(b"unknown"), sha(b"blocked"), None]
    table = decoded([PDQS[0], PDQS[1], PDQS[3], PDQS[3], None, PDQS[3]], digests, pixels)
    out = stage(table.append_column("pixels_1", table["pixels"]))  # for a model of another geometry
    assert out["match_kind"].to_pylist() == ["illegal", "block", "allow", None, "block", None]
    assert out["pixels"].to_pylist() == [None, None, None, [images[3]], None, [images[4]]]
    for column in (out["pixels"].combine_chunks(), out["pixels_1"].combine_chunks()):
        assert column.null_count == 4
        assert column.values.buffers()[1].to_pybytes() == images[3] + images[4]
    sent = pa.BufferOutputStream()
    with pa.ipc.new_stream(sent, out.schema) as writer:
        writer.write_table(out)
    raw = sent.getvalue().to_pybytes()
    assert images[3] in raw
    assert not [image for image in images[:3] if image in raw]


def test_a_slice_keeps_its_own_pixels(banks: BankSet) -> None:
    """Rows of a part of a table are those of the whole."""
    images = [bytes([i + 1] * 12) for i in range(4)]
    whole = decoded([PDQS[3], PDQS[0], PDQS[3], None], [None] * 4, [*images[:3], None])
    stage = MatchHashes(banks)
    expected = stage(whole)["pixels"].to_pylist()
    assert expected == [[images[0]], None, [images[2]], None]
    for start in range(4):
        assert stage(whole.slice(start))["pixels"].to_pylist() == expected[start:]


def test_without_a_match_nothing_is_copied(banks: BankSet) -> None:
    """The pixels of an ordinary chunk are handed on as they are."""
    table = decoded([PDQS[3]] * 3, [None] * 3, [bytes([i] * 12) for i in range(3)])
    out = MatchHashes(banks)(table)
    assert out["pixels"].chunk(0).values.buffers()[1].address == table["pixels"].chunk(0).values.buffers()[1].address
    assert np.all(out["match_kind"].is_null())
