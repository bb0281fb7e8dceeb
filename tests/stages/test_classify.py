"""Scores: each image's own, to the bit, and none for what has no pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nsfwscan.config import ModelConfig, StorageConfig
from nsfwscan.demo.media import DemoObject
from nsfwscan.errors import ModelError
from nsfwscan.images.decoder import decode
from nsfwscan.images.preprocessing import Geometry, Normalisation
from nsfwscan.models import registry
from nsfwscan.models.spec import Classifier, Hardware, ModelSpec
from nsfwscan.models.views import pixels_type
from nsfwscan.policy.signals import signals_of_row
from nsfwscan.schema import EACH_VIEW, FULL_BATCH, LISTING_SCHEMA, MODEL_COLUMNS, Category, score_column
from nsfwscan.stages.base import Row, fresh, put
from nsfwscan.stages.classify import NO_SCORE, Classify

SPEC = registry.resolve(ModelConfig(), StorageConfig())
_PICTURES = ("chelsea.jpg", "coffee.png", "astronaut.jpg", "rocket.jpg", "coins.jpg")
_NUMBERS = count()
"""Of contents that no model has seen."""
_FACTS = ("label", "confidence", "nsfw_score", "score_neutral", "score_nsfw")


@pytest.fixture(scope="module")
def images(demo: tuple[Path, list[DemoObject]]) -> list[bytes]:
    """Embedded model's pixels of five photographs."""
    files = [(demo[0] / "neutral" / name).read_bytes() for name in _PICTURES]
    return [SPEC.geometry.apply(decode(data, max_pixels=10**8).image) for data in files]


@pytest.fixture(scope="module")
def embedded() -> Classify:
    """Embedded model, three images at a time."""
    return opened(SPEC, ModelConfig(batch_size=3))


def opened(spec: ModelSpec, config: ModelConfig) -> Classify:
    stage = Classify(spec, config, StorageConfig(), threads=1)
    stage.open()
    return stage


def table(
    pixels: Sequence[bytes | None], nbytes: int = SPEC.geometry.nbytes, digests: Sequence[str] | None = None
) -> pa.Table:
    rows = fresh(pa.Table.from_pylist([{"uri": f"/{i}"} for i in range(len(pixels))], schema=LISTING_SCHEMA))
    digests = [f"{next(_NUMBERS):064x}" for _ in pixels] if digests is None else digests
    return rows.append_column("sha256", pa.array(digests, pa.string())).append_column(
        "pixels", pa.array([None if one is None else [one] for one in pixels], pixels_type(nbytes))
    )


def facts(row: Row) -> tuple[object, ...]:
    return tuple(row[name] for name in _FACTS)


# --- the embedded model ---------------------------------------------------------------------------------------------


def test_scores_are_probabilities(embedded: Classify, images: list[bytes]) -> None:
    """Each photograph has probabilities that sum to one, the top one as label, and the model's name and digest."""
    for row in embedded(table(images)).to_pylist():
        assert row["score_neutral"] + row["score_nsfw"] == pytest.approx(1, abs=1e-5)
        assert row["nsfw_score"] == row["score_nsfw"]
        assert (row["label"], row["confidence"]) == ("neutral", row["score_neutral"])
        assert row["model"] == SPEC.identity == f"open-nsfw@{SPEC.digest[:16]}"
        assert [row[score_column(c)] for c in ("hentai", "porn", "sexy", "drawings")] == [None] * 4


@pytest.fixture(scope="module")
def alone(embedded: Classify, images: list[bytes]) -> list[tuple[object, ...]]:
    """Return what each photograph is scored when it is the only one."""
    return [facts(embedded(table([image])).to_pylist()[0]) for image in images]


@settings(max_examples=8, deadline=None)
@given(picked=st.lists(st.none() | st.integers(0, 4), max_size=7))
def test_a_score_does_not_depend_on_its_neighbours(
    embedded: Classify, images: list[bytes], alone: list[tuple[object, ...]], picked: list[int | None]
) -> None:
    """In any order, batch and company, beside missing ones and padding, an image's scores are the same to the bit."""
    found = embedded(table([None if i is None else images[i] for i in picked])).to_pylist()
    expected = [(None,) * len(_FACTS) if i is None else alone[i] for i in picked]
    assert [facts(row) for row in found] == expected


def test_rows_without_pixels_have_no_score(embedded: Classify, images: list[bytes]) -> None:
    """What could not be decoded has nulls in every model column, and keeps its status and error."""
    given = table([None, images[0], None])
    given = given.set_column(
        given.schema.get_field_index("error"),
        given.schema.field("error"),
        pa.array(["broken", None, None], pa.string()),
    )
    rows = embedded(given).to_pylist()
    assert [row["nsfw_score"] is None for row in rows] == [True, False, True]
    assert all(row[field.name] is None for row in (rows[0], rows[2]) for field in MODEL_COLUMNS)
    assert [row["error"] for row in rows] == ["broken", None, None]


def test_what_a_full_batch_would_have_taken(embedded: Classify, images: list[bytes]) -> None:
    """Of three places in a batch two are for nothing: an image costs three times what it would cost in a full one."""
    for shown, share in ((1, 3), (2, 1.5), (3, 1), (4, 1.5)):
        *_, row = embedded(table(images[:shown])).to_pylist()
        cost = signals_of_row(row["cost"])
        assert cost["classify"] / cost[FULL_BATCH] == pytest.approx(share)


def test_tables_without_any_pixels(embedded: Classify) -> None:
    """A table in which nothing could be decoded, or without rows, comes through with no score and no error."""
    rows = embedded(table([None, None])).to_pylist()
    assert [row["nsfw_score"] for row in rows] == [None, None]
    assert embedded(table([])).num_rows == 0


def test_sliced_and_chunked_tables(embedded: Classify, images: list[bytes]) -> None:
    """A table that is a piece of another, or made of several, gets the scores of its own rows."""
    whole = table([*images, None, *images])
    scores = [facts(row) for row in embedded(whole).to_pylist()]
    for start, length in ((0, 3), (4, 4), (10, 1), (5, 1), (11, 0)):
        piece = embedded(whole.slice(start, length)).to_pylist()
        assert [facts(row) for row in piece] == scores[start : start + length]
    joined = pa.concat_tables([whole.slice(7, 3), whole.slice(5, 1), whole.slice(0, 2)])
    assert joined["pixels"].num_chunks == 3
    assert [facts(row) for row in embedded(joined).to_pylist()] == [*scores[7:10], scores[5], *scores[0:2]]


# --- any model ------------------------------------------------------------------------------------------------------

GEOMETRY = Geometry((1, 1), 2)
"""One pixel, so that a test says with its three bytes what the model returns."""

FIVE = (Category.DRAWINGS, Category.HENTAI, Category.NEUTRAL, Category.PORN, Category.SEXY)

Install = Callable[[Callable[[NDArray[np.uint8]], NDArray[np.float32]], tuple[Category, ...]], Classify]


@pytest.fixture
def with_model(monkeypatch: pytest.MonkeyPatch) -> Install:
    """A stage, four images at a time, whose weights are a function."""

    def install(
        model: Callable[[NDArray[np.uint8]], NDArray[np.float32]], categories: tuple[Category, ...]
    ) -> Classify:
        def load(spec: ModelSpec, storage: StorageConfig, hardware: Hardware) -> Classifier:
            def classify(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
                assert batch.shape == (hardware.batch_size, *GEOMETRY.shape)
                assert batch.dtype == np.uint8 and batch.flags.c_contiguous
                return model(batch)

            return Classifier(classify)

        monkeypatch.setattr(registry, "load", load)
        names = tuple(str(c) for c in categories)
        norm = Normalisation(1.0, (0.0,) * 3, (1.0,) * 3)
        spec = ModelSpec("made", "made", "ab" * 32, "onnx", names, categories, GEOMETRY, norm, "binary")
        return opened(spec, ModelConfig(batch_size=4))

    return install


def scores_for(lookup: dict[int, tuple[float, ...]]) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """A model that returns what is set down for an image's first byte; black images are padding."""
    width = len(next(iter(lookup.values())))

    def model(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.array([lookup.get(int(image[0, 0, 0]), (math.nan,) * width) for image in batch], np.float32)

    return model


def pixel(first: int) -> bytes:
    return bytes((first, 0, 0))


def test_categories_are_summed_and_labelled(with_model: Install) -> None:
    """`nsfw_score` is the sum over the NSFW categories and `label` the top one, and the two may disagree."""
    stage = with_model(
        scores_for(
            {
                1: (0.0, 0.3, 0.4, 0.0, 0.3),
                2: (0.9, 0.02, 0.03, 0.04, 0.01),
                3: (0.0, 0.25, 0.0, 0.5, 0.25),
                4: (0.5, 0.0, 0.5, 0.0, 0.0),
            }
        ),
        FIVE,
    )
    rows = stage(table([pixel(i) for i in (1, 2, 3, 4)], 3)).to_pylist()
    assert [row["label"] for row in rows] == ["neutral", "drawings", "porn", "drawings"]
    assert [row["nsfw_score"] for row in rows] == pytest.approx([0.6, 0.07, 1.0, 0.0])
    assert [row["confidence"] for row in rows] == pytest.approx([0.4, 0.9, 0.5, 0.5])
    assert [rows[0][score_column(c)] for c in FIVE] == pytest.approx([0.0, 0.3, 0.4, 0.0, 0.3])
    assert all(row["score_nsfw"] is None for row in rows)


def test_a_sum_over_one_is_one(with_model: Install) -> None:
    """Rounding in a half-precision model never makes a score of more than 1."""
    stage = with_model(scores_for({1: (0.0, 0.5005, 0.0, 0.5005, 0.0)}), FIVE)
    [row] = stage(table([pixel(1)], 3)).to_pylist()
    assert row["nsfw_score"] == 1.0


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 9])
def test_batches_have_one_shape(with_model: Install, count: int) -> None:
    """Every batch is filled up to the fixed shape with black images, whose scores go nowhere."""
    seen: list[NDArray[np.uint8]] = []

    def model(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        seen.append(batch.copy())
        nsfw = batch[:, 0, 0, 0].astype(np.float32) / 256
        return np.stack([1 - nsfw, nsfw], axis=1)

    stage = with_model(model, (Category.NEUTRAL, Category.NSFW))
    rows = stage(table([pixel(i + 1) for i in range(count)], 3)).to_pylist()
    assert [row["nsfw_score"] for row in rows] == [(i + 1) / 256 for i in range(count)]
    sent = np.concatenate(seen)[:, 0, 0, 0].tolist()
    assert sent == [*range(1, count + 1), *[0] * (-count % 4)]


@pytest.mark.parametrize("nothing", [math.nan, math.inf, -math.inf])
def test_one_image_without_a_number(with_model: Install, nothing: float) -> None:
    """An image for which the model returns no number has no score, no label and an error; its neighbours keep theirs."""
    stage = with_model(scores_for({1: (0.9, 0.1), 2: (nothing, 0.1), 3: (0.2, 0.8)}), (Category.NEUTRAL, Category.NSFW))
    rows = stage(table([pixel(1), pixel(2), None, pixel(3)], 3)).to_pylist()
    assert [row["label"] for row in rows] == ["neutral", None, None, "nsfw"]
    assert all(rows[1][field.name] is None for field in MODEL_COLUMNS)
    assert [row["error"] for row in rows] == [None, NO_SCORE, None, None]
    assert [row["status"] for row in rows] == ["ok"] * 4


def test_no_image_with_a_number(with_model: Install) -> None:
    """A model that returns no number for any image is a broken set-up, and its message says what to try."""
    stage = with_model(scores_for({9: (0.5, 0.5)}), (Category.NEUTRAL, Category.NSFW))
    with pytest.raises(
        ModelError, match=r"made@abababababababab returned no finite score .* 2 images.*--dtype float32"
    ):
        stage(table([pixel(1), None, pixel(2)], 3))


# --- several views --------------------------------------------------------------------------------------------------


def with_several(rows: Sequence[Sequence[int] | None], weights: Sequence[Sequence[int]]) -> pa.Table:
    """Rows whose views are pixels of these first bytes, with such weights; a row of one view has no `each_view`."""
    given = table([None] * len(rows), 3)
    pixels = [None if row is None else [pixel(first) for first in row] for row in rows]
    each = [
        [
            {"index": 10 * i, "at_s": i / 2, "reason": "spread", "weight": weight}
            for i, (_, weight) in enumerate(zip(row, heavy, strict=True))
        ]
        if row is not None and len(row) > 1
        else None
        for row, heavy in zip(rows, weights, strict=True)
    ]
    given = put(given, given.schema.field("pixels"), pa.array(pixels, pixels_type(3)))
    return given.append_column(EACH_VIEW, pa.array(each, EACH_VIEW.type))


BINARY = {1: (0.99, 0.01), 2: (0.1, 0.9), 3: (0.5, 0.5), 4: (0.7, 0.3)}


def test_views_of_a_batch_are_scored_together(with_model: Install) -> None:
    """All views of all rows share batches; each has its own scores, and the row those of its worst two."""
    seen: list[int] = []

    def model(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        seen.extend(batch[:, 0, 0, 0].tolist())
        return scores_for(BINARY)(batch)

    stage = with_model(model, (Category.NEUTRAL, Category.NSFW))
    rows = stage(with_several([[1, 2, 3], None, [4], [3, 3]], [[9, 1, 9], [], [], [1, 1]])).to_pylist()
    assert seen == [1, 2, 3, 4, 3, 3, 0, 0]
    assert [row["nsfw_score"] for row in rows] == pytest.approx([0.7, None, 0.3, 0.5])
    assert [row["score_neutral"] for row in rows] == pytest.approx([0.3, None, 0.7, 0.5])
    assert [row["label"] for row in rows] == ["nsfw", None, "neutral", "neutral"]
    assert [row["confidence"] for row in rows] == pytest.approx([0.7, None, 0.7, 0.5])
    assert [(row["worst_view"], row["worst_at_s"]) for row in rows] == [(10, 0.5), (None, None), (None, None), (0, 0.0)]
    assert signals_of_row(rows[0]["signals"])["view.max"] == pytest.approx(0.9)
    assert rows[1]["signals"] is rows[2]["signals"] is None
    assert [view["nsfw_score"] for view in rows[0]["each_view"]] == pytest.approx([0.01, 0.9, 0.5])
    assert [view["label"] for view in rows[0]["each_view"]] == ["neutral", "nsfw", "neutral"]
    assert rows[2]["each_view"] is None


def test_a_view_that_stands_for_others_counts_as_often(with_model: Install) -> None:
    """A scene is one view of many frames: its score is the row's. One frame among many is halved by the next."""
    stage = with_model(scores_for(BINARY), (Category.NEUTRAL, Category.NSFW))
    rows = stage(with_several([[1, 2], [1, 2]], [[9, 1], [9, 2]])).to_pylist()
    assert [row["nsfw_score"] for row in rows] == pytest.approx([0.455, 0.9])


def test_a_lost_view_loses_the_row(with_model: Install) -> None:
    """An animation with a frame that the model cannot score has no score: that frame may be the one."""
    stage = with_model(scores_for(BINARY), (Category.NEUTRAL, Category.NSFW))
    rows = stage(with_several([[1, 77], [1, 3]], [[1, 1], [1, 1]])).to_pylist()
    assert [row["error"] for row in rows] == [NO_SCORE, None]
    assert (rows[0]["nsfw_score"], rows[0]["worst_view"]) == (None, None)
    assert rows[1]["nsfw_score"] == pytest.approx(0.255)


# --- the same bytes -------------------------------------------------------------------------------------------------


def test_a_content_is_scored_once(with_model: Install) -> None:
    """The model sees the same bytes once, in a table and over tables; all copies have its scores, and say so."""
    seen: list[int] = []

    def score(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        seen.extend(int(pixel[0, 0, 0]) for pixel in batch if pixel.any())
        return np.stack([batch[:, 0, 0, 0] / 255, 1 - batch[:, 0, 0, 0] / 255], axis=1).astype(np.float32)

    stage = with_model(score, (Category.NSFW, Category.NEUTRAL))
    pixels = [b"\x33" * 3, b"\x66" * 3, b"\x33" * 3, None]
    first = stage(table(pixels, 3, ["a", "b", "a", "c"])).to_pylist()
    second = stage(table(pixels, 3, ["b", "d", "a", None])).to_pylist()
    assert seen == [0x33, 0x66, 0x66]
    assert [row["reused"] for row in (*first, *second)] == [False, False, True, None, True, False, True, None]
    assert [row["nsfw_score"] for row in second[:3]] == pytest.approx([0.4, 0.4, 0.2])
    assert first[0]["nsfw_score"] == first[2]["nsfw_score"] == second[2]["nsfw_score"]


def test_what_a_worker_remembers_is_bounded(with_model: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest contents are forgotten, and scored again."""
    monkeypatch.setattr("nsfwscan.models.scorer._REMEMBERED", 2)
    stage = with_model(lambda batch: np.full((len(batch), 2), 0.5, np.float32), (Category.NSFW, Category.NEUTRAL))
    stage(table([b"\x01" * 3] * 3, 3, ["a", "b", "c"]))
    again = stage(table([b"\x01" * 3] * 3, 3, ["a", "b", "c"])).to_pylist()
    assert [row["reused"] for row in again] == [False, True, True]
    monkeypatch.setattr("nsfwscan.models.scorer._REMEMBERED", 4)  # nearly full, and nothing is forgotten
    stage(table([b"\x01" * 3] * 3, 3, ["a", "b", "c"]))
    again = stage(table([b"\x01" * 3] * 3, 3, ["a", "b", "c"])).to_pylist()
    assert [row["reused"] for row in again] == [True, True, True]


def test_no_number_is_not_remembered(with_model: Install) -> None:
    """A content that the model yielded no number for is given to it again."""
    values = iter([[0.1, np.nan], [0.1, 0.2]])

    def score(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        column = np.resize(np.array(next(values), np.float32), len(batch))
        return np.stack([column, 1 - column], axis=1)

    stage = with_model(score, (Category.NSFW, Category.NEUTRAL))
    first, second = (stage(table([b"\x01" * 3, b"\x02" * 3], 3, ["a", "b"])).to_pylist() for _ in range(2))
    assert [row["nsfw_score"] is None for row in (*first, *second)] == [False, True, False, False]
    assert second[1]["reused"] is False and second[1]["nsfw_score"] is not None
