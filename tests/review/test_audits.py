"""A drawn sample says what is out there, with intervals that hold."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from nsfwscan.cli.main import main
from nsfwscan.config import StorageConfig
from nsfwscan.errors import BrokenRecord, ConfigError
from nsfwscan.models.learned import LEARNED, learned_parquet
from nsfwscan.review.audit_sample import Draw, allocate, draw_sample
from nsfwscan.review.estimates import Stratum, estimate, estimate_views
from nsfwscan.storage.store import Store
from tests.review.stores import committed, row
from tests.verdicts.lines import file, line


def sha256(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def objects(count: int) -> list[dict[str, Any]]:
    """Allowed and reviewed objects, of which every fourth is harmful; one illegal, one that was never read."""
    found = []
    for i in range(count):
        safe = i % 5 > 0
        outcome = {"decision": "allow", "queue": None} if safe else {"decision": "review"}
        found.append(row(f"/media/{i:04}", sha256=sha256(str(i)), nsfw_score=0.01 if safe else 0.6, **outcome))
    found.append(row("/media/illegal", sha256=sha256("x"), match_kind="illegal", nsfw_score=None))
    return [*found, row("/media/gone", sha256=None, status="not_found", decision="undetermined")]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_an_audit_from_draw_to_estimate(tmp_path: Path) -> None:
    """Drawn, looked at, taken in, estimated: items of kind audit with their probabilities, the safe side too; what people
    decided already is not asked again; nothing illegal or unread is drawn."""
    night = committed(tmp_path / "out", objects(200), part_rows=60)
    drawn = run("audit", "draw", tmp_path / "out", "--n", 60, "--floor", 20, "--out", tmp_path / "items.jsonl")
    assert drawn.exit_code == 0 and "not drawn: 1 known illegal, 1 whose bytes were never read" in drawn.output, (
        drawn.output
    )
    audit_id = drawn.output.split()[1].rstrip(":")
    items = [json.loads(one) for one in (tmp_path / "items.jsonl").read_text().splitlines()]
    assert len(items) == 60 and {item["kind"] for item in items} == {"audit"}
    of = {decision: [item for item in items if item["decision"] == decision] for decision in ("allow", "review")}
    assert {item["probability"] for item in of["allow"]} == {len(of["allow"]) / 160} and len(of["review"]) >= 20
    draw = Draw.read(night.store, audit_id)
    assert (draw.objects, draw.illegal, draw.unread) == (200, 1, 1)
    assert sum(1 / p for p in draw.rows["probability"].to_pylist()) == pytest.approx(200)
    early = run("audit", "estimate", tmp_path / "out", audit_id)
    assert early.exit_code == 2 and "60 of 60 drawn objects are not decided yet" in early.output
    lines = [
        line(item["uri"], item["uri"], "remove" if item["decision"] == "review" else "approve", sha256=item["sha256"],
             kind="audit", probability=item["probability"])
        for item in items
    ]  # fmt: skip
    taken = run("verdicts", "import", tmp_path / "out", file(tmp_path / "v.jsonl", lines))
    assert taken.exit_code == 0, taken.output
    found = json.loads(run("audit", "estimate", tmp_path / "out", audit_id, "--json").stdout)
    assert found["harmful"]["value"] == pytest.approx(40) and found["recall"]["value"] == 1
    assert found["prevalence"]["low"] < 0.2 < found["prevalence"]["high"] and found["recall"]["low"] < 1
    assert found["undecided"] == 0 and found["views"] == 60 and found["plain_views"] > 0
    shown = run("audit", "estimate", tmp_path / "out", audit_id).output
    assert "prevalence" in shown and "a plain random sample would take" in shown
    seen = tmp_path / "views.csv"
    seen.write_text("uri,views\n" + "".join(f"/media/{i:04},{10 if i % 5 else 100}\n" for i in range(200)))
    by_views = run("audit", "estimate", tmp_path / "out", audit_id, "--context", seen, "--json")
    viewed = json.loads(by_views.stdout)["by_views"]
    assert viewed["all_views"] == 40 * 100 + 160 * 10
    assert viewed["prevalence"]["value"] == pytest.approx(4000 / 5600) and viewed["recall"]["value"] == 1
    assert "prevalence in views" in run("audit", "estimate", tmp_path / "out", audit_id, "--context", seen).output
    seen.write_text("uri,likes\n/media/0001,3\n")
    wrong = run("audit", "estimate", tmp_path / "out", audit_id, "--context", seen)
    assert wrong.exit_code == 2 and "no column `views`" in wrong.output
    seen.write_text("uri,views\n/media/0001,0\n/elsewhere,9\n")
    unseen = run("audit", "estimate", tmp_path / "out", audit_id, "--context", seen)
    assert unseen.exit_code == 2 and "has no views of the objects of run" in unseen.output
    again = run(
        "audit", "draw", tmp_path / "out", "--n", 60, "--floor", 20, "--seed", 1, "--out", tmp_path / "again.jsonl"
    )
    asked = {json.loads(one)["uri"] for one in (tmp_path / "again.jsonl").read_text().splitlines()}
    assert again.exit_code == 0 and not asked & {item["uri"] for item in items}
    gone = ["--uri", items[0]["uri"], "--reason", "a law", "--by", "me", "--yes"]
    assert run("forget", tmp_path / "out", *gone).exit_code == 0
    less = json.loads(run("audit", "estimate", tmp_path / "out", audit_id, "--json").stdout)
    assert (less["drawn"], less["decided"], less["undecided"]) == (60, 59, 0), "nobody can decide it any more"


def test_a_draw_is_the_same_again_and_kept(tmp_path: Path) -> None:
    """The same seed draws the same; another one others; a changed or unknown draw is told; too few are refused."""
    night = committed(tmp_path / "out", objects(100), part_rows=200)
    first, second = draw_sample(night, 30), draw_sample(night, 30)
    assert first.audit_id == second.audit_id and first.rows.equals(second.rows)
    other = draw_sample(night, 30, seed=5)
    assert other.rows["uri"].to_pylist() != first.rows["uri"].to_pylist()
    assert draw_sample(night, 10_000).rows.num_rows == 100
    with pytest.raises(ConfigError, match="there are 2 strata"):
        draw_sample(night, 1)
    with pytest.raises(ConfigError, match="has no audit 'x'; there are: "):
        Draw.read(night.store, "x")
    [path] = (tmp_path / "out" / "audits").glob(f"{first.audit_id}.parquet")
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(BrokenRecord, match="was changed"):
        Draw.read(night.store, first.audit_id)
    empty = committed(tmp_path / "empty", [row("/a", sha256=None)])
    with pytest.raises(ConfigError, match="there is nothing to draw"):
        draw_sample(empty, 5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5000), st.floats(0.05, 0.5)), min_size=1, max_size=12),
    st.integers(1, 600),
    st.integers(1, 40),
)
def test_an_allocation_adds_up(strata: list[tuple[int, float]], n: int, floor: int) -> None:
    """Exactly as many as were asked for, at least one of each stratum and never more than it has; the floor is kept."""
    sizes, deviations = np.array([size for size, _ in strata]), np.array([d for _, d in strata])
    n = min(max(n, len(sizes)), int(sizes.sum()))
    drawn = allocate(sizes, deviations, n, floor)
    assert drawn.sum() == n and (drawn >= 1).all() and (drawn <= sizes).all()
    assert (drawn >= np.minimum(sizes, min(floor, n // len(sizes)))).all()


def test_estimates_of_plain_cases() -> None:
    """One stratum without a hit has the exact interval; all looked at has none; nothing flagged has no recall."""
    none = estimate([Stratum(1_000_000, 299, 0)])
    assert none.prevalence.value == 0 and none.prevalence.high == pytest.approx(0.0123, abs=2e-4)
    assert none.plain_views is None and none.recall.value is None
    whole = estimate([Stratum(50, 50, 5, flagged=True), Stratum(10, 10, 0)])
    assert (whole.prevalence.low, whole.prevalence.high) == (pytest.approx(5 / 60), pytest.approx(5 / 60))
    assert whole.recall.value == 1 and whole.false_positive_rate.value == pytest.approx(45 / 55)
    missed = estimate([Stratum(50, 50, 0, flagged=True), Stratum(1000, 100, 10)])
    assert missed.recall.value == 0 and missed.recall.low == 0


POPULATIONS: list[tuple[list[int], list[float], list[int], list[bool]]] = [
    ([50_000, 5_000, 1_000], [0.002, 0.05, 0.6], [200, 150, 150], [False, False, True]),
    ([10_000, 2_000, 500], [0.05, 0.3, 0.8], [200, 150, 100], [False, True, True]),
    ([900, 300, 100], [0.01, 0.2, 0.7], [100, 100, 50], [False, True, True]),
]


@pytest.mark.long
@pytest.mark.parametrize(("sizes", "shares", "drawn", "flagged"), POPULATIONS)
def test_intervals_cover(sizes: list[int], shares: list[float], drawn: list[int], flagged: list[bool]) -> None:
    """Of a thousand draws from a known population, 93 to 97 % of the intervals hold the truth: of prevalence, recall and
    false positive rate. In the third population the policy passes about one harmful object of those drawn: none, one or
    two hits have exact intervals, few values, and so a recall that is covered more often (Brown, Cai and DasGupta 2001);
    a shorter interval would hold less often where that stratum is a little worse."""
    random, harmful = np.random.default_rng(0), [round(n * p) for n, p in zip(sizes, shares, strict=True)]
    total, size = sum(harmful), sum(sizes)
    caught = sum(h for h, f in zip(harmful, flagged, strict=True) if f)
    wrong = sum(n - h for n, h, f in zip(sizes, harmful, flagged, strict=True) if f)
    truth = {"prevalence": total / size, "recall": caught / total, "false_positive_rate": wrong / (size - total)}
    held = dict.fromkeys(truth, 0)
    for _ in range(1000):
        strata = [
            Stratum(n, m, int(random.hypergeometric(h, n - h, m)), f)
            for n, h, m, f in zip(sizes, harmful, drawn, flagged, strict=True)
        ]
        found = estimate(strata)
        for name, value in truth.items():
            held[name] += getattr(found, name).low <= value <= getattr(found, name).high
    most = {"recall": 1000} if flagged[1:] == [True, True] and sizes[0] == 900 else {}
    assert all(930 <= count <= most.get(name, 970) for name, count in held.items()), held


@pytest.mark.long
def test_intervals_by_views_cover() -> None:
    """Where a few objects have most of the views, 93 to 97 % of a thousand intervals hold the truth."""
    random = np.random.default_rng(1)
    population = []
    for size, share, drawn, flagged in ((20_000, 0.03, 400, False), (1_000, 0.5, 200, True)):
        views = random.lognormal(2, 0.8, size)
        population.append((views, random.random(size) < share, drawn, flagged))
    seen = sum(views.sum() for views, *_ in population)
    bad = [views[harmful].sum() for views, harmful, *_ in population]
    wrong = population[1][0].sum() - bad[1]
    truth = {
        "prevalence": sum(bad) / seen,
        "recall": bad[1] / sum(bad),
        "false_positive_rate": wrong / (seen - sum(bad)),
    }
    held = dict.fromkeys(truth, 0)
    for _ in range(1000):
        strata = []
        for views, harmful, drawn, flagged in population:
            some = random.choice(len(views), drawn, replace=False)
            pairs = tuple(zip(views[some].tolist(), harmful[some].tolist(), strict=True))
            strata.append(Stratum(len(views), drawn, int(harmful[some].sum()), flagged, float(views.sum()), pairs))
        found = estimate_views(strata)
        for name, value in truth.items():
            held[name] += getattr(found, name).low <= value <= getattr(found, name).high
    assert all(930 <= count <= 970 for count in held.values()), held


def test_stores_of_old_have_no_audits(tmp_path: Path) -> None:
    """An estimate of a store without any says so."""
    store = Store.at(str(tmp_path), StorageConfig())
    with pytest.raises(ConfigError, match="there are: none"):
        Draw.read(store, "a-b")


def test_what_the_model_learned_from_is_left_out(tmp_path: Path) -> None:
    """Others of its stratum stand for it; where a stratum has no others, it is said why nothing is estimated."""
    committed(tmp_path / "out", objects(100), part_rows=200)
    run_json = tmp_path / "out" / "runs" / "tonight" / "run.json"
    record = json.loads(run_json.read_text())
    run_json.write_text(json.dumps({**record, "model": {**record["model"], "uri": str(tmp_path)}}))
    drawn = run("audit", "draw", tmp_path / "out", "--n", 100, "--out", tmp_path / "items.jsonl")
    assert drawn.exit_code == 0, drawn.output
    audit_id = drawn.output.split()[1].rstrip(":")
    missed = "/media/0001"
    lines = [
        line(item["uri"], item["uri"], "remove" if item["decision"] == "review" or item["uri"] == missed else "approve",
             sha256=item["sha256"], kind="audit", probability=1.0)
        for item in map(json.loads, (tmp_path / "items.jsonl").read_text().splitlines())
    ]  # fmt: skip
    assert run("verdicts", "import", tmp_path / "out", file(tmp_path / "v.jsonl", lines)).exit_code == 0

    def estimated(*learned: int) -> dict[str, Any]:
        (tmp_path / LEARNED).write_bytes(learned_parquet({"train": [sha256(str(number)) for number in learned]}))
        found: dict[str, Any] = json.loads(run("audit", "estimate", tmp_path / "out", audit_id, "--json").stdout)
        return found

    of_all, of_others = estimated(), estimated(*range(0, 100, 2))
    assert of_all["recall"]["value"] == pytest.approx(20 / 21) and of_all["learned"] == 0
    assert of_others["recall"]["value"] == pytest.approx(20 / 22), (
        "of 40 allowed ones, which stand for 80, one is missed"
    )
    assert (of_others["learned"], of_others["decided"], of_others["unknown"]) == (50, 50, [])
    shown = run("audit", "estimate", tmp_path / "out", audit_id)
    assert "left out: 50 drawn contents that a model of the run learned from" in shown.output
    none_left = estimated(*range(0, 100, 5))
    assert none_left["exit_code"] == 2 and "but for what a model learned from (20 contents)" in none_left["error"]
    (tmp_path / LEARNED).unlink()
    assert f"nothing says what {tmp_path} learned from" in run("audit", "estimate", tmp_path / "out", audit_id).output
