"""Lists of patterns are read, refused with file and line, and find what is masked; a weak hint alone stays weak."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError
from nsfwscan.texts.folding import pattern_of, plain, unmasked
from nsfwscan.texts.patterns import EXAMPLES, PatternList, Search, read_list

pytest.importorskip("re2")
pytest.importorskip("confusable_homoglyphs")


@pytest.fixture(scope="module")
def examples() -> list[PatternList]:
    """The lists that come with nsfwscan."""
    return [read_list(f"example:{path.stem}", StorageConfig()) for path in sorted(EXAMPLES.glob("*.yaml"))]


def written(folder: Path, *patterns: str, **changed: object) -> str:
    topics = {"spam": {"combine": [0.5], "groups": {"words": list(patterns)}}}
    content = {"name": "own", "version": 1, "language": "en", "owner": "me", "topics": topics, **changed}
    (folder / "own.yaml").write_text(yaml.safe_dump(content, sort_keys=False, width=1000))
    return str(folder / "own.yaml")


def test_examples_say_that_they_are_examples(examples: list[PatternList]) -> None:
    assert [one.content.language for one in examples] == ["de", "en", "es"]
    assert all(one.content.name.startswith("example-") and "example" in one.content.owner for one in examples)


def test_weak_hints_add_up(examples: list[PatternList]) -> None:
    """An age alone is asked by friends; with a platform, secrecy and a request it is something else, also line by line
    and in another language. A group counts once."""
    search = Search(examples)
    asked = "hi, how old are you?", "add me on snap", "don't tell your mom", "send me a pic"
    scores = [search("\n".join(asked[:count])).get("solicitation") for count in range(1, 5)]
    assert scores == [0.15, 0.5, 0.8, 0.95]
    assert search("how old are you? how old are u? i am 13")["solicitation"] == 0.15
    assert search("add me on insta, dont tell anyone")["solicitation"] == 0.5
    assert search("Wie alt bist du? Schreib mir auf Telegram, sag es niemandem")["solicitation"] == 0.8
    assert search("send me 100 euro or i post your pics")["extortion"] == 0.9
    found = search("A cake for 12 guests takes an hour")
    assert set(found.values()) == {0.0} and "extortion" in found and "solicitation.age" not in found


@pytest.mark.parametrize(
    "masked",
    ["Hоw оld аre уоu?", "ｈｏｗ ｏｌｄ ａｒｅ ｙｏｕ", "h0w 0ld 4re y0u", "how\u200b old are y\u00adou", "h o w  o l d  a r e  y o u", "hooow oooold are you"],
)  # fmt: skip
def test_masks_are_taken_off(masked: str) -> None:
    """Letters of other scripts, full width, digits for letters, invisible signs, spaces between letters."""
    assert "how old are you" in unmasked(masked).replace("hoow", "how").replace("oold", "old")


def test_plain_keeps_numbers() -> None:
    assert plain("I'm  13,\nGRÜSSE aus Köln") == "i'm 13, grusse aus koln"


@pytest.mark.parametrize("said", ["WIE ALT bist Du für Größe", "wie alt bist du fur grosse"])
@pytest.mark.parametrize(
    "pattern",
    ["Wie Alt", "für", "fu\u0308r GRÖSSE", "Größe", r"\bDU\b", r"[A-Z]{3} (?P<Age>ALT)", r"(?i)Wie\SALT|\x44u|DU\s\S+", r"\p{L}IE"],
)  # fmt: skip
def test_letters_of_patterns_are_folded_as_texts_are(tmp_path: Path, pattern: str, said: str) -> None:
    """Capitals and accents would be found in no text; escapes, classes and names keep what they mean."""
    assert Search([read_list(written(tmp_path, pattern), StorageConfig())])(said)["spam"] == 0.5


@pytest.mark.parametrize("pattern", [r"\PL\D\W\S", r"\p{Lu}", r"[[:^ALPHA:]]x", r"\x{41}(?s-i:\W)(?P<Name>\B)"])
def test_what_is_no_letter_in_a_pattern_stays(pattern: str) -> None:
    assert pattern_of(pattern) == pattern


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(", "missing"),
        (r"(a)\1", "invalid escape sequence"),
        ("(?=a)b", "invalid perl operator"),
        ("a*", "true of an empty text"),
        ("(a{1,1000}){1,1000}", "cannot be used"),
    ],
)
def test_a_bad_pattern_stops_with_its_line(tmp_path: Path, pattern: str, why: str) -> None:
    uri = written(tmp_path, "fine", pattern)
    line = next(n for n, text in enumerate(Path(uri).read_text().splitlines(), 1) if pattern in text)
    with pytest.raises(ConfigError, match=why) as refused:
        read_list(uri, StorageConfig())
    assert f"own.yaml, line {line}: the pattern" in str(refused.value)


@pytest.mark.parametrize("merged", ["{words: [fine, '(']}", "[{more: [fine]}, {words: [fine, '(']}]"])
def test_a_bad_pattern_that_yaml_merges_has_its_line(tmp_path: Path, merged: str) -> None:
    """A group may come from another mapping (`<<`), as an alias does."""
    (tmp_path / "own.yaml").write_text(
        "name: own\nversion: 1\nlanguage: en\nowner: me\ntopics:\n  asks:\n    combine: [0.5]\n    groups:\n"
        f"      first: [harmless]\n      <<: {merged}\n"
    )
    with pytest.raises(ConfigError, match=r"own\.yaml, line 10: the pattern '\(' of asks\.words cannot be used"):
        read_list(str(tmp_path / "own.yaml"), StorageConfig())


def test_no_pattern_hangs(tmp_path: Path) -> None:
    """What takes other engines years takes a moment of this process."""
    search = Search([read_list(written(tmp_path, "(a|a)+b", "(x+x+)+y"), StorageConfig())])
    began = time.process_time()
    assert search("a" * 20_000 + " " + "x" * 20_000)["spam"] == 0
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"owner": ""}, "owner"),
        ({"topics": {}}, "topics"),
        ({"language": "English"}, "language"),
        ({"topics": {"chars": {"combine": [1], "groups": {"a": ["b"]}}}}, "must not be called 'chars'"),
        ({"topics": {"spam": {"combine": [0.5, 0.4], "groups": {"a": ["b"], "c": ["d"]}}}}, "combine falls"),
        ({"topics": {"spam": {"combine": [0.5, 0.6], "groups": {"a": ["b"]}}}}, "2 scores for 1 groups"),
        ({"more": 1}, "more"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, changed: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        read_list(written(tmp_path, "fine", **changed), StorageConfig())


def test_a_list_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there are example:de, example:en, example:es"):
        read_list("example:fr", StorageConfig())
    with pytest.raises(ConfigError, match="cannot read the patterns"):
        read_list(str(tmp_path / "none.yaml"), StorageConfig())
    (tmp_path / "none.yaml").write_text("- a\n")
    with pytest.raises(ConfigError, match="must be a mapping"):
        read_list(str(tmp_path / "none.yaml"), StorageConfig())
