"""What reads text is named where it is missing, and its settings are refused where nothing reads."""

from __future__ import annotations

import importlib.util
from importlib import metadata

import pytest

from nsfwscan.config import DetectorConfig, ScanConfig, SourceConfig, TextConfig
from nsfwscan.errors import ModelError
from nsfwscan.models.registry import resolve_auxiliary
from nsfwscan.texts import ocr


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without rapidocr, or one of the packages beside it, the error names the package and the command that helps."""

    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(ocr, "weights", lambda: ())
    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(ModelError, match=r"needs the package rapidocr: pip install 'nsfwscan\[text\]'"):
        ocr.digest.__wrapped__()
    monkeypatch.undo()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs the package rapidocr: pip install 'nsfwscan\[text\]'"):
        ocr.digest.__wrapped__()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ({"patterns": ("example:en",)}, r"text\.patterns .* add --detector text$"),
        ({"block": "hosts.txt"}, r"text\.block .* add --detector link$"),
        ({"key": "public.pem"}, r"text\.key .* add --detector text or --detector link$"),
    ],
)
def test_a_setting_that_nothing_reads_for_is_refused(text: dict[str, str], said: str) -> None:
    """It would do nothing; another reader than its own does not help."""
    for detectors in ({}, {"link": DetectorConfig(uri="embedded:link")} if "patterns" in text else {}):
        config = ScanConfig(source=SourceConfig(uris=("m",)), out="o", text=TextConfig(**text), detectors=detectors)
        with pytest.raises(ModelError, match=said):
            resolve_auxiliary(config)
