"""Parse a path or URI once: which ways of writing it mean the same object, and what its parts are.

- `s3://`, `s3a://` and `s3n://` (Hadoop's names), in any case, are `s3://`; `gcs://` is `gs://`; any scheme is written
  in lower case, and so is the host of an `http` or `https` URI.
- `file:///x`, `file:/x`, `local:///x` and `/x` are the path `/x`; in an absolute path, `//` and `/./` are `/`. A path
  whose bytes are not UTF-8 is a percent-encoded `file://` URI.
- In chained URIs (`zip://a.png::S3A://b/k`) each link is written so. A cache in front (`simplecache::`) is left out: it
  changes no object, and each object is read once.
- All else stays as it is: in a key of S3 `//`, `..`, `?`, `#` and `%` are ordinary characters, and buckets and keys
  are case-sensitive.

Configurations, reports and tables keep URIs as strings in this spelling, `Location.of(written).uri`: a scan has
millions of them, and only what reads one needs its parts.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
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
_WEB = frozenset({"http", "https"})
_ARCHIVES = frozenset({"zip", "tar"})
_ONE_SLASH = re.compile(rf"({_NAME.pattern}):/(?!/)")
_WITH_HOST = frozenset({"s3", "gs", *_WEB})
"""Schemes whose URIs name a bucket or a host."""
_STORES = frozenset({*_WITH_HOST, *_ALIASES})
STDOUT = "-"
"""The place that is standard output, where a command writes one file."""


@dataclass(frozen=True, slots=True)
class Location:
    """A path or URI and its parts.

    Attributes:
        uri: the canonical spelling, as the report has it.
        scheme: `s3`, `gs`, … in lower case and without aliases; None for a local path.
        authority: the bucket, or the host with its port; empty for a local path and a chained URI.
        path: the key without its first `/`, or the local path; of a chained URI the whole of it.
    """

    uri: str
    scheme: str | None
    authority: str
    path: str

    @classmethod
    def of(cls, written: str) -> Self:
        """Parse a path or URI; a relative path stays relative, and text that is no URI is a path."""
        if _FILE.match(written):
            path = _unquoted(written.split(":", 1)[1])
            end = "/" if path.endswith("/") and path.strip("/") else ""
            return cls.local(f"{os.path.normpath('/' + path.lstrip('/'))}{end}")
        scheme = _scheme_of(written)
        if scheme is None:
            return cls(written, None, "", written)
        if cache := _CACHE.match(written):
            return cls.of(written[cache.end() :])
        if scheme == "s3":  # whatever follows, `::` too, is a bucket and a key
            rest = written.split("://", 1)[-1]
            authority, _, path = rest.partition("/")
            return cls(f"s3://{rest}", scheme, authority, path)
        uri = _CACHES.sub("::", "::".join(map(_link, written.split("::"))))
        is_chained = "::" in uri and (scheme in _ARCHIVES or split_chain(uri)[1] != "")
        if is_chained or not uri.startswith(f"{scheme}://"):
            return cls(uri, scheme, "", uri)
        authority, _, path = uri.split("://", 1)[1].partition("/")
        return cls(uri, scheme, authority, path)

    @classmethod
    def given(cls, written: str) -> Self:
        """Parse a place that a person names, in an option or a configuration.

        Raises:
            ValueError: it cannot be meant as a place: it is empty or `-`, or a URI without a slash, its bucket or its
                host, which would be a path. A path of such a name can be written with `./` before it.
        """
        if wrong := _no_place(written):
            raise ValueError(f"{written!r} is no place: {wrong}")
        return cls.of(written)

    @classmethod
    def local(cls, path: str) -> Self:
        """Return the location of a path of this machine, whatever characters and bytes its name has."""
        return cls(local_uri(path), None, "", path)

    @property
    def is_local(self) -> bool:
        """True for a path of this machine."""
        return self.scheme is None

    @property
    def is_s3(self) -> bool:
        """True for an S3 object or prefix: `authority` is the bucket, `path` the key."""
        return self.scheme == "s3"

    @property
    def is_web(self) -> bool:
        """True for an `http` or `https` URL."""
        return self.scheme in _WEB

    def absolute(self) -> Self:
        """Return the location as listings write it: a local path is absolute, also that of an archive."""
        if self.is_local:
            return self.local("/" + os.path.abspath(self.path).lstrip("/"))
        first, separator, last = self.uri.rpartition("::")
        if self.scheme not in _ARCHIVES or not separator or _scheme_of(last) is not None:
            return self
        return self.of(f"{first}::{self.of(last).absolute().uri}")

    def parent(self) -> Self:
        """Return the folder that this lies in, without a `/` at its end."""
        path = self.path.rpartition("/")[0]
        return self.local(path) if self.is_local else replace(self, uri=self.uri.rpartition("/")[0], path=path)

    def child(self, name: str) -> Self:
        """Return the location of a name below this folder, which is written without a `/` at its end."""
        if self.is_local:
            return self.local(f"{self.path}/{name}")
        return replace(self, uri=f"{self.uri}/{name}", path=f"{self.path}/{name}" if self.path else name)


def local_uri(path: str) -> str:
    """Return a path as the report writes it: itself, or a percent-encoded `file://` URI where its name is not UTF-8."""
    try:
        path.encode("utf-8")
        return path
    except UnicodeEncodeError:
        return "file://" + quote_from_bytes(os.fsencode(path))


def split_chain(uri: str) -> tuple[str, str]:
    """Return the first link of a chain and the rest (`zip://a.png` and `s3://b/k`), or the whole and nothing.

    What follows a link is a URI or an absolute path: other `::` are a part of a name.
    """
    if _scheme_of(uri) in (None, "s3", *_WEB):
        return uri, ""
    first, *rest = _NEXT_LINK.split(uri, maxsplit=1)
    return first, rest[0] if rest else ""


def _no_place(written: str) -> str | None:
    """Return why a text cannot be meant as a place, and what may be meant; None where it can."""
    bare = written.strip()
    if not bare or "\0" in bare:
        return "it holds a zero byte" if bare else "it is empty"
    if written == STDOUT:
        return "standard output is not one here; for a file of that name write ./-"
    if written != bare and _SCHEME.match(bare):
        return "there is a blank around it"
    return _half_a_uri(written)


def _half_a_uri(written: str) -> str | None:
    scheme, _, rest = written.partition(":")
    scheme = scheme.lower()
    if len(scheme) > 1 and scheme not in _LOCAL and _ONE_SLASH.match(written):
        return f"a slash is missing: {scheme}://{rest.lstrip('/')}; for a path of that name write ./{written}"
    if scheme in _STORES and ":" in written and not rest.startswith(("//", "::")):
        return f"two slashes are missing: {scheme}://{rest}; for a path of that name write ./{written}"
    if _scheme_of(written) in _WITH_HOST and not written.partition("://")[2].partition("/")[0]:
        return f"it names no {'host' if scheme in _WEB else 'bucket'}"
    return "it has no scheme before ://" if written.startswith("://") else None


def _scheme_of(uri: str) -> str | None:
    match = _SCHEME.match(uri)
    if match is None:
        return None
    scheme = match.group(1).lower()
    return None if scheme in _LOCAL else _ALIASES.get(scheme, scheme)


def _link(uri: str) -> str:
    """Return one link of a chain of URIs, or the only one, in its canonical spelling."""
    written, separator, rest = uri.partition("://")
    if not separator or not _NAME.fullmatch(written):
        return uri
    scheme = _ALIASES.get(written.lower(), written.lower())
    if scheme in _WEB:
        authority, slash, path = rest.partition("/")
        user, at, host = authority.rpartition("@")
        rest = f"{user}{at}{host.lower()}{slash}{path}"
    return f"{scheme}://{rest}"


def _unquoted(path: str) -> str:
    """Return the path of a `file:` URI (RFC 8089), percent-decoded; `//` and the host `localhost` come before it."""
    if path.startswith("//"):
        path = path[2:].removeprefix("localhost") if path.startswith("//localhost/") else path[2:]
    return os.fsdecode(unquote_to_bytes(path))
