"""JPEGs at reduced scale: the same facts, nearly the same pixels, and scores that stay where they are."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import skimage
from numpy.typing import NDArray
from PIL import Image

from nsfwscan.config import ModelConfig, StorageConfig
from nsfwscan.demo.media import EXIF_ORIENTATION
from nsfwscan.images.decoder import to_pixels
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.models.registry import choose_hardware, load, resolve
from tests.later import later

torch = later("torch")
transformers = later("transformers")


PLENTY = 10**8
GEOMETRY = Geometry((224, 224), Image.Resampling.BILINEAR)
MOST = 0.02
"""By which a score may differ from that of exact decoding."""

Scorer = Callable[[list[bytes]], NDArray[np.float32]]


def jpeg(image: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", **{"quality": 85, **options})
    return out.getvalue()


@pytest.fixture(scope="module")
def photographs() -> list[bytes]:
    """Photographs of 2 to 12 megapixels. Packages ship small ones: these are laid side by side, with all their detail, and
    the largest is there alone. With NSFWSCAN_PHOTOS, the photographs of that folder, too."""
    folder = Path(skimage.__file__).parent / "data"
    small = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.jpg"))]
    small += [Image.open(folder / name).convert("RGB") for name in ("astronaut.png", "chelsea.png", "coffee.png")]
    random = np.random.default_rng(7)
    found = [small[int(np.argmax([i.width for i in small]))]]
    for width, height in [(1400, 1960), (2000, 1500), (2448, 3264), (4000, 3000), (4032, 3024)] * 2:
        sheet = Image.new("RGB", (width, height))
        tile = int(random.integers(400, max(width, height) + 1))
        for left in range(0, width, tile):
            for top in range(0, height, tile):
                picture = small[int(random.integers(len(small)))]
                edge = min(picture.size)
                times = max(1, round(tile / edge / 2))  # what is enlarged keeps the detail of half its size
                square = picture.crop((0, 0, edge, edge)).resize((edge * times,) * 2, Image.Resampling.LANCZOS)
                sheet.paste(square.resize((tile, tile), Image.Resampling.LANCZOS), (left, top))
        found.append(sheet)
    sheets = [jpeg(image, quality=int(random.integers(60, 96)), subsampling=i % 3) for i, image in enumerate(found)]
    return sheets + (versions(Path(os.environ["NSFWSCAN_PHOTOS"])) if "NSFWSCAN_PHOTOS" in os.environ else [])


def versions(folder: Path) -> list[bytes]:
    """Return the photographs in a folder as they are, and as stores have them: smaller, and compressed once more."""
    found: list[bytes] = []
    for path in sorted(folder.rglob("*.jpg")):
        found.append(path.read_bytes())
        image = Image.open(path).convert("RGB")
        for edge, quality in product((600, 900, 1300, 2000), (60, 85, 95)):
            small = image.copy()
            small.thumbnail((edge, edge), Image.Resampling.LANCZOS)
            if max(image.size) > edge:
                found.append(jpeg(small, quality=quality))
    return found


def pixels(data: bytes, geometry: Geometry, *, fast: bool) -> NDArray[np.uint8]:
    return np.frombuffer(to_pixels(data, geometry, fast=fast, max_pixels=PLENTY)[1], np.uint8).reshape(geometry.shape)


def open_nsfw() -> tuple[Geometry, Callable[[NDArray[np.uint8]], NDArray[np.float32]]]:
    """Return the embedded weights."""
    config, storage = ModelConfig(), StorageConfig()
    spec = resolve(config, storage)
    hardware = choose_hardware(spec, config, threads=1)
    classify = load(spec, storage, hardware)

    def score(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        parts = [images[i : i + hardware.batch_size] for i in range(0, len(images), hardware.batch_size)]
        padded = [np.resize(part, (hardware.batch_size, *part.shape[1:])) for part in parts]
        return np.concatenate([classify(part)[: len(real)] for part, real in zip(padded, parts, strict=True)])[:, 1]

    return spec.geometry, score


def dinov2() -> tuple[Geometry, Callable[[NDArray[np.uint8]], NDArray[np.float32]]]:
    """A real ViT; its score is the logistic of how far an image lies along what tells these images apart most."""
    torch.set_num_threads(1)
    model = transformers.AutoModel.from_pretrained(os.environ["NSFWSCAN_DINOV2"]).eval()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # ImageNet's
    axes: list[NDArray[np.float64]] = []

    def score(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        values = ((torch.from_numpy(images).float() / 255 - mean) / std).permute(0, 3, 1, 2)
        with torch.inference_mode():
            features = model(pixel_values=values).last_hidden_state[:, 0].double().numpy()
        if not axes:  # the exact ones come first
            centre = features.mean(axis=0)
            axis = np.linalg.svd(features - centre, full_matrices=False)[2][0]
            axes.extend((centre, axis * 2 / ((features - centre) @ axis).std()))
        return (1 / (1 + np.exp(-(features - axes[0]) @ axes[1]))).astype(np.float32)

    return GEOMETRY, score


@pytest.mark.long
@pytest.mark.parametrize(
    "model",
    [
        open_nsfw,
        pytest.param(
            dinov2,
            marks=pytest.mark.skipif(
                "NSFWSCAN_DINOV2" not in os.environ, reason="NSFWSCAN_DINOV2 names no DINOv2 checkpoint"
            ),
        ),
    ],
    ids=["open_nsfw", "dinov2"],
)
def test_no_score_moves(
    photographs: list[bytes],
    model: Callable[[], tuple[Geometry, Callable[[NDArray[np.uint8]], NDArray[np.float32]]]],
) -> None:
    """With real weights no score of a photograph moves by 0.02, and no label changes; the pixels do differ."""
    geometry, score = model()
    exact, fast = (np.stack([pixels(data, geometry, fast=fast) for data in photographs]) for fast in (False, True))
    differ = [bool((a != b).any()) for a, b in zip(exact, fast, strict=True)]
    assert sum(differ) > len(photographs) / 2
    before, after = score(exact), score(fast)
    if model is dinov2:
        assert before.max() - before.min() > 0.5
    print(f"{len(photographs)} photographs, the largest change {np.abs(before - after).max():.4f}")
    assert np.abs(before - after).max() < MOST
    assert ((before > 0.5) == (after > 0.5)).all()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_the_facts_are_those_of_the_file(orientation: int, mode: str) -> None:
    """Width and height are the file's own, upright; the picture stands as it would, and differs by little."""
    image = Image.radial_gradient("L").resize((2000, 1400)).convert("RGB")
    image.paste((200, 30, 60), (0, 0, 700, 500))
    data = jpeg(image.convert(mode), exif=_exif(orientation))
    exact_facts, exact = to_pixels(data, GEOMETRY, max_pixels=PLENTY)
    facts, fast = to_pixels(data, GEOMETRY, fast=True, max_pixels=PLENTY)
    assert facts == exact_facts
    assert (facts["width"], facts["height"]) == ((1400, 2000) if orientation in (6, 8) else (2000, 1400))
    difference = np.abs(np.frombuffer(exact, np.uint8).astype(int) - np.frombuffer(fast, np.uint8))
    assert 0 < difference.mean() < 0.5


def test_what_is_small_or_no_jpeg_is_exact() -> None:
    """Nothing changes for an image that is not much larger than the model's pixels, nor for other formats."""
    large, out = Image.effect_noise((1600, 1400), 60).convert("RGB"), io.BytesIO()
    large.save(out, "PNG", compress_level=1)
    small = jpeg(large.resize((1290, 1290)))
    for data in (small, out.getvalue()):
        assert to_pixels(data, GEOMETRY, fast=True, max_pixels=PLENTY) == to_pixels(data, GEOMETRY, max_pixels=PLENTY)


def test_a_thin_image_is_not_reduced_away() -> None:
    """The shorter edge keeps what the model needs of it, whichever way the image stands."""
    geometry = Geometry(64, Image.Resampling.BILINEAR, (64, 64))
    for size in ((4000, 190), (190, 4000)):
        noise = Image.effect_noise(size, 60).convert("RGB")
        for orientation in (1, 6):
            data = jpeg(noise, exif=_exif(orientation))
            fast = np.frombuffer(to_pixels(data, geometry, fast=True, max_pixels=PLENTY)[1], np.uint8).astype(int)
            exact = np.frombuffer(to_pixels(data, geometry, max_pixels=PLENTY)[1], np.uint8)
            assert np.abs(fast - exact).mean() < 2


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return exif
