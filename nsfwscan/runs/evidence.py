"""Prove a run to those who do not trust whoever may write to the store: by an anchor, and by a signature.

An anchor is a small file outside of the store, `<run_id>-<sha256>.json`, whose name has the SHA-256 of `run.json`; its
content is made from the record alone, so everybody who commits a run would write the same. It is created only if it is
not there. A signature is `run.json.sig`, the 64 bytes of Ed25519 (RFC 8032) over the line that `signed_text` returns.
Both are written between `run.json` and `_SUCCESS`. A commit stands where they cannot be: `Evidence.leave` says why.

`Proofs` is the other side: it says of each run of a chain whether an anchor or a signature proves it. A run without
one is proved by a later run with one, which has it behind itself in the chain.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import shlex
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from nsfwscan.config import EvidenceConfig, StorageConfig
from nsfwscan.errors import ConfigError, NsfwscanError, StoreError
from nsfwscan.runs.chain import Chain, Link
from nsfwscan.runs.finding import Finding, damaged, note, tampered
from nsfwscan.runs.record.fields import RUN_ID, Json
from nsfwscan.runs.record.reading import read_record
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run
from nsfwscan.storage.forgotten import digest_of
from nsfwscan.storage.store import Store, to_json
from nsfwscan.storage.text_files import read_text
from nsfwscan.text import redacted

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SIGNATURE = "run.json.sig"
_SIGNATURE_BYTES = 64
_ANCHOR = re.compile(rf"({RUN_ID.pattern})-([0-9a-f]{{64}})\.json")
_COMMAND_S = 60.0
_AT_ONCE = 16


@dataclass(frozen=True)
class Anchors:
    """Digests that were anchored.

    Attributes:
        digests: of each run, by its id.
        hidden: names of anchors that a delete marker hides; None where the store does not say.
    """

    uri: str
    digests: Mapping[str, Set[str]]
    hidden: Sequence[str] | None = ()

    def of(self, run_id: str) -> Set[str]:
        """Return the digests that were anchored for a run; two where the run was written anew."""
        return self.digests.get(run_id, frozenset())

    def __or__(self, later: Anchors) -> Anchors:
        """Return what was anchored as read a second time: nothing that was there is forgotten."""
        runs = self.digests.keys() | later.digests.keys()
        return replace(later, digests={run_id: {*self.of(run_id), *later.of(run_id)} for run_id in runs})


def signed_text(run_id: str, sha256: str) -> bytes:
    """Return the line that stands for a run: short, since key services take few bytes (AWS KMS 4,096)."""
    return f"nsfwscan run {run_id} {sha256}\n".encode()


@dataclass(frozen=True)
class Evidence:
    """Evidence that a commit leaves beside the record; none where none is asked.

    Attributes:
        anchors: the folder of the anchors.
        sign: returns the signature of a text; raises NsfwscanError.
    """

    anchors: Store | None = None
    sign: Callable[[bytes], bytes] | None = None

    @classmethod
    def of(cls, config: EvidenceConfig, store: Store, storage: StorageConfig) -> Evidence:
        """Return what a configuration asks for, tried as far as that leaves nothing behind.

        Args:
            storage: how to read the key, where it lies in a store.

        Raises:
            ConfigError: the anchor is in the store or cannot be written to, the key is none, or there is no such
                command.
            StoreError: the anchor's store does not answer.
        """
        sign: Callable[[bytes], bytes] | None = None
        if config.sign_key is not None:
            sign = _private_key(config.sign_key, storage)
        elif config.sign_command is not None:
            sign = partial(_signed_by, _words(config.sign_command))
        return cls(None if config.anchor is None else _anchors(config, store), sign)

    def leave(self, run: Run, data: bytes) -> str | None:
        """Sign and anchor a run, as far as that was not done before. Return what could not be done, and why; None where
        nothing is lacking.

        Args:
            data: the content of the run's `run.json`.
        """
        record, sha256 = read_record(data, run.folder.locate("run.json"), run.run_id), digest_of(run.folder, data)
        lacking = []
        try:
            self._sign(run, sha256)
        except NsfwscanError as error:
            lacking.append(f"run {run.run_id} is committed, but not signed: {error}")
        try:
            self._anchor(record, sha256)
        except NsfwscanError as error:
            lacking.append(f"run {run.run_id} is committed, but not anchored: {error}")
        return "\n".join(lacking) or None

    def _sign(self, run: Run, sha256: str) -> None:
        if self.sign is None or run.folder.exists(SIGNATURE):
            return
        with suppress(FileExistsError):  # of a second committer
            run.folder.create(SIGNATURE, self.sign(signed_text(run.run_id, sha256)))

    def _anchor(self, record: RunRecord, sha256: str) -> None:
        if self.anchors is None:
            return
        name = f"{record.run_id}-{sha256}.json"
        try:
            self.anchors.create(name, to_json(_anchor_of(record, sha256)))
        except FileExistsError:
            if not self.anchors.exists(name):  # what is there is a file in place of the folder
                raise StoreError(f"{self.anchors.uri} is no folder") from None


def _anchors(config: EvidenceConfig, store: Store) -> Store:
    """Return the folder of the anchors. Raises ConfigError, StoreError."""
    found = Store.at(str(config.anchor), config.storage or store.storage)
    if _is_within(found, store):
        raise ConfigError(
            f"the anchor {found.uri} lies in the report store {store.uri}: whoever changes one can change both"
        )
    found.reach()
    if found.is_local:
        place = found.location.path
        while not os.path.exists(place):
            place = os.path.dirname(place)
        if not os.path.isdir(place) or not os.access(place, os.W_OK | os.X_OK):
            raise ConfigError(f"the anchor {found.uri} cannot be written to: {place} is no folder that may be written")
    return found


def _is_within(anchors: Store, store: Store) -> bool:
    if anchors.is_local and store.is_local:
        ours, theirs = os.path.realpath(anchors.location.path), os.path.realpath(store.location.path)
    else:
        ours, theirs = anchors.uri, store.uri
    return f"{ours}/".startswith(f"{theirs.rstrip('/')}/")


def _anchor_of(record: RunRecord, sha256: str) -> Json:
    """Return the content of an anchor: enough to say what the run was, should it be gone."""
    told = ("run_id", "kind", "store", "committed_at", "nsfwscan", "chain", "balance")
    content = {name: value for name, value in record.as_json().items() if name in told}
    decided_by = {"model": record.model.identity, "policy": record.policy.identity}
    banks = [bank.identity for bank in record.banks]
    return {"sha256": sha256, **content, "decision": record.summary.decision, **decided_by, "banks": banks}


def _private_key(uri: str, storage: StorageConfig) -> Callable[[bytes], bytes]:
    """Return what signs with the key in a file. Raises ConfigError for anything but an Ed25519 private key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

    key = _key(uri, storage, "the signing key", load_pem_private_key, load_ssh_private_key, password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{redacted(uri)} holds no Ed25519 private key: openssl genpkey -algorithm ed25519 makes one")
    return key.sign


def public_key(uri: str, storage: StorageConfig) -> Ed25519PublicKey:
    """Return the public key in a file (PEM or OpenSSH). Raises ConfigError for anything but an Ed25519 public key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_public_key

    key = _key(uri, storage, "the public key", load_pem_public_key, load_ssh_public_key)
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{redacted(uri)} holds no Ed25519 public key: openssl pkey -in KEY -pubout makes it")
    return key


def _key(
    uri: str, storage: StorageConfig, what: str, pem: Callable[..., Any], ssh: Callable[..., Any], **options: None
) -> object:
    """Return the key in a file, of whatever kind; None where it holds none, or one behind a passphrase."""
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        data = read_text(uri, storage, what).encode()
    except UnicodeDecodeError:
        return None
    load = ssh if data.startswith((b"ssh-", b"-----BEGIN OPENSSH")) else pem
    try:
        return load(data, **options)
    except TypeError:
        raise ConfigError(
            f"{redacted(uri)}: a key behind a passphrase is not taken; sign with a command instead"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        return None


def _words(command: str) -> list[str]:
    """Return the words of a command. Raises ConfigError where there is no such program."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"the signing command cannot be split into words: {error}") from None
    if not words or shutil.which(words[0]) is None:
        raise ConfigError(f"the signing command is not found: {redacted(words[0]) if words else 'it is empty'}")
    return words


def _signed_by(words: Sequence[str], text: bytes) -> bytes:
    """Return the signature that a command prints for a text. Raises NsfwscanError in words that do not repeat it."""
    try:
        done = subprocess.run(words, input=text, capture_output=True, check=False, timeout=_COMMAND_S)
    except subprocess.TimeoutExpired:
        raise NsfwscanError(f"the signing command took longer than {_COMMAND_S:.0f} s") from None
    except OSError as error:
        raise NsfwscanError(f"the signing command cannot be run: {error.strerror}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-300:]
        raise NsfwscanError(f"the signing command ended with exit code {done.returncode}{f': {said}' if said else ''}")
    if len(done.stdout) == _SIGNATURE_BYTES:
        return done.stdout
    with suppress(binascii.Error, ValueError):
        found = base64.b64decode(b"".join(done.stdout.split()), validate=True)
        if len(found) == _SIGNATURE_BYTES:
            return found
    raise NsfwscanError(
        f"the signing command printed {len(done.stdout):,} bytes, which are no Ed25519 signature: 64 bytes, or them in "
        "Base64"
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_anchors(anchors: Store) -> Anchors:
    """Return what was anchored. Raises StoreError."""
    digests, hidden = defaultdict[str, set[str]](set), anchors.hidden()
    for name in {*anchors.names(""), *(hidden or ())}:
        if (parts := _ANCHOR.fullmatch(name)) is not None:
            digests[parts[1]].add(parts[2])
    return Anchors(anchors.uri, digests, None if hidden is None else sorted(filter(_ANCHOR.fullmatch, hidden)))


@dataclass(frozen=True)
class Proofs:
    """Proofs that the runs of a chain are checked against.

    Attributes:
        anchored: the anchors; None: none are given.
        keys: public keys, of which one must have signed each run; empty: none are given.
    """

    chain: Chain
    anchored: Anchors | None = None
    keys: Sequence[Ed25519PublicKey] = ()

    def findings(self, link: Link) -> Iterator[Finding]:
        """Yield what anchors and signatures say of a run of the chain."""
        if self.anchored is not None:
            digests = self.anchored.of(link.run_id)
            others = ", ".join(sorted(digests - {link.sha256}))
            if others and link.sha256 is not None:
                yield tampered(f"run.json has the SHA-256 {link.sha256}, but {others} was anchored")
            elif not digests:
                yield self._without("anchored", link, self._behind_anchored)
        if self.keys:
            signed = self._signed.get(link.run_id)
            if signed is None:
                yield self._without("signed", link, self._behind_signed)
            elif not signed and link.sha256 is not None:
                yield tampered("run.json.sig is by no key that was given, or for another run.json")

    def of_store(self, before: Anchors | None) -> Iterator[Finding]:
        """Yield the anchored runs that are not there, and what is odd about the anchors.

        Args:
            before: the anchors as they were before the chain was read; a later one may be of a run that is not in it.
        """
        if self.anchored is None or before is None:
            return
        if not self.anchored.digests:
            yield damaged(f"there is no anchor in {self.anchored.uri}: they are kept elsewhere, or were deleted")
        for run_id, digests in sorted(before.digests.items()):
            if run_id not in self.chain.links:
                yield damaged(f"run {run_id} is gone: it was anchored, with the SHA-256 {', '.join(sorted(digests))}")
        for name in self.anchored.hidden or ():
            yield tampered(f"the anchor {name} was deleted: a delete marker hides it")
        if self.anchored.hidden is None:
            yield note("the anchors' store does not show versions: an anchor behind a delete marker would not be seen")

    def _without(self, what: str, link: Link, behind: frozenset[str]) -> Finding:
        if link.run_id in behind:
            return note(f"not {what} itself: a later run is, and vouches for it")
        return damaged(f"not {what}, nor is a later run that vouches for it")

    @cached_property
    def _behind_anchored(self) -> frozenset[str]:
        anchored = self.anchored
        links = self.chain.links.values()
        return self._behind(one for one in links if anchored is not None and one.sha256 in anchored.of(one.run_id))

    @cached_property
    def _behind_signed(self) -> frozenset[str]:
        return self._behind(one for one in self.chain.links.values() if self._signed[one.run_id])

    def _behind(self, proven: Iterable[Link]) -> frozenset[str]:
        return frozenset(run_id for one in proven if one.error is None for run_id in self.chain.behind(one))

    @cached_property
    def _signed(self) -> dict[str, bool | None]:
        """Return for each run whether one of the keys signed it; None where it has no signature."""
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            return dict(zip(self.chain.links, threads.map(self._is_signed, self.chain.links.values()), strict=True))

    def _is_signed(self, link: Link) -> bool | None:
        from cryptography.exceptions import InvalidSignature

        try:
            signature = link.run.folder.read(SIGNATURE)
        except FileNotFoundError:
            return None
        for key in self.keys:
            with suppress(InvalidSignature):
                key.verify(signature, signed_text(link.run_id, link.sha256 or ""))
                return True
        return False
