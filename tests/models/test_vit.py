"""A ViT without transformers: the same numbers, and whatever is unusual is left to transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nsfwscan.models.registry import load
from tests.later import later
from tests.models.specs import CPU, LOCAL, edit, spec_of

torch = later("torch")
transformers = later("transformers")
vit = later("nsfwscan.models.vit")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_vit_in_plain_torch(made: Path, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU a ViT gives the logits of transformers to the bit, and nobody waits for transformers."""
    spec, dtype = spec_of(made), getattr(torch, precision)
    values = torch.randn((2, 3, *spec.geometry.shape[:2]), generator=torch.Generator().manual_seed(0)).to(dtype)
    theirs = transformers.AutoModelForImageClassification.from_pretrained(made, dtype=dtype).eval()
    plain = vit.load_vit(spec, made, dtype)
    assert plain is not None
    with torch.inference_mode():
        assert torch.equal(plain(values), theirs(pixel_values=values).logits)
    monkeypatch.setattr("nsfwscan.models.torch_backend._by_transformers", None)
    load(spec, LOCAL, CPU)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("config.json", {"hidden_act": "gelu_new"}),
        ("config.json", {"qkv_bias": False}),
        ("config.json", {"architectures": ["ViTModel"]}),
        ("config.json", {"num_hidden_layers": 1}),
        ("config.json", {"model_type": "deit"}),
        ("preprocessor_config.json", {"do_convert_rgb": True}),
        ("preprocessor_config.json", {"image_processor_type": "BitImageProcessor"}),
        ("preprocessor_config.json", {"image_mean": [0.4, 0.4, 0.4]}),
    ],
)
def test_what_is_unusual_about_a_vit_is_left_to_transformers(model: Path, name: str, changes: dict[str, Any]) -> None:
    """Other settings, other weights, and preprocessing that no test holds, or that is not what the spec says."""
    spec = spec_of(model)
    edit(model, name, **changes)
    assert vit.load_vit(spec, model, torch.float32) is None
