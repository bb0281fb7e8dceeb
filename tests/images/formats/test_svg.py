"""SVG: what is drawn, what is left out, and what hostile documents become."""

from __future__ import annotations

import base64
import gzip
import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nsfwscan.errors import ErrorCode, RowError
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.views import ViewLimits, to_views

pytest.importorskip("resvg_py")
NAMES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
GEOMETRY = Geometry((24, 24), Image.Resampling.BILINEAR)
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def svg(inside: str, size: str = 'viewBox="0 0 100 10"') -> str:
    return f"<svg {NAMES} {size}>{inside}</svg>"


def embedded(data: bytes | str, media: str = "image/png") -> str:
    data = data.encode() if isinstance(data, str) else data
    return f"data:{media};base64,{base64.b64encode(data).decode()}"


def png(colour: tuple[int, int, int], size: tuple[int, int] = (20, 10)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def views_of(document: str | bytes, **how: Any) -> tuple[dict[str, Any], list[tuple[int, int, int]]]:
    """Return the facts, and the mean colour of each view."""
    data = document.encode() if isinstance(document, str) else document
    given: dict[str, Any] = {"limits": ViewLimits(8, 300_000_000, 60.0), "max_pixels": 10**8, "hashed": True, **how}
    facts, _, pixels = to_views(data, GEOMETRY, **given)
    means = np.frombuffer(pixels, np.uint8).reshape(-1, 24 * 24, 3).mean(axis=1).round().astype(int)
    return facts, [tuple(one) for one in means.tolist()]


def refusal(document: str | bytes) -> RowError:
    with pytest.raises(RowError) as caught:
        views_of(document)
    assert caught.value.values["format"] == "SVG"
    return caught.value


def test_a_drawing_is_a_picture_on_white() -> None:
    """It has the shape that it asks for and a longest edge of 1024, a PDQ hash, and one view."""
    half = '<rect width="50" height="10" fill="red"/>'
    facts, colours = views_of(svg(half))
    assert (facts["format"], facts["width"], facts["height"], facts["frames"]) == ("SVG", 1024, 103, 1)
    assert (facts["media"], facts["views"], len(facts["pdq"])) == ("image", 1, 64)
    assert np.abs(np.subtract(colours, [(255, 128, 128)])).max() <= 3
    for name, same in {
        "packed": gzip.compress(svg(half).encode()),
        "in UTF-16": ('<?xml version="1.0" encoding="utf-16"?>' + svg(half)).encode("utf-16"),
        "after white space": "\n" * 40 + svg(half),
        "with a prefix": '<s:svg xmlns:s="http://www.w3.org/2000/svg" viewBox="0 0 100 10"><s:rect width="50" height="10" '
        'fill="red"/></s:svg>',
        "with a document type and its entities": '<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "https://example.org/svg11.dtd" '
        '[<!ENTITY ns "http://www.w3.org/2000/svg"><!ENTITY c "red">]>'
        '<svg xmlns="&ns;" viewBox="0 0 100 10"><rect width="50" height="10" fill="&c;"/></svg>',
        "without its namespace": '<svg viewBox="0 0 100 10"><rect width="50" height="10" fill="red"/></svg>',
    }.items():
        assert views_of(same)[1] == colours, name


@pytest.mark.parametrize(
    "inside",
    [
        '<image xlink:href="{0}" width="1" height="1"/>',
        '<image href="{0}" xlink:href="#none" width="1" height="1"/><rect width="100" height="10" fill="white"/>',
        '<image href="#"><set attributeName="href" to="{0}" begin="9s"/></image>',
        '<foreignObject><img xmlns="http://www.w3.org/1999/xhtml" src="{0}"/></foreignObject>',
        "<style>rect {{ fill: url('{0}') }}</style>",
        '<rect style="background: url({0})"/>',
    ],
)
def test_a_picture_within_is_looked_at_by_itself(inside: str) -> None:
    """However small it is drawn, covered, shown later or not at all: each picture of the file is a view."""
    facts, colours = views_of(svg(inside.format(embedded(png(RED)))))
    assert (facts["frames"], facts["views"], len(colours)) == (2, 2, 2)
    assert colours[1] == RED and min(colours[0]) > 245


@pytest.mark.parametrize("fmt", ["AVIF", "BMP", "ICO", "WEBP", "TIFF"])
def test_a_picture_within_is_of_any_format_that_browsers_show(fmt: str) -> None:
    """A picture that resvg cannot draw, or calls by another type, is drawn and looked at; TIFF is not, as in browsers."""
    out = io.BytesIO()
    Image.new("RGB", (64, 64), RED).save(out, fmt)
    picture = (
        f'<image href="{embedded(out.getvalue(), "image/jpeg")}" width="100" height="10" preserveAspectRatio="none"/>'
    )
    facts, colours = views_of(svg(picture))
    if fmt == "TIFF":
        assert (facts["frames"], facts["views"], colours) == (1, 1, [(255, 255, 255)])
        return
    assert (facts["frames"], facts["media"]) == (2, "image")
    assert np.abs(np.subtract(colours, RED)).max() <= 6


def test_a_picture_within_is_found_without_its_padding_and_upright() -> None:
    """Browsers read base64 that lacks its last signs, and turn a photograph as its EXIF says."""
    photo, out, turned = Image.new("RGB", (80, 40), BLUE), io.BytesIO(), Image.Exif()
    photo.paste(RED, (0, 0, 80, 20))
    turned[0x0112] = 6
    photo.save(out, "JPEG", exif=turned, quality=95, comment=b"12")
    uri = embedded(out.getvalue(), "image/jpeg")
    assert uri.endswith("=")
    drawing = svg(f'<image href="{uri.rstrip("=")}" width="100" height="10" preserveAspectRatio="none"/>')
    facts, _, pixels = to_views(drawing.encode(), GEOMETRY, limits=ViewLimits(8, 300_000_000, 60.0), max_pixels=10**8)
    views = np.frombuffer(pixels, np.uint8).reshape(-1, 24, 24, 3).astype(int)
    assert (facts["frames"], len(views)) == (2, 2)
    assert np.abs(views[:, 6:18, 4:8] - BLUE).max() <= 6 and np.abs(views[:, 6:18, 16:20] - RED).max() <= 6


@pytest.mark.parametrize("unit", ["", "px", "mm", "cm", "in", "pt", "pc", "em"])
def test_a_drawing_may_have_a_size_in_any_unit(unit: str) -> None:
    """Inkscape writes millimetres."""
    drawn = svg('<rect width="100" height="10" fill="red"/>').replace(
        "<svg", f'<svg width="300{unit}" height="30{unit}"', 1
    )
    facts, colours = views_of(drawn)
    assert facts["width"] == 1024 and facts["height"] in (102, 103)
    assert np.abs(np.subtract(colours, RED)).max() <= 3


def test_a_picture_within_may_move() -> None:
    """Browsers show all frames of a GIF within a drawing, resvg the first: each is a view."""
    colours = [(0, 0, 250), (250, 0, 0), (0, 250, 0)]
    frames = [Image.new("RGB", (20, 10), colour) for colour in colours]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    facts, found = views_of(svg(f'<image width="100" height="10" href="{embedded(out.getvalue(), "image/gif")}"/>'))
    assert (facts["frames"], facts["views"], facts["media"]) == (4, len(found), "image")
    for colour in colours:
        assert any(max(abs(a - b) for a, b in zip(one, colour, strict=True)) < 12 for one in found), colour


def test_a_document_within_is_drawn_and_its_pictures_are_looked_at() -> None:
    """An SVG in an SVG: the inner drawing is part of the outer one, and pictures in it are views."""
    inner = svg(f'<image href="{embedded(png(BLUE))}" width="1" height="1"/><rect width="100" height="10" fill="red"/>')
    outer = svg(f'<image href="{embedded(inner, "image/svg+xml")}" width="100" height="10"/>')
    assert views_of(outer)[1] == [RED, BLUE]


def test_nothing_outside_the_file_is_read(tmp_path: Path) -> None:
    """Paths, URLs and entities of other files show nothing."""
    path = tmp_path / "red.png"
    path.write_bytes(png(RED))
    whole = 'width="100" height="10" preserveAspectRatio="none"'
    for inside in (
        f'<image href="{path}" {whole}/>',
        f'<image xlink:href="{path.as_uri()}" {whole}/>',
        f'<filter id="f"><feImage href="{path}"/></filter><rect {whole} filter="url(#f)"/>',
        f'<use href="{path}#a"/><style>@import url("{path}"); rect {{ fill: url({path}#a) }}</style>',
        f'<image href="{embedded(svg(f"<image href={str(path)!r} {whole}/>"), "image/svg+xml")}" {whole}/>',
    ):
        facts, colours = views_of(svg(inside))
        assert facts["frames"] == 1 and min(colours[0]) > 250, inside
    entity = f'<!DOCTYPE svg [<!ENTITY e SYSTEM "{path.as_uri()}">]>' + svg("<desc>&e;</desc>")
    assert views_of(entity)[1] == [WHITE]


def tenfold(part: str, inner: str) -> str:
    """Ten parts, each of which has the one before it ten times."""
    return "".join(part.format(i, inner.format(i - 1) * 10) for i in range(1, 10))


LAUGHS = tenfold('<!ENTITY e{} "{}">', "&e{};")
USES = tenfold('<g id="u{}">{}</g>', '<use href="#u{}"/>')
FILLS = tenfold('<pattern id="p{}">{}</pattern>', '<rect fill="url(#p{})"/>')


@pytest.mark.parametrize(
    ("document", "code", "words"),
    [
        (
            f'<!DOCTYPE svg [<!ENTITY e0 "ha">{LAUGHS}]>' + svg("<desc>&e9;</desc>"),
            ErrorCode.DECODE_ERROR,
            "amplification",
        ),
        (svg(f'<defs><rect id="u0"/>{USES}</defs><use href="#u9"/>'), ErrorCode.TOO_LARGE, "that references repeat"),
        (svg(f'<rect id="p0"/>{FILLS}<rect fill="url(#p9)"/>'), ErrorCode.TOO_LARGE, "that references repeat"),
        (
            svg("".join(f'<g id="c{i}"><use href="#c{i + 1}"/></g>' for i in range(300))),
            ErrorCode.TOO_LARGE,
            "200 deep",
        ),
        (svg("<g>" * 10_000 + "</g>" * 10_000), ErrorCode.TOO_LARGE, "elements more than 200 deep"),
        (svg("<g/>" * 100_001), ErrorCode.TOO_LARGE, "more than 100,000 elements"),
        (
            lambda: gzip.compress(svg("<!--" + " " * 70_000_000 + "-->").encode(), 1),
            ErrorCode.TOO_LARGE,
            "bytes, unpacked",
        ),
        (svg('<rect width="1" height="1">'), ErrorCode.DECODE_ERROR, "mismatched tag"),
        (
            gzip.compress(svg(f"<!--{random.Random(1).randbytes(3000).hex()}-->").encode())[:-500],
            ErrorCode.DECODE_ERROR,
            "unclosed token",
        ),
        (svg("", 'width="-5" height="NaN"'), ErrorCode.DECODE_ERROR, "invalid size"),
    ],
    ids=["laughs", "uses", "patterns", "chain", "deep", "many", "packed", "damaged", "cut off", "no size"],
)
def test_a_hostile_document_is_refused_in_time(
    document: str | bytes | Callable[[], bytes], code: ErrorCode, words: str
) -> None:
    """Each becomes a row that says why, before resvg spends minutes on it, or its stack ends."""
    error = refusal(document() if callable(document) else document)
    assert error.code == code and words in error.message


def test_odd_documents_are_drawn() -> None:
    """References in circles, a box without area, slivers, nothing at all."""
    for document in (
        svg('<g id="a"><use href="#a"/><use href="#b"/></g><g id="b"><use href="#a"/></g>'),
        svg("", 'width="1000000000" height="1"'),
        svg("", 'width="30" height="1" viewBox="0 0 0 0"'),
        svg("<g>" * 190 + "</g>" * 190),
        svg("<script>while (true) {}</script>"),
    ):
        assert views_of(document)[1] == [WHITE], document


def test_pictures_that_are_too_large_are_said() -> None:
    """Bombs within are not decoded, and count among what was not looked at."""
    buffer = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(buffer, "PNG")
    facts, colours = views_of(svg(f'<image href="{embedded(buffer.getvalue())}" width="100" height="10"/>'))
    assert facts["signals"] == {"view.unseen": 0.5} and colours == [WHITE]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"<!DOCTYPE html><html><body><svg xmlns='http://www.w3.org/2000/svg'/></body></html>", "an HTML page"),
        (b"<?xml version='1.0'?><rss/>", "a news feed in XML"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML error document (AccessDenied)"),
        (gzip.compress(b"<rss/>", mtime=0), "a gzip-compressed file with a news feed in XML in it"),
    ],
)
def test_other_markup_is_no_svg(data: bytes, name: str) -> None:
    """Whatever begins so, the first element tells."""
    with pytest.raises(RowError) as caught:
        views_of(data)
    assert caught.value.status == "unsupported" and caught.value.message.endswith(f"looks like {name}")
