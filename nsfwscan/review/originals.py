"""Say where the original of an item is, for the one who asks to see it: a link of a template, or a presigned one.

A page loads nothing before it is asked for twice, and its content-security policy names the hosts of its links. A
template that is no web address, or whose host is not fixed, is a `ConfigError`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from nsfwscan.config import PASSWORD_IN_URI, StorageConfig
from nsfwscan.errors import ConfigError
from nsfwscan.location import Location
from nsfwscan.storage.failures import STORE_ERRORS, setup_error
from nsfwscan.storage.filesystems import filesystem
from nsfwscan.text import has_password

FIELDS = ("uri", "bucket", "key", "sha256", "object_id")
_FIELD = re.compile(r"\{([^{}]*)\}")
_ORIGIN = re.compile(r"https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::\d+)?")
_UPWARDS = re.compile(r"(?:^|/)\.{1,2}(?:/|$)")


class Originals(Protocol):
    """Where originals are."""

    def link(self, row: Mapping[str, Any]) -> str | None:
        """Return the web address of a row's object (`uri, sha256, object_id`); None where there is none."""


class NoOriginals:
    """Originals that the page does not offer."""

    def link(self, row: Mapping[str, Any]) -> str | None:
        """Return None."""
        return None


class Template:
    """Addresses of a template, such as `https://media.example/{key}`; values are percent-encoded.

    Raises:
        ConfigError: it is no address of a fixed host, or has other fields than `FIELDS`.
    """

    def __init__(self, template: str) -> None:
        said = f"--url-template {template!r}"
        if has_password(template):
            raise ConfigError(PASSWORD_IN_URI)
        origin = origin_of(template)
        if origin is None or not template[len(origin) :].startswith(("/", "?")):
            raise ConfigError(f"{said} must begin with http:// or https://, a host without a field, and a slash")
        unknown = [name for name in _FIELD.findall(template) if name not in FIELDS]
        if unknown or not _FIELD.search(template):
            there = ", ".join(f"{{{name}}}" for name in FIELDS)
            raise ConfigError(
                f"{said}: {f'there is no field {{{unknown[0]}}}; ' if unknown else ''}name one of {there}"
            )
        self._template = template

    def link(self, row: Mapping[str, Any]) -> str | None:
        """Return the address; None where a key of `..` would lead a browser elsewhere, or a field is not known."""
        place = Location.of(row["uri"])
        values = {**row, "bucket": place.authority, "key": place.path.lstrip("/")}
        used = {name: values.get(name) for name in _FIELD.findall(self._template)}
        if any(not value for value in used.values()) or _UPWARDS.search(used.get("key") or ""):
            return None
        return _FIELD.sub(
            lambda found: quote(str(used[found[1]]), safe="/" if found[1] == "key" else ""), self._template
        )


class Presigned:
    """Links to S3 that anybody can open for a time.

    Args:
        seconds: how long.
    """

    LONGEST_S = 7 * 86_400
    """The longest that S3 signs for."""

    def __init__(self, storage: StorageConfig, seconds: float) -> None:
        if not 1 <= seconds <= self.LONGEST_S:
            raise ConfigError("--presign: S3 signs links for seven days at most, and for a second at least")
        self._storage, self._seconds = _signing(storage), round(seconds)

    def link(self, row: Mapping[str, Any]) -> str | None:
        """Return a link; None for what is not on S3. Raises NsfwscanError where there are no credentials."""
        place = Location.of(row["uri"])
        if not place.is_s3:
            return None
        try:
            signed: str = filesystem(place, self._storage).sign(place.uri, expiration=self._seconds)
        except STORE_ERRORS as error:
            raise setup_error(error, f"cannot sign a link to {place.uri}") from error
        return signed


def _signing(storage: StorageConfig) -> StorageConfig:
    """Return the storage with links signed by version 4, for the bucket's own region: botocore signs links for the
    oldest regions by version 2, which S3 refuses for buckets made after June 2020, and for what a KMS key encrypts."""
    asked = {"signature_version": "s3v4", "s3": {"addressing_style": storage.s3_addressing}}
    config = {**asked, **storage.options.get("config_kwargs", {})}
    options = {"cache_regions": storage.region is None, **storage.options, "config_kwargs": config}
    return storage.model_copy(update={"options": options})


def origin_of(url: str) -> str | None:
    """Return scheme, host and port of a web address, as a content-security policy names them; None where it has
    none."""
    found = _ORIGIN.match(url)
    return found[0] if found and urlsplit(url).hostname else None
