"""Evaluate checkpoints: scan the held-out images, as any other scan would, and measure the report.

OUT then holds `evaluation.html`, `evaluation.json` with every figure, `predictions.csv` with a line for each image and
model, `false_positives.csv`, and `scan/`, the report store. A checkpoint that does not load or does not know the data's
categories, and an OUT that cannot be written, are `NsfwscanError`s before any image is read. The same command, after a
kill, goes on with the same scan; after the end it measures the same report again.

    check ─► prepare ─► list the held-out images ─► scan with each model ─► figures ─► lists, page
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nsfwscan
from nsfwscan.config import ModelConfig, StorageConfig, digest_of
from nsfwscan.errors import BalanceError, ModelError, NsfwscanError
from nsfwscan.execution.ray_session import check_reachable
from nsfwscan.location import Location
from nsfwscan.models.registry import resolve
from nsfwscan.models.spec import ModelSpec
from nsfwscan.schema import Category
from nsfwscan.storage.failures import in_words
from nsfwscan.storage.output import Output
from nsfwscan.storage.store import Store, to_json
from training.config import DataConfig
from training.data.dataset import Prepared, prepare
from training.data.sources import list_examples
from training.data.thumbnails import pictures_of
from training.evaluate.audit import audit, shown
from training.evaluate.config import Candidate, EvaluateConfig
from training.evaluate.evaluation import EvaluatedModel, evaluation, shared_task
from training.evaluate.held_out import HELD_OUT, Manifest, copies_of_false_positives, read_predictions, write_manifest
from training.evaluate.page import render
from training.evaluate.policy_file import policy_text
from training.evaluate.predictions import false_positive_csv, predictions_csv
from training.places import absolute, open_out
from training.progress import ProgressCallback, ScanProgress, quiet

if TYPE_CHECKING:
    from nsfwscan.workflows.scan import ScanResult

Scan = Callable[..., "ScanResult"]
"""`nsfwscan.scan`."""

PAGE, FIGURES = "evaluation.html", "evaluation.json"
PREDICTIONS, FALSE_POSITIVES = "predictions.csv", "false_positives.csv"
_RATES = ("max_error_rate", "max_unsupported_rate", "max_deleted_rate")
_PLACES = (
    ("the page", PAGE),
    ("all figures", FIGURES),
    ("false positives", FALSE_POSITIVES),
    ("every image", PREDICTIONS),
)


@dataclass(frozen=True)
class EvaluationResult:
    """A finished evaluation: its folder, the content of `evaluation.json`, and the policy that it wrote."""

    uri: str
    record: dict[str, Any]
    policy: str | None = None

    def describe(self) -> list[str]:
        """Return the lines that a person reads at the end."""
        models = self.record["models"]
        lines = [line for model in models for line in _about(model, shared_task(models))]
        if compared := self.record["comparison"]:
            lines.append(_about_difference(compared["classes"] or compared["nsfw"]))
        lines += [f"{what}: {self.uri}/{name}" for what, name in _PLACES]
        return [*lines, f"policy: {self.policy} (nsfwscan scan … --policy {self.policy})"] if self.policy else lines


def evaluate(
    config: EvaluateConfig, data: DataConfig, storage: StorageConfig, scan: Scan, progress: ProgressCallback = quiet
) -> EvaluationResult:
    """Scan the held-out images, and write figures, lists and page.

    Args:
        scan: has the shape of `nsfwscan.scan`; nothing here knows how it is executed.

    Raises:
        NsfwscanError: see the module; finished work is kept.
    """
    check_reachable(config.cluster)
    store = open_out(config.out, storage)
    policy = config.write_policy and Output.given(config.write_policy, store.storage, "--write-policy")
    candidates = [c.model_copy(update={"uri": absolute(c.uri)}) for c in config.candidates]
    specs = [resolve(ModelConfig(uri=c.uri, labels=c.labels), store.storage) for c in candidates]
    if len(specs) == 2 and specs[0].digest == specs[1].digest:
        raise ModelError(f"{specs[0].uri} and {specs[1].uri} have the same weights: there is nothing to compare")
    listing = list_examples(data, storage)
    for spec in specs:
        _check_labels(spec, listing.labels)
    prepared = prepare(data, storage, progress, listing=listing)
    manifest = write_manifest(prepared, on_cluster=config.cluster is not None)
    evaluated = _scan_all(
        _Scanning(config, data, storage, store, scan, progress, prepared, manifest), candidates, specs
    )
    record = evaluation(evaluated, prepared, data)
    _write(record, evaluated, prepared, data, store, config.thumbnails, progress)
    if policy:
        text = policy_text(record)
        with in_words(f"cannot write {policy}"), policy.appearing() as path:
            path.write_text(text, encoding="utf-8")
    return EvaluationResult(store.uri, record, str(policy) if policy else None)


def _check_labels(spec: ModelSpec, labels: Sequence[Category]) -> None:
    """Raise ModelError where neither the classes nor the two sides can be measured.

    A binary checkpoint, or binary data, leave NSFW against safe to be measured.
    """
    unknown = [label for label in labels if label not in spec.categories]
    if unknown and Category.NSFW not in (*spec.categories, *labels):
        raise ModelError(
            f"{spec.uri} does not know {', '.join(map(repr, map(str, unknown)))}, which the data have; it knows "
            f"{', '.join(map(str, spec.known))}. If one of its labels means it, say so with --model-label"
        )


@dataclass(frozen=True)
class _Scanning:
    """Everything that the scans of all candidates share."""

    config: EvaluateConfig
    data: DataConfig
    source: StorageConfig
    store: Store
    scan: Scan
    progress: ProgressCallback
    prepared: Prepared
    manifest: Manifest

    def run_id(self, spec: ModelSpec) -> str:
        """Return the same id for the same weights, images and settings, so that the same command goes on."""
        config, data = self.config, self.data
        settings = [config.dtype, config.batch_size, data.read.max_bytes, data.decode.model_dump(mode="json")]
        meaning = dict(zip(spec.labels, map(str, spec.categories), strict=True))
        images = [self.prepared.fingerprint, str(self.manifest.path)]
        return f"evaluation-{digest_of([nsfwscan.__version__, spec.digest, meaning, images, settings])[:32]}"

    def run(self, candidate: Candidate, spec: ModelSpec) -> ScanResult:
        """Scan the images by default settings, but keep the report whatever it says. Raises NsfwscanError."""
        try:
            return self.scan(
                str(self.manifest.path),
                self.store.locate("scan"),
                run_id=self.run_id(spec),
                progress=ScanProgress(self.progress, f"scanned with {spec.name}"),
                source={"allow": self.manifest.roots, "truth": "none"},
                storage=self.source.model_dump(),
                out_storage=self.store.storage.model_dump(),
                read=self.data.read.model_dump(),
                decode=self.data.decode.model_dump(),
                model=candidate.model_dump() | self.config.model_dump(include={"dtype", "batch_size"}),
                report={"save_images": True} | dict.fromkeys(_RATES, 1.0),
                previous={"reuse": False},
                engine={"address": self.config.address, "num_cpus": self.config.num_cpus},
            )
        except BalanceError as error:
            raise NsfwscanError(f"the scan of the held-out images does not balance: {error}") from error


def _scan_all(scanning: _Scanning, candidates: list[Candidate], specs: list[ModelSpec]) -> list[EvaluatedModel]:
    evaluated: list[EvaluatedModel] = []
    for candidate, spec in zip(candidates, specs, strict=True):
        result = scanning.run(candidate, spec)
        predictions = read_predictions(scanning.prepared, scanning.manifest, result, scanning.store)
        _check_scored(spec, predictions["test"].rows)
        copies = copies_of_false_positives(scanning.manifest, result, scanning.store)
        training = _training_record(candidate.uri, scanning.store.storage)
        evaluated.append(EvaluatedModel(spec, result, predictions, copies, training))
    return evaluated


def _check_scored(spec: ModelSpec, rows: list[dict[str, Any]]) -> None:
    if all(row["nsfw_score"] is None for row in rows):
        first = rows[0]
        raise ModelError(
            f"{spec.uri} scored none of the {len(rows):,} test images: {first['error']} ({first['status']})"
        )


def _training_record(uri: str, storage: StorageConfig) -> dict[str, Any] | None:
    """Return `training.json` beside a checkpoint; None without one."""
    place = Location.of(uri)
    if place.is_local and not os.path.isdir(place.path):  # embedded, or from the hub
        return None
    with suppress(NsfwscanError):  # then it is only not known what the checkpoint learned from
        return Store.at(uri, storage).read_json("training.json")
    return None


def _write(
    record: dict[str, Any],
    evaluated: list[EvaluatedModel],
    prepared: Prepared,
    data: DataConfig,
    store: Store,
    thumbnails: bool,
    progress: ProgressCallback,
) -> None:
    """Write the lists, the figures, and last of all the page."""
    found = audit(evaluated)
    store.write(PREDICTIONS, predictions_csv(evaluated, HELD_OUT))
    store.write(FALSE_POSITIVES, false_positive_csv(found))
    store.write(FIGURES, to_json(record))
    pictures = None
    if thumbnails:
        numbers = sorted({one.number for one in shown(found)})
        pictures = pictures_of(prepared.splits["test"], numbers, data.decode, progress)
    store.write(PAGE, render(record, found, pictures).encode())


def _about(model: dict[str, Any], task: str) -> list[str]:
    main, unscored = model[task], model["unscored"]["test"]["count"]
    of_what = "" if task == "classes" else " (NSFW against safe)"
    left_out = f", {unscored:,} more without a score" if unscored else ""
    found, doubt = model["false_positive_rate"], model["held_out"]
    lines = [
        f"{model['title']}: {main['images']:,} test images{left_out}, accuracy {_shown(main['accuracy'])}{of_what}, "
        f"macro-F1 {_shown(main['macro_f1'])}",
        f"  {found['false_positives']:,} of {found['neutral']:,} neutral images called NSFW",
    ]
    if chosen := model["operating_points"][0]["chosen"]:
        test = chosen["on_test"]
        lines.append(
            f"  nsfw_score >= {chosen['threshold']}, chosen for 1% false positives: NSFW found "
            f"{_shown(test['recall'])}, safe flagged {_shown(test['false_positive_rate'])}"
        )
    if not doubt["is_known"]:
        lines.append(f"  it may have learned from these images: {doubt['why']}")
    return lines


def _about_difference(found: dict[str, Any]) -> str:
    p_value = "–" if found["p_value"] is None else f"{found['p_value']:.3g}"
    return f"difference in accuracy {_shown(found['difference'])}, p = {p_value} (McNemar)"


def _shown(estimate: dict[str, Any]) -> str:
    if estimate["value"] is None:
        return "not known"
    return f"{estimate['value']:.4f} ({estimate['low']:.4f} to {estimate['high']:.4f})"
