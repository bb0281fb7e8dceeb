"""Decoding that is begun on a core and finished on a GPU: the rows that a core alone would have made.

Run on nvImageCodec's CPU decoders; `tests/models/test_jpegs.py` runs on a GPU where there is one.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import skimage.data
from PIL import Image, ImageCms

from nsfwscan.config import DecodeConfig, ViewsConfig
from nsfwscan.demo.media import DemoObject
from nsfwscan.images.left_to_gpu import can_decode
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.schema import COST, LISTING_SCHEMA, LOOK_CLOSER, SANDBOX
from nsfwscan.stages.base import fresh, run
from nsfwscan.stages.decode import Decode
from nsfwscan.stages.finish_on_gpu import FinishOnGpu

pytestmark = pytest.mark.skipif(not can_decode(), reason="needs the extra nvjpeg")

COLUMNS = {
    Geometry((96, 96), Image.Resampling.BILINEAR): "pixels",
    Geometry(64, Image.Resampling.BICUBIC, (56, 56)): "pixels_1",
}
GPU = DecodeConfig(mode="gpu", pdq="off")
EXACT = DecodeConfig(mode="exact", pdq="off")


@pytest.fixture(scope="module")
def begun() -> Iterator[Decode]:
    stage = Decode(GPU, COLUMNS, leaves=True)
    stage.open()
    return stage


@pytest.fixture(scope="module")
def alone() -> Decode:
    """A core that decodes everything."""
    return Decode(EXACT, COLUMNS)


@pytest.fixture(scope="module")
def finish() -> FinishOnGpu:
    stage = FinishOnGpu(COLUMNS, Decode(GPU, COLUMNS), "cpu")
    stage.open()
    return stage


@cache
def coffee() -> Image.Image:
    return Image.fromarray(skimage.data.coffee())


def photograph(size: tuple[int, int] = (301, 199)) -> Image.Image:
    return coffee().resize(size)


def encoded(image: Image.Image | None = None, kind: str = "JPEG", **how: Any) -> bytes:
    out = io.BytesIO()
    (image or photograph()).save(out, kind, **how)
    return out.getvalue()


def table(files: list[bytes]) -> pa.Table:
    listing = pa.Table.from_pylist([{"uri": f"/{i}"} for i in range(len(files))], schema=LISTING_SCHEMA)
    return fresh(listing).append_column("bytes", pa.array(files, pa.large_binary()))


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "Maker"
    return exif


def assert_alike(found: pa.Table, expected: pa.Table) -> None:
    """All columns are equal, but for the cost, the sandbox, the one signal that needs pixels, and a level of a pixel."""
    assert found.schema == expected.schema
    for name in (*COLUMNS.values(),):
        for ours, theirs in zip(found[name].to_pylist(), expected[name].to_pylist(), strict=True):
            assert (ours is None) == (theirs is None)
            for one, other in zip(ours or (), theirs or (), strict=True):
                assert np.abs(np.frombuffer(one, np.uint8).astype(int) - np.frombuffer(other, np.uint8)).max() <= 1
    rest = [name for name in found.column_names if name not in {*COLUMNS.values(), COST.name, SANDBOX.name, "signals"}]
    assert found.select(rest).to_pylist() == expected.select(rest).to_pylist()
    for ours, theirs in zip(found["signals"].to_pylist(), expected["signals"].to_pylist(), strict=True):
        known = [one for one in theirs or () if one["name"] != "jpeg.double_quantisation"]
        assert [one for one in ours or () if one["name"] != "jpeg.double_quantisation"] == known


def on_gpu(out: pa.Table) -> list[bool]:
    return [any(one["name"] == "decode-gpu" for one in cost or ()) for cost in out[COST.name].to_pylist()]


def test_rows_are_those_of_a_core(
    begun: Decode, alone: Decode, finish: FinishOnGpu, demo: tuple[Path, list[DemoObject]]
) -> None:
    """Over a store with all kinds of good and bad files, every row is the one that a core makes of it; ordinary JPEGs
    alone are decoded on the device."""
    root, objects = demo
    paths = [root / one.path for one in objects if (root / one.path).is_file()]
    files = [path.read_bytes() for i, path in enumerate(paths) if path.suffix == ".jpg" or i % 20 == 0]
    given = table(list(dict.fromkeys(files)))
    out = run([begun, finish], given)
    assert_alike(out, alone(given))
    decoded = [fmt for fmt, there in zip(out["format"].to_pylist(), on_gpu(out), strict=True) if there]
    assert len(decoded) > 10 and set(decoded) == {"JPEG"}


def _profile() -> bytes:
    """A profile that is plainly not sRGB: red and blue are exchanged."""
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    made = made.replace("sRGB built-in".encode("utf-16-be"), "swap built-in".encode("utf-16-be"))
    return made.replace(b"rXYZ", b"----", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"----", b"bXYZ", 1)


ORDINARY = {
    "4:2:0": encoded(),
    "4:4:4": encoded(subsampling=0),
    "grey": encoded(photograph().convert("L")),
    "progressive": encoded(progressive=True),
    "turned": encoded(exif=turned(6)),
}
OTHERS = {
    "PNG": encoded(kind="PNG"),
    "CMYK": encoded(photograph().convert("CMYK")),
    "RGB": encoded(keep_rgb=True),
    "a profile": encoded(icc_profile=_profile()),
    "several": encoded(kind="MPO", save_all=True, append_images=[photograph((301, 198))]),
    "cut off": encoded()[:-2000],
    "cut off and ended": encoded()[:-2000] + b"\xff\xd9",
    "ends white": encoded(Image.new("RGB", (64, 64), "white")),
    "tiny": encoded(photograph((15, 40))),
    "no image": b"no image",
}


def test_only_what_is_ordinary_is_left(begun: Decode, alone: Decode, finish: FinishOnGpu) -> None:
    """Ordinary JPEGs are decoded on the device and, as their rows say, outside of the sandbox; everything else is
    decoded by a core, before or after the device has refused it."""
    given = table([*ORDINARY.values(), *OTHERS.values()])
    out = run([begun, finish], given)
    assert_alike(out, alone(given))
    names = [*ORDINARY, *OTHERS]
    assert [name for name, there in zip(names, on_gpu(out), strict=True) if there] == [*ORDINARY]
    assert [name for name, held in zip(names, out[SANDBOX.name].to_pylist(), strict=True) if held == "none"] == [
        *ORDINARY
    ]


def test_a_second_look_and_tiles_stay_with_cores(begun: Decode, finish: FinishOnGpu) -> None:
    """A row that is looked at closer, and a picture that is cut into tiles, are decoded whole by a core."""
    closer = pa.array([{"frames": [], "views": None, "only": False}], LOOK_CLOSER.type)
    out = run([begun, finish], table([encoded()]).append_column(LOOK_CLOSER, closer))
    assert not any(on_gpu(out))
    tiled = Decode(GPU, COLUMNS, views=ViewsConfig(tiles=True), leaves=True)
    out = run([tiled, finish], table([encoded(photograph((1200, 1000))), encoded()]))
    assert on_gpu(out) == [False, True]
    assert out["views"].to_pylist()[0] > 1


def test_bombs_are_refused_before_they_reach_the_gpu(finish: FinishOnGpu) -> None:
    """More pixels than are allowed are `too_large` by the header; a sliver that resizing would blow up is left to a
    core."""
    stage = Decode(GPU.model_copy(update={"max_pixels": 40_000}), COLUMNS, leaves=True)
    out = run([stage, finish], table([encoded(), encoded(photograph((16, 2000)))]))
    assert out["status"].to_pylist() == ["too_large", "ok"]
    assert not any(on_gpu(out))


def test_the_contract_of_a_stage(begun: Decode, finish: FinishOnGpu) -> None:
    """Rows, order and columns stay, in whatever chunks and order they come; rows without a file are left alone."""
    files = table([*ORDINARY.values(), *OTHERS.values()])
    given = begun(pa.concat_tables([files.slice(0, 2), files.slice(2)]))
    assert begun(files.slice(0, 0)).schema == given.schema
    out = finish(given)
    drops = {field.name for field in given.schema if field.name in finish.drops}
    assert out.schema == pa.schema([field for field in given.schema if field.name not in drops])
    untimed = out.drop_columns([COST.name]).to_pylist()
    order = list(range(given.num_rows))[::-1]
    pieces = pa.concat_tables([given.slice(0, 3), given.slice(3)]).take(order)
    assert finish(pieces).drop_columns([COST.name]).to_pylist() == untimed[::-1]
    assert [
        row for i in order[::-1] for row in finish(given.slice(i, 1)).drop_columns([COST.name]).to_pylist()
    ] == untimed
    assert finish(given.slice(0, 0)).schema == out.schema
