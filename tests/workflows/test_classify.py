"""A few images at once, without Ray: a verdict for each, in order."""

from __future__ import annotations

from pathlib import Path

import pytest

import nsfwscan
from nsfwscan.demo.media import UPLOADS, DemoObject
from nsfwscan.errors import ConfigError, ModelError, PolicyError
from nsfwscan.workflows.classify import BORDERLINE_MARGIN, Verdict, _verdict
from tests.runs.rows import report, staged_row

Demo = tuple[Path, list[DemoObject]]


def test_every_image_has_its_verdict_in_order(demo: Demo) -> None:
    """Good, broken, foreign and missing files each end in one verdict, in the order asked for, repeats included."""
    names = ["neutral/chelsea.jpg", "broken/notes.jpg", "absent.jpg", "broken/garbage.jpg", "neutral/chelsea.jpg"]
    verdicts = nsfwscan.classify([demo[0] / name for name in names])
    assert [v.uri for v in verdicts] == [str(demo[0] / name) for name in names]
    assert [v.status for v in verdicts] == ["ok", "unsupported", "not_found", "decode_error", "ok"]
    assert verdicts[0] == verdicts[-1]
    good, bad = verdicts[0], verdicts[1]
    assert good.scores[0][0] == "neutral" and good.scores[0][1] > good.scores[1][1]
    assert sum(score for _, score in good.scores) == pytest.approx(1, abs=1e-5)
    assert good.nsfw_score == dict(good.scores)["nsfw"]
    assert (good.decision, good.rule, good.borderline, good.error) == ("allow", "otherwise", False, None)
    assert good.model is not None and good.model.startswith("open-nsfw@")
    assert (bad.scores, bad.nsfw_score, bad.model, bad.decision, bad.rule) == (
        (),
        None,
        None,
        "undetermined",
        "no-image",
    )
    assert bad.error is not None and "plain text" in bad.error
    assert bad.policy == good.policy


def test_one_image_may_be_given_alone(demo: Demo) -> None:
    """A path or a string is one image, not a sequence of letters."""
    path = demo[0] / UPLOADS / "shapes" / "one_pixel.png"
    assert nsfwscan.classify(path) == nsfwscan.classify(str(path)) == nsfwscan.classify([path])


def test_no_images_no_verdicts() -> None:
    """Nothing asked, nothing answered."""
    assert nsfwscan.classify([]) == []


def test_more_images_than_fit_at_once(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are taken a few at a time, and the verdicts do not depend on how many."""
    names = [f"{UPLOADS}/names/{name}" for name in ("no_extension", ".hidden.jpg", "number #1.jpg")]
    together = nsfwscan.classify([demo[0] / name for name in names])
    monkeypatch.setattr("nsfwscan.workflows.classify._AT_ONCE", 2)
    assert nsfwscan.classify([demo[0] / name for name in names]) == together


@pytest.mark.parametrize(
    ("score", "borderline"), [(0.05, False), (0.19, False), (0.25, True), (0.45, True), (0.55, True), (0.95, False)]
)
def test_close_calls_are_borderline(score: float, borderline: bool) -> None:
    """A call is borderline where the two best categories are close, or where the policy wants a person to look."""
    [row] = report([staged_row("/a", nsfw_score=score)]).to_pylist()
    verdict = _verdict(row)
    assert isinstance(verdict, Verdict)
    assert verdict.borderline == borderline
    assert (abs(1 - 2 * score) < BORDERLINE_MARGIN) <= verdict.borderline


def test_options_reach_the_stages(demo: Demo, tmp_path: Path) -> None:
    """Limits and policy are those that were asked for."""
    policy = tmp_path / "strict.yaml"
    policy.write_text(
        "version: 1\nrules:\n  - {name: all, when: 'nsfw_score >= 0', decision: block}\notherwise: {decision: allow}\n"
    )
    path = demo[0] / "neutral/chelsea.jpg"
    [strict] = nsfwscan.classify(path, policy=str(policy))
    assert (strict.decision, strict.rule, strict.policy[:7]) == ("block", "all", "strict@")
    [small] = nsfwscan.classify(path, decode={"max_pixels": 100})
    assert small.status == "too_large"
    [short] = nsfwscan.classify(path, read={"max_bytes": 100})
    assert short.status == "too_large"


def test_a_broken_set_up_raises(demo: Demo) -> None:
    """A model, policy or key that is not there is an error of its own kind."""
    path = demo[0] / "neutral/chelsea.jpg"
    with pytest.raises(ModelError, match="no such model directory"):
        nsfwscan.classify(path, model={"uri": "/absent"})
    with pytest.raises(PolicyError, match="cannot read the policy"):
        nsfwscan.classify(path, policy="/absent.yaml")
    with pytest.raises(ConfigError, match=r"decode\.max_pixel"):
        nsfwscan.classify(path, decode={"max_pixel": 1})
    with pytest.raises(ModelError, match="no preset 'absent'"):
        nsfwscan.classify(path, preset="absent")
