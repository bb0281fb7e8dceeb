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
from nsfwscan.texts.alphabet import letters, unread_notes
from nsfwscan.texts.folding import lacking_in
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
    "pattern",
    [
        "Für Größe",
        "señor ¿qué?",
        "πόσο χρονών",
        "你几岁",
        "いくつですか",
        "ガッ",
        "ｈｏｗ",
        "p[аa]ypal",
        "p[^а]ypal",
        r"p[а\w]y",
    ],
)
def test_what_is_read(pattern: str, tmp_path: Path) -> None:
    """Accents, Greek, Chinese, kana and full width are folded before they are compared; of a class, one letter is enough."""
    assert list(unread_notes([own(tmp_path, pattern)])) == []


@with_weights
@pytest.mark.parametrize(
    "pattern", ["сколько", "كم عمرك", "몇 살이야", "אהבה", "कितने साल", "อายุ", "pаypal", "p[аб]ypal", "p[а-я]ypal"]
)
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
    assert lacking_in(r"(?i)\bÄ\p{Cyrillic}\x{430}[[:alpha:]](?P<age>ß)\d{2}", frozenset()) == frozenset("as){2}")


def weights_of(folder: Path, monkeypatch: pytest.MonkeyPatch, **metadata: str) -> Path:
    """A model that gives its input, with metadata, in the place of the reader's."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, kind, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    helper.set_model_props(model, metadata)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    monkeypatch.setattr(ocr, "weights", lambda: (path,))
    return path


def test_letters_are_those_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line each, as `plain` leaves them."""
    weights_of(tmp_path, monkeypatch, character="Ä\nб\n你", other="z")
    assert letters.__wrapped__() == frozenset("aб你")


def test_weights_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as do not name their letters, are cut off, or are no weights stop the command: nobody would know what is
    never found."""
    path = weights_of(tmp_path, monkeypatch)
    with pytest.raises(ModelError, match=r"does not name its letters: install the rapidocr of constraints\.txt"):
        letters.__wrapped__()
    for data in (b"", b"no model at all", path.read_bytes()[:-1]):
        path.write_bytes(data)
        with pytest.raises(ModelError, match=r"ONNX Runtime cannot open .*model\.onnx: "):
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
