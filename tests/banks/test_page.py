"""The page on hash banks says what its examples hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import nsfwscan
from nsfwscan.banks.bank import BankSpec, resolve_banks
from nsfwscan.config import BankConfig, StorageConfig
from nsfwscan.schema import BankKind

PAGE = (Path(nsfwscan.__file__).parent / "banks" / "README.md").read_text(encoding="utf-8")


def example(language: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: str) -> BankSpec:
    monkeypatch.setenv("NSFWSCAN_CACHE", str(folder / "cache"))
    [text] = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    (folder / "bank").write_text(text)
    [spec] = resolve_banks((BankConfig.of({"name": "b", "uri": str(folder / "bank"), **settings}),), StorageConfig())
    return spec


def test_a_hash_per_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comment, a typed hash, and a line of `sha256sum`, whose 64 digits the bank says the kind of."""
    spec = example("text", tmp_path, monkeypatch, hash="sha256")
    assert spec.entries == {"sha256": 1, "md5": 1, "pdq": 0} and not spec.malformed


def test_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column for each kind; `tags` takes what has one of them."""
    assert example("csv", tmp_path, monkeypatch).entries == {"sha256": 1, "md5": 1, "pdq": 0}
    assert example("csv", tmp_path, monkeypatch, tags=["sport"]).entries == {"sha256": 1, "md5": 0, "pdq": 0}  # type: ignore[arg-type]


def test_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries wherever they lie; the one that is said to be harmless is left out, and counted."""
    spec = example("json", tmp_path, monkeypatch)
    assert spec.entries == {"sha256": 0, "md5": 1, "pdq": 0}
    assert spec.passed_over == {"not illegal (status NON_MALICIOUS)": 1}


def test_kinds_and_settings() -> None:
    """All there are have a line, with their defaults."""
    assert all(re.search(rf"^\| `{kind}`", PAGE, re.MULTILINE) for kind in BankKind)
    for name, field in BankConfig.model_fields.items():
        if name not in ("name", "uri"):
            [default] = re.findall(rf"^\| `{name}` \| `?(\w*)`? ?\|", PAGE, re.MULTILINE)
            assert default in ("", "all") if field.default in (None, ()) else default == str(field.default)
