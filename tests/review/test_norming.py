"""A norming from draw to page: the same items for all, nobody's answers seen, and what people disputed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from nsfwscan.cli.main import main
from nsfwscan.config import StorageConfig
from nsfwscan.review.norming_sample import Norming
from nsfwscan.storage.store import Store
from tests.review.stores import committed, row
from tests.runs.rows import policy_of
from tests.verdicts.lines import Line, file, line

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

PEOPLE = ("ann", "ben", "cem")
RULES = [{"name": "borderline", "when": "nsfw_score >= 0.5", "decision": "review", "queue": "adult"}]


def sha256(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Forty objects with scores from 0 to 1; two of them are near-duplicates, one is illegal and one hidden."""
    rows = [row(f"/media/{i:02}.jpg", sha256=sha256(i), nsfw_score=i / 40, decision="review") for i in range(40)]
    rows[20]["cluster"] = rows[21]["cluster"] = "pair"
    rows[19] |= {"match_kind": "illegal"}
    rows[22] |= {"shield": "hidden"}
    committed(tmp_path / "out", rows, part_rows=40, policy=policy_of(rules=RULES))
    before = [
        line("a", "x", "approve", sha256=sha256(3), reviewer="ann"),
        line("b", "x", "remove", sha256=sha256(3), reviewer="ben"),
        line("c", "x", "approve", sha256=sha256(4), reviewer="ann"),
    ]
    assert run("verdicts", "import", tmp_path / "out", file(tmp_path / "before.jsonl", before)).exit_code == 0
    return tmp_path / "out"


def drawn(store: Path, n: int = 9, **more: Any) -> tuple[str, dict[str, list[dict[str, Any]]]]:
    people = [argument for name in PEOPLE for argument in ("--reviewer", name)]
    options = [argument for name, value in more.items() for argument in (f"--{name}", value)]
    done = run("norming", "draw", store, "--n", n, *people, "--out", store.parent / "items", *options)
    assert done.exit_code == 0, done.output
    items = {
        name: [json.loads(one) for one in (store.parent / "items" / f"{name}.jsonl").read_text().splitlines()]
        for name in PEOPLE
    }
    return done.output.split()[1].rstrip(":"), items


def answer(name: str, number: int, verdict: str, **values: Any) -> Line:
    return line(f"{name}{number}", "x", verdict, sha256=sha256(number), reviewer=name, kind="norming", **values)


def numbers(items: list[dict[str, Any]]) -> list[int]:
    return [int(Path(item["uri"]).stem) for item in items]


def test_everybody_gets_the_same_items_in_another_order(store: Path) -> None:
    """What people disagreed on, and what is near the threshold, one item of an asset; nothing illegal or hidden. The same
    seed draws the same; the next norming draws others."""
    norming_id, items = drawn(store)
    orders = [numbers(one) for one in items.values()]
    assert len({tuple(sorted(one)) for one in orders}) == 1 and len({tuple(one) for one in orders}) == 3
    assert (
        3 in orders[0] and 4 not in orders[0] and not {19, 22} & set(orders[0]) and len({20, 21} & set(orders[0])) == 1
    )
    assert len(orders[0]) == 9 and all(abs(number - 20) < 9 for number in orders[0] if number != 3)
    kept = Norming.read(Store.at(str(store), StorageConfig()), norming_id)
    assert kept.reviewers == PEOPLE and set(kept.rows["why"].to_pylist()) == {"disputed", "threshold"}
    assert {(item["kind"], item["reviewer"], item["verdict"]) for item in items["ann"]} == {("norming", "ann", None)}
    _, others = drawn(store, n=3)
    assert not set(numbers(others["ann"])) & set(orders[0])


def test_the_page_of_an_item_does_not_say_what_others_decided(store: Path, tmp_path: Path) -> None:
    drawn(store)
    done = run("review", store, "--items", tmp_path / "items" / "ann.jsonl", "--out", tmp_path / "pack", "--no-covers")
    assert done.exit_code == 0, done.output
    page = (tmp_path / "pack" / "index.html").read_text()
    assert (
        '"kind": "norming"' in page
        and "removed" not in page.split('"items":')[1]
        and "blocked" not in page.split('"items":')[1]
    )


def test_from_answers_to_a_page(store: Path, tmp_path: Path, browser: BrowserContext) -> None:
    """Alpha, kappas, what is taken for what, and the disputed items with the reasons; verdicts of a norming decide nothing;
    the latest answer of a person counts. Chromium shows it without an error."""
    norming_id, items = drawn(store)
    asked = sorted(numbers(items["ann"]))
    early = run("norming", "report", store, norming_id, "--out", tmp_path / "page", "--no-covers")
    assert early.exit_code == 2 and "no two people decided the same item" in early.stderr
    lines = [
        answer(name, n, "remove" if n > 20 else "approve", category="porn" if n > 20 else "")
        for name in PEOPLE
        for n in asked
    ]
    disputed = asked[-1]
    lines.append(
        answer(
            "cem",
            disputed,
            "approve",
            reason="<b>art</b>",
            decided_at="2026-11-21T10:00:00Z",
            id="00000000-0000-0000-0000-000000000001",
        )
    )
    assert run("verdicts", "import", store, file(tmp_path / "answers.jsonl", lines)).exit_code == 0
    done = run("norming", "report", store, norming_id, "--out", tmp_path / "page", "--no-covers", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["answered"] == 9 and found["missing"] == dict.fromkeys(PEOPLE, 0)
    assert [int(Path(one["uri"]).stem) for one in found["disputed"]] == [disputed]
    assert 0.5 < found["alpha"]["verdict"]["value"] < 1 and found["alpha"]["verdict"]["low"] < 0.9
    kappas = {(pair["one"], pair["other"]): pair["verdict"]["value"] for pair in found["pairs"]}
    assert kappas["ann", "ben"] == pytest.approx(1) and kappas["ann", "cem"] < 1
    assert {"one": "approve", "other": "porn", "pairs": 2} in found["confusion"]
    standing = json.loads(run("verdicts", "list", store, "--json").stdout)["contents"]
    assert standing == {"approve": 1, "disputed": 1}
    page = browser.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.goto((tmp_path / "page" / "norming.html").as_uri())
    assert "What 3 reviewers mean" in page.inner_text("h1") and "<b>art</b>" in page.inner_text(
        "#disputed + p + ol, main"
    )
    assert problems == []
    page.close()


def test_a_norming_of_one_or_of_nothing_is_refused(store: Path, tmp_path: Path) -> None:
    alone = run("norming", "draw", store, "--reviewer", "ann", "--reviewer", "Ann", "--out", tmp_path / "i")
    assert alone.exit_code == 2 and "two reviewers at least" in alone.stderr
    unknown = run("norming", "report", store, "x", "--out", tmp_path / "p")
    assert unknown.exit_code == 2 and "has no norming 'x'; there are: none" in unknown.stderr
    drawn(store, n=1000)
    nothing = run("norming", "draw", store, "--reviewer", "ann", "--reviewer", "ben", "--out", tmp_path / "i")
    assert nothing.exit_code == 2 and "in no norming yet" in nothing.stderr
