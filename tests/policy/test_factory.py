"""The policy for the whole factory, its seats for models of a user's own, and thresholds that belong to weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from PIL import Image

import nsfwscan
from nsfwscan.cli.main import main
from nsfwscan.config import ScanConfig
from nsfwscan.errors import ConfigError, ModelError, PolicyError
from nsfwscan.models.exported import describe, sidecar_of
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.lint import lint, model_notes
from nsfwscan.policy.rules import load_policy, parse_policy
from nsfwscan.policy.signals import entries_of, signals_of_row
from nsfwscan.policy.sql import VISIBLE
from nsfwscan.schema import REPORT_SCHEMA, Decision
from nsfwscan.workflows.doctor import examine
from tests.packs import SIDE, tiny_graph

REPORTED = pa.schema([REPORT_SCHEMA.field(name) for name in VISIBLE.names])
SAFE = {"score_neutral": 0.9, "score_porn": 0.05, "score_hentai": 0.0, "nsfw_score": 0.1}
EXPOSED = "nudity.FEMALE_BREAST_EXPOSED"


def decided(signals: dict[str, float], **columns: Any) -> dict[str, Any]:
    """The factory's decision on a row that a scan with five-class made."""
    row = {"uri": "s3://media/a.jpg", "status": "ok", **SAFE, **columns, "signals": entries_of(signals)}
    [found] = Decider(load_policy("factory"))(pa.Table.from_pylist([row], schema=REPORTED)).to_pylist()
    return dict(found)


@pytest.mark.parametrize(
    ("signals", "columns", "rule", "decision"),
    [
        ({}, {}, "otherwise", "allow"),
        ({EXPOSED: 0.9}, {}, "exposed", "review"),
        ({"nudity.FACE_FEMALE": 0.9, "nudity.BUTTOCKS_EXPOSED": 0.9}, {}, "otherwise", "allow"),
        ({"gore.NSFL": 0.4}, {}, "gore", "review"),
        ({"self-harm.shown": 0.6}, {}, "self-harm", "review"),
        ({"weapons.shown": 0.9}, {}, "weapons", "review"),
        ({}, {"score_porn": 0.96, "nsfw_score": 0.97}, "explicit", "block"),
        ({}, {"nsfw_score": 0.7}, "borderline", "review"),
        ({"age.minor": 0.9}, {}, "otherwise", "allow"),
        ({"age.minor": 0.9, EXPOSED: 0.9}, {}, "apparent-minor", "escalate"),
        ({"age.minor": 0.9}, {"score_porn": 0.96, "nsfw_score": 0.97}, "apparent-minor", "escalate"),
        ({"age.minor": 0.1, "gore.NSFL": 0.9}, {"nsfw_score": 0.99}, "gore", "review"),
        ({"c2pa.trainedAlgorithmicMedia": 1}, {}, "otherwise", "allow"),
        ({}, {"status": "decode_error", "nsfw_score": None}, "unreadable", "undetermined"),
    ],
)
def test_what_the_factory_decides(signals: dict[str, float], columns: dict[str, Any], rule: str, decision: str) -> None:
    """Each detector and each seat; what was not looked at is no reason; no detector alone blocks."""
    found = decided(signals, **columns)
    assert (found["rule"], found["decision"]) == (rule, decision)


def test_specialists_see_what_is_theirs_covered() -> None:
    """Escalated minors are hidden; gore and self-harm are grey, for those who can look at it."""
    minor = decided({"age.minor": 0.9, EXPOSED: 0.9})
    assert (minor["queue"], minor["skill"], minor["shield"], minor["severity"]) == (
        "child-safety", "child-safety", "hidden", 4,
    )  # fmt: skip
    assert [decided({name: 0.9})["shield"] for name in ("gore.NSFL", "self-harm.shown")] == ["grayscale"] * 2


def test_nothing_is_wrong_with_the_factory() -> None:
    """`policy check` finds nothing; a detector alone blocks nothing."""
    policy = load_policy("factory")
    assert list(lint(policy)) == []
    blocking = [rule for rule in policy.rules if rule.decision is Decision.BLOCK]
    assert not any("signals" in rule.when for rule in blocking)


AGED = {"name": "aged", "when": "signals['age.minor'] > 0.5", "decision": "escalate"}


@pytest.mark.parametrize("decision", ["allow", "review", "block", "undetermined"])
def test_apparent_age_only_ever_escalates(decision: str) -> None:
    """A rule that asks for it and decides otherwise is refused, also where an override would."""
    given = {"name": "p", "version": "1", "otherwise": {"decision": "allow"}}
    parse_policy({**given, "rules": [AGED]})
    with pytest.raises(PolicyError, match=r"rule 'aged' asks for .*apparent age only ever escalates"):
        parse_policy({**given, "rules": [{**AGED, "decision": decision}]})
    override = {"source": "s3://media/", "rules": {"aged": {"decision": decision}}}
    with pytest.raises(PolicyError, match="apparent age only ever escalates"):
        parse_policy({**given, "rules": [AGED], "overrides": [override]})


def test_thresholds_belong_to_weights() -> None:
    """A digest, or how it begins; of other weights each is said; a detector that a run does not have is not."""
    policy = load_policy("factory")
    own = {name: digests[0] + "0" * 48 for name, digests in policy.made_for.items()}
    assert list(model_notes(policy, own)) == []
    [note] = model_notes(policy, {"model": own["model"], "gore": "f" * 64})
    assert note.startswith(f"the thresholds of {policy.identity} were made for other weights of the detector gore")
    with pytest.raises(PolicyError, match=r"made_for\.model"):
        parse_policy(
            {"version": "1", "name": "p", "rules": [], "otherwise": {"decision": "allow"}, "made_for": {"model": ["x"]}}
        )


def exported(folder: Path, labels: tuple[str, ...], weights: list[list[float]]) -> Path:
    """A tiny graph with these labels, whose scores follow the brightness."""
    folder.mkdir()
    graph = folder / "model.onnx"
    graph.write_bytes(tiny_graph(weights))
    preprocessor = {"size": {"height": SIDE, "width": SIDE}, "resample": 2, "image_mean": 0, "image_std": 1}
    sidecar_of(graph).write_text(json.dumps(describe(graph, labels, preprocessor, None, "-")))
    return graph


@pytest.fixture
def seats(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Stand-ins for three models of a user's own, whose labels are mapped to the names that the factory asks for."""
    two, three = [[-2, 2]] * 3, [[-3, 0, 0]] * 3
    return {
        "self-harm": {
            "uri": str(exported(tmp_path / "harm", ("LABEL_0", "LABEL_1"), two)),
            "labels": {"LABEL_1": "shown"},
        },
        "weapons": {
            "uri": str(exported(tmp_path / "weapons", ("none", "gun", "knife"), three)),
            "labels": {"gun": "shown", "knife": "shown"},
        },
        "age": {
            "uri": str(exported(tmp_path / "age", ("0-12", "13-17", "18+"), [[0, 0, -3]] * 3)),
            "labels": {"0-12": "minor", "13-17": "minor", "18+": "adult"},
        },
    }


def test_the_seats_of_a_user(seats: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """Models of a user's own fill the seats by a map of their labels; several labels of one name are added. The policy
    warns that its thresholds were made for another model, in the terminal, in the record, in `doctor` and in `check`."""
    media = tmp_path / "media"
    media.mkdir()
    for name, level in (("dark", 0), ("light", 255)):
        Image.fromarray(np.full((30, 40, 3), level, np.uint8)).save(media / f"{name}.png")
    out = tmp_path / "out"
    result = nsfwscan.scan(media, out, run_id="1", detectors=seats, policy="factory")
    rows = {Path(row["uri"]).name: row for row in result.to_arrow().to_pylist()}
    light, dark = (signals_of_row(rows[name]["signals"]) for name in ("light.png", "dark.png"))
    assert light["weapons.shown"] > 0.99 and dark["weapons.shown"] == pytest.approx(2 / 3)
    assert light["age.minor"] > 0.99 and light["age.adult"] < 0.01 and "age.0-12" not in light
    assert (rows["light.png"]["rule"], rows["light.png"]["queue"]) == ("self-harm", "self-harm")
    assert (rows["dark.png"]["rule"], rows["dark.png"]["decision"]) == ("self-harm", "review")

    [warning] = [one for one in result.record.warnings if one.name == "other_weights"]
    assert "the model" in warning.example
    checked = CliRunner().invoke(main, ["policy", "check", "factory", "--on", str(out)])
    assert "note: the thresholds of factory@" in checked.output
    config = ScanConfig.of({"source": {"uris": [str(media)]}, "out": str(out), "policy": "factory", "detectors": seats})
    assert any(one.subject == "policy" and "other weights of the model" in one.detail for one in examine(config))


def test_the_seat_of_a_probe_for_pictures_made_by_ai(tmp_path: Path) -> None:
    """It abstains in its middle, and where a gate finds too much text; what it says reaches a rule of one's own, and no
    preset asks for it."""
    media, reader = tmp_path / "media", tmp_path / "reader"
    media.mkdir()
    for name, level in (("dark", 0), ("grey", 40), ("light", 255)):
        Image.fromarray(np.full((30, 40, 3), level, np.uint8)).save(media / f"{name}.png")
    probe = {"uri": str(exported(tmp_path / "probe", ("camera", "made"), [[-2, 2]] * 3)), "abstain": [0.1, 0.9]}
    many = {"uri": str(exported(reader, ("none", "heavy"), [[-9, 9]] * 3)), "when": "uri LIKE '%light%'", "shadow": 0}
    heavy = {"ai": {**probe, "when": "coalesce(signals['text.heavy'], 0) < 0.5", "shadow": 0}}
    result = nsfwscan.scan(media, tmp_path / "out", run_id="1", detectors={"text": many, **heavy}, policy="factory")
    rows = {Path(row["uri"]).stem: row for row in result.to_arrow().to_pylist()}
    said = {
        name: {key for key in signals_of_row(row["signals"]) if key.startswith("ai.")} for name, row in rows.items()
    }
    assert said == {"dark": {"ai.abstained"}, "grey": {"ai.abstained"}, "light": set()}
    alone = nsfwscan.scan(media, tmp_path / "out", run_id="2", detectors={"ai": probe}, policy="factory")
    signals = [signals_of_row(row["signals"]) for row in alone.to_arrow().sort_by("uri").to_pylist()]
    assert [one["ai.abstained"] for one in signals] == [1, 1, 0] and signals[2]["ai.made"] > 0.9
    for preset in ("factory", "open-nsfw", "binary", "five-class"):
        told = [rule for rule in load_policy(preset).rules if re.search(r"'(ai|generator|c2pa|iptc)\.", rule.when)]
        assert not any(rule.decision is Decision.BLOCK for rule in told), preset
    for wrong in ([0.9, 0.1], [0.5, 0.5], [0.1, 1.5]):
        with pytest.raises(ConfigError, match="abstain"):
            ScanConfig.of({"source": {"uris": ["x"]}, "out": "y", "detectors": {"ai": {**probe, "abstain": wrong}}})
    with pytest.raises(ModelError, match=r"detectors\.text\.abstain is for a classifier"):
        nsfwscan.scan(media, tmp_path / "o", detectors={"text": {"uri": "embedded:link", "abstain": [0.1, 0.9]}})
