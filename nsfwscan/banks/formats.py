"""What hash banks are written in: tables, exports of ThreatExchange and HMA, plain lists.

In: a bank's file. Out: `Lines`, some entries at a time, as they were written: which hash it is said to be, the hash,
its id, its tags, the line that it stands in. What a line says is checked later, by `bank.py`; here only a file of which
nothing can be made (no column of hashes, no Parquet) is a `BankError`.

- CSV and Parquet: a column for each kind (`sha256`, `md5`, `pdq`), or one of hashes (`hash`, `indicator`, `signal_str`
  …) beside one of their types; `id` and `tags` where there are some. A CSV may be without a header: its first column is
  then the hash.
- JSON and JSON lines: objects with such keys, in a list or under `data`, as ThreatExchange's API returns them
  (`type: HASH_PDQ, indicator: …`); or with `signals: {pdq: …, md5: …}`, as HMA writes an entry.
- Any other name: a hash a line, alone, after its type (`pdq f8f8…`), or before a name (what `sha256sum` prints).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from nsfwscan.display import printable
from nsfwscan.errors import BankError

DIGITS = {"sha256": 64, "md5": 32, "pdq": 64}
"""Kinds of hashes that objects are matched by, and their hex digits; what identifies the bytes comes first."""
_NAMES = {
    **{name: name for name in DIGITS},
    **{f"hash_{name}": name for name in DIGITS},
    **{f"{name}_hash": name for name in DIGITS},
    "sha-256": "sha256",
    "photo_md5": "md5",
    "image_md5": "md5",
}
_VALUES = ("hash", "indicator", "raw_indicator", "signal_str", "signal_value", "signal", "hash_value", "value")
_TYPES = ("type", "signal_type", "hash_type", "indicator_type", "algorithm")
_IDS = ("id", "indicator_id", "content_id", "entry_id")
_TAGS = ("tags",)
_ROWS = 65_536
_HEX = frozenset("0123456789abcdefABCDEF")

Text = str | None


@dataclass(frozen=True)
class Lines:
    """Some entries as they were written, column by column.

    Attributes:
        hashes: None where there is nothing.
        kinds: one of `DIGITS`, what else the file calls it, or None where it does not say.
        ids: None where there is none.
        tags: None where the file has none.
        numbers: of their lines, or rows, from 1.
    """

    hashes: Sequence[Text]
    kinds: Sequence[Text]
    ids: Sequence[Text]
    tags: Sequence[tuple[str, ...]] | None
    numbers: Sequence[int]


def kind_of(name: Text) -> Text:
    """One of `DIGITS` for the name that a bank gives it, whatever its case; any other name as it is, None for none."""
    if name is None or not name.strip():
        return None
    return _NAMES.get(name.strip().lower(), name.strip())


def lines_of(file: IO[bytes], uri: str, column: str | None = None) -> Iterator[Lines]:
    """The entries of a bank's file, by its name; see the top of this module.

    Args:
        column: the one that holds the hashes; unset: by the usual names.

    Raises:
        BankError: nothing can be made of the file.
    """
    suffix = PurePosixPath(uri.lower()).suffix
    try:
        if suffix == ".parquet":
            yield from _parquet(file, uri, column)
        elif suffix == ".csv":
            yield from _csv(file, uri, column)
        elif suffix == ".json":
            yield from _objects(enumerate(_listed(json.load(file), uri), start=1), column)
        elif suffix in (".jsonl", ".ndjson"):
            yield from _objects(_json_lines(file), column)
        else:
            yield from _plain(file)
    except (pa.ArrowException, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BankError(f"{uri} is no {suffix.removeprefix('.')} file: {str(error).splitlines()[0]}") from None


@dataclass(frozen=True)
class _Columns:
    """Where a table keeps what: places of its columns."""

    wide: tuple[tuple[str, int], ...]
    """Columns that hold one kind of hash each."""
    value: int | None
    type: int | None
    id: int | None
    tags: int | None

    @classmethod
    def named(cls, names: Sequence[str], column: str | None) -> _Columns | None:
        """None where none of the names is that of hashes."""
        plain = [name.strip().lower() for name in names]

        def place(known: Iterable[str]) -> int | None:
            return next((plain.index(name) for name in known if name in plain), None)

        value = place([column.lower()] if column else _VALUES)
        wide = () if column else tuple((_NAMES[name], i) for i, name in enumerate(plain) if name in _NAMES)
        if value is None and not wide:
            return None
        return cls(wide, None if wide else value, place(_TYPES), place(_IDS), place(_TAGS))

    def lines(self, columns: Sequence[Sequence[Any]], numbers: Sequence[int]) -> Iterator[Lines]:
        """The entries of some rows, given column by column."""
        none: list[Text] = [None] * len(numbers)
        ids = none if self.id is None else list(map(_text, columns[self.id]))
        tags = None if self.tags is None else list(map(_tags, columns[self.tags]))
        if self.value is not None:
            kinds = none if self.type is None else [kind_of(_text(name)) for name in columns[self.type]]
            yield Lines(list(map(_text, columns[self.value])), kinds, ids, tags, numbers)
        for kind, place in self.wide:  # an entry need not have every kind
            there = [i for i, value in enumerate(columns[place]) if _text(value) is not None]
            some_tags = None if tags is None else [tags[i] for i in there]
            values, places = [_text(columns[place][i]) for i in there], [numbers[i] for i in there]
            yield Lines(values, [kind] * len(there), [ids[i] for i in there], some_tags, places)


def _text(value: Any) -> Text:
    """A cell as text; None for nothing. Bytes are hashes that were not written in hex."""
    if value is None or value == "":
        return None
    return value.hex() if isinstance(value, bytes) else str(value)


def _tags(value: Any) -> tuple[str, ...]:
    """Tags as they are written: words in a text, a list of them, or of objects that have a `text` or a `name`."""
    if isinstance(value, Mapping):
        value = value.get("data") or []
    if isinstance(value, str):
        return tuple(value.replace(",", " ").replace(";", " ").split())
    named = [tag.get("text") or tag.get("name") if isinstance(tag, Mapping) else tag for tag in value or ()]
    return tuple(str(tag) for tag in named if tag)


def _no_hashes(uri: str, names: Iterable[Any], column: str | None) -> BankError:
    wanted = f"no column {column!r}" if column else "no column of hashes (sha256, md5, pdq, hash, indicator, …)"
    there = ", ".join(printable(str(name)) for name in islice(names, 20))
    return BankError(f"{uri}: {wanted}; there are: {there or 'none'}. column=NAME says which it is")


def _parquet(file: IO[bytes], uri: str, column: str | None) -> Iterator[Lines]:
    parquet = pq.ParquetFile(file)
    names = parquet.schema_arrow.names
    places = _Columns.named(names, column)
    if places is None:
        raise _no_hashes(uri, names, column)
    number = 1
    for batch in parquet.iter_batches(_ROWS, use_threads=False):
        columns = [array.to_pylist() for array in batch.columns]
        yield from places.lines(columns, range(number, number + batch.num_rows))
        number += batch.num_rows


def _csv(file: IO[bytes], uri: str, column: str | None) -> Iterator[Lines]:
    rows = _csv_rows(io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline=""))
    number, head = next(rows, (0, []))
    places = _Columns.named(head, column)
    if places is None and head and not column and _looks_like_a_hash(head[0].strip()):
        places, rows = _Columns((), 0, None, None, None), _before((number, head), rows)
    if places is None:
        raise _no_hashes(uri, head, column)
    wanted = [places.value, places.type, places.id, places.tags, *(i for _, i in places.wide)]
    width = max(i for i in wanted if i is not None)
    while some := list(islice(rows, _ROWS)):
        columns = [[row[i] if i < len(row) else None for _, row in some] for i in range(width + 1)]
        yield from places.lines(columns, [number for number, _ in some])


def _csv_rows(text: io.TextIOWrapper) -> Iterator[tuple[int, list[str]]]:
    """Rows with the numbers of their lines; empty ones are left out, one that is no CSV has nothing in it."""
    reader = csv.reader(text)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            row = [""]
        if row:
            yield reader.line_num, row


def _before(first: tuple[int, list[str]], rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    yield first
    yield from rows


def _looks_like_a_hash(text: str) -> bool:
    return len(text) in DIGITS.values() and set(text) <= _HEX


def _listed(loaded: Any, uri: str) -> list[Any]:
    """The entries of a JSON file: the list that it is, or the one under the key that has one."""
    if isinstance(loaded, dict):
        loaded = next((value for value in loaded.values() if isinstance(value, list)), None)
    if not isinstance(loaded, list):
        raise BankError(f"{uri}: neither a list of entries nor an object with one")
    return loaded


def _json_lines(file: IO[bytes]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError:
                yield number, None


def _objects(objects: Iterator[tuple[int, Any]], column: str | None) -> Iterator[Lines]:
    while some := list(islice(objects, _ROWS)):
        entries = [
            (*entry, _text(_first(found, _IDS)), _tags(_first(found, _TAGS)), number)
            for number, found in some
            for entry in _hashes_of(found, column)
        ]
        if entries:
            hashes, kinds, ids, tags, numbers = zip(*entries, strict=True)
            yield Lines(hashes, kinds, ids, tags, numbers)


def _hashes_of(found: Any, column: str | None) -> list[tuple[Text, Text]]:
    """Hash and kind of all hashes of one object; one that has none is an entry without a hash."""
    if isinstance(found, str):
        return [(found, None)]
    if not isinstance(found, dict):
        return [(None, None)]
    if column:
        return [(_text(found.get(column)), kind_of(_text(_first(found, _TYPES))))]
    signals = found.get("signals")
    named = signals if isinstance(signals, dict) else {k: v for k, v in found.items() if k.lower() in _NAMES}
    if named:
        return [(_text(value), kind_of(name)) for name, value in named.items() if value]
    return [(_text(_first(found, _VALUES)), kind_of(_text(_first(found, _TYPES))))]


def _first(found: Any, names: Iterable[str]) -> Any:
    if not isinstance(found, dict):
        return None
    return next((found[name] for name in names if found.get(name) is not None), None)


def _plain(file: IO[bytes]) -> Iterator[Lines]:
    """A hash a line; `#` begins a comment."""
    texts = ((n, line.decode("utf-8-sig" if n == 1 else "utf-8", "replace").strip()) for n, line in enumerate(file, 1))
    wanted = ((number, text) for number, text in texts if text and not text.startswith("#"))
    while some := list(islice(wanted, _ROWS)):
        parts = [text.split(None, 1) for _, text in some]
        entries = [(*_typed(part), number) for part, (number, _) in zip(parts, some, strict=True)]
        hashes, kinds, ids, numbers = zip(*entries, strict=True)
        yield Lines(hashes, kinds, ids, None, numbers)


def _typed(part: list[str]) -> tuple[Text, Text, Text]:
    """Hash, kind and id of a line's words."""
    first, rest = part[0], part[1] if len(part) > 1 else None
    if rest is not None and not _looks_like_a_hash(first):
        return rest, kind_of(first), None
    return first, None, rest.lstrip("*") if rest else None
