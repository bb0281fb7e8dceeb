"""Classify a few images in this process, by the same stages as a scan, without Ray.

Each image gets a `Classification`, in order, even if it cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from typing import Any

import pyarrow as pa

from nsfwscan.banks.bank import resolve_banks
from nsfwscan.banks.matcher import BankSet
from nsfwscan.config import ScanConfig
from nsfwscan.errors import PolicyError
from nsfwscan.execution.gpu_decoding import refuse_undecodable
from nsfwscan.execution.machine import usable_cpus
from nsfwscan.execution.pipeline import cpu_stages, finish, model_stages, opened, pictures_again
from nsfwscan.execution.second_look import SecondLook
from nsfwscan.images.provenance.trust import with_trust
from nsfwscan.models.registry import resolve, resolve_auxiliary
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import load_policy
from nsfwscan.policy.signals import signals_of_row
from nsfwscan.schema import CALIBRATED, EACH_DETECTION, EACH_LINE, LISTING_SCHEMA, Category, Decision, score_column
from nsfwscan.stages.base import fresh, run
from nsfwscan.stages.read import Read
from nsfwscan.workflows.given_images import Picture, given_images

BORDERLINE_MARGIN = 0.2
"""An image is borderline if its two most probable categories are closer than this."""

_AT_ONCE = 32
"""Images in memory at a time."""


@dataclass(frozen=True)
class Match:
    """Entry of a hash bank that an image matches."""

    bank: str
    id: str
    distance: int


@dataclass(frozen=True)
class Classification:
    """Result of the model and the policy for one image.

    Attributes:
        uri: as given; `bytes[3]`, `file[3]`, `image[3]` or `array[3]`, by its index, for what has none.
        status: `ok`, or why there are no scores.
        error: the same reason in words; None with scores.
        scores: probability of each category, most probable first; empty without scores.
        nsfw_score: sum over the NSFW categories, 0 to 1; None without scores.
        decision: the policy's decision.
        rule: the rule that decided.
        borderline: the two most probable categories are close, or the policy decides on review.
        model: `name@digest`; None without scores.
        policy: `name@digest`.
        match: `bank`, the `id` of its entry, and the `distance` in bits; None without a match.
        filtered_by: the filter that settled the image before the model; None if no filter did.
        signals: values of further detectors, the prefilter and the file itself, by name.
        detections: boxes that detectors found: `view`, `detector`, `label`, `score`, `x`, `y`, `w`, `h`, as in a run's
            `detections/`.
        lines: what was read in the picture: `view`, `detector`, `line`, `kind`, `text`, `score`, `x`, `y`, `w`, `h`, as
            in a run's `text/`.
    """

    uri: str
    status: str
    error: str | None
    scores: dict[str, float]
    nsfw_score: float | None
    decision: str
    rule: str
    borderline: bool
    model: str | None
    policy: str
    match: Match | None = None
    filtered_by: str | None = None
    signals: dict[str, float] = field(default_factory=dict)
    detections: list[dict[str, Any]] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)


def classify_images(images: Picture | Iterable[Picture], config: ScanConfig) -> list[Classification]:
    """Classify images in this process, on a GPU if there is one. An iterable is taken a few images at a time.

    Raises:
        NsfwscanError: the model, the policy or a hash bank cannot be loaded; or something is no image at all.
    """
    held: dict[str, bytes] = {}
    config = config.model_copy(update={"decode": with_trust(config.decode, config.storage)})
    spec = resolve(config.model, config.storage)
    decide = Decider(load_policy(config.policy or spec.policy, config.storage))
    if CALIBRATED.name in decide.columns:
        raise PolicyError(
            f"policy {decide.policy.identity} asks for {CALIBRATED.name}, which a calibration in a report store makes; "
            "classify has no store: name another policy"
        )
    found = resolve_banks(config.banks, config.storage)
    banks = BankSet(found, config.storage) if found else None
    beside, threads = resolve_auxiliary(config), usable_cpus()
    refuse_undecodable(config, spec, beside)
    read = Read(config.read, config.storage, held=held)
    scored = model_stages(config, spec, threads=threads, auxiliary_models=beside, again=pictures_again(config, read))
    stages = opened([read, *cpu_stages(config, spec, banks=banks, auxiliary_models=beside)[1:], *scored])
    look = SecondLook(config.views, lambda listing: finish(run(stages, fresh(listing))))
    classified: list[Classification] = []
    given = given_images(images, config.read.max_bytes)
    while some := list(islice(given, _AT_ONCE)):
        held |= {one.uri: one.data for one in some if one.data is not None}
        listing = pa.Table.from_pylist([{"uri": one.uri} for one in some], schema=LISTING_SCHEMA)
        rows = look(finish(run(stages, fresh(listing))))
        decisions = decide(rows).to_pylist()
        classified += [
            _classification({**row, **decision}) for row, decision in zip(rows.to_pylist(), decisions, strict=True)
        ]
        held.clear()
    return classified


def _classification(row: dict[str, Any]) -> Classification:
    found = [(str(c), row[score_column(c)]) for c in Category if row[score_column(c)] is not None]
    scores = dict(sorted(found, key=lambda score: -score[1]))
    best, second, *_ = [*scores.values(), inf, -inf]
    close = len(scores) > 1 and best - second < BORDERLINE_MARGIN
    return Classification(
        uri=row["uri"],
        status=row["status"],
        error=row["error"],
        scores=scores,
        nsfw_score=row["nsfw_score"],
        decision=row["decision"],
        rule=row["rule"],
        borderline=close or row["decision"] == Decision.REVIEW,
        model=row["model"],
        policy=row["policy"],
        match=row["match_kind"] and Match(row["match_bank"], row["match_id"], row["match_distance"]),
        filtered_by=row["filtered_by"],
        signals=signals_of_row(row["signals"]),
        detections=row[EACH_DETECTION.name] or [],
        lines=[{k: v for k, v in one.items() if k not in ("sealed", "key")} for one in row[EACH_LINE.name] or []],
    )
