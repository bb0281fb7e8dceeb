"""Text for the terminal: the result of a scan, a plan, a classified image, or a run.

Names come from strangers: their control characters are shown, not sent to the terminal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nsfwscan.reports.effects_text import describe_effects, describe_media
from nsfwscan.reports.query import committed_query, is_shown
from nsfwscan.runs.differences import describe_difference
from nsfwscan.runs.drift import describe_drift
from nsfwscan.runs.finding import Kind
from nsfwscan.runs.golden import describe_golden
from nsfwscan.runs.overview import Overview
from nsfwscan.runs.pins import describe_pin_use
from nsfwscan.runs.plan import describe_actions
from nsfwscan.runs.record.cost import CostRecord, Timings
from nsfwscan.runs.record.figures import ErrorRecord, MatchingRecord, TruthRecord, WarningRecord
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.schema import SIGNAL_GROUPS, Accounted, Change
from nsfwscan.sources.truth_join import Meeting
from nsfwscan.text import duration, money, plural, printable, size
from nsfwscan.warning import SENTENCES

if TYPE_CHECKING:
    from nsfwscan.workflows.classify import Classification
    from nsfwscan.workflows.cost import Cost
    from nsfwscan.workflows.explain import Expected, Explanation
    from nsfwscan.workflows.scan import ScanResult
    from nsfwscan.workflows.verify import Verified

_OVERVIEW = "decision, rule, count(*) AS objects"
_BAR = 30
_FLOODS = 10
"""Largest number of flooding entries that are named; the rest are counted."""


def describe_scan(result: ScanResult) -> str:
    """Render a committed run: counts, changes, errors, warnings, cost, the report's URI, and a query over it."""
    record = result.record
    summary = record.summary
    query = committed_query(record, "report", _OVERVIEW, "GROUP BY ALL ORDER BY objects DESC", at=result.uri)
    head = "already committed" if result.already_committed else "committed"
    lines = [
        f"{head}: run {result.run_id}" + (f" — {record.reason}" if record.reason else ""),
        *([""] * bool(record.pin)),
        *map(printable, describe_pin_use(record.pin)),
        *describe_differences(record),
        "",
        f"  {describe_balance(record)}",
        f"  decisions  {describe_counts(summary.decision)}",
        f"  labels     {describe_counts(summary.label)}",
        f"  status     {describe_counts(summary.status)}",
        *_banks(record),
        *(f"  {subject:<10} {sentence}" for subject, sentence in describe_effects(record)),
        *([f"  golden     {printable(describe_golden(record.golden))}"] if record.golden else []),
        *(f"  stands out {printable(said)}" for said in describe_drift(record.drift)),
        *_truth(summary.truth, record.plan.truth),
        *describe_since(record),
        *_errors(summary.errors),
        *_warnings(record.warnings),
        "",
        f"  {_speed(record)}",
        *_cost(record.cost, record.timings),
        f"  report   {printable(result.uri)}",
        f"  summary  {printable(result.uri)}/summary.html",
        *([f"  digest   {result.sha256} (of run.json: keep it for `verify --expect`)"] if result.sha256 else []),
        *(["", "Open it in DuckDB:", "", *(f"  {line}" for line in query)] if query else []),
        *([] if is_shown(result.uri) else ["  its path looks like it holds a secret: no statement to paste is shown"]),
    ]
    return "\n".join(lines)


CHANGES = {
    Change.DELETED: "deleted",
    Change.NEWLY_FLAGGED: "newly flagged",
    Change.CLEARED: "no longer flagged",
    Change.NEW: "new, not flagged",
    Change.DECIDED: "decided otherwise",
    Change.ROUTED: "queued or rated otherwise",
    Change.CONTENT: "other bytes, same outcome",
}
"""What became of objects, in words."""


def describe_since(record: RunRecord) -> list[str]:
    """Return lines on what changed since the previous run; none without one."""
    if not record.previous_runs:
        return []
    source, changes = record.config.source, record.changes.model_dump()
    causes, words = changes.pop("causes", {}), {word: said for word, said in CHANGES.items() if word in changes}
    if source.limit or source.include or source.exclude:
        del words[Change.DELETED]  # an object that was not listed may still exist
    found = "  ".join(f"{word} {changes[change]:,}" for change, word in words.items())
    where = ", in changes/" if any(changes.values()) else ""
    by_cause = f"  by cause   {describe_counts(causes)}"
    delta = [
        "  delta      the report holds what was looked at or decided differently; earlier ones hold the other rows"
    ]
    return [
        f"  since      {record.previous_runs[0]}: {describe_actions(record.plan.actions)}",
        f"  changes    {found}{where}",
        *([by_cause] if causes else []),
        *(delta if record.is_delta else []),
    ]


def describe_differences(record: RunRecord) -> list[str]:
    """Return lines on settings that are others than in the newest previous run; none where all are the same."""
    if not record.differences_to_tell or not record.previous_runs:
        return []
    head = f"settings are others than in run {record.previous_runs[0]}:"
    return ["", head, *(f"  {printable(describe_difference(one))}" for one in record.differences_to_tell)]


def describe_balance(record: RunRecord) -> str:
    """Return `85 listed = 70 scored + 10 duplicate + 5 errored`."""
    terms = " + ".join(f"{getattr(record.balance, name):,} {name}" for name in Accounted)
    again = record.plan.repeated
    return f"{record.balance.listed:,} listed = {terms}" + (
        f"  ({again:,} listed again, counted once)" if again else ""
    )


def describe_counts(counts: Mapping[str, int]) -> str:
    """Return `allow 70  review 2`."""
    return "  ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def _truth(truth: TruthRecord, met: Meeting | None) -> list[str]:
    """Return a line on the false positive rate, and on how much of the truth it rests."""
    suspected = f"; {truth.suspected:,} suspected, in false_positives/" if truth.suspected else ""
    if truth.false_positive_rate is None:
        return [
            "  truth      none given: to measure false positives, use class folders (…/neutral/…) or --truth FILE"
            + suspected
            if met is None
            else f"  truth      no neutral object has a label: no false positive rate{describe_truth(met)}{suspected}"
        ]
    found = f"{truth.false_positives:,} of {truth.neutral:,} neutral images ({truth.false_positive_rate:.1%})"
    return [f"  false positives  {found} carry an NSFW label{describe_truth(met)}{suspected}"]


def describe_truth(met: Meeting | None) -> str:
    """Return the end of a sentence: how many objects of the truth file were not listed; empty if all were listed."""
    if met is None or not met.not_listed:
        return ""
    return f"; truth was given for {met.given:,} objects, {met.not_listed:,} of them were not listed"


def _banks(record: RunRecord) -> list[str]:
    """Return lines on matches by bank, malformed bank entries, and escalated objects."""
    matched = record.summary.match_bank
    lines = [f"  matches    {describe_counts(matched)}"] if record.banks or matched else []
    for bank in record.banks:
        if bank.malformed:
            example = printable(bank.examples[0])
            lines.append(f"  bank       {bank.name}: {bank.malformed:,} malformed entries, e.g. {example}")
    lines += _matching(record.matching)
    if escalated := record.rows_in("escalations"):
        lines.append(f"  escalated  {plural(escalated, 'illegal match', 'illegal matches')}, in escalations/")
    return lines


def _matching(found: MatchingRecord | None) -> list[str]:
    """Return lines on `nsfwscan match`: the objects it looked at, those without a hash, and the entries that flood."""
    if found is None:
        return []
    without = "".join(f"; {n:,} have no {kind}" for kind, n in found.without.items())
    lines = [f"  looked at  {found.objects:,} objects, by the hashes in their reports{without}"]
    for said, entries in (("quarantined", found.quarantined), ("floods, kept", found.flooding)):
        for entry in entries[:_FLOODS]:
            example = f", e.g. {printable(entry.examples[0])[-80:]}" if entry.examples else ""
            name = printable(entry.id)
            lines.append(f"  {said}  {entry.bank} {name} ({entry.hash}): {entry.objects:,} objects{example}")
        if len(entries) > _FLOODS:
            lines.append(f"  {said}  … and {len(entries) - _FLOODS:,} more entries, in run.json")
    return lines


def _errors(errors: Sequence[ErrorRecord]) -> list[str]:
    if not errors:
        return []
    lines = [
        f"    {e.count:>6,}  {e.code or e.status}: {printable(e.message)}  e.g. {printable(e.example)[-80:]}"
        for e in errors[:6]
    ]
    more = [f"    … and {len(errors) - 6} more kinds, in summary.html"] if len(errors) > 6 else []
    return ["", "  not scored:", *lines, *more]


def _warnings(warnings: Sequence[WarningRecord]) -> list[str]:
    """Return lines on the run's warnings, each with its remedy."""
    lines = []
    for found in warnings:
        detail = f" ({found.detail})" if found.detail else ""
        example = printable(found.example)
        example = example if found.name in SENTENCES else example[-80:]
        lines += [f"    {found.count:>6,}  {found.said}{printable(detail)}  e.g. {example}"]
        lines += [f"            {found.remedy}"]
    return ["", "  warnings:", *lines] if lines else []


def _speed(record: RunRecord) -> str:
    rate = f"; scanning {record.images_per_s:,.1f}/s" if record.images_per_s else ""
    attempts = record.timings.attempts or 1
    in_all = f" in {attempts:,} attempts together" if attempts > 1 else ""
    return f"{record.plan.distinct:,} objects in {record.timings.total_s:.1f} s{in_all}{rate}"


def _cost(cost: CostRecord | None, timings: Timings) -> list[str]:
    """Return a line on the cost of the run; none if the machines are not known."""
    if cost is None:
        return []
    currency = cost.currency
    few = " (so few that the start counts)" if not cost.steady else ""
    million = f", {money(cost.per_million, currency)} a million objects read{few}" if cost.per_million else ""
    amount = f"{money(cost.amount, currency)}{million}" if cost.missing is None else cost.missing
    part = "; the last attempt only" if timings.attempts is None and timings.resumed_shards else ""
    return [f"  cost     {_hours(cost.core_hours, cost.gpu_hours)}: {amount}; {cost.prices}{part}"]


def _hours(cores: float, gpus: float) -> str:
    return f"{cores:,.3g} core-hours" + (f" and {gpus:,.3g} GPU-hours" if gpus else "")


def describe_plan(plan: Explanation) -> str:
    """Render as a table what a scan would do."""
    model, hardware, threads = plan.model, plan.hardware, plan.layout.threads
    precision = hardware.dtype + ("" if plan.dtype_is_sure else " here (each worker goes by its own processor)")
    gpus = ", ".join(sorted({e.place.node.gpu or "GPU" for e in plan.expected if e.place.node.gpus}))
    on = gpus or "GPU" if hardware.device == "cuda" else "CPU"
    batches = f"batches of {hardware.batch_size}, {threads} thread{'' if threads == 1 else 's'}"
    rows = [
        ("model", f"{model.identity}, {model.geometry.shape[1]} × {model.geometry.shape[0]} pixels"),
        *([("", f"at the temperature {model.temperature:.3f} that came with it")] if model.temperature else []),
        *([("prefilter", plan.auxiliary_models.prefilter.identity)] if plan.auxiliary_models.prefilter else []),
        *[("detector", one.identity) for one in plan.auxiliary_models.detectors],
        ("device", f"{on}, {precision}, {batches}"),
        *_workers(plan),
        ("decoders", f"one an actor, up to {size(plan.decode_bytes)} more for an image (decode.max_memory_bytes)"),
        ("shards", f"of {plan.shard_rows:,} objects, {size(plan.shard_bytes)} of pixels"),
        ("objects", f"{'not known' if plan.objects is None else f'{plan.objects:,}'}: {plan.objects_from}"),
        *describe_media(plan.media),
        *_estimate(plan),
        *plan.notes,
    ]
    return "\n".join([f"  {name:<10}{printable(text)}" for name, text in rows] + ["", "Nothing was listed or written."])


def _workers(plan: Explanation) -> list[tuple[str, str]]:
    """Return rows on machines and actors, or on this process alone."""
    if plan.layout.kind == "inline":
        [expected] = plan.expected
        free = expected.place.node.memory_bytes
        return [
            ("cluster", "none: in this process, which is sooner for so few"),
            _machine(expected),
            ("  threads", f"{plan.layout.cpu_actors}, the model in each"),
            ("  memory", size(expected.memory_bytes) + ("" if free is None else f"; {size(free)} are free")),
        ]
    in_flight = f"{size(plan.in_flight_bytes)} of pixels in the object store" if plan.in_flight_bytes else ""
    return [
        ("cluster", plan.cluster or "none: a Ray on this machine, for as long as the scan runs"),
        *[row for expected in plan.expected for row in (_machine(expected), *_share(expected))],
        ("actors", _actors(plan)),
        ("in flight", in_flight or "names alone; pixels stay within their actor"),
    ]


def _machine(expected: Expected) -> tuple[str, str]:
    """Return a row on machines of one kind: their number and their hardware."""
    node = expected.place.node
    gpus = f", {node.gpus:g} × {node.gpu or 'GPU'}" if node.gpus else ""
    return "machines", f"{expected.count} × {node.cpus:g} CPUs{gpus}" + (f", {node.cpu}" if node.cpu else "")


def _share(expected: Expected) -> list[tuple[str, str]]:
    """Return rows on the actors of each machine, and on the memory that they take."""
    place, node = expected.place, expected.place.node
    actors = [f"{place.cpu_actors} CPU actors of {size(expected.cpu_actor_bytes)}"] if place.cpu_actors else []
    if place.model_actors:
        actors.append(f"{place.model_actors} model actors of {size(expected.model_actor_bytes)}")
    free = "" if node.memory_bytes is None else f"; {size(node.memory_bytes)} are free"
    store = "" if node.object_store_bytes is None else f"; object store {size(node.object_store_bytes)}"
    rows = [
        ("  each", ", ".join(actors) or "no actors"),
        ("  memory", f"{size(expected.memory_bytes)} with Ray and the driver{free}{store}"),
    ]
    return [*rows, ("", "memory for no more actors than these: cores stay idle")] if place.short_of_memory else rows


def _actors(plan: Explanation) -> str:
    layout = plan.layout
    room = sum(e.count * e.place.cpu_actors for e in plan.expected)
    fewer = f"; there would be room for {room:,}, but there are no more shards" if layout.cpu_actors < room else ""
    if layout.kind == "fused":
        return f"{layout.cpu_actors:,} in all, the model in each{fewer}"
    decoding = f"{layout.cpu_actors:,} that read and decode, {layout.closer_actors:,} that do for second looks"
    return f"{decoding}, {layout.model_actors:,} with the model, 1 that stages{fewer}"


def _estimate(plan: Explanation) -> list[tuple[str, str]]:
    """Return rows on time and money, with the basis of the estimate; or the reason for having none."""
    found, million = plan.estimate, plan.per_million
    rows = [] if found is None else [("time", f"{_time(found.cost)}, if all are read"), ("money", _money(found.cost))]
    if million is not None:
        rows.append(("a million", f"{_time(million.cost)}, {_money(million.cost)}"))
    known = found or million
    basis = [("measured", known.basis), ("prices", known.cost.prices)] if known else []
    return [*rows, *basis, *([("estimate", f"none: {plan.why_no_estimate}")] if plan.why_no_estimate else [])]


def _time(cost: Cost) -> str:
    return f"{duration(cost.hours * 3600)}, {_hours(cost.core_hours, cost.gpu_hours)}"


def _money(cost: Cost) -> str:
    return cost.missing or money(cost.amount, cost.currency)


def describe_classification(image: Classification) -> str:
    """Render one image: ranked scores as bars, and signals; or the match, filter or error in their place."""
    name = printable(image.uri)
    if image.match is not None:
        match = image.match
        known = f"in bank {match.bank} as {printable(match.id)}"
        known += f", {match.distance} bits off" if match.distance else ""
        return f"{name}\n  {known} → {image.decision} ({image.rule})"
    further = [f"  {printable(signal)} {value:.3f}" for signal, value in image.signals.items() if _is_shown(signal)]
    if not image.scores and image.filtered_by is not None:
        settled = f"  settled by {printable(image.filtered_by)} → {image.decision} ({image.rule})"
        return "\n".join([name, *further, settled])
    if not image.scores:
        return f"{name}\n  {image.status}: {printable(image.error or 'no score')}"
    call = f"{image.decision} ({image.rule})" + (", borderline: a person should look" if image.borderline else "")
    bars = [f"  {category:<9} {score:6.1%}  {'█' * round(score * _BAR)}" for category, score in image.scores.items()]
    return "\n".join([name, *bars, *further, f"  nsfw_score {image.nsfw_score:.3f} → {call}"])


def _is_shown(signal: str) -> bool:
    """Return whether a signal is a detector's, or one of those that `--c2pa` and `--screenshots` ask for."""
    group = signal.partition(".")[0]
    return group not in SIGNAL_GROUPS or group in ("c2pa", "screenshot")


def describe_run(seen: Overview) -> str:
    """Render a run in one line: id, state, time, and its counts or its progress."""
    head = f"{seen.run.run_id}  {seen.state:<10}"
    if seen.problem is not None:
        return f"{head} {printable(seen.problem)}"
    record = seen.record
    if record is not None:
        found = record.summary
        counts = f"{found.rows:>12,} objects  {found.flagged:>8,} flagged  {found.unreadable:>8,} unreadable"
        replay = f"  {record.kind} of {record.parent.run_id}" if record.kind != "scan" and record.parent else ""
        pruned = "" if seen.pruned is None else f"  {printable(str(seen.pruned))}"
        pruned += "; it was cut off: prune again to finish it" if seen.left else ""
        return f"{head} {record.committed_at}  {counts}  {record.model.identity}{replay}{pruned}"
    hint = {
        "failed": "did not balance; see failure.json, then run the same command again",
        "unfinished": f"resume it: the same command with --run-id {seen.run.run_id}",
        "running": "alive",
    }[seen.state]
    at = "" if seen.at is None else f"{seen.at.isoformat(timespec='milliseconds')}  "
    done = "" if seen.begun is None else f"{seen.begun.done:,} of {seen.begun.total:,} objects done  "
    return f"{head} {at}{done}{hint}"


def describe_verified(verified: Verified) -> str:
    """Render the findings in a run, each with its kind."""
    found, sound = verified.findings, verified.is_sound
    lines = [f"  {finding.kind}: {printable(finding.text)}" for finding in found]
    count = sum(finding.kind is not Kind.NOTE for finding in found)
    return "\n".join([f"{verified.name}  {'as committed' if sound else f'findings: {count:,}'}", *lines])


def describe_delta(record: RunRecord) -> str:
    """Return a line which says that a run is a delta, and so may hold fewer rows than it listed; else an empty text."""
    if not record.is_delta:
        return ""
    total = record.plan.distinct
    return f"\nrun {record.run_id} is a delta: these are the rows that it holds, not all {total:,} that it listed"
