"""A policy that loads is one that can decide: its rules bind to the report, stay within a row, and reach no file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from nsfwscan.errors import PolicyError
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import GUARD, load_policy, parse_policy, preset_names
from nsfwscan.policy.sql import VISIBLE
from nsfwscan.policy.thresholds import with_numbers
from nsfwscan.runs.record.inputs import PolicyRecord
from nsfwscan.schema import Decision
from nsfwscan.storage.store import to_json

POLICY: dict[str, Any] = {
    "name": "mine",
    "version": "1",
    "rules": [
        {"name": "high", "when": "nsfw_score >= 0.9", "decision": "block", "queue": "adult", "severity": 3},
        {"name": "low", "when": "nsfw_score >= 0.4", "decision": "review", "shield": "blur"},
    ],
    "otherwise": {"decision": "allow"},
}


def policy(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(POLICY), **changes}


def with_rule(when: str, **changes: Any) -> dict[str, Any]:
    return policy(rules=[{"name": "only", "when": when, "decision": "block", **changes}])


def changed(place: str, value: Any, of: dict[str, Any] | None = None) -> dict[str, Any]:
    """A policy (unset: POLICY) with one value changed, or taken out (None), at e.g. `rules.0.when`."""
    found: Any = (result := copy.deepcopy(of) if of else policy())
    *path, last = [int(step) if step.isdigit() else step for step in place.split(".")]
    for step in path:
        found = found[step]
    if value is None:
        del found[last]
    else:
        found[last] = value
    return result


# Presets and files


@pytest.mark.parametrize("name", preset_names())
def test_presets_load(name: str) -> None:
    """Each policy that comes with the package binds, is called as its file, and sends no unreadable image to `allow`."""
    preset = load_policy(name)
    assert preset.name == name and preset.description
    rows = pa.Table.from_pylist(
        [{"uri": "a", "status": s} for s in ("unsupported", "decode_error", "denied")], schema=VISIBLE
    )
    assert Decider(preset)(rows)["decision"].to_pylist() == [Decision.UNDETERMINED] * 3


def test_the_presets_are_the_ones_that_models_name() -> None:
    """One for the embedded model, one for binary and one for five-class checkpoints, and the one for all detectors."""
    assert preset_names() == ["binary", "factory", "five-class", "open-nsfw"]


def test_a_file_is_a_policy_named_after_it(tmp_path: Path) -> None:
    """Without a `name` it is the file's; a version may be a date or a number."""
    path = tmp_path / "strict.yaml"
    path.write_text(
        "version: 2026-11-01\nrules:\n- {name: a, when: nsfw_score > 0.1, decision: block}\notherwise: {decision: allow}"
    )
    loaded = load_policy(str(path))
    assert (loaded.name, loaded.version) == ("strict", "2026-11-01")
    assert loaded.identity.startswith("strict@")


def test_a_condition_may_be_written_over_several_lines(tmp_path: Path) -> None:
    """YAML blocks with SQL comments, also at the end, decide as they read."""
    path = tmp_path / "long.yaml"
    path.write_text(
        "version: 1\nrules:\n- name: a\n  when: |\n    -- explicit\n    nsfw_score >= 0.9  -- or so\n    or label = 'porn' -- sure\n"
        "  decision: block\notherwise: {decision: allow}\n"
    )
    rows = pa.Table.from_pylist(
        [
            {"uri": "a", "nsfw_score": 0.95},
            {"uri": "b", "nsfw_score": 0.1},
            {"uri": "c", "nsfw_score": 0.1, "label": "porn"},
        ],
        schema=VISIBLE,
    )
    assert Decider(load_policy(str(path)))(rows)["decision"].to_pylist() == ["block", "allow", "block"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"No such file or directory \(presets: binary, factory, five-class, open-nsfw\)"),
        (b"rules: [", "is not YAML"),
        (b"version: \xff", "is not YAML"),
        (b"- a\n- b\n", "must be a mapping"),
        (b"", "must be a mapping"),
        (b"version: !!python/object/apply:os.getcwd []", "is not YAML"),
    ],
)
def test_files_that_are_no_policy_are_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    """Absent, broken, empty or of another shape: a PolicyError with the file's name."""
    path = tmp_path / "policy.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PolicyError, match=said) as error:
        load_policy(str(path))
    assert str(path) in str(error.value)


# Shape


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("version", None, "version: Field required"),
        ("rules", None, "rules: Field required"),
        ("otherwise", None, "otherwise: Field required"),
        ("ruls", [], "ruls: Extra inputs are not permitted"),
        ("rules.0.wen", "true", r"rules\.0\.wen: Extra inputs"),
        ("rules.0.when", None, r"rules\.0\.when: Field required"),
        ("rules.0.when", "", r"rules\.0\.when: "),
        ("rules.0.when", True, r"rules\.0\.when: "),
        ("rules.0.name", "", r"rules\.0\.name: "),
        ("rules.1.decision", "banish", r"rules\.1\.decision: .*'allow', 'review', 'block'"),
        ("rules.1.shield", "cover", r"rules\.1\.shield: "),
        ("rules.1.severity", 5, r"rules\.1\.severity: "),
        ("rules.1.severity", -1, r"rules\.1\.severity: "),
        ("otherwise.when", "true", r"otherwise\.when: Extra inputs"),
        ("rules.1.name", "high", "two rules are called 'high'"),
        ("rules.1.name", GUARD, "the rule name 'no-score' is reserved"),
        ("rules.1.name", "otherwise", "the rule name 'otherwise' is reserved"),
    ],
)
def test_a_malformed_policy_names_its_fault(place: str, value: Any, said: str) -> None:
    """Unknown keys, missing ones, values out of range, names taken twice or reserved: each is named with its place."""
    with pytest.raises(PolicyError, match=said):
        parse_policy(changed(place, value))


def test_a_policy_without_rules_is_one() -> None:
    """`otherwise` alone decides everything."""
    assert parse_policy(policy(rules=[])).rules == ()


# Thresholds, samples, regions, overrides, queues

FULL: dict[str, Any] = {
    "name": "full",
    "version": "1",
    "thresholds": {"explicit": 0.9, "borderline": 0.4},
    "regions": {"eu": ["s3://media-eu/", "*/eu/*"]},
    "queues": ["adult", "quality", "eu"],
    "rules": [
        {"name": "high", "when": "nsfw_score >= $explicit", "decision": "block", "queue": "adult", "skill": "calm"},
        {"name": "low", "when": "nsfw_score >= $borderline", "decision": "review", "queue": "adult"},
        {"name": "spot", "when": "true", "sample": 0.01, "seed": 7, "decision": "review", "queue": "quality"},
    ],
    "otherwise": {"decision": "allow"},
    "overrides": [
        {"region": "eu", "thresholds": {"borderline": 0.3}, "rules": {"low": {"queue": "eu", "severity": 2}}},
        {"source": "s3://media/kids/", "rules": {"otherwise": {"decision": "review"}}},
    ],
    "review": {"categories": ["gore", "spam"]},
}


def test_a_full_policy_loads_and_survives_its_record() -> None:
    """Everything that a policy may say; what `run.json` has of it is the same policy."""
    loaded = parse_policy(FULL)
    assert parse_policy(loaded.model_dump(mode="json")).identity == loaded.identity


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("thresholds.explicit", None, r"rule 'high': there is no threshold \$explicit; there are: borderline"),
        ("thresholds", None, r"rule 'high': there is no threshold \$explicit; there are none"),
        ("thresholds.explicit", "0.9", r"thresholds\.explicit: "),
        ("thresholds.explicit", True, r"thresholds\.explicit: "),
        ("thresholds.explicit", float("nan"), r"thresholds\.explicit: "),
        ("thresholds.too-high", 0.9, "threshold 'too-high': a name is made of letters"),
        ("rules.2.sample", 0, r"rules\.2\.sample: .*greater"),
        ("rules.2.sample", 1, r"rules\.2\.sample: .*less than 1"),
        ("rules.2.sample", "1%", r"rules\.2\.sample: "),
        ("rules.2.sample", None, r"rules\.2: a seed without a sample says nothing"),
        ("rules.0.skill", "", r"rules\.0\.skill: "),
        ("regions.eu", [], r"regions\.eu: "),
        ("regions.eu", ["media-eu/"], r"regions\.eu\.0: 'media-eu/' is no place: .*how the URI begins"),
        ("regions", None, r"overrides\.0 \(region eu\): there is no region 'eu'; there are none"),
        ("overrides.0.region", "us", r"overrides\.0 \(region us\): there is no region 'us'; there are: eu"),
        ("overrides.0.region", False, r"overrides\.0\.region: .*put it in quotes"),
        ("overrides.0.source", "s3://a/", r"overrides\.0: an override is for one `source` or one `region`"),
        ("overrides.0.region", None, r"overrides\.0: an override is for one `source` or one `region`"),
        ("overrides.1.rules", None, r"overrides\.1: an override changes something"),
        ("overrides.1.rules", {"low": {}}, r"overrides\.1: an override changes something"),
        ("overrides.0.thresholds.lower", 0.1, r"overrides\.0 \(region eu\): there is no threshold 'lower'"),
        ("overrides.1.rules.lowest", {"severity": 1}, r"overrides\.1 .*there is no rule 'lowest'; .*high, low, otherw"),
        ("overrides.1.rules.low", {"when": "true"}, r"overrides\.1\.rules\.low\.when: Extra inputs"),
        ("overrides.0.rules.low.severity", 5, r"overrides\.0\.rules\.low\.severity: "),
        ("queues", ["adult", "eu"], "rule 'spot': there is no queue 'quality'; there are: adult, eu"),
        ("queues", ["adult", "quality"], r"overrides\.0\.rules\.low: there is no queue 'eu'"),
        ("review.categories", ["a", "a"], r"review\.categories: 'a' stands there twice"),
        ("review.reasons", [], r"review\.reasons: "),
        ("review.reasons", ["two\nlines"], r"review\.reasons\.0: "),
        ("review.reason", ["x"], r"review\.reason: Extra inputs"),
    ],
)
def test_what_a_full_policy_gets_wrong_is_named(place: str, value: Any, said: str) -> None:
    """Names that are not there, numbers that are none, overrides of nothing or of nowhere: each with its place."""
    with pytest.raises(PolicyError, match=said):
        parse_policy(changed(place, value, FULL))


@pytest.mark.parametrize(
    ("when", "bound"),
    [
        ("nsfw_score>=$a", "nsfw_score>=(0.25)"),
        ("é = $a /* $a */ or uri like '%$a%' -- $a", "é = (0.25) /* $a */ or uri like '%$a%' -- $a"),
        ('"$a" = $$ $a $$ and a$a > $long_name', '"$a" = $$ $a $$ and a$a > (-10000000000)'),
        ("x < $tiny and $order", "x < (0.000000001) and (1.0)"),
    ],
)
def test_thresholds_stand_where_sql_takes_a_number(when: str, bound: str) -> None:
    """In no string, comment or name; as plain decimals, whatever their size."""
    numbers = {"a": 0.25, "long_name": -1e10, "tiny": 1e-9, "order": 1.0}
    assert with_numbers(when, numbers).replace("10000000000.0", "10000000000") == bound


@pytest.mark.parametrize("when", ["nsfw_score >= $1", "nsfw_score >= ?", "nsfw_score >= $ explicit", "$explicit"])
def test_other_parameters_are_refused(when: str) -> None:
    """Numbered ones have no value, and a threshold alone is no condition."""
    with pytest.raises(PolicyError, match="rule 'only'"):
        parse_policy({**with_rule(when), "thresholds": {"explicit": 0.5}})


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("thresholds.explicit", 0.91),
        ("regions.eu", ["s3://media-eu/"]),
        ("rules.0.skill", "strong"),
        ("rules.2.sample", 0.02),
        ("rules.2.seed", 8),
        ("overrides.0.thresholds.borderline", 0.31),
        ("overrides.0.rules.low.severity", 3),
        ("overrides.1.source", "s3://media/adult/"),
        ("overrides.1", None),
    ],
)
def test_the_digest_covers_all_that_decides(place: str, value: Any) -> None:
    """Thresholds, samples, skills, regions and overrides are part of the policy's identity."""
    assert parse_policy(changed(place, value, FULL)).identity != parse_policy(FULL).identity


def test_the_words_of_reviewers_decide_nothing() -> None:
    """A policy keeps its digest when they change, and its record has them only where it names its own."""
    loaded, plain = parse_policy(FULL), parse_policy(changed("review", None, FULL))
    assert loaded.identity == plain.identity
    assert (loaded.review.categories, loaded.review.reasons) == (("gore", "spam"), plain.review.reasons)
    kept = PolicyRecord.model_validate_json(to_json(PolicyRecord.of(loaded)))
    assert parse_policy(kept.content()).review == loaded.review
    assert "review" not in PolicyRecord.model_validate_json(to_json(PolicyRecord.of(plain))).content()


# Binding


@pytest.mark.parametrize(
    "column", ["nsfw_scor", "decision", "rule", "severity", "policy", "false_positive", "run_id", "score_violence"]
)
def test_an_unknown_column_is_named(column: str) -> None:
    """A typing error, or a column that is only known after deciding, is refused with the columns there are."""
    with pytest.raises(PolicyError, match=rf"rule 'only': .*{column}(.|\n)*columns: uri, size"):
        parse_policy(with_rule(f"{column} is not null"))


@pytest.mark.parametrize("column", VISIBLE.names)
def test_every_visible_column_may_be_asked_for(column: str) -> None:
    """All that is known of a row before it is decided."""
    parse_policy(with_rule(f"{column} is not null"))


@pytest.mark.parametrize(
    "when", ["nsfw_score", "1", "'true'", "NULL", "nsfw_score + 0.1", "*", "COLUMNS('score_.*') > 0.5", "{'a': true}"]
)
def test_a_condition_must_be_true_or_false(when: str) -> None:
    """A score is no condition; nor is a number, a text, or several columns at once."""
    with pytest.raises(PolicyError, match="`when` must be true or false"):
        parse_policy(with_rule(when))


@pytest.mark.parametrize(
    "when",
    [
        "1=1) --",
        "1=1) OR (1=1",
        "true), (false",
        "true, true",
        "nsfw_score >= 0.5; DROP TABLE report",
        "nsfw_score >= 0.5 FROM report",
        "nsfw_score >= 0.5 WHERE false",
        "nsfw_score >= 0.5 AS matches",
        "nsfw_score >= 0.5 /* no end",
        "nsfw_score >= 'a",
        "nsfw_score >= 0.5 and",
        "nsfw_score >= ?",
        "nsfw_score >= $threshold",
        "   ",
        "-- nothing but a comment",
    ],
)
def test_a_condition_is_one_expression(when: str) -> None:
    """Text that closes our parentheses, begins another statement or ends too soon is refused, never executed."""
    with pytest.raises(PolicyError, match="rule 'only'"):
        parse_policy(with_rule(when))


@pytest.mark.parametrize(
    "when",
    [
        "(select count(*) from read_csv('/etc/passwd')) > 0",
        "(select count(*) from '/etc/passwd') > 0",
        "exists (from read_text('/etc/passwd'))",
        "exists (from read_blob('/etc/*'))",
        "exists (from glob('/etc/*'))",
        "exists (from read_parquet('s3://bucket/a.parquet'))",
        "exists (from read_json('http://127.0.0.1:9/'))",
        "getenv('HOME') = '/root'",
        "exists (from duckdb_secrets())",
    ],
)
def test_a_condition_reaches_no_file_and_no_network(when: str) -> None:
    """A policy may come from somebody who may not read this machine's files."""
    with pytest.raises(PolicyError, match="rule 'only'"):
        parse_policy(with_rule(when))


@pytest.mark.parametrize(
    "when",
    [
        "max(nsfw_score) >= 0.5",
        "count(*) > 0",
        "row_number() over () = 1",
        "nsfw_score > avg(nsfw_score) over ()",
        "(select true)",
        "uri in (select 'a')",
        "coalesce(nsfw_score > (select 0.5), false)",
        "unnest([true, false])",
        "random() < 0.01",
        "uuid()::varchar > 'a'",
        "scanned_at > now()",
        "modified_at < current_date",
        "modified_at < today()",
        "scanned_at > CURRENT_TIMESTAMP",
        "current_setting('threads') = '1'",
    ],
)
def test_a_condition_follows_from_its_row_alone(when: str) -> None:
    """Other rows differ between shard, commit and replay, and chance and time do everywhere: the decision would too."""
    with pytest.raises(PolicyError, match="must follow from the row alone"):
        parse_policy(with_rule(when))


@pytest.mark.parametrize(
    "when",
    [
        "uri = 'random()' or uri like '%\"class\":\"WINDOW\"%'",
        "hash(uri) % 100 = 0",
        "nsfw_score between 0.2 and 0.4 and width * height > 1000000",
        "regexp_matches(uri, '^s3://.*/private/') and not (status = 'ok')",
        "modified_at >= timestamptz '2026-01-01 00:00:00+00'",
        "list_max([coalesce(score_porn, 0), coalesce(score_hentai, 0)]) > 0.5",
        "case when camera is null then nsfw_score > 0.3 else nsfw_score > 0.6 end",
        "format in ('GIF', 'WEBP') and frames > 1",
        "true",
    ],
)
def test_ordinary_sql_is_welcome(when: str) -> None:
    """Functions, lists, CASE, regular expressions, a steady sample by hash: what follows from the row."""
    parse_policy(with_rule(when))


@pytest.mark.parametrize("when", ["cast('x' as integer) = 1", "regexp_matches(uri, '(')", "error('no') is null"])
def test_a_condition_that_always_fails_is_refused(when: str) -> None:
    """What cannot be evaluated on any row is found when the policy loads, not after the scan."""
    with pytest.raises(PolicyError, match="rule 'only'"):
        parse_policy(with_rule(when))


# Identity


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("version", "2"),
        ("rules.0.when", "nsfw_score >= 0.91"),
        ("rules.0.decision", "escalate"),
        ("rules.0.queue", "legal"),
        ("rules.0.queue", None),
        ("rules.0.severity", 2),
        ("rules.0.name", "highest"),
        ("rules.1.shield", "hidden"),
        ("rules.1", None),
        ("otherwise.decision", "review"),
        ("otherwise.queue", "rest"),
    ],
)
def test_the_digest_changes_with_what_decides(place: str, value: Any) -> None:
    """Any change of a rule, of its outcome, or of `otherwise` is another policy in the report."""
    assert parse_policy(changed(place, value)).identity != parse_policy(POLICY).identity


def test_the_digest_changes_with_the_order_of_rules() -> None:
    """The first match wins, so the order decides."""
    turned = policy(rules=POLICY["rules"][::-1])
    assert parse_policy(turned).identity != parse_policy(POLICY).identity


def test_the_digest_does_not_depend_on_how_it_is_written() -> None:
    """The order of keys, and defaults written out, change nothing."""
    spelled = policy(otherwise={"severity": 0, "shield": "none", "queue": None, "decision": "allow"})
    assert parse_policy(dict(reversed(spelled.items()))).identity == parse_policy(POLICY).identity
    name, _, digest = parse_policy(POLICY).identity.partition("@")
    assert (name, len(digest)) == ("mine", 16)
