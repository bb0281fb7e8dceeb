"""Keep what a store pins: its default policy, banks and model, so that leaving out an option does not change the law.

Each pin is a file of its own, `pins/000001.json`, which is created only if it is not there and never changed; the last
one holds. It names the SHA-256 of the one before, so the history is a chain. A pin that is cut off, changed or of a
newer version is a `BrokenRecord`; of two people who pin at the same moment, the second gets a `RunConflict`.
"""

from __future__ import annotations

import hashlib
import re
from typing import Literal

from pydantic import Field, ValidationError

from nsfwscan.config import BankConfig, Frozen, ModelConfig
from nsfwscan.errors import BrokenRecord, RunConflict
from nsfwscan.runs.differences import describe_difference
from nsfwscan.runs.record import BankRecord, ModelRecord, PinRecord, PolicyRecord, Sha256, Time
from nsfwscan.storage.store import Store, to_json

Part = Literal["policy", "banks", "model"]
PARTS: tuple[Part, ...] = ("policy", "banks", "model")
FOLDER = "pins"
_NAME = re.compile(r"\d{6}\.json")
_VERSION = 1
_WAY_OUT = (
    "put it back from a backup; or look at what was pinned before (`nsfwscan pin STORE --show`) and pin anew, with "
    "--clear first"
)


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


class Pin(Frozen):
    """Settings that a store pins. All parts are None where somebody cleared it."""

    pin_version: int = _VERSION
    number: int
    """The first is 1."""
    previous: Sha256 | None = None
    """SHA-256 of the file of the pin before; None for the first."""
    pinned_at: Time
    pinned_by: str
    """User and machine."""
    nsfwscan: str
    policy: PinnedPolicy | None = None
    banks: tuple[PinnedBank, ...] | None = None
    model: PinnedModel | None = None
    sha256: str = Field("", exclude=True)
    """SHA-256 of its file, once it lies in a store."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """Return the parts that are pinned."""
        return tuple(part for part in PARTS if getattr(self, part) is not None)


def current_pin(store: Store) -> Pin | None:
    """Return the last pin of a store, also one that pins nothing; None where there never was one.

    Raises:
        BrokenRecord: its file is not what was written.
    """
    names = _names(store)
    return _read(store, names[-1]) if names else None


def pin_history(store: Store) -> list[Pin | BrokenRecord]:
    """Return all pins of a store, the oldest first; an error in place of one that was changed or does not follow."""
    found: list[Pin | BrokenRecord] = []
    before: str | None = None
    for number, name in enumerate(_names(store), start=1):
        try:
            pin = _read(store, name)
            if pin.number != number or pin.previous != before:
                raise BrokenRecord(_where(store, name), "does not follow: a pin before it was changed or removed")
            found.append(pin)
        except BrokenRecord as error:
            found.append(error)
        before = _digest(store, name)
    return found


def next_pin(store: Store) -> tuple[int, str | None]:
    """Return the number of the next pin, and the SHA-256 of the file of the last one."""
    names = _names(store)
    return (int(names[-1][:6]) + 1, _digest(store, names[-1])) if names else (1, None)


def write_pin(store: Store, pin: Pin) -> Pin:
    """Write a pin, and return it as it lies in the store; from then on it holds.

    Raises:
        RunConflict: another one was written at the same moment.
    """
    name = f"{pin.number:06}.json"
    try:
        store.create(f"{FOLDER}/{name}", to_json(pin.model_dump(mode="json", exclude_none=True)))
    except FileExistsError:
        raise RunConflict(
            f"somebody else pinned other settings of {store.uri} just now: look at them (`nsfwscan pin STORE --show`), "
            "then pin again"
        ) from None
    return _read(store, name)


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


def _names(store: Store) -> list[str]:
    return [name for name in store.names(FOLDER) if _NAME.fullmatch(name)]


def _where(store: Store, name: str) -> str:
    return store.locate(f"{FOLDER}/{name}")


def _digest(store: Store, name: str) -> str:
    return hashlib.sha256(store.read(f"{FOLDER}/{name}")).hexdigest()


def _read(store: Store, name: str) -> Pin:
    data, where = store.read(f"{FOLDER}/{name}"), _where(store, name)
    try:
        pin = Pin.model_validate_json(data, extra="ignore")
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        wrong = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
        raise BrokenRecord(where, f"is broken: it is not what `nsfwscan pin` writes ({wrong})", _WAY_OUT) from None
    if pin.pin_version > _VERSION:
        raise BrokenRecord(where, "was written by a newer nsfwscan", "upgrade it")
    if pin.number != int(name[:6]):
        raise BrokenRecord(where, f"is broken: it is pin {pin.number}", _WAY_OUT)
    return pin.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()})
