"""Read lists of objects, whatever they are written in: the content decides, never the name.

Rows are read one at a time, so that memory stays flat. A file that was meant as a list and cannot be one is a
`SourceError` that says what it looks like and what to do.

- Parquet, ORC and Arrow files; JSON lines; a JSON array of objects or of strings, or an object that holds one; text
  with commas, semicolons, tabs or bars under a line of column names; a URI or path a line.
- Each of them plain, or in gzip, bzip2, xz, zstd or lz4. UTF-8, UTF-16 and UTF-32, with or without a mark at the start,
  and any ends of lines.
- Excel, zip, tar, Avro, SQLite, JSON of another kind, text without known columns are refused where the name says that a
  list was meant, and some always: nobody gives a workbook for an image.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import orc

from nsfwscan.errors import SourceError
from nsfwscan.storage.columns import Columns, Row, names_in
from nsfwscan.text import printable

Format = Literal["parquet", "orc", "arrow", "delimited", "lines", "json", "json lines", "inventory", "empty"]

HEAD_BYTES = 64 * 2**10
"""By so much of it a file is judged."""
_MOST_CHARACTERS = 16 * 2**20
"""Of one line, or of one element of a JSON array."""
_LOOKED_AT = 20
_LISTS = frozenset(
    "parquet parq pq orc arrow feather csv tsv tab psv txt lst list json jsonl ndjson manifest".split()  # noqa: SIM905
)
_PACKED = frozenset(["gz", "gzip", "bz2", "xz", "lzma", "zst", "zstd", "lz4"])
_COMPRESSED = ((b"\x1f\x8b", "gzip"), (b"BZh", "bz2"), (b"\xfd7zXZ\x00", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"),
               (b"\x04\x22\x4d\x18", "lz4"))  # fmt: skip
_TABLES: tuple[tuple[bytes, Format], ...] = ((b"PAR1", "parquet"), (b"ORC", "orc"), (b"ARROW1", "arrow"))
_REFUSED = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook (or another old Office file): save it as CSV"),
    (b"Obj\x01", "an Avro file: write it as Parquet"),
    (b"SQLite format 3\x00", "an SQLite database: write the table as CSV"),
    (b"FEA1", "a Feather file of version 1: write it as Parquet"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it"),
    (b"Rar!\x1a\x07", "a RAR archive: unpack it"),
)
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\x00\x00", "utf-32"), (b"\x00\x00\xfe\xff", "utf-32"),
          (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))  # fmt: skip
_DELIMITERS = ",;\t|"
_PLACE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*+://\S|file:/|\.{0,2}/\S")
_SPACE, _ENDING = re.compile(r"\s"), re.compile(r"\.\w{1,5}$")
_NAMED_IMAGE = re.compile(r"\.(jpe?g|jfif|png|apng|webp|gif|bmp|tiff?|avif|hei[cf]|ico)$", re.IGNORECASE)
_INVENTORY = ("destinationBucket", "fileFormat", "fileSchema", "files")
READING_ERRORS = (pa.ArrowException, UnicodeError, csv.Error, zlib.error, lzma.LZMAError, EOFError, gzip.BadGzipFile)
"""Errors that a damaged list raises while it is read."""


@dataclass(frozen=True)
class Shape:
    """Format, compression and encoding of a list."""

    format: Format
    compression: str | None = None
    encoding: str = "utf-8"
    delimiter: str = ","
    spaced: bool = False
    """True where a blank follows each delimiter."""


def is_named_list(uri: str) -> bool:
    """Return whether a file's name says that it lists objects."""
    suffixes = [suffix.removeprefix(".") for suffix in PurePosixPath(uri.lower().rsplit("/", 1)[-1]).suffixes]
    if suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    return bool(suffixes) and suffixes[-1] in _LISTS


def shape_of(head: bytes, uri: str, *, wanted: bool | None = None) -> Shape | None:
    """Return what a list is written in; None for what is no list. Raises SourceError where it was meant as a list and
    is none that is read, or it is of a kind that can be nothing else.

    Args:
        head: the first `HEAD_BYTES` of the file; fewer, where it has no more.
        wanted: whether a list is what it must be; unset: where its name says so.
    """
    wanted = is_named_list(uri) if wanted is None else wanted
    compression, whole = compression_of(head), len(head) < HEAD_BYTES
    if compression is not None:
        head = _unpacked_head(head, compression)
        whole = whole and len(head) < HEAD_BYTES
    shape = _shape(head, uri, wanted=wanted, whole=whole)
    if shape is None or compression is None:
        return shape
    return replace(shape, compression=compression)


def compression_of(head: bytes) -> str | None:
    """Return how a file that begins so is compressed; None where it is not, or not in a way that is known."""
    return next((name for magic, name in _COMPRESSED if head.startswith(magic)), None)


def _unpacked_head(head: bytes, compression: str) -> bytes:
    """Return as much as the head of a compressed file gives; nothing where it is damaged."""
    found = bytearray()
    try:
        with unpacked(io.BytesIO(head), compression) as stream:
            while len(found) < HEAD_BYTES and (piece := stream.read(512)):
                found += piece
    except (*READING_ERRORS, OSError):
        pass  # it is cut off, since it is only the head
    return bytes(found[:HEAD_BYTES])


def unpacked(file: IO[bytes], compression: str | None) -> IO[bytes]:
    """Return the content of a compressed file; reading it raises `READING_ERRORS`."""
    if compression is None:
        return file
    if compression == "gzip":
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
    if compression == "bz2":
        return bz2.BZ2File(file)
    if compression == "xz":
        return lzma.LZMAFile(file)
    return io.BufferedReader(pa.CompressedInputStream(file, compression))


def _shape(head: bytes, uri: str, *, wanted: bool, whole: bool) -> Shape | None:
    for magic, table in _TABLES:
        if head.startswith(magic) and (table != "orc" or wanted or not _is_text(head)):
            return Shape(table)
    _refuse_archives(head, uri)
    if not head.strip():
        return Shape("empty") if wanted and whole else None
    encoding = encoding_of(head)
    text = None if encoding is None else _text(head, encoding, whole=whole)
    if encoding is None or text is None:
        return _none(wanted, refusal(uri, "is no list of objects: it is neither text nor a table that is read"))
    return _shape_of_text(text, encoding, uri, wanted=wanted, whole=whole)


def _none(wanted: bool, why: str) -> Shape | None:
    """Return None for what is no list; raise SourceError where it must be one."""
    if wanted:
        raise SourceError(why)
    return None


def _refuse_archives(head: bytes, uri: str) -> None:
    name = printable(uri)
    for magic, what in _REFUSED:
        if head.startswith(magic):
            raise SourceError(f"{name} looks like {what}, and scan that")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        if b"[Content_Types].xml" in head or b"xl/" in head or uri.lower().endswith((".xlsx", ".xlsm", ".ods")):
            raise SourceError(f"{name} looks like an Excel workbook: save it as CSV, and scan that")
        raise SourceError(f"{name} is a zip archive, which is no image and no list; what is in it is zip://::{name}")
    if head[257:262] == b"ustar":
        raise SourceError(f"{name} is a tar archive, which is no image and no list; what is in it is tar://::{name}")


def refusal(uri: str, what: str) -> str:
    """Return the message that a file is no list, and what one is."""
    return (
        f'{printable(uri)} {what}. A list is Parquet, CSV (with a column `uri`), JSON lines ({{"uri": …}}), a JSON '
        "array, or text with a URI a line"
    )


def encoding_of(head: bytes) -> str | None:
    """Return the encoding of a text that begins so; None where it is no text."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    even, odd = head[0:2000:2].count(0), head[1:2000:2].count(0)
    if odd > len(head[:2000]) // 4 and not even:
        return "utf-16-le"
    if even > len(head[:2000]) // 4 and not odd:
        return "utf-16-be"
    return "utf-8" if _is_text(head) else None


def _is_text(head: bytes) -> bool:
    return not set(head[:4096]) & {*range(9), *range(14, 27), *range(28, 32), 127}


def _text(head: bytes, encoding: str, *, whole: bool) -> str | None:
    """Return the head as text, without a character that was cut in two; a wrong byte stays wrong, and reading the file
    says so."""
    try:
        return head.decode(encoding)
    except UnicodeDecodeError as error:
        if whole or error.start < len(head) - 4:
            return head.decode("latin-1") if encoding == "utf-8" else None
        return head[: error.start].decode(encoding)


def _shape_of_text(text: str, encoding: str, uri: str, *, wanted: bool, whole: bool) -> Shape | None:
    start = text.lstrip("\ufeff \t\r\n")
    if start.startswith("version https://git-lfs"):
        return _none(wanted, f"{printable(uri)} is a pointer of Git LFS, not the list: run `git lfs pull`")
    if start.startswith("<"):
        return _none(wanted, refusal(uri, "is no list of objects: it is HTML or XML, an error page perhaps"))
    if start.startswith(("{", "[")) and (found := _shape_of_json(start, encoding, uri, wanted=wanted)):
        return found
    lines = [line for line in re.split(r"\r\n|\r|\n", start) if line.strip()]
    if not whole and len(lines) > 1:
        lines.pop()
    return _shape_of_lines(lines[:_LOOKED_AT], encoding, uri, wanted=wanted)


def _shape_of_json(text: str, encoding: str, uri: str, *, wanted: bool) -> Shape | None:
    if text.startswith("["):
        inner = text[1:].lstrip()
        if inner.startswith(("{", '"')) or re.match(r"\]\s*$", inner):
            return Shape("json", encoding=encoding)
        return _none(wanted, refusal(uri, f"is a JSON array of neither objects nor texts: {inner[:60]!r}"))
    first = re.split(r"[\r\n]", text, maxsplit=1)[0]
    try:
        row = json.loads(first)
    except (ValueError, RecursionError):
        row = None
    lines = Shape("json lines", encoding=encoding)
    if isinstance(row, dict) and (len(first) < len(text.rstrip()) or not _is_wrapper(row)):
        return lines if names_in(row) or wanted else None
    if all(f'"{key}"' in text for key in _INVENTORY[:3]):
        return Shape("inventory", encoding=encoding)
    if re.match(r'\{\s*"[^"]*"\s*:\s*\[\s*[{"]', text):
        return Shape("json", encoding=encoding)
    if wanted and uri.lower().endswith(".json"):
        keys = ", ".join(re.findall(r'"([^"\\]{1,40})"\s*:', text)[:8]) or "none"
        raise SourceError(refusal(uri, f"is JSON of another kind, with the keys {keys}"))
    return lines if wanted else None


def _is_wrapper(row: dict[str, Any]) -> bool:
    """Return whether an object is the whole file, and its rows are in it."""
    return all(key in row for key in _INVENTORY) or (
        not names_in(row) and any(isinstance(value, list) for value in row.values())
    )


def _shape_of_lines(lines: list[str], encoding: str, uri: str, *, wanted: bool) -> Shape | None:
    if not lines:
        return Shape("empty") if wanted else None
    header = lines[0].lstrip("\ufeff")
    for delimiter in _DELIMITERS:
        if delimiter in header and names_in(_cells(header, delimiter)):
            return Shape("delimited", None, encoding, delimiter, spaced=f"{delimiter} " in header)
    if names_in([header.strip().strip('"')]):
        return Shape("delimited", encoding=encoding, delimiter=",")
    if all(map(_is_place, lines)) and (wanted or len(lines) > 1 or _is_absolute(lines[0])):
        _refuse_without_header(lines, uri)
        return Shape("lines", encoding=encoding)
    columns = next((_cells(header, d) for d in _DELIMITERS if d in header), [header.strip()])
    shown = ", ".join(printable(name)[:60] for name in columns[:12])
    following = f"; its next line is {printable(lines[1])[:120]!r}" if len(lines) > 1 else ""
    return _none(wanted, refusal(uri, f"has no column that names objects: its columns are {shown}{following}"))


def _refuse_without_header(lines: list[str], uri: str) -> None:
    """Refuse a table without a line of names: nothing tells which cells belong to the URI."""
    for delimiter in _DELIMITERS:
        counts = {line.count(delimiter) for line in lines}
        table = uri.lower().rsplit("/", 1)[-1].split(".")
        if len(counts) == 1 and counts != {0} and {"csv", "tsv", "tab", "psv"} & set(table):
            raise SourceError(refusal(uri, f"has several cells a line and no line of column names: {lines[0][:120]!r}"))


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:
        return []


def _is_absolute(line: str) -> bool:
    """Return whether a text of one line can be a list under any name: one relative name may be anything."""
    return "://" in line or line.strip().strip('"').startswith("/")


def _is_place(line: str) -> bool:
    line = line.strip().strip('"')
    if _PLACE.match(line) or _NAMED_IMAGE.search(line):
        return True
    folder, _, name = line.partition("/")
    return bool(folder and _ENDING.search(name)) and not _SPACE.search(line)


# Rows


def rows_in(file: IO[bytes], shape: Shape, columns: Columns) -> Iterator[Row]:
    """Yield the rows of a list, a file at its start, as they were written, under the names that `columns` gives them;
    an empty row for a line that is no JSON object. Raises SourceError where no column names objects, or several do;
    READING_ERRORS where the file is damaged."""
    if shape.format == "empty":
        return
    if shape.format in ("parquet", "orc", "arrow"):
        with _seekable(file, shape.compression) as table:
            for batch in _batches(table, shape.format, columns):
                for cells in zip(*map(_values, batch.columns), strict=True):
                    yield dict(zip(batch.schema.names, cells, strict=True))
        return
    text = io.TextIOWrapper(unpacked(file, shape.compression), encoding=shape.encoding, newline="")
    try:
        yield from _text_rows(text, shape, columns)
    finally:
        text.detach()


def _text_rows(text: io.TextIOWrapper, shape: Shape, columns: Columns) -> Iterator[Row]:
    if shape.format == "delimited":
        cells = csv.reader(_lines(text), delimiter=shape.delimiter, skipinitialspace=shape.spaced)
        header = next((row for row in cells if any(map(str.strip, row))), [])
        names = columns.chosen([name.strip().lstrip("\ufeff") for name in header])
        for row in cells:
            if any(row):
                yield {name: row[i] or None for i, name in names.items() if i < len(row)}
    elif shape.format == "lines":
        for line in _lines(text):
            if found := line.rstrip("\r\n").removeprefix("\ufeff"):
                yield {"uri": found[1:-1] if found[:1] == found[-1:] == '"' and len(found) > 1 else found}
    elif shape.format == "json":
        for element in _elements(text):
            yield columns.renamed(element)
    else:
        for line in _lines(text):
            if line.strip("\ufeff \t\r\n"):
                yield columns.renamed(_object(line.lstrip("\ufeff")))


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    """Yield lines with their ends. Raises csv.Error for one that is longer than any row can be; it is never in memory
    whole."""
    while line := text.readline(_MOST_CHARACTERS):
        if len(line) >= _MOST_CHARACTERS:
            raise csv.Error(f"a line has more than {_MOST_CHARACTERS:,} characters")
        yield line


def _object(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _elements(text: io.TextIOWrapper) -> Iterator[Any]:
    """Yield the elements of a JSON array, one at a time; of an object that holds arrays, those of its first."""
    decoder, held, ended = json.JSONDecoder(), text.read(HEAD_BYTES), False
    held = held[held.index("[") + 1 :]
    while True:
        held = held.lstrip(" \t\r\n,")
        if held.startswith("]"):
            return
        try:
            element, end = decoder.raw_decode(held) if held else (None, 0)
        except (ValueError, RecursionError):
            end = 0
        if end:
            yield element
            held = held[end:]
            continue
        if ended or len(held) > _MOST_CHARACTERS:
            raise csv.Error(f"the JSON array breaks off, or is no JSON, at {held[:60]!r}")
        more = text.read(max(HEAD_BYTES, len(held)))
        ended = not more
        held += more


@contextmanager
def _seekable(file: IO[bytes], compression: str | None) -> Iterator[IO[bytes]]:
    """Yield a file that can be read here and there: a table of columns that is compressed as a whole is unpacked to
    disk."""
    if compression is None:
        yield file
        return
    with tempfile.TemporaryFile(prefix="nsfwscan-list-") as scratch:
        shutil.copyfileobj(unpacked(file, compression), scratch)
        scratch.seek(0)
        yield scratch


def _batches(file: IO[bytes], kind: Format, columns: Columns) -> Iterator[pa.RecordBatch]:
    """Yield batches of the chosen columns, under their new names. Raises pa.ArrowInvalid for a damaged file."""
    try:
        yield from _read_batches(file, kind, columns)
    except OSError as error:
        if error.errno is not None:  # of the disk or the store that the file lies on
            raise
        raise pa.ArrowInvalid(str(error)) from error  # so Arrow calls some damage


def _read_batches(file: IO[bytes], kind: Format, columns: Columns) -> Iterator[pa.RecordBatch]:
    if kind == "parquet":
        parquet = pq.ParquetFile(file)
        names = columns.chosen(parquet.schema_arrow.names)
        wanted = [parquet.schema_arrow.names[i] for i in names]
        batches: Iterator[pa.RecordBatch] = parquet.iter_batches(batch_size=4096, columns=wanted)
    elif kind == "orc":
        stripes = orc.ORCFile(file)
        names = columns.chosen(stripes.schema.names)
        wanted = [stripes.schema.names[i] for i in names]
        batches = (_sound(stripes.read_stripe(number, columns=wanted)) for number in range(stripes.nstripes))
    else:
        table = pa.ipc.open_file(file)
        names = columns.chosen(table.schema.names)
        wanted = [table.schema.names[i] for i in names]
        batches = (_sound(table.get_batch(number)).select(wanted) for number in range(table.num_record_batches))
    renames = dict(zip(wanted, names.values(), strict=True))
    for batch in batches:
        for start in range(0, batch.num_rows, 4096):
            piece = batch.slice(start, 4096)
            yield piece.rename_columns([renames[name] for name in piece.schema.names])


def _sound(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the batch, whose offsets lie within its data: these readers take them from the file as they are. Raises
    pa.ArrowInvalid."""
    batch.validate(full=True)
    return batch


_EACH_S = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def _values(column: pa.Array) -> Sequence[Any]:
    if not pa.types.is_timestamp(column.type):
        found: list[Any] = column.to_pylist()
        return found
    each, ticks = _EACH_S[column.type.unit], column.cast(pa.int64()).to_pylist()
    return [None if tick is None else _moment(tick, each) for tick in ticks]


def _moment(tick: int, each: int) -> datetime | str:
    """Return ticks since 1970 as a time (UTC); as text, where Python's calendar has no such year."""
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=tick * 1_000_000 // each)
    except OverflowError:
        return f"{tick // each:,} s from 1970"
