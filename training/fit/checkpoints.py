"""Checkpoints of an unfinished training, in the folder of the finished one.

    OUT/state/run.json                                     settings, data and backbone
    OUT/state/attempts/<attempt>.json                      which host worked on it, and when
    OUT/state/checkpoints/<step>-<attempt>/…               weights, optimiser, schedule, random states of every worker
    OUT/state/checkpoints/<step>-<attempt>/complete.json   its files with their SHA-256; written last of all

A checkpoint without `complete.json`, or with a file of another digest, is half-written and never used. Every attempt
writes folders of its own, so that a worker that was given up but lives on cannot spoil another's. A storage that fails
or is full is a `StoreError`.

Ray Train's own checkpoints do not serve: it keeps them in a list that it overwrites in place at each report, that a
kill at that moment leaves cut off, and that another version of Ray refuses.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nsfwscan.errors import StoreError
from nsfwscan.storage.failures import STORE_ERRORS, in_words, retry, setup_error
from nsfwscan.storage.filesystems import filesystem
from nsfwscan.storage.store import Store, to_json

FOLDER = "state/checkpoints"
_COMPLETE = "complete.json"
_NAME = re.compile(r"\d{8,}-")


class Damaged(Exception):
    """A file of a checkpoint is not what was written."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    name: str
    step: int
    """Optimiser steps done."""
    files: dict[str, str]
    """Name to hex SHA-256."""
    facts: dict[str, Any]
    """Precision and number of the workers."""


@dataclass(frozen=True)
class Checkpoints:
    """Checkpoints of one training, as one attempt sees them."""

    store: Store
    attempt: str

    def name(self, step: int) -> str:
        """Return the folder of this attempt's checkpoint after so many steps."""
        return f"{step:08d}-{self.attempt}"

    def put(self, name: str, folder: Path) -> dict[str, str]:
        """Upload one worker's files beside those of others, and return their SHA-256. Raises StoreError."""
        digests = {}
        for path in sorted(folder.iterdir()):
            upload(self.store, f"{FOLDER}/{name}/{path.name}", path)
            digests[path.name] = _sha256(path)
        return digests

    def complete(self, name: str, step: int, files: dict[str, str], facts: dict[str, Any]) -> None:
        """Make the checkpoint count. Raises StoreError."""
        self.store.write(f"{FOLDER}/{name}/{_COMPLETE}", to_json({"step": step, "files": files, "facts": facts}))

    def newest_first(self) -> Iterator[Checkpoint]:
        """Yield the complete checkpoints of all attempts."""
        for name in sorted(filter(_NAME.match, self.store.names(FOLDER)), reverse=True):
            found = self.store.read_json(f"{FOLDER}/{name}/{_COMPLETE}")
            if found:
                yield Checkpoint(name, found["step"], found["files"], found["facts"])

    def at(self, step: int) -> Checkpoint | None:
        """Return a complete checkpoint after exactly so many steps."""
        return next((found for found in self.newest_first() if found.step == step), None)

    def get(self, checkpoint: Checkpoint, into: Path, wanted: Collection[str] | None = None) -> Path:
        """Download a checkpoint, or some of its files, and compare their SHA-256. Raises Damaged where a file is gone,
        cut off or another; StoreError where the storage cannot be read."""
        into.mkdir(parents=True, exist_ok=True)
        for name in checkpoint.files if wanted is None else wanted:
            target = into / name
            try:
                download(self.store, f"{FOLDER}/{checkpoint.name}/{name}", target)
            except FileNotFoundError:
                raise Damaged(f"checkpoint {checkpoint.name} lacks {name}") from None
            if _sha256(target) != checkpoint.files.get(name):
                raise Damaged(f"{name} of checkpoint {checkpoint.name} is not what was written")
        return into

    def prune(self, keep: Collection[int], before: int) -> None:
        """Delete what is older than the step `before`, complete or not, but for those to keep. Raises StoreError."""
        for name in filter(_NAME.match, self.store.names(FOLDER)):
            step = int(name.split("-")[0])
            if step < before and step not in keep:
                self.store.delete(f"{FOLDER}/{name}/{_COMPLETE}")
                self.store.delete(f"{FOLDER}/{name}")

    def clear(self) -> None:
        """Delete all of them. Raises StoreError."""
        self.store.delete(FOLDER)


def upload(store: Store, name: str, path: Path) -> None:
    """Copy a file of any size into a store, where it may be seen half-written. Raises StoreError."""
    target = store.locate(name)
    with in_words(f"cannot write {target}"):
        if store.is_local:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            with path.open("rb") as source, open(target, "wb") as file:
                shutil.copyfileobj(source, file, 2**22)
                file.flush()
                os.fsync(file.fileno())
        else:
            retry(partial(filesystem(store.location, store.storage).put_file, str(path), target))


def download(store: Store, name: str, path: Path) -> None:
    """Copy a file of any size out of a store. Raises FileNotFoundError, StoreError."""
    source = store.locate(name)
    try:
        if store.is_local:
            shutil.copyfile(source, path)
        else:
            retry(partial(filesystem(store.location, store.storage).get_file, source, str(path)))
    except FileNotFoundError:
        raise
    except STORE_ERRORS as error:
        raise setup_error(error, f"cannot read {source}") from error


def check_room(store: Store, needed_bytes: int) -> None:
    """Raise StoreError where a local disk has less room than needed; an object store does not say."""
    if not store.is_local:
        return
    place = Path(store.uri)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed_bytes:
        raise StoreError(
            f"no room in {store.uri}: {free / 2**20:,.0f} MiB are free, and checkpoints of this model take up to "
            f"{needed_bytes / 2**20:,.0f} MiB: make room, or choose another --out"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
