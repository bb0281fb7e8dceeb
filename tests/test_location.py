"""One object has one spelling, whatever it was written as."""

from __future__ import annotations

import re

import pytest

from nsfwscan.config import BankConfig, ScanConfig, StorageConfig
from nsfwscan.location import Location
from nsfwscan.policy.rules import parse_policy
from nsfwscan.storage.store import Store

S3 = ["s3", "S3", "s3a", "S3A", "s3n", "S3n"]


@pytest.mark.parametrize("scheme", S3)
def test_s3_has_one_spelling(scheme: str) -> None:
    """Hadoop's names of S3, in any case, are `s3://`; bucket and key stay as they are, byte for byte."""
    assert Location.of(f"{scheme}://b/A//b/../c%20?d#e::f").uri == "s3://b/A//b/../c%20?d#e::f"
    assert Location.of(f"{scheme}://b").is_s3
    assert Location.of(f"{scheme}://b/p/").absolute().uri == "s3://b/p/"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("GCS://b/k", "gs://b/k"),
        ("HTTPS://User@CDN.Example:443/A%2Fb", "https://User@cdn.example:443/A%2Fb"),
        ("zip://A.png::S3A://b/x.zip", "zip://A.png::s3://b/x.zip"),
        ("simplecache::s3n://b/k", "s3://b/k"),
        ("file:///media//a%20b/./c.jpg", "/media/a b/c.jpg"),
        ("FILE://localhost/media/a.jpg", "/media/a.jpg"),
        ("file:/media/a.jpg", "/media/a.jpg"),
        ("file:////media/a.jpg", "/media/a.jpg"),
        ("file:///media/", "/media/"),
        ("file:///caf%E9.jpg", "file:///caf%E9.jpg"),
        ("embedded:open-nsfw", "embedded:open-nsfw"),
        ("media/a.jpg", "media/a.jpg"),
        ("a::b.jpg", "a::b.jpg"),
    ],
)
def test_other_spellings(written: str, meant: str) -> None:
    """Schemes and hosts have no case, local URIs are paths, each link of a chain is written alike; paths stay paths."""
    assert Location.of(written).uri == meant
    assert Location.of(meant).uri == meant


def test_local_sources_have_one_slash() -> None:
    """POSIX keeps two slashes at the start of a path apart, and no file system does."""
    assert Location.of("//media//a").absolute().uri == "/media/a"


@pytest.mark.parametrize("uri", ["http://[2001:db8::7]:80/a.jpg", "gs://b/a::b.jpg", "memory://a::b.jpg"])
def test_what_holds_two_colons_is_no_chain(uri: str) -> None:
    """An IPv6 address, and a name with `::` in a store, stay as they are: only an archive's path is made absolute."""
    place = Location.of(uri)
    assert place.absolute().uri == uri
    assert place.authority == uri.split("://")[1].split("/", maxsplit=1)[0]


def test_parents_and_children() -> None:
    """A child's parts are those of its URI, also below a bucket and where a name is not UTF-8."""
    assert Location.of("s3://b").child("a//c") == Location.of("s3://b/a//c")
    assert Location.of("s3://b/a/c").parent() == Location.of("s3://b/a")
    assert Location.of("memory://a.csv").parent().child("b.jpg").uri == "memory://b.jpg"
    folder = Location.of("file:///caf%E9")
    assert folder.child("a.jpg").uri == "file:///caf%E9/a.jpg"
    assert folder.child("a.jpg").parent() == folder


def test_a_location_has_parts() -> None:
    """Bucket or host, and what follows it; a local path is only a path."""
    assert Location.of("S3A://b/a/b") == Location("s3://b/a/b", "s3", "b", "a/b")
    assert Location.of("file:///a%20b") == Location("/a b", None, "", "/a b")
    assert Location.of("HTTP://Host:80/x").authority == "host:80"
    assert Location.of("zip://a::s3://b/k").authority == ""


@pytest.mark.parametrize("scheme", S3)
def test_whatever_enters_is_spelled_alike(scheme: str) -> None:
    """Sources, the report store, truth, models, banks and the places of a policy."""
    given = ScanConfig.of(
        {
            "source": {"uris": [f"{scheme}://b/p/"], "truth": f"{scheme}://b/truth.csv"},
            "out": f"{scheme}://r/x",
            "model": {"uri": f"{scheme}://m/vit"},
            "banks": [{"name": "known", "uri": f"{scheme}://k/bank.csv"}],
        }
    )
    assert (given.source.uris, given.source.truth) == (("s3://b/p/",), "s3://b/truth.csv")
    assert (given.out, given.model.uri, given.banks[0].uri) == ("s3://r/x", "s3://m/vit", "s3://k/bank.csv")
    assert BankConfig(name="a", uri=f"{scheme}://k/b").uri == "s3://k/b"
    assert Store.at(f"{scheme}://r/x/", StorageConfig()).uri == "s3://r/x"
    policy = parse_policy(
        {
            "name": "p",
            "version": "1",
            "rules": [{"name": "a", "when": "nsfw_score > 0.5", "decision": "block"}],
            "otherwise": {"decision": "allow"},
            "regions": {"eu": [f"{scheme}://eu/*/x//", "file:///srv/eu/"]},
            "overrides": [{"source": f"{scheme}://kids/", "rules": {"a": {"severity": 4}}}],
        }
    )
    assert policy.regions["eu"] == ("s3://eu/*/x//", "/srv/eu/")
    assert policy.overrides[0].source == "s3://kids/"


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("", "it is empty"),
        (" ", "it is empty"),
        ("a\0b", "it holds a zero byte"),
        ("-", "write ./-"),
        (" s3://b/k", "there is a blank around it"),
        ("s3:/b/k", "a slash is missing: s3://b/k; for a path of that name write ./s3:/b/k"),
        ("HTTP:/", "a slash is missing"),
        ("s3a:b", "two slashes are missing: s3a://b"),
        ("S3://", "it names no bucket"),
        ("s3:///k", "it names no bucket"),
        ("https:///x", "it names no host"),
        ("://b/k", "it has no scheme before ://"),
    ],
)
def test_what_is_no_place_is_refused(written: str, why: str) -> None:
    """A half-written URI would be a folder of that name in the working directory."""
    with pytest.raises(ValueError, match=re.escape(why)):
        Location.given(written)


@pytest.mark.parametrize(
    "written",
    [
        "reports",
        "./s3:/x",
        "./-",
        "a:/b",
        "embedded:open-nsfw",
        "org/name",
        "file:/x",
        "hdfs:///x",
        "zip::s3://b/x.zip",
    ],
)
def test_places_are_taken_as_they_are(written: str) -> None:
    """What may be a place is one."""
    assert Location.given(written) == Location.of(written)
