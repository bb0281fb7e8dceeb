"""Count what a run noticed and went on, by kind, with one example each.

The terminal, `run.json` (`warnings`) and `summary.html` show it. Memory stays flat, since only the first example is
kept. An error stops a run, and a row says what concerns one object; a warning says what neither of them does.

To add a kind, give it a name and its words in `WarningKind`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from nsfwscan.text import redacted


class WarningKind(StrEnum):
    """What can be noticed: the name in `run.json`, what is meant by it, and what to do."""

    said: str
    """What was met, as it follows a count: `3 × said`."""
    remedy: str
    """What a person can do, in a sentence."""

    def __new__(cls, name: str, said: str, remedy: str) -> Self:
        """Return a member whose value is its name."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.said, member.remedy = said, remedy
        return member

    NOT_INCLUDED = (
        "not_included",
        "objects that match no --include, and so were not scanned",
        "If images are among them, name their endings, too: --include '*.{jpg,JPG,jpeg}'. Case counts.",
    )
    IDLE_PATTERN = (
        "idle_pattern",
        "patterns of --include or --exclude that matched nothing",
        "Patterns are matched with the place within the source, as `2026/a.jpg`; a folder is `NAME/*`. Case counts.",
    )
    SPECIAL_FILE = (
        "special_file",
        "pipes, sockets or devices, which hold no image and are not listed",
        "Nothing to do, unless an object was meant to be there.",
    )
    LINKED_AGAIN = (
        "linked_again",
        "symbolic links to folders that are listed already by another link, or lead back up; they were not entered",
        "Nothing to do: what they lead to is listed once.",
    )
    OBJECT_AND_PREFIX = (
        "object_and_prefix",
        "sources that are an empty object and a prefix; the prefix is scanned",
        "Nothing to do. A source that ends in `/` is always a prefix.",
    )
    PREFIX_BESIDE = (
        "prefix_beside",
        "sources that are an object with content, beside a prefix of that name, which was not scanned",
        "To scan what lies below it, too, name the source once more with a `/` at its end.",
    )
    FOLDER_MARKER = (
        "folder_marker",
        "empty objects that stand for a folder, which are not listed",
        "Nothing to do: consoles and some file systems make them.",
    )
    ODD_TIME = (
        "odd_time",
        "a time of change that no calendar has; `modified_at` is null",
        "No object is lost, but these are read again every night, unless their store gives versions. Mend their times.",
    )
    CLOCK_BEHIND = (
        "clock_behind",
        "a run that was committed later than it is now, by this machine's clock",
        "The clock is wrong, or it was then. Set it. Until it has passed that time, what takes a store's newest run "
        "takes that one: name runs by their ids.",
    )
    UNCONFINED = (
        "unconfined",
        "a file that was decoded in a process whose sandbox does not hold wholly",
        "Files of strangers may do more there than compute. Give the nodes a kernel or container runtime with Landlock "
        "and seccomp; `decode.sandbox: required` stops a run without them.",
    )
    LISTED_SIZE = (
        "listed_size",
        "a size in a list that is no number of bytes; taken as unknown",
        "No object is lost: its size is known once it is read. Mend what writes the list.",
    )
    LISTED_TIME = (
        "listed_time",
        "a time in a list that is not understood; taken as unknown",
        "No object is lost, but these may be read again every night. Write ISO 8601, or seconds since 1970.",
    )
    LISTED_TRUTH = (
        "listed_truth",
        "a truth in a list that is no category; taken as unknown",
        "These objects count in no figure that rests on truth. Mend the list.",
    )
    UNMET_TRUTH = (
        "unmet_truth",
        "an object of the truth file that was not listed",
        "These count in no figure that rests on truth. Write their URIs as the report has them; "
        "`--max-unmatched-truth` stops a run of which too many are missing.",
    )
    GOLDEN_MATCHED = (
        "golden_matched",
        "objects of the golden set that match a bank, and did not before",
        "The next scan with this bank stops, since they are decided otherwise. A set of known pictures seldom belongs "
        "in a bank: look at the entry before you use it. If it is right, scan with `--accept-drift REASON`.",
    )
    OTHER_WEIGHTS = (
        "other_weights",
        "thresholds of the policy that were made for other weights than this run's",
        "A threshold means nothing for other weights: measure them on your images (nsfwscan-train evaluate "
        "--write-policy), or take the policy that belongs to the model. `made_for` of the policy names the weights.",
    )
    LACKING = (
        "lacking",
        "detectors or options that a policy's rules or a gate ask for and this run lacks",
        "They read null there, and a comparison with null is never true. Scan with what is lacking: the start "
        "of a scan and `nsfwscan policy check POLICY --on STORE` name each. What the policy may do without belongs in "
        "its `seats`.",
    )
    UNREAD_LETTERS = (
        "unread_letters",
        "lists of patterns with letters that the reader of text cannot give",
        "What is written with them is not found in pictures. Add how people write it in letters that are read "
        "(`nsfwscan models list` says which), and do not count on the list for the rest.",
    )
    BANK_OVERRULED = (
        "bank_overruled",
        "ways in which the policy decides matches of a hash bank otherwise than its kind says",
        "Nothing to do, if that is meant; `nsfwscan policy check POLICY --on STORE` lists them. If not, put a rule "
        "first that names the match: `match_kind = 'allow'`.",
    )
    NO_TRUTH = (
        "no_truth",
        "a row of the truth file without any truth; passed over",
        "These objects count in no figure that rests on truth. Fill the column, or leave the rows out.",
    )


SENTENCES = frozenset(
    {WarningKind.OTHER_WEIGHTS, WarningKind.LACKING, WarningKind.UNREAD_LETTERS, WarningKind.BANK_OVERRULED}
)
"""Kinds whose examples are sentences, to be shown whole; those of others are places, known by their ends."""


@dataclass
class _Noticed:
    example: str
    count: int = 0
    detail: str | None = None


@dataclass
class Warnings:
    """The warnings of one run."""

    _found: dict[WarningKind, _Noticed] = field(default_factory=dict)

    def add(self, kind: WarningKind, example: str, *, count: int = 1, detail: str | None = None) -> None:
        """Count one thing, or several; keep the first example and the last detail.

        Args:
            example: where it was met, such as an object's URI; secrets in it are blanked.
            detail: what is known of all that were counted so far, in a few words.
        """
        noticed = self._found.get(kind)
        if noticed is None:
            noticed = self._found[kind] = _Noticed(redacted(example))
        noticed.count += count
        if detail is not None:
            noticed.detail = redacted(detail)

    def count(self, kind: WarningKind) -> int:
        """Return how often a kind was met."""
        return self._found[kind].count if kind in self._found else 0

    def as_json(self) -> list[dict[str, Any]]:
        """Return `name, count, example, detail, said, remedy` of each kind, as `run.json` has them."""
        return [
            {"name": str(kind), **vars(noticed), "said": kind.said, "remedy": kind.remedy}
            for kind, noticed in self._found.items()
        ]

    @classmethod
    def from_json(cls, entries: Iterable[dict[str, Any]]) -> Self:
        """Return the warnings that `as_json` gave; kinds that this version does not know are left out."""
        known = {str(kind): kind for kind in WarningKind}
        return cls(
            {
                known[entry["name"]]: _Noticed(entry["example"], entry["count"], entry["detail"])
                for entry in entries
                if entry["name"] in known
            }
        )
