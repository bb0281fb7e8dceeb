"""Read the files of hash banks, known by their content and not their name, compressed or not.

Yields `Lines`: some entries at a time, as they were written; `bank.py` checks them. A file of which nothing can be made
(no column of hashes, a workbook) raises `BankError`.

- Tables (CSV with any delimiter, Parquet, Arrow): a column for each kind (`sha256`, `md5`, `pdq`), or one of hashes
  (`hash`, `indicator`, `signal_str` …) beside one of their types; `id`, `tags`, `quality`, `category` or `status` where
  there are some. Without a header the columns that hold hashes are those of the hashes.
- JSON, JSON lines and XML: objects with such keys wherever they lie, as ThreatExchange's API returns them
  (`type: HASH_PDQ, indicator: …`), as HMA writes them (`signals: {pdq: …, md5: …}`), as VICS has them (`MD5`, `SHA1`,
  `Category`); see `entries.py`.
- Text: a hash a line, alone, after its type (`pdq f8f8…`, `MD5 (name) = …`), or before a name (as `sha256sum` prints).
"""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import IO, Any
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq

from nsfwscan.banks import entries as keys
from nsfwscan.banks.entries import about, entries_of, hashes_of, is_entry, tags_of
from nsfwscan.banks.hashes import BY_DIGITS, DIGITS, Text, bare, is_hash, kind_of, named_kind, plain_hex, text_of
from nsfwscan.errors import BankError
from nsfwscan.storage.tables import READING_ERRORS, compression_of, encoding_of, unpacked
from nsfwscan.text import printable

_ROWS = 65_536
_HEAD = 64 * 2**10
_SAMPLE = 100
_DELIMITERS = ",;\t|"
_MOST_TIMES, _MOST_BYTES = 1000, 2**30
"""A file that unpacks to more than so many times its size, and more than so many bytes, is refused."""
_REFUSED = (
    (b"SQLite format 3\x00", "an SQLite database: write its table of hashes as CSV"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook: save it as CSV"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it"),
    (b"Rar!\x1a\x07", "a RAR archive: unpack it"),
    (b"ORC", "an ORC file: write it as Parquet"),
    (b"Obj\x01", "an Avro file: write it as Parquet"),
)
_COMMENT = re.compile(r"\s*(#|%%%%|//)")


@dataclass(frozen=True)
class Lines:
    """Some entries as they were written, column by column.

    Attributes:
        hashes: None where an entry has none.
        kinds: one of `DIGITS`, another name that the file gives, or None where it gives none.
        ids: None where an entry has none.
        tags: None where the file has none.
        numbers: of their lines or rows, from 1.
        words: the category of each, as `key=value`; None where the file has none.
        qualities: of PDQ hashes, 0 to 100, as written; None where the file has none.
    """

    hashes: Sequence[Text]
    kinds: Sequence[Text]
    ids: Sequence[Text]
    tags: Sequence[tuple[str, ...]] | None
    numbers: Sequence[int]
    words: Sequence[tuple[str, ...]] | None = None
    qualities: Sequence[Text] | None = None


def lines_of(file: IO[bytes], uri: str, column: str | None = None) -> Iterator[Lines]:
    """Yield the entries of a bank's file. Raises BankError where nothing can be made of the file.

    Args:
        file: seekable, at its start.
        uri: for messages only.
        column: the column that holds the hashes; unset: by the usual names.
    """
    with _plain_file(file, uri) as plain:
        head = plain.read(_HEAD)
        plain.seek(0)
        for magic, what in _REFUSED:
            if head.startswith(magic):
                raise BankError(f"{uri} is {what}")
        try:
            if head.startswith(b"PAR1"):
                yield from _batches(pq.ParquetFile(plain).iter_batches(_ROWS, use_threads=False), uri, column)
            elif head.startswith(b"ARROW1"):
                table = pa.ipc.open_file(plain)
                yield from _batches(map(table.get_batch, range(table.num_record_batches)), uri, column)
            else:
                yield from _text(plain, head, uri, column)
        except pa.ArrowException as error:
            kind = "parquet" if head.startswith(b"PAR1") else "arrow"
            raise BankError(f"{uri} is no {kind} file: {str(error).splitlines()[0]}") from None


@contextmanager
def _plain_file(file: IO[bytes], uri: str) -> Iterator[IO[bytes]]:
    """Yield the file, unpacked to disk where it is compressed. Raises BankError where that fails."""
    head = file.read(_HEAD)
    packed = file.seek(0, io.SEEK_END)
    file.seek(0)
    compression, is_zip = compression_of(head), head.startswith((b"PK\x03\x04", b"PK\x05\x06"))
    if compression is None and not is_zip:
        yield file
        return
    with tempfile.TemporaryFile(prefix="nsfwscan-bank-") as plain:
        try:
            source = _only_member(file, uri) if is_zip else unpacked(file, compression)
            while block := source.read(2**20):
                plain.write(block)
                if plain.tell() > max(_MOST_BYTES, _MOST_TIMES * packed):
                    raise BankError(f"{uri} unpacks to more than {plain.tell():,} bytes: it is no bank")
        except (*READING_ERRORS, OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise BankError(f"{uri} is no {'zip' if is_zip else compression} file: {error}") from None
        plain.seek(0)
        with _plain_file(plain, uri) as inner:  # archives within archives end at the limit of size
            yield inner


def _only_member(file: IO[bytes], uri: str) -> IO[bytes]:
    archive = zipfile.ZipFile(file)
    names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
    if "[Content_Types].xml" in names:
        raise BankError(f"{uri} is an Excel workbook: save it as CSV")
    if len(names) != 1:
        shown = ", ".join(printable(name) for name in names[:5])
        raise BankError(f"{uri} is a zip archive of {len(names):,} files ({shown}): unpack it, and give each as a bank")
    return archive.open(names[0])


def _text(file: IO[bytes], head: bytes, uri: str, column: str | None) -> Iterator[Lines]:
    encoding = encoding_of(head)
    if encoding is None and b"\0" in head:
        raise BankError(f"{uri} is neither text nor a table that is read: it begins with {head[:8].hex(' ')}")
    encoding = "utf-8-sig" if encoding in (None, "utf-8") else str(encoding)
    text = io.TextIOWrapper(file, encoding=encoding, errors="replace", newline=None)
    try:
        start = text.read(_HEAD).lstrip("\ufeff \t\r\n")
        text.seek(0)
        if start.startswith("version https://git-lfs"):
            raise BankError(f"{uri} is a pointer of Git LFS, not the bank: run `git lfs pull`")
        if start.startswith("<"):
            yield from _objects(enumerate(_of_xml(text, start, uri), 1), column)
        elif start.startswith(("{", "[")) and not _JSON_LINE.match(start):
            yield from _objects(_json(text, start, uri), column)
        else:
            yield from _table_or_list(text, uri, column)
    finally:
        text.detach()


_JSON_LINE = re.compile(r"\[[^\]\"{\[]*[^\]\"{\[\s\d.,][^\n]*\n[^\n]*[0-9a-f]{32}")
"""`[INFO] exported …`: a line of a log above a list."""


def _json(text: IO[str], start: str, uri: str) -> Iterator[tuple[int, Any]]:
    """Yield the entries of JSON, or of JSON lines, where the first of several lines is JSON by itself."""
    first, _, rest = start.partition("\n")
    if rest.strip() and _is_json(first):
        return _json_lines(text)
    try:
        return enumerate(entries_of(json.load(text), uri), start=1)
    except RecursionError:
        raise BankError(f"{uri} is no json file: it is nested too deeply") from None
    except ValueError as error:
        raise BankError(f"{uri} is no json file: {error}") from None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json_lines(text: IO[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text, start=1):
        if line.strip():
            try:
                found = json.loads(line.lstrip("\ufeff"))
                inner = entries_of(found, "") if isinstance(found, dict) and not is_entry(found) else [found]
                yield from ((number, one) for one in inner)
            except (ValueError, RecursionError, BankError):
                yield number, None


def _of_xml(text: IO[str], start: str, uri: str) -> list[Any]:
    """Return the entries of XML, with elements as objects. Raises BankError for HTML."""
    if re.match(r"<(!doctype\s+html|html)", start, re.IGNORECASE):
        raise BankError(f"{uri} is a page of HTML, an error page perhaps, and no bank")
    try:
        root = ElementTree.fromstring(text.read())
        return entries_of(_as_object(root), uri)
    except ElementTree.ParseError as error:
        raise BankError(f"{uri} is no xml file: {error}") from None
    except RecursionError:
        raise BankError(f"{uri} is no xml file: it is nested too deeply") from None


def _as_object(element: ElementTree.Element) -> Any:
    """Return an element as a JSON value: attributes and children by name, lists of repeated ones; else its text."""
    children = [(child.tag.rpartition("}")[2], _as_object(child)) for child in element]
    named = [(name.rpartition("}")[2], value) for name, value in element.attrib.items()]
    words = (element.text or "").strip()
    if not children and not named:
        return words
    found: dict[str, Any] = {}
    for name, value in [*named, *children, *([("value", words)] if words else [])]:
        if name not in found:
            found[name] = value
        elif isinstance(found[name], list):
            found[name].append(value)
        else:
            found[name] = [found[name], value]
    return found


def _objects(objects: Iterator[tuple[int, Any]], column: str | None) -> Iterator[Lines]:
    while some := list(islice(objects, _ROWS)):
        rows = [(*entry, *about(found), number) for number, found in some for entry in hashes_of(found, column)]
        if rows:
            hashes, kinds, ids, tags, words, qualities, numbers = zip(*rows, strict=True)
            yield Lines(hashes, kinds, ids, tags, numbers, words, qualities)


@dataclass(frozen=True)
class _Columns:
    """Positions of a table's columns."""

    wide: tuple[tuple[str, int], ...]
    """Columns that hold one kind of hash each, unused kinds included."""
    value: int | None
    type: int | None
    id: int | None
    tags: int | None
    quality: int | None = None
    words: tuple[tuple[str, int], ...] = ()

    @classmethod
    def named(cls, names: Sequence[str], column: str | None) -> _Columns | None:
        """Find the columns by their names; None where no name is that of hashes."""
        plain = [bare(name) for name in names]

        def place(known: Iterable[str]) -> int | None:
            return next((plain.index(name) for name in known if name in plain), None)

        value: int | None
        wide: tuple[tuple[str, int], ...] = ()
        if column:
            given = [i for i, name in enumerate(names) if name.strip().lower() == column.lower()]
            value = given[0] if given else None
        else:
            value = place(keys.VALUES)
            wide = tuple((kind, i) for i, name in enumerate(names) if (kind := named_kind(name)))
        if value is None and not wide:
            return None
        words = tuple((name, i) for i, name in enumerate(plain) if name in (*keys.WORDS, *keys.SWITCHES))
        type_, id_, tags, quality = map(place, (keys.TYPES, keys.IDS, keys.TAGS, keys.QUALITIES))
        return cls(wide, None if wide else value, type_, id_, tags, quality, words)

    @property
    def width(self) -> int:
        """Number of the first columns that are needed."""
        known = (self.value, self.type, self.id, self.tags, self.quality, *(i for _, i in (*self.wide, *self.words)))
        return max(i for i in known if i is not None) + 1

    def lines(self, columns: Sequence[Sequence[Any]], numbers: Sequence[int]) -> Iterator[Lines]:
        """Yield the entries of some rows, given column by column."""
        none: list[Text] = [None] * len(numbers)
        ids = none if self.id is None else list(map(text_of, columns[self.id]))
        tags = None if self.tags is None else list(map(tags_of, columns[self.tags]))
        qualities = None if self.quality is None else list(map(text_of, columns[self.quality]))
        words = self._words(columns, len(numbers))
        if self.value is not None:
            kinds = none if self.type is None else [kind_of(text_of(name)) for name in columns[self.type]]
            yield Lines(list(map(text_of, columns[self.value])), kinds, ids, tags, numbers, words, qualities)
            return
        cells = [(kind, list(map(text_of, columns[place]))) for kind, place in self.wide]
        used = [any(text[i] is not None for kind, text in cells if kind in DIGITS) for i in range(len(numbers))]
        for kind, texts in cells:  # an entry need not have every kind
            for wanted in (True, False):
                there = [i for i, text in enumerate(texts) if text is not None and used[i] == wanted]
                if there:
                    reason = "beside a hash that is used" if wanted else "alone"
                    said = kind if kind in DIGITS else f"{kind} {reason}"
                    yield _picked(Lines(texts, [said] * len(texts), ids, tags, numbers, words, qualities), there)
        empty = [i for i in range(len(numbers)) if all(text[i] is None for _, text in cells)]
        if empty:
            yield _picked(
                Lines(none, ["entry without a hash"] * len(none), ids, tags, numbers, words, qualities), empty
            )

    def _words(self, columns: Sequence[Sequence[Any]], rows: int) -> list[tuple[str, ...]] | None:
        if not self.words:
            return None
        texts = [(name, list(map(text_of, columns[place]))) for name, place in self.words]
        return [tuple(f"{name}={text[i]}" for name, text in texts if text[i] is not None) for i in range(rows)]


def _picked(lines: Lines, places: list[int]) -> Lines:
    columns: dict[str, Any] = vars(lines)
    return Lines(**{name: values and [values[i] for i in places] for name, values in columns.items()})


def _no_hashes(uri: str, names: Iterable[Any], column: str | None) -> BankError:
    wanted = f"no column {column!r}" if column else "no column of hashes (sha256, md5, pdq, hash, indicator, …)"
    there = ", ".join(printable(str(name)) for name in islice(names, 20))
    return BankError(f"{uri}: {wanted}; there are: {there or 'none'}. column=NAME says which it is")


def _batches(batches: Iterator[pa.RecordBatch], uri: str, column: str | None) -> Iterator[Lines]:
    number, places = 1, None
    for batch in batches:
        places = places or _Columns.named(batch.schema.names, column)
        if places is None:
            raise _no_hashes(uri, batch.schema.names, column)
        yield from places.lines([array.to_pylist() for array in batch.columns], range(number, number + batch.num_rows))
        number += batch.num_rows


# Tables as text, and lists


def _table_or_list(text: IO[str], uri: str, column: str | None) -> Iterator[Lines]:
    """Read a table, if it has a header with known names, or cells hold hashes and lines do not; else a list."""
    numbered = enumerate((line.rstrip("\n") for line in text), start=1)
    sample = list(islice(numbered, _SAMPLE))
    lines = chain(sample, numbered)
    delimiter, header, places = _header(sample, column)
    if places is not None:
        yield from _rows(lines, delimiter, header, places)
        return
    shown = [line for _, line in sample if line.strip() and not _COMMENT.match(line)]
    if column and shown:
        raise _no_hashes(uri, _cells(shown[0], delimiter), column)
    in_lines = sum(_typed(line)[0] is not None and is_hash(str(_typed(line)[0])) for line in shown)
    best = max(_DELIMITERS, key=lambda d: sum(_hash_places(line, d) != () for line in shown))
    in_cells = sum(_hash_places(line, best) != () for line in shown)
    if in_cells > in_lines:
        yield from _rows(lines, best, 0, _places_without_header(shown, best))
        return
    counts = [len(_cells(line, best)) for line in shown[:2]]
    if not in_lines and shown and counts[0] > 1 and len(set(counts)) == 1:
        raise _no_hashes(uri, _cells(shown[0], best), None)
    yield from _list(lines)


def _header(sample: Sequence[tuple[int, str]], column: str | None) -> tuple[str, int, _Columns | None]:
    """Return the header's delimiter, line number and columns; the header may be a comment."""
    for number, line in sample[:20]:
        names = re.sub(r"^\s*(#|%)+\s*", "", line)
        for delimiter in _DELIMITERS:
            cells = _cells(names, delimiter)
            if any(is_hash(cell) for cell in cells) or (len(cells) < 2 and (number > 1 or names != line)):
                continue
            if len(cells) == 1 and delimiter != ",":
                continue
            places = _Columns.named(cells, column)
            if places is not None and all(len(cell) < 60 for cell in cells):
                return delimiter, number, places
    return ",", 0, None


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _hash_places(line: str, delimiter: str) -> tuple[int, ...]:
    cells = _cells(line, delimiter)
    return tuple(i for i, cell in enumerate(cells) if is_hash(cell)) if len(cells) > 1 else ()


def _places_without_header(shown: Sequence[str], delimiter: str) -> _Columns:
    """Find the columns of hashes in lines without a header; a number up to 100 beside a hash is a quality."""
    first = next(line for line in shown if _hash_places(line, delimiter))
    cells, places = _cells(first, delimiter), _hash_places(first, delimiter)
    if len(places) > 1:
        kinds = [(BY_DIGITS.get(len(plain_hex(cells[i])[1]), "sha256"), i) for i in places]
        return _Columns(tuple((kind, i) for kind, i in kinds if kind), None, None, None, None)
    following = places[0] + 1
    rows = [_cells(line, delimiter) for line in shown]
    scores = [row[following] for row in rows if len(row) > following]
    is_quality = bool(scores) and all(score.strip().isdecimal() and int(score) <= 100 for score in scores)
    return _Columns((), places[0], None, None, None, following if is_quality else None)


def _rows(lines: Iterator[tuple[int, str]], delimiter: str, header: int, places: _Columns) -> Iterator[Lines]:
    """Yield the rows below a header, without comments and empty lines."""
    below = ((number, line) for number, line in lines if number > header)
    rows = _csv_rows(((number, line) for number, line in below if line.strip()), delimiter)
    while some := list(islice(rows, _ROWS)):
        columns = [[row[i] if i < len(row) else None for _, row in some] for i in range(places.width)]
        yield from places.lines(columns, [number for number, _ in some])


def _csv_rows(lines: Iterator[tuple[int, str]], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield rows with the numbers of their last lines; a row that is not CSV is empty."""
    at = 0

    def texts() -> Iterator[str]:
        nonlocal at
        for number, line in lines:
            at = number
            if not _COMMENT.match(line):
                yield line + "\n"

    reader = csv.reader(texts(), delimiter=delimiter)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            row = [""]
        if any(cell.strip() for cell in row) or row == [""]:
            yield at, row


def _list(lines: Iterator[tuple[int, str]]) -> Iterator[Lines]:
    """Read one hash per line; `#` begins a comment."""
    wanted = ((number, line.strip()) for number, line in lines if line.strip() and not _COMMENT.match(line))
    while some := list(islice(wanted, _ROWS)):
        rows = [(*_typed(line), number) for number, line in some]
        hashes, kinds, ids, qualities, numbers = zip(*rows, strict=True)
        yield Lines(hashes, kinds, ids, None, numbers, None, qualities)


_BSD = re.compile(r"([A-Za-z][A-Za-z0-9-]{2,9}) \((.*)\) ?= ?([0-9A-Fa-f]{32,128})\s*\Z")
_PAIRS = re.compile(r"\s*\w+=[^,]*(,\s*\w+=[^,]*)+\s*\Z")


def _typed(line: str) -> tuple[Text, Text, Text, Text]:
    """Return hash, kind, id and quality of a line."""
    line = line.strip()
    if found := _BSD.match(line):
        return found[3], kind_of(found[1]), found[2], None
    if _PAIRS.match(line):
        pairs = {bare(k): v.strip() for k, v in (part.split("=", 1) for part in line.split(","))}
        value = next((pairs[name] for name in keys.VALUES if name in pairs), None)
        if value is not None:
            return value, None, pairs.get("filename"), pairs.get("quality")
    first, _, rest = line.partition(" ") if " " in line else line.partition("\t")
    rest = rest.strip()
    if rest and not is_hash(first):
        kind = kind_of(first)
        named = named_kind(first)
        return (rest, kind, None, None) if named or is_hash(rest) else (line, None, None, None)
    return first, None, rest.lstrip("*") or None, None
