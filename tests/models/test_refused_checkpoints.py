"""A checkpoint that is not whole, cannot be trusted, or would be prepared otherwise, is refused by name."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nsfwscan.errors import ModelError
from nsfwscan.models.registry import load
from tests.checkpoints import FIVE, make_vit
from tests.later import later
from tests.models.specs import CPU, LOCAL, edit, spec_of

torch = later("torch")
transformers = later("transformers")
safetensors = later("safetensors.torch")

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
