"""The stage around the decode child: a row for every file, whatever the file does, and nothing for its neighbours."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nsfwscan.config import DecodeConfig, ViewsConfig
from nsfwscan.errors import ErrorCode, NsfwscanError
from nsfwscan.images.decoder import to_pixels
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.models.views import pixels_type
from nsfwscan.policy.signals import signals_of_row
from nsfwscan.schema import COST, LISTING_SCHEMA, REPORT_SCHEMA
from nsfwscan.stages.base import fresh
from nsfwscan.stages.decode import Decode
from tests.hostile_format import PLUGINS, hostile

GEOMETRY = Geometry(20, Image.Resampling.BICUBIC, (16, 18))
FACTS = ("format", "width", "height", "frames", "camera", "software")


def encode(image: Image.Image, fmt: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, fmt)
    return out.getvalue()


def gradient(size: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.linear_gradient("L").resize(size).convert("RGB")


def table(files: list[bytes]) -> pa.Table:
    """Files as the stage before hands them over."""
    listing = pa.Table.from_pylist([{"uri": f"/{i}"} for i in range(len(files))], schema=LISTING_SCHEMA)
    return fresh(listing).append_column("bytes", pa.array(files, pa.large_binary()))


@pytest.fixture(scope="module")
def hardened() -> Iterator[Decode]:
    """Stage with little time and memory for a file, and a format that needs them."""
    stage = Decode(DecodeConfig(timeout_s=2.0, max_memory_bytes=2**27, plugins=PLUGINS), {GEOMETRY: "pixels"})
    stage.open()
    return stage


def test_pixels_are_the_geometry_of_the_decoded_image() -> None:
    """The stage's `pixels` are what the geometry makes of the upright picture, in fixed-size rows."""
    stage = Decode(DecodeConfig(), {GEOMETRY: "pixels"})
    out = stage(table([encode(gradient()), b"no"]))
    assert out.schema.field("pixels").type == pixels_type(16 * 18 * 3)
    assert out["pixels"].to_pylist() == [[GEOMETRY.apply(gradient())], None]
    assert out["format"].to_pylist() == ["PNG", None]
    assert "bytes" not in out.column_names


def test_signals_are_of_the_files_that_have_some() -> None:
    """The column of what files say of their making, null where they say nothing, and everywhere where nobody asks."""
    exif = Image.Exif()
    exif[0x0131] = "GIMP 2.10"
    out = io.BytesIO()
    gradient().save(out, "PNG", exif=exif)
    files = table([out.getvalue(), encode(gradient()), b"no"])
    found = Decode(DecodeConfig(), {GEOMETRY: "pixels"})(files)["signals"]
    assert found.type == REPORT_SCHEMA.field("signals").type
    assert found.to_pylist() == [[{"name": "software.gimp", "value": 1.0}], None, None]
    assert Decode(DecodeConfig(provenance=False), {GEOMETRY: "pixels"})(files)["signals"].null_count == 3


def test_a_sliver_is_not_blown_up() -> None:
    """A picture so thin that scaling its short edge to the model's would take gigabytes has the pixels of its middle,
    whichever model asks for them, first or beside another, and so has such a page after an ordinary one."""
    columns = {GEOMETRY: "pixels", Geometry(256, Image.Resampling.BICUBIC, (224, 224)): "pixels_1"}
    stage = Decode(DecodeConfig(max_memory_bytes=2**29), columns, views=ViewsConfig(tiles=True))
    slivers = [gradient().resize(size) for size in ((1, 40_000), (40_000, 1))]
    pages = io.BytesIO()
    gradient().save(pages, "TIFF", save_all=True, append_images=slivers)
    rows = stage(table([*map(encode, slivers), pages.getvalue()])).to_pylist()
    assert [(row["status"], row["width"], row["height"]) for row in rows] == [
        ("ok", 1, 40_000), ("ok", 40_000, 1), ("ok", *gradient().size)
    ]  # fmt: skip
    assert [len(row["pixels_1"]) for row in rows] == [len(row["pixels"]) for row in rows] == [8, 8, 2]
    middle = gradient().resize((1, 40_000)).getpixel((0, 20_000))
    shown = np.frombuffer(rows[0]["pixels_1"][0], np.uint8).reshape(224, 224, 3)
    assert np.abs(shown.astype(int) - middle).max() <= 1


def test_poison_costs_once(hardened: Decode) -> None:
    """Copies of a file that stalls the decoder, in the same shard or a later one, cost nothing more, and their rows say why."""
    files = [hostile("hang"), hostile("hang"), hostile("grey"), hostile("hang in C"), hostile("hang")]
    digests = pa.array([hashlib.sha256(file).hexdigest() for file in files])
    given = table(files).append_column("sha256", digests)
    before = hardened._child.workers
    first = hardened(given)
    again = hardened(given.take([1, 3]))
    assert hardened._child.workers - before <= 3  # one for what is fine, one more for each of the two contents
    assert first["status"].to_pylist() == ["timeout", "timeout", "ok", "timeout", "timeout"]
    assert again["status"].to_pylist() == ["timeout", "timeout"]
    said = "decoding took more than 2 s (decode.timeout_s)"
    copy = f"{said} (the same bytes, tried before)"
    assert first["error"].to_pylist() == [said, copy, None, said, copy]
    assert again["error"].to_pylist() == [copy, copy]
    assert first["width"].to_pylist() == [32] * 5


def test_files_that_kill_their_decoder_are_rows(hardened: Decode) -> None:
    """Each deed is its own file's, in words and with what was known; the files between them are as without them."""
    deeds = ["segv", "hang", "eat memory", "abort", "hang in C", "exit", "babble", "poison"]
    pictures = [encode(gradient((60 + i, 40)), "JPEG") for i in range(len(deeds))]
    alone = hardened(table(pictures)).to_pylist()
    files = [data for deed, picture in zip(deeds, pictures, strict=True) for data in (hostile(deed), picture)]
    rows = hardened(table(files)).to_pylist()
    own = {"uri": None, COST.name: None}
    assert [{**row, **own} for row in rows[1::2]] == [{**row, **own} for row in alone]
    assert [row["status"] for row in rows[::2]] == [
        "crashed", "timeout", "crashed", "crashed", "timeout", "crashed", "crashed", "ok",
    ]  # fmt: skip
    assert [row["error"] for row in rows[:6:2]] == [
        "the decoder crashed (SIGSEGV)",
        "decoding took more than 2 s (decode.timeout_s)",
        "decoding takes more memory than 128 MiB (decode.max_memory_bytes)",
    ]
    assert [row["error_code"] for row in rows[::2]] == [
        "crashed", "decode_timeout", "out_of_memory", "crashed", "decode_timeout", "crashed", "crashed", None,
    ]  # fmt: skip
    for row in rows[:-2:2]:
        assert (row["format"], row["width"], row["height"], row["pixels"]) == ("HOSTILE", 32, 24, None)


def test_a_plugin_that_is_not_there_stops_the_run() -> None:
    """A broken set-up is no row: it raises, and names the module."""
    stage = Decode(DecodeConfig(plugins={"JXL": "no_such_plugin"}), {GEOMETRY: "pixels"})
    stage.open()
    with pytest.raises(NsfwscanError, match=r"cannot import no_such_plugin, which decode\.plugins names for JXL"):
        stage(table([encode(gradient())]))


_VALID = [encode(gradient((24, 16)), fmt) for fmt in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid file, cut somewhere and with some of its bytes replaced."""
    data = bytearray(draw(st.sampled_from(_VALID)))
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.lists(st.one_of(st.binary(max_size=200), damaged()), min_size=1, max_size=4))
def test_any_bytes_end_in_a_row(hardened: Decode, files: list[bytes]) -> None:
    """Whatever bytes come, each file has a status, and pixels exactly where it is ok: those of this process."""
    for data, row in zip(files, hardened(table(files)).to_pylist(), strict=True):
        assert (
            (row["status"] == "ok")
            == (row["error"] is None)
            == (row["error_code"] is None)
            == (row["pixels"] is not None)
        )
        assert row["status"] in ("ok", "unsupported", "too_large", "decode_error", "crashed")
        assert row["error_code"] is None or ErrorCode(row["error_code"]).status == row["status"]
        assert (row["error"] or "x").isprintable()
        if row["status"] == "ok":
            expected: tuple[dict[str, Any], bytes] = to_pixels(data, GEOMETRY, max_pixels=10**8)
            of_decoding = {
                name: value for name, value in signals_of_row(row["signals"]).items() if name.startswith("decode.")
            }
            assert of_decoding == pytest.approx(expected[0].pop("signals", {}))
            assert ({name: row[name] for name in FACTS}, row["pixels"]) == (expected[0], [expected[1]])
