"""`summary.html`: the page that a person opens first, rendered from `run.json` alone.

The page is one self-contained HTML document: no scripts, no requests, no pixel of any scanned image. A record that
lacks a field raises `KeyError` or jinja2's `UndefinedError`. Names of objects are hostile strings: all values that the
template prints go through `visible`, which escapes markup and spells out hidden characters.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from nsfwscan.config import SourceConfig
from nsfwscan.errors import Status
from nsfwscan.policy.decide import BLOCKED_OUTCOME, ILLEGAL_OUTCOME, JUDGED_OUTCOMES, UNDETERMINED_OUTCOME
from nsfwscan.policy.rules import BLOCKED, GUARD, ILLEGAL, JUDGED, OTHERWISE, Outcome, Override
from nsfwscan.reports.effects_text import describe_effects
from nsfwscan.reports.query import committed_query, is_shown
from nsfwscan.runs.changes import CAUSES
from nsfwscan.runs.drift import LEAST_NIGHTS, LEAST_ROWS, NIGHTS, describe_drift
from nsfwscan.runs.ending import COMMITTED, NOT_IMAGES, OVER_ERROR_RATE
from nsfwscan.runs.golden import describe_golden
from nsfwscan.runs.plan import PlanAction
from nsfwscan.runs.record.cost import NodeRecord
from nsfwscan.runs.record.fields import FileRecord
from nsfwscan.runs.record.figures import FloodRecord, MatchingRecord, SummaryRecord
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.schema import FLAGGED, Accounted, Cause, Change, Decision
from nsfwscan.text import duration, money, plural, size

_TEMPLATES = Path(__file__).parent / "templates"
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories whose characters a browser does not show, or takes as a change of direction."""

_REMEDIES = {
    Status.DENIED: "Go by the messages below. If permissions are lacking, run `nsfwscan doctor` with the same sources.",
    Status.NOT_FOUND: "Vanished between listing and reading. Nothing to do, unless something deletes unasked.",
    Status.FETCH_ERROR: "The next run tries them again. If the same objects fail again, go by the messages below.",
    Status.TIMEOUT: "The next run tries them again. If it fails as well, raise the limit that the messages below name.",
    Status.DECODE_ERROR: "Damaged files stay unreadable, and are not read again until they change. Replace them.",
    Status.TOO_LARGE: "Raise `--max-bytes` or `--max-pixels`, as the messages below say, or have a person look.",
    Status.CRASHED: "Treat such files as hostile: keep them from other decoders. The next run tries them again.",
}
_UNREAD = {
    Status.DENIED: "access was denied",
    Status.NOT_FOUND: "gone since they were listed",
    Status.FETCH_ERROR: "the read failed",
    Status.TIMEOUT: "reading or decoding took too long",
    Status.DECODE_ERROR: "the image data is damaged",
    Status.TOO_LARGE: "over the size limits",
    Status.CRASHED: "the decoder died",
}
_ACTIONS = {
    PlanAction.CARRIED: "unchanged, carried over",
    PlanAction.NEW: "new",
    PlanAction.CHANGED: "changed",
    PlanAction.FAILED: "tried again",
    PlanAction.STALE: "stale: another model, preprocessing, limit or bank",
    PlanAction.READ_AGAIN: "unchanged, and read again (--full)",
}
_CHANGES = {
    Change.DELETED: ("deleted", "not listed any more"),
    Change.NEWLY_FLAGGED: ("newly flagged", "flagged now; new, or not flagged then"),
    Change.CLEARED: ("no longer flagged", "flagged then; not now"),
    Change.NEW: ("new", "not known then, and not flagged"),
    Change.DECIDED: ("decided otherwise", "flagged now and then, or neither"),
    Change.ROUTED: ("queued or rated otherwise", "the same decision; another queue, skill, shield or severity"),
    Change.CONTENT: ("other bytes", "and the same outcome"),
}
_TRUTH_HELP = (
    "Truth tells how often the model is wrong; it never changes a decision. Give it by one of: folders named after the "
    "class (`…/neutral/a.jpg`), a column `truth` in the manifest, or `--truth FILE` with the columns `uri` and `truth`."
)
_NOT_IMAGES_HELP = (
    "Check that the sources are what you meant: `nsfwscan doctor SOURCE` looks at some of their objects, and the "
    "errors below say what all of them are. Where so many are meant to be no images, leave them out with `--exclude`, "
    "or raise `--max-unsupported-rate`; 1 allows a source without any image."
)
_HEADLINES = {
    COMMITTED: "Committed",
    OVER_ERROR_RATE: "Committed, but over the error rate",
    NOT_IMAGES: "Committed, but hardly anything was scored",
}
_TONES = {
    Decision.ALLOW: "good",
    Decision.REVIEW: "warn",
    Decision.BLOCK: "bad",
    Decision.ESCALATE: "bad",
    Decision.UNDETERMINED: "none",
}
_LISTED_OPEN = 20
"""Committed files that the page shows without a click."""
_ERRORS_OPEN = 10
_LABEL_HEIGHT = 0.08
"""As a share of the plot's height: a label nearer to the zero line would overlap the zero line's label."""


@dataclass(frozen=True)
class Step:
    """A next step: a title that names the problem, a text with the remedy, and lines of SQL if it needs any."""

    tone: str
    title: str
    text: str
    query: tuple[str, ...] = ()


@dataclass(frozen=True)
class Share:
    """A row of a table of counts."""

    name: str
    count: int
    share: float
    tone: str = ""
    named: bool = True
    """False for the row of objects that have no value, e.g. those without a label."""


@dataclass(frozen=True)
class Changed:
    """A row of the table of changes."""

    name: str
    count: int | None
    """None if it cannot be known."""
    meaning: str


@dataclass(frozen=True)
class Since:
    """Changes of the store since the previous run."""

    previous_runs: tuple[str, ...]
    """The runs whose rows are carried over, newest first."""
    found: list[Share]
    changes: list[Changed]
    causes: list[tuple[str, str, int]]
    """Name of a cause, its meaning, and the number of changed objects that it is true of."""
    query: tuple[str, ...]
    reported: int | None
    """Rows in the files of a delta report; None for a snapshot, which holds a row for every object."""


@dataclass(frozen=True)
class Bar:
    """A bin of the histogram: scores from `low` to `high`; `height` is 0 to 1, logarithmic."""

    low: float
    high: float
    count: int
    height: float


def render_summary(record: RunRecord) -> str:
    """Return the content of `summary.html`."""
    summary = record.summary
    balance = [(str(a), getattr(record.balance, a)) for a in Accounted]
    template = page_environment().get_template("summary.html")
    return template.render(
        record=record,
        summary=summary,
        truth=summary.truth,
        headline=_HEADLINES[record.exit_code],
        bad=record.exit_code != COMMITTED,
        over=record.exit_code == OVER_ERROR_RATE,
        machines=[_machine(node) for node in record.machine.nodes] if record.machine else [],
        cost=record.cost,
        steps=list(_steps(record)),
        balance=balance,
        effects=list(describe_effects(record)),
        settled=record.balance.listed == sum(count for _, count in balance),
        since=_since(record),
        floods=_floods(record.matching),
        overrides=[_override(override) for override in record.policy.overrides],
        built_in=_built_in(summary),
        counts=_tables(summary),
        bars=_bars(summary.nsfw_score_histogram),
        ticks=_ticks(max(summary.nsfw_score_histogram, default=0)),
        drift_limits=(LEAST_NIGHTS, LEAST_ROWS, NIGHTS),
        errors_open=_ERRORS_OPEN,
        files_open=_LISTED_OPEN,
    )


def visible(value: object) -> object:
    """Render any text as HTML that hides nothing: markup escaped, control and direction characters spelled out.

    Values that are marked as HTML already, or are no text, stay unchanged; None becomes a dash.
    """
    if value is None:
        return "–"
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    if value.isascii() and value.isprintable():
        return escape(value)
    return Markup("<bdi>{}</bdi>").format(Markup("").join(_shown(c) for c in value))


def _shown(character: str) -> Markup:
    if unicodedata.category(character) not in _HIDDEN:
        return escape(character)
    name = unicodedata.name(character, "control character")
    return Markup('<span class="hidden-character" title="U+{:04X} {}">{}</span>').format(
        ord(character), name, _spelled(character)
    )


def _spelled(character: str) -> str:
    return character.encode("unicode_escape").decode()


def plain(text: str) -> Markup:
    """Render text for an attribute: hidden characters spelled out, markup escaped, no elements."""
    return escape("".join(_spelled(c) if unicodedata.category(c) in _HIDDEN else c for c in text))


def code_spans(text: str) -> Markup:
    """Render one of nsfwscan's own sentences, with text between backquotes as `<code>`."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(visible(p)) if i % 2 else escape(p) for i, p in enumerate(parts)
    )


def percent(share: float | None) -> str:
    """Render a share as `12.5%`; a share above 0 never reads as 0%, one below 1 never as 100%."""
    if share is None:
        return "–"
    if 0 < share < 0.001:
        return "<0.1%"
    if 0.999 < share < 1:
        return ">99.9%"
    return f"{share:.1%}" if share not in (0, 1) else f"{share:.0%}"


def moment(text: str) -> str:
    """Render ISO 8601 as `22 November 2026, 03:10:12 UTC`; other text stays unchanged."""
    try:
        at = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return text
    return f"{at.day} {at:%B %Y, %H:%M:%S} UTC"


def middle(text: str, longest: int = 160) -> str:
    """Cut the middle out of a text longer than `longest`: names differ at their ends."""
    return text if len(text) <= longest else f"{text[: longest * 2 // 3]} … {text[-longest // 3 :]}"


def short_name(file: FileRecord) -> str:
    """Return a committed file's path with the digest in its name shortened."""
    return file.path.replace(file.sha256, f"{file.sha256[:8]}…{file.sha256[-8:]}")


@cache
def page_environment(*folders: Path) -> Environment:
    """Return the jinja2 environment of all pages: escaped, strict, with the shared layout, style and filters.

    Args:
        folders: folders with further templates.
    """
    environment = Environment(
        loader=FileSystemLoader([*folders, _TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "n": "{:,}".format,
        "percent": percent,
        "share": lambda share: f"{share * 100:.6g}%",
        "size": size,
        "duration": duration,
        "money": money,
        "moment": moment,
        "plural": plural,
        "plain": plain,
        "code_spans": code_spans,
        "middle": middle,
        "short_name": short_name,
        "address": partial(quote, errors="surrogatepass"),
    }
    return environment


def _machine(node: NodeRecord) -> str:
    """Render machines of one kind in words: `4 × 16 CPUs, 1 × A10G`."""
    gpus = f", {node.gpus:g} × {node.gpu or 'GPU'}" if node.gpus else ""
    kind = f" ({node.cpu})" if node.cpu else ""
    return f"{node.count} × {node.cpus:g} CPUs{gpus}{kind}"


def _steps(record: RunRecord) -> Iterator[Step]:
    """Yield the next steps, the most urgent first."""
    summary = record.summary
    if not summary.rows:
        yield Step(
            "warn",
            "Nothing was scanned",
            "Check that the sources, and what they include and exclude, are what you meant.",
        )
        return
    if record.exit_code == NOT_IMAGES:
        yield Step("bad", "This was hardly a scan of images", _NOT_IMAGES_HELP)
    if record.exit_code == OVER_ERROR_RATE:
        text = (
            "The report is complete and can be used, but too much is missing from it to call the store scanned. "
            "Settle the errors below, then scan again under a new run id."
        )
        yield Step("bad", "Too many images could not be read", text)
    if record.golden is not None:
        yield Step("bad" if record.golden.drifted else "info", "Golden set", describe_golden(record.golden))
    for said in describe_drift(record.drift):
        yield Step("warn", "This night stands out", f"{said[0].upper()}{said[1:]}. Other uploads, or other software?")
    yield from _flagged_step(record)
    for status, count in summary.status.items():
        if status in _REMEDIES:
            title = f"{plural(count, 'object')}, {_UNREAD[Status(status)]} ({status})"
            yield Step("info" if status == Status.NOT_FOUND else "warn", title, _REMEDIES[Status(status)])
    for found in record.warnings:
        detail = f" ({found.detail})" if found.detail else ""
        title = f"{found.count:,} × {found.said.replace('`', '')}"
        yield Step("warn", title, f"{found.remedy} E.g. {found.example}{detail}")
    yield from _truth_steps(record)


def _flagged_step(record: RunRecord) -> Iterator[Step]:
    summary, decisions = record.summary, record.summary.decision
    if not summary.flagged:
        return
    found = [d for d in (Decision.ESCALATE, Decision.BLOCK, Decision.REVIEW) if decisions.get(d)]
    split = ", ".join(f"{decisions[d]:,} {d}" for d in found)
    wanted = ", ".join(f"'{d}'" for d in found)
    query = committed_query(
        record,
        "report",
        "severity, decision, queue, nsfw_score, label, uri",
        f"WHERE decision IN ({wanted})\nORDER BY severity DESC, nsfw_score DESC",
    )
    title = f"{plural(summary.flagged, 'object')} flagged: {split}"
    queues = " and ".join(f"`{name}`" for name in _flagged_queues(record))
    text = f"Look at the review queue{f' ({queues})' if queues else ''}, the gravest first. {_place(record, query)}"
    yield Step("bad" if set(found) - {Decision.REVIEW} else "warn", title, text, query)


def _flagged_queues(record: RunRecord) -> list[str]:
    """Return the queues that flagged objects went to, by the policy's rules and their overrides."""
    policy, summary = record.policy, record.summary
    rules: dict[str, Outcome] = {**{rule.name: rule for rule in policy.rules}, OTHERWISE: policy.otherwise}
    judged = [(rule, JUDGED_OUTCOMES[verdict]) for verdict, rule in JUDGED.items()]
    outcomes = [(ILLEGAL, ILLEGAL_OUTCOME), (BLOCKED, BLOCKED_OUTCOME), *judged, *rules.items()]
    for override in policy.overrides:
        changes = {name: change.model_dump(exclude_none=True) for name, change in override.rules.items()}
        outcomes += [(name, rules[name].model_copy(update=changes[name])) for name in changes if name in rules]
    found = [o.sends_to or "" for name, o in outcomes if summary.rule.get(name) and o.decision in FLAGGED]
    return [queue.replace("`", "'") for queue in dict.fromkeys(found) if summary.queue.get(queue)]


def _floods(found: MatchingRecord | None) -> list[tuple[str, tuple[FloodRecord, ...]]]:
    """Return the flooding entries, grouped by whether they were quarantined or kept."""
    if found is None:
        return []
    return [
        ("Quarantined: they match too much to be worth a look", found.quarantined),
        ("Illegal entries that match very much; none is left out", found.flooding),
    ]


def _override(override: Override) -> str:
    """Return an override in words: `region eu: $explicit 0.6; rule borderline: queue eu, severity 4`."""
    said = [f"${name} {number:g}" for name, number in override.thresholds.items()]
    for name, change in override.rules.items():
        changed = change.model_dump(exclude_none=True)
        said.append(f"rule {name}: {', '.join(f'{key} {value}' for key, value in changed.items())}")
    return f"{override.title}: {'; '.join(said)}"


def _place(record: RunRecord, query: tuple[str, ...]) -> str:
    """Return the sentence before the lines of SQL; a delta report may hold few of the counted rows, or none."""
    if not is_shown(record.store):
        return "`run.json` names the files; their path holds what looks like a secret, so no statement is shown here."
    if not query:
        return "All of their rows stand in the reports of earlier runs; this one is a delta."
    return "In DuckDB, those that this delta report holds:" if record.is_delta else "In DuckDB:"


def _truth_steps(record: RunRecord) -> Iterator[Step]:
    truth, config = record.summary.truth, record.config
    confirmed, suspected = truth.false_positives, truth.suspected
    if confirmed or suspected:
        title = (
            f"{plural(confirmed, 'false positive')} confirmed by truth"
            if confirmed
            else "No false positive is confirmed"
        )
        if confirmed:
            title += f": {percent(truth.false_positive_rate)} of {plural(truth.neutral, 'neutral image')}"
        if suspected:
            title += f"; {suspected:,} suspected"
        copies = (
            "copies of the images in `false_positives/images/`"
            if config.report.save_images
            else "`--save-images` copies the images beside them"
        )
        select = "kind, label, confidence, reason, uri"
        query = committed_query(record, "false_positives", select, "ORDER BY kind, confidence DESC")
        yield Step("info", title, f"They lie in `false_positives/`; {copies}. {_place(record, query)}", query)
    if not truth.by_category:
        off = "It was switched off for this run (`--truth none`). " if config.source.truth == "none" else ""
        yield Step("info", "No truth is known, so no false positive rate", off + _TRUTH_HELP)


def _since(record: RunRecord) -> Since | None:
    """Return the section on earlier runs; None if this run has no previous run."""
    previous_runs, actions = record.previous_runs, record.plan.actions
    if not previous_runs:
        return None
    listed = max(1, record.plan.distinct)
    select = "change, causes, previous_decision, decision, nsfw_score, uri"
    if not record.changes.is_whole:
        select = select.replace("causes, ", "")
    query = committed_query(record, "changes", select, "ORDER BY change, nsfw_score DESC")
    return Since(
        previous_runs,
        [Share(name, actions.get(action, 0), actions.get(action, 0) / listed) for action, name in _ACTIONS.items()],
        [_changed(change, getattr(record.changes, change), record.config.source) for change in _CHANGES],
        [(cause, CAUSES[Cause(cause)], count) for cause, count in (record.changes.causes or {}).items()],
        query,
        record.rows_in("report") if record.is_delta else None,
    )


def _changed(change: Change, count: int | None, source: SourceConfig) -> Changed:
    name, meaning = _CHANGES[change]
    if count is None:
        return Changed(name, None, "not known: an older nsfwscan made this run")
    if change == Change.DELETED and (source.limit or source.include or source.exclude):
        return Changed(name, None, "not known: the sources were listed in part")
    return Changed(name, count, meaning)


def _built_in(summary: SummaryRecord) -> list[tuple[str, str, Outcome]]:
    """Return the rules that no policy can delete: name, when they decide, and the outcome."""
    of_banks = [
        (ILLEGAL, "in an illegal bank, and no rule escalates it", ILLEGAL_OUTCOME),
        (BLOCKED, "in a block bank, and no rule may decide it", BLOCKED_OUTCOME),
    ]
    of_people = [
        (rule, f"people's verdict is {verdict}, and no rule names it", JUDGED_OUTCOMES[verdict])
        for verdict, rule in JUDGED.items()
    ]
    guard = (GUARD, "a row without a score would be allowed", UNDETERMINED_OUTCOME)
    return [guard, *(rule for rule in (*of_banks, *of_people) if summary.rule.get(rule[0]))]


def _tables(summary: SummaryRecord) -> list[tuple[str, list[Share]]]:
    """Return the tables of counts: a title, and rows with their shares of all objects."""
    rest = {"decision": "", "label": "not scored", "status": "", "rule": "", "queue": "no queue", "format": "not known"}
    return [(name, _shares(getattr(summary, name), summary.rows, name, unnamed)) for name, unnamed in rest.items()]


def _shares(counts: dict[str, int], rows: int, kind: str, unnamed: str) -> list[Share]:
    tones = {str(d): tone for d, tone in _TONES.items()} if kind == "decision" else {}
    found = [Share(name, n, n / rows, tones.get(name, "")) for name, n in counts.items()] if rows else []
    left = rows - sum(counts.values())
    return [*found, Share(unnamed, left, left / rows, named=False)] if unnamed and left > 0 else found


def _bars(histogram: Sequence[int]) -> list[Bar]:
    """Return the histogram's bins; heights follow log(1 + count), so that one object among a million still shows."""
    top = math.log1p(_ceiling(max(histogram, default=0)))
    width = 1 / max(len(histogram), 1)
    return [Bar(i * width, (i + 1) * width, n, math.log1p(n) / top) for i, n in enumerate(histogram)]


def _ticks(highest: int) -> list[tuple[str, float]]:
    """Return the labels of the count axis with their heights (0 to 1): zero and powers of ten, at most six of them."""
    ceiling = _ceiling(highest)
    powers = range(int(math.log10(ceiling)) + 1)
    counts = [0, *(10**p for p in powers if (powers[-1] - p) % math.ceil(len(powers) / 5) == 0)]
    heights = {n: math.log1p(n) / math.log1p(ceiling) for n in counts}
    return [(_compact(n), height) for n, height in heights.items() if n == 0 or height > _LABEL_HEIGHT]


def _ceiling(highest: int) -> int:
    """Return the top of the count axis: 1, 2 or 5 times a power of ten."""
    power: int = 10 ** int(math.log10(max(highest, 10)))
    return next(power * step for step in (1, 2, 5, 10) if power * step >= highest)


def _compact(count: int) -> str:
    for factor, suffix in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= factor:
            return f"{count // factor}{suffix}"
    return str(count)
