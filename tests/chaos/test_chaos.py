"""A scan that is killed and resumed reports what an undisturbed one does; and the chaos test itself would notice if not."""

from __future__ import annotations

import os
import random
import sys
from itertools import product

import pyarrow as pa
import pytest

from tests.chaos.chaos import FORMS, SHORT, chaos
from tests.chaos.faults import FAULTS, MOST_IN_A_ROW, StoreFaults, schedule
from tests.chaos.media import media
from tests.chaos.stores import differences
from tests.s3.servers import FaultyProxy, moto_server
from tests.s3.test_servers import client

pytestmark = pytest.mark.long

SEED = int(os.environ.get("SEED") or 1)
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@on_linux
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_killed_and_resumed() -> None:
    """With its driver and actors killed and a store that fails, a resumed scan loses nothing, doubles nothing, changes
    no score, and reads nothing again that was staged."""
    outcome = chaos(SHORT, 200, SEED)
    assert outcome.struck == SHORT.strikes
    assert outcome.attempts == 2
    assert outcome.spared > 0
    assert outcome.failed["fail"] > 10 and outcome.failed["cut_body"] > 0


@on_linux
@pytest.mark.ray
@pytest.mark.full
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("form", FORMS)
def test_killed_in_every_way(form: str) -> None:
    """The same where raylets die as well, in both layouts, with thousands of objects."""
    outcome = chaos(FORMS[form], int(os.environ.get("OBJECTS") or 3000), SEED)
    must = {target: count for target, count in FORMS[form].strikes.items() if target != "commit"}
    assert must.items() <= outcome.struck.items()
    assert outcome.spared > 0


def test_the_same_media_each_time() -> None:
    """A seed stands for the same keys and bytes; there are duplicates and empty objects among them."""
    objects = list(media(300, 7))
    assert objects == list(media(300, 7)) != list(media(300, 8))
    contents = [data for _, data in objects]
    assert b"" in contents and len({*contents}) < len(contents) - contents.count(b"")


def test_strikes_come_while_there_is_work() -> None:
    """Every strike has its place in the schedule, in order, and none but the commit's comes when little is left."""
    strikes = schedule({"start": 1, "driver": 2, "cpu": 3, "commit": 1}, random.Random(SEED))
    assert [strike.at for strike in strikes] == sorted(strike.at for strike in strikes)
    assert strikes[0].target == "start" and strikes[-1].target == "commit"
    assert all(strike.at <= 0.75 for strike in strikes[:-1])
    assert any(strike.target == "driver" and strike.at >= 0.3 for strike in strikes)


def test_store_faults_depend_on_the_seed_alone() -> None:
    """A request is struck or not whichever comes first, about as often as said, and never too often in a row."""
    paths = [f"/media/2026/{number}" for number in range(200)]
    asked = list(product(paths, range(10)))
    struck = []
    for order in (asked, sorted(asked, key=lambda request: (request[1], request[0]))):
        faults, found = StoreFaults(SEED), {}
        for path, time in order:
            faults._see("GET", path)
            found[path, time] = next((fault for fault in FAULTS["GET"] if faults._is(fault, "GET", path)), None)
        struck.append(found)
        assert faults.objects_read() == len(paths) and faults.gets["media/2026/0"] == 10
    assert struck[0] == struck[1]
    assert 0.1 < sum(fault is not None for fault in struck[0].values()) / len(asked) < 0.18
    rows = ["".join("x" if struck[0][path, time] else "." for time in range(10)) for path in paths]
    assert any("x" * MOST_IN_A_ROW in row for row in rows) and not any("x" * (MOST_IN_A_ROW + 1) in row for row in rows)


def test_store_faults_reach_the_client() -> None:
    """Through the proxy, requests fail as the rules say, and are counted by bucket and key."""
    with moto_server() as server, FaultyProxy(server) as proxy:
        client(server).create_bucket(Bucket="media")
        client(server).put_object(Bucket="media", Key="2026/ü b.jpg", Body=b"x" * 100)
        faults = StoreFaults(SEED)
        faults.set_on(proxy)
        s3, good = client(proxy.endpoint), 0
        for _ in range(100):
            try:
                good += len(s3.get_object(Bucket="media", Key="2026/ü b.jpg")["Body"].read()) == 100
            except Exception:  # noqa: BLE001  # whatever botocore makes of them
                continue
        assert faults.gets == {"media/2026/ü b.jpg": 100}
        assert 100 - good == proxy.injected["fail"] + proxy.injected["cut_body"] + proxy.injected["reset"] > 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"score": [0.25, 0.5000000001, None]}, ["0 lost, 0 twice", "b: score 0.5000000001 instead of 0.5"]),
        ({"uri": ["a", "a", "c"]}, ["1 lost, 1 twice", "a: score 0.5 instead of 0.25", "b: uri None"]),
        ({"uri": ["a", "b", "x"]}, ["1 lost, 0 twice", "c: uri None"]),
    ],
)
def test_differences_are_found(change: dict[str, list[object]], said: list[str]) -> None:
    """A lost row, a doubled one, and a score that differs in its last bits are each told; equal reports give nothing."""
    rows = {"uri": ["a", "b", "c"], "score": [0.25, 0.5, None]}
    expected = pa.table(rows)
    told = differences(expected, pa.table(rows | change))
    assert differences(expected, pa.table(rows)) == []
    assert all(line.startswith(begin) for line, begin in zip(told, said, strict=True))
