"""The policy that an evaluation writes: its thresholds, where they come from, and when there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nsfwscan.errors import NsfwscanError
from nsfwscan.policy.lint import lint
from nsfwscan.policy.rules import load_policy
from tests.later import later
from training.evaluate.policy_file import policy_text

operating = later("training.evaluate.operating")


def record(nsfw: int = 300, safe: int = 500) -> dict[str, Any]:
    """An evaluation of a model that is right but for its middle."""
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.beta(5, 1, nsfw), rng.beta(1, 5, safe)])
    flags = operating.Flags(scores, np.arange(nsfw + safe) < nsfw)
    model = {
        "identity": "vit@0123456789abcdef",
        "operating_points": operating.operating_points(flags, flags),
        "nsfw": {"images": nsfw + safe},
    }
    counts = {"validation": {"porn": nsfw, "neutral": safe}}
    data = {"uris": ["s3://labelled/"], "fingerprint": "ab12", "counts": counts}
    return {"made_at": "2026-11-26T03:00:00+00:00", "nsfwscan": "0.1.0", "models": [model], "data": data}


def test_a_policy_with_its_reasons(tmp_path: Path) -> None:
    """It loads without a finding, decides by both thresholds, and names checkpoint, data and what was measured."""
    made = record()
    block, review = (point["chosen"] for point in made["models"][0]["operating_points"][:2])
    path = tmp_path / "measured.yaml"
    path.write_text(policy_text(made))
    policy = load_policy(str(path))
    assert policy.name == "measured" and list(lint(policy)) == []
    rules = {rule.name: rule.when for rule in policy.rules}
    assert rules["explicit"] == f"nsfw_score >= {max(block['threshold'], review['threshold'])}"
    assert rules["borderline"] == f"nsfw_score >= {min(block['threshold'], review['threshold'])}"
    said = path.read_text()
    recall = block["on_test"]["recall"]
    for part in ("vit@0123456789abcdef", "s3://labelled/", "ab12", "300 NSFW and 500 safe", f"{recall['value']:.2%}",
                 f"({recall['low']:.2%} to {recall['high']:.2%})", "2026-11-26"):  # fmt: skip
        assert part in said


@pytest.mark.parametrize(("nsfw", "safe"), [(99, 500), (300, 99), (0, 500)])
def test_too_few_images_make_no_policy(nsfw: int, safe: int) -> None:
    """Under a hundred images of a side no threshold is worth writing down, and the message says how many there are."""
    with pytest.raises(NsfwscanError, match=f"{nsfw:,} NSFW and {safe:,} safe validation images, and 100 of each"):
        policy_text(record(nsfw, safe))
