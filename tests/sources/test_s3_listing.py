"""A large S3 prefix is listed by many requests at once, and has every key exactly once all the same."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import boto3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsfwscan.config import SourceConfig, StorageConfig
from nsfwscan.errors import SourceError
from nsfwscan.location import Location
from nsfwscan.sources.listing import list_sources
from nsfwscan.sources.s3_listing import list_prefix
from nsfwscan.storage.objects import fetch
from nsfwscan.storage.rate_limit import UNPACED, Pace
from tests.s3.servers import S3Endpoint
from tests.s3.synthetic import ListingServer

BUCKET = "prefix-tests"


@pytest.fixture(autouse=True, scope="module")
def credentials(moto: S3Endpoint) -> None:
    """Any keys will do; only the endpoint differs."""


def at(server: ListingServer) -> StorageConfig:
    return StorageConfig(endpoint_url=server.endpoint.endpoint_url)


def keys(server: ListingServer, prefix: str = "", *, ordered: bool = False, pace: Pace = UNPACED) -> list[str]:
    pages = list_prefix(Location.of(f"s3://b/{prefix}"), at(server), pace, ordered=ordered)
    return [item["Key"] for page in pages for item in page]


def holds(server: ListingServer, prefix: str = "") -> None:
    """The listing has what the bucket has under the prefix, each key once."""
    assert sorted(keys(server, prefix)) == [key for key in server.keys if key.startswith(prefix)]


def many(folder: str, count: int) -> Iterator[str]:
    return (f"{folder}{number:06d}" for number in range(count))


# Every key once


@pytest.mark.long
def test_large_folders_are_listed_side_by_side() -> None:
    """50,000 keys in 100 folders: a hundred requests and a few, many at once, each key once."""
    with ListingServer((k for i in range(100) for k in many(f"m/{i:02d}/", 500)), gate=4) as server:
        holds(server, "m/")
        assert server.most_in_flight >= 4
        assert len(server.requests) <= 103


@pytest.mark.parametrize(
    ("prefix", "layout"),
    [
        ("", ["a/", "b/", "c/"]),
        ("", ["a/b/c/d/", "a/b/c/e/"]),
        ("a", ["a/", "ab/", "a-/", "aa"]),
        ("a/", ["a/", "a//", "a///", "a/b/", "a/b//"]),
        ("a/", ["a/é/", "a/e\u0301/", "a/写真/", "a/📷/", "a/\uffff/", "a/\U0010ffff/"]),
        ("a/", ["a/ /", "a/+/", "a/%2F/", "a/\n/", "a/\0/", "a/../", "a/./", "a/?#/"]),
    ],
)
def test_odd_folders_hold_their_keys_once(prefix: str, layout: list[str]) -> None:
    """Folders within folders, empty names, prefixes that end within a name, any script; and keys named as folders."""
    keys = [*(k for folder in layout for k in many(folder, 110)), *layout, *(name[:-1] for name in layout)]
    with ListingServer((key for key in keys if key not in ("", "a")), page=50) as server:
        holds(server, prefix)


def test_what_lies_between_folders_is_listed() -> None:
    """Keys right under the prefix, before, between and behind the folders, and one that is called as a folder is."""
    loose = ["m/", "m/!", "m/a", "m/a!", "m/b", "m/b0", "m/zz"]
    with ListingServer([*loose, *many("m/a/", 300), *many("m/b/", 300), *many("m/b/c/", 300)], page=50) as server:
        holds(server, "m/")


def test_many_small_folders_are_taken_together() -> None:
    """1,000 folders of 20 keys are listed side by side by what their names begin with, not folder by folder."""
    with ListingServer((k for i in range(1000) for k in many(f"u/{i:05d}/", 20)), page=100, gate=4) as server:
        holds(server, "u/")
        assert server.most_in_flight >= 4
        assert len(server.requests) < 1.5 * 200


def test_loose_keys_beside_folders_taken_together_are_listed_once() -> None:
    """Where folders are taken together by what they begin with, keys that begin likewise are not listed again."""
    folders = (k for i in range(300) for k in many(f"u/user-{i:03d}/", 20))
    loose = (f"u/user-{i:03d}" for i in range(0, 300, 7))
    with ListingServer([*folders, *loose, "u/user-1", "u/user-12"], page=100) as server:
        holds(server, "u/")
        assert any(request.get("prefix") == "u/user-12" for request in server.requests)


@pytest.mark.parametrize("each", [1, 2, 3])
def test_tiny_folders_cost_no_more_requests_than_pages(each: int) -> None:
    """Naming folders would cost as much as listing their keys: one page follows the other."""
    with ListingServer((k for i in range(1000 // each) for k in many(f"t/{i:05d}/", each)), page=20) as server:
        holds(server, "t/")
        assert len(server.requests) <= 50 + 1


def test_a_first_page_that_misleads_costs_a_bounded_number_of_requests() -> None:
    """A large folder before a multitude of tiny ones: no request for each of those."""
    with ListingServer([*many("m/0/", 150), *(f"m/{i:06d}/x" for i in range(3000))], page=100) as server:
        holds(server, "m/")
        assert len(server.requests) <= 32 + 31 + 256


def test_too_many_folders_are_not_held() -> None:
    """After 32 pages of folders the prefix is listed page by page, and no key is lost or given twice."""
    with ListingServer([*many("m/0/", 30), *(f"m/{i:06d}/x" for i in range(700))], page=20) as server:
        holds(server, "m/")
        assert sum("delimiter" in request for request in server.requests) == 32
        assert len(server.requests) == 32 + 37


_NAMES = st.text(st.sampled_from("ab/é0"), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def eights() -> Iterator[ListingServer]:
    """A bucket to be filled, with pages of eight keys."""
    with ListingServer([], page=8) as server:
        yield server


@settings(max_examples=80, deadline=None)
@given(
    folders=st.lists(_NAMES, min_size=1, max_size=8),
    loose=st.lists(_NAMES, max_size=8),
    each=st.sampled_from([1, 4, 10, 30]),
    prefix=st.sampled_from(["", "a", "a/", "b/a", "é/"]),
)
def test_any_bucket_is_listed_once(
    eights: ListingServer, folders: list[str], loose: list[str], each: int, prefix: str
) -> None:
    """Whatever names folders and keys have, and whatever the prefix: each key once."""
    eights.fill([*(k for folder in folders for k in many(folder, each)), *loose])
    if prefix in eights.keys and not prefix.endswith("/"):
        assert keys(eights, prefix) == [prefix]
    else:
        holds(eights, prefix)


def test_excluded_folders_are_not_asked_for() -> None:
    """Where folders are listed apart, those that --exclude covers cost no request, and those beside them lack nothing."""
    with ListingServer([*many("m/keep/", 150), *many("m/out/", 300), *many("m/stay/", 150)], page=50) as server:
        source = SourceConfig(uris=("s3://b/m/",), exclude=("out/*",))
        tables = list_sources(source, at(server))
        assert sum(table.num_rows for table in tables) == 300
        assert not [query for query in server.requests if query["prefix"].startswith("m/o")]


def test_an_exact_key_is_that_object_however_much_begins_like_it() -> None:
    """The key that the source names, and nothing of the hundreds below and behind it."""
    with ListingServer(["a/b", *many("a/b/c/", 150), *many("a/b", 150)], page=50) as server:
        assert keys(server, "a/b") == ["a/b"]
        assert len(server.requests) == 1


def test_a_folder_that_is_named_as_a_key_is_keeps_its_keys() -> None:
    """Only the source itself may be a single key: further down, `a/b` and `a/b/…` stand side by side."""
    with ListingServer(["a/b", *many("a/b/", 250), *many("a/c/", 250)], page=50) as server:
        holds(server, "a/")


# Order, memory, pace


def uris(server: ListingServer, *, pace: Pace = UNPACED, **options: Any) -> list[str]:
    source = SourceConfig(uris=("s3://b/m/",), **options)
    return [uri for table in list_sources(source, at(server), pace=pace) for uri in table["uri"].to_pylist()]


def test_with_a_limit_the_first_keys_are_listed() -> None:
    """The same objects each time: the first in the order of keys, page by page, and no page more than needed."""
    with ListingServer((k for i in range(20) for k in many(f"m/{i:02d}/", 60)), page=100) as server:
        assert uris(server, limit=250) == [f"s3://b/{key}" for key in server.keys[:250]]
        assert len(server.requests) == 3


def test_requests_wait_for_those_who_use_the_listing() -> None:
    """Pages are asked for as they are used up: a slow reader keeps a few of them, not all."""
    with ListingServer((k for i in range(10) for k in many(f"m/{i:02d}/", 1000)), page=100) as server:
        pages = list_prefix(Location.of("s3://b/m/"), at(server), UNPACED, ordered=False)
        taken = 0
        while taken < 5:
            taken += bool(next(pages))
        time.sleep(0.3)
        assert len(server.requests) <= 5 + 16 + 2
        assert taken + sum(map(bool, pages)) == 100


def test_a_closed_listing_asks_no_more() -> None:
    """Closing the tables of `list_sources` ends the requests too."""
    with ListingServer((k for i in range(50) for k in many(f"m/{i:02d}/", 1000)), page=250, delay_s=0.05) as server:
        found = list_sources(SourceConfig(uris=("s3://b/m/",)), at(server))
        assert next(found).num_rows == 4096
        found.close()
        asked = len(server.requests)
        time.sleep(0.4)
        assert len(server.requests) <= asked + 16 < 200


def test_a_refused_folder_ends_the_listing_at_once() -> None:
    """One folder of a hundred may not be listed: SourceError with the reason, and no further requests."""
    folders = (k for i in range(100) for k in many(f"m/{i:02d}/", 300))
    with ListingServer(folders, page=100, delay_s=0.02, refuse="m/05/") as server:
        with pytest.raises(SourceError, match=r"cannot list s3://b/m/: permission denied \(AccessDenied\)"):
            uris(server)
        asked = len(server.requests)
        time.sleep(0.3)
        assert len(server.requests) <= asked + 16
        assert asked < 100


def test_each_request_waits_for_its_turn() -> None:
    """With a pace, so many requests take so long, however many could be under way; and with a limit too."""
    with ListingServer((k for i in range(10) for k in many(f"m/{i:02d}/", 100)), page=100) as server:
        for options in ({}, {"limit": 10_000}):
            server.requests.clear()
            began = time.monotonic()
            assert len(uris(server, pace=Pace(40), **options)) == 1000
            assert len(server.requests) >= 10
            assert time.monotonic() - began >= (len(server.requests) - 1) / 40


# Hostile keys, against a whole S3

HOSTILE = [
    "line\nbreak",
    "cr\rlf\r\n",
    "tab\tand \x01\x1f\x7f controls",
    "k" * 1024,
    "写" * 341,
    "../../etc/passwd",
    "a/../../b",
    "./c",
    "раураl.jpg",  # Cyrillic
    "paypal.jpg",
    "ＡＢＣ.jpg",
    "ABC.jpg",
    "é",
    "e\u0301",
    "right\u202eto-left",
    "zero\u200bwidth",
    "\ufeffbom",
    "100%25 real#1?.jpg",
    "a b+c",
    "a+b c",
    "a%2Bb",
    "&lt;&amp;<>\"'",
    "=cmd|' /C calc'!A0",
    "trailing ",
    " leading",
    "trailing/",
    "//",
    "back\\slash",
    "\0",
    "nul\0within",
    "📷",
]


def check_each_is_listed_once_and_read(uri: str, keys: Iterable[str], storage: StorageConfig) -> None:
    tables = list_sources(SourceConfig(uris=(uri,)), storage)
    uris = [row for table in tables for row in table["uri"].to_pylist()]
    assert Counter(uris) == Counter(f"{uri}/{key}" for key in keys)
    for found in uris:
        read = fetch(Location.of(found), storage, max_bytes=2000, timeout_s=10, attempts=1)
        assert f"{uri}/{read.data.decode()}" == found


def test_hostile_keys_are_listed_once_and_read() -> None:
    """Control characters, 1,024 bytes, `..`, lookalikes, quotes: the exact key, once, and its own bytes behind it."""
    with ListingServer(HOSTILE) as server:
        check_each_is_listed_once_and_read("s3://b", HOSTILE, at(server))


def test_hostile_keys_of_another_server_are_listed_once_and_read(moto: S3Endpoint) -> None:
    """The same with a server that is not our own; it cannot take line breaks in a key."""
    taken = [key for key in HOSTILE if "\n" not in key]
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    for key in taken:
        client.put_object(Bucket=BUCKET, Key=key, Body=key.encode())
    check_each_is_listed_once_and_read(f"s3://{BUCKET}", taken, StorageConfig())
