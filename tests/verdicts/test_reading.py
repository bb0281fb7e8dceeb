"""Verdict files are read whole or not at all, and what is wrong with one is said by line."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.errors import SourceError
from nsfwscan.verdicts import reading
from nsfwscan.verdicts.reading import read_files
from nsfwscan.verdicts.verdict import as_table
from tests.verdicts.lines import file, id_of, line

GOOD = line("1", "a", "remove", category="porn")


def read(*files: str) -> list[str]:
    return [verdict.id for verdict in read_files(files, StorageConfig()).verdicts]


def refused(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(SourceError) as caught:
        read(str(path))
    assert "nothing was taken in" in str(caught.value)
    return str(caught.value).partition(f"{path}:\n")[2]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"color": "red"}, "color: an unknown key"),
    ({"verdict": "delete"}, "verdict: Input should be 'approve', 'remove', 'escalate' or 'undo'"),
    ({"kind": "training"}, "kind: Input should be"),
    ({"id": "7"}, "id: not a UUID"),
    ({"sha256": "ab"}, "sha256: not a SHA-256"),
    ({"decided_at": "2026-11-20T10:00:00"}, "decided_at: has no time zone"),
    ({"decided_at": "2126-11-20T10:00:00Z"}, "decided_at: is in the future"),
    ({"decided_at": "yesterday"}, "decided_at: not a time"),
    ({"seconds": -1}, "seconds: "),
    ({"seconds": float("nan")}, "seconds: "),
    ({"opened": "yes"}, "opened: "),
    ({"probability": 0}, "probability: "),
    ({"probability": 1.5}, "probability: "),
    ({"reviewer": ""}, "reviewer: "),
    ({"reason": "\ud800"}, "reason: Input should be a valid string"),
    ({"verdict": "undo"}, "an undo must name"),
    ({"supersedes": id_of("1")}, "cannot supersede itself"),
]


def test_what_is_wrong_is_said_by_line(tmp_path: Path) -> None:
    """A key that is unknown, missing, or has a wrong value; JSON that breaks off; another kind of file: none is taken in."""
    path = tmp_path / "v.jsonl"
    for wrong, said in WRONG:
        told = refused(path, (json.dumps(GOOD) + "\n" + json.dumps({**GOOD, **wrong}) + "\n").encode())
        assert told.strip().startswith("line 2: ") and said in told, (wrong, told)
    for key in ("id", "uri", "sha256", "verdict", "kind", "reviewer", "decided_at"):
        left = {name: value for name, value in GOOD.items() if name != key}
        assert f"line 1: {key}: Field required" in refused(path, json.dumps(left).encode())
    whole = json.dumps(GOOD).encode()
    for data, said in [
        (whole + b"\n" + whole[:40], "line 2: not valid JSON; it was cut off"),
        (b"[1]\n", "line 1: a JSON list, not an object"),
        (b"\xff\xfd\n", "line 1: is not UTF-8"),
        (b"\n \n", "the file: is empty"),
        (whole[:-1] + b', "id": "x"}', "has the same key twice"),
        (b"PAR1 and no more", "the file: is damaged"),
        (gzip.compress(whole)[:-9], "the file: is damaged"),
        (b"uri,truth\na,porn\n", "line 1: not valid JSON"),
    ]:
        assert said in refused(path, data), data


def test_many_wrong_lines_are_counted(tmp_path: Path) -> None:
    """Five are named, in each file; the rest are a number."""
    told = refused(tmp_path / "v.jsonl", b"{\n" * 20)
    assert told.count("line ") == 5 and "and 15 more" in told


def test_one_file_in_many_forms(tmp_path: Path) -> None:
    """Plain, with a mark and other ends of lines, compressed, or Parquet: the same verdicts; an id counts once."""
    lines = [GOOD, line("2", "b", "approve", id=id_of("2").upper(), decided_at="2026-11-20T12:00:00+02:00")]
    plain = file(tmp_path / "v.jsonl", lines)
    marked = tmp_path / "marked.jsonl"
    marked.write_bytes(b"\xef\xbb\xbf" + Path(plain).read_bytes().replace(b"\n", b"\r\n"))
    packed = tmp_path / "v.jsonl.gz"
    packed.write_bytes(gzip.compress(Path(plain).read_bytes()))
    table, buffer = as_table(read_files([plain], StorageConfig()).verdicts), io.BytesIO()
    pq.write_table(table, buffer)
    (tmp_path / "v.parquet").write_bytes(buffer.getvalue())
    found = read_files([plain, str(marked), str(packed), str(tmp_path / "v.parquet")], StorageConfig())
    assert [one.id for one in found.verdicts] == [id_of("1"), id_of("2")]
    assert {str(one) for one in table["decided_at"].to_pylist()} == {"2026-11-20 10:00:00"}
    other = file(tmp_path / "w.jsonl", [{**GOOD, "verdict": "approve"}])
    with pytest.raises(SourceError, match=rf"w.jsonl:\n  line 1: another verdict has the same id {id_of('1')}"):
        read(plain, other)
    with pytest.raises(SourceError, match="cannot read the verdict file"):
        read(str(tmp_path / "none.jsonl"))
    pq.write_table(table.drop_columns(["kind"]), tmp_path / "v.parquet")
    with pytest.raises(SourceError, match="its columns are not those of a verdict file; they differ in kind"):
        read(str(tmp_path / "v.parquet"))


def test_a_packed_file_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes unpack to gigabytes: no more than a bound is unpacked of them."""
    monkeypatch.setattr(reading, "_MOST_BYTES", 10_000)
    packed = tmp_path / "v.jsonl.gz"
    packed.write_bytes(gzip.compress(bytes(10_000_000), mtime=0))
    with pytest.raises(SourceError, match=r"the file: has more than 9\.8 KiB, unpacked: split it"):
        read(str(packed))


def test_the_encoding_of_powershell_is_named(tmp_path: Path) -> None:
    """CRLF and a mark of UTF-8 are taken; UTF-16 is refused in one line that says what to do."""
    path = tmp_path / "v.jsonl"
    text = json.dumps(GOOD) + "\r\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read(str(path)) == [id_of("1")]
    assert "the file: is UTF-16" in refused(path, text.encode("utf-16"))
