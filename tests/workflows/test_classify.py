"""A few images at once, without Ray: a result for each, in order."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import nsfwscan
from nsfwscan.demo.media import UPLOADS, DemoObject
from nsfwscan.errors import ConfigError, ModelError, PolicyError
from nsfwscan.workflows.classify import BORDERLINE_MARGIN, Classification, _classification
from tests.runs.rows import report, staged_row

Demo = tuple[Path, list[DemoObject]]


def test_every_image_has_its_result_in_order(demo: Demo) -> None:
    """Good, broken, foreign and missing files each end in one result, in the order asked for, repeats included."""
    names = ["neutral/chelsea.jpg", "broken/notes.jpg", "absent.jpg", "broken/garbage.jpg", "neutral/chelsea.jpg"]
    results = nsfwscan.classify([demo[0] / name for name in names])
    assert [v.uri for v in results] == [str(demo[0] / name) for name in names]
    assert [v.status for v in results] == ["ok", "unsupported", "not_found", "decode_error", "ok"]
    assert results[0] == results[-1]
    good, bad = results[0], results[1]
    assert list(good.scores) == ["neutral", "nsfw"] and good.scores["neutral"] > good.scores["nsfw"]
    assert sum(good.scores.values()) == pytest.approx(1, abs=1e-5)
    assert good.nsfw_score == good.scores["nsfw"]
    assert (good.decision, good.rule, good.borderline, good.error) == ("allow", "otherwise", False, None)
    assert good.model is not None and good.model.startswith("open-nsfw@")
    assert (bad.scores, bad.nsfw_score, bad.model, bad.decision, bad.rule) == (
        {},
        None,
        None,
        "undetermined",
        "no-image",
    )
    assert bad.error is not None and "plain text" in bad.error
    assert bad.policy == good.policy


def test_one_image_may_be_given_alone(demo: Demo) -> None:
    """A path or a string is one image, not a sequence of letters."""
    path = demo[0] / UPLOADS / "shapes" / "one_pixel.png"
    assert nsfwscan.classify(path) == nsfwscan.classify(str(path)) == nsfwscan.classify([path])


def test_no_images_no_results() -> None:
    """Nothing asked, nothing answered."""
    assert nsfwscan.classify([]) == []


def test_more_images_than_fit_at_once(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are taken a few at a time, and the results do not depend on how many."""
    names = [f"{UPLOADS}/names/{name}" for name in ("no_extension", ".hidden.jpg", "number #1.jpg")]
    together = nsfwscan.classify([demo[0] / name for name in names])
    monkeypatch.setattr("nsfwscan.workflows.classify._AT_ONCE", 2)
    assert nsfwscan.classify([demo[0] / name for name in names]) == together


@pytest.mark.parametrize(
    ("score", "borderline"), [(0.05, False), (0.19, False), (0.25, True), (0.45, True), (0.55, True), (0.95, False)]
)
def test_close_calls_are_borderline(score: float, borderline: bool) -> None:
    """A call is borderline where the two best categories are close, or where the policy wants a person to look."""
    [row] = report([staged_row("/a", nsfw_score=score)]).to_pylist()
    result = _classification({**row, "each_detection": None, "each_line": None})
    assert isinstance(result, Classification)
    assert result.borderline == borderline
    assert (abs(1 - 2 * score) < BORDERLINE_MARGIN) <= result.borderline


def test_options_reach_the_stages(demo: Demo, tmp_path: Path) -> None:
    """Limits and policy are those that were asked for."""
    policy = tmp_path / "strict.yaml"
    policy.write_text(
        "version: 1\nrules:\n  - {name: all, when: 'nsfw_score >= 0', decision: block}\notherwise: {decision: allow}\n"
    )
    path = demo[0] / "neutral/chelsea.jpg"
    [strict] = nsfwscan.classify(path, policy=str(policy))
    assert (strict.decision, strict.rule, strict.policy[:7]) == ("block", "all", "strict@")
    [small] = nsfwscan.classify(path, decode={"max_pixels": 100})
    assert small.status == "too_large"
    [short] = nsfwscan.classify(path, read={"max_bytes": 100})
    assert short.status == "too_large"


def test_a_broken_set_up_raises(demo: Demo) -> None:
    """A model, policy or key that is not there is an error of its own kind."""
    path = demo[0] / "neutral/chelsea.jpg"
    with pytest.raises(ModelError, match="no such model directory"):
        nsfwscan.classify(path, model={"uri": "/absent"})
    with pytest.raises(PolicyError, match="cannot read the policy"):
        nsfwscan.classify(path, policy="/absent.yaml")
    with pytest.raises(ConfigError, match=r"decode\.max_pixel"):
        nsfwscan.classify(path, decode={"max_pixel": 1})
    with pytest.raises(ModelError, match="no preset 'absent'"):
        nsfwscan.classify(path, preset="absent")


def test_an_image_may_be_given_in_many_forms(demo: Demo) -> None:
    """Path, bytes, open file, Pillow image and array of one picture have the same scores, in order, from a generator, too."""
    path = demo[0] / UPLOADS / "formats" / "cat.png"
    data, image = path.read_bytes(), Image.open(path).convert("RGB")
    forms = [path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), image, np.asarray(image)]
    with path.open("rb") as file:
        results = nsfwscan.classify(form for form in [*forms, file])
    assert [v.uri for v in results] == [
        *(str(path), str(path), "bytes[2]", "bytes[3]", "bytes[4]", "file[5]", "image[6]", "array[7]", "file[8]"),
    ]
    assert {v.status for v in results} == {"ok"}
    assert [v.scores for v in results] == [results[0].scores] * 9
    for alone in (data, image, np.asarray(image)):
        [one] = nsfwscan.classify(alone)
        assert one.scores == results[0].scores


def test_pixels_of_every_shape(demo: Demo) -> None:
    """Grey arrays with and without a channel agree, transparency is put on white, and an orientation is kept."""
    path = demo[0] / UPLOADS / "formats" / "cat.png"
    image = Image.open(path).convert("RGB")
    grey, rgba = np.asarray(image.convert("L")), np.asarray(image.convert("RGBA"))
    plain, with_channel, opaque, turned, exif = nsfwscan.classify(
        [grey, grey[..., None], rgba, image.transpose(Image.Transpose.ROTATE_90), _with_orientation(image, 8)]
    )
    assert plain.scores == with_channel.scores
    assert opaque.scores == nsfwscan.classify(image)[0].scores
    assert exif.scores == turned.scores != opaque.scores
    assert nsfwscan.classify(image.convert("CMYK"))[0].status == "ok"


def _with_orientation(image: Image.Image, orientation: int) -> Image.Image:
    made = image.copy()
    made.getexif()[0x0112] = orientation
    return made


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (3, "image 1 is a int. An image is a path, a URI, bytes"),
        (None, "image 1 is a NoneType"),
        (np.zeros((4, 4, 3), np.float32), "float32 .*scale its values to 0 to 255"),
        (np.zeros((3, 8, 9), np.uint8), "channels first: give array.transpose"),
        (np.zeros((2, 8, 9, 3), np.uint8), "a batch: give list"),
        (np.zeros((8, 9, 2), np.uint8), r"uint8 \[8, 9, 2\]\. An image is"),
        (np.zeros((0, 9, 3), np.uint8), r"uint8 \[0, 9, 3\]"),
        (io.StringIO("text"), "a file opened as text: open it with mode 'rb'"),
        (Image.new("F", (4, 4)), "mode F: convert it to RGB"),
        ({"uri": "a.jpg"}, "image 1 is a dict"),
    ],
)
def test_what_is_no_image_is_told_in_words(demo: Demo, image: Any, said: str) -> None:
    """A wrong type names what was given, at which index, and what is accepted."""
    with pytest.raises(ConfigError, match=said):
        nsfwscan.classify([demo[0] / "neutral/chelsea.jpg", image])


def test_a_generator_is_taken_a_few_at_a_time(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the images of one round are in memory; damaged and oversized bytes become results, as files do."""
    monkeypatch.setattr("nsfwscan.workflows.classify._AT_ONCE", 2)
    taken: list[int] = []
    data = (demo[0] / "neutral/chelsea.jpg").read_bytes()

    def images() -> Iterator[bytes]:
        for number, one in enumerate((data, b"no image", data[:-999], b"", data)):
            taken.append(number)
            yield one

    results = nsfwscan.classify(images(), read={"max_bytes": len(data) - 1})
    assert results[0].status == results[-1].status == "too_large"
    assert [v.uri for v in results] == [f"bytes[{n}]" for n in taken] and len(taken) == 5
    assert "unsupported" in {v.status for v in results[1:4]}
    assert nsfwscan.classify(io.BytesIO(data), read={"max_bytes": 100})[0].status == "too_large"
