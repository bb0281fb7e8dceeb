"""Pin a store's default policy, banks and model, and go by them where a command leaves an option out.

`pin_settings` and `clear_pin` write a pin; `Pinned` is what a command goes by. A pinned policy, bank or model that
cannot be read, or is another than when it was pinned, stops the command at once: nothing is decided by another law than
the store's without a word.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import nsfwscan
from nsfwscan.banks.bank import BankSpec, resolve_banks
from nsfwscan.config import BankConfig, ModelConfig, ScanConfig, StorageConfig
from nsfwscan.errors import BankError, BrokenRecord, ConfigError, ModelError, NsfwscanError, PolicyError
from nsfwscan.location import Location
from nsfwscan.models.registry import resolve
from nsfwscan.models.spec import ModelSpec
from nsfwscan.policy.rules import Policy, load_policy, preset_names
from nsfwscan.runs.differences import of_banks, of_models, of_policies
from nsfwscan.runs.pins import (
    HISTORY,
    PARTS,
    Part,
    Pin,
    PinnedBank,
    PinnedModel,
    PinnedPolicy,
    current_pin,
    write_pin,
)
from nsfwscan.runs.record.inputs import BankRecord, DifferenceRecord, ModelRecord, PinRecord, PolicyRecord
from nsfwscan.storage.store import Store, to_json
from nsfwscan.text import redacted
from nsfwscan.workflows.finalize import now


def pin_settings(store: Store, config: ScanConfig) -> tuple[Pin, bool]:
    """Pin the policy, the banks and the model that a configuration gives; the parts that it leaves out stay pinned.

    Returns:
        the pin that holds, and whether it is a new one: settings that are pinned already are not pinned again.

    Raises:
        ConfigError: the configuration gives nothing to pin, or a place with a secret in it.
        NsfwscanError: a policy, bank or model cannot be read.
    """
    given = _given(config)
    if not given:
        raise ConfigError("nothing to pin: give --policy, --bank or --model; or --show what is pinned, or --clear it")
    new: dict[str, Any] = {}
    if "policy" in given and config.policy is not None:
        new["policy"] = _policy(config.policy, config.storage)
    if "banks" in given:
        new["banks"] = tuple(map(_bank, resolve_banks(config.banks, config.storage)))
    if "model" in given:
        new["model"] = _model(config.model, config.storage)
    held = current_pin(store)
    if held is not None and all(getattr(held, part) == value for part, value in new.items()):
        return held, False
    kept: dict[str, Any] = {} if held is None else {part: getattr(held, part) for part in held.parts}
    return _write(store, {**kept, **new}), True


def clear_pin(store: Store) -> bool:
    """Write a pin that pins nothing, also over a broken one. Return False where nothing is pinned."""
    try:
        held = current_pin(store)
        if held is None or not held.parts:
            return False
    except BrokenRecord:  # replacing it is what clearing is for
        pass
    _write(store, {})
    return True


def _write(store: Store, parts: dict[str, Any]) -> Pin:
    number, previous = HISTORY.next(store)
    by = {"pinned_at": now(), "pinned_by": somebody(), "nsfwscan": nsfwscan.__version__}
    return write_pin(store, Pin(number=number, previous=previous, **by, **parts))


def somebody() -> str:
    """Return user and machine, as `user@host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user has no name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _policy(source: str, storage: StorageConfig) -> PinnedPolicy:
    place = source if source in preset_names() else Location.of(source).absolute().uri
    policy = load_policy(place, storage)
    return PinnedPolicy(source=_shown(place), record=PolicyRecord.model_validate_json(to_json(PolicyRecord.of(policy))))


def _bank(spec: BankSpec) -> PinnedBank:
    _shown(spec.config.uri)
    return PinnedBank(config=spec.config, record=_bank_record(spec))


def _bank_record(spec: BankSpec) -> BankRecord:
    return BankRecord.model_validate_json(to_json(spec.as_json()))


def _model(config: ModelConfig, storage: StorageConfig) -> PinnedModel:
    uri = Location.of(config.uri).absolute().uri if os.path.isdir(config.uri) else config.uri
    named = ModelConfig(uri=_shown(uri), labels=config.labels)
    return PinnedModel(config=named, record=ModelRecord(**ModelRecord.of(resolve(named, storage))))


def _shown(uri: str) -> str:
    """Return a place that may be written down. Raises ConfigError where it seems to hold a secret."""
    if redacted(uri) != uri:
        raise ConfigError(
            f"{uri} cannot be pinned: it seems to hold a secret, and everybody who reads the store reads it"
        )
    return uri


def _given(config: ScanConfig) -> set[Part]:
    """Return which parts a configuration gives, be it by an option, a file or a preset."""
    found: set[Part] = {part for part in ("policy", "banks") if part in config.model_fields_set}
    return found | ({"model"} if "uri" in config.model.model_fields_set else set())


@dataclass(frozen=True)
class Pinned:
    """A store's pin, and what a command takes from it, since nothing else was given."""

    pin: Pin | None = None
    used: tuple[Part, ...] = ()

    @classmethod
    def of(cls, store: Store, left_out: Collection[str]) -> Pinned:
        """Return the pin of a store for a command that needs some parts and was not given them."""
        pin = current_pin(store)
        if pin is None or not pin.parts:
            return cls()
        return cls(pin, tuple(part for part in pin.parts if part in left_out))

    @classmethod
    def for_scan(cls, store: Store, config: ScanConfig) -> tuple[Pinned, ScanConfig]:
        """Return the pin of a store, and the configuration with the pinned parts in place of those left out."""
        pinned = cls.of(store, set(PARTS) - _given(config))
        update: dict[str, Any] = {}
        if pinned.policy_source is not None:
            update["policy"] = pinned.policy_source
        if pinned.banks:
            update["banks"] = pinned.banks
        if pinned.pin is not None and pinned.pin.model is not None and "model" in pinned.used:
            named = pinned.pin.model.config
            labels = {**named.labels, **config.model.labels}
            update["model"] = config.model.model_copy(update={"uri": named.uri, "labels": labels})
        return pinned, config.model_copy(update=update)

    @property
    def policy_source(self) -> str | None:
        """File or name of the pinned policy; None where it is not used."""
        return self.pin.policy.source if self.pin and self.pin.policy and "policy" in self.used else None

    @property
    def banks(self) -> tuple[BankConfig, ...]:
        """Return the pinned banks; none where they are not used."""
        return tuple(bank.config for bank in self.pin.banks or ()) if self.pin and "banks" in self.used else ()

    def load_policy(self, source: str, storage: StorageConfig) -> Policy:
        """Read a policy. Raises PolicyError, also where it is the pinned one and another than it was."""
        with self._reading("policy"):
            found = load_policy(source, storage)
            if self.policy_source is not None and self.pin and self.pin.policy:
                was = self.pin.policy.record.identity
                if found.identity != was:
                    raise PolicyError(f"the policy {source} was changed: it is {found.identity}, and was {was}")
        return found

    def resolve_banks(self, configs: Sequence[BankConfig], storage: StorageConfig) -> tuple[BankSpec, ...]:
        """Read banks. Raises BankError, also where they are the pinned ones and one is another than it was."""
        with self._reading("banks"):
            found = resolve_banks(tuple(configs), storage)
            if self.banks and self.pin:
                for spec, pinned in zip(found, self.pin.banks or (), strict=True):
                    if spec.content != pinned.record.sha256:
                        was, now_is = pinned.record.sha256[:16], spec.content[:16]
                        raise BankError(
                            f"bank {spec.name}: {spec.config.uri} was changed: its SHA-256 is {now_is}…, and was {was}…"
                        )
        return found

    def resolve_model(self, config: ModelConfig, storage: StorageConfig) -> ModelSpec:
        """Find a model. Raises ModelError, also where it is the pinned one and another than it was."""
        with self._reading("model"):
            found = resolve(config, storage)
            if self.pin and self.pin.model and "model" in self.used and found.digest != self.pin.model.record.sha256:
                was = self.pin.model.record.identity
                raise ModelError(f"the model {config.uri} was changed: it is {found.identity}, and was {was}")
        return found

    @contextmanager
    def _reading(self, part: Part) -> Iterator[None]:
        """Add to an error that it is about what the store pins, and what to do."""
        try:
            yield
        except NsfwscanError as error:
            if part not in self.used or self.pin is None:
                raise
            option = {"policy": "--policy", "banks": "--bank", "model": "--model"}[part]
            raise type(error)(
                f"{error}\nthe store pins it (pin {self.pin.number}, by {self.pin.pinned_by} at {self.pin.pinned_at}), "
                f"and the command leaves {option} out: put back what was pinned (`nsfwscan pin STORE --show`), pin "
                f"what is there now (`nsfwscan pin STORE {option} …`), or give {option} for this run alone"
            ) from error

    def record(
        self, policy: Policy, banks: Sequence[BankSpec] | None = None, model: ModelSpec | None = None
    ) -> PinRecord | None:
        """Return the section of `run.json`; None where nothing is pinned.

        Args:
            policy, banks, model: what the run goes by; unset: it asks for no bank, or for no model.
        """
        pin = self.pin
        if pin is None:
            return None
        others: list[DifferenceRecord] = []
        if pin.policy is not None:
            others += of_policies(pin.policy.record, PolicyRecord.model_validate_json(to_json(PolicyRecord.of(policy))))
        if pin.banks is not None and banks is not None:
            others += of_banks([bank.record for bank in pin.banks], list(map(_bank_record, banks)))
        if pin.model is not None and model is not None:
            others += of_models(pin.model.record, ModelRecord(**ModelRecord.of(model)))
        return PinRecord(
            number=pin.number,
            sha256=pin.sha256,
            pinned_at=pin.pinned_at,
            pinned_by=pin.pinned_by,
            used=self.used,
            others=tuple(others),
        )
