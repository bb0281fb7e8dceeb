"""A list names what its own place may, and nothing that only its reader may read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nsfwscan.config import ScanConfig, SourceConfig, StorageConfig
from nsfwscan.demo.media import DemoObject
from nsfwscan.execution.inline import run_inline
from nsfwscan.location import Location
from nsfwscan.reports.progress import Silent
from nsfwscan.sources.listing import list_sources
from nsfwscan.sources.reach import Links, Reach, is_of_this_machine
from nsfwscan.workflows.scan import run_scan

BUCKET = "s3://media/lists/night.jsonl"


def refusal(manifest: str, uri: str, *allowed: str, bucket: str | None = None) -> str | None:
    """Return why a list must not name an object, or None."""
    return Reach(Location.of(manifest), allowed, bucket).refusal(Location.of(uri))


@pytest.mark.parametrize(
    "uri",
    [
        "/etc/shadow",
        "/root/.bashrc",
        "s3://otherteam/private.jpg",
        "s3://media-2/a.jpg",
        "s3://media/../otherteam/private.jpg",
        "s3://media/a/%2e%2E/b",
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:5999/role",
        "https://cdn.example/a.jpg",
        "gs://media/a.jpg",
        "zip://a.png::/etc/x.zip",
        "memory://x",
        "data:,x",
    ],
)
def test_a_list_in_a_bucket_names_its_bucket_alone(uri: str) -> None:
    """No file of this machine, no other bucket, no web server, no way up."""
    assert "--allow-source" in (refusal(BUCKET, uri) or "")


def test_what_a_list_in_a_bucket_may_name() -> None:
    """All of its bucket, whichever spelling named it; more where a person allows it, by bucket, prefix or folder."""
    assert refusal("S3A://media/night.csv", "s3://media/2026//é #?.jpg") is None
    assert refusal(BUCKET, "s3://otherteam/private.jpg", "S3a://otherteam") is None
    assert refusal(BUCKET, "s3://otherteam-2/private.jpg", "s3://otherteam")
    assert refusal(BUCKET, "s3://otherteam/private.jpg", "s3://otherteam/public/")
    assert refusal(BUCKET, "s3://otherteam/public/../private.jpg", "s3://otherteam/public/")
    assert refusal(BUCKET, "/srv/media/a.jpg", "/srv/media") is None
    assert refusal(BUCKET, "/srv/media-of-others/a.jpg", "/srv/media")


def test_other_stores() -> None:
    """A web server's list names that server, any other fsspec URI's its own folder."""
    web, memory = "https://CDN.example/lists/a.csv", "memory://lists/a.csv"
    assert refusal(web, "https://cdn.example/a.jpg") is None
    assert refusal(web, "https://cdn.example.evil/a.jpg")
    assert refusal(web, "https://cdn.example@evil/a.jpg")
    assert refusal(web, "http://cdn.example/a.jpg")
    assert refusal(memory, "memory://lists/deep/a.jpg") is None
    assert refusal(memory, "memory://other/a.jpg")


def test_an_inventory_names_the_bucket_in_its_own_uri() -> None:
    """S3 writes the bucket's name into the place of its inventory; one that only the file names is not taken."""
    manifest = "s3://inventory/media/nightly/2026-11-22T01-00Z/manifest.json"
    assert refusal(manifest, "s3://media/a.jpg", bucket="media") is None
    assert refusal(manifest, "s3://otherteam/a.jpg", bucket="otherteam")
    assert refusal(manifest, "s3://otherteam/a.jpg", "s3://otherteam", bucket="otherteam") is None


def test_a_list_on_this_machine_is_trusted_but_for_the_machine() -> None:
    """It names any store and the media of this machine, and neither system files nor what answers on this machine."""
    home = "/lists/night.csv"
    for uri in (
        "/srv/media/a.jpg",
        "s3://b/../c",
        "https://cdn.example/a.jpg",
        "http://10.0.0.7/a.jpg",
        "/etcetera/a.jpg",
    ):
        assert refusal(home, uri) is None
    for uri in ("/etc/shadow", "/srv/../etc/shadow", "/proc/self/environ", "http://localhost/a", "http://127.0.0.1:1/a",
                "simplecache::http://[::1]/a", "http://[::1]:80/a", "http://[0:0::1]/a", "zip://a::http://[::1]/x.zip"):  # fmt: skip
        assert refusal(home, uri)
    assert refusal(home, "http://127.0.0.1:8000/a.jpg", "http://127.0.0.1:8000") is None
    assert refusal(home, "http://127.0.0.1:8000/a.jpg", "http://127.0.0.1:80")


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "127.1",
        "0x7f000001",
        "2130706433",
        "017700000001",
        "0.0.0.0",
        "[::1]:80",
        "[::ffff:169.254.169.254]",
        "[fe80::1%25eth0]",
        "[fd00:ec2::254]",
        "169.254.169.254:80",
        "user:pw@169.254.170.2",
        "100.100.100.200",
        "metadata.google.internal",
    ],
)
def test_this_machine_has_many_names(host: str) -> None:
    """Loopback, link-local and the clouds' places of credentials, however they are written."""
    assert is_of_this_machine(host)
    assert not is_of_this_machine("cdn.example:443")
    assert not is_of_this_machine("8.8.8.8")


def test_what_is_refused_is_a_row_and_never_read(
    moto: Any, demo: tuple[Path, list[DemoObject]], tmp_path: Path
) -> None:
    """`denied`, with the reason; the bucket's own objects are scanned, and the report balances."""
    import boto3

    s3 = boto3.client("s3", endpoint_url=moto.endpoint_url)
    image = next(path for path in sorted((demo[0] / "neutral").glob("*.jpg"))).read_bytes()
    for bucket in ("reach-media", "reach-others"):
        s3.create_bucket(Bucket=bucket)
        s3.put_object(Bucket=bucket, Key="a.jpg", Body=image)
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(image)
    uris = ["s3://reach-media/a.jpg", "s3://reach-others/a.jpg", f"file://{secret}", "http://127.0.0.1:1/role"]
    lines = "\n".join(json.dumps({"uri": uri}) for uri in uris)
    s3.put_object(Bucket="reach-media", Key="night.jsonl", Body=lines.encode())
    source: dict[str, Any] = {"uris": ["s3://reach-media/night.jsonl"]}
    config = ScanConfig.of({"source": source, "out": str(tmp_path / "out"), "report": {"max_error_rate": 1.0}})
    record = run_scan(config, "one", run_inline, Silent()).record
    assert (record.balance.scored, record.balance.errored) == (1, 3)
    assert record.summary.status == {"denied": 3, "ok": 1}
    assert all("--allow-source" in error.message for error in record.summary.errors)
    source["allow"] = ["s3a://reach-others/", str(tmp_path)]
    config = ScanConfig.of({"source": source, "out": str(tmp_path / "out"), "report": {"max_error_rate": 1.0}})
    assert run_scan(config, "two", run_inline, Silent()).record.summary.status == {"ok": 3, "denied": 1}


def test_what_two_sources_name_is_refused_by_neither_alone(tmp_path: Path) -> None:
    """A listing has the reason for each refused row, and none for the others."""
    (tmp_path / "a.csv").write_text("uri\n/etc/shadow\ns3://b/k\n")
    [table] = list_sources(SourceConfig(uris=(str(tmp_path / "a.csv"),)), StorageConfig())
    assert [reason is None for reason in table["refused"].to_pylist()] == [False, True]


def test_where_a_link_may_lead(tmp_path: Path) -> None:
    """Anywhere but to the system's places; or only within the sources and what is allowed."""
    (tmp_path / "media").symlink_to("disk")
    places = (f"{tmp_path}/media", "s3://b/x"), (f"{tmp_path}/more",)
    links, strict = Links(*places), Links(*places, within=True)
    for one in (links, strict):
        assert one.refusal(f"{tmp_path}/media/a", f"{tmp_path}/disk/a") is None
        assert one.refusal(f"{tmp_path}/media/a", f"{tmp_path}/more/a") is None
        assert one.refusal(f"{tmp_path}/media/a", "/dev/zero")
        assert one.refusal("/srv/listed.jpg", "/srv/blobs/a") is None
        assert "/proc is the system's" in (one.refusal("/srv/listed.jpg", "/proc/1/environ") or "")
    for path, real in (("media/a", "disk-2/a"), ("more/a", "other")):
        assert links.refusal(f"{tmp_path}/{path}", f"{tmp_path}/{real}") is None
        assert strict.refusal(f"{tmp_path}/{path}", f"{tmp_path}/{real}")
    assert Links(("/",), within=True).refusal("/a", "/etc/passwd") is None


def test_a_link_that_comes_after_the_listing_is_not_followed(tmp_path: Path) -> None:
    """Between listing and reading a stranger has time to put a link in a file's place, or in that of its folder."""
    picture = Image.new("RGB", (40, 40), (9, 99, 199))
    for folder in ("media/album", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
        picture.save(tmp_path / folder / "a.png")
    picture.save(tmp_path / "media" / "b.png")
    config = ScanConfig.of({
        "source": {"uris": [str(tmp_path / "media")], "links": "within"}, "out": str(tmp_path / "out"),
        "report": {"max_error_rate": 1.0},
    })  # fmt: skip

    def swapped(*arguments: Any) -> Any:
        for place, target in (("b.png", "elsewhere/a.png"), ("album", "elsewhere")):
            (tmp_path / "media" / place).rename(tmp_path / place)
            (tmp_path / "media" / place).symlink_to(tmp_path / target)
        return run_inline(*arguments)

    record = run_scan(config, "r", swapped, Silent()).record
    assert record.summary.status == {"denied": 2}
    assert all(f"leads to {tmp_path}/elsewhere/a.png" in error.message for error in record.summary.errors)
