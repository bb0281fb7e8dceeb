"""Zips of class folders are read in place; hostile, broken and lying ones do no harm and are told of."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.errors import RowError, SourceError
from nsfwscan.location import Location
from nsfwscan.storage.filesystems import filesystem
from tests.s3.servers import S3Endpoint
from training.config import DataConfig
from training.data import archives
from training.data.archives import Archive
from training.data.sources import list_examples

LOCAL = StorageConfig()


def zipped(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(name), data, compression)
    return path


def read_all(path: Path, max_bytes: int = 1000) -> dict[str, bytes | str]:
    """Return each member's bytes, or the status that it has instead."""
    found: dict[str, bytes | str] = {}
    with Archive(str(path), LOCAL) as archive:
        for member in archive.members():
            try:
                found[member.name] = archive.read(member.name, max_bytes)
            except RowError as error:
                found[member.name] = str(error.status)
    return found


@pytest.mark.parametrize("wrapper", ["", "nsfw_dataset_v1/"])
def test_five_folders_in_a_zip(tmp_path: Path, wrapper: str) -> None:
    """The classes are those of the folders, whether or not one folder is around them; members have URIs of their own."""
    names = ("drawings", "hentai", "neutral", "porn", "sexy")
    path = zipped(tmp_path / "nsfw_dataset_v1.zip", {f"{wrapper}{name}/1.jpg": name.encode() for name in names})
    found = list_examples(DataConfig(uris=(str(path),)), LOCAL)
    assert [(e.uri, str(e.label)) for e in found.examples] == [
        (f"zip://{wrapper}{name}/1.jpg::{path}", name) for name in names
    ]


def test_a_table_can_name_members(tmp_path: Path) -> None:
    """Reviewers correct images of a zip by their URIs, beside the zip or without it; versions are the archive's."""
    path = zipped(tmp_path / "a.zip", {"neutral/a.jpg": b"a", "neutral/b.jpg": b"bb"})
    table = tmp_path / "verdicts.csv"
    table.write_text(f"uri,verdict\nzip://neutral/b.jpg::{path},porn\n", encoding="utf-8")
    both = list_examples(DataConfig(uris=(str(path), str(table))), LOCAL)
    assert [(e.uri.split("::")[0], str(e.label), e.size) for e in both.examples] == [
        ("zip://neutral/a.jpg", "neutral", 1), ("zip://neutral/b.jpg", "porn", 2),
    ]  # fmt: skip
    (alone,) = list_examples(DataConfig(uris=(str(table),)), LOCAL).examples
    assert (alone.size, alone.etag, alone.archive) == (2, both.examples[1].etag, str(path))


def test_hostile_members(tmp_path: Path) -> None:
    """Names that lead outside are listed and never read as a class; an archive in an archive stays closed."""
    path = zipped(
        tmp_path / "a.zip",
        {
            "neutral/a.jpg": b"a",
            "porn/b.jpg": b"b",
            "../../porn/evil.jpg": b"c",
            "/porn/evil.jpg": b"d",
            "porn\\..\\..\\evil.jpg": b"e",
            "porn/inner.zip": zipped(tmp_path / "inner.zip", {"neutral/x": b"x"}).read_bytes(),
        },
    )
    found = list_examples(DataConfig(uris=(str(path),)), LOCAL)
    assert {e.uri.split("::")[0].removeprefix("zip://") for e in found.examples} == {
        "neutral/a.jpg",
        "porn/b.jpg",
        "porn/inner.zip",
    }
    assert [u.error for u in found.unreadable] == ["its name leads out of the archive"] * 3
    assert not list(tmp_path.parent.glob("evil*"))


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """A member that is larger than it may be is refused by what it declares, and by what comes out where it lies."""
    path = zipped(tmp_path / "bomb.zip", {"porn/bomb.jpg": b"\0" * 50_000_000, "porn/a.jpg": b"fine"})
    assert path.stat().st_size < 100_000
    assert read_all(path) == {"porn/bomb.jpg": "too_large", "porn/a.jpg": b"fine"}
    lying = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):  # APPNOTE.TXT 4.3.7, 4.3.12: uncompressed size
        at = lying.index(signature) + offset
        lying[at : at + 4] = struct.pack("<I", 10)
    path.write_bytes(lying)
    assert read_all(path)["porn/bomb.jpg"] in ("too_large", "decode_error")


def test_damaged_encrypted_and_unknown_members(tmp_path: Path) -> None:
    """Each is a status of its own row; the members beside it are read."""
    path = zipped(
        tmp_path / "a.zip", {"a": b"damaged " * 20, "b": b"secret", "c": b"packed", "d": b"fine"}, zipfile.ZIP_STORED
    )
    data = bytearray(path.read_bytes())
    data[data.index(b"damaged")] ^= 1
    entry = [i for i in range(len(data)) if data[i : i + 4] == b"PK\x01\x02"]
    data[entry[1] + 8] |= 1  # general purpose bit 0: encrypted
    data[entry[2] + 10] = 99  # a method that nobody knows
    path.write_bytes(data)
    assert read_all(path) == {"a": "decode_error", "b": "unsupported", "c": "unsupported", "d": b"fine"}


def test_a_zip_that_is_cut_off(tmp_path: Path) -> None:
    """Without its directory at the end it is no zip; the message says so."""
    path = zipped(tmp_path / "a.zip", {"neutral/a.jpg": b"a" * 5000}, zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(SourceError, match=r"a\.zip is not a whole zip"):
        Archive(str(path), LOCAL)


def test_a_zip_on_s3(tmp_path: Path, moto: S3Endpoint) -> None:
    """It is read where it lies."""
    storage = StorageConfig(endpoint_url=moto.endpoint_url)
    fs = filesystem(Location.of("s3://zips"), storage)
    fs.mkdir("zips")
    fs.put_file(str(zipped(tmp_path / "a.zip", {"neutral/a.jpg": b"a" * 500, "porn/b.jpg": b"b"})), "s3://zips/a.zip")
    with Archive("s3://zips/a.zip", storage) as archive:
        assert [m.uri for m in archive.members()] == [
            "zip://neutral/a.jpg::s3://zips/a.zip",
            "zip://porn/b.jpg::s3://zips/a.zip",
        ]
        assert archive.read("neutral/a.jpg", 1000) == b"a" * 500
    with pytest.raises(SourceError, match=r"absent\.zip: no such object"):
        Archive("s3://zips/absent.zip", storage)


@contextmanager
def hub(status: int, code: str) -> Iterator[str]:
    """A hub that answers everything in one way."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", "Access to dataset deepghs/nsfw_detect is restricted.")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (401, "GatedRepo", "to those who accepted its conditions: do so at https://huggingface.co/datasets/deepghs/nsfw_detect, and set HF_TOKEN"),
        (404, "EntryNotFound", "cannot be had from the hub"),
    ],
)  # fmt: skip
def test_the_hub_refuses(tmp_path: Path, status: int, code: str, message: str) -> None:
    """A gated data set says whose conditions to accept and which variable to set; any other failure is one message, too."""
    script = (
        "from training.data.archives import Archive; from nsfwscan.config import StorageConfig\n"
        "from nsfwscan.errors import SourceError\n"
        "try: Archive('deepghs/nsfw_detect', StorageConfig())\n"
        "except SourceError as error: print(error)"
    )
    with hub(status, code) as endpoint:
        shown = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_HUB_ETAG_TIMEOUT": "2"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    assert message in shown.stdout


def test_members_of_the_hub_are_read_from_the_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """On this machine an archive of the hub is read where it was downloaded to; other URIs stay as they are."""
    monkeypatch.setattr(archives, "_from_hub", lambda repo, name: f"/cache/{name}")
    member = "zip://porn/a.png::hf://datasets/deepghs/nsfw_detect/nsfw_dataset_v1.zip"
    uris = ["/data/b.png", member, "zip://c.png::s3://bucket/d.zip"]
    assert archives.local_members(uris) == [uris[0], "zip://porn/a.png::/cache/nsfw_dataset_v1.zip", uris[2]]
