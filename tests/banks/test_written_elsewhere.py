"""Banks as other programs write them: the same entries whatever a file is called or packed in; all left out is told."""

from __future__ import annotations

import base64
import bz2
import gzip
import hashlib
import io
import json
import lzma
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nsfwscan.banks import bank as banks
from nsfwscan.banks import hashes
from nsfwscan.banks.bank import BankSpec, open_bank, resolve_banks
from nsfwscan.config import BankConfig, StorageConfig
from nsfwscan.errors import BankError

RAW = [hashlib.md5(bytes([i])).digest() for i in range(3)]
MD5 = [raw.hex() for raw in RAW]
SHA1 = [hashlib.sha1(bytes([i])).hexdigest() for i in range(3)]
SHA256 = [hashlib.sha256(bytes([i])).hexdigest() for i in range(3)]
PDQ = ["f8" * 32, "0f" * 32, "3c" * 32]
PHOTODNA = base64.b64encode(b"x" * 144).decode()
STORAGE = StorageConfig()


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSFWSCAN_CACHE", str(tmp_path / "cache"))


def bank(path: Path, content: str | bytes, **settings: Any) -> BankSpec:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    [spec] = resolve_banks((BankConfig.of({"name": "b", "uri": str(path), **settings}),), STORAGE)
    return spec


def entries(spec: BankSpec) -> dict[str, list[str]]:
    """By kind, the hashes in their order."""
    found = open_bank(spec, STORAGE).entries
    return {kind: sorted(e.hashes[i].tobytes().hex() for i in range(len(e.hashes))) for kind, e in found.items()}


def zipped(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("export/bank", data)
    return out.getvalue()


def table(columns: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def lines(*texts: str) -> str:
    return "\n".join(texts)


ALL = sorted(MD5)
WRITTEN = {
    "list": lines(*MD5),
    "upper case": lines(*(h.upper() for h in MD5)),
    "md5sum -b": lines(*(f"{h} *a b,{i}.jpg" for i, h in enumerate(MD5))),
    "BSD": lines(*(f"MD5 (a (1).jpg) = {h}" for h in MD5)),
    "typed": lines(*(f"md5 {h}" for h in MD5)),
    "prefixed": lines(*(f"md5:{h}" for h in MD5)),
    "0x": lines(*(f"0x{h}" for h in MD5)),
    "dashes": lines(*("-".join(h[i : i + 2] for i in range(0, 32, 2)) for h in MD5)),
    "uuid": lines(*(f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}" for h in MD5)),
    "base64": lines(*(base64.b64encode(raw).decode() for raw in RAW)),
    "csv": lines("md5,category", *(f"{h},1" for h in MD5)),
    "semicolons": lines("md5;category", *(f"{h};1" for h in MD5)),
    "tabs": lines("id\tmd5", *(f"{i}\t{h}" for i, h in enumerate(MD5))),
    "comment above": lines("# exported 2026-11-01, by X", "md5,category", *(f"{h},1" for h in MD5)),
    "comment as header": lines("# md5,category", *(f"{h},1" for h in MD5)),
    "excel": lines("sep=,", "md5,id", *(f'"=""{h}""",x' for h in MD5)),
    "spaces": lines("md5 , id", *(f" {h} , x" for h in MD5)),
    "no header": lines(*(f"a.jpg,{h},12" for h in MD5)),
    "utf-16": lines("md5,category", *(f"{h},1" for h in MD5)).encode("utf-16"),
    "array": json.dumps(MD5),
    "by kind": json.dumps({"version": 3, "md5": MD5}),
    "lists first": json.dumps({"meta": ["a"], "tags": [{"name": "x"}], "data": [{"type": "HASH_MD5", "indicator": h} for h in MD5]}),
    "misp": json.dumps({"Event": {"id": "1", "Tag": [{"name": "tlp:red"}], "Attribute": [{"type": "md5", "value": h} for h in MD5[:2]], "Object": [{"Attribute": [{"type": "filename|md5", "value": f"x|{MD5[2]}"[2:]}]}]}}),
    "stix": json.dumps({"type": "bundle", "objects": [{"type": "file", "hashes": {"MD5": h}} for h in MD5]}),
    "typed lists": json.dumps([{"id": 1, "hashes": [{"type": "md5", "value": h}]} for h in MD5]),
    "json lines": lines(*(json.dumps({"MD5Hash": h}) for h in MD5)),
    "pretty": json.dumps({"value": [{"MD5": h} for h in MD5]}, indent=1),
    "xml": "<?xml version='1.0'?><x:Export xmlns:x='u'>" + "".join(f"<Media><x:MD5>{h}</x:MD5></Media>" for h in MD5) + "</x:Export>",
    "ncmec": "<queryResponse><images>" + "".join(f"<image><id>{i}</id><fingerprints><md5>{h}</md5></fingerprints></image>" for i, h in enumerate(MD5)) + "</images></queryResponse>",
    "parquet": table({"md5": MD5}),
    "binary": table({"md5": RAW}),
    "fixed size": table({"md5": pa.array(RAW, pa.binary(16))}),
    "digits as bytes": table({"md5": [h.encode() for h in MD5]}),
    "dictionary": table({"md5": pa.array(MD5).dictionary_encode()}),
}  # fmt: skip


@pytest.mark.parametrize("how", WRITTEN)
def test_the_same_entries_whatever_they_are_written_in(tmp_path: Path, how: str) -> None:
    """Each format gives the same three hashes, none of them malformed."""
    spec = bank(tmp_path / "a", WRITTEN[how])
    assert entries(spec) == {"md5": ALL}
    assert (spec.malformed, spec.passed_over) == (0, {})


@pytest.mark.parametrize("how", ["list", "csv", "pretty", "json lines", "xml", "parquet", "utf-16"])
def test_a_name_means_nothing(tmp_path: Path, how: str) -> None:
    """Under any name the same bytes are the same bank, whichever name they were read by first."""
    first = bank(tmp_path / "first.bin", WRITTEN[how])
    for name in ("a", "a.txt", "a.csv", "a.json", "a.jsonl", "a.parquet", "a.csv.gz", "a.xml"):
        again = bank(tmp_path / name, WRITTEN[how])
        assert entries(again) == {"md5": ALL} and again.version == first.version, name


@pytest.mark.parametrize(
    "pack", [gzip.compress, bz2.compress, lzma.compress, zipped, lambda d: gzip.compress(zipped(d))]
)
@pytest.mark.parametrize("how", ["list", "csv", "pretty", "parquet"])
def test_packed_banks(tmp_path: Path, pack: Any, how: str) -> None:
    """Compressed in any usual way, known by content."""
    data = WRITTEN[how]
    assert entries(bank(tmp_path / "a.txt", pack(data if isinstance(data, bytes) else data.encode()))) == {"md5": ALL}


def test_what_vics_leaves_out_is_counted(tmp_path: Path) -> None:
    """SHA-1 alone, PhotoDNA, and category 0, which is not illegal; `categories` says which count."""
    media = [
        {"MediaID": 1, "Category": 1, "MD5": MD5[0].upper(), "SHA1": SHA1[0], "PhotoDNA": PHOTODNA},
        {"MediaID": 2, "Category": 0, "MD5": MD5[1].upper(), "Comments": "non pertinent"},
        {"MediaID": 3, "Category": 2, "MD5": "", "SHA1": SHA1[2]},
        {"MediaID": 4, "Category": 2, "MD5": MD5[2], "MediaFiles": [{"FileName": "x", "MD5": MD5[2]}]},
    ]
    odata = json.dumps({"odata.metadata": "http://x/$metadata#Media", "value": media})
    nested = json.dumps({"@odata.context": "x", "value": [{"CaseID": "c", "Media": media}]})
    for document in (odata, nested):
        spec = bank(tmp_path / "vics.json", document, kind="illegal")
        assert entries(spec) == {"md5": sorted([MD5[0], MD5[2]])}
        assert spec.passed_over == {
            "not illegal (category 0)": 1,
            "sha1 beside a hash that is used": 1,
            "photodna beside a hash that is used": 1,
            "sha1 alone": 1,
        }
        assert "1 sha1 alone passed over" in spec.describe() and spec.as_json()["passed_over"] == spec.passed_over
    chosen = bank(tmp_path / "vics.json", odata, categories=["0", "1"])
    assert entries(chosen) == {"md5": sorted(MD5[:2])} and chosen.passed_over["of another category"] == 1


@pytest.mark.parametrize(
    ("words", "kind", "counts"),
    [
        ({"status": "NON_MALICIOUS"}, "block", False),
        ({"status": "MALICIOUS"}, "block", True),
        ({"status": "UNKNOWN"}, "illegal", True),
        ({"category": "Known Good"}, "illegal", False),
        ({"category": 0.0}, "block", False),
        ({"deleted": True}, "block", False),
        ({"deleted": False, "enabled": True}, "block", True),
        ({"enabled": "false"}, "block", False),
        ({"status": "NON_MALICIOUS"}, "allow", True),
        ({"status": "MALICIOUS"}, "allow", False),
        ({"category": "known good"}, "negative", True),
    ],
)
def test_what_an_entry_is_said_to_be(tmp_path: Path, words: dict[str, Any], kind: str, counts: bool) -> None:
    """What is said to be harmless is no hit, nor what is switched off; what is said to be harmful allows nothing."""
    rows = [{"md5": MD5[0], **words}, {"md5": MD5[1]}]
    for content in (json.dumps(rows), table({"md5": MD5[:2], **{k: [str(v), None] for k, v in words.items()}})):
        spec = bank(tmp_path / "a", content, kind=kind)
        assert entries(spec) == {"md5": sorted(MD5[:2] if counts else MD5[1:2])}
        assert sum(spec.passed_over.values()) == (0 if counts else 1), spec.passed_over


def test_one_file_for_two_kinds_of_bank(tmp_path: Path) -> None:
    """What a cache has of a file as a block bank is not what it is as an allow bank."""
    rows = json.dumps([{"md5": MD5[0], "status": "NON_MALICIOUS"}, {"md5": MD5[1], "status": "MALICIOUS"}])
    for kind, expected in (("block", MD5[1]), ("allow", MD5[0]), ("block", MD5[1])):
        assert entries(bank(tmp_path / "a", rows, kind=kind)) == {"md5": [expected]}


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a"])
def test_pdq_photo_hasher(tmp_path: Path, name: str) -> None:
    """`hash,quality,file`, and its long form, under any name; what has no quality is left out and counted."""
    short = lines(*(f"{h},{q},../x/{i}.jpg" for i, (h, q) in enumerate(zip(PDQ, (100, 49, 50), strict=True))))
    long = lines(
        *(f"hash={h},norm=128,delta=0,quality={q},filename=x" for h, q in zip(PDQ, (100, 49, 50), strict=True))
    )
    for content in (short, long):
        spec = bank(tmp_path / name, content, hash="pdq")
        assert entries(spec) == {"pdq": sorted([PDQ[0], PDQ[2]])} and spec.passed_over == {
            "pdq of a quality below 50": 1
        }
        assert len(entries(bank(tmp_path / name, content, hash="pdq", quality=0))["pdq"]) == 3
        with pytest.raises(BankError, match="hash=sha256 or hash=pdq"):
            bank(tmp_path / name, content)


def test_what_no_image_is_matched_by(tmp_path: Path) -> None:
    """SHA-1 by its length, NSRL's columns, a video's PDQ, hashdeep's header in a comment."""
    mixed = bank(tmp_path / "a", lines(SHA1[0], MD5[0], SHA1[1]))
    assert entries(mixed) == {"md5": [MD5[0]]} and mixed.passed_over == {"sha1": 2}
    rows = [f'"{s.upper()}","{m.upper()}","0","x.jpg","1"' for s, m in zip(SHA1, MD5, strict=True)]
    nsrl = bank(
        tmp_path / "a", lines('"SHA-1","MD5","CRC32","FileName","FileSize"', *rows, f'"{SHA1[0]}","","0","x","1"')
    )
    assert entries(nsrl) == {"md5": ALL}
    assert nsrl.passed_over["sha1 beside a hash that is used"] == 3 and nsrl.passed_over["sha1 alone"] == 1
    video = bank(
        tmp_path / "a",
        json.dumps([{"signal_type": "video_pdq", "value": PDQ[0]}, {"signal_type": "PDQ", "value": PDQ[1]}]),
    )
    assert entries(video) == {"pdq": [PDQ[1]]} and video.passed_over == {"vpdq": 1}
    deep = bank(
        tmp_path / "a",
        lines(
            "%%%% HASHDEEP-1.0",
            "%%%% size,md5,sha256,filename",
            "## Invoked from: /",
            *(f"5,{m},{s},/x,{i}" for i, (m, s) in enumerate(zip(MD5, SHA256, strict=True))),
        ),
    )
    assert entries(deep) == {"sha256": sorted(SHA256), "md5": ALL}
    with pytest.raises(BankError, match=r"holds no usable .* it holds 3 sha1"):
        bank(tmp_path / "a", lines(*SHA1))


def test_an_ambiguous_document_is_refused(tmp_path: Path) -> None:
    """Lists of hashes in places that mean different things are named, and none is taken."""
    for document in (
        {"block": MD5[:2], "allow": MD5[2:]},
        {"current": [{"md5": h} for h in MD5[:2]], "removed": [{"md5": MD5[2]}]},
    ):
        with pytest.raises(BankError, match=r"hashes in several places.*\(2\).*\(1\)"):
            bank(tmp_path / "a.json", json.dumps(document))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"SQLite format 3\x00" + b"\x00" * 100, "SQLite database"),
        ("<!DOCTYPE html><html><body>Sign in</body></html>", "page of HTML"),
        ("<a><b>", "no xml file"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64, "pointer of Git LFS"),
        (b"\x00\x01\x02\x03" * 50, "neither text nor a table"),
        ("[" * 100_000, "nested too deeply|is no json file"),
        ('{"a":' * 500 + "1" + "}" * 500, "nested"),
        (gzip.compress(b"x" * 100)[:-20], "is no gzip file"),
        (b"<!DOCTYPE r [<!ENTITY a 'xxxxxxxxxx'>" + b"".join(b"<!ENTITY %c '%s'>" % (98 + i, b"&%c;" % (97 + i) * 20) for i in range(12)) + b"]><r>&m;</r>", "no xml file"),
    ],
)  # fmt: skip
def test_what_is_no_bank_is_named(tmp_path: Path, content: str | bytes, message: str) -> None:
    """A database, a page, a pointer, a bomb: said what it is, at once."""
    with pytest.raises(BankError, match=message):
        bank(tmp_path / "a.csv", content)


def test_two_files_in_a_zip_are_refused(tmp_path: Path) -> None:
    """Which is the bank, nobody said."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.csv", "x")
        archive.writestr("b.csv", "x")
    with pytest.raises(BankError, match=r"zip archive of 2 files \(a\.csv, b\.csv\)"):
        bank(tmp_path / "a.zip", out.getvalue())


# Everywhere the same


def test_a_node_that_reads_other_entries_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's entries are in the bank's identity: a node with another version of the reader does not match."""
    spec = bank(tmp_path / "a", WRITTEN["list"])
    banks.shutil.rmtree(spec.folder)
    monkeypatch.setitem(hashes.BY_DIGITS, 32, "pdq")
    with pytest.raises(BankError, match=r"reads other entries|no usable"):
        open_bank(replace(spec, config=spec.config), STORAGE)


def test_other_code_reads_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a node has kept by another version of the reader is not used."""
    spec = bank(tmp_path / "a", WRITTEN["list"])
    old = spec.folder
    monkeypatch.setattr(banks, "_reading", lambda: ["another"])
    assert spec.folder != old


def test_a_damaged_copy_is_read_again(tmp_path: Path) -> None:
    """Entries on a node's disk that are not what was written there do not decide."""
    spec = bank(tmp_path / "a", WRITTEN["list"])
    file = spec.folder / "md5.arrow"
    data = file.read_bytes()
    file.write_bytes(data.replace(RAW[0], b"\x00" * 16))
    assert entries(bank(tmp_path / "a", WRITTEN["list"])) == {"md5": ALL}
