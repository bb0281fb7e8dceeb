"""Pixels are those that the checkpoint's own processor makes; what is not reproduced is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cykooz_resizer import CpuExtensions, Resizer
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from nsfwscan.errors import ModelError
from nsfwscan.images import preprocessing
from nsfwscan.images.preprocessing import Geometry, Normalisation, family_of, read_preprocessor
from tests.later import later

torch = later("torch")
transformers = later("transformers")


SIZES = [(97, 131), (480, 301), (224, 224), (1, 1), (3, 200), (200, 3), (383, 385)]
"""(height, width): both aspects, smaller and larger than what models take, odd differences, a single pixel."""

Processor = Any


def pixels_of(height: int, width: int) -> Image.Image:
    random = np.random.default_rng(height * 1000 + width)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))


def applied(geometry: Geometry, image: Image.Image) -> NDArray[np.uint8]:
    return np.frombuffer(geometry.apply(image), np.uint8).reshape(geometry.shape)


def normalised(pixels: NDArray[np.uint8], how: Normalisation) -> NDArray[np.float32]:
    """Return what `Normalisation` says, channels first."""
    values = (pixels.astype(np.float32) * how.scale - np.float32(how.mean)) / np.float32(how.std)
    return np.moveaxis(values[..., ::-1] if how.bgr else values, -1, 0)


def processor_of(family: str, **settings: Any) -> Processor:
    """transformers' own, in its Pillow version."""
    return getattr(transformers, f"{family}ImageProcessorPil")(**settings)


def check(processor: Processor, settings: dict[str, Any] | None = None) -> None:
    """Pixels equal to the bit before normalising, bilinear ones to one level; values equal to float rounding after it."""
    geometry, normalisation = read_preprocessor(settings or processor.to_dict(), "m")
    for height, width in SIZES:
        image = pixels_of(height, width)
        raw = processor(images=image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
        ours = applied(geometry, image)
        np.testing.assert_allclose(
            np.moveaxis(ours, -1, 0), raw, rtol=0, atol=off_by(geometry), err_msg=f"{height}x{width}"
        )
    values = processor(images=Image.fromarray(ours), do_resize=False, do_center_crop=False, return_tensors="np")
    np.testing.assert_allclose(normalised(ours, normalisation), values["pixel_values"][0], atol=2e-6, rtol=1e-5)


def off_by(geometry: Geometry) -> int:
    """Levels of 255 that a pixel may be from Pillow's: none but for the filter that Pillow does not compute."""
    return int(geometry.resample == Image.Resampling.BILINEAR)


FAMILIES = [
    ("ViT", {}),
    ("ViT", {"size": {"height": 64, "width": 96}, "resample": 3}),
    ("ViT", {"resample": 0}),
    ("ViT", {"resample": 1, "size": {"height": 32, "width": 32}}),
    ("ViT", {"do_normalize": False}),
    ("ViT", {"do_rescale": False}),
    ("ViT", {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}),
    ("Siglip", {}),
    ("Siglip", {"size": {"height": 384, "width": 384}, "resample": 2}),
    ("DeiT", {}),
    ("DeiT", {"do_center_crop": False}),
    ("Bit", {}),
    ("Bit", {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}),
    ("Bit", {"size": {"shortest_edge": 255}, "crop_size": {"height": 224, "width": 99}}),
    ("Bit", {"size": {"height": 40, "width": 50}, "do_center_crop": False}),
    ("CLIP", {}),
    ("CLIP", {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}),
    ("ConvNext", {}),
    ("ConvNext", {"size": {"shortest_edge": 384}, "resample": 2}),
    ("ConvNext", {"size": {"shortest_edge": 224}}),
    ("ConvNext", {"size": {"shortest_edge": 224}, "crop_pct": 0.95}),
    ("ConvNext", {"size": {"shortest_edge": 383}, "crop_pct": 1.0}),
]


@pytest.mark.parametrize(("family", "settings"), FAMILIES, ids=lambda value: str(value).replace(" ", ""))
def test_pixels_are_those_of_transformers(family: str, settings: dict[str, Any]) -> None:
    """For every family and its usual settings, on seven image sizes: the same pixels."""
    check(processor_of(family, **settings))


@pytest.mark.parametrize("family", ["ViT", "Siglip", "DeiT", "Bit", "CLIP", "ConvNext"])
def test_a_silent_file_means_the_processors_defaults(family: str) -> None:
    """A preprocessor_config.json that only names its class is read as transformers reads it."""
    check(processor_of(family), {"image_processor_type": f"{family}ImageProcessor"})


@pytest.mark.parametrize(
    ("family", "legacy"),
    [
        ("ViT", {"size": 96}),
        ("DeiT", {"size": 96, "crop_size": 64}),
        ("Bit", {"size": 96, "crop_size": 64}),
        ("CLIP", {"size": 96, "crop_size": 96}),
        ("ConvNext", {"size": 96}),
        ("ConvNext", {"size": 400}),
    ],
)
def test_sizes_of_old_files_are_numbers(family: str, legacy: dict[str, Any]) -> None:
    """A bare number is a square, or the shortest edge: as each family's processor takes it."""
    written = {**processor_of(family).to_dict(), **legacy}
    check(processor_of(family, **legacy), written)


@pytest.mark.parametrize(
    "name", ["ViTFeatureExtractor", "ViTImageProcessor", "ViTImageProcessorFast", "ViTImageProcessorPil"]
)
def test_one_family_has_several_class_names(name: str) -> None:
    """Old, fast and Pillow processors are one family; old files say `feature_extractor_type`."""
    assert family_of({"image_processor_type": name}) == family_of({"feature_extractor_type": name}) == "ViT"


@settings(max_examples=80, deadline=None)
@given(
    edge=st.integers(1, 80),
    share=st.floats(0.3, 1),
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    resample=st.sampled_from([0, 1, 2, 3, 4, 5]),
)
def test_any_size_gives_the_same_pixels(edge: int, share: float, height: int, width: int, resample: int) -> None:
    """Shortest edge and centre crop agree with transformers whatever the numbers; the result is whole and in shape."""
    crop = max(1, int(edge * share))
    settings = {"size": {"shortest_edge": edge}, "crop_size": {"height": crop, "width": crop}, "resample": resample}
    processor = processor_of("CLIP", **settings)
    geometry, _ = read_preprocessor(processor.to_dict(), "m")
    image = pixels_of(height, width)
    raw = processor(images=image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(np.moveaxis(applied(geometry, image), -1, 0), raw, rtol=0, atol=off_by(geometry))
    assert geometry.nbytes == crop * crop * 3


@settings(max_examples=60, deadline=None)
@given(
    edge=st.integers(20, 80),
    share=st.floats(0.3, 1),
    short=st.integers(1, 90),
    long=st.integers(90, 3000),
    lies=st.booleans(),
    resample=st.sampled_from([1, 2, 3]),
)
def test_a_sliver_has_the_same_middle(
    edge: int, share: float, short: int, long: int, lies: bool, resample: int
) -> None:
    """What is made of a sliver without resizing all of it is what Pillow makes of all of it. Pillow takes a box in 32-bit
    floats, so each of both passes may round a tie the other way: one level, and seldom two."""
    geometry = Geometry(edge, resample, (max(1, int(edge * share)), max(1, edge // 2)))
    image = pixels_of(*((short, long) if lies else (long, short)))
    width, height = geometry.resized(image.size)
    whole = image.resize((width, image.height), resample).resize((width, height), resample)
    left, top = (width - geometry.shape[1]) // 2, (height - geometry.shape[0]) // 2
    expected = whole.crop((left, top, left + geometry.shape[1], top + geometry.shape[0]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocessing, "_MOST_WHOLE", 0)
        found = applied(geometry, image)
    off = np.abs(found.astype(int) - np.asarray(expected))
    assert off.max() <= 2 and (off > 1).sum() <= 3 + off.size // 100


@pytest.mark.parametrize("size", [(4000, 3000), (3000, 7), (2, 1900), (640, 427), (1, 1)])
def test_bilinear_pixels_are_the_same_on_every_processor(size: tuple[int, int]) -> None:
    """One level from Pillow's at most, on noise and on black and white; without vector instructions the same pixels."""
    plain = Resizer()
    plain.cpu_extensions = CpuExtensions.none
    random = np.random.default_rng(0)
    for levels in (256, 2):
        noise = random.integers(0, levels, (size[1], size[0], 3)) * (255 // (levels - 1))
        image, found = Image.fromarray(noise.astype(np.uint8)), []
        for resizer in (preprocessing._RESIZER, plain):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(preprocessing, "_RESIZER", resizer)
                found.append(applied(Geometry((224, 256), Image.Resampling.BILINEAR), image))
        np.testing.assert_array_equal(*found)
        pillow = np.asarray(image.resize((256, 224), Image.Resampling.BILINEAR))
        assert np.abs(found[0].astype(int) - pillow).max() <= 1


def test_bilinear_pixels_are_those_of_the_fast_processor() -> None:
    """On photographs they are what torch makes of 8-bit pixels, as transformers' fast processors do: equal to the bit.
    Of Pillow's pixels, one in 200 at most is another."""
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        image = Image.fromarray(getattr(data, name)())
        found = applied(Geometry((224, 224), Image.Resampling.BILINEAR), image)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        fast = torch.nn.functional.interpolate(pixels, (224, 224), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
        np.testing.assert_array_equal(found, fast.numpy())
        assert (found != np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR))).mean() < 0.005


def test_a_jpeg_round_trip_changes_pixels_and_not_the_shape() -> None:
    """open_nsfw was trained behind one; without it the pixels are others."""
    image = pixels_of(300, 400)
    plain = Geometry((256, 256), Image.Resampling.BILINEAR, (224, 224))
    through = Geometry((256, 256), Image.Resampling.BILINEAR, (224, 224), reencode_jpeg=True)
    assert plain.shape == through.shape == (224, 224, 3)
    assert len(through.apply(image)) == through.nbytes == 150_528
    assert through.apply(image) != plain.apply(image)
    assert through.apply(image) == through.apply(image)


def test_bgr_turns_the_channels_round_at_the_end() -> None:
    """Mean and deviation are given for R, G, B; the order changes after them."""
    how = Normalisation(1.0, (1.0, 2.0, 3.0), (1.0, 1.0, 2.0), bgr=True)
    assert normalised(np.array([[[11, 12, 13]]], np.uint8), how).ravel().tolist() == [5.0, 10.0, 10.0]


# What is refused

COMPLETE = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 224, "width": 224},
    "resample": 2,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"do_resize": False}, "does not resize, or pads"),
        ({"do_pad": True}, "does not resize, or pads"),
        ({"size": 96, "image_processor_type": "SiglipImageProcessor"}, "does not crop"),
        ({"size": {"shortest_edge": 224}}, "does not crop: images would differ in size"),
        ({"size": {"shortest_edge": 224, "longest_edge": 448}}, "is not a height and width, nor a shortest edge"),
        ({"size": {"max_height": 224, "max_width": 224}}, "is not a height and width, nor a shortest edge"),
        ({"size": {"longest_edge": 224}}, "is not a height and width, nor a shortest edge"),
        ({"do_center_crop": True, "crop_size": 225}, r"crops to \(225, 225\), which is more than it resizes to"),
        ({"image_mean": [0.5]}, "has 1 channels"),
        ({"image_std": [0.5] * 4}, "has 4 channels"),
        ({"size": [224, 224]}, "m: "),
        ({"size": {"height": "large", "width": 224}}, "m: "),
        ({"size": {"height": 0, "width": 224}}, "no pixels are left"),
        ({"size": "224"}, "m: "),
        ({"resample": "bicubic"}, "m: "),
        ({"resample": 9}, "m: "),
        ({"image_mean": "imagenet"}, "m: "),
        ({"image_std": [0.5, 0.5, None]}, "m: "),
        ({"image_std": [0.5, 0.5, 0.0]}, "m: "),
        ({"do_center_crop": True, "crop_size": {"shortest_edge": 200}}, "m: "),
        ({"image_processor_type": "ConvNextImageProcessor"}, "m: "),
    ],
)
def test_what_is_not_reproduced_is_refused(changed: dict[str, Any], said: str) -> None:
    """Settings that mean something else, or nothing, are a ModelError that says which; nothing is guessed."""
    with pytest.raises(ModelError, match=said):
        read_preprocessor({**COMPLETE, **changed}, "m")


@pytest.mark.parametrize("key", ["size", "resample", "image_mean", "image_std"])
def test_an_unknown_processor_must_say_everything(key: str) -> None:
    """Of a family whose defaults are not known here, what the file leaves out is named."""
    settings = {**COMPLETE, "image_processor_type": "BeitImageProcessor"}
    read_preprocessor(settings, "m")
    with pytest.raises(ModelError, match=rf"m: its preprocessor_config\.json \(Beit\) does not give {key}"):
        read_preprocessor({k: v for k, v in settings.items() if k != key}, "m")


def test_a_geometry_without_a_fixed_shape_cannot_be_made() -> None:
    """A shortest edge without a crop would give every image another shape."""
    with pytest.raises(ModelError, match="images would differ in size"):
        Geometry(224, Image.Resampling.BILINEAR)
