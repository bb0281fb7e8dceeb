"""One object is fetched, or its row says why not; a report store's files appear whole or not at all."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.errors import RowError, SetupError, StoreError
from nsfwscan.schema import Status
from nsfwscan.storage import Fetched, etag_of, fetch, filesystem, is_s3, local_path, local_uri, scheme_of, split_s3
from nsfwscan.store import Store, to_json
from tests.permissions import unprivileged
from tests.s3.servers import FaultyProxy, S3Endpoint

LOCAL = StorageConfig()
BUCKET = "storage-tests"
BODY = bytes(range(256)) * 1024


def get(uri: str, storage: StorageConfig = LOCAL, **limits: Any) -> Fetched:
    return fetch(uri, storage, **{"max_bytes": 2**20, "timeout_s": 20.0, "attempts": 3, **limits})


def failure(uri: str, storage: StorageConfig = LOCAL, **limits: Any) -> RowError:
    with pytest.raises(RowError) as error:
        get(uri, storage, **limits)
    return error.value


@pytest.fixture(scope="module")
def s3(moto: S3Endpoint) -> Any:
    """A client of the S3 server, with the bucket of these tests."""
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key="object", Body=BODY)
    return client


@pytest.fixture
def proxy(moto: S3Endpoint, s3: Any) -> Iterator[FaultyProxy]:
    with FaultyProxy(moto) as faulty:
        yield faulty


@pytest.fixture
def through(proxy: FaultyProxy) -> StorageConfig:
    """Storage that reaches the S3 server through the proxy; two attempts a request, where the default has five."""
    quick = {"config_kwargs": {"retries": {"total_max_attempts": 2, "mode": "standard"}, "connect_timeout": 5}}
    return StorageConfig(endpoint_url=proxy.endpoint.endpoint_url, options=quick)


def is_object(method: str, path: str) -> bool:
    return method == "GET" and path.startswith(f"/{BUCKET}/object")


# URIs


@pytest.mark.parametrize(
    ("uri", "scheme"),
    [
        ("/data/a.jpg", None),
        ("a.jpg", None),
        ("file:///data/a.jpg", None),
        ("FILE:///data/a.jpg", None),
        ("s3://b/k", "s3"),
        ("S3A://b/k", "s3a"),
        ("memory://a", "memory"),
        ("zip::s3://b/a.zip", "zip"),
        ("12:30.jpg", None),
        ("/odd/s3://b/k", None),
    ],
)
def test_schemes(uri: str, scheme: str | None) -> None:
    """A scheme is what stands before `://`, in lower case; paths and `file://` are local."""
    assert scheme_of(uri) == scheme
    assert is_s3(uri) == (scheme in ("s3", "s3a"))


def test_keys_are_taken_byte_for_byte() -> None:
    """`?`, `#`, `%` and `//` are ordinary characters of an S3 key."""
    assert split_s3("s3://bucket/a//b?c#d%20e") == ("bucket", "a//b?c#d%20e")
    assert split_s3("s3://bucket") == ("bucket", "")


@pytest.mark.parametrize("name", [b"plain.jpg", b"100% real#1?.jpg", b"caf\xe9.jpg", b"\xff\xfe%", "写真.jpg".encode()])
def test_every_file_name_has_a_uri_that_leads_back(name: bytes) -> None:
    """A path is its own URI, unless it is no UTF-8: then a percent-encoded `file://` URI stands for the same bytes."""
    path = "/media/" + os.fsdecode(name)
    uri = local_uri(path)
    uri.encode("utf-8")
    assert os.fsencode(local_path(uri)) == os.fsencode(path)


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
    """A directory or a named pipe without a writer is a `fetch_error`; the pipe is not waited for."""
    os.mkfifo(tmp_path / "pipe")
    assert failure(str(tmp_path / "pipe")).message == "not a regular file"
    assert failure(str(tmp_path)).status == Status.FETCH_ERROR


def test_a_path_with_nul_is_a_fetch_error() -> None:
    """A manifest may name a path that no file can have; that is a row's error, not the run's."""
    assert failure("/media/a\0b").status == Status.FETCH_ERROR


def test_a_large_local_file_is_not_read(tmp_path: Path) -> None:
    """Over the limit is `too_large`, with the size and the option in the message; at the limit it is read."""
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(2**40)  # reading it would not end well
    error = failure(str(path), max_bytes=1000)
    assert error.status == Status.TOO_LARGE
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


# Any other fsspec filesystem


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


def test_a_scheme_without_a_package_stops_the_run() -> None:
    """An unknown scheme fails every object alike, and names itself."""
    with pytest.raises(SetupError, match="cannot read nosuch://"):
        filesystem("nosuch://x", LOCAL)


def test_version_tags_are_found_under_every_name() -> None:
    """S3 calls it ETag, Azure etag, Google md5Hash; quotes are no part of it."""
    assert etag_of({"ETag": '"abc"'}) == etag_of({"etag": "abc"}) == etag_of({"md5Hash": "abc"}) == "abc"
    assert etag_of({"size": 3, "ETag": None}) is None


# S3 objects


def test_an_s3_object_comes_with_the_version_that_was_read(s3: Any) -> None:
    """The bytes and the ETag of the same answer."""
    etag = s3.head_object(Bucket=BUCKET, Key="object")["ETag"].strip('"')
    assert get(f"s3://{BUCKET}/object") == Fetched(BODY, etag)


@pytest.mark.parametrize(
    "key", ["a folder/100% real#1?.jpg", "a//b", "写真/é\u202e.jpg", "./a", "+plus+", "trailing/", "a*[b]"]
)
def test_s3_keys_are_read_as_they_are(s3: Any, key: str) -> None:
    """No character of a key is decoded, normalised or globbed on the way."""
    s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode())
    assert get(f"s3://{BUCKET}/{key}").data == key.encode()


def test_an_empty_s3_object_is_empty(s3: Any) -> None:
    """No bytes are bytes, too; decoding will say what is wrong with them."""
    s3.put_object(Bucket=BUCKET, Key="empty", Body=b"")
    assert get(f"s3://{BUCKET}/empty").data == b""


def test_an_s3_object_that_is_gone_is_not_found(s3: Any) -> None:
    """A missing key, and a missing bucket, are `not_found`, with the store's code."""
    error = failure(f"s3://{BUCKET}/absent")
    assert (error.status, error.message) == (Status.NOT_FOUND, "no such object (NoSuchKey)")
    assert failure("s3://no-such-bucket-here/a").status == Status.NOT_FOUND


def test_a_refused_object_is_denied(proxy: FaultyProxy, through: StorageConfig) -> None:
    """403 AccessDenied concerns this object; it is not tried again."""
    proxy.fail(is_object, status=403, code="AccessDenied")
    error = failure(f"s3://{BUCKET}/object", through)
    assert (error.status, error.message) == (Status.DENIED, "permission denied (AccessDenied)")
    assert proxy.requests["GET"] == 1


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"])
def test_refused_credentials_stop_the_run(proxy: FaultyProxy, through: StorageConfig, code: str) -> None:
    """Credentials that fail every object alike are a SetupError that says what to check."""
    proxy.fail(is_object, status=403 if code != "ExpiredToken" else 400, code=code)
    with pytest.raises(SetupError, match=rf"\({code}\).*AWS_ACCESS_KEY_ID"):
        get(f"s3://{BUCKET}/object", through)


def test_missing_credentials_stop_the_run(moto: S3Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without any credentials nothing was sent: a SetupError that names the variables, and --anonymous."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "absent"))
    with pytest.raises(SetupError, match=r"no AWS credentials.*--anonymous"):
        get(f"s3://{BUCKET}/object", StorageConfig(options={"skip_instance_cache": True}))


def test_a_profile_that_does_not_exist_stops_the_run(
    moto: S3Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A wrong --profile is a SetupError with its name, not an error in every row."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "absent"))
    with pytest.raises(SetupError, match="no-such-profile"):
        get(f"s3://{BUCKET}/object", StorageConfig(profile="no-such-profile"))


def test_throttling_is_retried_and_then_said(proxy: FaultyProxy, through: StorageConfig) -> None:
    """503 SlowDown is tried again by one layer only; when that is used up, the row says that it was throttled."""
    proxy.fail(is_object)
    error = failure(f"s3://{BUCKET}/object", through, attempts=4)
    assert error.status == Status.FETCH_ERROR
    assert error.message == "throttled by the store (SlowDown), retries used up"
    assert proxy.requests["GET"] == 2


def test_throttling_that_passes_is_not_seen(proxy: FaultyProxy, through: StorageConfig) -> None:
    """One 503 and then the object: the row is fine."""
    proxy.fail(is_object, times=1)
    assert get(f"s3://{BUCKET}/object", through).data == BODY


def test_a_cut_body_is_read_again(proxy: FaultyProxy, through: StorageConfig) -> None:
    """A connection that drops halfway is tried again, and the whole object comes back."""
    proxy.cut_body(is_object, times=2)
    assert get(f"s3://{BUCKET}/object", through, attempts=3).data == BODY
    assert proxy.injected == {"cut_body": 2}


def test_a_body_that_is_always_cut_is_a_fetch_error(proxy: FaultyProxy, through: StorageConfig) -> None:
    """Half an image is never taken for a whole one: after the last attempt the row says so."""
    proxy.cut_body(is_object)
    error = failure(f"s3://{BUCKET}/object", through, attempts=2)
    assert error.status == Status.FETCH_ERROR and error.message.endswith("after 2 attempts")


def test_a_slow_object_times_out(proxy: FaultyProxy, through: StorageConfig) -> None:
    """An answer that does not come is a `timeout` after as many attempts as allowed, each as long as allowed."""
    proxy.delay(is_object, 30)
    began = time.monotonic()
    error = failure(f"s3://{BUCKET}/object", through, timeout_s=0.3, attempts=2)
    assert (error.status, error.message) == (Status.TIMEOUT, "the read timed out after 2 attempts")
    assert 0.6 <= time.monotonic() - began < 5


def test_a_server_that_is_away_is_a_fetch_error(moto: S3Endpoint) -> None:
    """A refused connection is a `fetch_error` that names the endpoint, never a `not_found`."""
    quick = {"config_kwargs": {"retries": {"total_max_attempts": 1}}}
    error = failure(f"s3://{BUCKET}/object", StorageConfig(endpoint_url="http://127.0.0.1:9", options=quick))
    assert error.status == Status.FETCH_ERROR and "127.0.0.1:9" in error.message


def test_a_large_s3_object_is_not_read(s3: Any, proxy: FaultyProxy, through: StorageConfig) -> None:
    """ContentLength over the limit is `too_large` before the body: a body that is always cut is not noticed."""
    proxy.cut_body(is_object)
    error = failure(f"s3://{BUCKET}/object", through, max_bytes=len(BODY) - 1)
    assert (error.status, error.values) == (Status.TOO_LARGE, {"size": len(BODY)})
    assert proxy.requests["GET"] == 1


def test_an_archived_object_says_so(proxy: FaultyProxy, through: StorageConfig) -> None:
    """An object in Glacier is a `fetch_error` that says to restore it first."""
    proxy.fail(is_object, status=403, code="InvalidObjectState")
    error = failure(f"s3://{BUCKET}/object", through)
    assert error.status == Status.FETCH_ERROR and "restore it" in error.message


def test_many_threads_read_at_once(s3: Any) -> None:
    """The filesystem is shared by all reading threads of a worker."""
    found: list[bool] = []
    threads = [
        threading.Thread(target=lambda: found.append(get(f"s3://{BUCKET}/object").data == BODY)) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 16


# Report stores


@pytest.fixture(params=["local", "file uri", "s3", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store on each kind of storage."""
    name = tmp_path.name
    if request.param == "s3":
        request.getfixturevalue("s3")
        yield Store.at(f"s3://{BUCKET}/{name}/", LOCAL)
    elif request.param == "memory":
        yield Store.at(f"memory://{name}", LOCAL)
        fs = fsspec.filesystem("memory")
        if fs.exists(f"/{name}"):
            fs.rm(f"/{name}", recursive=True)
    else:
        yield Store.at(str(tmp_path / "store") if request.param == "local" else f"file://{tmp_path}/a%20store", LOCAL)


def test_what_was_written_is_read(store: Store) -> None:
    """Files come back as written, in folders that nobody made before; a second write replaces the first."""
    store.write("runs/1/run.json", b"first")
    store.write("runs/1/run.json", b"second")
    assert store.read("runs/1/run.json") == b"second"
    assert store.exists("runs/1/run.json") and not store.exists("runs/1/_SUCCESS")


def test_a_file_that_is_absent_is_not_found(store: Store) -> None:
    """Reading what is not there is FileNotFoundError, which callers tell from a store that fails."""
    with pytest.raises(FileNotFoundError):
        store.read("absent")


def test_create_refuses_to_overwrite(store: Store) -> None:
    """The second creation of a name is FileExistsError and leaves the first one's content."""
    store.create("runs/1/run.json", b"first")
    with pytest.raises(FileExistsError):
        store.create("runs/1/run.json", b"second")
    assert store.read("runs/1/run.json") == b"first"


def test_names_are_those_directly_under_a_folder(store: Store) -> None:
    """Files and folders by name, sorted, without what lies deeper; nothing for a folder that is not there."""
    for name in ("runs/b/run.json", "runs/a/listing/part-0", "runs/c", "other"):
        store.write(name, b"x")
    assert store.names("runs") == ["a", "b", "c"]
    assert store.names("") == ["other", "runs"]
    assert store.names("absent") == []
    store.write("runs/d", b"x")
    assert store.names("runs") == ["a", "b", "c", "d"]


def test_delete_takes_a_file_or_a_folder_with_all_in_it(store: Store) -> None:
    """What is deleted is gone at once, its neighbours stay, and deleting what is absent is no error."""
    for name in ("staging/1/a", "staging/1/b", "staging/10/c", "staging/d"):
        store.write(name, b"x")
    store.delete("staging/1")
    store.delete("staging/d")
    store.delete("staging/absent")
    assert store.names("staging/1") == []
    assert store.names("staging") == ["10"]
    assert not store.exists("staging/d")


def test_json_that_is_absent_or_half_written_is_none(store: Store) -> None:
    """`read_json` gives the mapping, or None; it does not raise over a heartbeat that is being written."""
    store.write("good", to_json({"é": [1]}))
    store.write("half", b'{"a": ')
    store.write("list", b"[]")
    assert store.read_json("good") == {"é": [1]}
    assert store.read_json("half") is store.read_json("list") is store.read_json("absent") is None


def test_a_store_may_have_odd_characters_in_its_name(s3: Any, tmp_path: Path) -> None:
    """Brackets and blanks in the store's own path are no globs: deleting takes just what it names."""
    for uri in (f"{tmp_path}/odd [1] *", f"s3://{BUCKET}/odd [1] *"):
        odd, neighbour = Store.at(uri, LOCAL), Store.at(uri.replace("[1] *", "1 x"), LOCAL)
        odd.write("run/a", b"x")
        neighbour.write("run/a", b"x")
        odd.delete("run")
        assert odd.names("run") == []
        assert neighbour.names("run") == ["a"]


def test_local_stores_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path and a `file://` URI become the absolute path that run.json records."""
    monkeypatch.chdir(tmp_path)
    assert Store.at("reports", LOCAL).uri == str(tmp_path / "reports")
    assert Store.at("reports/", LOCAL).uri == str(tmp_path / "reports")
    assert Store.at(f"file://{tmp_path}/a%20b", LOCAL).uri == str(tmp_path / "a b")
    assert Store.at("s3://bucket/reports/", LOCAL).uri == "s3://bucket/reports"


def test_a_local_write_leaves_nothing_beside_the_file(tmp_path: Path) -> None:
    """Temporary files are gone after writes and refused creations, and a listing never shows one in progress."""
    store = Store.at(str(tmp_path), LOCAL)
    store.write("a", b"x")
    store.create("b", b"x")
    with pytest.raises(FileExistsError):
        store.create("b", b"y")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    (tmp_path / ".tmp-0123").write_bytes(b"ha")
    assert store.names("") == ["a", "b"]


def test_one_of_many_creators_wins(tmp_path: Path, s3: Any) -> None:
    """Of eight creators at once exactly one succeeds, and its content is what stays; on disk and on S3."""
    for uri in (str(tmp_path), f"s3://{BUCKET}/race"):
        store, won = Store.at(uri, LOCAL), list[bytes]()
        gate = threading.Barrier(8)

        def create(number: int, store: Store = store, won: list[bytes] = won, gate: threading.Barrier = gate) -> None:
            gate.wait()
            try:
                store.create("run.json", b"%d" % number)
                won.append(b"%d" % number)
            except FileExistsError:
                pass

        threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [store.read("run.json")]


def test_s3_itself_refuses_the_second_creation(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another process was quicker after we looked, the store's own 412 is FileExistsError too."""
    store = Store.at(f"s3://{BUCKET}/conditional", LOCAL)
    store.create("run.json", b"first")
    monkeypatch.setattr(Store, "exists", lambda self, name: False)  # what we saw before the other one wrote
    with pytest.raises(FileExistsError):
        store.create("run.json", b"second")
    assert store.read("run.json") == b"first"


@pytest.mark.parametrize("act", ["read", "write", "create", "exists", "names", "delete"])
def test_a_store_that_fails_is_a_store_error(proxy: FaultyProxy, through: StorageConfig, act: str) -> None:
    """No failure of the store is taken for a file that is not there: each call raises StoreError with the reason."""
    store = Store.at(f"s3://{BUCKET}/failing", through)
    store.write("a", b"x")
    proxy.fail(lambda method, path: True, status=403, code="AccessDenied")
    calls = {
        "read": lambda: store.read("a"),
        "write": lambda: store.write("a", b"y"),
        "create": lambda: store.create("b", b"y"),
        "exists": lambda: store.exists("a"),
        "names": lambda: store.names(""),
        "delete": lambda: store.delete("a"),
    }
    with pytest.raises(StoreError, match="permission denied"):
        calls[act]()


def test_a_missing_bucket_is_said_on_the_first_write(s3: Any) -> None:
    """A store in a bucket that does not exist looks empty, and refuses to be written to."""
    store = Store.at("s3://no-such-bucket-here/reports", LOCAL)
    assert store.names("runs") == []
    with pytest.raises(StoreError, match="cannot write s3://no-such-bucket-here/reports/a: no such object"):
        store.write("a", b"x")


def test_a_local_store_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    """A file where the store's folder should be is a StoreError with the path and the system's reason."""
    (tmp_path / "file").write_bytes(b"")
    store = Store.at(str(tmp_path / "file"), LOCAL)
    with pytest.raises(StoreError, match=r"cannot write .*/file/runs/a: "):
        store.write("runs/a", b"x")
    with pytest.raises(StoreError, match="cannot list"):
        store.names("")


def test_json_is_readable_and_ends_in_a_newline() -> None:
    """Keys in the order given, no ASCII escapes: a person will read it."""
    assert to_json({"b": "é", "a": 1}).decode() == '{\n  "b": "é",\n  "a": 1\n}\n'
