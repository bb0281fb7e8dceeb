"""Where something is, in one spelling: the one place that knows which ways of writing a URI mean the same object.

In: paths and URIs as people, manifests and other programs write them. Out: the canonical spelling, in which the report
has them, and their parts. Nothing goes wrong here: what is no URI is a path.

- `s3://`, `s3a://` and `s3n://` (Hadoop's names), in any case, are `s3://`; `gcs://` is `gs://`; any scheme is written
  in lower case, and so is the host of an `http` or `https` URI.
- `file:///x`, `file:/x`, `local:///x` and `/x` are the path `/x`; of a path that is made absolute, `//` and `/./` are
  `/`. Where the bytes of a path are no UTF-8, it is a percent-encoded `file://` URI.
- Of chained URIs (`zip://a.png::S3A://b/k`) each link is written so. A cache in front (`simplecache::`) is left out: it
  changes no object, and each is read once.
- All else is left as it is: in a key of S3 `//`, `..`, `?`, `#` and `%` are ordinary characters, and the letters of a
  bucket and of a key have their case.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote_from_bytes, unquote_to_bytes

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_SCHEME = re.compile(rf"({_NAME.pattern})(?:://|::)")
_FILE = re.compile(r"(?:file|local):/", re.IGNORECASE)
_ALIASES = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}
_CACHE = re.compile(r"(?:simplecache|filecache|blockcache|cached)(?:://)?::", re.IGNORECASE)
_CACHES = re.compile(r"::(?:simplecache|filecache|blockcache|cached)(?:://)?::", re.IGNORECASE)
_NEXT_LINK = re.compile(rf"::(?={_NAME.pattern}://|/)")
_LOCAL = frozenset({"file", "local"})
_WITH_HOST = frozenset({"http", "https"})


@dataclass(frozen=True)
class Location:
    """A place in its canonical spelling.

    Attributes:
        uri: as the report has it.
        scheme: `s3`, `gs`, … in lower case and without aliases; None for a local path.
        authority: the bucket, or the host with its port; empty for a local path and a chained URI.
        path: what follows: a key without its first `/`, or the local path.
    """

    uri: str
    scheme: str | None
    authority: str
    path: str

    @classmethod
    def of(cls, written: str) -> Self:
        """Return the place that a path or URI names; a relative path stays relative."""
        uri = canonical(written)
        scheme = scheme_of(uri)
        if scheme is None:
            return cls(uri, None, "", local_path(uri))
        if not uri.startswith(f"{scheme}://") or (scheme != "s3" and "::" in uri):
            return cls(uri, scheme, "", uri)
        authority, _, path = uri.split("://", 1)[1].partition("/")
        return cls(uri, scheme, authority, path)


def scheme_of(uri: str) -> str | None:
    """Return `s3`, `gs`, … in lower case and without aliases, or None for a local path (plain or `file://`)."""
    match = _SCHEME.match(uri)
    if match is None:
        return None
    scheme = match.group(1).lower()
    return None if scheme in _LOCAL else _ALIASES.get(scheme, scheme)


def is_s3(uri: str) -> bool:
    """Return whether the URI names an S3 object or prefix."""
    return scheme_of(uri) == "s3"


def canonical(uri: str) -> str:
    """Return a URI in the one spelling that means the same place. A plain path is left as it is."""
    if _FILE.match(uri):
        path = local_path(uri)
        end = "/" if path.endswith("/") and path.strip("/") else ""
        return local_uri(f"{os.path.normpath('/' + path.lstrip('/'))}{end}")
    scheme = scheme_of(uri)
    if scheme is None:
        return uri
    if _CACHE.match(uri):
        return canonical(_CACHE.sub("", uri, count=1))
    if scheme == "s3":  # whatever follows, `::` too, is a bucket and a key
        return "s3://" + uri.split("://", 1)[-1]
    return _CACHES.sub("::", "::".join(map(_link, uri.split("::"))))


def split_chain(uri: str) -> tuple[str, str]:
    """Return the first link of a chain and the rest: `zip://a.png` and `s3://b/k`; nothing for the rest where there is
    none. What follows a link is a URI or an absolute path: `::` within a name is a part of that name."""
    if scheme_of(uri) in (None, "s3", *_WITH_HOST):
        return uri, ""
    first, *rest = _NEXT_LINK.split(uri, maxsplit=1)
    return first, rest[0] if rest else ""


def _link(uri: str) -> str:
    """One link of a chain of URIs, or the only one."""
    written, separator, rest = uri.partition("://")
    if not separator or not _NAME.fullmatch(written):
        return uri
    scheme = _ALIASES.get(written.lower(), written.lower())
    if scheme in _WITH_HOST:
        authority, slash, path = rest.partition("/")
        user, at, host = authority.rpartition("@")
        rest = f"{user}{at}{host.lower()}{slash}{path}"
    return f"{scheme}://{rest}"


def local_path(uri: str) -> str:
    """Return the path behind a local URI; `file:` URIs are percent-decoded (RFC 8089)."""
    if _SCHEME.match(uri) and "://" in uri:
        path = uri.split("://", 1)[1]
        return os.fsdecode(unquote_to_bytes(path.removeprefix("localhost") if path.startswith("localhost/") else path))
    if _FILE.match(uri):
        return os.fsdecode(unquote_to_bytes(uri.split(":", 1)[1]))
    return uri


def local_uri(path: str) -> str:
    """Return a path as the report writes it: itself, or a percent-encoded `file://` URI where its name is not UTF-8."""
    try:
        path.encode("utf-8")
        return path
    except UnicodeEncodeError:
        return "file://" + quote_from_bytes(os.fsencode(path))


def absolute_uri(uri: str) -> str:
    """Return a source as listings write its objects' URIs: canonical, local paths absolute."""
    if scheme_of(uri) is not None:
        found = canonical(uri)
        first, separator, last = found.rpartition("::")
        if is_s3(found) or not separator or scheme_of(last) is not None:
            return found if scheme_of(found) is not None else absolute_uri(found)
        return f"{first}::{absolute_uri(last)}"
    path = os.path.abspath(local_path(uri))
    return local_uri("/" + path.lstrip("/"))


def split_s3(uri: str) -> tuple[str, str]:
    """Return bucket and key, byte for byte: `?`, `#` and `%` are ordinary characters of a key."""
    bucket, _, key = uri.split("://", 1)[1].partition("/")
    return bucket, key
