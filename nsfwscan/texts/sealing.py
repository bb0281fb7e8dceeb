"""Encrypt text for the holder of a private key: who scans can write it, and cannot read what was written.

Each text is sealed by itself (HPKE, RFC 9180: X25519, HKDF-SHA256, AES-256-GCM), so a run's text is carried over,
verified and forgotten without a key. A file that holds no such key, and a key that does not fit, raise `ConfigError`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError
from nsfwscan.storage.text_files import read_text

KEY_VARIABLE = "NSFWSCAN_TEXT_KEY"
"""The environment variable that may hold a private key, as PEM."""
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_INFO = b"nsfwscan text 1"
_MAKE = "nsfwscan text key PRIVATE PUBLIC makes a pair"


def make_key(private: Path, public: Path) -> str:
    """Write a new pair of keys as PEM, the private one readable by its owner alone, and return its id. Raises
    ConfigError where a file is there already, or cannot be written."""
    key = X25519PrivateKey.generate()
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    shown = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    try:
        for path, mode, data in ((private, 0o600, secret), (public, 0o644, shown)):
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(data)
    except OSError as error:
        raise ConfigError(f"cannot write the key {error.filename}: {error.strerror}") from None
    return key_id(_raw(key.public_key()))


def read_public_key(uri: str, storage: StorageConfig) -> bytes:
    """Return the 32 bytes of the public key in a PEM file. Raises ConfigError where it holds none."""
    try:
        text = read_text(uri, storage, "the key for text")
    except UnicodeDecodeError:
        raise ConfigError(f"{uri} is no public key for text (PEM, X25519): {_MAKE}") from None
    if "PRIVATE KEY" in text:
        raise ConfigError(
            f"{uri} is the private key, which a scan must not have: text.key (--text-key) is the public one"
        )
    try:
        key = load_pem_public_key(text.encode())
    except ValueError:
        key = None
    if not isinstance(key, X25519PublicKey):
        raise ConfigError(f"{uri} is no public key for text (PEM, X25519): {_MAKE}")
    return _raw(key)


def key_id(public: bytes) -> str:
    """Return the first 16 hex digits of a public key's SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


class Sealer:
    """Encrypts for the holder of a private key.

    Args:
        public: 32 bytes.
    """

    def __init__(self, public: bytes) -> None:
        self._key = X25519PublicKey.from_public_bytes(public)
        self.key_id = key_id(public)

    def seal(self, text: str) -> bytes:
        """Return a text, encrypted: 48 bytes longer than its UTF-8."""
        return _SUITE.encrypt(text.encode(), self._key, _INFO)


class Opener:
    """Decrypts what was sealed for any of some private keys, each as PEM with where it comes from, in words."""

    def __init__(self, keys: Iterable[tuple[str, bytes]]) -> None:
        self._keys: dict[str, X25519PrivateKey] = {}
        for what, pem in keys:
            try:
                key = load_pem_private_key(pem, None)
            except (ValueError, TypeError):
                key = None
            if not isinstance(key, X25519PrivateKey):
                raise ConfigError(f"{what} is no private key for text (PEM, X25519, without a password)")
            self._keys[key_id(_raw(key.public_key()))] = key

    def open(self, sealed: bytes, key: str) -> str:
        """Return a text that was sealed for the key with an id. Raises ConfigError where that key is not here."""
        if key not in self._keys:
            have = ", ".join(self._keys) or "none is given"
            raise ConfigError(
                f"this text is encrypted for the key {key}, and the keys here are others ({have}): name its private "
                f"key with --key, or in ${KEY_VARIABLE}"
            )
        try:
            return _SUITE.decrypt(sealed, self._keys[key], _INFO).decode()
        except (InvalidTag, ValueError):
            raise ConfigError(
                f"a text that is marked for the key {key} was not encrypted for it, or was changed"
            ) from None


def given_keys(files: Iterable[str]) -> list[tuple[str, bytes]]:
    """Return the private keys of files and of the environment, for an `Opener`. Raises ConfigError where a file cannot
    be read."""
    found = []
    for path in files:
        try:
            found.append((path, Path(path).read_bytes()))
        except OSError as error:
            raise ConfigError(f"cannot read the key {path}: {error.strerror}") from None
    held = os.environ.get(KEY_VARIABLE)
    return [*found, *([(f"${KEY_VARIABLE}", held.encode())] if held else [])]


def _raw(key: X25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)
