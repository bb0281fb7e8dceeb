"""`calibrate`: from drawn objects that people decided to `calibrated_score` in the next scan, replay and policy."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from nsfwscan.cli.main import main
from nsfwscan.config import ModelConfig, StorageConfig
from nsfwscan.errors import PolicyError
from nsfwscan.models.learned import LEARNED, learned_parquet
from nsfwscan.models.registry import resolve
from nsfwscan.runs.calibrations import HISTORY
from nsfwscan.runs.run import Run
from nsfwscan.storage.store import Store
from tests.runs.rows import Row, scanned, staged_row
from tests.verdicts.lines import Line, file, line

OBJECTS = 240
MODEL = resolve(ModelConfig(), StorageConfig()).identity
CALIBRATED = """
version: 1
thresholds: {likely: 0.5}
rules:
  - {name: likely, when: "calibrated_score >= $likely", decision: review, queue: adult}
otherwise: {decision: allow}
"""


def score(number: int) -> float:
    return round((number + 0.5) / OBJECTS, 5)


def sha256(number: int) -> str:
    return hashlib.sha256(f"{number:04}".encode()).hexdigest()


def row(uri: str) -> Row:
    number = int(Path(uri).stem)
    return staged_row(uri, nsfw_score=score(number), sha256=sha256(number), model=MODEL)


def is_removed(number: int) -> bool:
    """Of objects with a score, people remove more than it says: half of those with 0.35."""
    return bool(np.random.default_rng(number).random() < 1 / (1 + np.exp(12 * (0.35 - score(number)))))


def decided(number: int, **values: Any) -> Line:
    word = "remove" if is_removed(number) else "approve"
    drawn = {"kind": "audit", "probability": 0.5, **values}
    return line(f"{drawn['kind']} {number}", f"{number:04}", word, sha256=sha256(number), **drawn)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def done(*arguments: object) -> dict[str, Any]:
    found = run(*arguments, "--json")
    assert found.exit_code == 0, found.output
    return dict(json.loads(found.stdout))


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A night over 240 objects, whose scores are evenly spread."""
    folder = tmp_path_factory.mktemp("calibrate")
    (folder / "media").mkdir()
    for number in range(OBJECTS):
        (folder / "media" / f"{number:04}.jpg").write_bytes(f"{number:04}".encode())
    scanned(folder / "media", folder / "out", row, run_id="1")
    return folder


@pytest.fixture
def store(scored: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(scored / "out", tmp_path / "out")
    return tmp_path / "out"


def looked_at(store: Path, numbers: Sequence[int], **values: Any) -> None:
    lines = [decided(number, **values) for number in numbers]
    taken = run("verdicts", "import", store, file(store.parent / f"{len(numbers)}{numbers[0]}.jsonl", lines))
    assert taken.exit_code == 0, taken.output


def night(scored: Path, store: Path, run_id: str, **sections: Any) -> dict[int, dict[str, Any]]:
    found = scanned(scored / "media", store, row, run_id=run_id, **sections)
    return {int(Path(one["uri"]).stem): one for one in found.to_arrow().to_pylist()}


def test_from_a_draw_to_a_policy_that_goes_by_it(scored: Path, store: Path) -> None:
    """Drawn, decided, calibrated: on objects that were not fitted the error falls. The next night fills the column, of
    rows that it carries over, too, says by what, and decides by it; a replay of the first night says the same; `verify`
    makes it again."""
    looked_at(store, range(OBJECTS))
    made = done("calibrate", store, "--page", store.parent / "page.html")
    assert (made["number"], made["model"], made["map"]["method"]) == (1, MODEL, "platt")
    assert made["held_out"] == 119 and made["origin"]["draws"] == ["verdicts"]
    assert made["after"]["ece"]["value"] < made["before"]["ece"]["low"] and made["gain"]["low"] > 0
    page = (store.parent / "page.html").read_text()
    assert "<svg" in page and "<script" not in page and MODEL in page
    policy = store.parent / "policy.yaml"
    policy.write_text(CALIBRATED)
    rows = night(scored, store, "2", policy=str(policy))
    values = np.array([rows[number]["calibrated_score"] for number in range(OBJECTS)])
    assert (np.diff(values) >= 0).all() and abs(values[84] - 0.5) < 0.2
    replayed = run("policy", "replay", f"{store}/runs/1", "--policy", policy, "--commit", "--run-id", "r")
    assert replayed.exit_code == 0, replayed.output
    carried = pq.read_table(
        *(store / "runs" / "r" / "report").iterdir(), columns=["uri", "calibrated_score", "carried_from"]
    )
    assert {one["carried_from"] for one in carried.to_pylist()} == {"1"}
    assert {one["calibrated_score"] for one in carried.to_pylist()} == set(values.astype(np.float32).tolist())
    record = Run(Store.at(str(store), StorageConfig()), "2").record()
    assert record.calibration is not None and (record.calibration.number, record.calibration.sha256) == (
        1,
        made["sha256"],
    )
    assert any(one.what == "calibration" and one.before is None for one in record.differences or ())
    checked = run("verify", store)
    assert checked.exit_code == 0, checked.output
    why = done("why", store, scored / "media" / "0180.jpg")
    assert why["values"]["calibrated_score"] == pytest.approx(values[180])
    csv = run("export", f"{store}/runs/2", "--format", "csv", "--out", "-")
    assert "calibrated_score" in csv.stdout.splitlines()[0]


def test_a_policy_decides_by_it(scored: Path, store: Path) -> None:
    """With verdicts on a quarter of the objects alone, the others are decided by the calibrated score; a replay says what
    the scan says, and `policy solve` moves its threshold."""
    looked_at(store, [number for number in range(OBJECTS) if number % 4])
    done("calibrate", store)
    policy = store.parent / "policy.yaml"
    policy.write_text(CALIBRATED)
    said = done("policy", "replay", store, "--policy", policy)
    rows = night(scored, store, "2", policy=str(policy))
    others = [one for one in rows.values() if one["verdict"] is None]
    assert {(one["decision"], one["calibrated_score"] >= 0.5) for one in others} == {("review", True), ("allow", False)}
    expected = sum(one["decision"] == "review" for one in rows.values())
    assert next(one["after"] for one in said["decision"] if one["value"] == "review") == expected
    solved = done("policy", "solve", store, "--miss", 0.3, "--policy", policy, "--out", store.parent / "solved.yaml")
    assert solved["threshold"] == "likely" and 0.5 < solved["value"] < 0.9
    changed = {one["uri"]: one["causes"] for one in changes(store, "2")}
    assert ["calibration", "policy"] in changed.values()


def changes(store: Path, run_id: str) -> list[dict[str, Any]]:
    found = run("sql", store, f"SELECT uri, causes FROM changes WHERE run_id = '{run_id}'", "--json")
    return [json.loads(one) for one in found.stdout.splitlines()]


def test_a_policy_that_asks_for_it_stops_at_once_where_there_is_none(scored: Path, store: Path) -> None:
    """A scan, a replay, a shadow policy and `classify` say what to do; nothing is decided by a column that is empty."""
    policy = store.parent / "policy.yaml"
    policy.write_text(CALIBRATED)
    for sections in ({"policy": str(policy)}, {"shadow_policies": [str(policy)]}):
        with pytest.raises(PolicyError, match=r"it has no calibration\. `nsfwscan calibrate .*` makes one"):
            night(scored, store, "2", **sections)
    for command in (("policy", "replay", store, "--policy", policy), ("policy", "check", policy, "--on", store)):
        found = run(*command)
        assert found.exit_code == 1 and "nsfwscan calibrate" in found.stderr, found.output
    found = run("classify", scored / "media" / "0001.jpg", "--policy", policy)
    assert found.exit_code == 1 and "classify has no store" in found.stderr


def test_another_model_s_calibration_is_refused(scored: Path, store: Path) -> None:
    looked_at(store, range(OBJECTS))
    done("calibrate", store)
    [path] = (store / "calibrations").iterdir()
    other = {**json.loads(path.read_text()), "model": "other@0", "model_sha256": "1" * 64}
    path.write_text(json.dumps(other))
    policy = store.parent / "policy.yaml"
    policy.write_text(CALIBRATED)
    with pytest.raises(PolicyError, match="its calibrations are of other@0"):
        night(scored, store, "2", policy=str(policy))
    rows = night(scored, store, "2")
    assert {one["calibrated_score"] for one in rows.values()} == {None}


def test_too_few_are_refused_and_it_says_which(store: Path) -> None:
    """What queues showed does not count; a draw that is not decided in a stratum does not count yet."""
    looked_at(store, range(220, 240), kind="review", probability=None)
    found = run("calibrate", store)
    assert found.exit_code == 1 and "there are 0 and 0" in found.stderr, found.output
    looked_at(store, range(20))
    found = run("calibrate", store)
    assert "there are 0 and 20. Needed are 50 more that they removed and 30 more that they approved" in found.stderr
    drawn = run("audit", "draw", store, "--n", 60, "--out", store.parent / "items.jsonl")
    assert drawn.exit_code == 0, drawn.output
    found = run("calibrate", store)
    assert "does not count yet: of the stratum" in found.stderr and not (store / "calibrations").exists()


def test_a_draw_weighs_what_it_stands_for(store: Path) -> None:
    """The objects of a draw count with the size of their stratum over those decided in it, not with the number drawn."""
    drawn = run("audit", "draw", store, "--n", 220, "--floor", 40, "--out", store.parent / "items.jsonl")
    assert drawn.exit_code == 0, drawn.output
    items = [json.loads(one) for one in (store.parent / "items.jsonl").read_text().splitlines()]
    lines = [decided(int(Path(one["uri"]).stem), probability=one["probability"]) for one in items[:-20]]
    assert run("verdicts", "import", store, file(store.parent / "v.jsonl", lines)).exit_code == 0
    made = done("calibrate", store)
    assert made["origin"]["objects"] == 200 and made["origin"]["undecided"] == 20
    assert made["origin"]["draws"] != ["verdicts"] and made["after"]["ece"]["value"] < made["before"]["ece"]["value"]


def test_truth_counts_where_all_objects_have_it_or_it_was_drawn(scored: Path, tmp_path: Path) -> None:
    def truthful(uri: str) -> Row:
        number = int(Path(uri).stem)
        return {**row(uri), "truth": "nsfw" if is_removed(number) else "neutral"}

    scanned(scored / "media", tmp_path / "out", truthful, run_id="1")
    assert done("calibrate", tmp_path / "out")["origin"]["draws"] == ["truth"]

    def some(uri: str) -> Row:
        return {**truthful(uri), **({} if int(Path(uri).stem) % 3 else {"truth": None})}

    scanned(scored / "media", tmp_path / "some", some, run_id="1")
    found = run("calibrate", tmp_path / "some")
    assert found.exit_code == 1 and "the truth of 160 objects does not count" in found.stderr
    assert done("calibrate", tmp_path / "some", "--truth-probability", 0.66)["origin"]["objects"] == 160


def test_the_history_is_a_chain_that_verify_reads(scored: Path, store: Path) -> None:
    """A second calibration names the first; a changed or absent one is found; a run's column that was edited, too."""
    looked_at(store, range(OBJECTS))
    for method in ("platt", "isotonic"):
        done("calibrate", store, "--method", method)
    night(scored, store, "2")
    first, second = HISTORY.all(Store.at(str(store), StorageConfig()))
    assert second.previous == first.sha256 and second.map.steps > 0  # type: ignore[union-attr]
    shown = run("calibrate", store, "--show").output
    assert "calibration 2" in shown and "of the map are flat" in shown
    assert run("verify", store).exit_code == 0
    path = store / "calibrations" / "000002.json"
    path.write_text(path.read_text().replace('"isotonic"', '"isotonic" '))
    checked = run("verify", store)
    assert checked.exit_code == 7 and "is not the one that run 2 went by" in checked.output
    path.unlink()
    checked = run("verify", store)
    assert checked.exit_code == 8 and "absent or broken, although run 2 went by it" in checked.output


def test_what_the_model_learned_from_does_not_count(store: Path) -> None:
    """Neither drawn objects nor truth; the calibration says how many, and so does its page."""
    looked_at(store, range(OBJECTS))
    run_json = store / "runs" / "1" / "run.json"
    record = json.loads(run_json.read_text())
    run_json.write_text(json.dumps({**record, "model": {**record["model"], "uri": str(store.parent)}}))
    learned = [sha256(number) for number in range(0, OBJECTS, 3)]
    (store.parent / LEARNED).write_bytes(learned_parquet({"train": learned}))
    made = done("calibrate", store, "--page", store.parent / "page.html")
    assert (made["origin"]["objects"], made["origin"]["learned"], made["origin"]["unknown"]) == (160, 80, [])
    assert (
        "left out: 80 drawn contents that a model of the run learned from" in (store.parent / "page.html").read_text()
    )
    assert (
        "left out: 80 drawn contents that a model of the run learned from" in run("calibrate", store, "--show").output
    )
    (store.parent / LEARNED).write_bytes(learned_parquet({"train": [sha256(number) for number in range(OBJECTS)]}))
    refused = run("calibrate", store)
    assert refused.exit_code == 1 and "there are 0 and 0" in refused.stderr
    assert "left out: 240 drawn contents that a model of the run learned from" in refused.stderr
