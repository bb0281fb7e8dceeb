"""A rule that asks for what its columns never have is told, with what was meant; one that may be true is left alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from nsfwscan.errors import PolicyError
from nsfwscan.images.provenance import signals
from nsfwscan.policy import values
from nsfwscan.policy.lint import lint
from nsfwscan.policy.rules import Policy, load_policy, parse_policy, preset_names
from nsfwscan.policy.values import Known

README = Path(__file__).parents[2] / "nsfwscan" / "policy" / "README.md"


def policy(*whens: str) -> Policy:
    rules = [{"name": f"r{i}", "when": when, "decision": "review", "queue": "q"} for i, when in enumerate(whens)]
    return parse_policy({"name": "p", "version": "1", "rules": rules, "otherwise": {"decision": "allow"}})


def findings(when: str, known: Known | None = None) -> list[str]:
    return [found.removeprefix("rule 'r0': ") for found in lint(policy(when), known)]


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("label = 'Neutral'", "label is never 'Neutral'; did you mean 'neutral'?"),
        ("'PORN' = label", "label is never 'PORN'; did you mean 'porn'?"),
        ("label <> 'sexi'", "label is never 'sexi'; did you mean 'sexy'?"),
        ("lower(label) = 'Porn'", "label is never 'Porn'; did you mean 'porn'?"),
        ("label LIKE 'Porn%'", "no label is like 'Porn%'; did you mean 'porn'?"),
        ("label IN ['Neutral']", "label is never 'Neutral'; did you mean 'neutral'?"),
        ("status IN ('ok', 'Done')", "status is never 'Done': it is one of ok, not_found"),
        ("status = 'OK'", "status is never 'OK'; did you mean 'ok'?"),
        ("format = 'jpg'", "format is never 'jpg'; did you mean 'JPEG'?"),
        ("format = '.tif' or width > 1", "format is never '.tif'; did you mean 'TIFF'?"),
        ("format ILIKE 'jpg'", "no format is like 'jpg'; did you mean 'JPEG'?"),
        ("match_kind = 'blocked'", "match_kind is never 'blocked'; did you mean 'block'?"),
        ("nsfw_score > 95", "`nsfw_score > 95`: nsfw_score is 0 to 1; did you mean 0.95?"),
        ("not (95 > nsfw_score)", "`nsfw_score < 95`: nsfw_score is 0 to 1; did you mean 0.95?"),
        ("nsfw_score > 1", "`nsfw_score > 1`: nsfw_score is 0 to 1"),
        ("score_porn >= 1.5", "`score_porn >= 1.5`: score_porn is 0 to 1"),
        ("confidence < 0", "`confidence < 0`: confidence is 0 to 1"),
        ("nsfw_score BETWEEN 40 AND 95", "`nsfw_score >= 40`: nsfw_score is 0 to 1; did you mean 0.4?"),
        ("pdq_quality > 100", "`pdq_quality > 100`: pdq_quality is 0 to 100"),
        ("width = 0", "`width = 0`: width is 1 and more"),
        ("camera = NULL", "`camera = NULL` is never true: write `camera IS NULL`"),
        ("NOT (camera = NULL)", "`camera = NULL` is never true: write `camera IS NULL`"),
        ("camera <> NULL", "`camera <> NULL` is never true: write `camera IS NOT NULL`"),
        ("camera NOT IN ('Canon', NULL)", "`camera IN (…, NULL)`: nothing equals NULL; leave it out of the list"),
        ("nsfw_score > 'high'", "nsfw_score is a number, and 'high' is none"),
        ("nsfw_score > '95'", "`nsfw_score > 95`: nsfw_score is 0 to 1; did you mean 0.95?"),
        ("signals['exif.camara_absent'] = 1", "there is no signal 'exif.camara_absent'; did you mean 'exif.camera_absent'?"),
    ],
)  # fmt: skip
def test_values_that_a_column_never_has(when: str, said: str) -> None:
    """The rule, the value, and what was meant: letter case, an ending for a format, percent, `= NULL`, another type."""
    assert any(found.startswith(said) for found in findings(when)), findings(when)


@pytest.mark.parametrize(
    "when",
    [
        "nsfw_score > 0.9 AND nsfw_score < 0.1",
        "nsfw_score BETWEEN 0.9 AND 0.1",
        "label = 'porn' AND label = 'sexy'",
        "camera = 'a' AND camera = 'b'",
        "frames > 1 AND frames < 2",
        "camera IS NULL AND camera = 'Canon'",
        "NOT (nsfw_score >= 0 OR nsfw_score IS NULL)",
        "status = 'ok' AND status LIKE '%error'",
    ],
)
def test_contradictions(when: str) -> None:
    """A rule whose parts exclude each other is never true."""
    assert list(lint(policy(when))) == ["rule 'r0' is never true"]


def test_a_rule_that_is_always_true_hides_what_follows() -> None:
    """Also where it takes more than a constant to say it."""
    found = list(lint(policy("nsfw_score >= 0 or nsfw_score is null", "label = 'porn'")))
    assert found == ["rule 'r1' is never reached: 'r0' before it takes every row that it matches"]


@pytest.mark.parametrize(
    "when",
    [
        "nsfw_score >= 0",
        "nsfw_score <= 1 and confidence >= 1",
        "coalesce(nsfw_score, -1) < 0",
        "coalesce(label, 'none') = 'none'",
        "upper(label) = 'PORN'",
        "label NOT LIKE 'p%'",
        "camera = 'Neutral' or software = 'OK'",
        "camera ILIKE 'canon%' and camera NOT LIKE '%EOS%'",
        "uri LIKE 's3://a/%' AND uri LIKE '%.jpg'",
        "uri LIKE 's3://a/%' AND uri LIKE 's3://b/%'",
        "width > height and width < 2 * height",
        "width * height > 95 and nsfw_score > 0.5",
        "signals['violence.armed'] > 0.5 and signals['jpeg.double_quantisation'] < 0.1",
        "signals['generator.steps'] > 20",
        "match_distance <= 31",
        "cast(nsfw_score * 100 as integer) > 95",
        "match_bank = 'memes' and match_kind = 'block'",
        "modified_at > timestamp '2026-01-01'",
        "regexp_matches(uri, '.*\\.JPG$')",
        "frames > 1 and frames < 3 and frames <> 1",
        "label IS DISTINCT FROM NULL",
        "nsfw_score > 0.5 and nsfw_score > 0.5000001 and nsfw_score < 0.5000002",
        "status <> 'ok' and error like '%cut off%'",
        "(label = 'porn') = (status = 'ok')",
        "case when label = 'porn' then nsfw_score > 0.9 else false end",
    ],
)
def test_no_false_alarm(when: str) -> None:
    """What may be true for some row, and what is not understood, is left alone."""
    assert list(lint(policy(when))) == []


def test_the_readme_and_the_presets_are_sound(tmp_path: Path) -> None:
    """Every policy that people copy from here."""
    written = [block.split("```")[0] for block in README.read_text().split("```yaml\n")[1:]]
    policies = [block for block in written if yaml.safe_load(block).get("rules")]
    assert policies
    for block in policies:
        (tmp_path / "policy.yaml").write_text(block)
        assert list(lint(load_policy(str(tmp_path / "policy.yaml")))) == []
    assert [list(lint(load_policy(name))) for name in preset_names()] == [[]] * len(preset_names())


def test_what_is_known_of_a_run_is_asked_for() -> None:
    """Banks that it had, labels that its model has."""
    known = Known(labels=("neutral", "nsfw"), banks=("csam", "memes"))
    assert findings("match_bank = 'csma'", known) == ["match_bank is never 'csma'; did you mean 'csam'?"]
    assert findings("label = 'porn'", known)[0].startswith("label is never 'porn'")
    assert findings("match_bank = 'csam' and label = 'nsfw'", known) == []


def test_the_closed_groups_of_signals_are_those_that_are_made() -> None:
    """A signal that provenance makes is never called unknown."""
    made = Path(signals.__file__).read_text()
    for group, names in values._CLOSED_SIGNALS.items():
        for name in names:
            assert group == "prefilter" or f'"{group}.{name}"' in made
        said = {part.split('"')[0] for part in made.split(f'yield "{group}.')[1:]}
        assert said <= set(names), group


# Limits


@pytest.mark.parametrize(
    "when",
    [
        "(" * 60 + "nsfw_score > 0.5" + ")" * 60,
        "not " * 3000 + "true",
        "nsfw_score > 0" + " + 1" * 3000,
        "nsfw_score > 0.5 -- " + "x" * 20_000,
        "uri in ('" + "', '".join(["a" * 60] * 300) + "')",
    ],
)
def test_a_rule_has_bounds(when: str) -> None:
    """Too long or too deep is a message that names the rule, at once; never a RecursionError."""
    began = time.process_time()
    with pytest.raises(PolicyError, match=r"rule 'r0': "):
        policy(when)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("when", ["length(repeat('x', 4000000000)) > 1", "list_sum(range(3000000000)) > width"])
def test_a_rule_is_bound_and_not_computed(when: str) -> None:
    """What would take gigabytes or minutes is refused by name before anything of it runs."""
    began = time.process_time()
    with pytest.raises(PolicyError, match=r"rule 'r0': (repeat|range)\(\) may take any amount of memory"):
        policy(when)
    assert time.process_time() - began < 2


def test_many_rules_are_bound_and_checked_in_time() -> None:
    """Ten times as many take about ten times as long: two thousand are done in a second or two of any machine's CPU."""

    def taken(count: int, start: int) -> float:
        whens = [
            f"nsfw_score >= {1 - i / 9000} and label = 'porn' and uri <> '{i}'" for i in range(start, start + count)
        ]
        began = time.process_time()
        assert list(lint(policy(*whens))) == []
        return time.process_time() - began

    taken(10, 0)
    assert taken(2000, 2000) < 20 * taken(200, 100)


def test_there_is_an_end_to_rules() -> None:
    """More than can be meant are refused."""
    rule: dict[str, Any] = {"when": "true", "decision": "allow"}
    rules = [{**rule, "name": str(i)} for i in range(5001)]
    with pytest.raises(PolicyError, match="5,000"):
        parse_policy({"name": "p", "version": "1", "rules": rules, "otherwise": {"decision": "allow"}})


@pytest.mark.parametrize(
    "text",
    [
        "version: 1\nrules: " + "[" * 3000 + "]" * 3000 + "\n",
        "a: &a [x, x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(12)),
        "version: &v\n  - *v\n",
        "- " * 100_000 + "x",
        "{a: " * 100_000,
        "? " * 100_000 + "x",
        "version: 2026-02-31\nrules: []\n",
        *(f"version: 1\nrules: !!{tag} x\n" for tag in ("int", "float", "bool", "timestamp", "binary", "omap", "set")),
    ],
)  # fmt: skip
def test_yaml_that_is_a_bomb(tmp_path: Path, text: str) -> None:
    """Nested too deeply, aliases of aliases, one of itself, values that are none: a message that names the file."""
    (tmp_path / "bomb.yaml").write_text(text)
    began = time.process_time()
    with pytest.raises(PolicyError, match=r"bomb\.yaml"):
        load_policy(str(tmp_path / "bomb.yaml"))
    assert time.process_time() - began < 10
