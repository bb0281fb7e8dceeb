"""What is shown holds no secret, whatever it is written in and however long it is."""

from __future__ import annotations

import pickle

import pytest

from nsfwscan.errors import BalanceError, ErrorCode, NsfwscanError, RowError, StoreError
from nsfwscan.text import has_password, redacted


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
        ("https://h/?apikey=abc&pwd=x&jwt=y&code=z", "https://h/?apikey=***&pwd=***&jwt=***&code=***"),
        ("pwd=hunter2, passphrase='a b' and api-key=k", "pwd=***, passphrase=*** and api-key=***"),
        ("Authorization: Bearer abcdefghijkl", "Authorization: *** ***"),
        ("it sent bearer abc.def-ghi_jkl=", "it sent bearer ***"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dBjftJeZ4CVP is the token", "*** is the token"),
        ("hf_abcdefghijklmnopqrstuvwx and ghp_abcdefghijklmnopqrstuvwx", "*** and ***"),
        ("https://ghp_x@github.com/a and http://user@h/", "https://***@github.com/a and http://***@h/"),
        ("https%3A%2F%2Fu%3Ap%40h%2F%3Fsig%3Dabc%26x%3D1", "https%3A%2F%2F***%40h%2F%3Fsig%3D***%26x%3D1"),
        ("?url=https%253A%252F%252Fu%253Ap%2540h&next=%3Ftoken%3Dabc", "?url=https%253A%252F%252F***%2540h&next=%3Ftoken%3D***"),
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
        "abfs://container@account.dfs.core.windows.net/media",
        "github://org:repo@main/images",
        "a bearer of bad news; authorization required: ask for it",
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
    for error in (RowError(ErrorCode.FETCH_ERROR, said), NsfwscanError(said), StoreError(said), BalanceError(said)):
        again = pickle.loads(pickle.dumps(error))
        for text in (str(error), repr(error), str(again), repr(again)):
            assert "hunter2" not in text and "cannot read https://***@h/k?sig=***" in text


@pytest.mark.parametrize(
    "piece",
    [
        "a", "&a", "token", "secret", "://:", "://a:", "%25", "?secret", "secret=", "x=", "'", "secret='", "%3A%2F%2F", "eyJ",
        "eyJaaaaaaaa.", "&token=", "-_key", "Bearer ", "password", "@", "hf_", "AKIA", "\"password\": ",
    ],
)  # fmt: skip
def test_long_texts_take_no_longer_than_they_are(piece: str) -> None:
    """Half a megabyte of what a pattern begins with is done in a moment; squared, it would be hours."""
    redacted(piece * (500_000 // len(piece)))
