"""Animations and pages from scan to report: their views are counted, verified and carried over, and nothing hides."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nsfwscan.config import ScanConfig, StorageConfig
from nsfwscan.execution import pipeline
from nsfwscan.execution.inline import run_inline
from nsfwscan.policy.rules import parse_policy
from nsfwscan.policy.signals import signals_of_row
from nsfwscan.reports.effects_text import describe_effects
from nsfwscan.reports.progress import Silent
from nsfwscan.review.covers import Artist, Content
from nsfwscan.review.evidence import scores_of_views, worst_of
from nsfwscan.runs.run import Run
from nsfwscan.runs.verify import verify
from nsfwscan.schema import VIEW_SCHEMA
from nsfwscan.storage.store import Store
from nsfwscan.workflows.replay import commit_replay
from nsfwscan.workflows.scan import ScanResult, run_scan
from tests.checkpoints import make_vit


def frames(*seeds: int) -> list[Image.Image]:
    """Noise, each of its own."""
    return [Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 60, 3), np.uint8)) for seed in seeds]


def save(path: Path, images: list[Image.Image], **how: Any) -> None:
    buffer = io.BytesIO()
    images[0].save(buffer, path.suffix[1:].upper(), save_all=True, append_images=images[1:], **how)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
    os.utime(path, (time.time() - 3600,) * 2)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An animation, its copy, pages, and a still picture."""
    folder = tmp_path_factory.mktemp("media")
    save(folder / "moving.gif", frames(1, 2, 3), duration=[100, 100, 300])
    save(folder / "copy.gif", frames(1, 2, 3), duration=[100, 100, 300])
    save(folder / "pages.tiff", frames(4, 5))
    save(folder / "still.png", frames(6))
    return folder


def night(media: Path, out: Path, run_id: str, **sections: Any) -> ScanResult:
    config = ScanConfig.load(None, {"source": {"uris": [str(media)]}, "out": str(out), **sections})
    return run_scan(config, run_id, run_inline, Silent())


@pytest.fixture(scope="module")
def store(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A first night."""
    out = tmp_path_factory.mktemp("reports")
    night(media, out, "1")
    return out


def read(out: Path, run_id: str) -> tuple[dict[str, dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """Return the report's rows, and the rows of views, by the names of their objects."""
    folder = out / "runs" / run_id
    rows = [row for path in folder.glob("report/*.parquet") for row in pq.read_table(path).to_pylist()]
    views: dict[str, list[dict[str, Any]]] = {}
    for path in folder.glob("views/*.parquet"):
        table = pq.read_table(path)
        assert table.schema.equals(VIEW_SCHEMA)
        for row in table.to_pylist():
            views.setdefault(os.path.basename(row.pop("uri")), []).append(row)
    return {os.path.basename(row["uri"]): row for row in rows}, views


def run_of(out: Path, run_id: str) -> Run:
    return Run(Store.at(str(out), StorageConfig()), run_id)


def test_each_view_has_its_row(store: Path) -> None:
    """The report tells of the whole object and its worst view, `views/` of each; a still picture has none there."""
    rows, views = read(store, "1")
    assert {name: (row["media"], row["frames"], row["views"]) for name, row in rows.items()} == {
        "moving.gif": ("animation", 3, 3),
        "copy.gif": ("animation", 3, 3),
        "pages.tiff": ("image", 2, 2),
        "still.png": ("image", 1, 1),
    }
    assert set(views) == {"moving.gif", "copy.gif", "pages.tiff"}
    moving, row = views["moving.gif"], rows["moving.gif"]
    assert [(view["index"], view["at_s"], view["weight"]) for view in moving] == [(0, 0, 1), (1, 0.1, 1), (2, 0.2, 3)]
    assert views["copy.gif"] == moving
    assert {rows[name]["duplicate_of"] and os.path.basename(rows[name]["duplicate_of"]) for name in views} == {
        "copy.gif",
        None,
    }
    assert row["duration_s"] == pytest.approx(0.5)
    worst = max(moving, key=lambda view: view["nsfw_score"])
    assert (row["worst_view"], row["worst_at_s"]) == (worst["index"], worst["at_s"])
    assert signals_of_row(row["signals"])["view.max"] == worst["nsfw_score"] >= row["nsfw_score"]
    assert moving[0]["pdq"] == row["pdq"] and len({view["pdq"] for view in moving}) == 3
    assert (rows["still.png"]["worst_view"], rows["still.png"]["duration_s"]) == (None, None)
    assert list(verify(run_of(store, "1"))) == []


def test_views_are_carried_over(media: Path, store: Path) -> None:
    """The next night reads nothing again, and its views are the first one's; so are those of a replay."""
    before = read(store, "1")
    second = night(media, store, "2")
    assert second.record.balance.carried == 4
    assert read(store, "2")[1] == before[1]
    spike = {"name": "spike", "when": "signals['view.max'] >= 0", "decision": "review", "queue": "q"}
    policy = parse_policy(
        {"name": "spikes", "version": "1", "rules": [spike], "otherwise": {"decision": "allow"}}, "a test"
    )
    commit_replay(run_of(store, "2"), policy, "a test", "3")
    rows, views = read(store, "3")
    assert views == before[1]
    assert {name: row["decision"] for name, row in rows.items()} == {
        **dict.fromkeys(views, "review"),
        "still.png": "allow",
    }
    assert [list(verify(run_of(store, run_id))) for run_id in "23"] == [[], []]


def test_a_delta_has_the_views_of_its_rows(media: Path, tmp_path: Path) -> None:
    """What a delta leaves to the night before, it leaves with its views; a later snapshot has them all again."""
    out, sections = tmp_path / "out", {"report": {"mode": "delta"}}
    night(media, out, "1", **sections)
    first = read(out, "1")
    night(media, out, "2", **sections)
    assert read(out, "2") == ({}, {})
    assert list(verify(run_of(out, "2"))) == []
    night(media, out, "3")
    assert read(out, "3")[1] == first[1]


def test_what_views_cost_is_said(store: Path) -> None:
    """The record has objects, views, frames, seconds shown and seconds of decoding by media, and the summary says so."""
    record = run_of(store, "1").record()
    assert record.media is not None and set(record.media) == {"animation", "image"}
    found = record.media["animation"]
    assert (found.objects, found.views, found.frames, found.duration_s) == (2, 6, 6, pytest.approx(1.0))
    assert found.decode_s > 0 and record.media["image"].frames == 3
    said = dict(describe_effects(record))["animated"]
    assert said.startswith("2 animations: 6 views of 6 frames looked at, ") and "s of animation a second" in said
    assert set(record.model_times) == {"classify"}


def test_many_views_are_scored_in_parts(
    media: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard with more pixels than one of photographs is scored piece by piece, and its rows are the same."""
    scored: list[int] = []
    whole = pipeline.ModelChain.__call__
    monkeypatch.setattr(pipeline, "_ROW_BYTES", -(2**17))
    monkeypatch.setattr(pipeline, "_CHUNK_BYTES", 1)
    monkeypatch.setattr(
        pipeline.ModelChain, "__call__", lambda chain, rows: scored.append(len(rows)) or whole(chain, rows)
    )
    night(media, tmp_path, "1", engine={"shard_rows": 4})
    assert len(scored) > 1 and sum(scored) == 4
    others = ("run_id", "scanned_at")
    parts, together = ({name: {k: v for k, v in row.items() if k not in others} for name, row in read(place, "1")[0].items()}
                       for place in (tmp_path, store))  # fmt: skip
    assert parts == together


def test_what_scores_high_is_looked_at_again(tmp_path: Path) -> None:
    """Frames around the worst ones of a long animation become views in a second look, which leaves a row like any
    other, says what it cost, and is carried over; a still picture gets none, nor does an animation of few frames."""
    media, out = tmp_path / "media", tmp_path / "out"
    save(media / "long.gif", frames(*range(20)), duration=100)
    save(media / "short.gif", frames(1, 2, 3), duration=100)
    save(media / "still.png", frames(6))
    record = night(media, out, "1", views={"most": 4, "closer": 3, "spike": 0.0}).record
    rows, views = read(out, "1")
    row, found = rows["long.gif"], views["long.gif"]
    assert (row["views"], row["status"], len(found), len(views["short.gif"])) == (7, "ok", 7, 3)
    assert [view["reason"] for view in found].count("spike") == 3
    worst = max(found, key=lambda view: view["nsfw_score"])
    assert (row["worst_view"], row["worst_at_s"]) == (worst["index"], worst["at_s"])
    signals = signals_of_row(row["signals"])
    assert signals["view.max"] == worst["nsfw_score"] >= row["nsfw_score"] and signals["view.closer"] == 1
    assert not any("view.closer" in signals_of_row(rows[name]["signals"]) for name in ("short.gif", "still.png"))
    assert record.media is not None
    cost = record.media["animation"]
    assert (cost.objects, cost.closer, cost.frames, cost.closer_frames) == (2, 1, 23, 20) and cost.closer_s > 0
    assert dict(describe_effects(record))["closer"].startswith("1 object looked at again, in 20 frames, ")
    assert set(record.model_times) == {"classify"}
    assert list(verify(run_of(out, "1"))) == []


@pytest.mark.parametrize("kind", ["illegal", "block"])
def test_a_known_frame_is_found_by_a_second_look(tmp_path: Path, kind: str) -> None:
    """A frame of a bank that only a second look comes to is found as any other: which one it is, and when; of what is
    illegal, no row has a score that was not scored before, and a later night finds it by the hashes that are kept."""
    media, looks = tmp_path / "media", {"views": {"most": 4, "closer": 3, "spike": 0.0}}
    save(media / "long.gif", frames(*range(20)), duration=100)
    night(media, tmp_path / "out", "1", **looks)
    known = next(view for view in read(tmp_path / "out", "1")[1]["long.gif"] if view["reason"] == "spike")
    bank = tmp_path / "bank.txt"
    bank.write_text(f"pdq {known['pdq']}\n")
    banks = {"banks": {"known": {"uri": str(bank), "kind": kind}}}
    for place, run_id in (("out", "2"), ("other", "1")):
        night(media, tmp_path / place, run_id, **looks, **banks)
        rows, views = read(tmp_path / place, run_id)
        row = rows["long.gif"]
        assert (row["match_kind"], row["match_view"], row["match_at_s"]) == (kind, known["index"], known["at_s"])
        assert row["match_share"] == pytest.approx(1 / 7)
        assert row["views"] == len(views["long.gif"]) == 7 and list(verify(run_of(tmp_path / place, run_id))) == []
    assert (row["nsfw_score"] is None) == (kind == "illegal")
    assert signals_of_row(row["signals"])["view.closer"] == 1


def test_a_reviewer_is_shown_what_a_second_look_found(tmp_path: Path) -> None:
    """The worst frames are drawn, also those that a first look does not come to, and nothing else is."""
    media, out = tmp_path / "media", tmp_path / "out"
    save(media / "long.gif", frames(*range(20)), duration=100)
    sections: Any = {"views": {"most": 4, "closer": 6, "spike": 0.0}}
    night(media, out, "1", **sections)
    uri = str(media / "long.gif")
    scores = scores_of_views(run_of(out, "1"), [uri])
    worst = worst_of(scores)
    assert len(scores[uri]) == 10 and len(worst[uri]) == 6
    config = ScanConfig.load(None, {"source": {"uris": [str(media)]}, "out": str(out), **sections})
    content = Content(uri, hashlib.sha256((media / "long.gif").read_bytes()).hexdigest())
    [drawn] = Artist(config, StorageConfig()).draw([content], worst)
    assert sorted(worst[uri]) == [view.index for view in drawn.views]


def test_a_second_look_is_of_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is another one by then keeps the row of its first look, which says so; one that is gone does, too."""
    media, out = tmp_path / "media", tmp_path / "out"
    for name in ("changed.gif", "gone.gif", "still.png"):
        save(media / name, frames(*range(10 if name.endswith("gif") else 1)), duration=100)
    score = pipeline.ModelChain.__call__

    def then_change(chain: pipeline.ModelChain, rows: Any) -> Any:
        save(media / "changed.gif", frames(*range(50, 60)), duration=100)
        (media / "gone.gif").unlink(missing_ok=True)
        return score(chain, rows)

    monkeypatch.setattr(pipeline.ModelChain, "__call__", then_change)
    record = night(media, out, "1", views={"most": 4, "spike": 0.0}).record
    rows, views = read(out, "1")
    for name in ("changed.gif", "gone.gif"):
        assert (rows[name]["status"], rows[name]["error"], len(views[name])) == ("ok", None, 4)
        assert signals_of_row(rows[name]["signals"])["view.closer"] == 0
    assert record.media is not None and record.media["animation"].closer == 1
    assert list(verify(run_of(out, "1"))) == []


def test_pictures_in_the_band_are_cut(tmp_path: Path) -> None:
    """With tiles, a small picture whose score lies in the band gets them in a second look; one beside it has one view."""
    media, out = tmp_path / "media", tmp_path / "out"
    save(media / "still.png", [one.resize((200, 150)) for one in frames(6)])
    night(media, out, "1", views={"tiles": True, "band": [0, 1]})
    rows, views = read(out, "1")
    assert [view["reason"] for view in views["still.png"]] == ["first", *["tile"] * 6]
    night(media, out, "2", views={"tiles": True, "band": [0.99, 1]})
    beside, _ = read(out, "2")
    assert beside["still.png"]["views"] == 1
    assert rows["still.png"]["nsfw_score"] >= beside["still.png"]["nsfw_score"] - 1e-6


@pytest.mark.long
def test_other_settings_of_views_make_scores_stale(media: Path, tmp_path: Path) -> None:
    """With `views.most: 1` the first frame alone counts, and a night with another setting reads again what has several;
    a picture has one view whatever is asked of others, and is read again where tiles are asked for."""
    night(media, tmp_path / "out", "1", views={"most": 1})
    rows, views = read(tmp_path / "out", "1")
    assert views == {} and {row["views"] for row in rows.values()} == {1}
    second = night(media, tmp_path / "out", "2").record
    assert second.balance.carried == 1 and len(read(tmp_path / "out", "2")[1]) == 3
    assert read(tmp_path / "out", "2")[0]["still.png"]["carried_from"] == "1"
    assert [one.name for one in second.differences or ()] == ["views.most"]
    assert night(media, tmp_path / "out", "3", views={"tiles": True}).record.balance.carried == 0


def test_a_view_that_is_gone_is_found(media: Path, tmp_path: Path) -> None:
    """Whoever takes a row out of `views/` and writes the digests anew is told of by the count."""
    out = tmp_path / "out"
    night(media, out, "1")
    folder = out / "runs" / "1"
    [path] = folder.glob("views/*.parquet")
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    data = path.read_bytes()
    record = json.loads((folder / "run.json").read_text())
    for file in record["files"]:
        if file["path"].startswith("views/"):
            file |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "rows": table.num_rows - 1}
    (folder / "run.json").write_text(json.dumps(record))
    assert any("1 objects have other numbers of rows in views/" in finding.text for finding in verify(run_of(out, "1")))


@pytest.mark.long
def test_a_flat_beginning_settles_nothing(tmp_path: Path) -> None:
    """A filter that settles pictures of one colour looks at all views: what begins flat and goes on is scored."""
    white = Image.new("RGB", (200, 150), "white")
    save(tmp_path / "media" / "hidden.gif", [white, *(one.resize((200, 150)) for one in frames(1))], duration=100)
    save(tmp_path / "media" / "flat.png", [white])
    checkpoint = make_vit(tmp_path / "vit")
    sections = {"model": {"uri": str(checkpoint)}, "cascade": {"enabled": True, "audit_sample": 0.0, "threshold": 0.0}}
    night(tmp_path / "media", tmp_path / "out", "1", **sections)
    rows, _ = read(tmp_path / "out", "1")
    assert {name: row["filtered_by"] for name, row in rows.items()} == {"hidden.gif": None, "flat.png": "flat"}


@pytest.mark.long
def test_a_known_frame_is_found_wherever_it_is(media: Path, tmp_path: Path) -> None:
    """An illegal frame within an animation or a page: the row says which one it is and when it is shown, no model sees
    the object, and the store remembers it, also without the bank. A blocked frame leaves the others to the model."""
    out, banks = tmp_path / "out", {}
    night(media, out, "1")
    rows, views = read(out, "1")
    for name, of in {"csam": views["moving.gif"][1], "ads": views["pages.tiff"][1]}.items():
        path = tmp_path / f"{name}.txt"
        path.write_text(f"pdq {of['pdq']}\n")
        banks[name] = {"uri": str(path), "kind": "illegal" if name == "csam" else "block"}
    shown = ("match_bank", "match_view", "match_at_s", "match_share", "match_entry_share", "decision")
    expected = {
        "moving.gif": ("csam", 1, 0.1, pytest.approx(1 / 3), 1.0, "escalate"),
        "copy.gif": ("csam", 1, 0.1, pytest.approx(1 / 3), 1.0, "escalate"),
        "pages.tiff": ("ads", 1, None, 0.5, 1.0, "block"),
        "still.png": (None, None, None, None, None, rows["still.png"]["decision"]),
    }
    night(media, out, "2", banks=banks)  # carried over, and matched by the hashes of views that the first night kept
    night(media, tmp_path / "other", "2", banks=banks)  # read and looked at
    for place in (out, tmp_path / "other"):
        rows, _ = read(place, "2")
        assert {name: tuple(row[one] for one in shown) for name, row in rows.items()} == expected
    assert {name: row["nsfw_score"] is None for name, row in rows.items()} == {
        "moving.gif": True,
        "copy.gif": True,
        "pages.tiff": False,
        "still.png": False,
    }
    [escalated] = (tmp_path / "other" / "runs" / "2").glob("escalations/*.parquet")
    assert pq.read_table(escalated)["match_view"].to_pylist() == [1, 1]
    for run_id, sections in {"3": {}, "4": {"banks": banks, "previous": {"reuse": False}}}.items():
        record = night(media, tmp_path / "other", run_id, **sections).record
        rows, _ = read(tmp_path / "other", run_id)
        assert rows["moving.gif"]["match_view"] == 1 and rows["moving.gif"]["decision"] == "escalate", run_id
        assert rows["moving.gif"]["nsfw_score"] is None and record.known_illegal.released == 0
    Path(banks["csam"]["uri"]).write_text("pdq " + "0f" * 32 + "\n")
    night(media, tmp_path / "other", "5", banks=banks)
    rows, _ = read(tmp_path / "other", "5")
    assert rows["moving.gif"]["match_kind"] is None and rows["moving.gif"]["nsfw_score"] is not None
