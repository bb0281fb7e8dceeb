"""Images that show the same are found, exactly those that the distance says, and contents under two labels are named."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from nsfwscan.config import DecodeConfig
from nsfwscan.stages.base import fresh
from tests.later import later
from tests.training.pictures import blobs, encoded, photographs, variants
from training.data.decoding import DecodePool
from training.data.examine import GEOMETRY, Examine
from training.data.perceptual import HASH_BYTES, MIN_QUALITY, VARIANTS

catalog = later("training.data.catalog")
similar = later("training.data.similar")


def examined(files: Mapping[str, bytes], labels: Mapping[str, str] | None = None) -> pa.Table:
    """Return the facts of files."""
    import hashlib

    listed = pa.table(
        {
            "uri": list(files),
            "size": [len(f) for f in files.values()],
            "bytes": pa.array(list(files.values()), pa.large_binary()),
        }
    )
    with DecodePool(DecodeConfig(), GEOMETRY) as pool:
        table = Examine(pool)(fresh(listed))
    assert set(table["status"].to_pylist()) == {"ok"}
    table = table.append_column("sha256", pa.array([hashlib.sha256(f).hexdigest() for f in files.values()]))
    table = table.append_column("label", pa.array([(labels or {}).get(uri, "neutral") for uri in files]))
    return table.select(catalog.FACTS_SCHEMA.names)


def hashed(base: NDArray[np.uint8], quality: int = 100) -> pa.Table:
    """Facts of images that have these hashes [n, 32], and the same for their variants."""
    rows = [
        {
            "uri": f"{i}",
            "label": "neutral",
            "sha256": f"{i:064x}",
            "pixels_sha256": f"{i:064x}",
            "pdq": h.tobytes(),
            "pdq_quality": quality,
            "pdq_variants": h.tobytes() * VARIANTS,
        }
        for i, h in enumerate(base)
    ]
    return pa.Table.from_pylist(rows, schema=catalog.FACTS_SCHEMA)


def test_copies_of_a_photograph_are_one_group_and_photographs_are_not() -> None:
    """Re-encoded, resized, squeezed, mirrored, softened and cropped copies belong to their photograph, and to no other."""
    files = {f"{name}/original": encoded(image, "PNG") for name, image in photographs().items()}
    for name, image in photographs().items():
        files |= {f"{name}/{what}": data for what, data in variants(image)}
    groups = similar.find_groups(examined(files), 31).similar
    together = {}
    for uri, group in zip(files, groups, strict=True):
        together.setdefault(uri.split("/")[0], set()).add(int(group))
    assert {name: len(found) for name, found in together.items()} == dict.fromkeys(photographs(), 1)
    assert len(set(groups.tolist())) == len(photographs())


def test_what_the_search_misses() -> None:
    """Turned, one-sidedly cut and nearly flat copies are not recognised, as README says."""
    image = photographs()["astronaut.png"]
    width, height = image.size
    flat = Image.new("RGB", image.size, (90, 120, 200))
    files = {
        "original": encoded(image),
        "turned": encoded(image.transpose(Image.Transpose.ROTATE_90)),
        "a quarter cut off on the left": encoded(image.crop((width // 4, 0, width, height))),
        "flat": encoded(flat),
        "flat, encoded again": encoded(flat, quality=40),
    }
    assert len(set(similar.find_groups(examined(files), 31).similar.tolist())) == len(files)


def test_other_pictures_stay_apart() -> None:
    """A hundred different pictures are a hundred groups."""
    assert (
        len(set(similar.find_groups(examined({f"{i}": encoded(blobs(i)) for i in range(100)}), 31).similar.tolist()))
        == 100
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 60), distance=st.sampled_from([0, 8, 31]))
def test_every_pair_within_the_distance_is_found(seed: int, count: int, distance: int) -> None:
    """Groups are the components of `at most so many bits apart`, by brute force."""
    random = np.random.default_rng(seed)
    bits = random.integers(0, 2, (max(1, count // 6), 256))
    bits = bits[random.integers(0, len(bits), count)]
    for row in bits:
        row[random.permutation(256)[: random.integers(0, 40)]] ^= 1
    found = similar.find_groups(hashed(np.packbits(bits.astype(np.uint8), axis=1)), distance).similar
    apart = (bits[:, None] != bits[None]).sum(axis=2)
    reached = apart <= distance
    for _ in range(count):
        reached = reached @ reached
    assert np.array_equal(found[:, None] == found[None], reached)


def test_the_distance_is_inclusive() -> None:
    """31 bits apart is near, 32 is not."""
    base = np.zeros((1, 256), np.uint8)
    for bits, is_near in ((31, True), (32, False)):
        other = base.copy()
        other[0, :bits] = 1
        found = similar.find_groups(hashed(np.packbits(np.concatenate([base, other]), axis=1)), 31).similar
        assert (found[0] == found[1]) == is_near


def test_hashes_of_flat_images_are_not_trusted() -> None:
    """Below PDQ's quality, equal hashes say nothing; equal pixels still do."""
    same = np.zeros((2, HASH_BYTES), np.uint8)
    assert len(set(similar.find_groups(hashed(same, MIN_QUALITY - 1), 31).similar.tolist())) == 2
    assert len(set(similar.find_groups(hashed(same, MIN_QUALITY), 31).similar.tolist())) == 1
    from PIL import Image

    grey = {
        "a": encoded(Image.new("RGB", (300, 300), (90, 90, 90)), "PNG"),
        "b": encoded(Image.new("RGB", (300, 300), (90, 90, 90)), "BMP"),
    }
    assert len(set(similar.find_groups(examined(grey), 31).similar.tolist())) == 1


def test_the_same_content_under_two_labels_is_a_conflict() -> None:
    """The same bytes, and the same pixels in other bytes, under two labels are exact conflicts; a smaller copy is a similar one."""
    image = blobs(1)
    files = {
        "a": encoded(image, "PNG"),
        "b": encoded(image, "PNG"),
        "c": encoded(image, "BMP"),
        "d": encoded(image.resize((90, 70)), "PNG"),
        "e": encoded(blobs(2)),
        "f": encoded(blobs(2).resize((100, 80))),
        "g": encoded(blobs(3)),
        "h": encoded(blobs(3)),
    }
    labels = {
        "a": "neutral",
        "b": "porn",
        "c": "neutral",
        "d": "sexy",
        "e": "porn",
        "f": "sexy",
        "g": "porn",
        "h": "porn",
    }
    facts = examined(files, labels)
    groups = similar.find_groups(facts, 31)
    found = {(c.kind, tuple(uri for uri, _ in c.members)) for c in similar.conflicts(facts, groups)}
    assert found == {("exact", ("a", "b", "c")), ("similar", ("e", "f"))}
    assert similar.exactly_contradicted(facts, groups).tolist() == [True] * 3 + [False] * 5
