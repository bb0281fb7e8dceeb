"""What becomes of a file that somebody damages, by accident or on purpose; and what nobody would write.

In: files that are well formed. Out: files that are nearly so, for ever, the same for the same seed. Text that is JSON or
YAML is also changed as what it says: keys go, values become others, lists become deep. `ANY_BYTES` is what hypothesis
makes up from nothing, JSON among it.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
ANY_BYTES = st.binary(max_size=200) | _JSON.map(lambda said: json.dumps(said).encode())

_EDGES = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\r\n",
    b'"',
    b"'",
    b"{",
    b"[",
    b"]",
    b"}",
    b",",
    b":",
    b"&a",
    b"*a",
    b"../",
)
_NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 2**63, 2**64, 1e308, float("nan"), "", "a" * 5_000, "../../etc/passwd", "/etc/passwd",
    "file:///etc/passwd", "s3://elsewhere/x", "\0", "\ud83d", "'; DROP TABLE rows; --", [], {}, [[]], {"": None},
)  # fmt: skip


def mutated(seeds: Sequence[bytes], random_: random.Random) -> Iterator[bytes]:
    """Yield damaged copies of the seeds without end."""
    while True:
        data = random_.choice(seeds)
        if random_.random() < 0.4 and (said := _as_json(data)) is not None:
            yield _changed_tree(said, random_)
            continue
        for _ in range(random_.choice((1, 1, 2, 4, 16))):
            data = random_.choice(_DEEDS)(data, seeds, random_)
        yield data[: 4 * 2**20]


def _as_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _changed_tree(said: Any, random_: random.Random) -> bytes:
    """Return the document with a few of its values replaced, taken out or doubled."""
    said = json.loads(json.dumps(said))
    for _ in range(random_.choice((1, 1, 2, 3))):
        places = list(_places(said))
        if not places:
            break
        holder, key = random_.choice(places)
        deed = random_.randrange(4)
        if deed == 0:
            del holder[key]
        elif deed == 1:
            holder[key] = (
                json.loads("[" * 200 + "]" * 200) if random_.random() < 0.1 else copy.deepcopy(random_.choice(_VALUES))
            )
        elif deed == 2 and isinstance(holder, dict):
            holder[str(key) + random_.choice(("", "_", " ", "X"))] = holder[key]
        else:
            holder[key] = [holder[key], copy.deepcopy(random_.choice(_VALUES))]
    return json.dumps(said).encode("utf-8", "surrogatepass")


def _places(said: Any) -> Iterator[tuple[Any, Any]]:
    items = said.items() if isinstance(said, dict) else enumerate(said) if isinstance(said, list) else ()
    for key, value in list(items):
        yield said, key
        yield from _places(value)


def _somewhere(data: bytes, random_: random.Random) -> int:
    """A place, more often near the beginning, where headers are."""
    return int(len(data) * random_.random() ** random_.choice((1, 3, 6)))


def _flip(data: bytes, seeds: Sequence[bytes], random_: random.Random) -> bytes:
    if not data:
        return data
    at = min(_somewhere(data, random_), len(data) - 1)
    return data[:at] + bytes([data[at] ^ (1 << random_.randrange(8))]) + data[at + 1 :]


def _cut(data: bytes, seeds: Sequence[bytes], random_: random.Random) -> bytes:
    return data[: _somewhere(data, random_)]


def _take_out(data: bytes, seeds: Sequence[bytes], random_: random.Random) -> bytes:
    at = _somewhere(data, random_)
    return data[:at] + data[at + random_.randrange(1, 64) :]


def _put_in(data: bytes, seeds: Sequence[bytes], random_: random.Random) -> bytes:
    at = _somewhere(data, random_)
    return data[:at] + random_.choice(_EDGES) * random_.choice((1, 1, 2, 1000)) + data[at:]


def _number(data: bytes, seeds: Sequence[bytes], random_: random.Random) -> bytes:
    at, size = _somewhere(data, random_), random_.choice((1, 2, 4))
    value = random_.choice(_NUMBERS) & (256**size - 1)
    return data[:at] + value.to_bytes(size, random_.choice(("little", "big"))) + data[at + size :]


def _splice(data: bytes, seeds: Sequence[bytes], random_: random.Random) -> bytes:
    other = random_.choice(seeds)
    return data[: _somewhere(data, random_)] + other[_somewhere(other, random_) :]


def _repeat(data: bytes, seeds: Sequence[bytes], random_: random.Random) -> bytes:
    at = _somewhere(data, random_)
    return data[:at] + data[at : at + random_.randrange(1, 256)] * random_.choice((2, 10, 200)) + data[at:]


_DEEDS: Sequence[Callable[[bytes, Sequence[bytes], random.Random], bytes]] = (
    _flip, _flip, _flip, _cut, _take_out, _put_in, _number, _number, _splice, _repeat,
)  # fmt: skip
