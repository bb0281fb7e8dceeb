"""Items in people's hands: within budgets, by skill, in a bearable order, some twice; and pages made of them."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from nsfwscan.cli.main import main
from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError
from nsfwscan.review.dealing import HEAVY, Hands, PastDecisions, deal, describe_hands, expected_opens, intensity
from nsfwscan.review.ranking import Item
from nsfwscan.review.roster import Roster, read_roster
from nsfwscan.verdicts.verdict import VERDICT_SCHEMA, Kind
from tests.review.stores import committed, row

NOBODY = PastDecisions(0.3, {}, {})


def item(number: int, **values: Any) -> Item:
    known = {"uri": f"/{number}", "sha256": f"{number:064x}", "severity": 2, "uncertainty": 0.5, "illegal": False}
    nothing = {"skill": None, "signals": None, "verdict": None, "queue": "adult", "reach": 1}
    return Item({**nothing, **known, **values}, [], 0, [], None, {}, [])


def roster(**values: Any) -> Roster:
    people = [{"name": "ann", "opens": 10, "skills": ["lead"]}, {"name": "ben", "opens": 5}]
    return Roster.of({"reviewers": people, "second_review": 0, "harmless_share": 0, "golden_share": 0, **values})


def of(hands: Hands, name: str, kind: Kind | None = None) -> list[str]:
    [hand] = [hand for hand in hands.hands if hand.reviewer.name == name]
    return [one.item.row["uri"] for one in hand.dealt if kind in (None, one.kind)]


def test_budgets_are_kept() -> None:
    """Each person's expected opens stay under the budget of the day, less what was opened today; the more urgent items
    are dealt, and the rest is counted."""
    items = [item(number) for number in range(200)]
    hands = deal(items, roster(), PastDecisions(0.3, {"ben": 3}, {}), [], [])
    assert expected_opens(items[0], 0.3) == pytest.approx(0.3)
    opens = {hand.reviewer.name: hand.opens for hand in hands.hands}
    assert 9.6 < opens["ann"] <= 10 and 1.6 < opens["ben"] <= 2
    assert hands.left == {"over everybody's budget of opens": 200 - len(of(hands, "ann")) - len(of(hands, "ben"))}
    assert sorted(of(hands, "ann") + of(hands, "ben")) == sorted(
        f"/{n}" for n in range(sum(len(h.dealt) for h in hands.hands))
    )
    assert "ann" in describe_hands(hands) and "over everybody's budget" in describe_hands(hands)


def test_nobody_is_asked_twice_about_one_content() -> None:
    """A golden item whose content is in the hand anyway, or in a cluster of it, is not mixed in again."""
    items = [item(number) for number in range(8)]
    items[0] = items[0]._replace(members=[{"uri": "/copy", "sha256": f"{100:064x}"}])
    one = roster(reviewers=[{"name": "ann", "opens": 50}], golden_share=1)
    hands = deal(items, one, NOBODY, [item(1), item(100), item(200)], [])
    assert of(hands, "ann", Kind.GOLDEN) == ["/200"]


def test_skills_severity_and_disagreement() -> None:
    """An item goes to whoever may have it: by its skill and severity; what two disagree on, to a third person who leads;
    never to one who decided it."""
    people = [
        {"name": "ann", "opens": 10, "skills": ["lead", "arabic"]},
        {"name": "ben", "opens": 10, "severity": 2},
        {"name": "cy", "opens": 10, "skills": ["lead"]},
    ]
    items = [
        item(1, skill="arabic"),
        item(2, skill="welsh"),
        item(3, verdict="disputed"),
        item(4, severity=4),
        item(5, skill="arabic"),
        item(6, signals=[{"name": "gore.blood", "value": 0.9}], severity=0),
        item(7, signals=[{"name": "gore.SFW", "value": 0.9}, {"name": "boxes.gore", "value": 3.0}], severity=0),
    ]
    assert [intensity(one) for one in items[-2:]] == [pytest.approx(3.6), 0.0]
    past = PastDecisions(
        0.3, {}, {item(3).row["sha256"]: frozenset({"ann"}), item(5).row["sha256"]: frozenset({"ann"})}
    )
    hands = deal(items, roster(reviewers=people), past, [], [item(90 + n, severity=0) for n in range(5)])
    assert "/1" in of(hands, "ann") and "/3" in of(hands, "cy")
    assert {"/4", "/6"} & set(of(hands, "ben")) == set()
    assert hands.left == {"nobody has the skill welsh": 1, "decided already by all who may": 1}


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(0, 6), st.integers(0, 3))
@settings(max_examples=40)
def test_the_heaviest_are_never_back_to_back(severities: list[int], harmless: int, golden: int) -> None:
    """Whatever the items are: a lighter one stands between, or a harmless one; what finds none is held back. Nothing is
    there twice, and all else keeps its order."""
    items = [item(number, severity=severity) for number, severity in enumerate(severities)]
    beside = [item(1000 + n, severity=0) for n in range(harmless)], [item(2000 + n, severity=3) for n in range(golden)]
    one = roster(reviewers=[{"name": "ann", "opens": 100}], golden_share=0.2, harmless_share=0.2)
    hands = deal(items, one, NOBODY, beside[1], beside[0])
    [hand] = hands.hands
    heavy = [intensity(dealt.item) >= HEAVY for dealt in hand.dealt]
    assert not any(a and b for a, b in itertools.pairwise(heavy))
    uris = [dealt.item.row["uri"] for dealt in hand.dealt]
    assert len(set(uris)) == len(uris)
    reviewed = [dealt for dealt in hand.dealt if dealt.kind is Kind.REVIEW]
    assert len(reviewed) + sum(hands.left.values()) == len(items)
    light = [int(dealt.item.row["uri"][1:]) for dealt in reviewed if intensity(dealt.item) < HEAVY]
    assert light == sorted(light)


def test_a_share_goes_to_a_second_person() -> None:
    """The same items whenever it is asked; each to two different people."""
    items = [item(number) for number in range(100)]
    people = [{"name": name, "opens": 100} for name in ("ann", "ben", "cy")]
    hands = deal(items, roster(reviewers=people, second_review=0.2), NOBODY, [], [])
    twice = [uri for uri in (f"/{n}" for n in range(100)) if sum(uri in of(hands, p["name"]) for p in people) == 2]
    assert hands.second == len(twice) and 8 <= len(twice) <= 35
    again = deal(items, roster(reviewers=people, second_review=0.2), NOBODY, [], [])
    assert [of(hands, p["name"]) for p in people] == [of(again, p["name"]) for p in people]


def test_the_past_says_how_much_is_opened() -> None:
    """The rate of verdicts so far, held by the roster's as long as they are few; today's opens of each person; who decided
    what."""
    now = datetime(2026, 11, 27, 12, tzinfo=UTC)
    usual = {"uri": "/a", "verdict": "approve", "kind": "review"}
    rows = [
        {**usual, "id": str(n), "sha256": "a" if n else "b", "reviewer": "ann", "opened": n % 2 == 0,
         "decided_at": datetime(2026, 11, 26 + n % 2, 3)} for n in range(50)
    ]  # fmt: skip
    rows[1]["opened"] = True
    past = PastDecisions.of(pa.Table.from_pylist(rows, schema=VERDICT_SCHEMA), roster(open_rate=0.1), now)
    assert past.open_rate == pytest.approx((26 + 5) / 100) and past.opened_today == {"ann": 1}
    assert past.decided_by == {"a": {"ann"}, "b": {"ann"}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("reviewers: []", "reviewers"),
        ("reviewers: [{name: a, opens: 5}, {name: A, opens: 5}]", "two reviewers are called 'a'"),
        ("reviewers: [{name: a/b, opens: 5}]", r"reviewers\.0\.name"),
        ("reviewers: [{name: a, opens: -1}]", r"reviewers\.0\.opens"),
        ("reviewers: [{name: a, opens: 5}]\nsecond: 1", "second"),
        ("reviewers: [", "is not YAML"),
        ("[]", "must be a mapping"),
    ],
)
def test_rosters_that_are_none(tmp_path: Path, text: str, said: str) -> None:
    """Each fault is named."""
    (tmp_path / "roster.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_roster(str(tmp_path / "roster.yaml"), StorageConfig())


def test_hands_become_files_and_pages(tmp_path: Path) -> None:
    """A file for each person, golden and harmless items among the others and of the same queue; a page of it in its order,
    with kinds for the verdict file; items that are not in the run are counted."""
    scored = {"nsfw_score": 0.01, "media": "image"}
    rows = [row(f"/{n}", sha256=f"{n:064x}", severity=3) for n in range(12)]
    rows += [
        row(f"/ok{n}", queue=None, decision="allow", sha256=f"{n + 50:064x}", severity=0, **scored) for n in range(30)
    ]
    rows += [row("/gold", queue=None, decision="block", severity=1, sha256="f" * 64)]
    committed(tmp_path / "store", rows)
    (tmp_path / "golden.csv").write_text("uri,verdict\n/gold,remove\n")
    people = "reviewers: [{name: Ann Äon, opens: 50}, {name: ben, opens: 0}]\nsecond_review: 0\ngolden_share: 0.1\n"
    (tmp_path / "roster.yaml").write_text(f"{people}golden: {tmp_path}/golden.csv\n")
    store, out = str(tmp_path / "store"), tmp_path / "hands"
    done = CliRunner().invoke(main, ["queues", store, "--reviewers", str(tmp_path / "roster.yaml"), "--out", str(out)])
    assert done.exit_code == 0 and "Ann Äon" in done.output, done.output
    files = sorted(path.name for path in out.iterdir())
    assert files == ["Ann%20%C3%84on.jsonl", "ben.jsonl"]
    lines = [json.loads(line) for line in (out / files[0]).read_text().splitlines()]
    kinds = [line["kind"] for line in lines]
    assert kinds.count("review") == 12 and kinds.count("golden") == 1 and kinds.count("norming") >= 11
    assert {line["queue"] for line in lines} == {"adult"} and "remove" not in (out / files[0]).read_text()
    (out / "more.jsonl").write_text((out / files[0]).read_text() + '{"uri": "/gone"}\n')
    asked = ["review", store, "--items", str(out / "more.jsonl"), "--no-covers", "--out", str(tmp_path / "page")]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0 and "gone    1 items" in done.output, done.output
    told = json.loads((tmp_path / "page/index.html").read_text().partition('id="pack">')[2].partition("</script>")[0])
    assert [one["members"][0]["uri"] for one in told["items"]] == [line["uri"] for line in lines]
    assert [one["kind"] for one in told["items"]] == kinds and told["reviewer"] == "Ann Äon"
    assert "golden" not in " ".join(one["summary"] + one["line"] for one in told["items"])


def test_a_drawn_item_stands_for_itself_alone(tmp_path: Path) -> None:
    """What is like it was not drawn with its probability, so no verdict on it may say that it was."""
    alike = [row(f"/{n}", sha256=f"{n:064x}", cluster="c", cluster_size=3) for n in range(3)]
    committed(tmp_path / "store", alike)
    drawn = {"uri": "/1", "kind": "audit", "probability": 0.25, "queue": "audit"}
    (tmp_path / "items.jsonl").write_text(json.dumps(drawn) + '\n{"uri": "/2"}\n')
    asked = ["--items", str(tmp_path / "items.jsonl"), "--no-covers", "--out", str(tmp_path / "page")]
    done = CliRunner().invoke(main, ["review", str(tmp_path / "store"), *asked])
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "page/index.html").read_text().partition('id="pack">')[2].partition("</script>")[0])
    found = {one["members"][0]["uri"]: one for one in told["items"]}
    assert [member["uri"] for member in found["/1"]["members"]] == ["/1"]
    assert (found["/1"]["probability"], found["/1"]["contents"]) == (0.25, 1)
    assert len(found["/2"]["members"]) == 3, "one that was not drawn stands for its cluster"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"uri": "/0", "kind": "audits"}', "kind is"),
        ('{"uri": "/0", "probability": 2}', "probability"),
        ("{}", "no `uri`"),
    ],
)
def test_files_of_items_that_are_none(tmp_path: Path, line: str, said: str) -> None:
    """The row and its fault are named."""
    committed(tmp_path / "store", [row("/0")])
    (tmp_path / "items.jsonl").write_text(line + "\n")
    asked = ["review", str(tmp_path / "store"), "--items", str(tmp_path / "items.jsonl"), "--out", str(tmp_path / "x")]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code != 0 and said in done.output.replace("\n", " ") and not (tmp_path / "x").exists()
