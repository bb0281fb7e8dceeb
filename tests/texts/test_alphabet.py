"""Patterns in letters that are never read in a picture are named where a run begins; the letters cost no model."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

import nsfwscan
from nsfwscan.cli.main import main
from nsfwscan.config import ScanConfig, StorageConfig
from nsfwscan.errors import ModelError
from nsfwscan.texts import alphabet, ocr
from nsfwscan.texts.alphabet import letters, metadata_of, unread_notes
from nsfwscan.texts.folding import letters_of
from nsfwscan.texts.patterns import EXAMPLES, PatternList, read_list
from nsfwscan.workflows.doctor import examine
from tests.later import later

onnx = later("onnx")
pytest.importorskip("re2")
with_weights = pytest.mark.skipif(importlib.util.find_spec("rapidocr") is None, reason="rapidocr is not installed")


def written(folder: Path, *patterns: str) -> str:
    topics = {"asks": {"combine": [0.5], "groups": {"words": list(patterns)}}}
    content = {"name": "own", "version": 1, "language": "ru", "owner": "me", "topics": topics}
    (folder / "own.yaml").write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000))
    return str(folder / "own.yaml")


def own(folder: Path, *patterns: str) -> PatternList:
    return read_list(written(folder, *patterns), StorageConfig())


@with_weights
def test_the_examples_are_read_whole() -> None:
    """None of the lists that come along has a letter that is not read."""
    assert (
        list(unread_notes([read_list(f"example:{one.stem}", StorageConfig()) for one in EXAMPLES.glob("*.yaml")])) == []
    )


@with_weights
@pytest.mark.parametrize(
    "pattern", ["Für Größe", "señor ¿qué?", "πόσο χρονών", "你几岁", "いくつですか", "ガッ", "ｈｏｗ"]
)
def test_what_is_read(pattern: str, tmp_path: Path) -> None:
    """Accents, Greek, Chinese, kana and full width are folded before they are compared."""
    assert list(unread_notes([own(tmp_path, pattern)])) == []


@with_weights
@pytest.mark.parametrize("pattern", ["сколько", "كم عمرك", "몇 살이야", "אהבה", "कितने साल", "อายุ", "p[аa]ypal"])
def test_what_is_not_read(pattern: str, tmp_path: Path) -> None:
    """Other scripts, and one letter of another script that looks like a Latin one; each list is one sentence."""
    [note] = unread_notes([own(tmp_path, "how old", pattern)])
    assert note.startswith(f"{tmp_path}/own.yaml: 1 of 2 patterns have letters that embedded:text does not read (")
    assert repr(pattern) in note and "how old" not in note


def test_a_note_names_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many letters and patterns three, with the number of the rest; the first letter has its name."""
    monkeypatch.setattr(alphabet, "letters", lambda: frozenset("abc"))
    [note] = unread_notes([own(tmp_path, "abc", "d", "e", "f", "g", "h")])
    assert "5 of 6 patterns" in note and "(d, e, f and 2 more: LATIN SMALL LETTER D): 'd', 'e', 'f' and 2 more." in note


def test_syntax_has_no_letters() -> None:
    """What an escape, a class or a flag names is no letter that is looked for."""
    assert letters_of(r"(?i)\bÄ\p{Cyrillic}\x{430}[[:alpha:]](?P<age>ß)\d{2}") == frozenset("a[]s){2}")


def test_metadata_is_what_onnx_reads(tmp_path: Path) -> None:
    """Before and after weights, empty, and in any script; of a file that is cut off or none, an error says so."""
    helper = onnx.helper
    heavy = onnx.numpy_helper.from_array(np.zeros(100_000, np.float32), "heavy")
    graph = helper.make_graph([helper.make_node("Identity", ["heavy"], ["y"])], "g", [], [], [heavy])
    model = helper.make_model(graph)
    helper.set_model_props(model, {"character": "а\nб\n你", "empty": "", "long": "x" * 70_000})
    data = model.SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    assert metadata_of(path) == {one.key: one.value for one in onnx.load(str(path)).metadata_props}
    for broken in (b"", data[:-1], b"\x80" * 40, b"no model at all"):
        path.write_bytes(broken)
        with pytest.raises(ModelError, match=r"model\.onnx is no ONNX file that can be read"):
            metadata_of(path)


def test_letters_that_are_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights without them stop the command: nobody would know what is never found."""
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [])).SerializeToString())
    monkeypatch.setattr(ocr, "weights", lambda: (path,))
    with pytest.raises(ModelError, match=r"does not name its letters: install the rapidocr of constraints\.txt"):
        letters.__wrapped__()


@with_weights
def test_every_command_says_it(tmp_path: Path) -> None:
    """The scan's lines and record, `--explain`, `classify` and `doctor` have the same sentence; without the list, or
    without a reader, nothing is said."""
    (tmp_path / "media").mkdir()
    Image.fromarray(np.full((30, 40, 3), 90, np.uint8)).save(tmp_path / "media" / "a.png")
    source, out, patterns = str(tmp_path / "media"), str(tmp_path / "out"), written(tmp_path, "сколько тебе лет")
    [note] = unread_notes([read_list(patterns, StorageConfig())])
    given: dict[str, Any] = {"detectors": {"text": {"uri": "embedded:text"}}, "text": {"patterns": [patterns]}}
    result = nsfwscan.scan(source, out, run_id="1", **given)
    assert [(one.count, one.example) for one in result.record.warnings if one.name == "unread_letters"] == [(1, note)]
    options = ["--detector", "text", "--patterns", patterns]
    for command in (
        ["scan", source, "--out", out, *options, "--explain"],
        ["scan", source, "--out", out, *options, "--full"],
        ["classify", f"{source}/a.png", *options],
    ):
        said = CliRunner().invoke(main, command).output
        assert " ".join(said.split()).count(" ".join(note.split())) >= 1, said
    config = ScanConfig.of({"source": {"uris": [source]}, "out": out, **given})
    assert [one.verdict for one in examine(config) if one.detail == note] == ["warn"]
    plain = nsfwscan.scan(source, out, run_id="3", detectors=given["detectors"])
    assert not [one for one in plain.record.warnings if one.name == "unread_letters"]
