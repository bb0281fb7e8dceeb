"""The generated media store: its mix, its sizes, its bytes, and that it is made once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.benchmark import media
from jobs.benchmark.media import SMALL, TINY, USER_CONTENT, Share, block_of, bytes_per_pixel


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return media.make_pictures(tmp_path_factory.mktemp("work"), SMALL, 40)


def test_every_block_holds_the_mix(pictures: list[Path]) -> None:
    """Each block of pictures has exactly the shares of the mix, in another order."""
    sizes = [Image.open(path).size for path in pictures]
    wanted = Counter({(share.width, share.height): share.of_block for share in SMALL})
    assert Counter(sizes[:20]) == Counter(sizes[20:]) == wanted
    assert sizes[:20] != sizes[20:]


def test_user_content_is_what_the_page_says() -> None:
    """Blocks of twenty, from 500 x 375 to 12 megapixels, 2.4 megapixels on average."""
    assert block_of(USER_CONTENT) == 20
    assert (USER_CONTENT[0].width, USER_CONTENT[0].height) == (500, 375)
    assert USER_CONTENT[-1].width * USER_CONTENT[-1].height == 12_000_000
    assert media.megapixels(USER_CONTENT) == pytest.approx(2.40, abs=0.01)
    assert media.whole_blocks(USER_CONTENT, 109) == 100
    assert media.whole_blocks(USER_CONTENT, 1) == 20


def test_pictures_weigh_what_photographs_weigh(tmp_path: Path) -> None:
    """At quality 85, 4:2:0, a picture has between 0.2 and 0.45 bytes a pixel."""
    made = media.make_pictures(tmp_path, (Share(1600, 1200, 1),), 1)
    assert 0.2 < bytes_per_pixel(made) < 0.45
    with Image.open(made[0]) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert [layer[1:3] for layer in image.layer] == [(2, 2), (1, 1), (1, 1)]


def test_the_same_recipe_makes_the_same_bytes(pictures: list[Path], tmp_path: Path) -> None:
    """Pictures depend on the recipe alone, are distinct, and another seed makes others."""
    again = media.make_pictures(tmp_path, SMALL, 20)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in pictures[:20]]
    assert len({path.read_bytes() for path in pictures}) == 40
    other = media.make_pictures(tmp_path, SMALL, 20, seed=1)
    assert other[0].parent != again[0].parent
    assert other[0].read_bytes() != again[0].read_bytes()


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    """A second call makes only what is missing."""
    first = media.make_pictures(tmp_path, TINY, 3)
    before = [path.stat().st_mtime_ns for path in first]
    first[1].unlink()
    media.make_pictures(tmp_path, TINY, 4)
    after = [path.stat().st_mtime_ns for path in first]
    assert (after[0], after[2]) == (before[0], before[2])
    assert first[1].exists()


def test_a_large_store_repeats_pictures(pictures: list[Path], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Objects are the pictures in turn, each with bytes of its own; the store is made once."""
    work = pictures[0].parent.parent
    store = media.make_store(work, pictures, 1_050)
    found = sorted(store.rglob("*.jpg"))
    assert len(found) == 1_050
    assert [path.parent.name for path in (found[0], found[-1])] == ["000", "001"]
    assert np.array_equal(np.asarray(Image.open(found[41])), np.asarray(Image.open(pictures[1])))
    assert len({path.read_bytes() for path in found}) == 1_050
    assert media.make_store(work, pictures, 1_050) == store
