"""The second night reads what is new or changed, carries the rest, and says what became of the store since."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from nsfwscan.config import ScanConfig
from nsfwscan.errors import StoreError, TooManyDeleted
from nsfwscan.execution.deadline import Deadline
from nsfwscan.execution.inline import run_inline
from nsfwscan.execution.pipeline import Job
from nsfwscan.reports.progress import Silent
from nsfwscan.runs import plan as planning
from nsfwscan.runs.plan import Shard, ShardReader
from nsfwscan.runs.staging import ShardResult
from nsfwscan.schema import REPORT_SCHEMA
from nsfwscan.workflows.scan import ScanResult, run_scan
from tests.checkpoints import make_vit
from tests.hostile_format import PLUGINS, hostile

HOUR_S = 3600


class Looking:
    """Runs shards inline, and remembers the names of the objects that were looked at."""

    def __init__(self) -> None:
        self.at: set[str] = set()

    def __call__(self, job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
        read = ShardReader(job.run.folder)
        for shard in shards:
            self.at |= {os.path.basename(uri) for uri in read(shard)["uri"].to_pylist()}
        yield from run_inline(job, shards, deadline)


def picture(path: Path, seed: int, age_s: float = HOUR_S, size: tuple[int, int] = (64, 48)) -> None:
    """A small picture whose file was last changed some time ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(path, "PNG")
    backdate(path, age_s)


def backdate(path: Path, age_s: float = HOUR_S) -> None:
    os.utime(path, (time.time() - age_s,) * 2)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """Ten pictures, a text and a broken picture, all an hour old."""
    folder = tmp_path / "media"
    for number in range(10):
        picture(folder / f"{number}.png", number)
    (folder / "notes.txt").write_text("no image")
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:200])
    for name in ("notes.txt", "broken.png"):
        backdate(folder / name)
    return folder


def night(media: Path | list[Path], out: Path, run_id: str, **sections: Any) -> tuple[ScanResult, set[str]]:
    """One scan; and the names of what it looked at."""
    uris = [str(uri) for uri in (media if isinstance(media, list) else [media])]
    source = {"uris": uris, **sections.pop("source", {})}
    report = {"max_error_rate": 1.0, **sections.pop("report", {})}
    config = ScanConfig.load(None, {"source": source, "out": str(out), "report": report, **sections})
    engine = Looking()
    return run_scan(config, run_id, engine, Silent()), engine.at


def report(result: ScanResult, kind: str = "report") -> dict[str, dict[str, Any]]:
    """Return the committed rows by name."""
    files = [f.path for f in result.record.files if f.path.startswith(kind + "/")]
    rows = [row for path in files for row in pq.read_table(f"{result.uri}/{path}").to_pylist()]
    assert len({row["uri"] for row in rows}) == len(rows)
    return {os.path.basename(row["uri"]): row for row in rows}


def _timeless(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the rows without what two scans of the same store tell differently."""
    return {name: {k: v for k, v in row.items() if k != "scanned_at"} for name, row in rows.items()}


ALL = {*(f"{n}.png" for n in range(10)), "notes.txt", "broken.png"}


def test_only_new_and_changed_objects_are_read(media: Path, tmp_path: Path) -> None:
    """What did not change is carried with its scores and the run that looked at it; the report is whole and balances."""
    out = tmp_path / "out"
    first, looked = night(media, out, "1")
    assert looked == ALL and first.record.previous_runs == ()
    picture(media / "3.png", 33, age_s=60)
    picture(media / "new.png", 44)
    (media / "7.png").unlink()
    second, looked = night(media, out, "2")
    assert looked == {"3.png", "new.png"}
    assert second.record.plan.actions == {"carried": 10, "changed": 1, "new": 1}
    assert (second.record.balance.listed, second.record.balance.carried, second.record.balance.scored) == (12, 10, 2)
    before, rows = report(first), report(second)
    assert set(rows) == (ALL | {"new.png"}) - {"7.png"}
    told = {"run_id", "carried_from", "accounted_as"}
    for name in ALL - {"3.png", "7.png"}:
        assert {k: v for k, v in rows[name].items() if k not in told} == {
            k: v for k, v in before[name].items() if k not in told
        }
        assert (rows[name]["run_id"], rows[name]["carried_from"], rows[name]["accounted_as"]) == ("2", "1", "carried")
    assert rows["3.png"]["carried_from"] is None and rows["3.png"]["sha256"] != before["3.png"]["sha256"]
    third, looked = night(media, out, "3")
    assert looked == set() and report(third)["0.png"]["carried_from"] == "1"
    assert report(third)["new.png"]["carried_from"] == "2"
    assert third.record.parent.run_id == "2"


@pytest.mark.parametrize("range_rows", [pytest.param(1, marks=pytest.mark.long), 5])
def test_the_nights_are_the_same_in_any_ranges(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, range_rows: int
) -> None:
    """However finely the listing and the earlier reports are cut, the same rows are carried and the same are gone."""
    night(media, tmp_path / "whole", "1")
    monkeypatch.setattr(planning, "RANGE_ROWS", range_rows)
    cut, _ = night(media, tmp_path / "cut", "1")
    assert len(cut.report_files) == len(ALL) // range_rows + (len(ALL) % range_rows > 0)
    for name in ("0.png", "5.png", "notes.txt"):
        (media / name).unlink()
    picture(media / "4.png", 9, age_s=60)
    monkeypatch.setattr(planning, "RANGE_ROWS", 4)
    finely, looked = night(media, tmp_path / "cut", "2")
    wholly, also_looked = night(media, tmp_path / "whole", "2")
    assert looked == also_looked == {"4.png"}
    assert [_timeless(report(finely)), _timeless(report(finely, "changes"))] == [
        _timeless(report(wholly)),
        _timeless(report(wholly, "changes")),
    ]
    assert finely.record.changes == wholly.record.changes
    assert finely.record.changes.deleted == 3
    assert {n for n, r in report(finely, "changes").items() if r["change"] == "deleted"} == {
        "0.png",
        "5.png",
        "notes.txt",
    }


def test_an_object_of_the_same_size_and_time_is_the_same(media: Path, tmp_path: Path) -> None:
    """Without an etag, size and time of modification say whether an object changed; either alone is enough to differ."""
    night(media, tmp_path / "out", "1")
    backdate(media / "1.png", HOUR_S / 2)  # the same bytes, another time
    with (media / "2.png").open("ab") as file:
        file.write(b"more")
    backdate(media / "2.png")
    _, looked = night(media, tmp_path / "out", "2")
    assert looked == {"1.png", "2.png"}


def test_a_file_changed_just_before_it_was_read_is_read_again(media: Path, tmp_path: Path) -> None:
    """A time of modification within its own resolution of the read proves nothing: the file could have changed after."""
    os.utime(media / "1.png", (time.time() + 60,) * 2)
    night(media, tmp_path / "out", "1")
    _, looked = night(media, tmp_path / "out", "2")
    assert looked == {"1.png"}


def test_errors_of_the_last_night_are_tried_again(media: Path, tmp_path: Path) -> None:
    """What could not be read may be readable tonight; what is no image, or a broken one, stays so while unchanged."""
    os.symlink(media / "nowhere", media / "dangling.png")
    first, _ = night(media, tmp_path / "out", "1")
    assert report(first)["dangling.png"]["status"] == "not_found"
    second, looked = night(media, tmp_path / "out", "2")
    assert looked == {"dangling.png"} and second.record.plan.actions == {"carried": 12, "failed": 1}
    picture(media / "nowhere", 5)
    third, looked = night(media, tmp_path / "out", "3")
    assert looked == {"dangling.png", "nowhere"} and report(third)["dangling.png"]["status"] == "ok"


def policy(folder: Path, name: str, threshold: float) -> str:
    """A policy that flags from a score on."""
    rules = [{"name": "high", "when": f"nsfw_score >= {threshold}", "decision": "block"}]
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "rules": rules, "otherwise": {"decision": "allow"}}))
    return str(path)


@pytest.mark.long
def test_poison_is_tried_three_nights(media: Path, tmp_path: Path) -> None:
    """What crashes the decoder is tried in three runs, then carried as it is, until its bytes or a limit change."""
    bad = media / "bad.hostile"
    bad.write_bytes(hostile("segv"))
    backdate(bad)
    plugins = {"decode": {"plugins": PLUGINS}}
    tries = []
    for number in range(5):
        result, looked_at = night(media, tmp_path / "out", str(number), **plugins)
        row = report(result)[bad.name]
        assert (row["status"], row["decision"]) == ("crashed", "undetermined")
        tries.append((bad.name in looked_at, row["failed_decodes"]))
    assert tries == [(True, 1), (True, 2), (True, 3), (False, 3), (False, 3)]
    longer = {"decode": {"plugins": PLUGINS, "timeout_s": 21.0}}
    assert bad.name in night(media, tmp_path / "out", "longer", **longer)[1]
    bad.write_bytes(hostile("abort"))
    backdate(bad)
    result, looked_at = night(media, tmp_path / "out", "changed", **longer)
    row = report(result)[bad.name]
    assert bad.name in looked_at and row["failed_decodes"] == 1


@pytest.mark.parametrize("mode", ["snapshot", "delta"])
def test_carried_rows_are_decided_under_todays_policy(media: Path, tmp_path: Path, mode: str) -> None:
    """A stricter policy flags carried rows without reading them, and the report says which are newly flagged."""
    strict, lax = policy(tmp_path, "strict", 0.0), policy(tmp_path, "lax", 1.1)
    first, _ = night(media, tmp_path / "out", "1", policy=lax)
    second, looked = night(media, tmp_path / "out", "2", policy=strict, report={"mode": mode})
    assert looked == set()
    pictures = {f"{n}.png" for n in range(10)}
    assert {n for n, r in report(second).items() if r["decision"] == "block"} == pictures
    assert set(report(second)) == (ALL if mode == "snapshot" else pictures)
    changes = report(second, "changes")
    assert {n: (r["change"], r["previous_decision"], r["previous_run"]) for n, r in changes.items()} == dict.fromkeys(
        pictures, ("newly_flagged", "allow", "1")
    )
    third, _ = night(media, tmp_path / "out", "3", policy=lax)
    assert {r["change"] for r in report(third, "changes").values()} == {"cleared"}
    fourth, _ = night(media, tmp_path / "out", "4", policy=lax)
    assert report(fourth, "changes") == {} and fourth.record.changes.cleared == 0
    assert report(fourth)["0.png"]["carried_from"] == "1" and first.run_id == "1"


@pytest.mark.long
def test_a_changed_model_makes_exactly_the_scores_stale(media: Path, tmp_path: Path) -> None:
    """Another checkpoint rescans what has a score; what is no image is carried. The same weights elsewhere are the same."""
    out = tmp_path / "out"
    vit = make_vit(tmp_path / "vit", seed=1)
    night(media, out, "1")
    second, looked = night(media, out, "2", model={"uri": str(vit)})
    assert looked == {f"{n}.png" for n in range(10)} and second.record.plan.actions["stale"] == 10
    shutil.copytree(vit, tmp_path / "copy")
    _, looked = night(media, out, "3", model={"uri": str(tmp_path / "copy")})
    assert looked == set()
    _, looked = night(media, out, "4", model={"uri": str(vit), "dtype": "bfloat16"})
    assert looked == {f"{n}.png" for n in range(10)}


@pytest.mark.long
def test_changed_limits_make_exactly_what_they_touch_stale(media: Path, tmp_path: Path) -> None:
    """A limit that is lifted reads what was too large; one that is lowered looks again at what is over it now."""
    picture(media / "large.png", 1, size=(700, 700))
    out = tmp_path / "out"
    first, _ = night(media, out, "1", decode={"max_pixels": 400_000})
    assert report(first)["large.png"]["status"] == "too_large"
    second, looked = night(media, out, "2", decode={"max_pixels": 800_000})
    assert looked == {"large.png"} and report(second)["large.png"]["status"] == "ok"
    third, looked = night(media, out, "3", decode={"max_pixels": 400_000})
    assert looked == {"large.png"} and report(third)["large.png"]["status"] == "too_large"
    _, looked = night(media, out, "4", decode={"max_pixels": 400_000})
    assert looked == set()


def test_full_reads_all_and_goes_on_from_the_night_before(media: Path, tmp_path: Path) -> None:
    """With --full everything is read; what is gone is told, and the chain of runs goes on."""
    first, _ = night(media, tmp_path / "out", "1")
    (media / "7.png").unlink()
    picture(media / "3.png", 33, age_s=60)
    second, looked = night(media, tmp_path / "out", "2", previous={"reuse": False})
    assert looked == ALL - {"7.png"} and second.record.balance.carried == 0
    assert second.record.previous_runs == ("1",) and second.record.changes.deleted == 1
    data = Path(first.uri, "run.json").read_bytes()
    assert second.record.parent is not None
    assert (second.record.parent.run_id, second.record.parent.sha256) == ("1", hashlib.sha256(data).hexdigest())
    assert dict(second.record.plan.actions)["read_again"] >= 1 and dict(second.record.plan.actions)["changed"] == 1
    third, looked = night(media, tmp_path / "out", "3")
    assert looked == set() and third.record.previous_runs == ("2",)


@pytest.mark.long
def test_deltas_add_up_to_a_snapshot(media: Path, tmp_path: Path) -> None:
    """A delta holds what was looked at; newest first over the nights, deleted ones left out, they are the whole store."""
    out = tmp_path / "out"
    nights = [night(media, out, "1")[0]]
    picture(media / "3.png", 33, age_s=60)
    (media / "7.png").unlink()
    second, _ = night(media, out, "2", report={"mode": "delta"})
    assert set(report(second)) == {"3.png"}
    assert second.record.balance.listed == 11 and second.record.balance.carried == 10
    assert second.record.summary.rows == 11
    picture(media / "new.png", 5)
    third, looked = night(media, out, "3", report={"mode": "delta"})
    assert looked == {"new.png"} and third.record.previous_runs == ("2", "1")
    assert third.record.changes.deleted == 0  # it was told the night before
    fourth, looked = night(media, out, "4")
    assert looked == set() and fourth.record.previous_runs == ("3", "2", "1")
    live: dict[str, Any] = {}
    for result in (nights[0], second, third):
        live |= report(result)
    live.pop("7.png")
    told = {"run_id", "carried_from", "accounted_as", "cluster_size", "cluster_places"}
    assert {n: {k: v for k, v in r.items() if k not in told} for n, r in report(fourth).items()} == {
        n: {k: v for k, v in r.items() if k not in told} for n, r in live.items()
    }
    assert report(fourth)["3.png"]["carried_from"] == "2" and report(fourth)["new.png"]["carried_from"] == "3"


@pytest.mark.long
def test_objects_gone_are_told_of_the_listed_source_alone(media: Path, tmp_path: Path) -> None:
    """Neither another folder, nor a filter, nor a limit makes an object look deleted."""
    out, other = tmp_path / "out", tmp_path / "media2"
    picture(other / "x.png", 1)
    night([media, other], out, "1")
    (media / "1.png").unlink()
    for run_id, uris, source in [
        ("other", [other], {}),
        ("limited", [media], {"limit": 3}),
        ("filtered", [media], {"exclude": ["2*"]}),
    ]:
        result, _ = night(uris, out, run_id, source=source)
        assert result.record.changes.deleted == 0, run_id
    result, looked = night(media, out, "whole")
    assert looked == set() and set(report(result, "changes")) == {"1.png"}
    again, _ = night(media, out, "again")
    assert report(again, "changes") == {}


@pytest.mark.long
def test_a_night_that_misses_much_of_the_store_stops(tmp_path: Path) -> None:
    """More than a fifth of the known objects, and more than 20, are not listed any more: nothing is read or committed, the
    message has the numbers, and the same run id goes on once they are back, or when it is told to."""
    media, out = tmp_path / "many", tmp_path / "out"
    picture(media / "0.png", 0)
    for number in range(1, 60):
        os.link(media / "0.png", media / f"{number}.png")
    night(media, out, "1")
    away = tmp_path / "away"
    away.mkdir()
    for number in range(30):
        (media / f"{number}.png").rename(away / f"{number}.png")
    with pytest.raises(
        TooManyDeleted, match=r"30 of the 60 objects of run 1 are .* \(50.0%, over --max-deleted-rate 0.2\)"
    ):
        night(media, out, "2")
    assert TooManyDeleted.exit_code == 6 and not (out / "runs" / "2" / "plan.json").exists()
    for source in ({"limit": 5}, {"exclude": ["3*"]}):
        night(media, out, f"partial-{next(iter(source))}", source=source)
    told, _ = night(media, out, "told", report={"max_deleted_rate": 0.5})
    assert told.record.changes.deleted == 30
    for path in away.iterdir():
        path.rename(media / path.name)
    result, _ = night(media, out, "2")
    assert result.record.balance.listed == 60


def test_a_small_store_may_be_cleared_out(media: Path, tmp_path: Path) -> None:
    """Up to 20 objects may go without a word, unless a rate was asked for."""
    night(media, tmp_path / "out", "1")
    for number in range(9):
        (media / f"{number}.png").unlink()
    with pytest.raises(TooManyDeleted, match=r"9 of the 12 .* over --max-deleted-rate 0.1"):
        night(media, tmp_path / "out", "2", report={"max_deleted_rate": 0.1})
    result, _ = night(media, tmp_path / "out", "2")
    assert result.record.changes.deleted == 9


@pytest.mark.long
def test_the_last_row_of_several_runs_counts(media: Path, tmp_path: Path) -> None:
    """Where a part of the store was scanned since, its rows come from there, the others' from the older run."""
    out = tmp_path / "out"
    picture(media / "sub" / "s.png", 1)
    night(media, out, "1")
    picture(media / "sub" / "s.png", 2, age_s=60)
    night(media / "sub", out, "2")
    result, looked = night(media, out, "3")
    assert looked == set() and result.record.previous_runs == ("2", "1")
    assert {r["carried_from"] for n, r in report(result).items() if n != "s.png"} == {"1"}
    assert report(result)["s.png"]["carried_from"] == "2"


def test_a_manifest_of_another_night_goes_on_from_the_last(media: Path, tmp_path: Path) -> None:
    """Manifests whose names differ in their dates alone are nights of one source; what is not listed any more is gone."""
    out = tmp_path / "out"
    for date, names in (("2026-11-21", range(10)), ("2026-11-22", range(9))):
        rows = [
            {
                "uri": str(media / f"{n}.png"),
                "size": (media / f"{n}.png").stat().st_size,
                "etag": f"v{n}" if (n, date[-1]) != (4, "2") else "v4b",
            }
            for n in names
        ]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{date}.parquet")
    night(tmp_path / "2026-11-21.parquet", out, "1")
    result, looked = night(tmp_path / "2026-11-22.parquet", out, "2")
    assert looked == {"4.png"}
    assert set(report(result, "changes")) == {"9.png"}


def test_a_list_is_one_whatever_it_is_called(media: Path, tmp_path: Path) -> None:
    """A list without an ending carries and tells of its objects as one that is called `.csv` does."""
    listing, out = tmp_path / "tonight", tmp_path / "out"
    rows = [
        f"{media}/{n}.png;{os.path.getsize(media / f'{n}.png')};{os.path.getmtime(media / f'{n}.png')}"
        for n in range(5)
    ]
    listing.write_text("\n".join(["Path;Size;Modified_At", *rows[:4]]))
    _, looked_at = night(listing, out, "one")
    assert looked_at == {"0.png", "1.png", "2.png", "3.png"}
    listing.write_text("\n".join(["Path;Size;Modified_At", *rows[1:]]))
    second, looked_at = night(listing, out, "two")
    assert looked_at == {"4.png"}
    assert (second.record.balance.carried, second.record.changes.deleted) == (3, 1)
    assert second.record.config.source.lists == (str(listing),)


def test_truth_is_todays(media: Path, tmp_path: Path) -> None:
    """A judgement that came in since is in the carried row, and is counted."""
    night(media, tmp_path / "out", "1")
    truth = tmp_path / "truth.csv"
    truth.write_text(f"uri,truth\n{media / '1.png'},neutral\n")
    result, looked = night(media, tmp_path / "out", "2", source={"truth": str(truth)})
    assert looked == set() and report(result)["1.png"]["truth"] == "neutral"
    assert result.record.summary.truth.neutral == 1


def test_a_damaged_ledger_stops_the_run(media: Path, tmp_path: Path) -> None:
    """A carried row comes from a part that is what its run recorded, or the run is not committed."""
    first, _ = night(media, tmp_path / "out", "1")
    [part] = first.report_files
    table = pq.read_table(part)
    scores = pa.array([0.5] * table.num_rows, pa.float32())
    pq.write_table(table.set_column(table.schema.get_field_index("nsfw_score"), "nsfw_score", scores), part)
    with pytest.raises(StoreError, match=r"absent or damaged.*--full"):
        night(media, tmp_path / "out", "2")
    assert not (tmp_path / "out" / "runs" / "2" / "run.json").exists()
    result, _ = night(media, tmp_path / "out", "3", previous={"reuse": False})
    assert result.record.previous_runs == ()
    assert set(report(result)) == ALL and pq.read_schema(result.report_files[0]).equals(REPORT_SCHEMA)


def test_a_resumed_night_keeps_its_plan(media: Path, tmp_path: Path) -> None:
    """A second night that was stopped goes on from the runs that it was planned from, whatever was committed since."""
    out = tmp_path / "out"
    night(media, out, "1")
    picture(media / "3.png", 33, age_s=60)

    class Stopped(Looking):
        def __call__(self, job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
            raise KeyboardInterrupt
            yield

    config = ScanConfig.load(
        None, {"source": {"uris": [str(media)]}, "out": str(out), "report": {"max_error_rate": 1.0}}
    )
    with pytest.raises(KeyboardInterrupt):
        run_scan(config, "2", Stopped(), Silent())
    night(media, out, "between")
    engine = Looking()
    result = run_scan(config, None, engine, Silent(), resume=True)
    assert (result.run_id, engine.at) == ("2", {"3.png"})
    assert result.record.previous_runs == ("1",) and set(report(result)) == ALL
