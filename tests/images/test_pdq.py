"""PDQ: to the bit what the reference package gives, at a fraction of its time."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pdqhash
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from skimage import data

from nsfwscan.images import pdq, pdq_roundings
from nsfwscan.images.decoder import decode
from nsfwscan.images.pdq import pdq_of

PHOTOS = {name: Image.open(f"{data.data_dir}/{name}.png").convert("RGB") for name in ("astronaut", "coffee", "chelsea")}


def reference(image: Image.Image) -> tuple[str, int]:
    """Return the hash as hex, and its quality, by the reference's own package."""
    bits, quality = pdqhash.compute(np.asarray(image))
    return np.packbits(bits.astype(np.uint8)).tobytes().hex(), int(quality)


def shown_in(data: bytes) -> tuple[str, int]:
    """Hash and quality that a scan gives a file."""
    facts = decode(data, max_pixels=10**8, hashed=True).facts
    return facts["pdq"], facts["pdq_quality"]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("size", [(451, 300), (300, 451), (1600, 1200), (129, 128), (2000, 130), (127, 900), (64, 64)])
def test_photographs(name: str, size: tuple[int, int]) -> None:
    """Whatever the size and shape, hash and quality are the reference's."""
    image = PHOTOS[name].resize(size)
    assert pdq_of(image) == reference(image)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.sampled_from(["noise", "flat", "stripes", "gradient", "photograph", "faint"]),
    st.integers(0, 2**32 - 1),
)
def test_any_picture(width: int, height: int, kind: str, seed: int) -> None:
    """Noise, flat ones, stripes, faint ones, down to one pixel: hash and quality are the reference's."""
    random = np.random.default_rng(seed)
    shape = (height, width, 3)
    down, across = np.mgrid[:height, :width]
    pictures = {
        "noise": lambda: random.integers(0, 256, shape),
        "flat": lambda: np.broadcast_to(random.integers(0, 256, 3), shape),
        "stripes": lambda: np.repeat(((across // random.integers(1, 90)) % 2 * 255)[..., None], 3, axis=2),
        "gradient": lambda: np.stack([down * 255 // height, across * 255 // width, down * 0], axis=2),
        "photograph": lambda: np.asarray(PHOTOS["coffee"].resize((width, height))),
        "faint": lambda: 100 + np.asarray(PHOTOS["astronaut"].resize((width, height))) // 16,
    }
    image = Image.fromarray(np.ascontiguousarray(pictures[kind](), dtype=np.uint8))
    assert pdq_of(image) == reference(image)


def test_files_as_the_reference_reads_them() -> None:
    """Orientation, profile and transparency are left aside, and a palette is looked up: what `convert("RGB")` gives."""
    photo = PHOTOS["astronaut"].resize((400, 300))
    turned = Image.Exif()
    turned[0x0112] = 6
    clear = photo.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(photo.size))
    files = {
        "turned": encoded(photo, "JPEG", exif=turned),
        "palette": encoded(photo.quantize(32), "PNG"),
        "transparent": encoded(clear, "PNG"),
        "CMYK": encoded(photo.convert("CMYK"), "JPEG"),
        "grey": encoded(photo.convert("L"), "WEBP"),
    }
    for name, file in files.items():
        assert shown_in(file) == reference(Image.open(io.BytesIO(file)).convert("RGB")), name


def test_files_that_the_reference_cannot_read() -> None:
    """What Pillow has no plain way to RGB for is hashed as it is shown."""
    lab = Image.merge("LAB", [PHOTOS["coffee"].convert("L")] * 3)
    found, quality = shown_in(encoded(lab, "TIFF"))
    assert len(found) == 64 and quality > 50


def test_doubt_is_left_to_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its rounding may decide on a bit, the reference is asked, and only there."""
    asked: list[tuple[int, ...]] = []

    def compute(pixels: np.ndarray) -> object:
        asked.append(pixels.shape)
        return np.zeros(256, np.uint8), 7

    monkeypatch.setattr(pdq.pdqhash, "compute", compute)
    clear = [image for image in PHOTOS.values() if pdq._bits(pdq._samples(image))[1]]
    assert clear and all(pdq_of(image)[1] > 50 for image in clear) and not asked
    flat = Image.new("RGB", (200, 300), (90, 90, 90))
    assert pdq_of(flat) == ("0" * 64, 7) and asked == [(300, 200, 3)]


@pytest.mark.parametrize("size", [(128, 128), (129, 257), (640, 131), (150, 1001), (1100, 700)])
def test_roundings_are_the_references(size: tuple[int, int]) -> None:
    """Every coefficient is the reference's to the last bit, whatever the windows of the filters are."""
    assert pdq_roundings.are_reproduced()
    for image in (drawn(np.random.default_rng(sum(size)), 900).resize(size), PHOTOS["coffee"].resize(size)):
        coefficients, quality = pdqhash.compute_float(np.asarray(image))
        samples = pdq_roundings._samples(image)
        assert (pdq_roundings._coefficients(samples).ravel() == coefficients[::-1]).all()
        assert pdq_roundings._quality(samples) == quality
        bits, quality = pdq_roundings.hash_of(image)
        assert (np.packbits(bits).tobytes().hex(), quality) == reference(image)


def test_large_pictures_in_doubt_do_without_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where roundings may decide on a bit of a large picture, they are done here; unless they are other ones here."""
    flat = Image.new("RGB", (900, 700), (90, 91, 200))
    expected = reference(flat)
    assert pdq_roundings.are_reproduced()
    with monkeypatch.context() as patched:
        patched.setattr(pdq.pdqhash, "compute", None)
        assert pdq_of(flat) == expected
    monkeypatch.setattr(pdq_roundings, "are_reproduced", lambda: False)
    monkeypatch.setattr(pdq_roundings, "hash_of", None)
    assert pdq_of(flat) == expected


def test_the_reference_is_not_asked_of_the_enormous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it would take too much memory, ours stands, in doubt or not."""
    monkeypatch.setattr(pdq, "_MOST_PIXELS", 50_000)
    monkeypatch.setattr(pdq.pdqhash, "compute", None)
    assert pdq_of(Image.new("RGB", (200, 300), (90, 90, 90)))[1] == 0


def weighted_error(image: Image.Image) -> float:
    """Return how far the reference's coefficients are from ours, as a multiple of what is allowed for."""
    ours = (pdq._TRANSFORM @ pdq._samples(image) @ pdq._TRANSFORM.T).ravel()
    theirs = pdqhash.compute_float(np.asarray(image))[0][::-1]
    return float((np.abs(ours - theirs) / pdq._OFF).max())


def drawn(random: np.random.Generator, longest: int) -> Image.Image:
    """A photograph of some brightness and contrast, a gradient, or shapes or specks on a plain ground."""
    size = tuple(int(edge) for edge in random.integers(128, longest, 2))
    kind = random.choice(["photograph", "gradient", "shapes", "specks"])
    if kind == "photograph":
        contrast, light = random.integers(1, 9), random.integers(0, 120)
        photo = PHOTOS[str(random.choice(list(PHOTOS)))].resize(size)
        return Image.eval(photo, lambda level: min(255, int(level // contrast + light)))
    if kind == "gradient":
        across, down = (
            np.linspace(*random.integers(0, most, 2), edge) for most, edge in zip((256, 60), size, strict=True)
        )
        plane = np.clip(across[None, :] + down[:, None], 0, 255).astype(np.uint8)
        return Image.fromarray(plane).convert("RGB")
    image = Image.new("RGB", size, tuple(int(level) for level in random.integers(0, 256, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(random.integers(1, 60 if kind == "shapes" else 400)):
        x, y = (int(random.integers(0, edge)) for edge in size)
        side = int(random.integers(2, max(3, size[0] // (4 if kind == "shapes" else 60))))
        shape = draw.rectangle if random.random() < 0.5 else draw.ellipse
        shape([x, y, x + side, y + side], fill=tuple(int(level) for level in random.integers(0, 256, 3)))
    return image


@pytest.mark.parametrize(("pictures", "longest"), [(60, 1200), pytest.param(400, 4200, marks=pytest.mark.full)])
def test_the_error_bound(pictures: int, longest: int) -> None:
    """The reference's coefficients are no further from ours than is allowed for, and the hash is the reference's."""
    images = (drawn(np.random.default_rng(seed), longest) for seed in range(pictures))
    errors = []
    for seed, image in enumerate(images):
        errors.append(weighted_error(image))
        assert pdq_of(image) == reference(image), seed
    print(f"{pictures} pictures: {np.median(errors):.3f} of what is allowed for, at most {max(errors):.3f}")
    assert max(errors) < 1


@pytest.mark.skipif("NSFWSCAN_PHOTOS" not in os.environ, reason="NSFWSCAN_PHOTOS names no folder of photographs")
def test_the_error_bound_on_photographs() -> None:
    """The same for photographs; reduced JPEGs differ by a few bits."""
    paths = sorted(Path(os.environ["NSFWSCAN_PHOTOS"]).rglob("*.jp*g"))
    random, off, doubtful, moved = np.random.default_rng(0), [], 0, []
    for path in paths:
        whole = Image.open(path).convert("RGB")
        for number in range(6):
            left, top, right, bottom = random.uniform(0, 0.33, 4) if number else (0, 0, 0, 0)
            width, height = whole.size
            image = whole.crop(
                (int(left * width), int(top * height), int(width - right * width), int(height - bottom * height))
            )
            samples = pdq._samples(image)
            off.append(weighted_error(image))
            doubtful += not pdq._bits(samples)[1] or len(set(pdq._quality(samples))) > 1
            assert pdq_of(image) == reference(image), path
        for edge in (600, 1200):
            small = Image.open(path)
            small.draft("RGB", (edge, edge))
            hashes = [np.frombuffer(bytes.fromhex(pdq_of(one)[0]), np.uint8) for one in (whole, small.convert("RGB"))]
            moved.append(int(np.unpackbits(hashes[0] ^ hashes[1]).sum()))
    print(
        f"{len(off)} images: {np.median(off):.3f} of what is allowed for, at most {max(off):.3f}; left to the reference: "
        f"{doubtful}"
    )
    print(f"bits that differ when reduced: median {np.median(moved)}, at most {max(moved)} of 256")
    assert max(off) < 1
