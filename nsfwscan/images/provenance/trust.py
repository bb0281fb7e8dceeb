"""Read the certificates by which a signature of C2PA is trusted, and hold every worker to the same ones."""

from __future__ import annotations

import hashlib

from nsfwscan.config import DecodeConfig, StorageConfig
from nsfwscan.errors import ConfigError
from nsfwscan.images.provenance.credentials import INSTALL, can_verify
from nsfwscan.storage.text_files import read_text

_WHAT = "the trust list (decode.c2pa_trust)"


def with_trust(config: DecodeConfig, storage: StorageConfig) -> DecodeConfig:
    """Return the settings with the digest of the trust list. Raises ConfigError where manifests are to be verified and
    the extra is missing, or the list cannot be read, holds no certificate, or is not the one that the digest says."""
    if not config.c2pa:
        return config
    if not can_verify():
        raise ConfigError(f"verifying C2PA manifests (--c2pa) needs the package c2pa-python: {INSTALL}")
    return config.model_copy(update={"c2pa_trust_sha256": _digest(trust_list(config, storage)) or None})


def trust_list(config: DecodeConfig, storage: StorageConfig) -> str:
    """Return the certificates, PEM; empty where there are none. Raises ConfigError as `with_trust` does."""
    if config.c2pa_trust is None:
        return ""
    from cryptography.x509 import load_pem_x509_certificates

    try:
        found = read_text(config.c2pa_trust, storage, _WHAT)
        load_pem_x509_certificates(found.encode())
    except ValueError:
        raise ConfigError(
            f"{_WHAT} {config.c2pa_trust} holds no certificates that can be read: it must be PEM, as "
            "-----BEGIN CERTIFICATE----- begins one"
        ) from None
    if config.c2pa_trust_sha256 not in (None, _digest(found)):
        raise ConfigError(
            f"{_WHAT} {config.c2pa_trust} is not the one that the run began with: its SHA-256 is {_digest(found)}, not "
            f"{config.c2pa_trust_sha256}"
        )
    return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest() if text else ""
