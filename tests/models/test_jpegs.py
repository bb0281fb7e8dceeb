"""JPEGs decoded on the device: the pixels and scores that a core would have made, and nothing that it would not.

The same tests run on nvImageCodec's CPU decoders and, where there is one, on a GPU.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image

from nsfwscan.config import ModelConfig, StorageConfig
from nsfwscan.images.decoder import to_pixels
from nsfwscan.images.left_to_gpu import can_decode
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.models import registry
from nsfwscan.models.spec import Hardware
from tests.checkpoints import make_vit
from tests.later import later

pytestmark = pytest.mark.skipif(not can_decode(), reason="needs the extra nvjpeg")
jpegs = later("nsfwscan.models.jpegs")
on_cuda = pytest.mark.skipif("not __import__('torch').cuda.is_available()", reason="no CUDA device")

BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
GEOMETRIES = (
    Geometry((224, 224), BILINEAR),
    Geometry(256, BICUBIC, (224, 224)),
    Geometry((640, 640), BILINEAR, letterbox="start"),
    Geometry((64, 700), BILINEAR, (50, 699)),
)
LEVELS = {"cpu": 1, "cuda": 4}
"""Most that a pixel may differ from a core's, of 255. On the CPU the decoder is libjpeg-turbo, and only resizing
differs; for nvJPEG, whose transform and upsampling are others, it is what is asked, and has not been seen yet."""
SCORES = 1e-3
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea")


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=on_cuda)])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def decoder(device: str) -> Any:
    return jpegs.JpegDecoder(GEOMETRIES, device)


def photograph(name: str = "astronaut") -> Image.Image:
    """A photograph of odd edges, so that the last blocks are not whole."""
    image = Image.fromarray(getattr(skimage.data, name)())
    return image.crop((50, 40, 50 + 333, 40 + 257))


def encoded(image: Image.Image, **how: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", **how)
    return out.getvalue()


def jpeg(data: bytes, orientation: int = 1) -> Any:
    width, height = Image.open(io.BytesIO(data)).size
    return jpegs.EncodedJpeg(data, orientation, (height, width) if orientation > 4 else (width, height))


def of_a_core(data: bytes) -> bytes:
    return to_pixels(data, *GEOMETRIES, max_pixels=10**8)[1]


def furthest(found: list[np.ndarray], files: list[bytes]) -> int:
    rows = [b"".join(one[i].tobytes() for one in found) for i in range(len(files))]
    pairs = [
        (np.frombuffer(a, np.uint8).astype(int), np.frombuffer(of_a_core(b), np.uint8))
        for a, b in zip(rows, files, strict=True)
    ]
    return max(int(np.abs(ours - theirs).max()) for ours, theirs in pairs)


def test_pixels_are_those_of_a_core(decoder: Any, device: str) -> None:
    """Whatever the subsampling, the quality and the order of a JPEG, pixels are within the bound of a core's, for all
    geometries at once."""
    ways: list[dict[str, Any]] = [{"subsampling": s, "quality": 60 + 15 * s} for s in range(3)]
    ways += [{"progressive": True}, {"restart_marker_blocks": 4}]
    files = [encoded(photograph(name), **how) for name in PHOTOGRAPHS for how in ways]
    files += [encoded(photograph().convert("L")), encoded(photograph().resize((30, 20)))]
    done, found = decoder([jpeg(data) for data in files])
    assert done.all()
    assert furthest(found, files) <= LEVELS[device]


def test_pictures_are_upright(decoder: Any, device: str) -> None:
    """Each of EXIF's orientations is undone, as a core does."""
    exif, files = Image.Exif(), []
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        files.append(encoded(photograph(), exif=exif))
    done, found = decoder([jpeg(data, i + 1) for i, data in enumerate(files)])
    assert done.all()
    assert furthest(found, files) <= LEVELS[device]


def test_scores_are_those_of_transformers(decoder: Any, device: str, tmp_path: Path) -> None:
    """Scores of a sharp, random ViT are within a thousandth of those of Pillow's pixels, which transformers makes."""
    spec = registry.resolve(ModelConfig(uri=str(make_vit(tmp_path / "vit"))), StorageConfig())
    classify = registry.load(spec, StorageConfig(), Hardware("cpu", "float32", 1, 1))
    files = [encoded(photograph(name), quality=quality) for name in PHOTOGRAPHS for quality in (50, 75, 95)]
    _, [found] = jpegs.JpegDecoder([spec.geometry], device)([jpeg(data) for data in files])
    height, width, _ = spec.geometry.shape
    pillows = [np.asarray(Image.open(io.BytesIO(data)).resize((width, height), BILINEAR)) for data in files]
    ours, theirs = (
        np.array([classify(one.reshape(1, height, width, 3).copy())[0] for one in pixels])
        for pixels in (found, pillows)
    )
    assert np.ptp(theirs, axis=0).max() > 0.5
    assert np.abs(ours - theirs).max() <= SCORES


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:100],
        cut,
        lambda data: cut(data) + b"\xff\xd9",
        lambda data: b"\xff\xd8\xff" + bytes(range(256)),
        lambda data: encoded(photograph().resize((100, 80))),
    ],
    ids=["empty", "header cut off", "cut off", "cut off and ended", "no JPEG", "another size"],
)
def test_what_is_not_whole_is_refused(decoder: Any, damage: Callable[[bytes], bytes]) -> None:
    """A damaged file, and one that is not what its header was said to be, is refused, and its neighbours are decoded."""
    good = encoded(photograph())
    size = photograph().size
    files = [jpegs.EncodedJpeg(data, 1, size) for data in (good, damage(good), good)]
    done, found = decoder(files)
    assert done.tolist() == [True, False, True]
    assert furthest([one[[0]] for one in found], [good]) <= 4
    assert all((one[0] == one[1]).all() for one in found)


def test_other_formats_do_not_meet_its_parsers(decoder: Any) -> None:
    """A PNG is refused, though the library reads such."""
    out = io.BytesIO()
    photograph().save(out, "PNG")
    done, found = decoder([jpegs.EncodedJpeg(out.getvalue(), 1, photograph().size)])
    assert not done.any()
    assert [len(one) for one in found] == [0] * len(GEOMETRIES)


def test_neighbours_change_nothing(decoder: Any) -> None:
    """A picture alone has the very pixels that it has in a batch."""
    files = [jpeg(encoded(photograph(name))) for name in PHOTOGRAPHS]
    _, together = decoder(files)
    for i, one in enumerate(files):
        _, alone = decoder([one])
        assert all((a[0] == t[i]).all() for a, t in zip(alone, together, strict=True))
