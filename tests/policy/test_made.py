"""What a picture is made of, or made by, blocks nothing by itself."""

from __future__ import annotations

import pytest

from nsfwscan.policy.rules import load_policy, preset_names
from nsfwscan.schema import Decision

_HOW = ("synthetic", "c2pa.", "iptc.", "generator.", "screenshot", "exif.", "jpeg.")


@pytest.mark.parametrize("name", preset_names())
def test_no_preset_blocks_for_how_a_picture_was_made(name: str) -> None:
    """Neither a detector of AI pictures, nor a manifest, nor a screenshot: no rule that blocks asks for one."""
    for rule in load_policy(name).rules:
        assert rule.decision != Decision.BLOCK or not any(f"signals['{how}" in rule.when for how in _HOW)
