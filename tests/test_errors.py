"""Codes of errors: a closed list, in which each has one status."""

from __future__ import annotations

import re

import pytest

from nsfwscan.errors import ErrorCode, RowError, Status
from nsfwscan.images.formats.content_names import ContentKind
from nsfwscan.schema import REPORT_SCHEMA, column_doc


def test_codes_are_short_words_with_a_status_and_a_meaning() -> None:
    """Each is a word for a query, says what it means, and no two mean the same."""
    for code in ErrorCode:
        assert re.fullmatch("[a-z][a-z0-9_]{2,20}", code) and code.doc
    assert len({code.doc for code in ErrorCode}) == len(ErrorCode)
    assert RowError(ErrorCode.HTTP_403, "no").status == Status.DENIED
    assert "closed list" in column_doc(REPORT_SCHEMA.field("error_code"))


@pytest.mark.parametrize("status", Status)
def test_every_status_has_a_code(status: Status) -> None:
    """No status is without a code that means it; `ok` has one, too: a picture without a score."""
    assert status in {code.status for code in ErrorCode}


@pytest.mark.parametrize("kind", ContentKind)
def test_every_kind_of_file_has_a_code(kind: ContentKind) -> None:
    """What is no image that is scanned is `unsupported`, with a code of its own."""
    assert kind.code.status == Status.UNSUPPORTED
    assert len({kind.code for kind in ContentKind}) == len(ContentKind)
