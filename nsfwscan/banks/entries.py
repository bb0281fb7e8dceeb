"""Find bank entries in JSON and XML, and read an entry's hashes, id, tags and category from its keys.

Entries are recognised by what they hold, wherever they lie. A document with entries in several places, where it is not
clear which are meant, raises `BankError`, which names the places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nsfwscan.banks.hashes import DIGITS, OTHERS, Text, bare, is_hash, kind_of, named_kind, text_of
from nsfwscan.errors import BankError
from nsfwscan.text import printable

VALUES = (
    "hash", "indicator", "rawindicator", "signalstr", "signalvalue", "signal", "hashvalue", "value",
    "digest", "checksum",
)  # fmt: skip
TYPES = ("type", "signaltype", "hashtype", "indicatortype", "algorithm", "hashalgorithm")
IDS = ("id", "indicatorid", "contentid", "entryid", "mediaid", "uuid")
TAGS = ("tags",)
QUALITIES = ("quality", "pdqquality", "hashquality")
WORDS = ("category", "categoryid", "mediacategory", "status", "classification", "disposition", "verdict", "opinion")
"""Keys, as `bare` returns them, that hold an entry's category."""
SWITCHES = ("deleted", "isdeleted", "disabled", "enabled", "active")
_INSIDE = frozenset(
    ("signals", "hashes", "fingerprints", "fingerprint", "indicator", "hash", "content", "descriptor", "mediafiles",
     "mediafile", "signal")
)  # fmt: skip
"""Keys of an entry that hold further parts of it."""
_NEUTRAL = frozenset(
    ("data", "value", "values", "results", "result", "items", "item", "entries", "entry", "records", "record",
     "response", "event", "attribute", "attributes", "object", "objects", "hashes", "indicators", "media", "mediafiles",
     "cases", "case", "images", "image", "videos", "video", "feed", "content", "properties", "queryresponse", "")
)  # fmt: skip
"""Keys that say nothing about their content: entries under several of them form one list."""
_DEEPEST = 40
_DEEPEST_PART = 4


def entries_of(document: Any, uri: str) -> list[Any]:
    """Return the entries of a document. Raises BankError where it is not clear which are meant."""
    found: dict[str, list[Any]] = {}
    for path, entry in _walk(document, (), uri):
        found.setdefault(".".join(path), []).append(entry)
    if not found:
        if isinstance(document, list):
            return document
        names = [printable(str(key))[:40] for key in list(document)[:8]] if isinstance(document, dict) else []
        keys = f": it has {', '.join(names)}" if names else ""
        raise BankError(f"{uri}: neither a list of entries nor an object with one{keys}")
    if len(found) > 1 and not all(bare(key) in _NEUTRAL for path in found for key in path.split(".")):
        places = ", ".join(f"{printable(path) or 'the top'} ({len(entries):,})" for path, entries in found.items())
        raise BankError(
            f"{uri}: there are hashes in several places, and it is not said which are meant: {places}. Give the bank a "
            "file with only those"
        )
    return [entry for entries in found.values() for entry in entries]


def _walk(value: Any, path: tuple[str, ...], uri: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    if len(path) > _DEEPEST:
        raise BankError(f"{uri}: nested more than {_DEEPEST} deep")
    if isinstance(value, dict):
        if is_entry(value):
            yield path, value
            return
        for key, inner in value.items():
            kind = named_kind(str(key))
            if kind and isinstance(inner, list) and all(isinstance(one, str) for one in inner):
                yield from (((*path, ""), {key: one}) for one in inner)
            elif isinstance(inner, dict | list):
                yield from _walk(inner, (*path, str(key)), uri)
    elif isinstance(value, list):
        texts = any(isinstance(one, str) and is_hash(one) for one in value)
        if texts or any(isinstance(one, dict) and is_entry(one) for one in value):
            yield from ((path, one) for one in value)
            return
        for inner in value:
            if isinstance(inner, dict | list):
                yield from _walk(inner, (*path, ""), uri)


def is_entry(found: Mapping[str, Any]) -> bool:
    """Return whether an object holds hashes itself."""
    flat = _flat(found)
    if any(named_kind(key) and isinstance(value, str) for key, value in flat.items()):
        return True
    value = _first(flat, VALUES)
    return isinstance(value, str) and (is_hash(value) or _first(flat, TYPES) is not None)


def _flat(found: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """Return an entry's keys with those of its parts; outer keys win."""
    flat = {str(key): value for key, value in found.items() if not isinstance(value, dict)}
    inside = [value for key, value in found.items() if bare(str(key)) in _INSIDE] if depth < _DEEPEST_PART else []
    for value in inside:
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                flat = {**_flat(part, depth + 1), **flat}
    return flat


def hashes_of(found: Any, column: str | None) -> list[tuple[Text, Text]]:
    """Return hash and kind of all hashes of one object; `(None, None)` for an entry without a hash."""
    if isinstance(found, str):
        return [(found, None)]
    if not isinstance(found, dict):
        return [(None, None)]
    flat = _flat(found)
    if column:
        return [(text_of(found.get(column)), kind_of(text_of(_first(flat, TYPES))))]
    listed = _typed_parts(found)
    named = [(text_of(value), kind) for key, value in flat.items() if (kind := named_kind(key)) and text_of(value)]
    if named or listed:
        return with_reasons([*named, *listed])
    return [(text_of(_first(flat, VALUES)), kind_of(text_of(_first(flat, TYPES))))]


def _typed_parts(found: Mapping[str, Any]) -> list[tuple[Text, Text]]:
    """Return the typed hashes of one entry: `hashes: [{type: md5, value: …}, …]`."""
    parts = [part for key, value in found.items() if bare(key) in _INSIDE and isinstance(value, list) for part in value]
    typed = [(part, _first(part, TYPES)) for part in parts if isinstance(part, dict)]
    return [(text_of(_first(part, VALUES)), kind_of(str(kind))) for part, kind in typed if kind is not None]


def with_reasons(hashes: list[tuple[Text, Text]]) -> list[tuple[Text, Text]]:
    """Return the hashes of one entry. Kinds that nothing is matched by get a reason: `alone` loses the entry, `beside a
    hash that is used` does not."""
    used = any(kind in DIGITS for _, kind in hashes)
    others = set(OTHERS.values())
    reason = "beside a hash that is used" if used else "alone"
    return [(text, f"{kind} {reason}" if kind in others else kind) for text, kind in hashes]


def _first(found: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    by_name = {bare(str(key)): value for key, value in found.items() if value is not None and value != ""}
    return next((by_name[name] for name in names if name in by_name), None)


def about(found: Any) -> tuple[Text, tuple[str, ...], tuple[str, ...], Text]:
    """Return id, tags, words (`key=value`) and quality of one object."""
    if not isinstance(found, dict):
        return None, (), (), None
    flat = _flat(found)
    words = tuple(
        f"{bare(key)}={text_of(value)}"
        for key, value in flat.items()
        if bare(key) in (*WORDS, *SWITCHES) and isinstance(value, str | int | float | bool)
    )
    return text_of(_first(flat, IDS)), tags_of(_first(found, TAGS)), words, text_of(_first(flat, QUALITIES))


def tags_of(value: Any) -> tuple[str, ...]:
    """Return tags, written as words in a text, a list of texts, or a list of objects with a `text` or a `name`."""
    if isinstance(value, Mapping):
        value = value.get("data") or []
    if isinstance(value, str):
        return tuple(value.replace(",", " ").replace(";", " ").split())
    if not isinstance(value, list | tuple):
        return ()
    named = [tag.get("text") or tag.get("name") if isinstance(tag, Mapping) else tag for tag in value]
    return tuple(str(tag) for tag in named if tag)


_SWITCHED = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_BENIGN = frozenset(
    ("0", "nonmalicious", "nonpertinent", "notpertinent", "notillegal", "nonillegal", "legal", "benign", "clean",
     "safe", "knowngood", "good", "goodware", "ignorable", "ignore", "irrelevant", "negativeclass", "uncategorized",
     "uncategorised", "unclassified", "falsepositive", "notcsam", "innocuous", "allowlisted", "whitelisted", "trusted")
)  # fmt: skip
_HARMFUL = frozenset(
    ("malicious", "suspicious", "illegal", "csam", "csem", "positiveclass", "knownbad", "bad", "a1", "a2", "b1", "b2")
)


def _as_category(value: str) -> str:
    """Return a category as text; `0.0`, from tables without integers, is `0`."""
    return value.removesuffix(".0") if value.replace(".", "", 1).isdecimal() else value


def refused(words: tuple[str, ...], *, allowing: bool, categories: tuple[str, ...]) -> Text:
    """Return why an entry is left out by its category; None where it counts.

    Args:
        words: `key=value`, as `about` returns them.
        allowing: whether the bank lists harmless content.
        categories: the ones that count, whatever they mean; empty: all that do not contradict the bank.
    """
    said = dict(word.split("=", 1) for word in words)
    for key, value in said.items():
        if key in SWITCHES and _SWITCHED.get(value.lower()) is (key not in ("enabled", "active")):
            return "disabled"
    values = {key: _as_category(value) for key, value in said.items() if key not in SWITCHES}
    if categories:
        return None if not values or set(values.values()) & set(categories) else "of another category"
    for key, value in values.items():
        if bare(value) in (_HARMFUL if allowing else _BENIGN):
            return f"{'not harmless' if allowing else 'not illegal'} ({key} {printable(value)[:40]})"
    return None
