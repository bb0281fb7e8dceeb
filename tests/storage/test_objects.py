"""One object is fetched, whole and in bounded time, or its row says why not."""

from __future__ import annotations

import asyncio
import math
import os
import stat
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest

from nsfwscan.errors import ErrorCode, NsfwscanError, Status
from nsfwscan.location import Location, local_uri
from nsfwscan.storage.filesystems import filesystem
from nsfwscan.storage.objects import Fetched, etag_of, moment
from tests.later import later
from tests.permissions import unprivileged
from tests.storage.fetching import BODY, LOCAL, failure, get

pd = later("pandas")

# URIs


@pytest.mark.parametrize(
    ("uri", "scheme"),
    [
        ("/data/a.jpg", None),
        ("a.jpg", None),
        ("file:///data/a.jpg", None),
        ("FILE:///data/a.jpg", None),
        ("s3://b/k", "s3"),
        ("S3A://b/k", "s3"),
        ("memory://a", "memory"),
        ("zip::s3://b/a.zip", "zip"),
        ("12:30.jpg", None),
        ("/odd/s3://b/k", None),
    ],
)
def test_schemes(uri: str, scheme: str | None) -> None:
    """A scheme is what stands before `://`, in lower case and without aliases; paths and `file://` are local."""
    assert Location.of(uri).scheme == scheme
    assert Location.of(uri).is_s3 == (scheme in ("s3", "s3a"))


def test_keys_are_taken_byte_for_byte() -> None:
    """`?`, `#`, `%` and `//` are ordinary characters of an S3 key."""
    whole, bucket = Location.of("s3://bucket/a//b?c#d%20e"), Location.of("s3://bucket")
    assert (whole.authority, whole.path) == ("bucket", "a//b?c#d%20e")
    assert (bucket.authority, bucket.path) == ("bucket", "")


@pytest.mark.parametrize("name", [b"plain.jpg", b"100% real#1?.jpg", b"caf\xe9.jpg", b"\xff\xfe%", "写真.jpg".encode()])
def test_every_file_name_has_a_uri_that_leads_back(name: bytes) -> None:
    """A path is its own URI, unless it is no UTF-8: then a percent-encoded `file://` URI stands for the same bytes."""
    path = "/media/" + os.fsdecode(name)
    uri = local_uri(path)
    uri.encode("utf-8")
    assert os.fsencode(Location.of(uri).path) == os.fsencode(path)


# Local objects


@pytest.mark.parametrize("name", [b"a.jpg", b"100% real#1?.jpg", b"line\nbreak", b"caf\xe9.jpg", "写真.jpg".encode()])
def test_local_files_are_read_whatever_their_names(tmp_path: Path, name: bytes) -> None:
    """The bytes come back for any name that a file can have, by the URI that a listing gives it."""
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "wb") as file:
        file.write(BODY)
    assert get(local_uri(os.fsdecode(path))) == Fetched(BODY, None)


def test_file_uris_are_percent_decoded(tmp_path: Path) -> None:
    """`file:///…/a%20b` is the file `a b`, while the plain path `…/a%20b` is taken as it stands."""
    (tmp_path / "a b").write_bytes(b"blank")
    (tmp_path / "a%20b").write_bytes(b"percent")
    assert get(f"file://{tmp_path}/a%20b").data == b"blank"
    assert get(f"{tmp_path}/a%20b").data == b"percent"


def test_a_local_file_that_is_gone_is_not_found(tmp_path: Path) -> None:
    """A file, or the target of a link, that is not there is `not_found`."""
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    assert failure(str(tmp_path / "absent")).status == Status.NOT_FOUND
    assert failure(str(tmp_path / "link")).status == Status.NOT_FOUND


def test_what_is_no_file_is_a_fetch_error_at_once(tmp_path: Path) -> None:
    """A directory, a socket or a named pipe without a writer is a `fetch_error`; the pipe is not waited for."""
    os.mkfifo(tmp_path / "pipe")
    os.mknod(tmp_path / "socket", stat.S_IFSOCK | 0o600)
    assert failure(str(tmp_path / "pipe")).message == "not a regular file"
    assert failure(str(tmp_path)).status == Status.FETCH_ERROR
    assert {failure(str(tmp_path / name)).code for name in ("pipe", "socket", "")} == {ErrorCode.NOT_A_FILE}


def test_a_path_with_nul_is_a_fetch_error() -> None:
    """A manifest may name a path that no file can have; that is a row's error, not the run's."""
    assert failure("/media/a\0b").status == Status.FETCH_ERROR


def test_a_large_local_file_is_not_read(tmp_path: Path) -> None:
    """Over the limit is `too_large`, with the size and the option in the message; at the limit it is read."""
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(2**40)  # reading it would not end well
    error = failure(str(path), max_bytes=1000)
    assert (error.status, error.code) == (Status.TOO_LARGE, ErrorCode.TOO_MANY_BYTES)
    assert error.values == {"size": 2**40}
    assert "--max-bytes" in error.message
    path.write_bytes(b"x" * 1000)
    assert len(get(str(path), max_bytes=1000).data) == 1000


def test_a_local_file_without_permission_is_denied(tmp_path: Path) -> None:
    """A file that we may not read is `denied`."""
    path = tmp_path / "secret"
    path.write_bytes(b"x")
    path.chmod(0)
    with unprivileged():
        assert failure(str(path)).status == Status.DENIED


def test_a_local_file_is_taken_as_it_is_now(tmp_path: Path) -> None:
    """Disks have no version tags: a file that has another size than listed has changed since, even where it is empty."""
    path = tmp_path / "changed"
    for now in (b"", b"shorter", BODY):
        path.write_bytes(now)
        assert get(str(path), size=5000) == Fetched(now, None)
        assert get(str(path), size=5000, etag="of-some-manifest") == Fetched(now, None)


@pytest.fixture
def changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """Return what somebody else does to the file `written`, one after each of our looks at its size."""
    path, changes = tmp_path / "written", list[Callable[[], object]]()
    fstat = os.fstat

    def look(descriptor: int) -> os.stat_result:
        found = fstat(descriptor)
        if changes and found.st_ino == path.stat().st_ino:
            changes.pop(0)()
        return found

    monkeypatch.setattr("nsfwscan.storage.objects.os.fstat", look)
    return changes


def test_a_local_file_that_is_being_written_is_read_again(tmp_path: Path, changes: list[Callable[[], object]]) -> None:
    """A file that changes is never taken in the middle: it is whole once its writer is done, a `fetch_error` before."""
    path = tmp_path / "written"
    path.write_bytes(BODY)

    def grow() -> None:
        with path.open("ab") as file:
            file.write(b"x" * 4096)

    def shrink() -> None:
        os.truncate(path, 1000)

    changes += [grow] * 6  # three looks an attempt: is it a file, how long is it, is it as long as it was
    error = failure(str(path), attempts=2)
    assert (error.status, error.message.endswith("after 2 attempts")) == (Status.FETCH_ERROR, True)
    for change in (grow, shrink, lambda: os.utime(path, (1, 1))):
        changes += [path.stat, change]
        assert get(str(path)).data == path.read_bytes()
    assert path.stat().st_size == 1000


def test_a_local_error_that_will_not_pass_is_not_tried_again(tmp_path: Path) -> None:
    """A name that is too long, a loop of links, a folder, NUL: at once, without backoff."""
    (tmp_path / "loop").symlink_to("loop")
    waits: list[float] = []
    for name in ("n" * 300, "loop", "", "nul\0", "loop/below"):
        assert failure(str(tmp_path / name), attempts=10, wait=waits.append).status == Status.FETCH_ERROR
    assert waits == [0.0] * 5


# Any other fsspec filesystem


@pytest.fixture
def odd() -> Iterator[type[Odd]]:
    """A filesystem that shows the size that a test wants."""
    fsspec.register_implementation("odd", Odd, clobber=True)
    Odd.shown_sizes, Odd.content = [], b"12345678"
    yield Odd
    Odd.clear_instance_cache()


class Odd(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """One object, whose listed sizes are the test's."""

    protocol = "odd"
    content = b""
    shown_sizes: ClassVar[list[int | None]] = []

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Return the object with the next of the sizes."""
        return {"name": path, "type": "file", "size": self.shown_sizes.pop(0), "etag": "v1"}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Return the bytes."""
        return self.content[start:end]


def test_other_filesystems_are_held_to_the_size_that_they_say(odd: type[Odd]) -> None:
    """Bytes that do not come to what `info` says are read again, and then a `fetch_error` with both numbers."""
    odd.shown_sizes = [9, 8]
    assert get("odd://a") == Fetched(b"12345678", "v1")
    odd.shown_sizes = [5000] * 3
    error = failure("odd://a")
    assert (error.status, error.message) == (Status.FETCH_ERROR, "read 8 of 5,000 bytes after 3 attempts")
    odd.shown_sizes = [None]
    assert get("odd://a").data == b"12345678"


def test_other_filesystems_are_held_to_the_listing_of_the_same_version(odd: type[Odd]) -> None:
    """With the listed tag the size must be the listed one; with another tag the object has changed since."""
    odd.shown_sizes = [8, 8]
    assert failure("odd://a", attempts=1, size=9, etag="v1").message == "read 8 of 9 bytes"
    assert get("odd://a", size=9, etag="v0") == Fetched(b"12345678", "v1")


def test_any_fsspec_filesystem_is_read() -> None:
    """`memory://` stands for all filesystems that are neither local nor S3: read, not found, too large, a directory."""
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/storage-tests/folder/a", BODY)
    try:
        assert get("memory://storage-tests/folder/a").data == BODY
        assert failure("memory://storage-tests/folder/b").status == Status.NOT_FOUND
        assert failure("memory://storage-tests/folder/a", max_bytes=10).status == Status.TOO_LARGE
        assert failure("memory://storage-tests/folder").message == "not an object but a directory"
    finally:
        fs.rm("/storage-tests", recursive=True)


class Slow(fsspec.asyn.AsyncFileSystem):  # type: ignore[misc]
    """An asynchronous filesystem whose answers never come."""

    protocol = "slow"

    async def _info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        await asyncio.sleep(0 if "body" in path else 60)
        return {"name": path, "type": "file", "size": 8}

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        await asyncio.sleep(60)
        return b""


@pytest.mark.parametrize("uri", ["slow://info", "slow://body"])
def test_asynchronous_filesystems_are_interrupted(uri: str) -> None:
    """Wherever gcsfs, adlfs or HTTP hang, each attempt ends after `timeout_s`, and the row is a `timeout`."""
    fsspec.register_implementation("slow", Slow, clobber=True)
    began = time.monotonic()
    error = failure(uri, timeout_s=0.2, attempts=2)
    assert (error.status, error.message) == (Status.TIMEOUT, "the read timed out after 2 attempts")
    assert 0.4 <= time.monotonic() - began < 30  # each hangs for a minute


def test_a_scheme_without_a_package_stops_the_run() -> None:
    """An unknown scheme fails every object alike, and names itself."""
    with pytest.raises(NsfwscanError, match="cannot read nosuch://"):
        filesystem(Location.of("nosuch://x"), LOCAL)


def test_version_tags_are_found_under_every_name() -> None:
    """S3 calls it ETag, Azure etag, Google md5Hash; quotes are no part of it."""
    assert etag_of({"ETag": '"abc"'}) == etag_of({"etag": "abc"}) == etag_of({"md5Hash": "abc"}) == "abc"
    assert etag_of({"size": 3, "ETag": None}) is None


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        (1_700_000_000, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        ("2023-11-14T22:13:20", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        ("2023-11-15T00:13:20+02:00", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        ("Tue, 14 Nov 2023 22:13:20 GMT", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        (-1, datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
        *[(odd, None) for odd in (math.nan, math.inf, 2**40, -(2**40), 10**400, "yesterday", "", (2023, 11, 14), b"1")],
        (datetime.max.replace(tzinfo=timezone(timedelta(hours=-2))), None),
    ],
)
def test_a_time_is_understood_or_none(told: Any, meant: datetime | None) -> None:
    """Seconds, ISO 8601, HTTP dates and datetimes are a moment; what no calendar has is None, and raises nothing."""
    assert moment(told) == meant


def test_a_time_that_pandas_lacks_is_none() -> None:
    """Its NaT compares with nothing, and raises nothing."""
    assert moment(pd.NaT) is None
