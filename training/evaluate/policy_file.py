"""Write a policy with the thresholds of an evaluation, and where they come from.

A threshold that a handful of images decide is a guess: fewer validation images than `LEAST` of either side, or an aim
that no threshold reaches, is a `NsfwscanError`.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import yaml

from nsfwscan.errors import NsfwscanError
from nsfwscan.schema import NSFW_CATEGORIES
from nsfwscan.text import printable

LEAST = 100
"""Validation images, safe and NSFW ones each: one in a hundred is what the aims are about, so fewer cannot say it."""


def policy_text(record: dict[str, Any]) -> str:
    """Return the policy file of the first model in `evaluation.json`: it blocks from the threshold for 1 % false
    positives on, and reviews from that for 99 % found on. Raises NsfwscanError: see the module."""
    model, counts = record["models"][0], record["data"]["counts"]["validation"]
    nsfw = sum(count for category, count in counts.items() if category in NSFW_CATEGORIES)
    safe = sum(counts.values()) - nsfw
    block, review = (_chosen(model, kind, target) for kind, target in (("fpr", 0.01), ("recall", 0.99)))
    if min(nsfw, safe) < LEAST or block is None or review is None:
        raise NsfwscanError(
            f"no policy is written: its thresholds would rest on {nsfw:,} NSFW and {safe:,} safe validation images, "
            f"and {LEAST} of each are needed; label more, or give validation a larger share. All figures are written"
        )
    low, high = sorted((review["threshold"], block["threshold"]))
    bounds = {"explicit": f"nsfw_score >= {high}", "borderline": f"nsfw_score >= {low}"}
    bounds["spike"] = f"signals['view.max'] >= {high}"
    policy: dict[str, Any] = yaml.safe_load(files("nsfwscan.policy").joinpath("presets/binary.yaml").read_bytes())
    policy["version"] = record["made_at"][:10]
    policy["description"] = f"Thresholds measured for {model['identity']}; the comments of the file say how."
    policy["made_for"] = {"model": [model["identity"].rpartition("@")[2]]}
    kept = [rule for rule in policy["rules"] if rule["name"] != "borderline" or low < high]
    policy["rules"] = [rule | {"when": bounds.get(rule["name"], rule["when"])} for rule in kept]
    lines = [
        f"Written by nsfwscan-train evaluate (nsfwscan {record['nsfwscan']}), {record['made_at']}.",
        f"For {model['identity']} alone: other weights have other thresholds.",
        f"Chosen on {nsfw:,} NSFW and {safe:,} safe validation images of {', '.join(record['data']['uris'])}",
        f"(fingerprint {record['data']['fingerprint']}).",
        f"Shares are of {model['nsfw']['images']:,} test images, with intervals of 95 %:",
        f"  for at most 1 % of the safe images:   {_about(block)}",
        f"  for at least 99 % of the NSFW images: {_about(review)}",
    ]
    return "".join(f"# {printable(line)}\n" for line in lines) + yaml.safe_dump(policy, sort_keys=False, width=120)


def _chosen(model: dict[str, Any], kind: str, target: float) -> dict[str, Any] | None:
    found = (p["chosen"] for p in model["operating_points"] if (p["kind"], p["target"]) == (kind, target))
    chosen: dict[str, Any] | None = next(found)
    return chosen


def _about(chosen: dict[str, Any]) -> str:
    test = chosen["on_test"]
    recall, wrong = (_share(test[name]) for name in ("recall", "false_positive_rate"))
    return f"nsfw_score >= {chosen['threshold']}: finds {recall} of the NSFW, flags {wrong} of the safe images"


def _share(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:.2%} ({estimate['low']:.2%} to {estimate['high']:.2%})"
