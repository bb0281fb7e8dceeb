"""Find where a code in a picture leads to, and whether its host is on a list of the user's.

The content of a code is read as a browser reads an address (WHATWG URL, in so far as its host is concerned): tabs and
line breaks are left out, `\\` is `/`, what stands before `@` is no host, and names beyond ASCII become Punycode (IDNA
2008 after UTS 46). A list that is none raises `ConfigError` with its line.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import idna

from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError
from nsfwscan.storage.text_files import read_text

_DROPPED = re.compile(r"[\t\r\n]")
_WEB = re.compile(r"(?i)^(https?):[/\\]*")
_BARE = re.compile(r"^(?:www\.|(?=[\w.-]+\.[a-z]{2,}(?:[:/?#]|$)))", re.IGNORECASE)
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Link:
    """Where a web address leads.

    Attributes:
        host: in lower case and ASCII, without a dot at its end; an IP address as it is.
        port: None where it is the scheme's own.
        userinfo: whether there is something before `@`, which looks like a host and is none.
        idn: whether the host was written, or is, beyond ASCII.
    """

    host: str
    port: int | None = None
    userinfo: bool = False
    idn: bool = False

    @property
    def is_ip(self) -> bool:
        """Return whether the host is an address, and no name."""
        try:
            ipaddress.ip_address(self.host.strip("[]"))
        except ValueError:
            return False
        return True


def link_of(content: str) -> Link | None:
    """Return the link that a code's content is; None where it is something else (`tel:`, `WIFI:`, a text), or has no
    host that there can be."""
    written = _DROPPED.sub("", content).strip().replace("\\", "/")
    found = _WEB.match(written)
    if found is None:
        if "@" in written.split("/", 1)[0] or not _BARE.match(written):
            return None
        scheme, rest = "http", written
    else:
        scheme, rest = found[1].lower(), written[found.end() :]
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    name = _in_ascii(host)
    if name is None:
        return None
    idn = not host.isascii() or any(label.startswith("xn--") for label in name.split("."))
    return Link(name, None if port == _PORTS[scheme] else port, "@" in parts.netloc, idn)


def _in_ascii(host: str) -> str | None:
    """Return a host in ASCII; None where it cannot be one."""
    plain = host.rstrip(".").lower()
    if ":" in plain:  # IPv6
        return f"[{plain}]"
    try:
        name = idna.encode(plain, uts46=True, std3_rules=True).decode() if not plain.isascii() else plain
    except idna.IDNAError:
        return None
    return name if name and re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", name) else None


@dataclass(frozen=True)
class Hosts:
    """A list of hosts; each stands for itself and all below it."""

    uri: str
    names: frozenset[str]
    sha256: str

    def __contains__(self, host: str) -> bool:
        """Return whether the host, or one that it is below, is on the list."""
        labels = host.split(".")
        return any(".".join(labels[start:]) in self.names for start in range(len(labels)))

    def as_json(self) -> dict[str, Any]:
        """Return where it comes from, for `run.json`."""
        return {"uri": self.uri, "sha256": self.sha256, "hosts": len(self.names)}


def read_hosts(uri: str, storage: StorageConfig) -> Hosts:
    """Read a list of hosts: one a line, perhaps with `*.` before it or an address as in hosts(5); `#` begins a comment.
    Raises ConfigError."""
    try:
        text = read_text(uri, storage, "the hosts")
    except UnicodeDecodeError as error:
        raise ConfigError(f"the hosts {uri} are not UTF-8: {error}") from None
    names = set()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if len(words) > 1 and Link(words[0]).is_ip:
            words = words[1:]
        for word in words:
            name = _in_ascii(word.removeprefix("*."))
            if name is None or "/" in word:
                raise ConfigError(f"{uri}, line {number}: {word!r} is no host, such as example.com")
            names.add(name)
    return Hosts(uri, frozenset(names), hashlib.sha256(text.encode()).hexdigest())
