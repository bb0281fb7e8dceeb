"""Where JPEGs cannot be decoded on a GPU, a scan that asks for it stops before it reads, and says what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from nsfwscan.config import ScanConfig
from nsfwscan.errors import ConfigError
from nsfwscan.execution.gpu_decoding import refuse_undecodable, refuse_without_gpus
from nsfwscan.execution.layout import Fleet, Layout, Needs, Node, choose_layout
from nsfwscan.execution.pipeline import cpu_stages, model_stages, needs_of, reuse_keys
from nsfwscan.images.left_to_gpu import MOST_BYTES, can_decode
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.models.registry import resolve
from nsfwscan.models.spec import ALONE, ModelSpec
from tests.later import later

jpegs = later("nsfwscan.models.jpegs")
GPU = {"mode": "gpu", "pdq": "off"}
SQUARE = Geometry((224, 224), Image.Resampling.BILINEAR)


def config(**sections: Any) -> ScanConfig:
    return ScanConfig.load(None, {"source": {"uris": ["/media"]}, "out": "", "decode": GPU, **sections})


def spec(**changes: Any) -> ModelSpec:
    """A model that a GPU would run."""
    given = config()
    return replace(resolve(given.model, given.storage), backend="torch", geometry=SQUARE, **changes)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"decode": {"mode": "gpu"}}, "mode gpu is for pdq: off (--pdq off)"),
        ({"decode": {"mode": "gpu", "pdq": "reduced"}}, "mode gpu is for pdq: off (--pdq off)"),
        ({"decode": {**GPU, "sandbox": "required"}}, "outside of the sandbox that is required"),
        ({"decode": {**GPU, "screenshots": True}}, "screenshots looks at pixels on a core"),
        (
            {"decode": GPU, "model": {"uri": "/large"}, "cascade": {"enabled": True}},
            "cascade filters by pixels that a core decodes",
        ),
    ],
    ids=["hashes", "reduced hashes", "sandbox", "screenshots", "cascade"],
)
def test_what_does_not_go_together_is_refused(sections: dict[str, Any], words: str) -> None:
    """What needs a core to decode, or forbids decoding outside of the sandbox, is a wrong configuration."""
    with pytest.raises(ConfigError, match="wrong configuration") as refused:
        config(**sections)
    assert words in str(refused.value)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that installs the extra is named."""
    monkeypatch.setattr("nsfwscan.images.left_to_gpu.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'nsfwscan\[nvjpeg\]'"):
        refuse_undecodable(config(), spec(), ALONE)


def test_models_that_are_none_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that runs on cores, and one whose pixels a GPU does not make, are named."""
    monkeypatch.setattr("nsfwscan.execution.gpu_decoding.refuse_without_library", lambda: None)
    given = config()
    with pytest.raises(ConfigError, match="embedded:open-nsfw runs on cores: use --decode fast"):
        refuse_undecodable(given, resolve(given.model, given.storage), ALONE)
    for geometry, words in (
        (Geometry((224, 224), Image.Resampling.LANCZOS), "wants Geometry"),
        (replace(SQUARE, reencode_jpeg=True), "a round trip through JPEG"),
    ):
        with pytest.raises(ConfigError, match=words):
            refuse_undecodable(given, replace(spec(), geometry=geometry), ALONE)


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="there is a GPU")
def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is refused at once, a cluster as soon as its nodes are known, and a worker when it begins."""
    monkeypatch.setattr("nsfwscan.execution.gpu_decoding.refuse_without_library", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match="this machine has none: use --decode fast, or --address"):
        refuse_undecodable(config(), spec(), ALONE)
    refuse_undecodable(config(engine={"address": "ray://head:10001"}), spec(), ALONE)
    nodes = (Node(16),)
    with pytest.raises(ConfigError, match="the cluster has none now"):
        refuse_without_gpus(config(), Fleet(nodes, choose_layout(nodes, 10)))
    nodes = (Node(16, gpus=1),)
    refuse_without_gpus(config(), Fleet(nodes, choose_layout(nodes, 10, Needs("torch"))))
    refuse_without_gpus(config(decode={}), Fleet((Node(1),), Layout("fused", 1)))


def test_a_worker_without_a_gpu_stops_the_run() -> None:
    """A worker never decodes on its cores what it was to decode on a GPU."""
    if not can_decode() or later("torch").cuda.is_available():
        pytest.skip("needs the extra nvjpeg, and no GPU")
    with pytest.raises(ConfigError, match="torch finds none here"):
        jpegs.JpegDecoder([SQUARE])


def test_stages() -> None:
    """The GPU's stage is the first of the model's, and the CPU's leaves it files; in other modes there is neither."""
    given = config()
    names = [stage.name for stage in model_stages(given, spec(), threads=1)]
    assert names == ["decode-gpu", "classify"]
    [decode] = [stage for stage in cpu_stages(given, spec()) if stage.name == "decode"]
    assert "left_to_gpu" in decode.adds.names
    plain = config(decode={"pdq": "off"})
    assert [stage.name for stage in model_stages(plain, spec(), threads=1)] == ["classify"]
    [decode] = [stage for stage in cpu_stages(plain, spec()) if stage.name == "decode"]
    assert "left_to_gpu" not in decode.adds.names


def test_rows_made_otherwise_are_stale() -> None:
    """Scores of pixels that a GPU decoded have a key of their own; files that fail do not."""
    keys = [reuse_keys(config(decode={**GPU, "mode": mode}), spec()) for mode in ("fast", "exact", "gpu")]
    assert len({one["scoring"] for one in keys}) == 3
    assert len({one["decoding"] for one in keys}) == 1


def test_memory_is_planned_for_whole_files() -> None:
    """An actor, and the object store, have room for shards of the largest files that travel."""
    needs, plain = (needs_of(config(decode={**GPU, "mode": mode}), spec()) for mode in ("gpu", "exact"))
    assert needs.largest_shard_bytes == 256 * MOST_BYTES > plain.largest_shard_bytes
    assert needs.actor_bytes(with_model=False, split=True) > 3 * 256 * MOST_BYTES
    assert plain.left_bytes == 0
