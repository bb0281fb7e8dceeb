"""What to label next: drawn where a label tells the most, with probabilities by which the labels estimate, too."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from nsfwscan.cli.main import main
from nsfwscan.review.estimates import Stratum, estimate
from nsfwscan.review.label_sample import draw_labels
from nsfwscan.runs.run import Run
from nsfwscan.schema import EMBEDDING_SCHEMA
from tests.review.stores import committed, row
from tests.runs.rows import policy_of
from tests.verdicts.lines import file, line

BORDER, SURE = 0.4, 0.9
POLICY = policy_of(
    rules=[
        {"name": "explicit", "when": f"nsfw_score >= {SURE}", "decision": "block", "queue": "adult"},
        {"name": "borderline", "when": f"nsfw_score >= {BORDER}", "decision": "review", "queue": "adult"},
    ]
)


def sha256(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


def scored(uri: str, score: float | None, **values: Any) -> dict[str, Any]:
    """A row, decided by the policy."""
    decision = (
        "undetermined" if score is None else "block" if score >= SURE else "review" if score >= BORDER else "allow"
    )
    known = {"sha256": sha256(uri), "nsfw_score": score, "decision": decision}
    return row(uri, **{**known, "queue": None, **values})


def spread(count: int, seed: int = 0) -> list[float]:
    """Scores of a usual night: most are near 0, some near 1, few between."""
    return np.random.default_rng(seed).beta(0.15, 1.2, count).round(4).tolist()


def night(out: Path, rows: Sequence[dict[str, Any]]) -> Run:
    return committed(out, rows, part_rows=1_000, policy=POLICY)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_more_is_found_near_the_threshold(tmp_path: Path) -> None:
    """Of two hundred objects several times as many as in a plain sample are near a threshold, or such that a detector
    says otherwise; yet what nobody suspects is drawn, too."""
    scores = spread(4_000)
    rows = [scored(f"/m/{i:04}", score) for i, score in enumerate(scores)]
    for i in range(3_000, 3_040):  # the model passes them, a detector does not
        said = [{"name": "other.neutral", "value": 0.1}, {"name": "other.porn", "value": 0.9}]
        rows[i] = scored(f"/m/{i:04}", 0.01, signals=[{"name": "exif.age", "value": 3.0}, *said])
    draw = draw_labels(night(tmp_path / "out", rows), 200, 0, 10)
    drawn = [int(uri.rpartition("/")[2]) for uri in draw.rows["uri"].to_pylist()]
    assert len(drawn) == 200 and draw.design == "label"
    assert sum(1 / p for p in draw.rows["probability"].to_pylist()) == pytest.approx(4_000)
    near = [i for i, row in enumerate(rows) if min(abs(row["nsfw_score"] - at) for at in (BORDER, SURE)) < 0.1]
    plain = 200 * len(near) / 4_000
    assert len(set(near) & set(drawn)) > 3 * plain, plain
    assert len({*range(3_000, 3_040)} & set(drawn)) > 10 > 200 * 40 / 4_000
    sure = {i for i, score in enumerate(scores) if score < 0.05} - {*range(3_000, 3_040)}
    assert len(sure & set(drawn)) >= 20
    again = draw_labels(night(tmp_path / "other", rows), 200, 0, 10)
    assert again.rows.equals(draw.rows) and again.audit_id == draw.audit_id


def test_what_is_decided_or_like_it_waits(tmp_path: Path) -> None:
    """Of clusters, those without a verdict come first, and no cluster fills the sample; what is decided tells no more."""
    rows = [scored(f"/one/{i:03}", 0.41, cluster="one") for i in range(200)]
    rows += [scored(f"/known/{i}", 0.41, cluster="known") for i in range(2)]
    rows += [scored(f"/new/{i}", 0.41) for i in range(100)]
    rows += [scored(f"/safe/{i:03}", 0.01) for i in range(500)]
    made = night(tmp_path / "out", rows)
    decided = line("1", "x", "approve", uri="/known/0", sha256=sha256("/known/0"))
    assert run("verdicts", "import", tmp_path / "out", file(tmp_path / "v.jsonl", [decided])).exit_code == 0
    draw = draw_labels(made, 60, 0, 5)
    levels = {row["uri"]: row["stratum"] for row in draw.rows.to_pylist()}
    found = Counter(uri.split("/")[1] for uri in levels)
    assert found["new"] > 25 and found["one"] <= 20, found
    assert {level for uri, level in levels.items() if uri.startswith("/new")} == {"flagged high"}
    assert {level for uri, level in levels.items() if uri.startswith("/one")} == {"flagged none"}
    assert levels.get("/known/0", "flagged none") == "flagged none"


def test_regions_that_nobody_saw_come_first(tmp_path: Path) -> None:
    """Where the run has embeddings: of what the model is sure of, more is drawn in a region without a verdict."""
    random = np.random.default_rng(0)
    names = [f"/{kind}/{i:03}" for kind in ("seen", "unseen") for i in range(200)]
    middles = {"seen": random.normal(size=16), "unseen": random.normal(size=16)}
    vectors = np.array([middles[name.split("/")[1]] + random.normal(size=16) * 0.05 for name in names], np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    values = {"uri": names, "sha256": list(map(sha256, names)), "view": [0] * 400, "detector": ["d"] * 400}
    embeddings = pa.table({**values, "vector": list(vectors)}, schema=EMBEDDING_SCHEMA)
    rows = [scored(name, 0.01) for name in names]
    made = committed(tmp_path / "out", rows, part_rows=1_000, policy=POLICY, embeddings=embeddings)
    lines = [line(name, name, "approve", uri=name, sha256=sha256(name)) for name in names[:200:2]]
    assert run("verdicts", "import", tmp_path / "out", file(tmp_path / "v.jsonl", lines)).exit_code == 0
    found = Counter(uri.split("/")[1] for uri in draw_labels(made, 50, 0, 5).rows["uri"].to_pylist())
    assert found["unseen"] > 2 * found["seen"] > 0, found


def test_from_the_draw_to_an_estimate_and_a_policy(tmp_path: Path) -> None:
    """Items for a page, with probabilities; what people say of them estimates, and is enough to choose a threshold."""
    scores = [*np.linspace(0.02, 0.36, 60), *np.linspace(0.45, 0.99, 240)]
    rows = [scored(f"/m/{i:04}", float(score)) for i, score in enumerate(scores)]
    night(
        tmp_path / "out",
        [*rows, scored("/m/illegal", None, match_kind="illegal"), scored("/m/gone", None, sha256=None)],
    )
    done = run("label", tmp_path / "out", "--n", 240, "--out", tmp_path / "items.jsonl")
    assert done.exit_code == 0 and "240 objects of 300 drawn" in done.output and "plain sample" in done.output
    items = [json.loads(one) for one in (tmp_path / "items.jsonl").read_text().splitlines()]
    assert len(items) == 240 and {(item["kind"], item["queue"]) for item in items} == {("audit", "label")}
    lines = [
        line(item["uri"], item["uri"], "remove" if item["nsfw_score"] > 0.43 else "approve", sha256=item["sha256"],
             uri=item["uri"], kind="audit", probability=item["probability"])
        for item in items
    ]  # fmt: skip
    assert run("verdicts", "import", tmp_path / "out", file(tmp_path / "v.jsonl", lines)).exit_code == 0
    audit = done.output.split()[1].rstrip(":")
    found = json.loads(run("audit", "estimate", tmp_path / "out", audit, "--json").stdout)
    assert found["harmful"]["low"] <= 240 <= found["harmful"]["high"] and found["recall"]["value"] == 1
    assert (found["illegal"], found["unread"]) == (1, 1)
    seen = tmp_path / "views.csv"
    seen.write_text("uri,views\n/m/0001,3\n")
    refused = run("audit", "estimate", tmp_path / "out", audit, "--context", seen)
    assert refused.exit_code == 2 and "only an audit estimates by views" in refused.output
    solved = run("policy", "solve", tmp_path / "out", "--miss", 0.2, "--out", tmp_path / "p.yaml", "--json")
    assert solved.exit_code == 0 and json.loads(solved.stdout)["holds"], solved.output
    empty = run("label", tmp_path / "out", "--n", 1, "--out", "-")
    assert empty.exit_code == 2 and "each needs an object" in empty.output


@pytest.mark.long
@pytest.mark.parametrize(("count", "n", "slope"), [(4_000, 300, 1.0), (20_000, 500, 0.5), (1_500, 300, 1.3)])
def test_intervals_of_labels_cover(tmp_path: Path, count: int, n: int, slope: float) -> None:
    """Of a thousand draws from a known population, 93 to 97 % of the intervals hold the truth, however the model is
    mistaken: of prevalence, recall and false positive rate."""
    scores, random = spread(count), np.random.default_rng(1)
    harmful = {f"/m/{i:05}": random.random() < min(1.0, slope * score + 0.01) for i, score in enumerate(scores)}
    run = night(tmp_path / "out", [scored(f"/m/{i:05}", score) for i, score in enumerate(scores)])
    whole, draw = draw_labels(run, count, 0, 10), draw_labels(run, n, 0, 10)
    strata = {one["stratum"]: [one["size"], 0, one["drawn"], one["flagged"]] for one in draw.rows.to_pylist()}
    for one in whole.rows.to_pylist():
        strata[one["stratum"]][1] += harmful[one["uri"]]
    total, flagged = sum(harmful.values()), [score >= BORDER for score in scores]
    caught = sum(bad and seen for bad, seen in zip(harmful.values(), flagged, strict=True))
    truth = {
        "prevalence": total / count,
        "recall": caught / total,
        "false_positive_rate": (sum(flagged) - caught) / (count - total),
    }
    held = dict.fromkeys(truth, 0)
    for _ in range(1000):
        found = estimate(
            [Stratum(size, m, int(random.hypergeometric(bad, size - bad, m)), f) for size, bad, m, f in strata.values()]
        )
        for name, value in truth.items():
            held[name] += getattr(found, name).low <= value <= getattr(found, name).high
    assert all(930 <= count <= 970 for count in held.values()), held
