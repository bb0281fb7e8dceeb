"""A model is what its files say, from wherever they come; what is missing or cannot be trusted stops the run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import fsspec
import numpy as np
import pytest
from PIL import Image

import nsfwscan
from nsfwscan.config import ModelConfig, ScanConfig, StorageConfig, merge
from nsfwscan.errors import ModelError
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.models import registry
from nsfwscan.models.onnx_backend import EMBEDDED
from nsfwscan.models.registry import PRESETS, apply_preset, choose_hardware, load, resolve
from nsfwscan.models.spec import Hardware, ModelSpec
from nsfwscan.policy.rules import load_policy
from nsfwscan.schema import NSFW_CATEGORIES, Category
from tests.checkpoints import FIVE, make_dinov2, make_swin, make_vit, pictures
from tests.later import later
from tests.s3.servers import FaultyProxy, S3Endpoint

torch = later("torch")
backbone = later("training.fit.backbone")
transformers = later("transformers")
safetensors = later("safetensors.torch")


LOCAL = StorageConfig()
CPU = Hardware("cpu", "float32", 4, 1)
BUCKET = "registry-tests"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One ViT, which tests copy before they change it."""
    return make_vit(tmp_path_factory.mktemp("made") / "small-vit")


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    """A copy of the ViT to be spoilt."""
    return Path(shutil.copytree(made, tmp_path / "small-vit"))


def spec_of(uri: str | Path, storage: StorageConfig = LOCAL, **options: Any) -> ModelSpec:
    return resolve(ModelConfig(uri=str(uri), **options), storage)


def edit(folder: Path, name: str = "config.json", **changes: Any) -> None:
    """Sets keys of a JSON file; None takes one out."""
    settings = {**json.loads((folder / name).read_text()), **changes}
    (folder / name).write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))


def batch_of(spec: ModelSpec, images: list[Image.Image]) -> np.ndarray:
    pixels = [np.frombuffer(spec.geometry.apply(image), np.uint8).reshape(spec.geometry.shape) for image in images]
    return np.stack(pixels)


# The embedded model


def test_the_embedded_model_is_always_there() -> None:
    """open_nsfw: two categories, its own policy, its own preprocessing; the digest is over the graph."""
    spec = spec_of(EMBEDDED)
    assert spec.categories == (Category.NEUTRAL, Category.NSFW)
    assert spec.geometry == Geometry((256, 256), Image.Resampling.BILINEAR, (224, 224), reencode_jpeg=True)
    assert spec.identity == f"open-nsfw@{spec.digest[:16]}"
    assert load_policy(spec.policy).name == "open-nsfw"


def test_the_embedded_model_scores() -> None:
    """Probabilities for a batch, from pixels alone, on the CPU, offline."""
    spec = spec_of(EMBEDDED)
    scores = load(spec, LOCAL, CPU)(batch_of(spec, pictures(4)))
    assert (scores.shape, scores.dtype) == ((4, 2), np.float32)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)


def test_another_embedded_model_is_refused() -> None:
    """The message says which there is."""
    with pytest.raises(ModelError, match="no embedded model 'embedded:other'; there is embedded:open-nsfw"):
        spec_of("embedded:other")


# A directory


@pytest.mark.full
def test_a_compiled_model_scores_alike(made: Path) -> None:
    """torch.compile changes no score by more than rounding does; what it prepares is prepared when the model is loaded."""
    spec = spec_of(made)
    assert choose_hardware(spec, ModelConfig(compile=True), threads=1).compiled
    assert not choose_hardware(spec_of(EMBEDDED), ModelConfig(compile=True), threads=1).compiled
    batch = batch_of(spec, pictures(4))
    began = time.monotonic()
    compiled = load(spec, LOCAL, replace(CPU, compiled=True))
    loaded = time.monotonic()
    np.testing.assert_allclose(compiled(batch), load(spec, LOCAL, CPU)(batch), atol=1e-5)
    assert time.monotonic() - loaded < (loaded - began) / 2


@pytest.mark.parametrize("make", [make_vit, make_dinov2, make_swin])
def test_a_checkpoint_is_scored_as_transformers_scores_it(make: Any, tmp_path: Path) -> None:
    """Any classifier with safetensors: its labels in its order, and the probabilities that transformers gives."""
    folder = make(tmp_path / "model")
    spec = spec_of(folder)
    assert spec.labels == FIVE and spec.categories == tuple(map(Category, FIVE))
    assert (spec.name, spec.uri, spec.backend, spec.policy) == ("model", str(folder), "torch", "five-class")
    images = pictures(4)
    scores = load(spec, LOCAL, CPU)(batch_of(spec, images))
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    reference = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits = reference(pixel_values=processor(images=images, return_tensors="pt")["pixel_values"]).logits
    # Pixels that are resized bilinearly may be one level from Pillow's: tests/models/test_parity.py.
    bound = 2e-3 if spec.geometry.resample == Image.Resampling.BILINEAR else 1e-5
    np.testing.assert_allclose(scores, logits.softmax(-1).numpy(), atol=bound)


def test_the_small_checkpoints_say_different_things(made: Path) -> None:
    """What tests with them rely on: scores over the pictures spread by more than 0.9 for each label and nsfw_score."""
    spec = spec_of(made)
    images = pictures()
    scores = load(spec, LOCAL, replace(CPU, batch_size=len(images)))(batch_of(spec, images))
    nsfw = scores[:, [category in NSFW_CATEGORIES for category in spec.categories]].sum(axis=1)
    assert np.ptp(scores, axis=0).min() > 0.9 and np.ptp(nsfw) > 0.9


def test_labels_are_ordered_by_their_numbers(model: Path) -> None:
    """`id2label` is a JSON object: its keys are numbers as text, in any order."""
    edit(model, id2label={"3": "porn", "0": "neutral", "4": "sexy", "2": "hentai", "1": "drawings"})
    assert spec_of(model).labels == ("neutral", "drawings", "hentai", "porn", "sexy")


def test_binary_checkpoints_come_with_the_binary_policy(tmp_path: Path) -> None:
    """Labels as Falconsai's and Marqo's, in either order."""
    for labels in (("normal", "nsfw"), ("NSFW", "SFW")):
        spec = spec_of(make_vit(tmp_path / labels[0], labels))
        assert spec.policy == "binary"
        assert set(spec.categories) == {Category.NEUTRAL, Category.NSFW}
        assert spec.categories[labels.index("nsfw" if "nsfw" in labels else "NSFW")] is Category.NSFW


@pytest.mark.parametrize("written", ["{path}", "{path}/", "file://{path}", "relative"])
def test_a_directory_may_be_written_in_many_ways(made: Path, monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    """With a slash, as a `file://` URI, or relative: the same model. A folder comes before a hub id of that name."""
    monkeypatch.chdir(made.parent.parent)
    uri = f"{made.parent.name}/{made.name}" if written == "relative" else written.format(path=made)
    spec = spec_of(uri)
    assert (spec.name, spec.digest) == ("small-vit", spec_of(made).digest)
    load(spec, LOCAL, CPU)


def test_the_digest_is_over_all_that_scores(made: Path, tmp_path: Path) -> None:
    """Weights, configuration or preprocessor changed: another digest. A README beside them: the same."""
    digest = spec_of(made).digest
    for number, name in enumerate(["config.json", "preprocessor_config.json", "model.safetensors"]):
        copy = Path(shutil.copytree(made, tmp_path / str(number)))
        if name == "model.safetensors":
            make_vit(copy, seed=1)
        else:
            edit(copy, name, remark="another")
        assert spec_of(copy).digest != digest, name
    copy = Path(shutil.copytree(made, tmp_path / "readme"))
    (copy / "README.md").write_text("not part of it")
    assert spec_of(copy).digest == digest


def test_a_temperature_travels_with_the_checkpoint(model: Path) -> None:
    """`temperature.json` divides the logits, and makes another model of the same weights: no old score is reused."""
    without = resolve(ModelConfig(uri=str(model)), StorageConfig())
    (model / "temperature.json").write_text('{"temperature": 2.0, "fitted_on": {"split": "validation"}}')
    spec = resolve(ModelConfig(uri=str(model)), StorageConfig())
    assert (without.temperature, spec.temperature) == (None, 2.0) and spec.digest != without.digest
    pixels = np.random.default_rng(0).integers(0, 256, (2, *spec.geometry.shape), np.uint8)
    hot = load(spec, StorageConfig(), Hardware("cpu", "float32", 2, 1))(pixels)
    (model / "temperature.json").unlink()
    cold = load(without, StorageConfig(), Hardware("cpu", "float32", 2, 1))(pixels)
    expected = np.sqrt(cold) / np.sqrt(cold).sum(axis=1, keepdims=True)
    assert np.allclose(hot, expected, atol=1e-6) and not np.allclose(hot, cold, atol=1e-2)


def test_the_next_night_scores_again_at_another_temperature(model: Path, tmp_path: Path) -> None:
    """Rows scored before the temperature came are stale; the record and the page of the night say what was applied."""
    media = tmp_path / "media"
    media.mkdir()
    for number, image in enumerate(pictures(3)):
        image.save(media / f"{number}.png")
        os.utime(media / f"{number}.png", (1e9, 1e9))  # a young file is read again
    nights = []
    for temperature in (None, 2.0, 2.0, 3.0):
        if temperature is not None:
            (model / "temperature.json").write_text(json.dumps({"temperature": temperature}))
        nights.append(nsfwscan.scan(media, tmp_path / "out", model={"uri": str(model)}))
    assert [night.record.model.temperature for night in nights] == [None, 2.0, 2.0, 3.0]
    assert [night.record.balance.carried for night in nights] == [0, 0, 3, 0]
    pages = [Path(night.uri, "summary.html").read_text(encoding="utf-8") for night in nights]
    assert ["2.000, which came with the weights" in page for page in pages] == [False, True, True, False]


@pytest.mark.parametrize("said", [0, -1.5, True, "1.4", None, 1e999])
def test_a_temperature_that_is_none_is_refused(model: Path, said: object) -> None:
    """A file that names no positive number is not passed over: the scores would be other ones than meant."""
    (model / "temperature.json").write_text(json.dumps({"temperature": said}))
    with pytest.raises(ModelError, match=r"temperature\.json"):
        resolve(ModelConfig(uri=str(model)), StorageConfig())


def test_a_model_that_changed_in_place_is_another(model: Path) -> None:
    """In one long-lived process, too: run.json must not name the digest of weights that are no longer there."""
    before = spec_of(model)
    make_vit(model, seed=1)
    assert spec_of(model).digest != before.digest


def test_changed_weights_on_the_worker_are_refused(model: Path) -> None:
    """What the driver resolved is what every worker must find."""
    spec = spec_of(model)
    make_vit(model, seed=1)
    with pytest.raises(ModelError, match="the weights on this worker are not those that the run began with"):
        load(spec, LOCAL, CPU)


def test_a_label_map_gives_meaning(model: Path) -> None:
    """An unknown label names itself and the option; with the option it loads."""
    edit(model, id2label={str(i): label for i, label in enumerate(["toons", *FIVE[1:]])})
    with pytest.raises(ModelError, match=r"small-vit: unknown label 'toons'; .*--label 'toons=CATEGORY'"):
        spec_of(model)
    assert spec_of(model, labels={"Toons": "drawings"}).categories == tuple(map(Category, FIVE))


def test_levels_are_added_up(tmp_path: Path) -> None:
    """A checkpoint of levels (neutral, low, medium, high), three of them put onto one category: a verdict has their
    probabilities' sum, and the label is the category with the largest sum."""
    folder = make_vit(tmp_path / "levels", ("neutral", "low", "medium", "high"))
    means = {"low": "nsfw", "medium": "nsfw", "high": "nsfw"}
    spec = spec_of(folder, labels=means)
    images = pictures(12)
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i:02}.png")
    raw = load(spec, LOCAL, replace(CPU, batch_size=12))(batch_of(spec, images))
    verdicts = nsfwscan.classify(
        sorted(tmp_path.glob("*.png")), model={"uri": str(folder), "labels": means, "dtype": "float32"}
    )
    added = np.array([[v.scores["neutral"], v.scores["nsfw"]] for v in verdicts])
    np.testing.assert_allclose(added, np.stack([raw[:, 0], raw[:, 1:].sum(axis=1)], axis=1), atol=1e-5)
    assert [v.nsfw_score for v in verdicts] == [v.scores["nsfw"] for v in verdicts]
    assert [next(iter(v.scores)) for v in verdicts] == [
        "nsfw" if nsfw > neutral else "neutral" for neutral, nsfw in added
    ]
    assert (raw.argmax(axis=1) == 0).sum() > (added.argmax(axis=1) == 0).sum()  # a neutral image by its top label alone


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "vit_tiny_patch16_384", "label_names": ["NSFW", "SFW"], "pretrained_cfg": {"crop_pct": 1.0}},
        {"model_type": "timm_wrapper", "architecture": "vit_tiny_patch16_384", "label_names": ["NSFW", "SFW"]},
    ],
)
def test_a_checkpoint_of_timm_is_refused_as_such(tmp_path: Path, config: dict[str, Any]) -> None:
    """It is named as timm's, with its architecture and labels, and the message says what to take."""
    folder = make_vit(tmp_path / "marqo", ("NSFW", "SFW"))
    (folder / "preprocessor_config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    message = (
        r"marqo: a checkpoint of timm \(architecture vit_tiny_patch16_384, labels NSFW, SFW\).* saved by transformers"
    )
    with pytest.raises(ModelError, match=message):
        spec_of(folder)
    with pytest.raises(ModelError, match=message):
        backbone.find_backbone(str(folder), LOCAL)


def test_a_nested_preprocessor_is_read(model: Path) -> None:
    """Newer checkpoints keep it in processor_config.json, under `image_processor`."""
    inner = json.loads((model / "preprocessor_config.json").read_text())
    (model / "preprocessor_config.json").unlink()
    (model / "processor_config.json").write_text(json.dumps({"image_processor": inner}))
    spec = spec_of(model)
    assert spec.geometry.shape == (64, 64, 3)
    load(spec, LOCAL, CPU)


def test_a_spec_travels_light(made: Path) -> None:
    """It pickles to a few hundred bytes: the weights stay where they are."""
    spec = spec_of(made)
    pickled = pickle.dumps(spec)
    assert pickle.loads(pickled) == spec and len(pickled) < 2000


def test_resolving_needs_no_torch(made: Path) -> None:
    """The driver never imports torch, only the worker that loads the weights."""
    code = (
        "import sys; from nsfwscan.models.registry import resolve; from nsfwscan.config import *\n"
        f"resolve(ModelConfig(uri={str(made)!r}), StorageConfig())\n"
        "assert not {'torch', 'transformers', 'onnxruntime', 'ray'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# What is refused


def test_pickled_weights_are_never_loaded(model: Path) -> None:
    """Without safetensors, a pickle beside the configuration is named and refused."""
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no safetensors; pytorch_model\.bin is pickled and never loaded"):
        spec_of(model)
    (model / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match=r"no safetensors$"):
        spec_of(model)


def test_a_pickle_beside_safetensors_is_left_alone(model: Path) -> None:
    """A pickle that would run code when loaded is not opened."""

    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(model / "sprung"),)

    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    load(spec_of(model), LOCAL, CPU)
    assert not (model / "sprung").exists()


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_missing_and_broken_files_are_named(model: Path, name: str) -> None:
    """Absent, no JSON, or JSON of another shape: a ModelError with the file's name."""
    for content in ("{", "[1, 2]", "\ud83d".encode("utf-16", "surrogatepass")):
        (model / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ModelError, match=rf"{name} cannot be read"):
            spec_of(model)
    (model / name).unlink()
    with pytest.raises(ModelError, match=f"small-vit: no {name}; a model directory has"):
        spec_of(model)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id2label": None}, "names no labels"),
        ({"id2label": {}}, "names no labels"),
        ({"id2label": {"0": "nsfw"}}, "1 labels"),
        ({"id2label": {"0": "neutral", "one": "nsfw"}}, "id2label"),
        ({"id2label": {"0": 0, "1": 1}}, "id2label"),
        ({"id2label": ["neutral", "nsfw"]}, "id2label"),
        ({"id2label": [{}, {}]}, "id2label is a list"),
        ({"id2label": 5}, "id2label is a int"),
        ({"id2label": {"0": "neutral", "2": "nsfw"}}, "id2label"),
        ({"problem_type": "multi_label_classification"}, "problem_type multi_label_classification"),
        ({"problem_type": "regression"}, "problem_type regression"),
        ({"auto_map": {"AutoModelForImageClassification": "modeling.Mine"}}, r"code of its own \(auto_map\)"),
        ({"transformers_weights": "model-x.safetensors"}, "transformers_weights"),
    ],
)
def test_configurations_that_cannot_be_trusted_are_refused(model: Path, changes: dict[str, Any], said: str) -> None:
    """No labels, labels that are no names, several labels at once, or code of its own: the run does not start."""
    edit(model, **changes)
    with pytest.raises(ModelError, match=rf"small-vit: .*{said}"):
        spec_of(model)


def test_a_checkpoint_in_shards_is_its_shards(model: Path) -> None:
    """A model saved in several files scores as the whole one does, and every shard counts in its digest."""
    spec = spec_of(model)
    pixels = np.random.default_rng(0).integers(0, 256, (CPU.batch_size, *spec.geometry.shape), np.uint8)
    whole = load(spec, LOCAL, CPU)(pixels)
    transformers.AutoModelForImageClassification.from_pretrained(model).save_pretrained(model, max_shard_size="20KB")
    (model / "model.safetensors").unlink(missing_ok=True)
    shards = sorted(model.glob("model-*.safetensors"))
    assert len(shards) > 1
    before = spec_of(model)
    np.testing.assert_array_equal(load(before, LOCAL, CPU)(pixels), whole)
    data = bytearray(shards[-1].read_bytes())
    data[-1] ^= 1
    shards[-1].write_bytes(data)
    assert spec_of(model).digest != before.digest


@pytest.mark.parametrize(
    ("shard", "said"),
    [
        ("../outside/model.safetensors", r"names '\.\./outside/model\.safetensors'; weights are only loaded from"),
        ("{outside}/model.safetensors", "weights are only loaded from"),
        ("pytorch_model.bin", r"names 'pytorch_model\.bin'"),
        ("other.safetensors", r"names 'other\.safetensors'"),
        ("model-00002-of-00002.safetensors", "which is missing"),
        ("", "names ''"),
        ("model-" + "x" * 300 + ".safetensors", "weights are only loaded from"),
        (None, "names no shards"),
        (["model.safetensors"], "weights are only loaded from"),
    ],
)
def test_an_index_names_only_shards_beside_it(model: Path, shard: Any, said: str) -> None:
    """A path that leads out, a pickle, another or a missing file: refused before anything is loaded, since changed weights would
    keep the checkpoint's identity."""
    outside = model.parent / "outside"
    outside.mkdir()
    weights = model / "model.safetensors"
    keys = list(safetensors.load_file(weights))
    shutil.copy(weights, outside)
    shutil.copy(weights, model / "other.safetensors")
    torch.save(safetensors.load_file(weights), model / "pytorch_model.bin")
    weights.rename(model / "model-00001-of-00002.safetensors")  # so that the folder holds safetensors at all
    named = shard.format(outside=outside) if isinstance(shard, str) else shard
    index = {"metadata": {}, "weight_map": {} if named is None else dict.fromkeys(keys, named)}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=said):
        spec_of(model)


def test_an_adapter_is_no_checkpoint(model: Path) -> None:
    """An adapter's base model lies elsewhere, outside the digest; its folder is refused."""
    (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/etc"}))
    with pytest.raises(ModelError, match="it is an adapter"):
        spec_of(model)


def test_a_configuration_nested_without_end_is_refused(model: Path) -> None:
    """A config.json of a hundred thousand brackets is a ModelError, not a RecursionError."""
    (model / "config.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        spec_of(model)


def test_a_backbone_without_a_head_is_refused(tmp_path: Path) -> None:
    """transformers would fill the missing head with random numbers, and every score would look right."""
    folder = make_vit(tmp_path / "whole")
    transformers.AutoModelForImageClassification.from_pretrained(folder).vit.save_pretrained(tmp_path / "backbone")
    shutil.copy(folder / "preprocessor_config.json", tmp_path / "backbone")
    shutil.copy(folder / "config.json", tmp_path / "backbone")
    spec = spec_of(tmp_path / "backbone")
    with pytest.raises(ModelError, match=r"weights are missing \(classifier.*a backbone without a trained head"):
        load(spec, LOCAL, CPU)


def test_a_head_of_another_size_is_refused(model: Path) -> None:
    """A configuration that names four labels over a head of five does not get a new head."""
    edit(model, id2label={str(i): label for i, label in enumerate(FIVE[1:])}, label2id=None)
    with pytest.raises(ModelError, match="small-vit: "):
        load(spec_of(model), LOCAL, CPU)


def test_broken_weights_are_refused(model: Path) -> None:
    """A file cut short in a copy is a ModelError on load, not a traceback from a library."""
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:10_000])
    with pytest.raises(ModelError, match="small-vit: transformers cannot load it"):
        load(spec_of(model), LOCAL, CPU)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("/no/such/model", "no such model directory"),
        ("no-slash-at-all", "no such model directory"),
        ("{model}/config.json", "a model is a directory .* not a file"),
        ("memory://no-such-model", "cannot fetch the model memory://no-such-model: no such object"),
        ("nosuch://model", "cannot read nosuch://"),
    ],
)
def test_a_model_that_is_not_there_is_refused(
    model: Path, uri: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each kind of name says what it was taken for."""
    monkeypatch.setenv("NSFWSCAN_CACHE", str(tmp_path / "cache"))
    with pytest.raises(Exception, match=said) as error:
        spec_of(uri.format(model=model))
    assert getattr(error.value, "exit_code", None) == 1


def test_a_hub_id_offline_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a directory nor to be had from the hub: the message has both, and HF_TOKEN for gated models."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"someone/some-model: neither a directory here nor .* HF_TOKEN"):
        spec_of("someone/some-model")


# Preprocessing that is not reproduced


def test_other_preprocessing_is_refused_on_load(made: Path) -> None:
    """Ours is compared with the checkpoint's own processor; a wrong resampling, mean or size does not pass."""
    spec = spec_of(made)
    load(spec, LOCAL, CPU)
    wrong = [
        replace(spec, geometry=replace(spec.geometry, resample=3)),
        replace(spec, geometry=replace(spec.geometry, resize=(72, 72), crop=(64, 64))),
        replace(spec, geometry=replace(spec.geometry, resize=(64, 72))),
        replace(spec, geometry=replace(spec.geometry, reencode_jpeg=True)),
        replace(spec, normalisation=replace(spec.normalisation, mean=(0.485, 0.456, 0.406))),
        replace(spec, normalisation=replace(spec.normalisation, scale=1.0)),
        replace(spec, normalisation=replace(spec.normalisation, bgr=True)),
    ]
    for other in wrong:
        with pytest.raises(ModelError, match="prepares images in a way that nsfwscan does not reproduce"):
            load(other, LOCAL, CPU)


def test_a_processor_with_steps_of_its_own_is_refused(model: Path) -> None:
    """EfficientNet's processor normalises twice: its file looks complete, and only comparing shows it."""
    edit(model, "preprocessor_config.json", image_processor_type="EfficientNetImageProcessor", include_top=True)
    spec = spec_of(model)
    with pytest.raises(ModelError, match=r"EfficientNetImageProcessor.* does not reproduce"):
        load(spec, LOCAL, CPU)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_processor_type": "NoSuchImageProcessor"},
        {"image_processor_type": "MyProcessor", "auto_map": {"AutoImageProcessor": "processing.Mine"}},
    ],
)
def test_a_processor_that_transformers_does_not_know_is_refused(model: Path, changes: dict[str, Any]) -> None:
    """There is nothing to compare with, and its code is never run."""
    (model / "processing.py").write_text("raise SystemExit('code of the checkpoint was run')")
    edit(model, "preprocessor_config.json", **changes)
    with pytest.raises(ModelError, match="small-vit: "):
        load(spec_of(model), LOCAL, CPU)


# Elsewhere


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node's cache, empty."""
    monkeypatch.setenv("NSFWSCAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def memory(made: Path) -> Iterator[Any]:
    """ViT in memory://registry-tests/small-vit, among other files."""
    fs = fsspec.filesystem("memory")
    upload(fs, made, "/registry-tests/small-vit")
    yield fs
    fs.rm("/registry-tests", recursive=True)


def upload(fs: Any, folder: Path, target: str) -> None:
    for path in folder.iterdir():
        fs.pipe_file(f"{target}/{path.name}", path.read_bytes())
    fs.pipe_file(f"{target}/pytorch_model.bin", b"pickled")
    fs.pipe_file(f"{target}/checkpoint-100/model.safetensors", b"training state")


def folders(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if path.is_dir())


def test_a_remote_model_is_fetched_into_the_cache(memory: Any, cache: Path, made: Path) -> None:
    """Only what is needed of it, and it is the model that was uploaded."""
    spec = spec_of("memory://registry-tests/small-vit/")
    assert (spec.name, spec.digest) == ("small-vit", spec_of(made).digest)
    [folder] = folders(cache)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    load(spec, LOCAL, CPU)
    assert folders(cache) == [folder]


def test_a_remote_model_that_changed_is_fetched_again(memory: Any, cache: Path, tmp_path: Path) -> None:
    """Weights of the same size under the same name, retrained: the old copy does not stand in for them."""
    before = spec_of("memory://registry-tests/small-vit")
    upload(memory, make_vit(tmp_path / "retrained", seed=1), "/registry-tests/small-vit")
    after = spec_of("memory://registry-tests/small-vit")
    assert after.digest != before.digest
    assert len(folders(cache)) == 2
    with pytest.raises(ModelError, match="not those that the run began with"):
        load(before, LOCAL, CPU)


def test_a_download_that_broke_off_is_begun_again(memory: Any, cache: Path) -> None:
    """A half-filled folder of a killed process is never taken for a model."""
    spec = spec_of("memory://registry-tests/small-vit")
    [folder] = folders(cache)
    unfinished = folder.rename(folder.with_name(f".tmp-{folder.name}"))
    (unfinished / "model.safetensors").write_bytes(b"half")
    assert spec_of("memory://registry-tests/small-vit") == spec
    assert folders(cache) == [folder]


def test_a_model_on_s3_is_fetched_once_a_node(moto: S3Endpoint, cache: Path, made: Path) -> None:
    """Four loaders at once, and later ones: each file is read once, under a lock, whatever else lies there."""
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    for path in made.iterdir():
        client.upload_file(str(path), BUCKET, f"models/small-vit/{path.name}")
    client.put_object(Bucket=BUCKET, Key="models/small-vit/pytorch_model.bin", Body=b"pickled")
    with FaultyProxy(moto) as proxy:
        reads: list[str] = []
        proxy.delay(lambda method, path: method == "GET" and reads.append(path) is None, 0)
        storage = StorageConfig(endpoint_url=proxy.endpoint.endpoint_url)
        uri = f"s3://{BUCKET}/models/small-vit"
        found: list[ModelSpec] = []
        threads = [threading.Thread(target=lambda: found.append(spec_of(uri, storage))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        load(spec_of(uri, storage), storage, CPU)
    assert [spec.digest for spec in found] == [spec_of(made).digest] * 4
    fetched = sorted(path.partition("?")[0].rsplit("/", 1)[-1] for path in reads if "list-type" not in path)
    assert fetched == ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert len(folders(cache)) == 1


def test_a_store_that_refuses_is_a_model_error(moto: S3Endpoint, cache: Path) -> None:
    """With the URI and the reason; nothing half-fetched is left as a model."""
    with FaultyProxy(moto) as proxy:
        proxy.fail(lambda method, path: True, status=403, code="AccessDenied")
        storage = StorageConfig(endpoint_url=proxy.endpoint.endpoint_url)
        with pytest.raises(ModelError, match=r"cannot fetch the model s3://.*: permission denied \(AccessDenied\)"):
            spec_of(f"s3://{BUCKET}/models/small-vit", storage)
    assert not cache.exists() or folders(cache) == []


# Hardware and presets


@pytest.mark.parametrize(
    ("has_cuda", "has_bfloat16", "expected"),
    [
        (False, False, Hardware("cpu", "float32", 8, 2)),
        (False, True, Hardware("cpu", "bfloat16", 8, 2)),
        (True, True, Hardware("cuda", "float16", 128, 2)),
    ],
)
def test_hardware_is_chosen_on_the_worker(
    made: Path, monkeypatch: pytest.MonkeyPatch, has_cuda: bool, has_bfloat16: bool, expected: Hardware
) -> None:
    """On a CPU: batches of 8, float32 or bfloat16 by what it multiplies in hardware; what was asked for goes first."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(registry, "cpu_has_bfloat16", lambda: has_bfloat16)
    spec = spec_of(made)
    assert choose_hardware(spec, ModelConfig(), threads=2) == expected
    asked = choose_hardware(spec, ModelConfig(dtype="bfloat16", batch_size=3), threads=1)
    assert (asked.dtype, asked.batch_size) == ("bfloat16", 3)


@pytest.mark.parametrize(
    ("flags", "has_bfloat16"),
    [
        ("sse4_2 avx avx2 fma vaes", False),  # Zen 3
        ("avx2 avx512f avx512bw avx512vl avx512_vnni", False),  # Ice Lake
        ("avx512f avx512_vnni avx512_bf16", True),  # Zen 4
        ("avx512f avx512_bf16 amx_bf16 amx_tile amx_int8", True),  # Sapphire Rapids
        (None, False),  # a system that does not say
    ],
)
def test_a_processor_with_bfloat16(tmp_path: Path, flags: str | None, has_bfloat16: bool) -> None:
    """It is known by AMX, or by AVX512-BF16, among the flags that the kernel tells."""
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\nbugs\t\t: spectre_v1\n\n")
    assert registry.cpu_has_bfloat16(tmp_path / "cpuinfo") == has_bfloat16
    registry.cpu_has_bfloat16.cache_clear()


def test_the_embedded_model_runs_in_float32() -> None:
    """Another precision is refused instead of passed over."""
    spec = spec_of(EMBEDDED)
    assert choose_hardware(spec, ModelConfig(), threads=1).dtype == "float32"
    with pytest.raises(ModelError, match="float32 only"):
        choose_hardware(spec, ModelConfig(dtype="float16"), threads=1)


def test_half_precision_stays_close(made: Path) -> None:
    """bfloat16 weights give probabilities within a few hundredths, as float32 numbers."""
    spec = spec_of(made)
    batch = batch_of(spec, pictures(8))
    full = load(spec, LOCAL, CPU)(batch)
    half = load(spec, LOCAL, replace(CPU, dtype="bfloat16"))(batch)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, full, atol=0.05)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_configurations(name: str) -> None:
    """Each is a valid configuration, with a policy that loads and labels that mean something."""
    config = ScanConfig.model_validate(merge({"source": {"uris": ["m"]}, "out": "r"}, apply_preset(name)))
    assert config.policy is not None
    assert load_policy(config.policy).name == config.policy
    assert set(config.model.labels.values()) <= {str(category) for category in Category}


def test_an_unknown_preset_says_which_there_are() -> None:
    """A typing error is not taken for a model."""
    with pytest.raises(ModelError, match="no preset 'falcon'; there are open-nsfw, five-class, falconsai"):
        apply_preset("falcon")
