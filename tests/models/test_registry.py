"""A model is what its files say, from wherever they come; what is missing or cannot be trusted stops the run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from tests.models.specs import CPU, LOCAL, edit, spec_of

torch = later("torch")
backbone = later("training.fit.backbone")
transformers = later("transformers")


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
    with pytest.raises(
        ModelError, match="no embedded model 'embedded:other'; there are embedded:open-nsfw, embedded:text"
    ):
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
