"""Choose the exit code of a committed run, and the reason where the code is not 0.

The counts of the report and the limits of the configuration decide it. A report is committed and usable whatever its
exit code: the code says whether a store was scanned, or only listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nsfwscan.config import ReportConfig
from nsfwscan.errors import Status
from nsfwscan.runs.summary import Summary
from nsfwscan.text import printable

COMMITTED = 0
OVER_ERROR_RATE = 4
NOT_IMAGES = 5
"""Nothing was scored, or too many objects are not images."""
UNPROVED = 9
"""Committed, and evidence that was asked for could not be left: it goes before the others."""
_KINDS = 3
"""Most kinds of content or errors that a reason names."""


@dataclass(frozen=True)
class Ending:
    """Attributes: exit_code: of the process; reason: one sentence, None where the code is 0."""

    exit_code: int = COMMITTED
    reason: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return `exit_code` and `reason` for `run.json`."""
        return {"exit_code": self.exit_code, "reason": self.reason}


def ending_of(summary: Summary, limits: ReportConfig) -> Ending:
    """Return how a run with this summary ends; the summary includes carried rows.

    A run that scored nothing ends with 5, whatever its errors are. The exception: `max_unsupported_rate` is 1, so a
    source may hold no image at all, and no object failed. Too many errors give 4. Too many objects that are not images,
    with errors within their limit, give 5. An object settled without a score (by a bank or a filter) counts like a
    scored one.
    """
    may_hold_none = limits.max_unsupported_rate == 1 and not summary.unreadable
    if summary.rows and not summary.scored and not summary.settled and not may_hold_none:
        return Ending(NOT_IMAGES, f"nothing could be scored: {_named(summary, summary.rows)}")
    reasons = []
    if over_errors := summary.error_rate > limits.max_error_rate:
        share = f"{summary.error_rate:.1%}, over --max-error-rate {limits.max_error_rate:.1%}"
        reasons.append(f"{summary.unreadable:,} images could not be read: {share}")
    if summary.unsupported_rate > limits.max_unsupported_rate:
        share = f"{summary.unsupported_rate:.1%}, over --max-unsupported-rate {limits.max_unsupported_rate:.1%}"
        named = _named(summary, summary.rows, Status.UNSUPPORTED)
        reasons.append(f"{summary.unsupported:,} objects are no images: {share}; {named}")
    if not reasons:
        return Ending()
    return Ending(OVER_ERROR_RATE if over_errors else NOT_IMAGES, "; ".join(reasons))


def _named(summary: Summary, rows: int, status: Status | None = None) -> str:
    """Describe the objects without a score, most frequent kind first: `118 of 120 objects: looks like …; 2: …`."""
    kinds = [found for found in summary.most_frequent_errors() if status is None or found["status"] == status]
    said = [f"{kinds[0]['count']:,} of {rows:,} objects: {kinds[0]['message']}"] if kinds else []
    said += [f"{found['count']:,}: {found['message']}" for found in kinds[1:_KINDS]]
    if left := sum(found["count"] for found in kinds[_KINDS:]):
        said.append(f"{left:,}: others")
    return printable("; ".join(said))  # errors may quote untrusted text
