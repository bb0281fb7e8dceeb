"""A training from its data to a checkpoint that a scan takes; stopped and resumed; and what is refused before it."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pyarrow.parquet as pq
import pytest

from nsfwscan.config import ModelConfig, ScanConfig, StorageConfig
from nsfwscan.errors import ModelError, RunConflict, SourceError, StoreError
from nsfwscan.execution.inline import run_inline
from nsfwscan.models.learned import learned_parquet
from nsfwscan.models.registry import resolve
from nsfwscan.reports.progress import Silent
from nsfwscan.storage.store import Store
from nsfwscan.workflows.scan import run_scan
from tests import checkpoints
from tests.later import later
from tests.permissions import unprivileged
from tests.s3.servers import S3Endpoint
from tests.training.conftest import TRAINED, Bench, Heard, Stopped
from tests.training.stand_in import LABELS, mean_colour_accuracy, write_folders
from training.config import DataConfig

if TYPE_CHECKING:
    from training.fit.fit import TrainingResult

dataset = later("training.data.dataset")
fit = later("training.fit.fit")
events = later("tensorboard.backend.event_processing.event_accumulator")


def test_a_small_model_learns_what_colours_do_not_tell(bench: Bench, trained: TrainingResult) -> None:
    """A ResNet from scratch is right on 95 % of the test split, where a classifier by mean colour stays under 40 %."""
    splits = dataset.prepare(bench.data, StorageConfig()).splits
    colours = {side: [(row["bytes"], row["label"]) for row in splits[side]] for side in ("train", "test")}
    assert mean_colour_accuracy(colours["train"], colours["test"]) < 0.40
    assert trained.record["metrics"]["test"]["accuracy"] >= 0.95
    assert trained.record["metrics"]["test"]["images"] == len(splits["test"]) == 80


def test_the_checkpoint_goes_into_a_scan(bench: Bench, trained: TrainingResult, tmp_path: Path) -> None:
    """`nsfwscan scan --model DIR` takes the directory as it is: the labels are the truth, the digest is the card's."""
    media = write_folders(tmp_path / "media", each=6, seed=1)
    config = ScanConfig.load(
        None, {"source": {"uris": [str(media)]}, "out": str(tmp_path / "out"), "model": {"uri": trained.uri}}
    )
    result = run_scan(config, "test", run_inline, Silent())
    rows = [row for uri in result.report_files for row in pq.read_table(io.BytesIO(Path(uri).read_bytes())).to_pylist()]
    assert {row["model"] for row in rows} == {f"checkpoint@{trained.record['digest'][:16]}"}
    assert [row["label"] == row["truth"] for row in rows].count(True) >= 28
    assert len(rows) == 30


def test_the_directory_is_whole(trained: TrainingResult) -> None:
    """Safetensors, labels by name, preprocessor, card, record and curves lie there; no checkpoint on the way does."""
    folder = Path(trained.uri)
    there = {path.name for path in folder.iterdir()}
    assert ("temperature.json" in there) == (trained.record["calibration"]["temperature"] is not None)
    assert there - {"temperature.json"} == {
        *(
            "config.json",
            "learned.parquet",
            "model.safetensors",
            "preprocessor_config.json",
            "model_card.md",
            "training.json",
        ),
        *("tensorboard", "state"),
    }
    assert not (folder / "state" / "checkpoints").exists()
    spec = resolve(ModelConfig(uri=trained.uri), StorageConfig())
    assert (spec.labels, spec.digest) == (LABELS, trained.record["digest"])


def test_it_lists_what_it_learned_from(bench: Bench, trained: TrainingResult) -> None:
    """By content and split, as a scan digests files; nothing of the test split is there."""
    listed = pq.read_table(Path(trained.uri) / "learned.parquet").to_pylist()
    splits = dataset.prepare(bench.data, StorageConfig()).splits
    of = {split: {hashlib.sha256(row["bytes"]).hexdigest() for row in splits[split]} for split in splits}
    assert {split: {one["sha256"] for one in listed if one["split"] == split} for split in ("train", "validation")} == {
        split: of[split] for split in ("train", "validation")
    }
    assert not of["test"] & {one["sha256"] for one in listed} and {one["split"] for one in listed} <= of.keys()


def test_it_lists_what_its_backbone_learned_from_too(small_bench: Bench, tmp_path: Path) -> None:
    backbone = shutil.copytree(small_bench.backbone, tmp_path / "backbone")
    (backbone / "learned.parquet").write_bytes(learned_parquet({"train": ["0" * 64]}))
    made = replace(small_bench, backbone=backbone).train(tmp_path / "out", epochs=1)
    listed = pq.read_table(Path(made.uri) / "learned.parquet").to_pylist()
    assert [one["split"] for one in listed if one["sha256"] == "0" * 64] == ["backbone"] and len(listed) > 100


def test_everything_is_recorded(bench: Bench, trained: TrainingResult) -> None:
    """training.json holds settings, data, backbone, versions, seeds, every epoch's figures and the final ones."""
    record = json.loads((Path(trained.uri) / "training.json").read_text())
    assert record == trained.record
    assert record["settings"]["seed"] == 0 and record["settings"]["learning_rate"] == 5e-3
    assert record["data"]["fingerprint"] == dataset.prepare(bench.data, StorageConfig()).fingerprint
    assert record["data"]["counts"]["train"] == dict.fromkeys(LABELS, 128)
    assert record["versions"]["torch"] and record["versions"]["nsfwscan"]
    epochs = [entry["eval_accuracy"] for entry in record["history"] if "eval_accuracy" in entry]
    assert len(epochs) == 5 and record["best"]["value"] == max(epochs)
    assert record["metrics"]["validation"]["accuracy"] == pytest.approx(max(epochs))


def test_the_card_has_the_figures(trained: TrainingResult) -> None:
    """model_card.md shows the digest, the fingerprint, the counts and the test split's figures, and its limits."""
    card = (Path(trained.uri) / "model_card.md").read_text()
    test = trained.record["metrics"]["test"]
    assert trained.record["digest"] in card and trained.record["data"]["fingerprint"] in card
    assert f"| test | 80 | {test['accuracy']:.4f} | {test['macro_f1']:.4f} |" in card
    for label, found in test["classes"].items():
        assert f"| `{label}` | 16 | {found['precision']:.4f} | {found['recall']:.4f} | {found['f1']:.4f} |" in card
    assert "| train | 128 | 128 | 128 | 128 | 128 |" in card
    assert "only 80 images" in card
    temperature = trained.record["calibration"]["temperature"]
    assert ("divided by the temperature" in card) == (temperature is not None)
    assert temperature is None or f"divided by the temperature {temperature:.3f}" in card


def test_the_temperature_is_applied_by_scans(trained: TrainingResult) -> None:
    """The temperature that fits the validation split best is shipped, and is in the digest and the scores of a scan; none
    where all of it is right, as on some processors."""
    if trained.record["calibration"]["temperature"] is None:
        assert resolve(ModelConfig(uri=trained.uri), StorageConfig()).temperature is None
        return
    shipped = json.loads((Path(trained.uri) / "temperature.json").read_text())
    assert shipped["temperature"] == trained.record["calibration"]["temperature"]
    assert shipped["fitted_on"]["images"] == 80
    spec = resolve(ModelConfig(uri=trained.uri), StorageConfig())
    assert spec.temperature == shipped["temperature"]


def test_curves(trained: TrainingResult) -> None:
    """TensorBoard reads a loss for steps and figures of the validation split for every epoch."""
    curves = events.EventAccumulator(str(Path(trained.uri) / "tensorboard"))
    curves.Reload()
    assert [point.step for point in curves.Scalars("validation/accuracy")] == [40 * epoch for epoch in range(1, 6)]
    losses = [point.value for point in curves.Scalars("train/loss")]
    assert losses[-1] < losses[0] / 3


def test_described(trained: TrainingResult) -> None:
    """At the end a person is told the test split's figures, the digest, and how to scan with it."""
    said = fit.describe(trained)
    assert f"accuracy {trained.record['metrics']['test']['accuracy']:.4f}" in said
    assert trained.record["digest"][:16] in said and f"--model {trained.uri}" in said


@pytest.fixture(scope="module")
def undisturbed(small_bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    return small_bench.train(tmp_path_factory.mktemp("undisturbed") / "out", checkpoint_steps=3)


@pytest.mark.parametrize(
    "stops",
    [
        pytest.param(["step 5 of", "step 8 of"], id="within an epoch", marks=pytest.mark.full),
        pytest.param(["epoch 1 of", "step 14 of"], id="at its end", marks=pytest.mark.full),
        pytest.param(
            ["step 2 of", "step 20 of"], id="before a checkpoint, and at the last step", marks=pytest.mark.full
        ),
    ],
)
def test_stopped_twice_it_ends_as_if_never(
    small_bench: Bench, undisturbed: TrainingResult, tmp_path: Path, stops: list[str]
) -> None:
    """A training that was stopped anywhere and submitted again ends with the same weights, to the bit."""
    for stop in stops:
        with pytest.raises(Stopped):
            small_bench.train(tmp_path / "out", Heard(stop_at=stop), checkpoint_steps=3)
    heard = Heard()
    outcome = small_bench.train(tmp_path / "out", heard, checkpoint_steps=3)
    assert outcome.record["digest"] == undisturbed.record["digest"]
    assert outcome.record["metrics"] == undisturbed.record["metrics"]
    assert outcome.record["attempts"] == 3
    assert any(line.startswith("going on after step") for line in heard.lines)


@pytest.mark.long
def test_resumed_from_s3(small_bench: Bench, undisturbed: TrainingResult, moto: S3Endpoint) -> None:
    """Checkpoints on S3 are gone on from, and the finished one is scanned with from there."""
    boto3.client("s3").create_bucket(Bucket="training")
    out = "s3://training/models/vit"
    with pytest.raises(Stopped):
        small_bench.train(out, Heard(stop_at="step 14 of"), checkpoint_steps=3)
    outcome = small_bench.train(out, checkpoint_steps=3)
    assert outcome.record["digest"] == undisturbed.record["digest"]
    assert resolve(ModelConfig(uri=out), StorageConfig()).digest == outcome.record["digest"]
    store = Store.at(out, StorageConfig())
    assert store.names("state/checkpoints") == [] and store.names("tensorboard")


def test_finished_is_finished(bench: Bench, trained: TrainingResult) -> None:
    """The same command again says that it is done, and touches nothing."""
    before = {path: path.stat().st_mtime_ns for path in Path(trained.uri).rglob("*") if path.is_file()}
    heard = Heard()
    again = bench.train(trained.uri, heard, **TRAINED)
    assert not again.is_new and again.record == trained.record
    assert heard.lines == [f"{trained.uri} is finished already; nothing was done"]
    assert {path: path.stat().st_mtime_ns for path in Path(trained.uri).rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"learning_rate": 1e-4}, r"learning_rate: 0\.005 then, 0\.0001 now"),
        ({"epochs": 3, "augment": False}, r"epochs: 5 then, 3 now\n  augment: True then, False now"),
    ],
)
def test_other_settings_are_refused(
    bench: Bench, trained: TrainingResult, changed: dict[str, Any], message: str
) -> None:
    """A training cannot go on with other settings; what differs is named."""
    with pytest.raises(RunConflict, match=message):
        bench.train(trained.uri, **TRAINED | changed)


def test_other_labels_are_refused(bench: Bench, trained: TrainingResult, tmp_path: Path) -> None:
    """A checkpoint of another label set is not gone on from: both sets are named."""
    data = DataConfig(
        uris=(str(write_folders(tmp_path / "three", each=30, labels=("neutral", "porn"))),),
        cache=str(tmp_path / "cache"),
    )
    with pytest.raises(RunConflict, match=r"labels: drawings, hentai, neutral, porn, sexy then, neutral, porn now"):
        bench.train(trained.uri, data=data, **TRAINED)


def test_other_images_are_refused(bench: Bench, trained: TrainingResult, tmp_path: Path) -> None:
    """Nor with other data of the same labels."""
    data = DataConfig(uris=(str(write_folders(tmp_path / "other", each=20, seed=9)),), cache=str(tmp_path / "cache"))
    with pytest.raises(RunConflict, match=r"data: [0-9a-f]{64} then, [0-9a-f]{64} now"):
        bench.train(trained.uri, data=data, **TRAINED)


def test_another_backbone_is_refused(bench: Bench, trained: TrainingResult, tmp_path: Path) -> None:
    """Nor from another backbone, were it only by its weights; the same one may lie elsewhere."""
    other = replace(bench, backbone=checkpoints.make_vit(tmp_path / "vit"))
    with pytest.raises(RunConflict, match="backbone: "):
        other.train(trained.uri, **TRAINED)


def test_a_foreign_directory_is_left_alone(small_bench: Bench, tmp_path: Path) -> None:
    """A directory with somebody else's checkpoint is not written over."""
    foreign = checkpoints.make_vit(tmp_path / "foreign")
    with pytest.raises(RunConflict, match="holds a checkpoint that was not trained there"):
        small_bench.train(foreign)
    assert {path.name for path in foreign.iterdir() if path.is_file()} == {
        *("config.json", "model.safetensors", "preprocessor_config.json"),
    }


def test_a_full_disk_is_said_before(small_bench: Bench, small_disk: Path) -> None:
    """Without room for the checkpoints nothing starts, and the message says how much is needed."""
    (small_disk / "filler").write_bytes(bytes(2 * 2**20))
    with pytest.raises(
        StoreError, match=r"no room in .*: 2 MiB are free, and checkpoints of this model take up to 5 MiB"
    ):
        small_bench.train(small_disk / "out")


@pytest.mark.long
def test_a_disk_that_fills_up_can_be_gone_on_from(small_bench: Bench, small_disk: Path, tmp_path: Path) -> None:
    """A disk that fills up later ends the attempt with a clear error; with room again the training goes on, the same."""
    out = small_disk / "out"
    filler = small_disk / "filler"

    class Filling(Heard):
        def say(self, line: str) -> None:
            super().say(line)
            if line.startswith("step 7 of"):
                with filler.open("wb", buffering=0) as file:
                    try:
                        while file.write(bytes(65536)) == 65536:
                            pass
                    except OSError:
                        pass

    small = {"checkpoint_steps": 3, "freeze_backbone": True}
    with pytest.raises(StoreError, match="the store is full"):
        _train_without_looking(small_bench, out, Filling(), **small)
    filler.unlink()
    heard = Heard()
    outcome = _train_without_looking(small_bench, out, heard, **small)
    assert "going on after step 6" in heard.lines
    assert outcome.record["digest"] == small_bench.train(tmp_path / "undisturbed", **small).record["digest"]


def _train_without_looking(bench: Bench, out: Path, heard: Heard, **changed: Any) -> TrainingResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.fit.fit.check_room", lambda *_: None)  # the disk is small from the start
        return bench.train(out, heard, **changed)


def test_an_output_that_cannot_be_written(small_bench: Bench, tmp_path: Path) -> None:
    """A directory where nothing may be written is said before the data are read."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    with unprivileged(), pytest.raises(StoreError, match=r"cannot write .*: Permission denied"):
        small_bench.train(closed / "out")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ("nothing", "no such model directory"),
        ("no preprocessor", r"no preprocessor_config\.json"),
        ("no weights", "no safetensors"),
        ("padding", "does not resize, or pads"),
    ],
)
def test_a_backbone_that_does_not_serve(small_bench: Bench, tmp_path: Path, made: str, message: str) -> None:
    """A backbone that is not there, not whole, or prepares images as no scan does, is refused before training."""
    folder = tmp_path / "backbone"
    if made != "nothing":
        checkpoints.make_vit(folder)
    if made == "no preprocessor":
        (folder / "preprocessor_config.json").unlink()
    if made == "no weights":
        (folder / "model.safetensors").unlink()
    if made == "padding":
        path = folder / "preprocessor_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"do_pad": True}))
    with pytest.raises(ModelError, match=message):
        replace(small_bench, backbone=folder).train(tmp_path / "out")
    assert not (tmp_path / "out" / "state" / "run.json").exists()


@pytest.mark.parametrize("labels", [("porn", "sexy"), ("neutral", "drawings")])
def test_labels_that_no_scan_would_take(small_bench: Bench, tmp_path: Path, labels: tuple[str, ...]) -> None:
    """Classes without neutral, or without an NSFW one, make no checkpoint for a scan: said before training."""
    data = DataConfig(uris=(str(write_folders(tmp_path / "two", each=20, labels=labels)),), cache=str(tmp_path / "c"))
    with pytest.raises((ModelError, SourceError), match="none of its labels"):
        small_bench.train(tmp_path / "out", data=data)
