"""Rules over what a run does not give are named once, with what brings it; seats may stay empty."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import nsfwscan
from nsfwscan.cli.main import main
from nsfwscan.config import ScanConfig
from nsfwscan.errors import PolicyError
from nsfwscan.policy.lint import lint
from nsfwscan.policy.rules import Policy, load_policy, parse_policy
from nsfwscan.schema import Category
from nsfwscan.workflows.doctor import examine
from nsfwscan.workflows.lacking import Given, lacking_notes, run_notes

FIVE = frozenset({Category.NEUTRAL, Category.DRAWINGS, Category.PORN, Category.HENTAI, Category.SEXY})
BINARY = frozenset({Category.NEUTRAL, Category.NSFW})
WHOLE: dict[str, Any] = {
    "detectors": {
        "nudity": {"uri": "pack:nudity"},
        "gore": {"uri": "pack:gore"},
        "text": {"uri": "embedded:text"},
        "link": {"uri": "embedded:link"},
    },
    "text": {"patterns": ["example:en"], "block": "hosts.txt"},
}
TOPICS = frozenset({"solicitation", "extortion", "self-harm", "contact-spam"})


def given(categories: frozenset[Category] = FIVE, topics: frozenset[str] = TOPICS, **settings: Any) -> Given:
    return Given(ScanConfig.of({"source": {"uris": ["x"]}, "out": "y", **settings}), categories, topics)


def policy(when: str, **further: Any) -> Policy:
    rules = [{"name": "r", "when": when, "decision": "review"}]
    return parse_policy({"name": "p", "version": "1", "rules": rules, "otherwise": {"decision": "allow"}, **further})


def test_the_whole_factory_lacks_nothing() -> None:
    """With its model, its four detectors and their lists, the factory says nothing, whatever its seats hold."""
    assert list(lacking_notes(load_policy("factory"), given(**WHOLE))) == []


@pytest.mark.parametrize(
    ("taken", "said"),
    [
        ("nudity", r"rules 'apparent-minor', 'exposed' ask for signals\['nudity\.…'\], .* pull nudity --accept AGPL-3\.0, "),
        ("gore", r"rule 'gore' asks for signals\['gore\.NSFL'\], .*: nsfwscan models pull gore, .* --detector gore$"),
        ("text", r"'solicitation', 'extortion', 'crisis', 'contact-spam' .*: scan with --detector text --patterns FILE$"),
        ("link", r"rule 'blocked-link' .*: scan with --detector link --block-hosts FILE$"),
    ],
)  # fmt: skip
def test_a_detector_that_the_factory_lacks(taken: str, said: str) -> None:
    """It is named once, with its rules and the command that brings it."""
    detectors = {name: one for name, one in WHOLE["detectors"].items() if name != taken}
    text = {**WHOLE["text"], **({"patterns": []} if taken == "text" else {"block": None} if taken == "link" else {})}
    [note] = lacking_notes(load_policy("factory"), given(detectors=detectors, text=text))
    assert re.search(said, note)


@pytest.mark.parametrize(
    ("when", "settings", "said"),
    [
        ("signals['mine.bad'] > 0.5", {}, "scan with --detector mine=MODEL, or let the policy do without it (seats: [mine])"),
        ("signals['mine.bad'] > 0.5", {"detectors": {"mine": {"uri": "s3://m/x"}}}, None),
        ("signals['boxes.mine'] > 2", {}, "scan with --detector mine=MODEL, or let the policy do without it (seats: [mine])"),
        ("signals['gore.NFSL'] > 0.5", WHOLE, "its detector gore says something else (nsfwscan models list)"),
        ("signals['nudity.FEET_EXPOSED'] > 0.5", WHOLE, None),
        ("coalesce(signals['text.grooming'], 0) > 0.5", WHOLE, "scan with --patterns FILE"),
        ("signals['text.solicitation.age'] = 1 and signals['text.chars'] > 5", WHOLE, None),
        ("signals['link.allowed'] > 0", WHOLE, "scan with --allow-hosts FILE"),
        ("text_language = 'de'", {}, "scan with --detector text"),
        ("link_host = 'a.example'", WHOLE, None),
        ("signals['screenshot'] > 0.5", {}, "scan with --screenshots"),
        ("signals['screenshot.chat'] > 0.5", {"decode": {"screenshots": True}}, None),
        ("signals['c2pa.valid.trainedAlgorithmicMedia'] = 1", {}, "scan with --c2pa"),
        ("signals['c2pa.trainedAlgorithmicMedia'] = 1", {}, None),
        ("signals['exif.camera_absent'] = 1", {"decode": {"provenance": False}}, "scan with decode.provenance: true"),
        ("signals['view.max'] > 0.9 and signals['file.after_end'] > 0", {"decode": {"provenance": False}}, None),
        ("signals['prefilter.nsfw'] > 0.5", {}, "scan with --cascade"),
        ("score_porn > 0.5 and match_kind is null and status = 'ok'", {}, None),
    ],
)  # fmt: skip
def test_what_a_user_asks_for(when: str, settings: dict[str, Any], said: str | None) -> None:
    """Detectors, their labels, lists, options and columns: what a run gives is passed over, of the rest it says how to
    get it."""
    notes = list(lacking_notes(policy(when), given(**settings)))
    assert [note.partition("which this run lacks: ")[2] for note in notes] == ([said] if said else [])
    seated = policy(when, seats=["mine", "gore", "text", "link", "screenshot", "c2pa", "exif", "prefilter"])
    assert list(lacking_notes(seated, given(**settings))) == []


def test_a_category_that_the_model_lacks() -> None:
    """A rule over scores that a binary model never gives is named."""
    [note] = lacking_notes(load_policy("five-class"), given(BINARY))
    assert "score_porn" in note and "its model has no such category" in note
    for preset in ("open-nsfw", "binary"):
        assert list(lacking_notes(load_policy(preset), given(BINARY))) == []


def test_seats_decide_nothing() -> None:
    """They are no part of the policy's digest; one that no rule asks for, or that is no name, is wrong."""
    when = "signals['mine.bad'] > 0.5"
    assert policy(when).identity == policy(when, seats=["mine"]).identity
    assert list(lint(policy(when, seats=["mine", "yours"]))) == ["seat 'yours' is asked for by no rule"]
    with pytest.raises(PolicyError, match="seats"):
        policy(when, seats=["Mine!"])


@pytest.mark.parametrize(
    ("when", "detectors", "said"),
    [
        ("signals['gore.NSFL'] > 0.1", ("nudity",), "nsfwscan models pull gore, then scan with --detector gore"),
        ("signals['gore.NSFL'] > 0.1", ("gore", "nudity"), None),
        ("nsfw_score > 0.05 or signals['screenshot'] > 0.5", ("nudity",), "scan with --screenshots"),
        ("score_porn > 0.1 and width > 100", ("nudity",), None),
    ],
)
def test_a_gate_that_asks_for_what_is_not_there(when: str, detectors: tuple[str, ...], said: str | None) -> None:
    """It would let nothing through by that, and nobody would know; what comes before it, it may ask for."""
    named = {name: {"uri": f"pack:{name}", **({"when": when} if name == "nudity" else {})} for name in detectors}
    notes = list(run_notes(load_policy("five-class"), [], given(detectors=named)))
    assert [note.partition("which this run lacks: ")[2] for note in notes] == ([said] if said else [])
    assert all(note.startswith("the gate of the detector nudity asks for signals[") for note in notes)


def test_a_shadow_policy_that_asks_for_what_is_not_there() -> None:
    """It is named, and what the policy itself lacks is said once."""
    mine, yours = policy("signals['mine.bad'] > 0.5"), policy("signals['yours.bad'] > 0.5")
    [own, shadow] = run_notes(mine, [mine, yours], given())
    assert [own] == list(lacking_notes(mine, given()))
    assert shadow == f"shadow policy {yours.identity}: {next(lacking_notes(yours, given()))}"


def test_a_scan_says_it_of_gates_and_shadow_policies(tmp_path: Path) -> None:
    """As it begins, in its record, and `--explain` and `doctor` before it."""
    (tmp_path / "media").mkdir()
    Image.fromarray(np.full((30, 40, 3), 90, np.uint8)).save(tmp_path / "media" / "a.png")
    gated = {"uri": "embedded:open-nsfw", "when": "signals['gore.NSFL'] > 0.1"}
    given_to: dict[str, Any] = {"detectors": {"again": gated}, "shadow_policies": ["five-class"]}
    source, out = str(tmp_path / "media"), str(tmp_path / "out")
    result = nsfwscan.scan(source, out, run_id="1", **given_to)
    [warning] = [one for one in result.record.warnings if one.name == "lacking"]
    notes = list(run_notes(load_policy("open-nsfw"), [load_policy("five-class")], Given.of_record(result.record)))
    assert (warning.count, warning.example) == (2, notes[0]) and notes[0].startswith("shadow policy five-class@")
    plan = nsfwscan.explain(source, out, **given_to)
    assert [note for _, note in plan.notes] == notes
    config = ScanConfig.of({"source": {"uris": [source]}, "out": out, **given_to})
    assert [one.detail for one in examine(config) if one.detail in notes] == notes


def test_every_command_says_it(tmp_path: Path) -> None:
    """The scan's record and page, `--explain`, `policy check --on`, `replay` and `doctor` have the same sentence."""
    (tmp_path / "media").mkdir()
    Image.fromarray(np.full((30, 40, 3), 90, np.uint8)).save(tmp_path / "media" / "a.png")
    source, out = str(tmp_path / "media"), str(tmp_path / "out")
    result = nsfwscan.scan(source, out, run_id="1", policy="factory")
    [warning] = [one for one in result.record.warnings if one.name == "lacking"]
    notes = list(lacking_notes(load_policy("factory"), Given.of_record(result.record)))
    assert len(notes) == warning.count == 5 and notes[0] == warning.example
    plain = nsfwscan.scan(source, out, run_id="2")
    assert not [one for one in plain.record.warnings if one.name == "lacking"]
    for command in (
        ["policy", "check", "factory", "--on", f"{out}/runs/1"],
        ["policy", "replay", f"{out}/runs/2", "--policy", "factory"],
        ["scan", source, "--out", out, "--policy", "factory", "--explain"],
    ):
        said = CliRunner().invoke(main, command).output
        assert all(note in said for note in notes), said
    config = ScanConfig.of({"source": {"uris": [source]}, "out": out, "policy": "factory"})
    assert [one.detail for one in examine(config) if one.detail in notes] == notes
