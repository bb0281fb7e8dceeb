"""`policy solve`: from audits in the store to a policy that scans take."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nsfwscan.cli.main import main
from nsfwscan.config import StorageConfig
from nsfwscan.models.learned import LEARNED, learned_parquet
from nsfwscan.policy.rules import load_policy
from nsfwscan.review.drawn import drawn_objects, weights_of
from nsfwscan.storage.store import Store
from tests.checkpoints import make_vit
from tests.runs.rows import Row, scanned, staged_row
from tests.verdicts.lines import file, line

OBJECTS = 400


def score(number: int) -> float:
    return round(number / OBJECTS, 4)


def sha256(number: int) -> str:
    return hashlib.sha256(f"{number:04}".encode()).hexdigest()


def row(uri: str) -> Row:
    number = int(Path(uri).stem)
    return staged_row(uri, nsfw_score=score(number), sha256=sha256(number))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A night over 400 objects, whose scores are evenly spread."""
    folder = tmp_path_factory.mktemp("solve")
    (folder / "media").mkdir()
    for number in range(OBJECTS):
        (folder / "media" / f"{number:04}.jpg").write_bytes(f"{number:04}".encode())
    scanned(folder / "media", folder / "out", row, run_id="1")
    return folder


def audited(scored: Path, folder: Path, removed_from: float) -> Path:
    """A copy of the store in which people decided every object of a draw: remove from a score on."""
    shutil.copytree(scored / "out", folder / "out")
    lines = [
        line(
            f"audit {number}",
            f"{number:04}",
            "remove" if score(number) >= removed_from else "approve",
            sha256=sha256(number),
            kind="audit",
            probability=0.5,
            seconds=4.0,
            opened=number % 2 == 0,
        )
        for number in range(OBJECTS)
    ]
    taken = run("verdicts", "import", folder / "out", file(folder / "v.jsonl", lines))
    assert taken.exit_code == 0, taken.output
    return folder / "out"


def test_the_policy_that_it_writes_keeps_to_the_bound(scored: Path, tmp_path: Path) -> None:
    """160 objects from 0.6 on are to be removed; with 0.05 at 95 %, three of them may be missed and not four."""
    store = audited(scored, tmp_path, removed_from=0.6)
    done = run("policy", "solve", store, "--miss", 0.05, "--out", tmp_path / "solved.yaml", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["threshold"], found["value"], found["missed"], found["holds"]) == ("borderline", 0.6075, 3, True)
    assert found["bound"] < 0.05 and found["positives"] == 160
    assert found["views"] == 77, "from 0.6075 to 0.8; what is above is blocked without a person"
    assert (found["views_before"], found["opens"], found["seconds"]) == (240, 38.5, 308)
    written = load_policy(str(tmp_path / "solved.yaml"))
    assert written.thresholds == {"borderline": 0.6075}
    assert "# misses at most 4.8% of what people would remove" in (tmp_path / "solved.yaml").read_text()
    assert run("policy", "replay", store, "--policy", tmp_path / "solved.yaml").exit_code == 0


def test_a_budget_that_is_too_small_says_what_may_be_missed(scored: Path, tmp_path: Path) -> None:
    store = audited(scored, tmp_path, removed_from=0.3)
    budget = ["--opens-per-day", 20, "--out", tmp_path / "solved.yaml"]
    done = run("policy", "solve", store, "--miss", 0.05, *budget)
    assert done.exit_code == 0, done.output
    assert "$borderline = 0.697501\na lower one would keep to 5.0%, and asks for more than people have" in done.stdout
    assert "people see 40 of the 400 objects" in done.stdout
    assert "they open 20 of them, and take 2 min 40 s, as in 400 verdicts" in done.stdout


def test_too_few_are_refused_and_it_says_how_many_are_needed(scored: Path, tmp_path: Path) -> None:
    store = audited(scored, tmp_path, removed_from=0.9)
    done = run("policy", "solve", store, "--miss", 0.01, "--out", tmp_path / "solved.yaml")
    assert done.exit_code == 1 and not (tmp_path / "solved.yaml").exists()
    assert "takes at least 299 drawn objects that people removed" in done.stderr
    assert "there are 40 among 400 drawn ones. 259 more are needed, about 2,590 more draws" in done.stderr


def test_what_was_decided_before_the_draw_is_part_of_it(scored: Path, tmp_path: Path) -> None:
    """An audit asks nobody again about what a queue had shown: what people said of it then counts, if it is drawn."""
    shutil.copytree(scored / "out", tmp_path / "out")

    def decide(kind: str, numbers: range, probability: float | None) -> None:
        said = {number: "remove" if score(number) >= 0.6 else "approve" for number in numbers}
        asked = {"kind": kind, "probability": probability}
        lines = [line(f"{kind}{n}", f"{n:04}", word, sha256=sha256(n), **asked) for n, word in said.items()]
        assert run("verdicts", "import", tmp_path / "out", file(tmp_path / f"{kind}.jsonl", lines)).exit_code == 0

    decide("review", range(300, 400), None)
    drawn = run("audit", "draw", tmp_path / "out", "--n", 400, "--out", tmp_path / "items.jsonl")
    assert drawn.exit_code == 0, drawn.output
    decide("audit", range(300), 1.0)
    done = run("policy", "solve", tmp_path / "out", "--miss", 0.05, "--out", tmp_path / "solved.yaml", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["drawn"], found["positives"], found["value"]) == (400, 160, 0.6075)


def test_draws_by_one_seed_are_one_sample(scored: Path, tmp_path: Path) -> None:
    """The smaller of two draws by one seed is in the larger one, and adds nothing; a draw by another seed adds its own
    objects, and those of the first again; what is estimated has no more objects for that."""
    shutil.copytree(scored / "out", tmp_path / "out")
    said = {number: "remove" if score(number) >= 0.6 else "approve" for number in range(OBJECTS)}
    lines = [line(f"r{n}", f"{n:04}", word, sha256=sha256(n), kind="review") for n, word in said.items()]
    assert run("verdicts", "import", tmp_path / "out", file(tmp_path / "v.jsonl", lines)).exit_code == 0

    def after(n: int, seed: int) -> dict[str, Any]:
        drawn = run("audit", "draw", tmp_path / "out", "--n", n, "--seed", seed, "--out", tmp_path / "items.jsonl")
        assert drawn.exit_code == 0 and "0 items to look at" in drawn.output, drawn.output
        done = run("policy", "solve", tmp_path / "out", "--miss", 0.1, "--out", tmp_path / "solved.yaml", "--json")
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    alone = after(300, 0)
    assert alone["drawn"] == 300
    assert after(200, 0) == {**alone, "bound": pytest.approx(alone["bound"], rel=1e-12)}  # a sum in any order
    assert after(100, 1)["drawn"] == 400
    rows = drawn_objects(Store.at(str(tmp_path / "out"), StorageConfig())).rows
    assert sum(rows["weight"].to_pylist()) == pytest.approx(2 * OBJECTS)
    assert sum(weights_of(rows)) == pytest.approx(400)


def test_what_queues_showed_does_not_count(scored: Path, tmp_path: Path) -> None:
    shutil.copytree(scored / "out", tmp_path / "out")
    lines = [line(f"r{n}", f"{n:04}", "remove", sha256=sha256(n), kind="review") for n in range(300, 400)]
    assert run("verdicts", "import", tmp_path / "out", file(tmp_path / "v.jsonl", lines)).exit_code == 0
    done = run("policy", "solve", tmp_path / "out", "--miss", 0.05, "--out", "-")
    assert done.exit_code == 1 and "there are 0 among 0 drawn ones" in done.stderr


def test_what_a_model_learned_from_does_not_count(tmp_path: Path) -> None:
    """The model is right of what it was trained on, and misses others: the bound is that of the others."""
    checkpoint = make_vit(tmp_path / "vit")
    (tmp_path / "media").mkdir()
    for number in range(OBJECTS):
        (tmp_path / "media" / f"{number:04}.jpg").write_bytes(f"{number:04}".encode())

    def learned(number: int) -> bool:
        return number % 4 > 0

    def scored_by_it(uri: str) -> Row:
        number = int(Path(uri).stem)
        removed = score(number) >= 0.5
        sure = 0.9 if removed else 0.1
        return {**row(uri), "nsfw_score": sure if learned(number) else 0.3 + 0.2 * removed}

    scanned(tmp_path / "media", tmp_path / "out", scored_by_it, run_id="1", model={"uri": str(checkpoint)})
    store = audited(tmp_path, tmp_path / "audited", removed_from=0.5)
    solve = ("policy", "solve", store, "--miss", 0.05, "--policy", "open-nsfw", "--out", tmp_path / "solved.yaml")
    unsaid = run(*solve, "--json")
    assert unsaid.exit_code == 0, unsaid.output
    before = json.loads(unsaid.stdout)
    assert (before["drawn"], before["learned"], before["unknown"]) == (400, 0, [str(checkpoint)])
    contents = [sha256(number) for number in range(OBJECTS) if learned(number)]
    (checkpoint / LEARNED).write_bytes(learned_parquet({"train": contents[:200], "validation": contents[200:]}))
    refused = run(*solve)
    assert refused.exit_code == 1 and "there are 50 among 100 drawn ones" in refused.stderr, refused.output
    assert "left out: 300 drawn contents that a model of the run learned from" in refused.stderr
    done = run(*solve[:4], 0.06, *solve[5:])
    assert done.exit_code == 0, done.output
    assert (
        "0 of 50 removed objects among 100 drawn\nleft out: 300 drawn contents that a model of the run learned from"
        in done.stdout
    )
    assert load_policy(str(tmp_path / "solved.yaml")).thresholds["borderline"] == 0.5
