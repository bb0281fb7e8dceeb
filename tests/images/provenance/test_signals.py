"""What files say of their making: each signal from a file that has it and none from one that has not, and nothing that
anybody writes into metadata does harm."""

from __future__ import annotations

import io
import re
import struct
import time
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pillow_heif
import pytest
import skimage.data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from nsfwscan.config import DecodeConfig
from nsfwscan.images.decoder import decode
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.provenance.signals import LONGEST_NAME, MOST_SIGNALS, Signals, signals_of
from nsfwscan.images.sandbox.child import DecodeChild
from nsfwscan.stages.decode import settings_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of malformed EXIF

PICTURE = Image.open(f"{skimage.data.data_dir}/astronaut.png").resize((96, 64))
C2PA = bytes.fromhex("6332706100110010800000aa00389b71")
VOCABULARY = b"http://cv.iptc.org/newscodes/digitalsourcetype/"
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "GIF", "HEIF")


def encoded(fmt: str = "JPEG", image: Image.Image = PICTURE, **options: Any) -> bytes:
    out = io.BytesIO()
    if fmt == "HEIF":
        pillow_heif.from_pillow(image).save(out, **options)
    else:
        image.save(out, fmt, **options)
    return out.getvalue()


def signals(data: bytes) -> Signals:
    """As a scan has them, but for how much a JPEG looks as compressed twice."""
    found = decode(data, max_pixels=10**8, examined=True).facts["signals"] or {}
    return {name: value for name, value in found.items() if name != "jpeg.double_quantisation"}


def exif(tags: dict[int, Any] | None = None, *, photo: dict[int, Any] | None = None, gps: Any = None) -> bytes:
    block = Image.Exif()
    block.update(tags or {})
    block.get_ifd(ExifTags.IFD.Exif).update(photo or {})
    block.get_ifd(ExifTags.IFD.GPSInfo).update(gps or {})
    return block.tobytes()


CAMERA = {ExifTags.Base.Make: "Demo", ExifTags.Base.Model: "D-1"}
EXPOSED = {ExifTags.Base.ExposureTime: 0.01, ExifTags.Base.ISOSpeedRatings: 100}


def xmp(attributes: bytes) -> bytes:
    return b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description ' + attributes + b"/></x:xmpmeta>"


def png_text(*chunks: tuple[str, str], zip: bool = False) -> bytes:
    info = PngInfo()
    for key, text in chunks:
        info.add_text(key, text, zip=zip)
    return encoded("PNG", pnginfo=info)


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + kind + body


def manifest(words: bytes = b"") -> bytes:
    """A JUMBF superbox as C2PA has it; nobody signed it."""
    return box(b"jumb", box(b"jumd", C2PA + b"\x03c2pa\0") + box(b"cbor", words))


def after_soi(segment: bytes, data: bytes) -> bytes:
    return data[:2] + segment + data[2:]


def app(number: int, body: bytes) -> bytes:
    return bytes([0xFF, 0xE0 + number]) + struct.pack(">H", len(body) + 2) + body


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def after_header(chunk: bytes, png: bytes) -> bytes:
    return png[:33] + chunk + png[33:]


def with_manifest(fmt: str, words: bytes = b"") -> bytes:
    """A picture with a manifest where the format has it."""
    inside = manifest(words)
    if fmt == "JPEG":
        return after_soi(app(11, b"JP\0\1\0\0\0\1" + inside), encoded())
    if fmt == "PNG":
        return after_header(png_chunk(b"caBX", inside), encoded("PNG"))
    if fmt == "WEBP":
        extended = encoded("WEBP", exif=exif(CAMERA), lossless=True)  # with a VP8X chunk
        body = extended[8:] + b"C2PA" + struct.pack("<I", len(inside)) + inside + b"\0" * (len(inside) % 2)
        return b"RIFF" + struct.pack("<I", len(body)) + body
    if fmt == "TIFF":
        return encoded("TIFF", tiffinfo={0xCD41: inside})
    if fmt == "GIF":
        gif = encoded("GIF")
        head = 13 + 3 * 2 ** ((gif[10] & 7) + 1)
        blocks = b"".join(bytes([len(p)]) + p for p in (inside[i : i + 255] for i in range(0, len(inside), 255)))
        return gif[:head] + b"!\xff\x0bC2PA_GIF\x01\0\0" + blocks + b"\0" + gif[head:]
    uuid = bytes.fromhex("d8fec3d61b0e483c92975828877ec481") + b"\0\0\0\0manifest\0" + b"\0" * 8
    return encoded(fmt) + box(b"uuid", uuid + inside)


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_c2pa_manifest_is_seen_in_every_format(fmt: str) -> None:
    """Where the format has its manifests, one is found, with the source type that it names; elsewhere none is."""
    found = signals(with_manifest(fmt, VOCABULARY + b"trainedAlgorithmicMedia"))
    assert found["c2pa.manifest"] == found["c2pa.trainedAlgorithmicMedia"] == 1
    assert "c2pa.manifest" not in signals(encoded(fmt))


def test_what_only_looks_like_a_manifest_is_none() -> None:
    """Another JUMBF box, another uuid box, another private chunk, and the words alone, mean nothing."""
    other = manifest().replace(C2PA, bytes(16))
    assert "c2pa.manifest" not in signals(after_soi(app(11, b"JP\0\1\0\0\0\1" + other), encoded()))
    assert "c2pa.manifest" not in signals(after_header(png_chunk(b"caBY", manifest()), encoded("PNG")))
    assert "c2pa.manifest" not in signals(encoded("AVIF") + box(b"uuid", bytes(16) + manifest()))
    assert "c2pa.manifest" not in signals(png_text(("Comment", "c2pa.manifest jumb")))


def test_a_manifest_over_several_segments_is_read_as_one() -> None:
    """A source type that is cut by the end of a segment is found."""
    inside = manifest(b"\0" * 100 + VOCABULARY + b"digitalCapture")
    cut = inside.index(b"newscodes") + 4
    head = b"JP\0\1\0\0\0"
    segments = app(11, head + b"\1" + inside[:cut]) + app(11, head + b"\2" + inside[:8] + inside[cut:])
    assert "c2pa.digitalCapture" in signals(after_soi(segments, encoded()))


def test_a_word_of_a_gif_over_two_blocks_is_read_as_one() -> None:
    """A GIF's blocks have 255 bytes: wherever one ends, the source type is found."""
    for before in range(0, 255, 15):
        assert "c2pa.digitalCapture" in signals(with_manifest("GIF", b"\0" * before + VOCABULARY + b"digitalCapture"))


def test_the_manifest_behind_a_webp_of_many_frames_is_seen() -> None:
    """It stands behind the frames, which may be thousands of chunks."""
    data = with_manifest("WEBP", VOCABULARY + b"digitalCapture")
    at = data.index(b"C2PA")
    body = data[8:at] + (b"FILL" + struct.pack("<I", 2) + b"ab") * 2_000 + data[at:]
    assert "c2pa.digitalCapture" in signals(b"RIFF" + struct.pack("<I", len(body)) + body)


def test_a_manifest_elsewhere_is_told_apart() -> None:
    """XMP that says where the manifest is: a signal of its own."""
    found = signals(encoded(xmp=xmp(b'dcterms:provenance="https://cdn.example/a.c2pa"')))
    assert "c2pa.remote_manifest" in found and "c2pa.manifest" not in found


@pytest.mark.parametrize("fmt", ["JPEG", "WEBP", "AVIF", "HEIF", "PNG"])
def test_source_types_are_iptcs_terms(fmt: str) -> None:
    """A term of the vocabulary names the signal; what is none of them is `other`, whatever it says."""
    for term, name in ((b"trainedAlgorithmicMedia", "trainedAlgorithmicMedia"), (b"a_verdict", "other")):
        packet = xmp(b'Iptc4xmpExt:DigitalSourceType="' + VOCABULARY + term + b'"')
        if fmt == "PNG":
            found = signals(png_text(("XML:com.adobe.xmp", "")) if not packet else _png_xmp(packet))
        else:
            found = signals(encoded(fmt, xmp=packet))
        assert [n for n in found if n.startswith("iptc.")] == [f"iptc.{name}"]


def _png_xmp(packet: bytes) -> bytes:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", packet.decode())
    return encoded("PNG", pnginfo=info)


@pytest.mark.parametrize(
    ("key", "text", "named"),
    [
        ("parameters", "a cat\nSteps: 20, Sampler: Euler a, Model: sdxl", None),
        ("prompt", '{"3": {"class_type": "KSampler"}}', "comfyui"),
        ("workflow", "{}", None),
        ("invokeai_metadata", "{}", "invokeai"),
        ("sd-metadata", '{"model": "stable diffusion"}', "stable-diffusion"),
        ("Dream", "a cat -s 50", None),
        ("Description", "a cat --v 6 Job ID: 0a1b2c3d-0000-4000-8000-000000000000", None),
    ],
)
def test_generators_leave_what_they_were_asked(key: str, text: str, named: str | None) -> None:
    """The texts that generators write are seen, compressed or not, and the generator where its name is there."""
    for zip in (False, True):
        found = signals(png_text((key, text), zip=zip))
        assert found == {"generator.parameters": 1.0} | ({f"generator.{named}": 1.0} if named else {})


@pytest.mark.parametrize("encoding", ["ascii", "utf-16-le", "utf-16-be"])
def test_generators_speak_in_exif_too(encoding: str) -> None:
    """The same in the comment of JPEG and WebP, in any of its character sets; and where nodes abuse make and model."""
    prefix = b"ASCII\0\0\0" if encoding == "ascii" else b"UNICODE\0"
    comment = prefix + "a cat\nSteps: 20, Sampler: Euler a".encode(encoding)
    for fmt in ("JPEG", "WEBP"):
        block = exif(CAMERA, photo={ExifTags.Base.UserComment: comment, **EXPOSED})
        assert signals(encoded(fmt, exif=block)) == {"generator.parameters": 1.0}
    block = exif({ExifTags.Base.Make: "workflow:{}", ExifTags.Base.Model: 'prompt:{"1": {"class_type": "x"}}'})
    assert "generator.comfyui" in signals(encoded("WEBP", exif=block))


def test_people_may_speak_of_generators() -> None:
    """A caption or a comment that only mentions a tool is no signal."""
    talk = "not made with Midjourney, Photoshop or Stable Diffusion; 20 steps"
    block = exif({**CAMERA, ExifTags.Base.ImageDescription: talk}, photo=EXPOSED)
    assert signals(encoded(exif=block)) == {}
    assert signals(png_text(("Description", talk), ("Title", talk))) == {}


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("Adobe Photoshop 25.1 (Windows)", "software.photoshop"),
        ("GIMP 2.10.34", "software.gimp"),
        ("Snapseed 2.0", "software.snapseed"),
        ("Adobe Firefly", "generator.firefly"),
        ("NovelAI", "generator.novelai"),
    ],
)
def test_tools_are_known_where_they_sign(said: str, name: str) -> None:
    """By EXIF's and PNG's software tag and by XMP's creator tool; in any case of letters, as whole words."""
    tag = exif({**CAMERA, ExifTags.Base.Software: said.upper()}, photo=EXPOSED)
    assert list(signals(encoded(exif=tag))) == [name]
    assert list(signals(png_text(("Software", said)))) == [name]
    assert name in signals(encoded(xmp=xmp(b'xmp:CreatorTool="' + said.encode() + b'"')))
    for other in (r"x\1", r"\1x"):
        assert name not in signals(png_text(("Software", re.sub(r"([A-Za-z]+)", other, said))))


def test_a_camera_without_faults_says_nothing() -> None:
    """EXIF as a camera writes it gives no signal at all."""
    photo = {
        **EXPOSED,
        ExifTags.Base.ExifImageWidth: 96,
        ExifTags.Base.ExifImageHeight: 64,
        ExifTags.Base.DateTimeOriginal: "2026:11:22 10:00:00",
        ExifTags.Base.DateTimeDigitized: "2026:11:22 10:00:00",
    }
    gps = {ExifTags.GPS.GPSLatitude: (59.0, 30.0, 1.5), ExifTags.GPS.GPSLongitude: (179.0, 59.0, 59.0)}
    block = exif({**CAMERA, ExifTags.Base.DateTime: "2026:11:22 10:00:00"}, photo=photo, gps=gps)
    assert signals(encoded(exif=block)) == {}


def test_an_upload_that_lost_its_camera_says_so() -> None:
    """JPEG and HEIF without make and model; other formats hardly ever have them."""
    assert signals(encoded()) == signals(encoded("HEIF")) == {"exif.camera_absent": 1.0}
    assert signals(encoded("PNG")) == signals(encoded("WEBP")) == {}


@pytest.mark.parametrize(
    ("photo", "gps", "name"),
    [
        ({}, {}, "exif.exposure_absent"),
        ({**EXPOSED, 0xA002: 4000, 0xA003: 3000}, {}, "exif.dimensions_differ"),
        ({**EXPOSED, 0x9003: "2026:11:24 10:00:00"}, {}, "exif.dates_contradict"),
        (EXPOSED, {ExifTags.GPS.GPSLatitude: (91.0, 0.0, 0.0)}, "exif.gps_out_of_range"),
        (EXPOSED, {ExifTags.GPS.GPSLongitude: (180.0, 30.0, 0.0)}, "exif.gps_out_of_range"),
    ],
)
def test_each_contradiction_has_its_name(photo: dict[int, Any], gps: dict[int, Any], name: str) -> None:
    """A camera that did not expose, another size, changed before it was taken, a place beyond the poles."""
    block = exif({**CAMERA, ExifTags.Base.DateTime: "2026:11:22 10:00:00"}, photo=photo, gps=gps)
    assert signals(encoded(exif=block)) == {name: 1.0}


def test_turned_pixels_and_other_time_zones_are_no_contradiction() -> None:
    """Sizes may be in either order, times a day apart, and a clock that was never set is none."""
    for taken in ("2026:11:23 11:00:00", "0000:00:00 00:00:00", "yesterday"):
        photo = {**EXPOSED, 0xA002: 64, 0xA003: 96, 0x9003: taken}
        block = exif({**CAMERA, ExifTags.Base.DateTime: "2026:11:22 10:00:00"}, photo=photo)
        assert signals(encoded(exif=block)) == {}


def with_thumbnail(image: Image.Image, thumbnail: bytes, orientation: int = 1, **options: Any) -> bytes:
    """A JPEG whose EXIF has one tag and a second directory with a thumbnail."""
    head = b"II*\0" + struct.pack("<I", 8)
    first = struct.pack("<HHHII", 1, ExifTags.Base.Orientation, 3, 1, orientation) + struct.pack("<I", 26)
    at = 26 + 2 + 24 + 4
    second = struct.pack("<HHHII", 2, 0x0201, 4, 1, at) + struct.pack("<HHII", 0x0202, 4, 1, len(thumbnail))
    block = b"Exif\0\0" + head + first + second + struct.pack("<I", 0) + thumbnail
    return encoded(image=image, exif=block, **options)


def photographs() -> list[Image.Image]:
    loads = (skimage.data.astronaut, skimage.data.chelsea, skimage.data.coffee, skimage.data.rocket)
    return [Image.fromarray(np.asarray(load())).resize((480, 320)) for load in loads]


def thumbnail_of(image: Image.Image, way: str) -> bytes:
    if way == "bars":
        image = ImageOps.pad(image, (160, 120))
    elif way == "middle":
        image = ImageOps.fit(image, (120, 120))
    elif way == "turned":
        image = image.rotate(90, expand=True).resize((107, 160))
    else:
        image = image.resize((160, 107))
    return encoded(image=image, quality=70)


@pytest.mark.parametrize("way", ["whole", "bars", "middle", "turned"])
def test_a_thumbnail_of_the_image_is_near(way: str) -> None:
    """Whatever cameras do to thumbnails, the distance of the image's own is under 0.05, that of another's over it."""
    images = photographs()
    for image, other in zip(images, images[1:] + images[:1], strict=True):
        assert signals(with_thumbnail(image, thumbnail_of(image, way)))["thumbnail.distance"] < 0.05
        assert signals(with_thumbnail(image, thumbnail_of(other, way)))["thumbnail.distance"] > 0.05


def test_a_reduced_image_is_compared_as_well() -> None:
    """Decoded at a quarter of its scale, an image has the same signals, but for quantisation."""
    image = photographs()[0].resize((1920, 1280))
    data = with_thumbnail(image, thumbnail_of(image, "whole"))
    reduced = decode(data, max_pixels=10**8, examined=True, reduced=lambda opened: opened.draft(None, (480, 320)))
    assert reduced.image.width == 480
    assert set(reduced.facts["signals"]) == set(signals(data)) == {"exif.camera_absent", "thumbnail.distance"}


def test_a_large_thumbnail_is_not_decoded_whole() -> None:
    """One of some millions of pixels is compared at a smaller scale; one of more is another picture's, unseen, however
    few bytes it takes."""
    black = Image.new("L", (240, 160))
    large = encoded(image=Image.new("L", (2400, 1600)), quality=1)
    huge = large.replace(struct.pack(">2H", 1600, 2400), struct.pack(">2H", 12_000, 12_000))
    assert signals(with_thumbnail(black, large))["thumbnail.distance"] < 0.01
    assert signals(with_thumbnail(black, huge))["thumbnail.distance"] == 1


@pytest.mark.parametrize("thumbnail", [b"", b"\xff\xd8\xff\xd9", b"GIF89a" + b"\0" * 99, encoded(image=PICTURE)[:-300]])
def test_a_broken_thumbnail_is_none(thumbnail: bytes) -> None:
    """What cannot be decoded, or is no JPEG, is not compared."""
    assert "thumbnail.distance" not in signals(with_thumbnail(PICTURE, thumbnail))


def directories(entries: int, kind: int, count: int) -> bytes:
    """EXIF whose tags all claim the same many values."""
    body = struct.pack("<H", entries) + b"".join(
        struct.pack(
            "<HHII", ExifTags.IFD.Exif if i == 0 else 40_000 + i, 4 if i == 0 else kind, 1 if i == 0 else count, 8
        )
        for i in range(entries)
    )
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + body + struct.pack("<I", 8) + b"\0" * 40_000


def a_million_values() -> bytes:
    """EXIF of megabytes, of which each eight are a fraction."""
    count = 1_000_000
    first = struct.pack("<HHHIII", 1, ExifTags.IFD.Exif, 4, 1, 26, 0)
    second = struct.pack("<HHHIII", 1, 40_000, 5, count, 44, 0)
    return b"II*\0" + struct.pack("<I", 8) + first + second + b"\1\0\0\0" * (2 * count)


HOSTILE: dict[str, bytes] = {
    "a tag of a million values": after_header(png_chunk(b"eXIf", a_million_values()), encoded("PNG")),
    "many tags of many values": encoded(exif=directories(1000, 5, 4000)),
    "directories that lead to themselves": encoded(exif=directories(2, 4, 1)),
    "a second directory far away": encoded(exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\xff\xff\xff\x7f"),
    "a thumbnail that is a bomb": with_thumbnail(
        PICTURE, encoded(image=Image.new("L", (8, 8))).replace(b"\x08\0\x08\0\x08\x01", b"\x08\xff\xff\xff\xff\x01")
    ),
    "megabytes of text": png_text(("parameters", "Steps: 1, Sampler " * 50_000), ("prompt", "x" * 2**19)),
    "a bomb of text": png_text(("parameters", "\0" * 2**19), zip=True),
    "endless source types": encoded("WEBP", xmp=xmp((VOCABULARY + b"x ") * 50_000)),
    "endless tools": encoded("WEBP", xmp=xmp(b"CreatorTool=" * 50_000)),
    "a million boxes": encoded("AVIF") + box(b"free", b"") * 200_000,
    "a box without a length": encoded("AVIF") + struct.pack(">I4sQ", 1, b"uuid", 2**63) + manifest(),
    "a box that leads back": encoded("AVIF") + struct.pack(">I4s", 4, b"uuid"),
    "APP11 of nothing": after_soi(app(11, b"JP") * 200, encoded()),
    "a manifest of megabytes": after_header(png_chunk(b"caBX", manifest(b"openai" * 400_000)), encoded("PNG")),
    "text that is no text": after_soi(app(1, b"http://ns.adobe.com/xap/1.0/\0" + bytes(range(256)) * 200), encoded()),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_metadata_costs_next_to_nothing(name: str) -> None:
    """In a tenth of a second and eight megabytes, and the picture is decoded as ever."""
    data = HOSTILE[name]
    image = Image.open(io.BytesIO(data))
    image.load()
    size = image.size
    times = []
    for _ in range(4):
        started = time.process_time()
        found = signals_of(data, image, size)
        times.append(time.process_time() - started)
    tracemalloc.start()
    signals_of(data, image, size)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert min(times) < 0.1 and peak < 8 * 2**20
    _check(found)


def _check(found: Signals) -> None:
    assert len(found) <= MOST_SIGNALS
    assert all(name.isprintable() and 0 < len(name) <= LONGEST_NAME for name in found)
    assert all(type(value) is float and 0 <= value <= 1 for value in found.values())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_bytes_of_metadata_raise(data: st.DataObject) -> None:
    """Whatever stands in EXIF, XMP, texts, private chunks and segments: signals as the report can hold them."""
    junk = st.binary(max_size=300) | st.sampled_from([manifest(VOCABULARY), exif(CAMERA), xmp(b"a"), b"\xff" * 70])
    mutated = data.draw(junk) + data.draw(junk)
    files = [
        encoded(exif=b"Exif\0\0" + mutated, xmp=mutated),
        encoded("WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0" + mutated, xmp=mutated),
        after_soi(app(11, mutated) + app(1, b"Exif\0\0MM\0*\0\0\0\x08" + mutated), encoded()),
        after_header(png_chunk(b"caBX", mutated) + png_chunk(b"eXIf", mutated), encoded("PNG")),
        after_header(png_chunk(b"tEXt", b"parameters\0" + mutated), encoded("PNG")),
        encoded("AVIF") + mutated,
    ]
    for file in files:
        image = Image.open(io.BytesIO(file))
        image.load()
        _check(signals_of(file, image, image.size))


def test_signals_come_through_the_decode_child() -> None:
    """The child gives the same signals as this process, None where there are none, and none where it is not asked."""
    geometry = Geometry((16, 16), Image.Resampling.BILINEAR)
    child = DecodeChild(settings_of(DecodeConfig(), geometry))
    data = with_manifest("JPEG")
    assert child.decode(data)[0]["signals"] == decode(data, max_pixels=10**8, examined=True).facts["signals"]
    assert child.decode(encoded("PNG"))[0]["signals"] is None
    child.close()
    unasked = DecodeChild(settings_of(DecodeConfig(provenance=False), geometry))
    assert "signals" not in unasked.decode(data)[0]
    unasked.close()
