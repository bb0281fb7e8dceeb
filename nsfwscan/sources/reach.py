"""Refuse what the rows of a list must not name, and where links must not lead.

Whoever writes a list, or puts a symbolic link into a media store, must not make a scan read what only the scan may.

A person names the list at the command line, and the prefixes that it may name beside its own (`--allow-source`).
Nothing is read here, and no host's name is resolved.

- A list in a bucket, or on a web server, names objects of that bucket or server; one elsewhere (any other fsspec URI),
  objects of its own folder. Others may be able to write it, so nothing else, and no file of this machine, is read.
- The manifest of an S3 Inventory also names objects of the bucket that it is of, where that bucket's name is part of
  the manifest's URI, as S3 lays inventories out: the person named it.
- A list on this machine is the person's own. It may name files of this machine, but not the system's (`/etc`, `/proc`,
  `/sys`, `/dev`, `/run`, `/boot`), and objects of any store; and no web server on this machine or on its link, where
  clouds keep credentials.

- A link in a folder that is scanned leads anywhere but to the system's places, which may be devices. Where the
  configuration says so (`source.links: within`), it leads to places within the sources, or to those that are allowed.
  So does a file that an allowed prefix lets a list name. A file that a list on this machine names may be a link to any
  place but the system's.

Not checked: to which address a name of a web server resolves, and where a server redirects to. See README.md here.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Iterable, Iterator

from nsfwscan.config import SourceConfig
from nsfwscan.errors import ErrorCode, RowError
from nsfwscan.location import Location
from nsfwscan.text import printable

_BY_AUTHORITY = frozenset({"s3", "gs", "http", "https", "az", "abfs", "abfss", "adl", "oss", "cos", "obs", "tos"})
"""Schemes whose URIs begin with a bucket, container or host."""
_SYSTEM = ("/etc", "/proc", "/sys", "/dev", "/run", "/var/run", "/boot")
_OF_CLOUDS = ("169.254.0.0/16", "fe80::/10", "fd00:ec2::/32", "100.100.100.200/32", "168.63.129.16/32")
"""Link-local addresses, where AWS, Google, Azure, Oracle and OpenStack answer with credentials; AWS's for IPv6,
Alibaba's and Azure's, which are not link-local."""
_NETWORKS = tuple(map(ipaddress.ip_network, _OF_CLOUDS))
_NAMES = ("localhost", "metadata", "instance-data", "metadata.google.internal", "instance-data.ec2.internal")
_CLIMBS = re.compile(r"(?:^|[/\\])(?:\.|%2e){2}(?:$|[/\\?#])", re.IGNORECASE)
_HELP = "--allow-source PREFIX allows more"


def allowed_prefix(written: str) -> str:
    """Return a prefix that rows may begin with: one that is only a bucket or host, or a folder, ends in `/`."""
    place = Location.of(written)
    if place.is_local:
        return place.absolute().uri.rstrip("/") + "/"
    return f"{place.uri}/" if place.authority and "/" not in place.uri.split("://", 1)[1] else place.uri


class Reach:
    """Places that the rows of one list may name.

    Args:
        manifest: where the list is.
        allowed: prefixes that a person allows beside.
        bucket: of the manifest of an S3 Inventory, the bucket that it is of.
    """

    def __init__(self, manifest: Location, allowed: Iterable[str] = (), bucket: str | None = None) -> None:
        self._home = manifest.absolute()
        self._allowed = tuple(map(allowed_prefix, allowed))
        self._own = _own_places(self._home)
        if bucket and self._home.is_s3 and bucket in self._home.path.split("/"):
            self._own += (f"s3://{bucket}/",)

    def refusal(self, place: Location) -> str | None:
        """Return why an object must not be read, or None."""
        uri = place.uri
        climbs = not place.is_local and _CLIMBS.search(uri) is not None
        if uri.startswith(self._allowed) and not climbs:
            return None
        if not self._home.is_local:
            if climbs:
                return f"not read: a list of others must not name a path with `..` in it; {_HELP}"
            if uri.startswith(self._own):
                return None
            return f"not read: a list at {printable(self._own[0])} must name objects there, and not elsewhere; {_HELP}"
        return self._refusal_at_home(place)

    def _refusal_at_home(self, place: Location) -> str | None:
        """Return why an object must not be read that a list on this machine names, or None."""
        if place.is_local:
            return _refusal_of_system(os.path.normpath(place.path))
        for link in (place, *map(Location.of, place.uri.split("::"))):  # an IPv6 address, too, may hold `::`
            if link.is_web and is_of_this_machine(link.authority):
                return f"not read: {printable(link.authority)} is this machine, or keeps its credentials; {_HELP}"
        return None


class Links:
    """Where the symbolic links of local sources may lead.

    Args:
        sources: URIs of the sources; those elsewhere do not count.
        allowed: prefixes that a person allows beside.
        within: whether they may lead to these places alone.
    """

    def __init__(self, sources: Iterable[str], allowed: Iterable[str] = (), *, within: bool = False) -> None:
        self._within = within
        self._written = tuple(map(_as_folder, _local_paths((*sources, *allowed))))
        self._real = tuple(_as_folder(os.path.realpath(path)) for path in self._written)

    @classmethod
    def of(cls, config: SourceConfig, more: Iterable[str] = ()) -> Links:
        """Return what the configuration says of its sources, and of more."""
        return cls((*config.uris, *more), config.allow, within=config.links == "within")

    def refusal(self, path: str, real: str) -> str | None:
        """Return why a file must not be read, or None.

        Args:
            path: the absolute path that names it.
            real: the path without any link that this leads to.
        """
        if _as_folder(real).startswith(self._real):
            return None
        if not _as_folder(path).startswith(self._written):
            return _refusal_of_system(real)
        where = "out of the sources" if self._within else "which is the system's" if _system_of(real) else None
        return f"not read: a symbolic link leads to {printable(real)}, {where}; {_HELP}" if where else None

    def check(self, path: str, real: str) -> None:
        """Raise RowError for a file that must not be read; arguments are those of `refusal`."""
        if refused := self.refusal(path, real):
            raise RowError(ErrorCode.OUT_OF_REACH, refused)


def _local_paths(uris: Iterable[str]) -> Iterator[str]:
    return (place.absolute().path for place in map(Location.of, uris) if place.is_local)


def _as_folder(path: str) -> str:
    return f"{path.rstrip('/')}/"


def _refusal_of_system(path: str) -> str | None:
    system = _system_of(path)
    return f"not read: {system} is the system's; {_HELP}" if system else None


def _system_of(path: str) -> str | None:
    return next((root for root in _SYSTEM if _as_folder(path).startswith(f"{root}/")), None)


def _own_places(home: Location) -> tuple[str, ...]:
    if home.is_local:
        return ()
    by_authority = home.scheme in _BY_AUTHORITY and home.authority
    return (f"{home.scheme}://{home.authority}/" if by_authority else home.uri.rpartition("/")[0] + "/",)


def is_of_this_machine(authority: str) -> bool:
    """Return whether a host (with its port) is, by its name or address, this machine or a place of its credentials."""
    host = re.split(r"[\\?#]", authority.rpartition("@")[2])[0]
    host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    host = host.rstrip(".").lower()
    if not host or host in _NAMES or host.endswith(".localhost"):
        return True
    try:
        address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            address = ipaddress.IPv4Address(socket.inet_aton(host))  # 127.1, 0x7f000001, 2130706433
        except OSError:
            return False
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    inside = any(address in network for network in _NETWORKS if network.version == address.version)
    return inside or address.is_loopback or address.is_unspecified or address.is_link_local or address.is_multicast
