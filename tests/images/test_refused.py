"""A file that cannot be decoded is named: too large, no image, damaged; whatever its bytes are."""

from __future__ import annotations

import io
import struct
import zlib

import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nsfwscan.demo.media import (
    _wide_gamut_profile,
)
from nsfwscan.errors import ErrorCode, RowError, Status
from nsfwscan.images.decoder import Decoded, decode, to_pixels
from nsfwscan.images.formats.endings import is_cut_off
from nsfwscan.images.formats.png_chunks import SIGNATURE, Chunk, chunks_of
from nsfwscan.images.formats.registry import FORMATS
from nsfwscan.images.preprocessing import Geometry
from tests.images.decoding import EXIF_HEAD, PLENTY, SCENE, TINY, Demo, encode, encode_heif, failure

# --- limits ---------------------------------------------------------------------------------------------------------


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))

    size = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")


def claiming(fmt: str, width: int, height: int) -> bytes:
    """A small valid file whose header was changed to promise another size."""
    data = bytearray(encode(SCENE, fmt))
    if fmt == "GIF":
        data[6:10] = struct.pack("<HH", width, height)
    elif fmt == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    elif fmt == "JPEG":
        start = data.index(b"\xff\xc0")
        data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    else:
        return png_that_claims(width, height)
    return bytes(data)


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "GIF", "BMP"])
@pytest.mark.parametrize("size", [(60_000, 60_000), (12_000, 10_000)], ids=["more than Pillow takes", "over the limit"])
def test_a_huge_header_is_too_large(fmt: str, size: tuple[int, int]) -> None:
    """A file that claims more pixels than allowed is not decoded, and its row says how large it claims to be."""
    error = failure(claiming(fmt, *size))
    assert error.status == Status.TOO_LARGE
    assert error.values == {"format": fmt, "width": size[0], "height": size[1]}
    assert f"{size[0]:,} × {size[1]:,} pixels" in str(error)


def test_a_frame_larger_than_its_file_is_too_large() -> None:
    """A GIF of 8 × 8 whose first frame claims 4 gigapixels is an object's fault like any other."""
    data = bytearray(encode(Image.new("P", (8, 8)), "GIF"))
    frame = data.index(b"\x2c")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    error = failure(bytes(data))
    assert (error.status, error.values) == (Status.TOO_LARGE, {"format": "GIF"})
    assert "4294836225 pixels" in str(error)


def test_the_limit_is_inclusive() -> None:
    """A picture of exactly as many pixels as allowed is decoded, one more is not."""
    data = encode(Image.new("RGB", (10, 10)))
    assert decode(data, max_pixels=100).image.size == (10, 10)
    assert failure(data, max_pixels=99).status == Status.TOO_LARGE


def test_the_limit_may_be_above_that_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the configuration allows is decoded, even where Pillow on its own would refuse it as a bomb."""
    for fmt in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        assert failure(encode(SCENE, fmt), max_pixels=200).status == Status.TOO_LARGE
        assert Image.MAX_IMAGE_PIXELS == 100
        assert decode(encode(SCENE, fmt), max_pixels=64 * 48).image.size == SCENE.size


# --- no images ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty.jpg", "empty: 0 bytes"),
        ("notes.jpg", "plain text"),
        ("document.pdf", "portable document format"),
        ("album.zip", "zip archive"),
        ("not_found.html", "html"),
        ("clip.mp4", "mpeg-4"),
        ("noise.bin", "unknown binary data"),
    ],
)
def test_what_is_no_image_is_named(demo: Demo, name: str, words: str) -> None:
    """A file that is no image is `unsupported`, and its error says what it looks like."""
    error = failure((demo[0] / "broken" / name).read_bytes())
    assert (error.status, error.values) == (Status.UNSUPPORTED, {})
    assert words in str(error).lower()


@pytest.mark.parametrize("fmt", ["JPEG2000", "PPM", "TGA", "SGI", "PCX", "EPS", "PDF", "DDS"])
def test_formats_off_the_list_are_not_opened(fmt: str) -> None:
    """Formats that Pillow reads, but that are not on the allow-list, never reach their decoders."""
    assert fmt not in FORMATS
    assert failure(encode(SCENE, fmt)).status == Status.UNSUPPORTED


@pytest.mark.parametrize(
    ("head", "fmt"), [(b"\xff\xd8\xff\xe0junk", "JPEG"), (b"\x89PNG\r\n\x1a\njunk", "PNG"), (b"GIF89a", "GIF")]
)
def test_a_damaged_header_is_an_image_that_failed(head: bytes, fmt: str) -> None:
    """A file that begins like an image counts as a broken image, not as something else."""
    error = failure(head + bytes(40))
    assert (error.status, error.values.get("format")) == (Status.DECODE_ERROR, fmt)


@pytest.mark.parametrize(
    ("fmt", "old", "new", "words"),
    [
        ("JPEG", b"\xff\xc0\x00\x11\x08", b"\xff\xc1\x00\x11\x0c", "a JPEG of 12 bits a sample"),
        ("JPEG", b"\xff\xc0", b"\xff\xc3", "a lossless JPEG"),
        ("JPEG", b"\xff\xc0", b"\xff\xc5", "a hierarchical JPEG"),
        ("JPEG", b"\xff\xc0", b"\xff\xf7", "a JPEG-LS image"),
        ("HEIF", b"hvc1", b"vvc1", "an HEIF image coded as VVC"),
        ("HEIF", b"hvc1", b"j2k1", "an HEIF image coded as JPEG 2000"),
    ],
)
def test_a_kind_that_is_not_decoded_is_not_called_damaged(fmt: str, old: bytes, new: bytes, words: str) -> None:
    """A JPEG or HEIF that is coded in a way which nobody here decodes is `unsupported`, with that way in words."""
    data = encode_heif(SCENE) if fmt == "HEIF" else encode(SCENE, fmt)
    assert old in data
    error = failure(data.replace(old, new))
    assert (error.status, error.message) == (Status.UNSUPPORTED, f"{words} is not supported")
    assert error.values["format"] == fmt


def test_a_height_behind_the_picture_is_named() -> None:
    """A JPEG of 0 rows whose number follows its first scan, which no decoder here waits for (ITU-T T.81, B.2.5)."""
    whole = encode(SCENE, "JPEG")
    at = whole.index(b"\xff\xc0") + 5
    without = whole[:at] + bytes(2) + whole[at + 2 :]
    error = failure(without[:-2] + b"\xff\xdc\0\4" + whole[at : at + 2] + b"\xff\xd9")
    assert (error.status, error.values["format"]) == (Status.UNSUPPORTED, "JPEG")
    assert error.message == "a JPEG that gives its height behind its picture (DNL) is not supported"
    assert failure(without).status == Status.DECODE_ERROR


def test_a_png_of_an_app_is_named() -> None:
    """Xcode takes zlib's head and sum from the pixels; iPhones alone show such a file."""
    parts = []
    for chunk in chunks_of(encode(SCENE)):
        body = chunk.body[2:-4] if chunk.kind == b"IDAT" else chunk.body
        parts.append(Chunk(chunk.kind, body).packed())
    error = failure(SIGNATURE + Chunk(b"CgBI", b"\x50\0\x20\6").packed() + b"".join(parts))
    assert (error.status, error.values["format"]) == (Status.UNSUPPORTED, "PNG")
    assert error.message == "a PNG as Apple's tools pack it for apps (CgBI) is not supported"


# --- anything at all ------------------------------------------------------------------------------------------------

_VALID: dict[str, bytes] = {
    "JPEG": encode(TINY, "JPEG"),
    "progressive JPEG": encode(TINY.convert("CMYK"), "JPEG", progressive=True, exif=EXIF_HEAD + b"II*\0\x08\0\0\0"),
    "PNG": encode(TINY.convert("RGBA"), icc_profile=_wide_gamut_profile()),
    "palette PNG": encode(TINY.quantize(8), transparency=0),
    "WEBP": encode(TINY, "WEBP"),
    "animated WEBP": encode(TINY, "WEBP", save_all=True, append_images=[TINY.rotate(90)], lossless=True),
    "GIF": encode(TINY, "GIF", save_all=True, append_images=[TINY.rotate(90)]),
    "BMP": encode(TINY.quantize(8), "BMP"),
    "TIFF": encode(TINY, "TIFF", compression="tiff_lzw"),
    "MPO": encode(TINY, "MPO", save_all=True, append_images=[TINY.rotate(90)]),
    "AVIF": encode(TINY, "AVIF", speed=10, max_threads=1),
    "HEIF": encode_heif(TINY),
}


_GEOMETRY = Geometry((16, 16), Image.Resampling.BILINEAR)


def check(data: bytes) -> Decoded | RowError:
    """Decode in a small limit, and see to it that the outcome can be written into a row."""
    try:
        facts, found = to_pixels(data, _GEOMETRY, max_pixels=100_000)
    except RowError as error:
        return _writable(error)
    assert len(found) == _GEOMETRY.nbytes
    decoded = decode(data, max_pixels=100_000)
    assert decoded.facts == facts
    assert to_pixels(data, _GEOMETRY, fast=True, max_pixels=100_000)[0] == facts
    return decoded


def _writable(error: RowError) -> RowError:
    assert error.status in ("unsupported", "too_large", "decode_error")
    assert error.message and "\n" not in error.message
    return error


@settings(max_examples=300, deadline=None)
@given(
    head=st.sampled_from([b"", *(data[:16] for data in _VALID.values()), b"BM", b"II*\0", b"MM\0*", b"RIFF"]),
    tail=st.binary(max_size=400),
)
def test_any_bytes_end_in_an_error_of_the_row(head: bytes, tail: bytes) -> None:
    """Arbitrary bytes, with or without an image's beginning, decode or fail as their row's error, never otherwise."""
    check(head + tail)


@pytest.mark.parametrize("kind", _VALID)
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_any_damage_ends_in_an_error_of_the_row(kind: str, data: st.DataObject) -> None:
    """A valid file cut off, with bytes changed, dropped or doubled, decodes or fails as its row's error."""
    whole = _VALID[kind]
    assert isinstance(check(whole), Decoded)
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged)))
        match data.draw(st.sampled_from(["cut", "set", "drop", "double", "insert"])):
            case "cut":
                del damaged[at:]
            case "set":
                damaged[at : at + 4] = data.draw(st.binary(min_size=1, max_size=4))
            case "drop":
                del damaged[at : at + data.draw(st.integers(1, 40))]
            case "double":
                damaged[at:at] = damaged[at : at + data.draw(st.integers(1, 200))]
            case "insert":
                damaged[at:at] = data.draw(st.binary(max_size=40))
    check(bytes(damaged))


# --- what was cut off ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"])
def test_a_file_that_was_cut_off_says_so(name: str) -> None:
    """A file whose end is missing, and of which nothing can be shown, is `truncated`; one that is broken otherwise is
    not."""
    out = io.BytesIO()
    picture = Image.effect_noise((64, 64), 80).convert("RGB")
    (pillow_heif.from_pillow(picture) if name == "HEIF" else picture).save(out, format=name)
    whole = out.getvalue()
    assert not is_cut_off(whole, name)
    assert all(is_cut_off(whole[:size], name) for size in (24, 60, 100))
    lost = [e for size in (24, 30) if isinstance(e := _tried(whole[:size]), RowError)]
    assert lost and all(error.code == ErrorCode.TRUNCATED for error in lost)


def _tried(data: bytes) -> object:
    try:
        return decode(data, max_pixels=PLENTY)
    except RowError as error:
        return error


def test_a_broken_file_is_not_called_cut_off() -> None:
    """Its end is there."""
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "JPEG")
    data = out.getvalue()
    broken = failure(data[:20] + bytes(len(data) - 22) + data[-2:])
    assert (broken.status, broken.code) == (Status.DECODE_ERROR, ErrorCode.DECODE_ERROR)
