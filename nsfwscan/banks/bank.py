"""Read hash banks once on the driver, keep them on each node's disk, and map them into each worker's memory.

The driver resolves a `BankConfig` to a `BankSpec`; a worker opens the spec as a `Bank`. Malformed entries are counted,
with a few examples. A bank that cannot be read, holds no usable hash, or has changed since the run began raises
`BankError`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock
from numpy.typing import NDArray

from nsfwscan.banks import entries, formats, hashes
from nsfwscan.banks.confirmed import MARK
from nsfwscan.banks.entries import refused
from nsfwscan.banks.formats import Lines, lines_of
from nsfwscan.banks.hashes import BY_DIGITS, DIGITS, plain_hex
from nsfwscan.banks.pdq_index import LARGE, Hashes, NearIndex
from nsfwscan.config import BankConfig, StorageConfig, digest_of
from nsfwscan.errors import BankError, NsfwscanError
from nsfwscan.location import Location
from nsfwscan.models.cache import cache_folder
from nsfwscan.schema import BankKind, as_matrix
from nsfwscan.storage.atomic import appearing
from nsfwscan.storage.failures import in_words
from nsfwscan.storage.objects import open_file
from nsfwscan.text import printable, redacted

_EXAMPLES = 5
_SHOWN = 80
"""Characters of a malformed entry that a message repeats."""
_KEPT_S = 3 * 86400.0
"""Seconds that a node keeps a bank that nobody opens."""
_COPIED = 2**20


@dataclass(frozen=True)
class BankSpec:
    """A bank as the driver read it, which workers must read alike.

    Attributes:
        config: with an absolute URI.
        content: hex SHA-256 of its file.
        entries: number of distinct hashes, by kind.
        passed_over: number of entries left out, by reason: kinds that no image is matched by (a video's MD5, a URL, a
            SHA-1), entries said to be not illegal, PDQ hashes of poor quality.
        malformed: number of entries that are no hash of their kind.
        examples: the first of those, in words.
        held: hex SHA-256 of the entries themselves; a node that reads others stops the run.
    """

    config: BankConfig
    content: str
    entries: dict[str, int]
    passed_over: dict[str, int] = field(default_factory=dict)
    malformed: int = 0
    examples: tuple[str, ...] = ()
    held: str = ""

    @property
    def name(self) -> str:
        """Return its name in the configuration."""
        return self.config.name

    @property
    def version(self) -> str:
        """Hex digest of all that its matches depend on: the file, its entries, and its settings."""
        return digest_of([self.content, self.held, self.config.model_dump(mode="json", exclude={"name", "uri"})])

    @property
    def identity(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version[:16]}"

    @property
    def is_large(self) -> bool:
        """True where its index is so large that a node keeps one, and not one per worker."""
        return self.entries["pdq"] > LARGE

    @property
    def folder(self) -> Path:
        """Return where this node keeps its entries. Equal files with equal settings share a folder."""
        return _folder(digest_of([_reading(), self.content, *_read_by(self.config)]))

    def describe(self) -> str:
        """Say how many hashes it holds, and how much of its file is left out."""
        held = ", ".join(f"{n:,} {kind}" for kind, n in self.entries.items() if n)
        others = "".join(f"; {n:,} {name} passed over" for name, n in self.passed_over.items() if n)
        wrong = f"; {self.malformed:,} malformed, e.g. {self.examples[0]}" if self.malformed else ""
        return f"{self.identity} ({self.config.kind}): {held or 'no hash'}{others}{wrong}"

    def as_json(self) -> dict[str, Any]:
        """Return its entry in `run.json`."""
        config = self.config.model_dump(mode="json", include={"name", "kind", "distance", "quality", "tags"})
        kept = {name: getattr(self, name) for name in ("entries", "passed_over", "malformed", "examples")}
        return {**config, "uri": redacted(self.config.uri), "version": self.version, "sha256": self.content, **kept}


class Entries:
    """Distinct hashes of one kind, sorted, on this node's disk; `hashes`, uint8 [n, bytes], are mapped from the file:
    the workers of a node share the memory."""

    def __init__(self, path: Path) -> None:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        column = table["hash"].combine_chunks()
        self.hashes = as_matrix(column)
        self._ids = table["id"].combine_chunks()
        self._keys = _as_keys(self.hashes)

    def find(self, hashes: Hashes) -> NDArray[np.int64]:
        """Return for each hash, uint8 [m, bytes], its position among the entries; -1 where it is not there."""
        wanted = _as_keys(hashes)
        if not len(self._keys):
            return np.full(len(wanted), -1, np.int64)
        places = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        return np.where(self._keys[places] == wanted, places, -1)

    @cached_property
    def _shared(self) -> dict[str, int]:
        """Ids that several hashes have, with their numbers."""
        counts = self._ids.value_counts()
        several = counts.filter(pc.greater(counts.field("counts"), 1))
        return {str(one["values"]): one["counts"] for one in several.to_pylist() if one["values"]}

    def number_of(self, name: str) -> int:
        """Return how many hashes have an id: those of a video have the same one."""
        return self._shared.get(name, 1)

    def id_of(self, entry: int) -> str:
        """Return the id of an entry; the hash itself where the bank gives none."""
        return str(self._ids[entry].as_py() or self.hashes[entry].tobytes().hex())


def _as_keys(hashes: Hashes) -> NDArray[np.bytes_]:
    """Return each hash as one value that compares as its bytes do."""
    return np.ascontiguousarray(hashes).view(f"S{hashes.shape[1]}").reshape(-1)


class Bank:
    """A bank on this node, ready for lookups."""

    def __init__(self, spec: BankSpec) -> None:
        self.spec = spec
        self._folder = spec.folder

    @cached_property
    def entries(self) -> dict[str, Entries]:
        """By kind; only the kinds that it has."""
        return {kind: Entries(self._folder / f"{kind}.arrow") for kind, n in self.spec.entries.items() if n}

    def near(self) -> NearIndex:
        """Return the index of its PDQ hashes. A node builds a large one once; later workers read it."""
        hashes, distance = self.entries["pdq"].hashes, self.spec.config.distance
        if len(hashes) <= LARGE:
            return NearIndex.over(hashes, distance)
        path = self._folder / f"pdq-{distance}.index"
        with FileLock(f"{self._folder}.lock"):
            if path.exists():
                try:
                    return NearIndex.read(path, distance)
                except ValueError:  # for instance cut off by a full disk
                    path.unlink()
            index = NearIndex.over(hashes, distance)
            with appearing(path, locked=True) as unfinished:
                index.write(unfinished)
            return index


def resolve_banks(configs: tuple[BankConfig, ...], storage: StorageConfig) -> tuple[BankSpec, ...]:
    """Read banks, and keep their entries on this node. Raises BankError where a bank cannot be read, or holds no usable
    hash."""
    return tuple(
        _resolve(config.model_copy(update={"uri": Location.of(config.uri).absolute().uri}), storage)
        for config in configs
    )


def open_bank(spec: BankSpec, storage: StorageConfig) -> Bank:
    """Open a bank on this node; read it from its URI first if the node lacks it. Raises BankError where its file has
    changed since the run began, or cannot be read."""
    if not (spec.folder / _SUMMARY).exists():
        found = _resolve(spec.config, storage)
        if found.content == spec.content and found.held != spec.held:
            raise BankError(
                f"bank {spec.name}: this node reads other entries from {spec.config.uri} than the driver did: give all "
                "nodes the same versions of nsfwscan and its libraries"
            )
        if found.content != spec.content:
            raise BankError(
                f"bank {spec.name}: {spec.config.uri} has changed since the run began (its SHA-256 was "
                f"{spec.content[:16]}…, is {found.content[:16]}…): keep a bank's file as it is until the run is "
                "committed, or start a new run"
            )
    with open(spec.folder / _SUMMARY, "rb"):
        os.utime(spec.folder)
    return Bank(spec)


_SUMMARY = "bank.json"
_HARMLESS = (BankKind.ALLOW, BankKind.NEGATIVE)
"""Kinds of banks that list harmless content."""


def _read_by(config: BankConfig) -> list[Any]:
    """Return the settings that change which entries are read from a file; its name and place do not."""
    lists = [list(config.tags), list(config.categories)]
    return [config.hash, config.column, *lists, config.quality, config.kind in _HARMLESS]


@cache
def _reading() -> list[str]:
    """Return digests of the code that reads banks: entries that other code kept on a node are not used."""
    modules = (entries, formats, hashes, sys.modules[__name__])
    texts = [hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest() for module in modules]
    return [*texts, pa.__version__]


def _folder(key: str) -> Path:
    return cache_folder().with_name("banks") / key[:32]


def _resolve(config: BankConfig, storage: StorageConfig) -> BankSpec:
    home = _folder("")
    home.mkdir(parents=True, exist_ok=True)
    try:
        reading = in_words(f"cannot read {config.uri}")
        with reading, tempfile.TemporaryDirectory(dir=home, prefix=".reading-") as scratch:
            copy = Path(scratch, "file")
            content = _copied(config.uri, storage, copy)
            own = _is_own(config, copy)
            spec = BankSpec(config, content, {})
            with FileLock(f"{spec.folder}.lock"):
                if not _is_whole(spec.folder):
                    with appearing(spec.folder, locked=True) as unfinished:
                        _keep(config, copy, unfinished)
                    _forget_others(home, spec.folder)
            found = json.loads((spec.folder / _SUMMARY).read_text(encoding="utf-8"))
    except NsfwscanError as error:
        raise BankError(f"bank {config.name}: {error}") from error
    spec = replace(spec, **{**found, "examples": tuple(found["examples"])})
    if not (own and set(spec.passed_over) == {"disabled"}):  # people may take back all that they confirmed
        _check_usable(spec)
    return spec


def _copied(uri: str, storage: StorageConfig, to: Path) -> str:
    """Copy a bank's file, so that the file that is read is the one that was digested. Return its hex SHA-256."""
    digest = hashlib.sha256()
    with open_file(Location.of(uri), storage) as source, to.open("wb") as copy:
        while block := source.read(_COPIED):
            digest.update(block)
            copy.write(block)
    return digest.hexdigest()


def _is_own(config: BankConfig, copy: Path) -> bool:
    """Return whether people made a bank from their verdicts. Raises BankError where it is given as one of another kind:
    above all as `illegal`, which is never one person's word."""
    with copy.open("rb") as file:
        line = file.readline(_COPIED)
    if not line.startswith(MARK):
        return False
    if (kind := json.loads(line)["confirmed_as"]) != config.kind:
        raise BankError(
            f"{config.uri} was confirmed as a bank of kind {kind} (`nsfwscan banks`): it cannot be {config.kind}"
        )
    return True


def _check_usable(spec: BankSpec) -> None:
    if any(spec.entries.values()):
        return
    others = ", ".join(f"{n:,} {printable(name)}" for name, n in spec.passed_over.items())
    tagged = f" with one of the tags {', '.join(spec.config.tags)}" if spec.config.tags else ""
    parts = [f"{spec.malformed:,} malformed ({spec.examples[0]})" if spec.malformed else "", others]
    raise BankError(
        f"bank {spec.name}: {spec.config.uri} holds no usable sha256, md5 or pdq hash{tagged}; it holds "
        f"{' and '.join(filter(None, parts)) or 'nothing'}"
    )


def _keep(config: BankConfig, copy: Path, folder: Path) -> None:
    """Read a file into a folder."""
    folder.mkdir()
    with copy.open("rb") as file:
        reading = _Reading(config)
        for lines in lines_of(file, config.uri, config.column):
            reading.add(lines)
    entries = {kind: _write(reading.found[kind], folder / f"{kind}.arrow", DIGITS[kind] // 2) for kind in DIGITS}
    summary = {
        "entries": entries,
        "passed_over": dict(reading.passed_over.most_common()),
        "malformed": reading.malformed,
        "examples": reading.examples,
        "held": _held(folder),
    }
    (folder / _SUMMARY).write_text(json.dumps(summary), encoding="utf-8")


def _is_whole(folder: Path) -> bool:
    """Return whether a node's copy of a bank is intact."""
    try:
        summary = json.loads((folder / _SUMMARY).read_text(encoding="utf-8"))
        return bool(summary["held"] == _held(folder))
    except (OSError, ValueError, KeyError):
        return False


def _held(folder: Path) -> str:
    """Return the hex SHA-256 of the entries in a folder, kind by kind."""
    digest = hashlib.sha256()
    for kind in DIGITS:
        table = pa.ipc.open_file(pa.memory_map(str(folder / f"{kind}.arrow"))).read_all()
        digest.update(f"{kind} {table.num_rows}\n".encode())
        for column in table.columns:
            for buffer in (buffer for chunk in column.chunks for buffer in chunk.buffers() if buffer is not None):
                digest.update(buffer)
    return digest.hexdigest()


def _forget_others(home: Path, folder: Path) -> None:
    """Remove banks that nobody opened for days: each version of a bank has a folder of its own."""
    for other in home.iterdir():
        if other.is_dir() and other != folder and time.time() - other.stat().st_mtime > _KEPT_S:
            shutil.rmtree(other, ignore_errors=True)


_Found = list[tuple[pa.Array, pa.Array]]


class _Reading:
    """Entries of a file, and what is wrong with others."""

    def __init__(self, config: BankConfig) -> None:
        self._config = config
        self.found: dict[str, _Found] = {kind: [] for kind in DIGITS}
        """Hashes (bytes) and ids, by kind."""
        self.passed_over: Counter[str] = Counter()
        self.malformed = 0
        self.examples: list[str] = []

    def add(self, lines: Lines) -> None:
        """Add lines. Raises BankError where the kind of their hashes is not clear."""
        tags, wanted = lines.tags or [()] * len(lines.hashes), set(self._config.tags)
        kept = pa.array([not wanted or not wanted.isdisjoint(tag) for tag in tags], pa.bool_())
        hashes, said = _as_hex(lines)
        kinds = self._kinds(lines, said, hashes)
        kept = pc.and_(kept, self._counting(lines, kinds, kept))
        ids, numbers = pa.array(lines.ids, pa.string()), pa.array(lines.numbers, pa.int64())
        for kind in kinds.unique().to_pylist():
            here = pc.and_(kept, pc.equal(kinds, kind))
            if kind not in DIGITS:
                if count := pc.sum(here).as_py():
                    self.passed_over[kind] += count
                continue
            good = pc.fill_null(pc.match_substring_regex(hashes, f"^[0-9a-f]{{{DIGITS[kind]}}}$"), False)
            usable = pc.and_(here, good)
            self.found[kind].append((_from_hex(hashes.filter(usable), DIGITS[kind] // 2), ids.filter(usable)))
            bad = pc.and_(here, pc.invert(good))
            self._add_malformed(kind, numbers.filter(bad), pa.array(lines.hashes, pa.string()).filter(bad))

    def _counting(self, lines: Lines, kinds: pa.Array, kept: pa.Array) -> pa.Array:
        """Return which lines count by their category and quality; count the others as passed over."""
        if lines.words is None and lines.qualities is None:
            return pa.array([True] * len(lines.hashes))
        allowing, categories = self._config.kind in _HARMLESS, self._config.categories
        counting: list[bool] = []
        for i, (kind, wanted) in enumerate(zip(kinds.to_pylist(), kept.to_pylist(), strict=True)):
            reason = None
            if lines.words is not None and kind in DIGITS:
                reason = refused(lines.words[i], allowing=allowing, categories=categories)
            if reason is None and lines.qualities is not None and kind == "pdq":
                reason = self._poor(lines.qualities[i])
            if reason is not None and wanted:
                self.passed_over[reason] += 1
            counting.append(reason is None)
        return pa.array(counting)

    def _poor(self, quality: str | None) -> str | None:
        try:
            poor = quality is not None and float(quality) < self._config.quality
        except ValueError:
            return None
        return f"pdq of a quality below {self._config.quality}" if poor else None

    def _kinds(self, lines: Lines, said: pa.Array, hashes: pa.Array) -> pa.Array:
        """Return a kind for each line: the line's own, else the configuration's, else by the number of digits."""
        if not said.null_count:
            return said
        if self._config.hash is not None:
            return pc.fill_null(said, self._config.hash)
        unsaid = pc.is_null(said)
        open_question = pc.and_(unsaid, pc.fill_null(pc.match_substring_regex(hashes, "^[0-9a-f]{64}$"), False))
        if pc.any(open_question).as_py():
            number = lines.numbers[pc.index(open_question, True).as_py()]
            raise BankError(
                f"{self._config.uri}: line {number} has 64 hex digits, which may be a SHA-256 or a PDQ hash: say which "
                "with hash=sha256 or hash=pdq"
            )
        for digits, kind in BY_DIGITS.items():
            of_length = pc.fill_null(pc.match_substring_regex(hashes, f"^[0-9a-f]{{{digits}}}$"), False)
            said = pc.if_else(pc.and_(unsaid, of_length), kind, said)
        return pc.fill_null(said, "md5")

    def _add_malformed(self, kind: str, numbers: pa.Array, texts: pa.Array) -> None:
        self.malformed += len(numbers)
        for number, text in zip(numbers.to_pylist(), texts.to_pylist(), strict=True):
            if len(self.examples) >= _EXAMPLES:
                return
            what = "nothing" if text is None else repr(text[:_SHOWN])
            self.examples.append(f"line {number}: {what} is not {DIGITS[kind]} hex digits, as {kind} has")


_IS_HEX = "^[0-9a-f]+$"


def _as_hex(lines: Lines) -> tuple[pa.Array, pa.Array]:
    """Return the hashes as lower-case hex where they are hashes, and the kinds that the lines name."""
    found = pc.utf8_lower(pc.utf8_trim_whitespace(pa.array(lines.hashes, pa.string())))
    said = pa.array(lines.kinds, pa.string())
    odd = pc.invert(pc.fill_null(pc.match_substring_regex(found, _IS_HEX), True))
    places = np.flatnonzero(odd.to_numpy(zero_copy_only=False)).tolist()
    if not places:
        return found, said
    texts, kinds = found.to_pylist(), said.to_pylist()
    for i in places:  # few banks write them so
        kind, texts[i] = plain_hex(str(lines.hashes[i]))
        kinds[i] = kinds[i] or kind
    return pa.array(texts, pa.string()), pa.array(kinds, pa.string())


def _from_hex(texts: pa.Array, width: int) -> pa.Array:
    """Return valid hex of a fixed width as bytes."""
    raw = bytes.fromhex("".join(texts.to_pylist()))
    return pa.Array.from_buffers(pa.binary(width), len(texts), [None, pa.py_buffer(raw)])


def _write(found: _Found, path: Path, width: int) -> int:
    """Write distinct hashes, sorted, each with the first of its ids. Return their number."""
    kind = pa.binary(width)
    hashes = pa.concat_arrays([pa.array([], kind), *(some for some, _ in found)])
    ids = pa.concat_arrays([pa.array([], pa.large_string()), *(some.cast(pa.large_string()) for _, some in found)])
    keys = _as_keys(as_matrix(hashes))
    order = _sorted(keys, ids)
    first = np.ones(len(order), np.bool_)
    first[1:] = keys[order[1:]] != keys[order[:-1]]
    picked = pa.array(order[first])
    table = pa.table({"hash": hashes.take(picked), "id": ids.take(picked)}).combine_chunks()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        for batch in table.to_batches():
            writer.write_batch(batch)
    return len(picked)


def _sorted(keys: NDArray[np.bytes_], ids: pa.Array) -> NDArray[np.int64]:
    """Return the order by hash, then by id."""
    if ids.null_count == len(ids):
        return np.argsort(keys, kind="stable")
    by_id: NDArray[np.int64] = pc.sort_indices(ids).to_numpy().astype(np.int64)
    return by_id[np.argsort(keys[by_id], kind="stable")]
