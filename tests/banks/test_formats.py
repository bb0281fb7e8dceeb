"""Whatever a bank is written in, the same entries come out of it; what is malformed is counted and named."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nsfwscan.banks.bank import BankSpec, open_bank, resolve_banks
from nsfwscan.banks.formats import lines_of
from nsfwscan.config import BankConfig, StorageConfig
from nsfwscan.errors import BankError, ConfigError

SHA, MD5, PDQ = hashlib.sha256(b"a").hexdigest(), hashlib.md5(b"a").hexdigest(), "f8" * 32


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSFWSCAN_CACHE", str(tmp_path / "cache"))


def bank(path: Path, content: str | bytes, **settings: object) -> BankSpec:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    [spec] = resolve_banks((BankConfig.of({"name": "b", "uri": str(path), **settings}),), StorageConfig())
    return spec


def entries(spec: BankSpec) -> dict[str, dict[str, str]]:
    """By kind, hash to id."""
    found = open_bank(spec, StorageConfig()).entries
    return {k: {e.hashes[i].tobytes().hex(): e.id_of(i) for i in range(len(e.hashes))} for k, e in found.items()}


def parquet(columns: dict[str, object]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


ALL = {"sha256": {SHA: "i1"}, "md5": {MD5: "i2"}, "pdq": {PDQ: "i3"}}
_TYPED = [("HASH_SHA256", SHA, "i1"), ("HASH_MD5", MD5, "i2"), ("HASH_PDQ", PDQ, "i3")]
_API = [{"id": i, "indicator": h, "type": t, "tags": {"data": [{"text": "x"}]}} for t, h, i in _TYPED]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("typed.csv", "type,hash,id\n" + "".join(f"{t},{h},{i}\n" for t, h, i in _TYPED)),
        ("wide.csv", f"id,pdq,md5,sha256\ni1,,,{SHA}\ni2,,{MD5},\ni3,{PDQ},,\n"),
        ("upper.csv", f"ID, Signal_Type ,SIGNAL_STR\r\ni1,SHA256,{SHA.upper()}\r\ni2,photo_md5, {MD5} \r\ni3,PDQ,{PDQ}\r\n"),
        ("bom.csv", f"\ufeffhash,type,id\n{SHA},sha-256,i1\n\n{MD5},md5,i2\n{PDQ},pdq,i3\n"),
        ("typed.parquet", parquet(dict(zip(["type", "hash", "id"], zip(*_TYPED, strict=True), strict=True)))),
        ("raw.parquet", parquet({"id": ["i1", "i2", "i3"], "sha256": [bytes.fromhex(SHA), None, None], "md5": [None, bytes.fromhex(MD5), None], "pdq": [None, None, bytes.fromhex(PDQ)]})),
        ("api.json", json.dumps({"data": _API, "paging": {"next": "…"}})),
        ("list.json", json.dumps(_API)),
        ("api.jsonl", "\n".join(map(json.dumps, _API)) + "\n\n"),
        ("hma.jsonl", "\n".join(json.dumps({"id": i, "signals": {t[5:].lower(): h}}) for t, h, i in _TYPED)),
        ("wide.ndjson", "\n".join(json.dumps({"id": i, t[5:].lower(): h}) for t, h, i in _TYPED)),
    ],
)  # fmt: skip
def test_every_format_gives_the_same_entries(tmp_path: Path, name: str, content: str | bytes) -> None:
    """CSV, Parquet, JSON and JSON lines; a type beside the hash, or a column or signal for each kind."""
    spec = bank(tmp_path / name, content)
    assert entries(spec) == ALL
    assert (spec.entries, spec.malformed, spec.passed_over) == ({"sha256": 1, "md5": 1, "pdq": 1}, 0, {})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (f"# ours\n{PDQ}\n\n  {PDQ.upper()}  \n", {"pdq": {PDQ: PDQ}}),
        (f"pdq {PDQ}\nmd5 {MD5}\nHASH_SHA256\t{SHA}", {"pdq": {PDQ: PDQ}, "md5": {MD5: MD5}, "sha256": {SHA: SHA}}),
        (f"{PDQ}  a name.jpg\n", {"pdq": {PDQ: "a name.jpg"}}),
        (f"\ufeff{PDQ}\r\n{PDQ[:-1]}0 *b.jpg\r\n", {"pdq": {PDQ: PDQ, PDQ[:-1] + "0": "b.jpg"}}),
    ],
)
def test_a_hash_a_line(tmp_path: Path, content: str, expected: dict[str, dict[str, str]]) -> None:
    """Alone, after its type, or before a name, as `sha256sum` writes it; comments and empty lines are passed over."""
    assert entries(bank(tmp_path / "hashes.txt", content, hash="pdq")) == expected


def test_a_csv_without_a_header(tmp_path: Path) -> None:
    """The first column is the hash, as PDQ's own hasher prints it."""
    other = "0" * 64
    assert entries(bank(tmp_path / "a.csv", f"{PDQ},100,a.jpg\n{other},90,b.jpg\n", hash="pdq")) == {
        "pdq": {PDQ: PDQ, other: other}
    }


def test_32_digits_are_an_md5_and_64_are_open(tmp_path: Path) -> None:
    """Where nothing says it, an MD5 is known by its length; a SHA-256 and a PDQ hash look alike, and are not guessed."""
    assert entries(bank(tmp_path / "a.txt", MD5)) == {"md5": {MD5: MD5}}
    for name, content in (("b.txt", f"{MD5}\n{SHA}\n"), ("b.csv", f"hash\n{SHA}\n")):
        with pytest.raises(BankError, match=r"bank b: .* line 2 has 64 hex digits.*hash=sha256 or hash=pdq"):
            bank(tmp_path / name, content)
    assert entries(bank(tmp_path / "b.txt", SHA, hash="sha256")) == {"sha256": {SHA: SHA}}


def test_malformed_entries_are_counted_and_named(tmp_path: Path) -> None:
    """With line and reason, the first five; the others of the file are used. Bytes that are no text are one of them."""
    lines = [b"type,hash", b"pdq,xyz", b"pdq," + PDQ.encode(), b"md5," + PDQ.encode(), b"sha256", b"pdq,\xff\xfe", b"pdq,1", b"pdq,2", b'pdq,"' + b"x" * 200_000 + b'"']  # fmt: skip
    spec = bank(tmp_path / "a.csv", b"\n".join(lines))
    assert entries(spec) == {"pdq": {PDQ: PDQ}}
    assert spec.malformed == 7
    assert spec.examples == (
        "line 2: 'xyz' is not 64 hex digits, as pdq has",
        "line 6: '��' is not 64 hex digits, as pdq has",
        "line 7: '1' is not 64 hex digits, as pdq has",
        "line 8: '2' is not 64 hex digits, as pdq has",
        f"line 4: '{PDQ}' is not 32 hex digits, as md5 has",
    )
    assert "1 pdq; 7 malformed, e.g. line 2" in spec.describe()
    json_lines = bank(tmp_path / "a.jsonl", f'{{"pdq": "{PDQ}"}}\n[1]\nnot json\n"{PDQ}"\n{{}}\n', hash="pdq")
    assert (json_lines.entries["pdq"], json_lines.malformed) == (1, 3)


def test_hashes_of_other_things_are_passed_over(tmp_path: Path) -> None:
    """A video's MD5, a URL, a text: counted by what they are called, and not malformed."""
    text = f'signal_type,signal_str\nvideo_md5,{MD5}\nurl,http://x\nraw_text,"a\nb"\nurl,http://y\npdq,{PDQ}\n'
    spec = bank(tmp_path / "a.csv", text)
    assert (spec.passed_over, spec.malformed) == ({"url": 2, "video_md5": 1, "raw_text": 1}, 0)
    assert entries(spec) == {"pdq": {PDQ: PDQ}}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", f"pdq,tags\n{PDQ},media_type_photo csam\n{'0' * 64},other\n{'1' * 64},\n"),
        ("a.json", json.dumps([{"pdq": PDQ, "tags": ["csam"]}, {"pdq": "0" * 64, "tags": "x,y"}, {"pdq": "1" * 64}])),
        ("b.json", json.dumps({"data": [{"pdq": PDQ, "tags": {"data": [{"name": "csam"}]}}, {"pdq": "0" * 64}]})),
    ],
)
def test_tags_choose_entries(tmp_path: Path, name: str, content: str) -> None:
    """Words, lists, and ThreatExchange's own nesting."""
    assert entries(bank(tmp_path / name, content, tags=["csam", "terror"])) == {"pdq": {PDQ: PDQ}}
    assert bank(tmp_path / name, content).entries["pdq"] > 1
    with pytest.raises(BankError, match=r"no usable .* with one of the tags nobody"):
        bank(tmp_path / name, content, tags=["nobody"])


def test_a_column_may_be_named(tmp_path: Path) -> None:
    """In a table and in JSON; what else looks like hashes there is left alone."""
    assert entries(bank(tmp_path / "a.csv", f"md5,Fingerprint\n{MD5},{PDQ}\n", column="fingerprint", hash="pdq")) == {
        "pdq": {PDQ: PDQ}
    }
    assert entries(bank(tmp_path / "a.json", json.dumps([{"h": SHA, "md5": MD5}]), column="h", hash="sha256")) == {
        "sha256": {SHA: SHA}
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "uri,truth\n1,2\n", r"no column of hashes .* there are: uri, truth"),
        ("a.csv", "", "holds no usable sha256, md5 or pdq hash; it holds nothing"),
        ("a.parquet", parquet({"x": [1]}), "no column of hashes .* there are: x"),
        ("a.parquet", b"PK\x03\x04", "is no zip file"),
        ("a.csv", b"PAR1 and more", "is no parquet file"),
        ("a.json", "{", "is no json file"),
        ("a.txt", '{"x": 3}', "neither a list of entries nor an object with one: it has x"),
        ("a.txt", "", "holds no usable sha256, md5 or pdq hash; it holds nothing"),
        ("a.txt", "hello\n", r"1 malformed \(line 1: 'hello' is not 32 hex digits, as md5 has\)"),
        ("a.csv", "type,hash\nurl,http://x\n", "it holds 1 url"),
    ],
)
def test_a_file_of_which_nothing_can_be_made_stops_the_run(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    """With the bank's name, the file's, and what is there instead."""
    with pytest.raises(BankError, match=message) as raised:
        bank(tmp_path / name, content)
    assert str(raised.value).startswith("bank b: ") and name in str(raised.value)


def test_a_bank_that_is_not_there(tmp_path: Path) -> None:
    """An absent file, and a scheme that nobody knows."""
    for uri in (str(tmp_path / "none.csv"), "nowhere://x/a.csv"):
        with pytest.raises(BankError, match="bank b: "):
            resolve_banks((BankConfig.of({"name": "b", "uri": uri}),), StorageConfig())


def test_settings_that_mean_nothing() -> None:
    """A distance that no index reaches, a kind that there is not, a name that is no name."""
    for wrong in ({"distance": 32}, {"kind": "good"}, {"name": "a b"}, {"quality": 101}, {"hash": "sha1"}):
        with pytest.raises(ConfigError):
            BankConfig.of({"name": "b", "uri": "x", **wrong})


def test_lines_come_in_pieces() -> None:
    """A long file is not held as a whole."""
    data = io.BytesIO(b"hash,type\n" + f"{PDQ},pdq\n".encode() * 150_000)
    assert [len(lines.hashes) for lines in lines_of(data, "a.csv")] == [65_536, 65_536, 18_928]
