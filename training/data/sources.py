"""List labelled images: class folders (with `metadata.csv` or without), a zip of them, tables, verdicts.

A listing has one `Example` for each URI with one label, and what was left out, with the reason. Only lists are read, no
images. A source that is not there, an unknown folder or label, an empty class are `SourceError`s.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from nsfwscan.config import SourceConfig, StorageConfig
from nsfwscan.errors import RowError, SourceError, Status
from nsfwscan.location import Location
from nsfwscan.schema import Category
from nsfwscan.sources.listing import list_sources
from nsfwscan.storage.failures import STORE_ERRORS
from nsfwscan.storage.filesystems import filesystem, stripped
from nsfwscan.storage.objects import etag_of, modified_of
from nsfwscan.warning import WarningKind, Warnings
from training.config import DataConfig
from training.data.archives import Archive, Member, archive_of, archive_uri, is_archive
from training.data.folders import ClassFolders, all_folders, is_hidden, leads_outside
from training.data.metadata import Metadata, is_metadata
from training.data.tables import Disagreement, LabelRow, is_table, kind_of, latest_verdicts, open_list, read_labels

_STATS_AT_ONCE = 16
_MOST_METADATA_BYTES = 2**30
"""Limit of a list of labels within a zip."""


@dataclass(frozen=True, slots=True)
class Example:
    """One image with its label, as listed.

    Attributes:
        archive: the zip that holds it, as given in the configuration; None for an object of its own.
        offset: where it begins in the zip.
        sha256: of the content that the label was given for, where a reviewer's file says so.
        is_verdict: a reviewer gave the label, which counts more than a folder.
    """

    uri: str
    label: Category
    size: int | None = None
    etag: str | None = None
    modified_at: datetime | None = None
    archive: str | None = None
    offset: int = 0
    sha256: str | None = None
    is_verdict: bool = False


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An object that cannot be learned from, and why."""

    uri: str
    label: Category | None
    status: Status
    error: str


@dataclass
class Listing:
    """Content of the sources."""

    examples: list[Example] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    """Files that have no label."""
    contradicted: dict[str, tuple[Category, ...]] = field(default_factory=dict)
    """URIs with different labels in different sources."""
    disagreements: list[Disagreement] = field(default_factory=list)

    @property
    def labels(self) -> tuple[Category, ...]:
        """Categories of the examples, in the order of the taxonomy."""
        there = {example.label for example in self.examples}
        return tuple(category for category in Category if category in there)


def list_examples(config: DataConfig, storage: StorageConfig) -> Listing:
    """Return all labelled images of all sources, each URI once, sorted. Raises SourceError."""
    listing = Listing()
    found: list[Example] = []
    for uri in config.uris:
        found += _list(uri, config, storage, listing)
    listing.examples = _one_label_each(found, listing.contradicted)
    if not listing.examples:
        raise SourceError(f"{', '.join(config.uris)}: no labelled image at all{_unlabelled(listing)}")
    if config.max_per_class is not None:
        listing.examples = _drawn(listing.examples, config.max_per_class, config.seed)
    listing.examples = _with_versions(listing.examples, storage)
    listing.examples.sort(key=lambda e: (e.archive or "", e.offset, e.uri))
    listing.unreadable.sort(key=lambda u: u.uri)
    return listing


def _unlabelled(listing: Listing) -> str:
    if not listing.unreadable:
        return ""
    first = listing.unreadable[0]
    return f"; {len(listing.unreadable):,} files have no label, as {first.uri}: {first.error}"


def check_classes(listing: Listing) -> None:
    """Raise SourceError where there is only one class."""
    if len(listing.labels) < 2:
        raise SourceError(
            f"all {len(listing.examples):,} images are {str(listing.labels[0])!r}: a classifier needs two classes at "
            "least"
        )


def _list(uri: str, config: DataConfig, storage: StorageConfig, listing: Listing) -> Iterable[Example]:
    kind = config.format
    if kind == "auto":
        kind = "zip" if is_archive(uri) else kind_of(uri, storage) if is_table(uri) else "folders"
    if kind == "folders":
        return _from_folders(uri, config, storage, listing)
    if kind == "zip":
        return _from_archive(uri, config, storage, listing)
    column = "verdict" if kind == "verdicts" else "label"
    rows: Iterable[LabelRow] = read_labels(uri, storage, config.labels, column)
    if kind == "verdicts":
        rows, disagreements = latest_verdicts(rows)
        listing.disagreements += disagreements
    return [_example(row, is_verdict=kind == "verdicts") for row in rows]


def _example(row: LabelRow, *, is_verdict: bool) -> Example:
    assert row.label is not None
    return Example(
        row.uri,
        row.label,
        row.size,
        row.etag,
        row.modified_at,
        archive=archive_of(row.uri),
        sha256=row.sha256,
        is_verdict=is_verdict,
    )


def _from_folders(uri: str, config: DataConfig, storage: StorageConfig, listing: Listing) -> list[Example]:
    place = Location.of(uri)
    root = place.absolute().uri.rstrip("/")
    if place.is_local and os.path.exists(place.path) and not os.path.isdir(place.path):
        raise SourceError(f"{uri}: not a folder of class folders, nor a zip, Parquet, CSV or JSON lines by its name")
    folders = ClassFolders(uri, config.labels, root.rsplit("/", 1)[-1])
    if place.is_local and os.path.isdir(place.path):
        for name in all_folders(os.path.relpath(folder, place.path) for folder, _, _ in os.walk(place.path)):
            folders.seen_folder(name)
    files: list[_File] = []
    metadata = Metadata(config.labels)
    noticed = _FolderMarkers()
    source = SourceConfig(uris=(uri if place.is_local else f"{root}/",), truth="none")
    for table in list_sources(source, storage, warnings=noticed):
        for row in table.to_pylist():
            name = _place(row["uri"], root)
            if is_hidden(name):
                continue
            if is_metadata(name):
                with open_list(row["uri"], storage) as file:
                    metadata.read(name, file, row["uri"])
            else:
                files.append(_File(name, row["uri"], row["size"], row["etag"], row["modified_at"]))
    for marker in noticed.uris:
        folders.seen_folder(_place(marker, root).rstrip("/"))
    return _labelled(files, folders, metadata, listing, lambda name: f"{root}/{name}")


@dataclass
class _FolderMarkers(Warnings):
    """Warnings of a listing, and all empty objects by which consoles of object stores make a folder."""

    uris: list[str] = field(default_factory=list)

    def add(self, kind: WarningKind, example: str, *, count: int = 1, detail: str | None = None) -> None:
        """Count it, and remember a folder's marker."""
        super().add(kind, example, count=count, detail=detail)
        if kind is WarningKind.FOLDER_MARKER:
            self.uris.append(example)


def _from_archive(uri: str, config: DataConfig, storage: StorageConfig, listing: Listing) -> list[Example]:
    own = archive_uri(uri)
    folders = ClassFolders(uri, config.labels, own.rsplit("/", 1)[-1].removesuffix(".zip"))
    files: list[_File] = []
    metadata = Metadata(config.labels)
    with Archive(uri, storage) as archive:
        for name in all_folders(archive.folders()):
            folders.seen_folder(name)
        for member in archive.members():
            if leads_outside(member.name):
                why = "its name leads out of the archive"
                listing.unreadable.append(Unreadable(member.uri, None, Status.UNSUPPORTED, why))
            elif is_metadata(member.name) and not is_hidden(member.name):
                metadata.read(member.name, io.BytesIO(_list_in(archive, member)), member.uri)
            elif not is_hidden(member.name):
                files.append(
                    _File(member.name, member.uri, member.size, member.version, archive=uri, offset=member.offset)
                )
        return _labelled(files, folders, metadata, listing, archive.uri_of)


def _list_in(archive: Archive, member: Member) -> bytes:
    try:
        return archive.read(member.name, _MOST_METADATA_BYTES)
    except RowError as error:
        raise SourceError(f"{member.uri} cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class _File:
    """A file that may be an image: its place within the source, and the fields of an `Example`."""

    name: str
    uri: str
    size: int | None
    etag: str | None
    modified_at: datetime | None = None
    archive: str | None = None
    offset: int = 0

    def labelled(self, label: Category) -> Example:
        return Example(self.uri, label, self.size, self.etag, self.modified_at, self.archive, self.offset)


def _labelled(
    files: list[_File], folders: ClassFolders, metadata: Metadata, listing: Listing, uri_of: Callable[[str], str]
) -> list[Example]:
    """Label each file by the metadata, or else by its class folder; note files without a label."""
    found: list[Example] = []
    for file in files:
        labels, silent = metadata.labels_of(file.name), metadata.silent_about(file.name)
        if folders.knows(file.name) or not (labels or silent):
            by_folder = folders.category(file.name)
            labels = labels or ((by_folder,) if by_folder else ())
        found += map(file.labelled, labels)
        if not labels:
            why = "lies in no class folder" + (f", and {silent} does not name it" if silent else "")
            listing.unreadable.append(Unreadable(file.uri, None, Status.UNSUPPORTED, why))
    for name, label, by in metadata.others({file.name for file in files}):
        why = f"{by} names it, but it is not there"
        listing.unreadable.append(Unreadable(uri_of(name), label, Status.NOT_FOUND, why))
    folders.check()
    return found


def _place(uri: str, root: str) -> str:
    """Return where an object lies within its source, with `/`."""
    place = Location.of(uri)
    if place.is_local:
        return os.path.relpath(place.path, Location.of(root).path)
    if place.is_s3:
        return uri.removeprefix(f"{root}/")
    return stripped(uri).removeprefix(stripped(root)).lstrip("/")


def _one_label_each(found: list[Example], contradicted: dict[str, tuple[Category, ...]]) -> list[Example]:
    """Return each URI once. A verdict wins over a folder or a table; where sources of one kind contradict each other,
    the image has no label."""
    by_uri: dict[str, list[Example]] = {}
    for example in found:
        by_uri.setdefault(example.uri, []).append(example)
    kept: list[Example] = []
    for uri, examples in by_uri.items():
        strongest = [e for e in examples if e.is_verdict] or examples
        labels = {e.label for e in strongest}
        if len(labels) > 1:
            contradicted[uri] = tuple(sorted(labels))
            continue
        listed = next((e for e in examples if e.size is not None), examples[0])
        kept.append(replace(listed, label=strongest[0].label, sha256=strongest[0].sha256))
    return kept


def _drawn(examples: list[Example], most: int, seed: int) -> list[Example]:
    """Draw at most so many of each class, the same ones each time."""
    by_draw = sorted(examples, key=lambda e: hashlib.sha256(f"{seed}:{e.uri}".encode()).digest())
    left = dict.fromkeys(Category, most)
    drawn: list[Example] = []
    for example in by_draw:
        if left[example.label]:
            left[example.label] -= 1
            drawn.append(example)
    return drawn


def _with_versions(examples: list[Example], storage: StorageConfig) -> list[Example]:
    """Look up size and version where the list lacks them, so that a changed image is not taken from the cache."""

    def asked(example: Example) -> Example:
        if example.archive is not None or example.size is not None:
            return example
        try:
            place = Location.of(example.uri)
            if place.is_local:
                info = os.stat(place.path)
                modified = datetime.fromtimestamp(info.st_mtime_ns / 1e9, UTC)
                return replace(example, size=info.st_size, modified_at=modified)
            found = filesystem(place, storage).info(place.uri)
            return replace(example, size=found.get("size"), etag=etag_of(found), modified_at=modified_of(found))
        except (*STORE_ERRORS, NotImplementedError):
            return example  # reading it will say why

    examples = _as_members(examples, storage)
    with ThreadPoolExecutor(_STATS_AT_ONCE, thread_name_prefix="stat") as threads:
        return list(threads.map(asked, examples))


def _as_members(examples: list[Example], storage: StorageConfig) -> list[Example]:
    """Look up size, version and place of images that a table names within an archive."""
    wanted = {e.archive for e in examples if e.archive is not None and e.size is None}
    known: dict[str, Member] = {}
    for uri in sorted(wanted):
        with Archive(uri, storage) as archive:
            known |= {member.uri: member for member in archive.members()}
    return [
        replace(e, size=m.size, etag=m.version, offset=m.offset) if e.size is None and (m := known.get(e.uri)) else e
        for e in examples
    ]
