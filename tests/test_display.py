"""What is shown holds no secret, and nothing that a terminal would act on."""

from __future__ import annotations

import csv
import pickle
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsfwscan.display import has_password, printable, printable_lines, redacted, write_csv
from nsfwscan.errors import BalanceError, RowError, SetupError, StoreError
from nsfwscan.status import Status


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:hunter2@minio:9000/a@b:c", "http://***@minio:9000/a@b:c"),
        ("cannot reach ftp://u:p@ss:w@host/x, or s3://:pw@y", "cannot reach ftp://***@host/x, or s3://***@y"),
        ("https://h/k?X-Amz-Signature=0f&x=1&X-Amz-Credential=A%2Fb", "https://h/k?X-Amz-Signature=***&x=1&X-Amz-Credential=***"),
        ("https://h/k?x-amz-security-token=F/w&sig=a%3D", "https://h/k?x-amz-security-token=***&sig=***"),
        ('"https://h/k?token=t" and ?key=k&api_key=l', '"https://h/k?token=***" and ?key=***&api_key=***'),
        ("?AWSAccessKeyId=A1&Signature=b&password=c&client_secret=d", "?AWSAccessKeyId=***&Signature=***&password=***&client_secret=***"),
        ("the key AKIAIOSFODNN7EXAMPLE, ASIAIOSFODNN7EXAMPLE", "the key ***, ***"),
        ("S3(secret='a b', password=\"c\", endpoint='d')", "S3(secret=***, password=***, endpoint='d')"),
        ("{'secret': 'a', \"aws_session_token\": \"b\", 'x': 1}", "{'secret': ***, \"aws_session_token\": ***, 'x': 1}"),
        ("Credential=AK/2026/s3, SignedHeaders=host, Signature=ab0", "Credential=***, SignedHeaders=host, Signature=***"),
    ],
)  # fmt: skip
def test_secrets_are_blanked(text: str, shown: str) -> None:
    """Passwords in URIs, signatures, tokens and keys in queries, key ids, and what libraries show of their arguments."""
    assert redacted(text) == shown
    assert redacted(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a:b@c.jpg",
        "http://minio:9000/photos/user@example.org",
        "s3://bucket/monkey=1/token=/key",
        "storage.options.secret: Field required",
        "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/media/a@b",
        "https://host/k?max-keys=3&monkey=4",
        "a URI must not hold a password: give it by --profile",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    """Keys with `@` and `:`, ports, ordinary parameters, and our own sentences about passwords."""
    assert redacted(text) == text
    assert not has_password(text)


@pytest.mark.parametrize(
    "uri", ["ftp://user:pw@host/x", "s3://key:secret@bucket", "zip::https://u:p@h/a.zip", "x://:p@h"]
)
def test_passwords_in_uris_are_seen(uri: str) -> None:
    """`user:password@`, also without a user and behind another scheme."""
    assert has_password(uri)
    assert not has_password(redacted(uri))


def test_no_error_of_ours_holds_a_secret() -> None:
    """Errors blank what they are given, whoever raises them, and stay so when they travel between processes."""
    said = "cannot read https://u:hunter2@h/k?sig=hunter2"
    for error in (RowError(Status.FETCH_ERROR, said), SetupError(said), StoreError(said), BalanceError(said)):
        again = pickle.loads(pickle.dumps(error))
        for text in (str(error), repr(error), str(again), repr(again)):
            assert "hunter2" not in text and "cannot read https://***@h/k?sig=***" in text


@given(st.text())
def test_nothing_printable_moves_a_cursor(text: str) -> None:
    """No control character, no newline, no character of direction, no half of a surrogate pair comes through."""
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    shown.encode()


def test_ordinary_names_are_shown_as_they_are() -> None:
    """Letters of any script, blanks and punctuation are no danger; escapes say what was there."""
    assert printable("写真/é – a b.jpg") == "写真/é – a b.jpg"
    assert printable("a\x1b[2J\u202egpj.\n\udcff") == "a\\x1b[2J\\u202egpj.\\n\\udcff"


def test_lines_of_our_own_stay() -> None:
    """A message may have several lines; within each, everything is escaped."""
    assert printable_lines("wrong:\n  a\tb\n  c\x1b") == "wrong:\n  a\\tb\n  c\\x1b"
    assert re.fullmatch(r"[^\x00-\x09\x0b-\x1f]*", printable_lines("".join(map(chr, range(32)))))


def test_a_spreadsheet_finds_no_formula(tmp_path: Path) -> None:
    """What a spreadsheet would run is text to it; all else, and every other CSV reader, finds what was written."""
    cells = [
        "＝1+1",
        "＋1",
        "－1",
        "＠x",
        " =1",
        "\n=1",
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\tx",
        "\rx",
        "a=b",
        "/m/=1.jpg",
        'a,"b"\n',
        "",
        -1,
        None,
    ]
    write_csv(tmp_path / "x.csv", ("name", "number"), ((cell, 2) for cell in cells))
    with (tmp_path / "x.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["name", "number"]
    expected = [
        "'＝1+1",
        "'＋1",
        "'－1",
        "'＠x",
        "' =1",
        "'\n=1",
        "'=1+1",
        "'+1",
        "'-1",
        "'@SUM(A1)",
        "'\tx",
        "'\rx",
        "a=b",
        "/m/=1.jpg",
        'a,"b"\n',
        "",
        "-1",
        "",
    ]
    assert rows == [[cell, "2"] for cell in expected]
