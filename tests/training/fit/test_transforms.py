"""From an encoded image to the model's pixels, for training: the scan's own, and lightly changed."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from nsfwscan.errors import SourceError
from nsfwscan.images.decoder import to_pixels
from nsfwscan.images.preprocessing import Geometry
from tests.checkpoints import pictures
from tests.later import later

if TYPE_CHECKING:
    from training.fit.transforms import Pixels

torch = later("torch")
data = later("torch.utils.data")
transforms = later("training.fit.transforms")


GEOMETRY = Geometry(72, Image.Resampling.BICUBIC, (64, 64))


def _rows(count: int = 6) -> list[dict[str, object]]:
    rows = []
    for number, image in enumerate(pictures(count)):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        rows.append({"uri": f"/media/{number}.png", "bytes": buffer.getvalue(), "label": number % 5})
    return rows


def test_without_augmentation_the_pixels_are_the_scan_s() -> None:
    """Validation and test images are prepared to the bit as a scan prepares them."""
    rows = _rows()
    split = transforms.Pixels(rows, GEOMETRY, max_pixels=10**8)  # type: ignore[arg-type]  # a list serves as rows
    for number, row in enumerate(rows):
        expected = to_pixels(row["bytes"], GEOMETRY, max_pixels=10**8)[1]
        assert split[number]["pixel_values"].numpy().tobytes() == expected
        assert split[number]["labels"] == row["label"]


def _augmented(seed: int = 0) -> Pixels:
    return transforms.Pixels(_rows(), GEOMETRY, max_pixels=10**8, augmentation=transforms.Augmentation(seed))  # type: ignore[arg-type]


def test_augmentation_is_of_seed_epoch_and_image_alone() -> None:
    """The same image in the same epoch is changed alike, whoever loads it and in which order; otherwise differently."""
    first, again = _augmented(), _augmented()
    places = [(epoch, index) for epoch in range(2) for index in range(6)]
    seen = {place: first[place]["pixel_values"].numpy().tobytes() for place in places}
    assert seen == {place: again[place]["pixel_values"].numpy().tobytes() for place in reversed(places)}
    assert len(set(seen.values())) == len(places)
    assert all(_augmented(1)[place]["pixel_values"].numpy().tobytes() != seen[place] for place in places[:3])


def test_loader_processes_give_the_same(tmp_path: object) -> None:
    """Two processes that load images give the batches that this one gives."""
    order = transforms.EpochOrder(6, 0)
    alone, helped = (
        [
            batch["pixel_values"]
            for batch in data.DataLoader(_augmented(), 2, sampler=order, num_workers=n, collate_fn=transforms.collate)
        ]
        for n in (0, 2)
    )
    assert all(torch.equal(one, two) for one, two in zip(alone, helped, strict=True))


def test_augmentation_is_light() -> None:
    """A crop keeps most of each edge, and colours change little: half of the images are mirrored, none is turned."""
    image = Image.fromarray(np.full((200, 100, 3), 120, np.uint8))
    image.paste((250, 120, 120), (0, 0, 40, 200))  # its left is red
    mirrored = 0
    for index in range(60):
        cropped = transforms.Augmentation(0).crop(image, (0, index))
        assert (
            100 * transforms.LEAST_EDGE <= cropped.width <= 100 and 200 * transforms.LEAST_EDGE <= cropped.height <= 200
        )
        mirrored += cropped.getpixel((cropped.width - 1, 0))[0] > 200  # type: ignore[index]
        pixels = transforms.Augmentation(0).jitter(bytes([120]) * GEOMETRY.nbytes, GEOMETRY, (0, index))
        assert all(abs(value - 120) <= 120 * 2.5 * transforms.JITTER for value in pixels)
    assert 18 < mirrored < 42


def test_the_order_is_the_epoch_s() -> None:
    """Each epoch has each image once, in an order of its own that does not depend on what came before."""
    order, late = transforms.EpochOrder(50, 3), transforms.EpochOrder(50, 3)
    first = list(order)
    order.epoch = late.epoch = 7
    assert list(order) == list(late)
    assert sorted(index for _, index in order) == list(range(50)) == sorted(index for _, index in first)
    assert [index for _, index in order] != [index for _, index in first]
    assert {epoch for epoch, _ in order} == {7}


@pytest.mark.parametrize("changed", [False, True])
def test_an_image_that_no_longer_serves_is_named(changed: bool) -> None:
    """A file that decodes no more, or has more pixels than are allowed, ends the training by its name."""
    buffer = io.BytesIO()
    Image.new("RGB", (2000, 1000)).save(buffer, "PNG")
    rows = [{"uri": "/media/large.png", "bytes": buffer.getvalue(), "label": 0}]
    rows += [{"uri": "/media/broken.png", "bytes": b"\x89PNG\r\n\x1a\n", "label": 0}]
    split = transforms.Pixels(
        rows, GEOMETRY, max_pixels=10**6, augmentation=transforms.Augmentation(0) if changed else None
    )  # type: ignore[arg-type]
    with pytest.raises(SourceError, match=r"cannot train with /media/large\.png: .*; leave it out"):
        split[0]
    with pytest.raises(SourceError, match=r"cannot train with /media/broken\.png"):
        split[1]
