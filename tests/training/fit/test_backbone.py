"""Any image model with a new head; what is said of the old one, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.errors import ModelError
from tests.checkpoints import FIVE, make_dinov2, make_swin, make_vit
from tests.later import later

pytestmark = pytest.mark.long

torch = later("torch")
safetensors = later("safetensors.torch")
backbones = later("training.fit.backbone")


@pytest.mark.parametrize("make", [make_vit, make_dinov2, make_swin])
@pytest.mark.parametrize("labels", [("normal", "nsfw"), FIVE[::-1]], ids=["another size", "the same size"])
def test_the_head_is_new_and_the_backbone_is_not(
    tmp_path: Path, make: Callable[..., Path], labels: tuple[str, ...]
) -> None:
    """The backbone's weights are the checkpoint's, the head's never are, and the replaced head is said."""
    backbone = backbones.find_backbone(str(make(tmp_path / "old", labels)), StorageConfig())
    model, lines = backbones.load_with_new_head(backbone, FIVE, seed=0)
    old = make(tmp_path / "again", labels)  # the same seed: the same weights
    from transformers import AutoModelForImageClassification

    before = AutoModelForImageClassification.from_pretrained(old).state_dict()
    after = model.state_dict()
    body = [name for name in after if not name.startswith("classifier")]
    assert body and all(torch.equal(after[name], before[name]) for name in body)
    assert not torch.equal(after["classifier.weight"][:2], before["classifier.weight"][:2])
    assert after["classifier.weight"].shape[0] == 5
    assert model.config.id2label == dict(enumerate(FIVE))
    assert lines[0].startswith(f"the head of {backbone.uri} for {len(labels)} labels ({', '.join(labels)}) is not used")
    assert ("sizes differ" in " ".join(lines)) == (len(labels) != 5)


def test_the_head_is_the_seed_s(tmp_path: Path) -> None:
    """The same seed gives the same new head, another one another."""
    backbone = backbones.find_backbone(str(make_vit(tmp_path)), StorageConfig())
    first, again, other = (
        backbones.load_with_new_head(backbone, FIVE, seed)[0].classifier.weight for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_backbone_without_a_head(tmp_path: Path) -> None:
    """A model that was only pretrained gets a head, and that is said."""
    from transformers import Dinov2ForImageClassification

    folder = make_dinov2(tmp_path)
    Dinov2ForImageClassification.from_pretrained(folder).dinov2.save_pretrained(folder)
    _, lines = backbones.load_with_new_head(backbones.find_backbone(str(folder), StorageConfig()), FIVE, seed=0)
    assert lines == [f"{folder} has no head of its own; a new head for 5 categories: {', '.join(FIVE)}"]


def test_half_precision_is_trained_in_full(tmp_path: Path) -> None:
    """A checkpoint saved in half precision is loaded in float32."""
    from transformers import ViTForImageClassification

    folder = make_vit(tmp_path)
    ViTForImageClassification.from_pretrained(folder).half().save_pretrained(folder)
    model, _ = backbones.load_with_new_head(backbones.find_backbone(str(folder), StorageConfig()), FIVE, seed=0)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("harm", ["missing", "another size"])
def test_a_backbone_that_is_not_whole(tmp_path: Path, harm: str) -> None:
    """Only a head may be missing or of another size: a hole in the backbone would be filled at random."""
    folder = make_vit(tmp_path)
    weights = safetensors.load_file(folder / "model.safetensors")
    name = next(name for name in weights if "position_embeddings" in name)
    if harm == "missing":
        del weights[name]
    else:
        weights[name] = torch.zeros(1, 5, 32)
    safetensors.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights of its backbone are missing or of other sizes .*position_embed"):
        backbones.load_with_new_head(backbones.find_backbone(str(folder), StorageConfig()), FIVE, seed=0)


def test_preprocessing_that_a_scan_does_not_reproduce(tmp_path: Path) -> None:
    """A processor that does something of its own is refused by its name, before anything is trained."""
    folder = make_vit(tmp_path)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_processor_type": "EfficientNetImageProcessor"}))
    with pytest.raises(ModelError, match="EfficientNet"):
        backbones.find_backbone(str(folder), StorageConfig())


def test_not_an_image_model(tmp_path: Path) -> None:
    """A checkpoint of another kind does not load, in words."""
    folder = make_vit(tmp_path)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "bert", "architectures": ["BertModel"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="cannot load it as an image classifier"):
        backbones.load_with_new_head(backbones.find_backbone(str(folder), StorageConfig()), FIVE, seed=0)


@pytest.mark.parametrize("make", [make_vit, make_dinov2, make_swin])
def test_depths(tmp_path: Path, make: Callable[..., Path]) -> None:
    """Embeddings lie at 0, the layers (or stages) of the backbone above them in order, norm and head on top."""
    model, _ = backbones.load_with_new_head(backbones.find_backbone(str(make(tmp_path)), StorageConfig()), FIVE, seed=0)
    found = backbones.depths(model)
    assert {depth for name, depth in found.items() if "patch_embeddings" in name} == {0}
    assert {depth for name, depth in found.items() if name.startswith("classifier")} == {3}
    assert set(found.values()) == {0, 1, 2, 3}
    assert set(found) == {name for name, _ in model.named_parameters()}
