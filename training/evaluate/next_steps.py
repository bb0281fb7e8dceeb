"""Say what to do after an evaluation, from the content of `evaluation.json`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nsfwscan.reports.html import Step, percent
from nsfwscan.text import plural

_FEW = 100
"""With fewer test images the recall of a class is known to ± 10 points at best."""
_MISCALIBRATED = 0.05
"""Above this expected calibration error confidence should not be taken for a probability."""
_CONFUSED = 0.05
"""Share of a class's images that are taken for one other class."""


def steps(record: dict[str, Any]) -> Iterator[Step]:
    """Yield what to do next."""
    if record["comparison"]:
        yield _verdict(record)
    several = len(record["models"]) > 1
    for model in record["models"]:
        about = f"{model['title']}: " if several else ""
        yield from _about_leak(model, about)
        yield from _about_unscored(model, about)
        yield from _about_threshold(model, about)
        yield from _about_calibration(model, about)
        yield from _about_confusions(model, about)
        yield from _about_false_positives(model, about)
    yield from _about_size(record)


def _about_leak(model: dict[str, Any], about: str) -> Iterator[Step]:
    if not model["held_out"]["is_known"]:
        yield Step(
            "warn",
            _titled(about, "it may have learned from these images"),
            f"As far as can be told: {model['held_out']['why']}. If it has seen test images, the figures flatter it. "
            "Evaluate it on images that it cannot have seen, or with the data and the seed that it was trained with.",
        )


def _about_unscored(model: dict[str, Any], about: str) -> Iterator[Step]:
    count = sum(side["count"] for side in model["unscored"].values())
    if count:
        yield Step(
            "warn",
            _titled(about, f"{plural(count, 'image')} without a score"),
            "They are in no figure. What happened is below, and in `predictions.csv`; a scan would leave them "
            "undecided, too.",
        )


def _about_threshold(model: dict[str, Any], about: str) -> Iterator[Step]:
    point = next(p for p in model["operating_points"] if p["kind"] == "fpr")
    chosen = point["chosen"]
    if chosen is None or not chosen["on_validation"]["recall"]["value"]:
        yield Step(
            "info",
            _titled(about, "no threshold could be chosen"),
            "Validation has no NSFW images or no safe ones, or its highest scores are those of safe ones.",
        )
        return
    test = chosen["on_test"]
    yield Step(
        "info",
        _titled(about, "a threshold for at most 1% of the safe images"),
        f'In a policy: `when: "nsfw_score >= {chosen["threshold"]}"`. On the test images that finds '
        f"{percent(test['recall']['value'])} of the NSFW ones ({_range(test['recall'])}) and flags "
        f"{percent(test['false_positive_rate']['value'])} of the safe ones ({_range(test['false_positive_rate'])}).",
    )


def _about_calibration(model: dict[str, Any], about: str) -> Iterator[Step]:
    found = (model["classes"] or model["nsfw"])["calibration"]
    before, after = found["before"], found["after"]
    if before is None or before["ece"] < _MISCALIBRATED:
        return
    too = "high" if before["confidence"] > before["accuracy"] else "low"
    helps = ""
    if after is not None and after["ece"] < before["ece"]:
        helps = f" Dividing its logits by {found['temperature']:.2f} would bring the error to {after['ece']:.3f}."
    yield Step(
        "warn",
        _titled(about, f"its confidence is too {too}"),
        f"Confidence and accuracy are {before['ece']:.3f} apart on average (ECE).{helps} Take thresholds from measured "
        "rates, as below, not from the meaning of a probability.",
    )


def _about_confusions(model: dict[str, Any], about: str) -> Iterator[Step]:
    if model["classes"] is None:
        return
    names, counts = model["classes"]["confusion"]["labels"], model["classes"]["confusion"]["counts"]
    pairs = [
        (row[j], names[i], names[j], sum(row))
        for i, row in enumerate(counts)
        for j in range(len(names))
        if i != j and row[j] > max(1, _CONFUSED * sum(row))
    ]
    if pairs:
        count, truth, taken, total = max(pairs)
        yield Step(
            "info",
            _titled(about, f"most often, {truth} is taken for {taken}"),
            f"{count:,} of {plural(total, 'image')}. Look at them in `predictions.csv`: where the labels are wrong, "
            "correct them; where they are right, the class needs more such images.",
        )


def _about_false_positives(model: dict[str, Any], about: str) -> Iterator[Step]:
    found = model["false_positive_rate"]
    if found["false_positives"]:
        yield Step(
            "info",
            _titled(about, f"{found['false_positives']:,} of {plural(found['neutral'], 'neutral image')} called NSFW"),
            "Look through them below, the most confident first: some may be labelled wrong; what the others have in "
            "common is what to add to the training images.",
        )


def _about_size(record: dict[str, Any]) -> Iterator[Step]:
    few = [f"{name} ({count:,})" for name, count in record["data"]["counts"]["test"].items() if count < _FEW]
    if few:
        yield Step(
            "info",
            f"Fewer than {_FEW} test images of {', '.join(few)}",
            "The intervals say how much that leaves open. Collect more, or raise `--test-share` and train again.",
        )


def _verdict(record: dict[str, Any]) -> Step:
    first, second = (model["title"] for model in record["models"])
    by_class = record["comparison"]["classes"]
    found, what = (by_class, "category") if by_class else (record["comparison"]["nsfw"], "side, NSFW or safe,")
    gain, p_value = found["difference"], found["p_value"]
    if p_value is None or p_value >= 0.05:
        chance = "" if p_value is None else f" (p = {p_value:.2g})"
        return Step(
            "info",
            f"{first} and {second} cannot be told apart",
            f"They get the {what} of nearly as many images right{chance}: what differs may be chance. More test images "
            "would tell.",
        )
    better, worse = (first, second) if gain["value"] > 0 else (second, first)
    return Step(
        "good",
        f"{better} is better than {worse}",
        f"By {abs(gain['value']) * 100:.1f} points: it gets the {what} right of more images than chance explains "
        f"(p = {p_value:.2g}).",
    )


def _titled(about: str, title: str) -> str:
    return about + title if about else title[0].upper() + title[1:]


def _range(estimate: dict[str, Any]) -> str:
    return f"{percent(estimate['low'])} to {percent(estimate['high'])}"
