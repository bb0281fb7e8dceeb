"""Return the filesystem behind a location: S3, HTTP, archives, FTP, and all that fsspec has a package for.

Its methods take the URIs that its `unstrip_protocol` gives, hosts and archives included. A scheme that is unknown,
wraps another place or lacks its package is a `NsfwscanError` with what to do, and so is a file that is no archive.

`zip://MEMBER::PLACE` and `tar://MEMBER::PLACE` reach into an archive, which may lie in another one. Nothing is unpacked
to disk: a member is read out of the archive by its name, which is only a name, whatever `../` it has.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from functools import lru_cache
from threading import Lock
from typing import Any

import fsspec
from fsspec.core import strip_protocol
from fsspec.implementations.tar import TarFileSystem
from fsspec.implementations.zip import ZipFileSystem
from fsspec.utils import infer_compression

from nsfwscan.config import StorageConfig
from nsfwscan.errors import NsfwscanError
from nsfwscan.location import Location, split_chain
from nsfwscan.storage.aws_session import aws_session
from nsfwscan.storage.s3_dialect import adapt

_WRAPPERS = frozenset({"dir", "reference", "generic", "async_wrapper", "asyncwrapper", "cached", "data", "pyscript"})
"""Filesystems of fsspec that are nothing without another one."""
_ONE_AT_A_TIME = frozenset({"tar", "ftp", "sftp", "ssh", "smb"})
"""They keep one position or one connection for all threads."""
_BLOCK_BYTES = 4 * 2**20


class _Zip(ZipFileSystem):  # type: ignore[misc]
    """A zip whose members are named by their whole URI."""

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(split_chain(path)[0]))


class _Tar(TarFileSystem):  # type: ignore[misc]
    """A tar, packed or not, whose members are named by their whole URI."""

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(split_chain(path)[0]))


_ARCHIVES: dict[str, Any] = {"zip": _Zip, "tar": _Tar}
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, EOFError)


def filesystem(place: Location, storage: StorageConfig) -> fsspec.AbstractFileSystem:
    """Return the filesystem of a location; one per process, configuration, host and archive.

    Raises:
        NsfwscanError: it cannot be used; the message names the scheme, the reason, and what to do.
        OSError: the archive, or the host, cannot be reached.
    """
    place = place.absolute()
    scheme, archive = place.scheme or "file", split_chain(place.uri)[1]
    host = "" if archive or scheme == "file" or place.is_s3 or place.is_web else _host(scheme, place.uri)
    return _cached(scheme, archive, host, storage.model_dump_json())


def stripped(uri: str) -> str:
    """Return a URI as its filesystem lists it: without scheme and bucket or host, as that filesystem has it."""
    return str(strip_protocol(split_chain(uri)[0]))


def coroutine(fs: fsspec.AbstractFileSystem, name: str) -> Callable[..., Awaitable[Any]]:
    """Return the coroutine behind a method of an asynchronous filesystem, to be awaited on its own loop.

    fsspec documents coroutines under the method's name with an underscore before it, and has no other name for them:
    https://filesystem-spec.readthedocs.io/en/latest/async.html
    """
    found: Callable[..., Awaitable[Any]] = getattr(fs, f"_{name}")
    return found


@asynccontextmanager
async def get_url(fs: fsspec.AbstractFileSystem, url: str, **options: Any) -> AsyncIterator[Any]:
    """Yield aiohttp's answer to a GET. Raises FileNotFoundError for status 404, aiohttp's errors for others."""
    session = await fs.set_session()
    async with session.get(fs.encode_url(url), **{**fs.kwargs, **options}) as answer:
        if answer.status == 404:
            raise FileNotFoundError(url)
        answer.raise_for_status()
        yield answer


def taking_turns(fs: fsspec.AbstractFileSystem) -> AbstractContextManager[Any]:
    """Return the lock to hold while reading from a filesystem that is not thread-safe; for others a lock of nothing."""
    return getattr(fs, "turn", None) or nullcontext()


def _host(scheme: str, uri: str) -> str:
    """Return how all URIs of the same host begin, where the filesystem belongs to a host (`ftp://user@host`); else
    nothing."""
    if not _host_options(_class_of(scheme, uri), uri):
        return ""
    path, whole = stripped(uri), uri.rstrip("/")
    host = whole.removesuffix(path.rstrip("/"))
    return host if path.startswith("/") else f"{host.rstrip('/')}/"


def _host_options(known: Any, uri: str) -> dict[str, Any]:
    """Return what a URI says of its host, as arguments of a filesystem's class; only `url_to_fs` says so publicly, and
    takes an IPv6 address for a chain."""
    options: dict[str, Any] = known._get_kwargs_from_urls(uri)  # noqa: SLF001
    return options


def _class_of(scheme: str, uri: str) -> Any:
    if scheme in _WRAPPERS:
        raise NsfwscanError(f"{uri}: {scheme}:// wraps another place: name that place itself")
    if scheme in _ARCHIVES:
        raise NsfwscanError(
            f"{uri}: {scheme}:// needs an archive to look into, as {scheme}://::s3://bucket/media.{scheme}"
        )
    try:
        return fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise NsfwscanError(f"cannot read {scheme}:// URIs: {error}. Every node of a cluster needs it") from None
    except (ValueError, TypeError, RuntimeError) as error:
        raise NsfwscanError(f"cannot read {scheme}:// URIs: {error}") from None


@lru_cache(maxsize=16)
def _cached(scheme: str, archive: str, host: str, storage: str) -> fsspec.AbstractFileSystem:
    config = StorageConfig.model_validate_json(storage)
    fs = _archive(scheme, archive, config) if archive else _plain(scheme, host, config)
    if scheme in _ONE_AT_A_TIME:
        fs.turn = Lock()
    return fs


def _plain(scheme: str, host: str, config: StorageConfig) -> fsspec.AbstractFileSystem:
    known, options = _class_of(scheme, f"{scheme}://"), {"use_listings_cache": False, **config.options}
    if scheme == "s3":
        options = _s3_options(config)
    if scheme in ("http", "https"):
        # `objects.py` unpacks what is packed for the way, up to the limit; aiohttp must not.
        given = options.get("client_kwargs", {})
        headers = {"Accept-Encoding": "identity", **given.get("headers", {})}
        options["client_kwargs"] = {**given, "headers": headers, "auto_decompress": False}
    try:
        fs = known(**options, **(_host_options(known, host) if host else {}))
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever the package of that scheme raises
        raise NsfwscanError(f"cannot read {host or f'{scheme}://'} URIs: {error}") from None
    if scheme == "s3":
        fs.retries = 1
    if host:
        fs.unstrip_protocol = lambda path: f"{host}{path}"
    return fs


def _archive(scheme: str, place: str, config: StorageConfig) -> fsspec.AbstractFileSystem:
    if scheme not in _ARCHIVES:
        raise NsfwscanError(
            f"{scheme}://…::{place}: only zip:// and tar:// reach into another place; name {place} itself"
        )
    inner = Location.of(place)
    path, below = inner.path, fsspec.filesystem("file")
    if not inner.is_local:
        path, below = place, filesystem(inner, config)
    try:
        file = below.open(path, "rb", block_size=_BLOCK_BYTES)
        packed = {"compression": infer_compression(path)} if scheme == "tar" else {}
        fs = _ARCHIVES[scheme](fo=file, **packed)
        with suppress(FileNotFoundError):  # so says an archive without members
            fs.info("")  # reads the directory, and so finds damage
    except FileNotFoundError:
        raise NsfwscanError(f"{place}: no such archive") from None
    except _DAMAGED as error:
        raise NsfwscanError(f"{place}: this is no {scheme} archive, or it is cut or damaged ({error})") from None
    fs.unstrip_protocol = lambda path: f"{scheme}://{path}::{place}"
    return fs


def _s3_options(config: StorageConfig) -> dict[str, Any]:
    session = aws_session(config.profile)
    adapt(session, config.s3_compatibility)
    encryption = {"ServerSideEncryption": config.sse, "SSEKMSKeyId": config.sse_kms_key_id}
    return {
        "use_listings_cache": False,
        "anon": config.anonymous,
        "endpoint_url": config.endpoint_url,
        "requester_pays": config.requester_pays,
        "client_kwargs": {"region_name": config.region} if config.region else {},
        # One layer retries: botocore, with its backoff. s3fs would multiply the attempts.
        "config_kwargs": {
            "retries": {"total_max_attempts": 5, "mode": "standard"},
            "connect_timeout": 10,
            "read_timeout": 30,
            "max_pool_connections": 64,
            "s3": {"addressing_style": config.s3_addressing},
        },
        # Each request that writes asks for it; s3fs leaves it out of the others.
        "s3_additional_kwargs": {name: value for name, value in encryption.items() if value},
        "session": session,
        **config.options,
    }
