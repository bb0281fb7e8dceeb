"""The few lines that a person reads when a command is done.

In: a scan's result, a verdict, a run. Out: text. Names come from strangers: control characters are shown, not sent to
the terminal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nsfwscan.display import printable
from nsfwscan.report.query import committed_query
from nsfwscan.report.runs import Run
from nsfwscan.schema import Change
from nsfwscan.sources.plan import Fate

if TYPE_CHECKING:
    from nsfwscan.run import ScanResult
    from nsfwscan.single import Verdict

_OVERVIEW = "decision, rule, count(*) AS objects"
_BAR = 30


def describe_scan(result: ScanResult) -> str:
    """What was found, where the report lies, how to open it, what to do next."""
    record = result.record
    summary = record["summary"]
    query = committed_query(record, "report/", _OVERVIEW, "GROUP BY ALL ORDER BY objects DESC")
    head = "already committed" if result.already_committed else "committed"
    lines = [
        f"{head}: run {result.run_id}" + (f" — {record['reason']}" if record["reason"] else ""),
        "",
        f"  {_balance(record)}",
        f"  decisions  {_counts(summary['decision'])}",
        f"  labels     {_counts(summary['label'])}",
        f"  status     {_counts(summary['status'])}",
        *_truth(summary["truth"]),
        *_since(record),
        *_errors(summary["errors"]),
        "",
        f"  {_speed(record)}",
        f"  report   {printable(result.uri)}",
        f"  summary  {printable(result.uri)}/summary.html",
        *(["", "Open it in DuckDB:", "", *(f"  {line}" for line in query)] if query else []),
    ]
    return "\n".join(lines)


def describe_fates(fates: dict[str, int]) -> str:
    """What a plan does with the listed objects, in words."""
    words = {
        Fate.CARRIED: "unchanged and carried over",
        Fate.NEW: "new",
        Fate.CHANGED: "changed",
        Fate.FAILED: "tried again",
        Fate.STALE: "stale (another model, preprocessing or limit)",
    }
    return ", ".join(f"{fates[fate]:,} {word}" for fate, word in words.items() if fates.get(fate))


def _since(record: dict[str, Any]) -> list[str]:
    """What changed since the run that this one goes on from."""
    bases, changes = record["ledger"]["bases"], record["ledger"]["changes"]
    if not bases:
        return []
    source = record["config"]["source"]
    words = {Change.DELETED: "deleted", Change.NEWLY_FLAGGED: "newly flagged", Change.CLEARED: "no longer flagged"}
    if source["limit"] or source["include"] or source["exclude"]:
        del words[Change.DELETED]  # what was not listed need not be gone
    found = "  ".join(f"{word} {changes[change]:,}" for change, word in words.items())
    where = ", in changes/" if any(changes.values()) else ""
    delta = [
        "  delta      the report holds what was looked at or decided differently; earlier ones hold the other rows"
    ]
    return [
        f"  since      {bases[0]}: {describe_fates(record['plan']['fates'])}",
        f"  changes    {found}{where}",
        *(delta if record["config"]["report"]["mode"] == "delta" else []),
    ]


def _balance(record: dict[str, Any]) -> str:
    balance = record["balance"]
    terms = " + ".join(f"{count:,} {name}" for name, count in balance.items() if name != "listed")
    again = record["plan"]["repeated"]
    return f"{balance['listed']:,} listed = {terms}" + (f"  ({again:,} listed again, counted once)" if again else "")


def _counts(counts: dict[str, int]) -> str:
    return "  ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def _truth(truth: dict[str, Any]) -> list[str]:
    suspected = f"; {truth['suspected']:,} suspected, in false_positives/" if truth["suspected"] else ""
    if truth["false_positive_rate"] is None:
        return [
            "  truth      none given: to measure false positives, use class folders (…/neutral/…) or --truth FILE"
            + suspected
        ]
    found = f"{truth['false_positives']:,} of {truth['neutral']:,} neutral images ({truth['false_positive_rate']:.1%})"
    return [f"  false positives  {found} carry an NSFW label{suspected}"]


def _errors(errors: list[dict[str, Any]]) -> list[str]:
    if not errors:
        return []
    lines = [
        f"    {e['count']:>6,}  {e['status']}: {printable(e['message'])}  e.g. {printable(e['example'])[-80:]}"
        for e in errors[:6]
    ]
    more = [f"    … and {len(errors) - 6} more kinds, in summary.html"] if len(errors) > 6 else []
    return ["", "  not scored:", *lines, *more]


def _speed(record: dict[str, Any]) -> str:
    seconds = sum(value for name, value in record["timings"].items() if name.endswith("_s"))
    rate = f"; scanning {record['images_per_s']:,.1f}/s" if record["images_per_s"] else ""
    return f"{record['plan']['distinct']:,} objects in {seconds:.1f} s{rate}"


def describe_verdict(verdict: Verdict) -> str:
    """The ranked distribution of one image, as bars."""
    name = printable(verdict.uri)
    if not verdict.scores:
        return f"{name}\n  {verdict.status}: {printable(verdict.error or 'no score')}"
    call = f"{verdict.decision} ({verdict.rule})" + (", borderline: a person should look" if verdict.borderline else "")
    bars = [f"  {category:<9} {score:6.1%}  {'█' * round(score * _BAR)}" for category, score in verdict.scores]
    return "\n".join([name, *bars, f"  nsfw_score {verdict.nsfw_score:.3f} → {call}"])


def describe_run(run: Run) -> str:
    """One line: id, state, and what it found if it was committed."""
    state = run.state()
    if state == "committed":
        record = run.record()
        summary = record["summary"]
        counts = (
            f"{summary['rows']:>12,} objects  {summary['flagged']:>8,} flagged  {summary['unreadable']:>8,} unreadable"
        )
        return f"{run.run_id}  {state:<10} {record['committed_at']}  {counts}  {record['model']['identity']}"
    hint = {
        "failed": "did not balance; see failure.json, then run the same command again",
        "unfinished": f"resume it: the same command with --run-id {run.run_id}",
        "running": "alive",
    }[state]
    return f"{run.run_id}  {state:<10} {hint}"
