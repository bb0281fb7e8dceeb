"""A report store's files appear whole or not at all, and a store that fails says so."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import boto3
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError, StoreError
from nsfwscan.storage.store import Store, from_parquet, to_json
from tests.permissions import unprivileged
from tests.s3.servers import FaultyProxy, S3Endpoint

LOCAL = StorageConfig()
BUCKET = "store-tests"


@pytest.fixture(scope="module", autouse=True)
def s3(moto: S3Endpoint) -> Any:
    """A client of the S3 server, with the bucket of these tests."""
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    return client


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


@pytest.mark.usefixtures("s3")
def test_a_folder_that_may_not_be_deleted_is_an_error(
    through: StorageConfig, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 answers a bulk request with 200 and a list of what it denied, and s3fs says nothing of that: we look."""
    store = Store.at(f"s3://{BUCKET}/denied", through)
    store.write("staging/1/a", b"x")

    async def denied(*_: object, **__: object) -> list[str]:
        return []

    monkeypatch.setattr("s3fs.S3FileSystem._bulk_delete", denied)
    store.delete("staging/1")
    assert store.names("staging/1") == []
    store.write("staging/1/a", b"x")
    proxy.fail(lambda method, path: method == "DELETE", status=403, code="AccessDenied")
    with pytest.raises(StoreError, match=r"cannot delete .*/denied/staging/1: permission denied"):
        store.delete("staging/1")


def test_many_files_go_at_once(store: Store) -> None:
    """The files that are named are gone, whatever their names and whether they were all there; the others stay."""
    for name in ("a", "b", "c[1]", "kept", "folder/a"):
        store.write(name, b"x")
    store.delete_files(["absent", "a", "b", "c[1]"])
    assert store.names("") == ["folder", "kept"] and store.names("folder") == ["a"]
    store.delete_files([])


@pytest.mark.long
def test_many_files_take_few_requests(s3: Any, proxy: FaultyProxy, through: StorageConfig) -> None:
    """On S3 a thousand files go with one request; where the store does not let them go, it is an error that says so."""
    store = Store.at(f"s3://{BUCKET}/many", through)
    names = [f"{i:04d}" for i in range(1200)]
    for name in names:
        s3.put_object(Bucket=BUCKET, Key=f"many/{name}", Body=b"x")
    asked = proxy.requests.total()
    store.delete_files(names)
    assert store.names("") == []
    assert proxy.requests.total() - asked < 10
    store.write("left", b"x")
    proxy.fail(lambda method, path: method in ("POST", "DELETE"), status=403, code="AccessDenied")
    with pytest.raises(StoreError, match="cannot delete"):
        store.delete_files(["left"])


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


@pytest.mark.parametrize("act", ["read", "write", "create", "exists", "names", "delete"])
def test_expired_credentials_are_called_so(proxy: FaultyProxy, through: StorageConfig, act: str) -> None:
    """Whatever is asked for, HEAD's answer without words included, the error says that the credentials expired."""
    store = Store.at(f"s3://{BUCKET}/expired", through)
    store.write("a", b"x")
    proxy.fail(lambda method, path: True, status=400, code="ExpiredToken")
    arguments = {"write": ("b", b"y"), "create": ("b", b"y"), "names": ("",)}
    with pytest.raises(StoreError, match=r"the store refuses the credentials \(ExpiredToken\)"):
        getattr(store, act)(*arguments.get(act, ("a",)))


def test_a_cut_connection_is_tried_again(proxy: FaultyProxy, through: StorageConfig) -> None:
    """Our own files are read over connections that break; where they always do, it is a StoreError that says so."""
    store = Store.at(f"s3://{BUCKET}/cut", through)
    table = pa.table({"a": range(1000), "b": ["x" * 100] * 1000})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    store.write("whole", sink.getvalue().to_pybytes())
    proxy.cut_body(lambda method, path: method == "GET", every=2)
    for _ in range(4):
        assert store.read("whole") == sink.getvalue().to_pybytes()
    assert from_parquet(store.read("whole"), ["a"]) == table.select(["a"])
    assert proxy.injected["cut_body"] > 2
    proxy.cut_body(lambda method, path: method == "GET")
    with pytest.raises(StoreError, match="the connection broke off before the end of the body"):
        store.read("whole")


@pytest.mark.parametrize("act", ["write", "create"])
def test_a_full_disk_says_so_and_leaves_nothing(small_disk: Path, act: str) -> None:
    """ENOSPC is a StoreError that says what to do; no half file stays under any name, and the older content is whole."""
    store = Store.at(str(small_disk), LOCAL)
    if act == "write":
        store.write("part", b"older")
    with pytest.raises(
        StoreError, match=r"cannot write .*/part: the store is full \(No space left on device\): make room"
    ):
        getattr(store, act)("part", bytes(4 * 2**20 + 1))
    assert os.listdir(small_disk) == (["part"] if act == "write" else [])
    getattr(store, act)(f"{act}-again", b"fits")


def test_a_disk_that_is_mounted_read_only_says_what_to_do(small_disk: Path) -> None:
    """EROFS is a StoreError with a way out."""
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StoreError, match=r"Read-only file system: mount it for writing, or name another place"):
        Store.at(str(small_disk), LOCAL).write("part", b"x")


def test_a_file_size_limit_leaves_nothing(tmp_path: Path) -> None:
    """A write that the system stops half way (EFBIG) is a StoreError, and its temporary file is gone."""
    script = (
        "import resource, sys; from nsfwscan.config import StorageConfig; from nsfwscan.errors import StoreError\n"
        "from nsfwscan.storage.store import Store\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: Store.at(sys.argv[1], StorageConfig()).write('part', bytes(10_000))\n"
        "except StoreError as error: print(error)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == f"cannot write {tmp_path}/part: File too large"
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_closed_says_so() -> None:
    """A folder that may not be written, or not be looked into, is a StoreError, never an empty store."""
    with TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "closed").mkdir(mode=0o700)
        (folder / "closed" / "_SUCCESS").touch()
        store = Store.at(name, LOCAL)
        with unprivileged():
            for act in (store.write, store.create):
                with pytest.raises(StoreError, match=f"cannot write {name}/a: Permission denied"):
                    act("a", b"x")
            with pytest.raises(StoreError, match="Permission denied"):
                store.exists("closed/_SUCCESS")
            with pytest.raises(StoreError, match="Permission denied"):
                store.names("closed")


@pytest.mark.parametrize(("status", "code"), [(507, "InsufficientStorage"), (403, "QuotaExceeded"), (507, "507")])
def test_a_full_bucket_says_so(proxy: FaultyProxy, through: StorageConfig, status: int, code: str) -> None:
    """What Ceph, MinIO and others answer when a quota is used up is a StoreError that says to make room."""
    proxy.fail(lambda method, path: method == "PUT", status=status, code=code)
    store = Store.at(f"s3://{BUCKET}/full", through)
    for act in (store.write, store.create):
        with pytest.raises(
            StoreError, match=rf"the store is full \({code}\): make room, then run the same command again"
        ):
            act("a", b"x")
    proxy.clear()
    assert not store.exists("a")


@pytest.mark.parametrize(
    ("options", "algorithm", "key"),
    [
        ({"sse": "AES256"}, "AES256", None),
        ({"sse_kms_key_id": "alias/reports"}, "aws:kms", "alias/reports"),
        ({"sse": "aws:kms:dsse"}, "aws:kms:dsse", None),
    ],
)
def test_every_object_is_encrypted_as_asked(s3: Any, options: dict[str, str], algorithm: str, key: str | None) -> None:
    """Written, created and overwritten files carry the encryption that was asked for, and such as go up in parts."""
    name = f"sse-{algorithm.replace(':', '-')}"
    store = Store.at(f"s3://{BUCKET}/{name}", StorageConfig.of(options))
    store.write("written", b"first")
    store.write("written", b"second")
    store.create("created", b"x")
    if key is not None:
        store.write("in-parts", bytes(101 * 2**20))  # s3fs writes in parts from 100 MiB
    assert store.read("written") == b"second"
    for file in store.names(""):
        head = s3.head_object(Bucket=BUCKET, Key=f"{name}/{file}")
        assert (head["ServerSideEncryption"], head.get("SSEKMSKeyId")) == (algorithm, key), file
        assert ("-" in head["ETag"]) == (file == "in-parts")


def test_without_asking_nothing_is_said_of_encryption(s3: Any, proxy: FaultyProxy, through: StorageConfig) -> None:
    """Unset, it is the bucket's own affair."""
    Store.at(f"s3://{BUCKET}/plain", through).write("a", b"x")
    assert "SSEKMSKeyId" not in s3.head_object(Bucket=BUCKET, Key="plain/a")


def test_a_store_with_a_password_in_its_uri_is_refused() -> None:
    """It would be written down; the message does not repeat it."""
    with pytest.raises(ConfigError, match="must not hold a password") as error:
        Store.at("ftp://user:hunter2@host/reports", LOCAL)
    assert "hunter2" not in str(error.value)


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
