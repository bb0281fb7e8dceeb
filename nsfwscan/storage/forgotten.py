"""Remember that objects were forgotten: when, by whom, why, and which files have another content since.

Each act is a file `forgotten/<id>.json` in the report store. It names no object: only tombstones, which stand in the
place of the object in all files, and a salted digest by which the same command, cut off, finds its tombstone again. A
file whose content is not what its run recorded is taken as sound where one of these records names its present digest.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable
from contextlib import suppress
from typing import Annotated

from pydantic import Field, ValidationError

from nsfwscan.config import Frozen
from nsfwscan.errors import BrokenRecord
from nsfwscan.storage.store import Store, to_json

FOLDER = "forgotten"
TOMBSTONE = "forgotten:"
"""What the URI of a forgotten object begins with in all files."""
_VERSION = 1
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ForgottenRecord(Frozen):
    """One act of forgetting."""

    record_version: int = _VERSION
    forget_id: str
    at: str
    by: str
    reason: str
    salt: str
    tombstones: dict[str, str]
    """Tombstone of each object, by the digest of the salt and its URI."""
    files: dict[str, Digest] = Field(default_factory=dict)
    """SHA-256 of each file of the store that was written anew, by its path."""
    done: bool = False
    """False: the command was cut off; the same one finishes it."""

    def key(self, uri: str) -> str:
        """Return what stands for a URI in `tombstones`."""
        return hashlib.sha256(f"{self.salt}{uri}".encode("utf-8", "surrogatepass")).hexdigest()


def begun(uris: list[str], at: str, by: str, reason: str) -> ForgottenRecord:
    """Return the record of an act that begins, with a tombstone for each object."""
    forget_id, salt = secrets.token_hex(8), secrets.token_hex(16)
    record = ForgottenRecord(forget_id=forget_id, at=at, by=by, reason=reason, salt=salt, tombstones={})
    tombstones = {record.key(uri): f"{TOMBSTONE}{secrets.token_hex(16)}" for uri in uris}
    return record.model_copy(update={"tombstones": tombstones})


def write_forgotten(store: Store, record: ForgottenRecord) -> None:
    """Write a record, over the one of the same act."""
    store.write(f"{FOLDER}/{record.forget_id}.json", to_json(record.model_dump(mode="json")))


def forgotten(store: Store) -> list[ForgottenRecord]:
    """Return all records of a store, the oldest first. Raises BrokenRecord for a malformed one."""
    folder = store.inside(FOLDER)
    found = [_read(folder, name) for name in folder.names("") if name.endswith(".json")]
    return sorted(found, key=lambda record: (record.at, record.forget_id))


def _read(folder: Store, name: str) -> ForgottenRecord:
    try:
        return ForgottenRecord.model_validate_json(folder.read(name))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise BrokenRecord(
            folder.locate(name), f"is broken: it is not what `nsfwscan forget` writes ({first['msg']})"
        ) from None


def names_forgotten(store: Store, uris: Iterable[str]) -> set[str]:
    """Return those of some URIs that were forgotten in a store."""
    records = forgotten(store)
    return {uri for uri in uris if any(record.key(uri) in record.tombstones for record in records)}


def is_known(store: Store, path: str, data: bytes) -> bool:
    """Return whether a file of a store has a content that an act of forgetting gave it."""
    digest = hashlib.sha256(data).hexdigest()
    return any(record.files.get(path) == digest for record in forgotten(store))


def digest_of(run: Store, data: bytes) -> str:
    """Return the SHA-256 by which other runs, anchors and signatures know a `run.json`: that of its content, or, where
    objects were forgotten in it since, that of the content which was committed.

    Args:
        run: folder of the run.
    """
    if b'"forgotten"' in data:
        with suppress(ValueError, TypeError, KeyError):
            known: str = json.loads(data)["forgotten"]["sha256"]
            if is_known_in(run, "run.json", data):
                return known
    return hashlib.sha256(data).hexdigest()


def is_known_in(run: Store, path: str, data: bytes) -> bool:
    """Return whether a file in the folder of a run (`STORE/runs/ID`) has such a content."""
    folder = run.location
    return is_known(Store(folder.parent().parent(), run.storage), f"runs/{folder.path.rpartition('/')[2]}/{path}", data)
