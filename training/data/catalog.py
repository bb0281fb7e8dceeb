"""Catalog: every labelled image, read and examined once, and kept on disk.

It holds the readable images, encoded as they are, in Arrow files that are mapped and not loaded, and facts on every
listed object. Its key is the digest of the listing: the same data are not read twice, and a build that was stopped goes
on. A bad file is a row with a status; a full disk is a `StoreError`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from itertools import groupby
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock

from nsfwscan.config import StorageConfig, digest_of
from nsfwscan.errors import ConfigError, Status, StoreError
from nsfwscan.location import Location
from nsfwscan.models.cache import cache_folder as models_folder
from nsfwscan.schema import LISTING_SCHEMA, REPORT_SCHEMA, Category
from nsfwscan.stages.base import Stage, cut, fresh, run_overlapped
from nsfwscan.stages.fingerprint import Digest
from nsfwscan.stages.read import Read
from nsfwscan.storage.atomic import appearing
from nsfwscan.storage.failures import in_words
from training.config import DataConfig
from training.data.archives import Archive, ReadMembers
from training.data.decoding import DecodePool
from training.data.examine import EXAMINED, GEOMETRY, Examine
from training.data.sources import Example, Listing, Unreadable
from training.progress import ProgressCallback, quiet

CATALOG_VERSION = 1
"""Raised whenever the same image gives other facts than before."""

FACTS_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("uri", "label")),
        pa.field("size", pa.int64()),
        *(REPORT_SCHEMA.field(name) for name in ("sha256", "status", "error")),
        *EXAMINED,
    ]
)
"""One row for each listed object, in the listing's order."""

_FACTS, _IMAGES, _DONE = "facts-*.parquet", "images-*.arrow", "_SUCCESS"
_PART_ROWS = 512
_PART_BYTES = 64 * 2**20
_CHUNK_BYTES = 16 * 2**20
_BATCH_BYTES = 16 * 2**20
RETRIED = frozenset({Status.NOT_FOUND, Status.DENIED, Status.FETCH_ERROR, Status.TIMEOUT, Status.CRASHED})
"""Statuses that another attempt may change, as in a scan."""
_ROOM = 1.1
"""Bytes on disk for each byte of images, which are kept as they are; facts are small."""


def cache_folder(config: DataConfig) -> Path:
    """Return where this machine keeps images and splits. Raises ConfigError where that is not local."""
    if config.cache is not None:
        if not Location.of(config.cache).is_local:
            raise ConfigError(f"cache: {config.cache} is not a local folder: images are mapped into memory from there")
        return Path(config.cache).absolute()
    return models_folder().with_name("datasets")


class Catalog:
    """Listed images, as they were read.

    Attributes:
        folder: where the catalog lies.
        key: digest of the listing.
        labels: the categories, in the order of the integers that stand for them.
    """

    def __init__(self, folder: Path, key: str, labels: tuple[Category, ...]) -> None:
        self.folder = folder
        self.key = key
        self.labels = labels

    @cached_property
    def facts(self) -> pa.Table:
        """One row for each listed object, `FACTS_SCHEMA`."""
        return pa.concat_tables(pq.read_table(path) for path in sorted(self.folder.glob(_FACTS)))

    @cached_property
    def images(self) -> datasets.Dataset:
        """`uri, bytes, label, sha256` of each object that is `ok`, in the order of the facts; mapped, not loaded."""
        parts = [datasets.Dataset.from_file(str(path)) for path in sorted(self.folder.glob(_IMAGES))]
        return datasets.concatenate_datasets([part for part in parts if len(part)] or parts[:1])

    def unreadable(self) -> list[Unreadable]:
        """Return the objects that are not `ok`."""
        bad = self.facts.filter(pc.not_equal(self.facts["status"], str(Status.OK)))
        rows = bad.select(["uri", "label", "status", "error"]).to_pylist()
        return [Unreadable(r["uri"], Category(r["label"]), Status(r["status"]), r["error"] or "") for r in rows]

    def ok(self) -> pa.Table:
        """Return the facts of the objects that are `ok`: row for row those of `images`."""
        return self.facts.filter(pc.equal(self.facts["status"], str(Status.OK)))


def build_catalog(
    listing: Listing, config: DataConfig, storage: StorageConfig, progress: ProgressCallback = quiet
) -> Catalog:
    """Read and examine what was not read before. Raises StoreError where the cache's disk is full, or cannot be
    written; NsfwscanError where credentials are refused, or no child can be started to decode in."""
    key = digest_of(_versions(listing, config))[:32]
    folder = cache_folder(config) / "images" / key
    catalog = Catalog(folder, key, listing.labels)
    if _is_whole(folder) and not config.retry_unreadable:
        return catalog
    with in_words(f"cannot write to the cache {folder}", errors=(OSError,)):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if config.retry_unreadable:
                _forget_failures(folder)
            if not _is_whole(folder):
                _check_room(listing, folder)
                parts = _build(listing, folder, config, storage, progress)
                (folder / _DONE).write_text(f"{parts}\n", encoding="ascii")
    return catalog


def features(labels: Sequence[Category]) -> datasets.Features:
    """Return the columns of the images."""
    return datasets.Features(
        {
            "uri": datasets.Value("string"),
            "bytes": datasets.Value("binary"),
            "label": datasets.ClassLabel(names=[str(label) for label in labels]),
            "sha256": datasets.Value("string"),
        }
    )


def _versions(listing: Listing, config: DataConfig) -> object:
    """Return everything that decides the catalog: each object's version and label, and how it is read."""
    objects = [
        (e.uri, str(e.label), e.size, e.etag or (e.modified_at.isoformat() if e.modified_at else None), e.sha256)
        for e in listing.examples
    ]
    limits = config.decode.model_dump(mode="json", exclude={"timeout_s", "max_memory_bytes"})
    return [CATALOG_VERSION, config.read.max_bytes, limits, objects]


def _is_whole(folder: Path) -> bool:
    """Return whether all parts are there: people delete from a cache."""
    try:
        parts = int((folder / _DONE).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return False
    return all(len(list(folder.glob(pattern))) == parts for pattern in (_FACTS, _IMAGES))


def _forget_failures(folder: Path) -> None:
    """Remove the parts with objects that another attempt may be able to read."""
    for path in folder.glob(_FACTS):
        if RETRIED & set(pq.read_table(path, columns=["status"])["status"].to_pylist()):
            path.unlink()


def _check_room(listing: Listing, folder: Path) -> None:
    there = sum(path.stat().st_size for path in folder.iterdir())
    needed = _ROOM * sum(e.size or 0 for e in listing.examples) - there
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StoreError(
            f"the images need about {needed / 2**20:,.0f} MiB in the cache {folder}, where {free / 2**20:,.0f} MiB are "
            "free: make room, or choose another folder with --cache"
        )


def _build(
    listing: Listing, folder: Path, config: DataConfig, storage: StorageConfig, progress: ProgressCallback
) -> int:
    """Make the missing parts, and return how many there are in all."""
    finished, total, parts = 0, len(listing.examples), 0
    with ExitStack() as stack:
        examine = Examine(stack.enter_context(DecodePool(config.decode, GEOMETRY)))
        read = Read(config.read, storage)
        opened: dict[str, Archive] = {}
        for number, examples in enumerate(_parts(listing.examples)):
            progress("examined", finished, total)
            parts += 1
            if not all((folder / name.replace("*", f"{number:06d}")).exists() for name in (_FACTS, _IMAGES)):
                stages: list[Stage] = [read, Digest(), examine]
                if (archive := examples[0].archive) is not None:
                    if archive not in opened:
                        opened[archive] = stack.enter_context(Archive(archive, storage))
                    stages[0] = ReadMembers(opened[archive], config.read.max_bytes)
                _write_part(folder, number, _examined(stages, examples), listing.labels)
            finished += len(examples)
        progress("examined", finished, total)
    return parts


def _parts(examples: list[Example]) -> Iterator[list[Example]]:
    """Yield the examples in their order, a few at a time, from one archive or from none."""
    for _, group in groupby(examples, key=lambda e: e.archive):
        together = list(group)
        yield from (together[part] for part in cut([e.size for e in together], _PART_ROWS, _PART_BYTES))


def _examined(stages: Sequence[Stage], examples: Sequence[Example]) -> pa.Table:
    rows = [{"uri": e.uri, "size": e.size, "etag": e.etag, "modified_at": e.modified_at} for e in examples]
    table = run_overlapped(stages, fresh(pa.Table.from_pylist(rows, schema=LISTING_SCHEMA)), _CHUNK_BYTES)
    table = table.append_column("label", pa.array([str(e.label) for e in examples], pa.string()))
    return _as_reviewed(table, pa.array([e.sha256 for e in examples], pa.string()))


def _as_reviewed(table: pa.Table, expected: pa.Array) -> pa.Table:
    """Drop labels that were given for other content than was read."""
    other = pc.fill_null(pc.not_equal(table["sha256"], expected), False)
    words = "not what was reviewed: its SHA-256 is another one"
    for name, value in (("status", str(Status.NOT_FOUND)), ("error", words)):
        column = pc.if_else(other, pa.scalar(value, pa.string()), table[name])
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


def _write_part(folder: Path, number: int, table: pa.Table, labels: tuple[Category, ...]) -> None:
    """Write the facts last: a part that has them is whole."""
    schema = features(labels).arrow_schema
    good = table.filter(pc.equal(table["status"], str(Status.OK)))
    index = pc.index_in(good["label"], pa.array(labels, pa.string()))
    columns = [good["uri"], good["bytes"], index, good["sha256"]]
    images = pa.table([c.cast(f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
    with (
        appearing(folder / _IMAGES.replace("*", f"{number:06d}")) as path,
        pa.ipc.new_stream(str(path), schema) as writer,
    ):
        # To read a row, Arrow reads its batch.
        writer.write_table(images, max_chunksize=max(1, len(images) * _BATCH_BYTES // max(1, images.nbytes)))
    facts = pa.table([table[field.name].cast(field.type) for field in FACTS_SCHEMA], schema=FACTS_SCHEMA)
    with appearing(folder / _FACTS.replace("*", f"{number:06d}")) as path:
        pq.write_table(facts, path)
