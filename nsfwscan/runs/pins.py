"""Keep what a store pins: its default policy, banks and model, so that leaving out an option does not change the law.

Each pin is a file of its own, `pins/000001.json`, and the last one holds; see `numbered.py`.
"""

from __future__ import annotations

from typing import Literal

from nsfwscan.config import BankConfig, Frozen, ModelConfig
from nsfwscan.errors import BrokenRecord
from nsfwscan.runs.differences import describe_difference
from nsfwscan.runs.numbered import History, Numbered
from nsfwscan.runs.record.fields import Time
from nsfwscan.runs.record.inputs import BankRecord, ModelRecord, PinRecord, PolicyRecord
from nsfwscan.storage.store import Store

Part = Literal["policy", "banks", "model"]
PARTS: tuple[Part, ...] = ("policy", "banks", "model")
FOLDER = "pins"
_VERSION = 1


class PinnedPolicy(Frozen):
    """A policy, with all its content."""

    source: str
    """File, or name of a preset."""
    record: PolicyRecord


class PinnedBank(Frozen):
    """A hash bank, with the digest of its file."""

    config: BankConfig
    record: BankRecord


class PinnedModel(Frozen):
    """A model, with the digest of its weights."""

    config: ModelConfig
    record: ModelRecord


class Pin(Numbered):
    """Settings that a store pins. All parts are None where somebody cleared it."""

    pin_version: int = _VERSION
    pinned_at: Time
    pinned_by: str
    """User and machine."""
    nsfwscan: str
    policy: PinnedPolicy | None = None
    banks: tuple[PinnedBank, ...] | None = None
    model: PinnedModel | None = None

    @property
    def version(self) -> int:
        """Return the version of the file's form."""
        return self.pin_version

    @property
    def parts(self) -> tuple[Part, ...]:
        """Return the parts that are pinned."""
        return tuple(part for part in PARTS if getattr(self, part) is not None)


HISTORY = History(
    FOLDER,
    Pin,
    _VERSION,
    "pin",
    "nsfwscan pin",
    "put it back from a backup; or look at what was pinned before (`nsfwscan pin STORE --show`) and pin anew, with "
    "--clear first",
)


def current_pin(store: Store) -> Pin | None:
    """Return the last pin of a store, also one that pins nothing; None where there never was one. Raises
    BrokenRecord."""
    return next(HISTORY.newest_first(store), None)


def pin_history(store: Store) -> list[Pin | BrokenRecord]:
    """Return all pins of a store, the oldest first; an error in place of one that was changed or does not follow."""
    return HISTORY.all(store)


def write_pin(store: Store, pin: Pin) -> Pin:
    """Write a pin, and return it as it lies in the store; from then on it holds. Raises RunConflict where another one
    was written at the same moment."""
    look = "look at them (`nsfwscan pin STORE --show`), then pin again"
    return HISTORY.write(store, pin, f"somebody else pinned other settings of {store.uri} just now: {look}")


def describe_pin_use(pin: PinRecord | None) -> list[str]:
    """Return lines that say loudly in what a run is not as pinned, and what it took from the pin; none without one."""
    if pin is None:
        return []
    head = f"pin {pin.number} (by {pin.pinned_by} at {pin.pinned_at})"
    if not pin.others:
        return [f"as the store pins it: {', '.join(pin.used)} of {head}"] if pin.used else []
    return [
        f"NOT AS THE STORE PINS IT, {head}:",
        *(f"  {describe_difference(one)}" for one in pin.others),
    ]
