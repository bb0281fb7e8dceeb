"""Say what is odd in what a run is given, as it begins: in policies, gates and lists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nsfwscan.config import ScanConfig
from nsfwscan.models.spec import AuxiliaryModels, ModelSpec, digests_of
from nsfwscan.policy.lint import bank_notes, model_notes
from nsfwscan.policy.rules import Policy
from nsfwscan.texts.alphabet import unread_notes
from nsfwscan.workflows.lacking import Given, run_notes


def start_notes(
    config: ScanConfig, policy: Policy, shadows: Iterable[Policy], spec: ModelSpec, beside: AuxiliaryModels
) -> Iterator[tuple[str, str]]:
    """Yield sentences, each behind what it is about: `policy` or `patterns`. Raises ModelError where patterns are given
    and the reader's letters are not known."""
    for note in bank_notes(policy, [(bank.name, bank.kind) for bank in config.banks]):
        yield "policy", note
    for note in model_notes(policy, digests_of(spec, beside)):
        yield "policy", note
    for note in run_notes(policy, shadows, Given.of_models(config, spec, beside)):
        yield "policy", note
    for note in unread_notes(beside.lists):
        yield "patterns", note
