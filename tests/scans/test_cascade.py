"""Cheap filters before the model, and further detectors beside it: what they settle, say, save and miss."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import nsfwscan
from nsfwscan.config import CascadeConfig
from nsfwscan.errors import ConfigError, ModelError
from nsfwscan.policy.signals import signals_of_row
from nsfwscan.runs.effects import share_with_interval
from nsfwscan.stages.filters import in_audit_sample
from nsfwscan.workflows.scan import ScanResult
from tests.checkpoints import make_dinov2, make_vit
from tests.later import later

stats = later("scipy.stats")


VIOLENCE = ("calm", "weapon", "blood")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`vit`: five categories; `violence`: other labels, another geometry."""
    folder = tmp_path_factory.mktemp("models")
    make_vit(folder / "vit")
    make_dinov2(folder / "violence", VIOLENCE, seed=3)
    return folder


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of colour noise, an icon, one of a single colour, a copy, and a file that is no image."""
    folder = tmp_path_factory.mktemp("media")
    random = np.random.default_rng(0)
    for number in range(40):
        blocks = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((320, 240), Image.Resampling.BICUBIC).save(folder / f"{number:02}.png")
    Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / "icon.png")
    Image.new("RGB", (300, 300), (250, 250, 251)).save(folder / "flat.png")
    (folder / "copy.png").write_bytes((folder / "00.png").read_bytes())
    (folder / "notes.txt").write_text("no image")
    return folder


def scan(media: Path, out: Path, **sections: Any) -> tuple[ScanResult, dict[str, dict[str, Any]]]:
    """A scan, and its rows by name."""
    result = nsfwscan.scan(media, out, **sections)
    rows = [row for path in result.report_files for row in pq.read_table(path).to_pylist()]
    return result, {Path(row["uri"]).name: row for row in rows}


@pytest.fixture(scope="module")
def plain(models: Path, media: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Rows of a scan without filters."""
    return scan(media, tmp_path_factory.mktemp("out"), model={"uri": str(models / "vit")})[1]


def cascade(models: Path, **changed: Any) -> dict[str, Any]:
    """A scan's sections with filters."""
    return {"model": {"uri": str(models / "vit")}, "cascade": {"enabled": True, **changed}}


def test_the_model_is_no_filter_of_its_own(media: Path, tmp_path: Path) -> None:
    """A prefilter that is the model would cost twice and settle nothing that the model would not: refused at once."""
    with pytest.raises(ConfigError, match="prefilter is the model itself"):
        scan(media, tmp_path, cascade={"enabled": True})


def test_what_is_benign_is_settled(models: Path, media: Path, plain: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """Icons, single colours and what the light model is sure of are settled without the model, allowed, and accounted
    for; the rest is scored as ever."""
    prefilter = scan(media, tmp_path / "light")[1]
    scores = sorted(row["nsfw_score"] for row in prefilter.values() if row["nsfw_score"] is not None)
    threshold = float(np.median(scores))
    result, rows = scan(media, tmp_path / "out", **cascade(models, threshold=threshold, audit_sample=0.0))
    assert (rows["icon.png"]["filtered_by"], rows["flat.png"]["filtered_by"]) == ("icon", "flat")
    name = f"prefilter:{prefilter['00.png']['model']}"
    for file, row in rows.items():
        light = prefilter[file]["nsfw_score"]
        if file in ("icon.png", "flat.png", "notes.txt"):
            continue
        assert signals_of_row(row["signals"])["prefilter.nsfw"] == pytest.approx(light)
        benign = light <= np.float32(threshold)
        assert row["filtered_by"] == (name if benign else None)
        assert row["nsfw_score"] == (None if benign else pytest.approx(plain[file]["nsfw_score"], abs=1e-6))
        if benign:
            assert (row["decision"], row["decided_by"], row["status"]) == ("allow", "filter", "ok")
            assert row["accounted_as"] == ("filtered" if row["duplicate_of"] is None else "duplicate")
    found, balance = result.record.cascade, result.record.balance
    assert (
        found.settled
        == balance.filtered
        == sum(row["filtered_by"] is not None for row in rows.values()) - (rows["copy.png"]["filtered_by"] is not None)
    )
    assert found.forwarded == balance.scored and found.audit_sample == 0
    assert found.miss_rate_interval is None
    each = result.record.model_times["classify"].seconds_each
    assert 0 < found.seconds_saved <= each * found.settled + 1e-3
    assert result.record.model_times["prefilter"].images == 40


def test_the_shadow_tells_what_is_missed(
    models: Path, media: Path, plain: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """A sample of what was settled is scored all the same; what of it the policy flags is a miss."""
    sections = cascade(models, threshold=1.0, audit_sample=0.4, seed=3)
    result, rows = scan(media, tmp_path, **sections)
    rules = CascadeConfig(**sections["cascade"])
    audit_sample = {file: row for file, row in rows.items() if row["filtered_by"] and row["nsfw_score"] is not None}
    for file, row in rows.items():
        if row["filtered_by"]:
            assert (row["nsfw_score"] is not None) == in_audit_sample(row["sha256"], rules)
            assert row["nsfw_score"] in (None, pytest.approx(plain[file]["nsfw_score"], abs=1e-6))
    originals = [row for row in audit_sample.values() if row["duplicate_of"] is None]
    misses = sum(row["decision"] in ("review", "block", "escalate") for row in originals)
    found = result.record.cascade
    assert (found.audit_sample, found.misses, found.forwarded) == (len(originals), misses, 0)
    assert 5 < len(originals) < 35 and misses
    assert found.miss_rate == misses / len(originals)
    low, high = found.miss_rate_interval
    assert 0 < low < found.miss_rate < high < 1


@pytest.mark.parametrize("audit_sample", [20, 150, 1000])
@pytest.mark.parametrize("truth", [0.0, 0.001, 0.02, 0.3, 0.97])
def test_the_interval_covers_the_truth(audit_sample: int, truth: float) -> None:
    """Whatever the rate is that the filters miss, the interval holds it in at least 95 of 100 samples."""
    found = np.arange(audit_sample + 1)
    weights = stats.binom.pmf(found, audit_sample, truth)
    intervals = [
        share_with_interval(int(misses), audit_sample) if weight > 1e-9 else (0, 1, 0)
        for misses, weight in zip(found, weights, strict=True)
    ]
    covered = sum(weight for weight, (_, low, high) in zip(weights, intervals, strict=True) if low <= truth <= high)
    assert covered >= 0.95
    assert share_with_interval(0, 0) == (None, None, None)


def test_one_decoding_for_all_detectors(
    models: Path, media: Path, plain: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Further models say their labels among the signals, under the names that they are given, what they would have said
    alone; a policy can go by them, each has its cost, and what a prefilter settled they see all the same."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "version: 1\nrules:\n"
        "  - {name: armed, when: \"signals['violence.armed'] > 0.5\", decision: review, queue: violence}\n"
        "otherwise: {decision: allow}\n"
    )
    detectors = {
        "violence": {"uri": str(models / "violence"), "labels": {"weapon": "armed"}},
        "again": {"uri": str(models / "vit"), "batch_size": 3},
    }
    sections = cascade(models, threshold=1.0, audit_sample=0.0) | {"detectors": detectors, "policy": str(policy)}
    result, rows = scan(media, tmp_path / "out", **sections)
    assert rows["00.png"]["nsfw_score"] is None
    armed = 0
    for file, row in rows.items():
        if row["status"] != "ok":
            assert row["signals"] is None
            continue
        said = {
            name: value
            for name, value in signals_of_row(row["signals"]).items()
            if name.startswith(("violence.", "again."))
        }
        assert sum(said[f"violence.{label}"] for label in ("calm", "armed", "blood")) == pytest.approx(1, abs=1e-5)
        assert said["again.porn"] == pytest.approx(plain[file]["score_porn"], abs=1e-5)
        assert row["rule"] == ("armed" if said["violence.armed"] > 0.5 else "otherwise")
        armed += row["rule"] == "armed"
    assert 0 < armed < 40
    assert {one.name for one in result.record.auxiliary_models} == {"open-nsfw", "violence", "again"}
    assert {"prefilter", "detect-violence", "detect-again"} <= set(result.record.model_times)
    assert result.record.model_times["detect-violence"].images == 42


@pytest.mark.long
def test_the_next_night(models: Path, media: Path, tmp_path: Path) -> None:
    """What was settled is carried while the filters are the same; with others, or without, it is looked at again, and
    what was scored is not. Other detectors make all stale."""
    store = tmp_path / "media"
    store.mkdir()
    for number in range(6):
        (store / f"{number}.png").write_bytes((media / f"{number:02}.png").read_bytes())
    icon = store / "icon.png"
    icon.write_bytes((media / "icon.png").read_bytes())
    for path in store.iterdir():
        os.utime(path, (1_700_000_000, 1_700_000_000))
    out, sections = tmp_path / "out", cascade(models, threshold=0.0, audit_sample=0.0)
    scan(store, out, run_id="1", **sections)
    again, rows = scan(store, out, run_id="2", **sections)
    assert again.record.plan.actions == {"carried": 7} and rows["icon.png"]["decided_by"] == "filter"
    without, rows = scan(store, out, run_id="3", model=sections["model"])
    assert without.record.plan.actions == {"carried": 6, "stale": 1}
    assert rows["icon.png"]["accounted_as"] == "scored"
    with_it, _ = scan(store, out, run_id="4", **sections)
    assert with_it.record.plan.actions == {"carried": 7}
    more, _ = scan(store, out, run_id="5", **sections, detectors={"v": {"uri": str(models / "violence")}})
    assert more.record.plan.actions == {"stale": 7}


def test_wrong_detectors_are_refused(models: Path, media: Path, tmp_path: Path) -> None:
    """A name that cannot stand in a rule, a label that is not there and two labels of one name stop the scan at once."""
    violence = str(models / "violence")
    with pytest.raises(ConfigError, match=r"detectors\.No Name"):
        scan(media, tmp_path, detectors={"No Name": {"uri": violence}})
    for labels, message in (({"knife": "armed"}, "knife"), ({"weapon": "blood"}, "one name: calm, blood, blood")):
        with pytest.raises(ModelError, match=message):
            scan(media, tmp_path, detectors={"violence": {"uri": violence, "labels": labels}})
    with pytest.raises(ModelError):
        scan(media, tmp_path, detectors={"violence": {"uri": str(models / "nothing")}})
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").glob("*/run.json"))
