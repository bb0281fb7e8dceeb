"""Sentences on a run's copies, filters and models: what they saved, what they missed, and what they cost.

The terminal and the summary page show them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nsfwscan.runs.effects import share_with_interval
from nsfwscan.runs.record.cost import ModelTime
from nsfwscan.runs.record.figures import CascadeRecord, DetectorRecord, DuplicatesRecord, GateRecord, MediaRecord
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.text import duration


def describe_effects(record: RunRecord) -> Iterator[tuple[str, str]]:
    """Yield (subject, sentence) on copies and near-duplicates, filters and models, where there are any."""
    times = record.model_times
    yield from _same(record.duplicates)
    if record.config.cascade.enabled:
        yield from _filters(record.cascade, times.get("prefilter"))
    yield from describe_media(record.media or {})
    for detector in record.detectors or ():
        yield from _detector(detector)
    yield from _people(record)
    if len(times) > 1:
        yield "models", "; ".join(f"{name} {_each(time)} an image" for name, time in times.items())


def describe_media(media: Mapping[str, MediaRecord]) -> Iterator[tuple[str, str]]:
    """Yield a sentence on what is looked at of animations and videos, and what that costs, where there are any."""
    for name, (subject, one, several) in _SEVERAL.items():
        if (found := media.get(name)) is None:
            continue
        rate = found.duration_s / found.decode_s if found.decode_s else 0.0
        seen = f"{_counted(found.views, 'view', 'views')} of {_counted(found.frames, 'frame', 'frames')} looked at"
        cost = f"{duration(found.decode_s)} of a core, {rate:,.1f} s of {name} a second"
        yield subject, f"{_counted(found.objects, one, several)}: {seen}, {cost}"
    objects, frames = (sum(getattr(one, name) for one in media.values()) for name in ("closer", "closer_frames"))
    if objects:
        seen = f"{_counted(objects, 'object', 'objects')} looked at again, in {_counted(frames, 'frame', 'frames')}"
        yield "closer", f"{seen}, {duration(sum(one.closer_s for one in media.values()))} of a core"


_SEVERAL = {"animation": ("animated", "animation", "animations"), "video": ("videos", "video", "videos")}


def _people(record: RunRecord) -> Iterator[tuple[str, str]]:
    """Say what people are spared, and what they are expected to open, once they gave verdicts."""
    verdicts, rows = record.verdicts, record.summary.rows
    if verdicts is None or not rows:
        return
    queued = sum(record.summary.queue.values())
    yield (
        "people",
        f"{rows - queued:,} of {_counted(rows, 'object', 'objects')} settled without one, {queued:,} in queues",
    )
    opened, low, high = share_with_interval(verdicts.opened or 0, verdicts.given or 0)
    if opened is None or low is None or high is None:
        return
    unopened = f"{1 - opened:.0%} ({1 - high:.0%} to {1 - low:.0%}) unopened"
    items = record.summary.items
    each = [1000 * (queued if items is None else items) / rows * share for share in (opened, low, high)]
    most = "at most " if items is None else ""  # an older record does not say how many items its objects are
    expected = f"{most}{each[0]:,.1f} ({each[1]:,.1f} to {each[2]:,.1f}) opens expected of a thousand objects"
    yield "opens", f"{_counted(verdicts.given or 0, 'verdict', 'verdicts')}, {unopened}; {expected}"
    if verdicts.opens is not None:
        hours = f"in {duration(3600 * (verdicts.open_hours or 0.0))} of review"
        yield "exposure", f"{_counted(verdicts.opens, 'original', 'originals')} opened {hours}, as the pages counted"


def _same(found: DuplicatesRecord) -> Iterator[tuple[str, str]]:
    if found.copies:
        spared = f"; the model was spared {found.reused:,} of them" if found.reused else ""
        copies, others = (
            _counted(found.copies, "object is a copy", "objects are copies"),
            _counted(found.contents),
        )
        yield "copies", f"{copies} of {others}{spared}"
    if found.clusters:
        among = "" if found.looked_for_all else " (there are so many contents that only flagged ones were compared)"
        clusters = _counted(found.clusters, "cluster", "clusters")
        yield "alike", f"{found.clustered:,} objects in {clusters} of near-duplicates{among}"


def _filters(found: CascadeRecord, light: ModelTime | None) -> Iterator[tuple[str, str]]:
    saved = "" if found.seconds_saved is None else f", which saved {duration(found.seconds_saved)} of the model"
    taken = f" and took {duration(light.seconds)} of the prefilter" if saved and light else ""
    contents = _counted(found.settled, "content", "contents")
    yield "filters", f"settled {contents}, left {found.forwarded:,} to the model{saved}{taken}"
    if not found.settled and not found.audit_sample:
        return
    if found.miss_rate_interval is None or found.missed is None:
        yield "missed", "filter miss rate: unknown (set cascade.audit_sample above 0)"
        return
    low, high = found.miss_rate_interval
    missed = [f"{count:,.0f}" for count in found.missed]
    yield (
        "missed",
        f"{found.misses:,} of {found.audit_sample:,} settled images that the model saw all the same are flagged: "
        f"{low:.2%} to {high:.2%} of what was settled ({found.confidence:.0%} confidence), so {missed[0]} to "
        f"{missed[1]} of the others",
    )


_NOT_LOOKED_AT = {
    "matched": "known to a bank",
    "unreadable": "unreadable",
    "gate": "held back by its gate",
    "no_score": "without an answer",
}


def _detector(found: DetectorRecord) -> Iterator[tuple[str, str]]:
    others = ", ".join(f"{count:,} {_NOT_LOOKED_AT.get(why, why)}" for why, count in found.not_looked_at.items())
    rows = found.looked_at + sum(found.not_looked_at.values())
    boxes = f"; {_counted(found.boxes, 'box', 'boxes')}, in detections/" if found.boxes else ""
    lines = f"; {_counted(found.lines, 'line', 'lines')}, in text/" if found.lines else ""
    vectors = f"; {_counted(found.vectors, 'vector', 'vectors')}, in embeddings/" if found.vectors else ""
    yield (
        "detector",
        f"{found.name} looked at {found.looked_at:,} of {rows:,}{others and f', not at {others}'}"
        f"{boxes}{vectors}{lines}",
    )
    if found.gate is not None:
        yield "gate", _gate(found.name, found.gate)


def _gate(name: str, gate: GateRecord) -> str:
    saved = "" if not gate.seconds_saved else f", which saved {duration(gate.seconds_saved)}"
    contents = _counted(gate.let_through + gate.held_back, "content", "contents")
    head = f"{name} wants {gate.let_through:,} of {contents} ({gate.when}){saved}; "
    if gate.miss_rate_interval is None or gate.missed is None:
        return head + (
            "what it missed is unknown: its shadow sample is empty" if gate.held_back else "it held none back"
        )
    low, high = gate.miss_rate_interval
    missed = f"{gate.missed[0]:,.0f} to {gate.missed[1]:,.0f}"
    return head + (
        f"of {gate.shadow_sample:,} others that it looked at all the same, {gate.misses:,} are decided otherwise by "
        f"its word: {low:.2%} to {high:.2%} ({gate.confidence:.0%} confidence), so {missed} of the rest"
    )


def _counted(count: int, one: str = "other", several: str = "others") -> str:
    """Render a number with the singular or plural of its noun."""
    return f"{count:,} {one if count == 1 else several}"


def _each(time: ModelTime) -> str:
    return "0 ms" if time.seconds_each is None else f"{time.seconds_each * 1000:,.1f} ms"
