"""Text for the terminal: what a store pins, and how that came to be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nsfwscan.errors import BrokenRecord
from nsfwscan.runs.pins import Pin
from nsfwscan.text import printable


def describe_pins(head: str, history: Sequence[Pin | BrokenRecord]) -> str:
    """Render the last pin and, the newest first, all of them; one that is broken says so."""
    last = history[-1] if history else None
    lines = [*([head] if head else []), *(_parts(last) if isinstance(last, Pin) else [])]
    if last is None and not head:
        lines = ["nothing is pinned"]
    return "\n".join([*lines, *(["", "history"] if history else []), *map(_entry, reversed(history))])


def _parts(pin: Pin) -> Iterator[str]:
    if not pin.parts:
        yield "nothing is pinned: the defaults hold"
    if pin.policy is not None:
        policy = pin.policy.record
        yield f"  policy  {policy.identity}, version {policy.version}  {printable(pin.policy.source)}"
    for bank in pin.banks or ():
        yield f"  bank    {bank.record.identity} ({bank.record.kind})  {printable(bank.config.uri)}"
        yield f"          SHA-256 {bank.record.sha256}"
    if pin.model is not None:
        yield f"  model   {pin.model.record.identity}  {printable(pin.model.config.uri)}"


def _entry(pin: Pin | BrokenRecord) -> str:
    if isinstance(pin, BrokenRecord):
        return f"  BROKEN  {printable(str(pin))}"
    banks = [bank.record.identity for bank in pin.banks or ()]
    named = [one.record.identity for one in (pin.policy, pin.model) if one is not None]
    return f"  {pin.number}  {pin.pinned_at}  {printable(pin.pinned_by)}  {', '.join([*named, *banks]) or 'cleared'}"
