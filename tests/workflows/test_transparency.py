"""What was decided over a period is counted by who and what decided it, and what became of it on appeal."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nsfwscan.cli.main import main
from nsfwscan.workflows.statements import category_of
from tests.runs.rows import ILLEGAL_MATCH, Row, scanned, staged_row
from tests.verdicts.lines import file, id_of, line, sha256_of

SCORES = {"a": 0.9, "b": 0.95, "c": 0.1, "d": 0.5, "e": 0.1}


def row(uri: str) -> Row:
    name = Path(uri).stem
    return staged_row(uri, nsfw_score=SCORES[name], sha256=sha256_of(name))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A night that blocks two objects; verdicts on four, with two appeals, of which one reverses; and a second night."""
    folder = tmp_path_factory.mktemp("told")
    (folder / "media").mkdir()
    for name in SCORES:
        (folder / "media" / f"{name}.jpg").write_bytes(name.encode())
    scanned(folder / "media", folder / "out", row, run_id="1")
    day = "2026-11-{}T00:00:00Z".format
    lines = [
        line("1", "c", "remove", category="gore", reason="clear case", decided_at=day("01")),
        line("2", "d", "remove", category="porn", decided_at=day("02")),
        line("3", "a", "approve", decided_at=day("03"), kind="audit", probability=0.5),
        line("4", "c", "approve", kind="appeal", reviewer="lee", decided_at="2026-11-01T12:00:00Z"),
        line("5", "d", "remove", kind="appeal", reviewer="lee", category="porn", decided_at=day("04")),
        line("6", "e", "remove", decided_at=day("05")),
        line("7", "e", "undo", supersedes=id_of("6"), decided_at=day("06")),
        line("8", "b", "remove", kind="golden", decided_at=day("06")),
        line("9", "b", "remove", decided_at="2026-12-01T00:00:00Z") | {"decided_at": "2025-12-01T00:00:00Z"},
    ]
    assert run("verdicts", "import", folder / "out", file(folder / "v.jsonl", lines)).exit_code == 0
    scanned(folder / "media", folder / "out", row, run_id="2")
    return folder / "out"


def counted(store: Path, since: str, until: str) -> dict[str, Any]:
    done = run("transparency", store, "--since", since, "--until", until, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_period_is_counted(store: Path) -> None:
    """Blocks of machines once, in the night that made them; removals by category and reason; appeals with their time; what
    was undone, and golden items, are no decisions; before and after the period nothing is counted."""
    found = counted(store, "2026-11-01", "2027-01-01")
    own = found["1.4_own_initiative"]
    assert found["runs"] == 2 and own["detected_and_decided_by_automated_means_alone"] == 2
    assert (own["by_category_automated"], own["by_category_person"]) == (
        {"nsfw": 2},
        {"gore": 1, "porn": 1},  # gore was taken down, until an appeal
    )
    complaints = found["1.5_complaints"]
    assert (complaints["decided"], complaints["upheld"], complaints["reversed"]) == (2, 1, 1)
    assert complaints["median_hours"] == 30.0  # 12 hours, and two days
    assert found["overturned"] == 1
    assert found["1.6_automated_means"]["decided_by_people"] == {"approve": 2, "remove": 1}
    assert found["1.6_automated_means"]["audited"] == 1
    before = counted(store, "2026-01-01", "2026-10-01")
    assert before["runs"] == 0 and before["1.4_own_initiative"]["measures"] == 0
    first = counted(store, "2026-11-01", "2026-11-02")
    assert first["1.5_complaints"]["reversed"] == 1 and first["1.4_own_initiative"]["decided_by_a_person"] == 1


def test_the_figures_as_a_table(store: Path, tmp_path: Path) -> None:
    """As CSV with section, indicator and value, and as lines for a person; wrong days are refused."""
    given = ["transparency", store, "--since", "2026-11-01", "--until", "2027-01-01"]
    assert run(*given, "--out", tmp_path / "t.csv").exit_code == 0
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert {"section": "1.5_complaints", "indicator": "reversed", "of": "", "value": "1"} in rows
    assert {"section": "1.4_own_initiative", "indicator": "by_category_person", "of": "porn", "value": "1"} in rows
    assert "1.5_complaints reversed" in run(*given).output
    assert "is not after" in run("transparency", store, "--since", "2026-11-02", "--until", "2026-11-02").output
    assert "no day or time" in run("transparency", store, "--since", "May", "--until", "2026-11-02").output


# As the database's documentation has them (schema of 1 July 2025): what must be there, and which words there are.
_MUST = {
    *("decision_visibility", "decision_ground", "content_type", "category", "territorial_scope", "content_date"),
    *("application_date", "decision_facts", "source_type", "automated_detection", "automated_decision", "puid"),
    *("incompatible_content_ground", "incompatible_content_explanation"),
}
_MAY = {"incompatible_content_illegal", "category_specification", "category_specification_other"}


def test_statements_of_reasons(store: Path, tmp_path: Path) -> None:
    """One for each measure, with the keys and codes of the database; none names an object or a person."""
    given = ["transparency", store, "--since", "2026-11-01", "--until", "2027-01-01", "--statements"]
    assert "name it with --out" in run(*given).output
    done = run(*given, "--out", tmp_path / "s.jsonl", "--visibility", "disabled")
    assert done.exit_code == 0 and done.output.startswith("4 statements in "), done.output
    [body] = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    statements = body["statements"]
    for one in statements:
        assert one.keys() >= _MUST and one.keys() <= _MUST | _MAY
        assert (
            one["decision_visibility"] == ["DECISION_VISIBILITY_CONTENT_DISABLED"]
            and len(one["territorial_scope"]) == 27
        )
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,500}", one["puid"]) and re.fullmatch(
            r"\d{4}-\d\d-\d\d", one["application_date"]
        )
    categories = [one["category"].removeprefix("STATEMENT_CATEGORY_") for one in statements]
    assert categories == ["OTHER_VIOLATION_TC", "OTHER_VIOLATION_TC", "VIOLENCE", "OTHER_VIOLATION_TC"]
    assert {one["category_specification"][0] for one in statements if "category_specification" in one} == {
        "KEYWORD_ADULT_SEXUAL_MATERIAL"
    }
    assert len({one["puid"] for one in statements}) == 4
    how = [
        (one["automated_detection"], one["automated_decision"].removeprefix("AUTOMATED_DECISION_"))
        for one in statements
    ]
    assert how == [("Yes", "FULLY")] * 2 + [("Yes", "NOT_AUTOMATED")] * 2
    assert statements[3]["application_date"] == "2026-11-02"  # not that of the appeal, which upheld it
    text = (tmp_path / "s.jsonl").read_text()
    assert "media" not in text and "ann" not in text.replace("scanned", "") and ".jpg" not in text


@pytest.mark.parametrize("supersedes", ["", id_of("1")])
def test_an_appeal_that_upholds_is_no_measure(tmp_path: Path, supersedes: str) -> None:
    """A removal counts in its own period, however often it is upheld later, and whether an appeal names it or not; so does
    one by a machine. What was given back and is removed anew is a new one."""
    (tmp_path / "media").mkdir()
    for name in ("b", "c"):
        (tmp_path / "media" / f"{name}.jpg").write_bytes(name.encode())
    scanned(tmp_path / "media", tmp_path / "out", row, run_id="1")  # blocks b
    appeal = {"kind": "appeal", "reviewer": "lee"}
    lines = [
        line("1", "c", "remove", decided_at="2026-01-05T00:00:00Z"),
        line("2", "c", "escalate", decided_at="2026-02-05T00:00:00Z", **appeal),
        line("3", "c", "remove", decided_at="2026-02-06T00:00:00Z", **appeal, supersedes=supersedes),
        line("4", "b", "remove", decided_at="2026-02-07T00:00:00Z", **appeal),
        line("5", "c", "remove", decided_at="2026-03-05T00:00:00Z", reviewer="bo"),
        line("6", "c", "approve", decided_at="2026-04-05T00:00:00Z", **appeal),
        line("7", "c", "remove", decided_at="2026-05-05T00:00:00Z"),
    ]
    assert run("verdicts", "import", tmp_path / "out", file(tmp_path / "v.jsonl", lines)).exit_code == 0
    months = [counted(tmp_path / "out", f"2026-0{month}-01", f"2026-0{month + 1}-01") for month in range(1, 6)]
    assert [one["1.4_own_initiative"]["decided_by_a_person"] for one in months] == [1, 0, 0, 0, 1]
    assert [one["1.5_complaints"]["upheld"] for one in months] == [0, 2, 0, 0, 0]
    assert counted(tmp_path / "out", "2026-01-01", "2026-05-01")["1.4_own_initiative"]["decided_by_a_person"] == 1


def test_what_is_illegal_is_stated_by_nobody_and_languages_are_those_of_texts(tmp_path: Path) -> None:
    """What a person removed that matches an illegal bank is in the total of part 5, in no statement, and told of."""
    (tmp_path / "media").mkdir()
    for name in ("a", "c", "d"):
        (tmp_path / "media" / f"{name}.jpg").write_bytes(name.encode())

    def of(uri: str) -> Row:
        return {**row(uri), "text_language": "de", **(ILLEGAL_MATCH if Path(uri).stem == "c" else {})}

    scanned(tmp_path / "media", tmp_path / "out", of, run_id="1")
    lines = [line(n, n, "remove", category="porn", decided_at="2026-11-02T00:00:00Z") for n in ("c", "d")]
    assert run("verdicts", "import", tmp_path / "out", file(tmp_path / "v.jsonl", lines)).exit_code == 0
    given = ["transparency", tmp_path / "out", "--since", "2026-11-01", "--until", "2027-01-01"]
    stated = run(*given, "--statements", "--out", tmp_path / "s.jsonl")
    assert "no statement of 1 content that a person removed" in stated.output and "2 statements in" in stated.output
    done = run(*given, "--templates", "--languages", "--out", tmp_path / "dsa")
    assert done.exit_code == 0 and run(*given, "--languages").exit_code == 2, done.output
    illegal, own, automated = (
        list(csv.DictReader((tmp_path / "dsa" / name).open(encoding="utf-8", newline="")))
        for name in ("5_own_initiative_illegal.csv", "6_own_initiative_TC.csv", "8_automated_means.csv")
    )
    numbers = "Number of measures taken at the provider's own initiative "
    assert [(one["Category of illegal content"], one[numbers]) for one in illegal if one[numbers]] == [("TOTAL", "1")]
    assert own[0][numbers] == "2" and len(automated) == 20 + 5 * 24
    by_language = [one for one in automated if one["Applicability"] == "Only for VLOPs"]
    assert [(one["Scope"], one["Value"]) for one in by_language if one["Value"]] == [("de", "1"), ("de", "2")]


def test_the_templates_are_filled_with_what_is_known(store: Path, tmp_path: Path) -> None:
    """The columns, rows and codes of the Commission's files; the numbers of the statements, and nothing where nothing is
    known. A category that no code knows is described."""
    given = ["transparency", store, "--since", "2026-11-01", "--until", "2027-01-01", "--templates"]
    assert (
        run(*given, "--out", "-").exit_code == 2 and run(*given, "--statements", "--out", tmp_path / "x").exit_code == 2
    )
    done = run(*given, "--service", "S", "--visibility", "disabled", "--out", tmp_path / "dsa")
    assert done.exit_code == 0, done.output
    illegal, own, complaints, automated = (
        list(csv.DictReader((tmp_path / "dsa" / name).open(encoding="utf-8", newline="")))
        for name in (
            "5_own_initiative_illegal.csv",
            "6_own_initiative_TC.csv",
            "7_appeals_and_recidivism.csv",
            "8_automated_means.csv",
        )
    )
    assert (len(illegal), len(own), len(complaints), len(automated), len(own[0])) == (90, 98, 47, 20, 37)
    assert list(illegal[0])[:3] == list(own[0])[:3] and "Category of illegal content" in illegal[0]
    assert {value for one in illegal for name, value in one.items() if "restriction" in name or "measures" in name} == {
        ""
    }
    about = {(one["Applicability"], one["Service"], one["Reporting period"]) for one in own}
    assert about == {("All", "S", "2026-11-01/2026-12-31")}
    numbers = [name for name in own[0] if "Number of measures" in name or "restriction" in name]
    told = {one["Category of incompatibility with the provider's terms and conditions"]: [one[n] for n in numbers[:4]]
            for one in own if any(one[n] for n in numbers)}  # fmt: skip
    adult, violence = (["3", "3", "", "3"], ["1", "1", "", "1"])
    assert told == {
        "TOTAL": ["4", "4", "", "4"],
        **dict.fromkeys(("STATEMENT_CATEGORY_OTHER_VIOLATION_TC", "KEYWORD_ADULT_SEXUAL_MATERIAL"), adult),
        **dict.fromkeys(("STATEMENT_CATEGORY_VIOLENCE", "KEYWORD_OTHER"), violence),
    }
    known = {one["Scope"]: one["Value"] for one in complaints if one["Indicator"].startswith("Number of complaints")}
    assert known == {"Total number": "2", "Decisions upheld": "1", "Decisions partially reversed": "", "Decisions reversed": "1",
                     "Median time": "", "Decision omitted": "0"}  # fmt: skip
    times = [one for one in complaints if one["Contextual Information"]]
    assert [one["Contextual Information"] for one in times] == ["30.00 hours from the removal"] * 2
    assert [one["Value"] for one in automated if one["Value"]] == ["2", "2", "2", "2"]
    assert category_of("gore") == ("STATEMENT_CATEGORY_VIOLENCE", "KEYWORD_OTHER", "gore")
    assert category_of("nudity")[1:] == ("KEYWORD_NUDITY", "") and category_of(None)[2] == "not said"
