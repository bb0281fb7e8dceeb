"""Sources are what README promises: archives, index pages, hosts; and what is not supported is refused by name."""

from __future__ import annotations

import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest

from nsfwscan.config import SourceConfig, StorageConfig
from nsfwscan.errors import NsfwscanError, RowError, SourceError, Status
from nsfwscan.location import Location
from nsfwscan.sources.listing import list_sources
from nsfwscan.storage.filesystems import _host, filesystem
from nsfwscan.storage.objects import fetch
from nsfwscan.text import has_password, redacted
from tests.s3.servers import S3Endpoint

FILES = {"0.png": b"zero", "a b#c.png": b"odd", "sub/1.png": b"one", "sub/deep/2.jpg": b"two"}


def listed(uri: object, **options: Any) -> dict[str, bytes]:
    """Return what a source lists, and the bytes behind each of its URIs, by URI."""
    tables = list_sources(SourceConfig(uris=(str(uri),), **options), StorageConfig())
    uris = [u for table in tables for u in table["uri"].to_pylist()]
    assert len(uris) == len(set(uris))
    return {u: fetch(Location.of(u), StorageConfig(), max_bytes=10_000, timeout_s=20, attempts=2).data for u in uris}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files, and archives of them: zip, tar, packed tar, a zip in a zip."""
    root = tmp_path_factory.mktemp("archives")
    for name, data in FILES.items():
        (root / "media" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "media" / name).write_bytes(data)
    with zipfile.ZipFile(root / "m.zip", "w") as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
    for name, mode in (("m.tar", "w"), ("m.tar.gz", "w:gz")):
        with tarfile.open(root / name, mode) as tar:  # type: ignore[call-overload]
            for file, data in FILES.items():
                info = tarfile.TarInfo(file)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    with zipfile.ZipFile(root / "outer.zip", "w") as outer:
        outer.write(root / "m.zip", "inner/m.zip")
    return root


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("zip://::{}/m.zip", set(FILES)),
        ("ZIP:///::{}/m.zip", set(FILES)),
        ("zip://::file://{}/m.zip", set(FILES)),
        ("zip://sub::{}/m.zip", {"sub/1.png", "sub/deep/2.jpg"}),
        ("zip://*.png::{}/m.zip", {"0.png", "a b#c.png"}),
        ("zip://0.png::{}/m.zip", {"0.png"}),
        ("tar://::{}/m.tar", set(FILES)),
        ("tar://sub::{}/m.tar.gz", {"sub/1.png", "sub/deep/2.jpg"}),
        ("zip://::zip://inner/m.zip::{}/outer.zip", set(FILES)),
        ("zip://::simplecache::file://{}/m.zip", set(FILES)),
    ],
)
def test_what_lies_in_an_archive_is_a_source(folder: Path, source: str, names: set[str]) -> None:
    """Each member has a URI of its own that leads back to its bytes."""
    found = listed(source.format(folder))
    assert {uri.split("://", 1)[1].split("::")[0]: data for uri, data in found.items()} == {n: FILES[n] for n in names}


def test_an_archive_in_a_bucket_is_a_source(moto: S3Endpoint, folder: Path) -> None:
    """A zip and a tar on S3, also behind a cache, which is left out: the object is the same, and is named the same."""
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="archives")
    for name in ("m.zip", "m.tar.gz"):
        s3.upload_file(str(folder / name), "archives", name)
    plain = listed("zip://::s3://archives/m.zip")
    assert sorted(plain.values()) == sorted(FILES.values())
    assert listed("zip://::simplecache::S3A://archives/m.zip") == plain
    assert sorted(listed("tar://::s3://archives/m.tar.gz").values()) == sorted(FILES.values())
    s3.put_object(Bucket="archives", Key="one/a.png", Body=b"a")
    assert listed("simplecache::s3://archives/one/") == {"s3://archives/one/a.png": b"a"}


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members_are_read_by_many_threads(folder: Path, kind: str) -> None:
    """Threads share one archive, and each gets its own member's bytes."""
    uris = list(listed(f"{kind}://::{folder}/m.{kind}")) * 50
    with ThreadPoolExecutor(16) as threads:
        read = threads.map(
            lambda u: fetch(Location.of(u), StorageConfig(), max_bytes=99, timeout_s=9, attempts=1).data, uris
        )
        assert [FILES[u.split("://", 1)[1].split("::")[0]] for u in uris] == list(read)


def test_an_archive_from_a_stranger_does_no_harm(tmp_path: Path) -> None:
    """Names that lead out are only names; a bomb is `too_large`, by what it says and by what comes; `::` is a name."""
    with zipfile.ZipFile(tmp_path / "evil.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../evil.png", b"evil")
        archive.writestr("a::b.png", b"colon")
        archive.writestr("bomb.png", bytes(50 * 2**20))
    assert (tmp_path / "evil.zip").stat().st_size < 2**20
    uris = [f"zip://{name}::{tmp_path}/evil.zip" for name in ("../../evil.png", "a::b.png", "bomb.png")]
    tables = list_sources(SourceConfig(uris=(f"zip://::{tmp_path}/evil.zip",)), StorageConfig())
    assert sorted(u for t in tables for u in t["uri"].to_pylist()) == sorted(uris)
    for uri, data in zip(uris, (b"evil", b"colon"), strict=False):
        assert fetch(Location.of(uri), StorageConfig(), max_bytes=99, timeout_s=9, attempts=1).data == data
    with pytest.raises(RowError) as error:
        fetch(Location.of(uris[2]), StorageConfig(), max_bytes=2**20, timeout_s=9, attempts=1)
    assert error.value.status == Status.TOO_LARGE
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.zip"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{}/m.zip", "a zip archive.* zip://::/.*m.zip"),
        ("{}/m.tar", "a tar archive.* tar://::/.*m.tar"),
        ("zip://{}/m.zip", "zip:// needs an archive to look into, as zip://::s3://"),
        ("zip://::{}/m.tar", "no zip archive, or it is cut or damaged"),
        ("zip://::{}/absent.zip", "absent.zip: no such archive"),
        ("zip://absent::{}/m.zip", "no such file or directory"),
        ("dir://{}", "dir:// wraps another place: name that place itself"),
        ("sftp://host/x/", "cannot read sftp:// URIs: .*paramiko"),
        ("gs://bucket/x/", "cannot read gs:// URIs: .*gcsfs"),
        ("az://bucket/x/", "cannot read az:// URIs: .*adlfs"),
        ("nosuch://x/", "cannot read nosuch:// URIs: Protocol not known"),
        ("sftp://x::file://{}", "only zip:// and tar:// reach into another place"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(folder: Path, source: str, said: str) -> None:
    """The scheme, the reason and what to do, before anything starts."""
    with pytest.raises(NsfwscanError, match=said):
        listed(source.format(folder))


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        ("ftp://user@host/pub/a/", "ftp://user@host"),
        ("ftp://host:2121/pub/a.png", "ftp://host:2121"),
        ("github://org:repo@main/path/a.png", "github://org:repo@main/"),
        ("memory://x/a", ""),
    ],
)
def test_objects_on_a_host_keep_it_in_their_uri(uri: str, host: str) -> None:
    """Who, where and which branch stand in each object's URI, so that it leads back there."""
    assert _host(uri.split(":", 1)[0], uri) == host


def test_a_branch_is_no_password() -> None:
    """`github://org:repo@ref/` names a repository; `ftp://user:word@host/` holds a password."""
    assert not has_password("github://org:repo@main/media") and redacted("github://org:repo@main/x").endswith("main/x")
    assert has_password("ftp://user:word@host/x") and has_password("notgithub://user:word@host/x")


def test_an_archive_beside_us_is_named_in_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative archive means the same wherever the run is gone on with."""
    monkeypatch.chdir(folder)
    assert Location.of("zip://sub::m.zip").absolute().uri == f"zip://sub::{folder}/m.zip"


# Index pages


@pytest.fixture(scope="module")
def web(folder: Path) -> Iterator[str]:
    """Files behind a web server that makes index pages; its URL."""
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *args: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_web_servers_folder_is_a_source(web: str) -> None:
    """Index pages are followed down; a file's URL is that file, whatever its query; a cache in front changes nothing."""
    names = ("0.png", "a%20b%23c.png", "sub/1.png", "sub/deep/2.jpg")
    assert listed(f"{web}/media/") == dict(zip((f"{web}/media/{n}" for n in names), FILES.values(), strict=True))
    assert set(listed(f"{web}/media/", include=("sub/*",)).values()) == {b"one", b"two"}
    assert listed(f"{web}/media/0.png?size=large") == {f"{web}/media/0.png?size=large": b"zero"}
    assert listed(f"simplecache::{web}/media/0.png") == {f"{web}/media/0.png": b"zero"}


INDEX = b"""<!DOCTYPE HTML><html><head><title>Index of /</title></head><body><h1>Index of /</h1><table>
<tr><th><a href="?C=N;O=D">Name</a></th><th><a href="?C=M;O=A">Last modified</a></th></tr>
<tr><td><a href="../">Parent Directory</a></td></tr><tr><td><a href="a.png">a.png</a></td></tr>
<tr><td><a href="/x/b.png#top">b.png</a></td></tr><tr><td><a href="sub/">sub/</a></td></tr>
<tr><td><a href="https://elsewhere.example/c.png">c</a></td></tr></table></body></html>"""


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((302, {"Location": "/login"}, b""), "/x/sub/ redirects to /login"),
        ((200, {}, b"<html><form><input type=password></form></html>"), "asks for a password"),
        ((200, {}, b"<html><body>Welcome</body></html>"), "is no index page: it links to nothing below it"),
        ((200, {}, INDEX[:-60]), "is cut off"),
        ((200, {"Content-Type": "application/json"}, b"{}"), "no index page but application/json"),
        ((403, {}, b""), "permission denied"),
        ((404, {}, b""), "."),
    ],
)
def test_an_index_page_that_is_none_fails_the_listing(answer: tuple[int, dict[str, str], bytes], said: str) -> None:
    """One folder of a tree that cannot be seen: the listing stops, and does not go on without it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = answer if self.path == "/x/sub/" else (200, {}, INDEX)
            self.send_response_only(status)
            for name, value in {"Content-Type": "text/html", "Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        with pytest.raises(SourceError, match=said):
            listed(f"http://127.0.0.1:{server.server_address[1]}/x/")
        server.shutdown()


def test_options_reach_the_filesystem_and_tell_two_of_them_apart() -> None:
    """What `storage.options` says is passed on, and a filesystem that was made with others is not taken for it."""
    place = Location.of("memory://bucket/key")
    named = [filesystem(place, StorageConfig(options={"marked": mark})) for mark in ("one", "two")]
    assert [fs.storage_options["marked"] for fs in named] == ["one", "two"]
