"""Page of `nsfwscan-train evaluate`: one HTML document that loads nothing and runs no script.

Names of files and checkpoints are hostile strings: whatever the template prints goes through `visible`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nsfwscan.reports.charts import Chart
from nsfwscan.reports.html import page_environment
from nsfwscan.text import redacted
from training.data.thumbnails import Thumbnail
from training.evaluate.audit import FalsePositive, shown
from training.evaluate.charts import pr_chart, reliability_chart, roc_chart
from training.evaluate.evaluation import shared_task
from training.evaluate.next_steps import steps

_PRESSING = ("bad", "warn", "good", "info")

Pictures = Mapping[int, Thumbnail | None]


def render(record: dict[str, Any], found: Sequence[FalsePositive], pictures: Pictures | None) -> str:
    """Return the page.

    Args:
        record: the content of `evaluation.json`.
        found: the audit.
        pictures: by number in the test split; None: the page holds none.
    """
    models = record["models"]
    return (
        page_environment(Path(__file__).parents[1] / "templates")
        .get_template("evaluate.html")
        .render(
            **record,
            task=shared_task(models),
            rows_of={task: _rows(record, task) for task in ("classes", "nsfw")},
            images_of={task: _images(models, task) for task in ("classes", "nsfw")},
            unscored=sum(side["count"] for model in models for side in model["unscored"].values()),
            steps=sorted(steps(record), key=lambda step: _PRESSING.index(step.tone)),
            roc=roc_chart("NSFW against safe: ROC", _curves(models, "nsfw", "nsfw")),
            pr=pr_chart("NSFW against safe: precision and recall", _curves(models, "nsfw", "nsfw")),
            by_class=_by_class(record),
            reliability=[(model["title"], _reliability(model)) for model in models],
            audits=_audits(models, found, pictures),
            pictures=pictures is not None,
        )
    )


def _rows(record: dict[str, Any], task: str) -> list[str]:
    """Return the classes of a task that any model knows, in the order of the first that does."""
    return list(dict.fromkeys(name for m in record["models"] if m[task] for name in m[task]["by_class"]))


def _images(models: Sequence[dict[str, Any]], task: str) -> dict[str, int]:
    """Count the scored test images of each class, as the first model that knows it has them."""
    known = [(name, found) for m in reversed(models) if m[task] for name, found in m[task]["by_class"].items()]
    return {name: found["images"] for name, found in known}


def _curves(models: Sequence[dict[str, Any]], task: str, name: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the curves of one class, of each model that has it."""
    nothing: dict[str, Any] = {"roc": {"points": []}, "pr": {"points": []}}
    return [(m["title"], m[task]["curves"].get(name, nothing) if m[task] else nothing) for m in models]


def _by_class(record: dict[str, Any]) -> list[tuple[str, Chart | None, Chart | None]]:
    """Draw both charts of each class of the data, where a model knows the classes."""
    models = record["models"]
    if not any(model["classes"] for model in models):
        return []
    made = [(name, _curves(models, "classes", name)) for name in record["data"]["labels"]]
    return [(name, roc_chart(f"{name}: ROC", c), pr_chart(f"{name}: precision and recall", c)) for name, c in made]


def _reliability(model: dict[str, Any]) -> list[Chart]:
    """Draw the charts of the classes, where the model knows them, and of the two sides."""
    tasks = (("classes", "Categories"), ("nsfw", "NSFW against safe"))
    made = [reliability_chart(title, model[task]["calibration"]) for task, title in tasks if model[task]]
    return [chart for chart in made if chart is not None]


def _audits(
    models: Sequence[dict[str, Any]], found: Sequence[FalsePositive], pictures: Pictures | None
) -> list[dict[str, Any]]:
    some = shown(found)
    return [
        {
            "title": model["title"],
            **model["false_positive_rate"],
            "shown": [_item(one, pictures or {}) for one in some if one.model == model["title"]],
        }
        for model in models
    ]


def _item(one: FalsePositive, pictures: Pictures) -> dict[str, Any]:
    wanted = ("label", "confidence", "nsfw_score", "decision", "format", "width", "height")
    facts = {name: one.row[name] for name in wanted}
    return {**facts, "uri": redacted(one.uri), "rank": one.rank, "picture": pictures.get(one.number)}
