"""TIFF: of every variant the pixels of its plain 8-bit twin, or a row that says which kind is not supported."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from nsfwscan.errors import RowError, Status
from nsfwscan.images.decoder import decode, header
from tests.images.bitmaps import photograph, truth

PLENTY = 10_000_000
PHOTO = photograph(75, 50)
GREY = PHOTO[..., 1]
OPAQUE = np.full(GREY.shape, 255, np.uint8)


def written(samples: NDArray[Any], **options: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, samples, metadata=None, **options)
    return out.getvalue()


def retagged(data: bytes, tag: int, value: int) -> bytes:
    """With another value of a SHORT or LONG tag of a little-endian file's first page."""
    changed = bytearray(data)
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, entry)[0] == tag:
            struct.pack_into("<I" if data[entry + 2] == 4 else "<H", changed, entry + 8, value)
            return bytes(changed)
    raise AssertionError(f"no tag {tag}")


def without(data: bytes, tag: int) -> bytes:
    """Without a tag of a little-endian file's first page: it becomes one that nobody knows."""
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    entry = next(
        entry for entry in range(at + 2, at + 2 + 12 * count, 12) if data[entry : entry + 2] == struct.pack("<H", tag)
    )
    return data[:entry] + struct.pack("<H", 40_000) + data[entry + 2 :]


def off_by(data: bytes, picture: NDArray[np.uint8]) -> int:
    """Return the largest difference from what the file is to show."""
    found = truth(decode(data, max_pixels=PLENTY).image)
    shown = np.repeat(picture[..., None], 3, -1) if picture.ndim == 2 else picture
    assert found.shape == shown.shape
    return int(np.abs(found - shown.astype(int)).max())


def refusal(data: bytes) -> RowError:
    with pytest.raises(RowError) as caught:
        decode(data, max_pixels=PLENTY)
    return caught.value


_AS: dict[str, Any] = {
    "u1": lambda a: a,
    "u2": lambda a: a.astype("u2") * 257,
    "u2, 12 bits": lambda a: a.astype("u2") << 4,
    "u2, 8 bits": lambda a: a.astype("u2"),
    "u4": lambda a: a.astype("u4") << 24,
    "u4, whole": lambda a: a.astype("u4") * 0x01010101,
    "u4, 24 bits": lambda a: a.astype("u4") << 16,
    "u4, 16 bits": lambda a: a.astype("u4") * 257,
    "u4, 8 bits": lambda a: a.astype("u4"),
    "u8": lambda a: a.astype("u8") << 56,
    "i1": lambda a: (a.astype("i2") - 128).astype("i1"),
    "i1, from 0": lambda a: (a >> 1).astype("i1"),
    "i2": lambda a: (a.astype("i4") * 257 - 32768).astype("i2"),
    "i2, from 0": lambda a: a.astype("i2") << 7,
    "i2, 8 bits": lambda a: a.astype("i2"),
    "i2, 12 bits": lambda a: a.astype("i2") << 4,
    "i4": lambda a: (a.astype("i8") * 0x01010101 - 2**31).astype("i4"),
    "i4, from 0": lambda a: a.astype("i4") << 23,
    "i8": lambda a: a.astype("i8") << 55,
    "f2": lambda a: (a / 255).astype("f2"),
    "f4": lambda a: (a / 255).astype("f4"),
    "f8": lambda a: a / 255,
    "f4 of 255": lambda a: a.astype("f4"),
    "f2 of 255": lambda a: a.astype("f2"),
    "f4 of 65535": lambda a: a.astype("f4") * 257,
    "f4 around 0": lambda a: (a / 127.5 - 1).astype("f4"),
}
"""How samples of another type stand for levels of 0 to 255."""
_ROUGH = {"i1, from 0"}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", _AS)
def test_samples_of_any_type_show_the_same(kind: str, order: str) -> None:
    """Unsigned, signed and floating samples of every width are their 8-bit twin, in grey, negative grey, RGB, with alpha
    and in planes of their own."""
    deep, most = _AS[kind], 2 if kind in _ROUGH else 1
    rgb, grey = deep(PHOTO), deep(GREY)
    full = deep(OPAQUE)
    options = {"byteorder": order}
    assert off_by(written(grey, photometric="minisblack", **options), GREY) <= most
    assert off_by(written(grey, photometric="minisblack", bigtiff=order == "<", **options), GREY) <= most
    assert off_by(written(grey, photometric="miniswhite", **options), 255 - GREY) <= most
    assert off_by(written(rgb, photometric="rgb", **options), PHOTO) <= most
    planes = np.moveaxis(rgb, -1, 0)
    assert off_by(written(planes, photometric="rgb", planarconfig="separate", **options), PHOTO) <= most
    with_alpha = written(np.dstack([grey, full]), photometric="minisblack", extrasamples=["unassalpha"], **options)
    assert off_by(with_alpha, GREY) <= most
    rgba = np.dstack([rgb, full])
    assert off_by(written(rgba, photometric="rgb", extrasamples=["unassalpha"], **options), PHOTO) <= most
    five = np.dstack([rgb, grey, grey])
    assert off_by(written(five, photometric="rgb", extrasamples=["unspecified"] * 2, **options), PHOTO) <= most


@pytest.mark.parametrize("compression", [None, "zlib", "lzma"])
@pytest.mark.parametrize("tile", [None, (16, 32)])
@pytest.mark.parametrize("kind", ["u1", "u2", "i2", "u4", "f2", "f4", "f8"])
def test_strips_and_tiles_compressed_or_not(kind: str, tile: tuple[int, int] | None, compression: str | None) -> None:
    """Tiles that reach over the edge, strips of a few rows, lossless compressions, and differences of integers."""
    deep = _AS[kind]
    for predictor in (None, 2) if compression == "zlib" and kind[0] != "f" else (None,):
        options = {"compression": compression, "predictor": predictor, "photometric": "rgb", "bigtiff": kind == "u2"}
        options |= {"tile": tile} if tile else {"rowsperstrip": 7}
        assert off_by(written(deep(PHOTO), **options), PHOTO) <= 1, predictor
        planes = written(np.moveaxis(deep(PHOTO), -1, 0), planarconfig="separate", **options)
        assert off_by(planes, PHOTO) <= 1, predictor


@pytest.mark.parametrize("width", [2, 3, 4, 8])
def test_floats_kept_as_differences_of_their_bytes(width: int) -> None:
    """Floats of 16, 24, 32 and 64 bits with Photoshop's predictor, and of 24 bits without, are their 8-bit twin."""
    shares = GREY / 255
    if width == 3:
        mantissa, exponent = np.frexp(np.where(shares > 0, shares, 0.5))
        bits = (exponent.astype(np.int64) + 62) << 16 | np.rint((mantissa * 2 - 1) * 65535).astype(np.int64)
        whole = np.where(shares > 0, bits, 0).astype(">u4").view(np.uint8).reshape(*GREY.shape, 4)[..., 1:]
        assert off_by(_by_hand(whole[..., ::-1].tobytes(), 24, 1, 1, kind=3), GREY) <= 1
    else:
        whole = shares.astype(f">f{width}").view(np.uint8).reshape(*GREY.shape, width)
    planes = np.moveaxis(whole, -1, 1).reshape(len(GREY), -1)
    stored = np.diff(planes, axis=1, prepend=np.uint8(0))
    data = _by_hand(zlib.compress(stored.tobytes()), 8 * width, 1, 1, kind=3, compression=8, predictor=3)
    assert off_by(data, GREY) <= 1


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "I;16", "F", "1", "P"])
def test_what_libtiff_compresses(mode: str, compression: str) -> None:
    """Every lossless compression that Pillow's libtiff writes is undone, for plain samples and deep ones."""
    grey = Image.fromarray(GREY)
    if mode in ("I;16", "F"):
        image = Image.fromarray(_AS["u2" if mode == "I;16" else "f4"](GREY))
    else:
        image = (Image.fromarray(PHOTO) if mode in ("RGB", "RGBA", "CMYK") else grey).convert(mode)
    out = io.BytesIO()
    image.save(out, "TIFF", compression=compression)
    shown = (
        PHOTO
        if mode in ("RGB", "RGBA", "CMYK")
        else np.asarray(grey.convert("1").convert("L"))
        if mode == "1"
        else GREY
    )
    assert off_by(out.getvalue(), shown) <= 1


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 10, 12, 14, 16])
@pytest.mark.parametrize("photometric", [0, 1, 3])
def test_samples_of_few_bits(bits: int, photometric: int) -> None:
    """Grey, negative grey and palettes of every depth, packed, in both orders of the bits in a byte."""
    top = (1 << bits) - 1
    index = np.rint(GREY / 255 * top).astype(np.uint32)
    spread = (index[..., None] >> np.arange(bits - 1, -1, -1) & 1).astype(np.uint8).reshape(len(index), -1)
    rows = np.packbits(spread, axis=1)
    levels = np.rint(index / top * 255).astype(np.uint8)
    colours = np.random.default_rng(bits).integers(0, 65536, (3, top + 1)).astype("<u2")
    shown = {0: 255 - levels, 1: levels, 3: (colours >> 8).astype(np.uint8)[:, index].transpose(1, 2, 0)}[photometric]
    for fill_order in (1, 2) if bits != 16 else (1,):
        stored = np.packbits(np.unpackbits(rows, axis=1, bitorder="little"), axis=1) if fill_order == 2 else rows
        table = colours.tobytes() if photometric == 3 else b""
        order = stored if bits != 16 else rows.reshape(len(rows), -1, 2)[..., ::-1]
        data = _by_hand(order.tobytes(), bits, photometric, fill_order, table)
        assert off_by(data, shown) <= 1, fill_order


def _by_hand(
    stored: bytes, bits: int, photometric: int, fill_order: int, table: bytes = b"",
    kind: int = 1, compression: int = 1, predictor: int = 1,
) -> bytes:  # fmt: skip
    height, width = GREY.shape
    entries = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 1, bits), (259, 3, 1, compression), (262, 3, 1, photometric),
               (266, 3, 1, fill_order), (273, 4, 1, 8), (277, 3, 1, 1), (278, 3, 1, height), (279, 4, 1, len(stored)),
               (317, 3, 1, predictor)]  # fmt: skip
    if table:
        entries.append((320, 3, len(table) // 2, 8 + len(stored)))
    entries.append((339, 3, 1, kind))
    body = stored + table + bytes((len(stored) + len(table)) % 2)
    page = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return struct.pack("<2sHI", b"II", 42, 8 + len(body)) + body + page


def test_palettes_that_were_written_with_eight_bits() -> None:
    """A colour table of 0 to 255, as some programs write it against the standard, is not black."""
    index = np.arange(64, dtype=np.uint8).reshape(8, 8)
    ramp = np.arange(256, dtype=np.uint16)
    right = written(index, photometric="palette", colormap=np.stack([ramp * 257, ramp[::-1] * 257, ramp * 0 + 514]))
    wrong = written(index, photometric="palette", colormap=np.stack([ramp, ramp[::-1], ramp * 0 + 2]))
    shown = np.dstack([index, 255 - index, np.full_like(index, 2)])
    assert off_by(right, shown) == off_by(wrong, shown) == 0


@pytest.mark.parametrize("separate", [False, True])
def test_inks_of_any_depth(separate: bool) -> None:
    """CMYK of 8 and of 16 bits, with an extra channel or without, in one plane or several, is one picture."""
    inks = np.asarray(Image.fromarray(PHOTO).convert("CMYK"))
    for deep in (inks, inks.astype("u2") * 257):
        for samples in (deep, np.dstack([deep, deep[..., 0]])):
            options: dict[str, Any] = {"photometric": "separated"}
            options |= {"extrasamples": ["unspecified"]} if samples.shape[-1] == 5 else {}
            laid = np.moveaxis(samples, -1, 0) if separate else samples
            data = written(laid, planarconfig="separate" if separate else "contig", **options)
            assert off_by(data, PHOTO) <= 1


def test_lab_of_any_depth() -> None:
    """CIELAB of 8 and of 16 bits, and as ICC stores it, is the same colours."""
    lab = np.array([[[128, 20, -30]], [[200, -60, 40]], [[40, 5, 90]]], np.int16)
    bits8 = np.dstack([lab[..., 0], lab[..., 1:] & 0xFF]).astype(np.uint8)
    bits16 = np.dstack([lab[..., 0] * 257, (lab[..., 1:].astype(np.int32) * 256) & 0xFFFF]).astype("u2")
    icc = np.dstack([lab[..., 0], lab[..., 1:] + 128]).astype(np.uint8)
    plain = truth(decode(written(bits8, photometric="cielab"), max_pixels=PLENTY).image)
    assert len({tuple(colour) for colour in plain[:, 0].tolist()}) == 3
    assert plain[1, 0, 1] > plain[1, 0, 0] + 40  # a* of -60 is green
    for samples, photometric in ((bits16, "cielab"), (icc, "icclab")):
        found = truth(decode(written(samples, photometric=photometric), max_pixels=PLENTY).image)
        assert np.abs(found - plain).max() <= 2


def test_alpha_of_any_depth_lies_over_white() -> None:
    """Plain and premultiplied alpha of 8, 16 and 32 bits and in floats shows white where it is 0, and half of it between."""
    alpha = np.tile(np.array([255, 128, 0], np.uint8), (50, 25))
    share = alpha[..., None] / 255
    on_white = np.rint(PHOTO * share + 255 * (1 - share)).astype(np.uint8)
    for kind in ("u1", "u2", "u4, whole", "f4"):
        plain = np.dstack([_AS[kind](PHOTO), _AS[kind](alpha)])
        times = np.dstack([_AS[kind](np.rint(PHOTO * share).astype(np.uint8)), _AS[kind](alpha)])
        assert off_by(written(plain, photometric="rgb", extrasamples=["unassalpha"]), on_white) <= 2
        assert off_by(written(times, photometric="rgb", extrasamples=["assocalpha"]), on_white) <= 2


@pytest.mark.parametrize("depth", ["u1", "u2"])
@pytest.mark.parametrize("samples", [1, 3, 4])
def test_a_page_that_does_not_say_what_its_samples_are(samples: int, depth: str) -> None:
    """Three samples are RGB, as libtiff has it; a fourth one that is 0 everywhere hides nothing."""
    picture = GREY[..., None] if samples == 1 else np.dstack([PHOTO, np.zeros_like(GREY)])[..., :samples]
    scaled = picture.astype(depth) * (257 if depth == "u2" else 1)
    options: dict[str, Any] = {"photometric": "minisblack"} if samples == 1 else {"photometric": "rgb"}
    data = written(scaled[..., 0] if samples == 1 else scaled, **options)
    data = without(data, 338) if samples == 4 else data
    assert off_by(data, GREY if samples == 1 else PHOTO) == 0
    assert off_by(without(data, 262), 255 - GREY if samples == 1 else PHOTO) == 0


def test_a_fourth_sample_that_is_said_to_be_alpha_is() -> None:
    """Where the page says that it is, or where it is not 0 everywhere, it lies over white."""
    clear = np.dstack([PHOTO, np.zeros_like(GREY)])
    assert off_by(written(clear, photometric="rgb", extrasamples=["unassalpha"]), np.full_like(PHOTO, 255)) == 0
    clear[0, 0, 3] = 255
    shown = np.full_like(PHOTO, 255)
    shown[0, 0] = PHOTO[0, 0]
    assert off_by(without(written(clear, photometric="rgb"), 338), shown) == 0


def test_highlights_do_not_darken_a_picture() -> None:
    """Floats of which a few are brighter than white keep their levels; the few are white."""
    bright = (PHOTO / 255).astype("f4")
    bright[:3, :3] = 40.0
    shown = PHOTO.copy()
    shown[:3, :3] = 255
    assert off_by(written(bright, photometric="rgb"), shown) <= 1
    bright[0, 0] = np.nan
    shown[0, 0] = 0
    assert off_by(written(bright, photometric="rgb"), shown) <= 1


def test_orientation_and_what_the_file_says_hold_for_deep_samples() -> None:
    """A 16-bit file in planes is turned upright, and its camera, software and pages are known."""
    turned = np.moveaxis(_AS["u2"](np.rot90(PHOTO, 1)), -1, 0)
    out = io.BytesIO()
    tags = [(274, "H", 1, 6, True), (271, "s", 0, "Demo", True)]
    with tifffile.TiffWriter(out) as writer:
        writer.write(
            turned, photometric="rgb", planarconfig="separate", extratags=tags, software="Scanner", metadata=None
        )
        writer.write((GREY / 255), photometric="minisblack", metadata=None)
    decoded = decode(out.getvalue(), max_pixels=PLENTY, hashed=True)
    assert np.abs(truth(decoded.image) - PHOTO).max() <= 1
    assert {name: decoded.facts[name] for name in ("format", "width", "height", "frames", "camera", "software")} == {
        "format": "TIFF", "width": 75, "height": 50, "frames": 2, "camera": "Demo", "software": "Scanner",
    }  # fmt: skip
    assert header(out.getvalue(), max_pixels=PLENTY)["format"] == "TIFF"


_CFA: list[tuple[Any, ...]] = [(33421, "H", 2, (2, 2), True), (33422, "B", 4, (0, 1, 1, 2), True)]


def _raws() -> Iterator[tuple[str, bytes, str]]:
    raw = GREY[:48, :64].astype("u2") * 257
    small = PHOTO[::4, ::4].copy()
    dng = [*_CFA, (50706, "B", 4, (1, 4, 0, 0), True)]
    yield "DNG", written(raw, photometric="cfa", extratags=dng), "a camera raw (DNG)"
    linear = written(PHOTO, photometric="rgb", extratags=dng[-1:])
    yield "linear DNG", linear, "a camera raw (DNG)"
    yield "filter array", written(raw, photometric="cfa", extratags=_CFA), "a camera raw in a TIFF"
    makers = {"NIKON CORPORATION": "of Nikon (NEF)", "SONY": "of Sony (ARW)", "SAMSUNG": "of Samsung (SRW)"}
    for bigtiff in (False, True):
        for make, name in makers.items():
            out = io.BytesIO()
            with tifffile.TiffWriter(out, bigtiff=bigtiff) as writer:
                tags = [(271, "s", 0, make, True)]
                writer.write(small, photometric="rgb", subifds=1, subfiletype=1, extratags=tags, metadata=None)
                writer.write(raw, photometric="cfa", subfiletype=0, extratags=_CFA, metadata=None)
            yield f"{make}, {bigtiff}", out.getvalue(), f"a camera raw {name}"
    canon = bytearray(written(small, photometric="rgb", extratags=[(271, "s", 0, "Canon", True)]))
    moved = bytes(canon[:8]) + b"CR\2\0\0\0\0\0" + bytes(canon[8:])
    yield "CR2", moved[:4] + b"\x10\0\0\0" + moved[8:16] + _shifted(bytes(canon)), "a camera raw of Canon (CR2)"


def _shifted(data: bytes) -> bytes:
    """Return the first page alone, moved to the file's sixteenth byte: its offsets point nowhere, which nobody gets to see."""
    (at,) = struct.unpack_from("<I", data, 4)
    return data[at:]


@pytest.mark.parametrize(("data", "name"), [pytest.param(data, name, id=which) for which, data, name in _raws()])
def test_a_camera_raw_is_named(data: bytes, name: str) -> None:
    """A camera raw is `unsupported` and named as such; its preview is never scored in its place."""
    error = refusal(data)
    assert (error.status, error.message) == (Status.UNSUPPORTED, f"not a format that is scanned: looks like {name}")


def test_a_page_with_others_below_it_is_no_raw() -> None:
    """A pyramid, whose smaller pages lie in SubIFDs, shows its first page."""
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as writer:
        writer.write(_AS["u2"](PHOTO), photometric="rgb", subifds=1, tile=(16, 16), metadata=None)
        writer.write(_AS["u2"](PHOTO[::2, ::2]), photometric="rgb", subfiletype=1, tile=(16, 16), metadata=None)
    assert off_by(out.getvalue(), PHOTO) == 0


def test_what_is_not_supported_is_named() -> None:
    """A whole TIFF of a kind that is not decoded is `unsupported`, with its kind and its size, and never called damaged."""
    complex_grey = written(GREY.astype("c8"), photometric="minisblack")
    bands = written(np.stack([GREY] * 5, -1).astype("f4"), photometric="minisblack", extrasamples=["unspecified"] * 4)
    unknown = retagged(written(PHOTO, photometric="rgb", compression="zlib"), 259, 33003)
    webp = retagged(written(PHOTO, photometric="rgb", compression="zlib"), 259, 50001)
    luv = retagged(written(PHOTO, photometric="rgb"), 262, 32845)
    big = refusal(written(GREY, photometric="minisblack", bigtiff=True, byteorder=">"))
    assert (big.status, big.message) == (Status.UNSUPPORTED, "a big-endian BigTIFF is not supported")
    for data, words in (
        (complex_grey, "a TIFF of 64-bit complex samples with 1 channel, grey, is not supported"),
        (bands, "a TIFF of 32-bit float samples with 5 channels, grey, is not supported"),
        (unknown, "a TIFF of 8-bit unsigned samples with 3 channels, RGB, with compression 33003, is not supported"),
        (webp, "a TIFF of 8-bit unsigned samples with 3 channels, RGB, with compression 50001, is not supported"),
        (luv, "a TIFF of 8-bit unsigned samples with 3 channels, LogLuv, is not supported"),
    ):
        error = refusal(data)
        assert (error.status, error.message) == (Status.UNSUPPORTED, words)
        assert error.values == {"format": "TIFF", "width": 75, "height": 50}


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_file_that_is_cut_off_is_damaged(compression: str | None) -> None:
    """Deep samples whose last strip is not all there are no whole picture."""
    data = written(_AS["u2"](PHOTO), photometric="rgb", compression=compression, rowsperstrip=7)
    assert off_by(data, PHOTO) == 0
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        last = file.pages[0].dataoffsets[-1]  # type: ignore[union-attr]
    error = refusal(data[: last + 9] if last > 1000 else data[:-200])
    assert (error.status, error.values.get("format")) == (Status.DECODE_ERROR, "TIFF")


def test_a_size_is_checked_before_samples_are_unpacked() -> None:
    """A deep TIFF that claims to be enormous is `too_large`, with its size."""
    data = retagged(retagged(written(_AS["f4"](GREY), photometric="minisblack"), 256, 60_000), 257, 60_000)
    error = refusal(data)
    assert (error.status, error.values) == (Status.TOO_LARGE, {"format": "TIFF", "width": 60_000, "height": 60_000})
