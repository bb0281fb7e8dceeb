"""The session reads times as botocore does, only sooner."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.utils import parse_timestamp

from nsfwscan.storage.aws_session import aws_session, read_timestamp


@pytest.mark.parametrize(
    "written",
    [
        "2026-11-01T12:00:00.000Z",
        "2026-11-01T12:00:00.123Z",
        "2026-11-01T12:00:00Z",
        "2026-11-01T12:00:00.123456789Z",
        "20261101T120000Z",
        "2026-11-01T12:00:00+02:00",
        "2026-11-01T12:00:00",
        "2026-11-01 12:00:00",
        "Sun, 01 Nov 2026 12:00:00 GMT",
        "Tue, 03 Nov 2026 12:00:00 GMT",
        1793534400,
        "1793534400.5",
        "20261101",
    ],
)
def test_a_time_is_what_botocore_takes_it_for(written: Any) -> None:
    """Of listings, of headers, and of answers that count seconds: the same moment, with or without a zone."""
    found, expected = read_timestamp(written), parse_timestamp(written)
    assert found == expected and found.utcoffset() == expected.utcoffset()


def test_the_times_of_a_listing_are_utc() -> None:
    """As S3 writes them, to the millisecond."""
    assert read_timestamp("2026-11-01T12:00:00.250Z") == datetime(2026, 11, 1, 12, 0, 0, 250_000, UTC)


@pytest.mark.parametrize("written", ["", "THIS IS Z", "2026-13-01T12:00:00Z", "10000-01-01T00:00:00Z", "-62135596801"])
def test_what_is_no_time_stays_as_it_was_written(written: str) -> None:
    """One object's time that no calendar has does not end a page of a thousand: whoever uses it sees to it."""
    assert read_timestamp(written) == written


def test_the_session_is_of_the_profile() -> None:
    """And reads all times in this way."""
    session = aws_session("night")
    assert session.profile == "night"
    parser = session.get_component("response_parser_factory").create_parser("rest-xml")
    assert parser._timestamp_parser is read_timestamp
