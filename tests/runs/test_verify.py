"""Whatever happens to a committed run is found and named; a run that nothing happened to has no finding."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.runs import plan as planning
from nsfwscan.runs.run import Run
from nsfwscan.runs.verify import verify
from nsfwscan.storage.store import Store
from tests.runs.rows import Row, begun, finished, scanned, staged_row

Record = dict[str, Any]


def night(folder: Path, run_id: str, tags: dict[str, str], mode: str) -> None:
    """A scan of the objects of a folder, listed by a manifest; each is flagged wrongly, and copied."""
    media = folder / "media"
    media.mkdir(exist_ok=True)
    listed = [{"uri": str(media / name), "etag": tag, "truth": "neutral"} for name, tag in tags.items()]
    manifest = folder / "listed.jsonl"
    manifest.write_text("".join(json.dumps({**row, "size": 3}) + "\n" for row in listed))
    for name, tag in tags.items():
        (media / name).write_text(tag + name)

    def row(uri: str) -> Row:
        data = Path(uri).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        made = staged_row(uri, nsfw_score=0.9, truth="neutral", sha256=digest, etag=tags[Path(uri).name])
        return made if Path(uri).name != "bad" else staged_row(uri, status="decode_error", etag=tags["bad"])

    scanned(
        manifest, folder / "out", row, run_id=run_id, report={"mode": mode, "save_images": True, "max_error_rate": 1}
    )


@pytest.fixture(scope="module", params=["snapshot", "delta"])
def two_nights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two committed runs in ranges of four objects; on the second night one was changed, one new, and one gone."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "RANGE_ROWS", 4)
        tags = {**{f"{i}.jpg": "v1" for i in range(9)}, "bad": "v1"}
        night(folder, "first", tags, "snapshot")
        tags.pop("8.jpg")
        night(folder, "second", {**tags, "3.jpg": "v2", "new.jpg": "v1"}, request.param)
    return folder


@pytest.fixture
def out(two_nights: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    copytree(two_nights / "out", tmp_path / "out")
    return tmp_path / "out"


def findings(out: Path, run_id: str = "second") -> list[str]:
    return [str(finding) for finding in verify(Run(Store.at(str(out), StorageConfig()), run_id))]


def folder_of(out: Path, run_id: str = "second") -> Path:
    return out / "runs" / run_id


def one(out: Path, pattern: str) -> Path:
    """Return the first file of the second run that matches."""
    return sorted(folder_of(out).glob(pattern))[0]


def edit(out: Path, change: Callable[[Record], Any], run_id: str = "second") -> None:
    """Change `run.json`."""
    path = folder_of(out, run_id) / "run.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def forge(out: Path, path: Path, table: pa.Table | bytes) -> None:
    """Put other rows into a file, and record them as if they had been committed; whoever does that is thorough."""
    if isinstance(table, bytes):
        path.write_bytes(table)
    else:
        pq.write_table(table, path)
    data, name = path.read_bytes(), str(path.relative_to(folder_of(out)))

    def record(found: Record) -> None:
        [file] = [file for file in found["files"] if file["path"] == name]
        file.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        if isinstance(table, pa.Table):
            file["rows"] = table.num_rows

    edit(out, record)


# --- nothing is wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run_id", ["first", "second"])
def test_an_intact_run(out: Path, run_id: str) -> None:
    """A run that is as it was committed has no finding, first or second night, snapshot or delta; nothing is written."""
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert findings(out, run_id) == []
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_the_nights_are_what_they_should_be(two_nights: Path) -> None:
    """What the tests damage is there: several parts, copies of images, carried rows and changes."""
    record = json.loads((folder_of(two_nights / "out") / "run.json").read_text())
    assert record["plan"]["actions"] == {"carried": 8, "changed": 1, "new": 1}
    changes = record["changes"]
    assert changes.pop("causes") == {"listing": 2, "content": 1}
    assert {name: count for name, count in changes.items() if count} == {"deleted": 1, "newly_flagged": 1, "content": 1}
    kinds = [file["path"].split("/")[0] for file in record["files"]]
    is_delta = record["config"]["report"]["mode"] == "delta"
    assert (kinds.count("report"), kinds.count("changes")) == (2 if is_delta else 3, 3)
    assert len(list(folder_of(two_nights / "out").glob("false_positives/images/*"))) == 2


# --- files ----------------------------------------------------------------------------------------------------------

KINDS = ["report/*", "listing/part-*", "listing/carried-*", "changes/*", "false_positives/*.parquet"]


@pytest.mark.parametrize("pattern", [*KINDS, "plan.json", "summary.html"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "longer", "absent", "empty"])
def test_a_damaged_file(out: Path, pattern: str, damage: str) -> None:
    """A byte that flipped, a file that is cut, longer, empty or gone: each is named, and says what is there instead."""
    path = one(out, pattern)
    data = path.read_bytes()
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    path.write_bytes({"flipped": flipped, "cut": data[:-1], "longer": data + b" "}.get(damage, b""))
    if damage == "absent":
        path.unlink()
    name = str(path.relative_to(folder_of(out)))
    [finding] = findings(out)
    if damage == "absent":
        assert finding == f"{name}: absent"
    else:
        there = path.read_bytes()
        assert finding == (
            f"{name}: {len(there):,} bytes with SHA-256 {hashlib.sha256(there).hexdigest()}, "
            f"not {len(data):,} with {hashlib.sha256(data).hexdigest()}"
        )


def test_every_damaged_file_is_named(out: Path) -> None:
    """One finding hides no other."""
    damaged = [one(out, pattern) for pattern in KINDS]
    for path in damaged:
        path.write_bytes(b"")
    assert [finding.split(": ")[0] for finding in findings(out)] == [
        str(path.relative_to(folder_of(out))) for path in sorted(damaged, key=lambda path: recorded_at(out, path))
    ]


def recorded_at(out: Path, path: Path) -> int:
    files = json.loads((folder_of(out) / "run.json").read_text())["files"]
    return [file["path"] for file in files].index(str(path.relative_to(folder_of(out))))


@pytest.mark.parametrize("folder", ["report", "false_positives", "changes"])
def test_a_stranger_among_the_files(out: Path, folder: str) -> None:
    """A file that no record names, which a glob would read, is named; a write that was cut off is none."""
    copy = folder_of(out) / folder / "part-00000-stranger.parquet"
    copy.write_bytes(one(out, f"{folder}/*.parquet").read_bytes())
    (folder_of(out) / folder / ".tmp-0123").write_bytes(b"half")
    [finding] = findings(out)
    assert finding.startswith(f"{folder}/part-00000-stranger.parquet: named by no record")


def test_a_listing_of_a_cut_off_plan_is_no_stranger(out: Path) -> None:
    """An attempt that was killed while it planned leaves a listing that nobody reads; that is no damage."""
    (folder_of(out) / "listing" / "part-00000-other.parquet").write_bytes(b"PAR1")
    assert findings(out) == []


@pytest.mark.parametrize("damage", ["other", "absent"])
def test_a_damaged_copy_of_an_image(out: Path, damage: str) -> None:
    """The copy of a false positive is the image that was scored, or is named."""
    path = one(out, "false_positives/images/*")
    path.write_bytes(b"another")
    if damage == "absent":
        path.unlink()
    [finding] = findings(out)
    what = "absent" if damage == "absent" else "not the image that was scored"
    assert finding == f"{path.relative_to(folder_of(out))}: {what}"


# --- rows -----------------------------------------------------------------------------------------------------------


def without(table: pa.Table) -> pa.Table:
    return table.slice(1)


def doubled(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table.slice(0, 1)])


def invented(table: pa.Table) -> pa.Table:
    return table.set_column(0, table.schema.field(0), pa.array(["/invented", *table["uri"].to_pylist()[1:]]))


def replaced(table: pa.Table, column: str, value: Any) -> pa.Table:
    field = table.schema.field(column)
    values = [value, *table[column].to_pylist()[1:]]
    return table.set_column(table.schema.get_field_index(column), field, pa.array(values, field.type))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without, ["1 listed objects have no row, e.g. '"]),
        (doubled, ["1 rows have no listed object, e.g. '"]),
        (invented, ["1 listed objects have no row, e.g. '", "1 rows have no listed object, e.g. '/invented'"]),
    ],
)
def test_rows_that_are_not_the_listing(out: Path, change: Callable[[pa.Table], pa.Table], words: list[str]) -> None:
    """A row that was removed, doubled or invented is found although the file's digest was recorded anew."""
    path = one(out, "report/*")
    number = int(path.name.split("-")[1])
    forge(out, path, change(pq.read_table(path)))
    found = findings(out)
    for word in words:
        assert [f for f in found if f.startswith(f"range {number}: {word}")], found
    if change is not invented:
        assert [f for f in found if f.startswith("the balance is ")], found


def test_a_row_that_is_not_recorded(out: Path) -> None:
    """A file that has another number of rows than was recorded says so, even with the right digest."""
    edit(out, lambda record: record["files"][0].update(rows=77))
    [finding] = findings(out)
    assert finding.endswith(" rows, not 77") and finding.startswith("report/part-00000-")


def test_a_part_that_is_no_parquet(out: Path) -> None:
    """Bytes that are no Parquet are named, although their digest was recorded."""
    path = one(out, "report/*")
    forge(out, path, b"no Parquet")
    [finding] = findings(out)
    assert finding == f"{path.relative_to(folder_of(out))}: no Parquet file, although its SHA-256 is as recorded"


@pytest.mark.parametrize("value", ["lost", None])
def test_a_row_in_no_place_of_the_balance(out: Path, value: str | None) -> None:
    """A row that is accounted as nothing there is, is named."""
    path = one(out, "report/*")
    forge(out, path, replaced(pq.read_table(path), "accounted_as", value))
    found = findings(out)
    assert f"rows are accounted as {value}, which is no place in a balance" in found
    assert any(f.startswith("the balance is ") for f in found)


def test_a_changed_decision(out: Path) -> None:
    """A decision that was changed is not the policy's; in a snapshot it does not fit the counts either, but a delta does
    not hold all that was counted."""
    path = one(out, "report/*")
    forge(out, path, replaced(pq.read_table(path), "decision", "allow"))
    is_delta = json.loads((folder_of(out) / "run.json").read_text())["config"]["report"]["mode"] == "delta"
    found = findings(out)
    assert found[0].startswith("range ")
    assert (
        "1 rows are not decided as the policy decides them" in found[0] and "decision 'allow', not 'block'" in found[0]
    )
    assert [text.startswith("by decision there are {'allow': 1, ") for text in found[1:]] == [True] * (not is_delta)


def test_a_part_of_no_range(out: Path) -> None:
    """A file that was put into the record with its digest, but belongs to no part of the listing, is named."""
    data = one(out, "report/*").read_bytes()
    extra = {"path": "report/extra.parquet", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder_of(out) / "report" / "extra.parquet").write_bytes(data)
    edit(out, lambda record: record["files"].append({**extra, "rows": pq.read_metadata(one(out, "report/*")).num_rows}))
    assert findings(out) == ["report/extra.parquet: named in run.json, but the part of no range of the listing"]


def test_a_file_that_is_named_twice(out: Path) -> None:
    """A reader that follows the record would read its rows twice."""
    edit(out, lambda record: record["files"].append(record["files"][0]))
    [finding] = findings(out)
    assert finding.startswith("run.json is broken: it names report/part-") and finding.endswith(" twice")


# --- the record -----------------------------------------------------------------------------------------------------


def setting(*path: str | int, to: Any) -> Callable[[Record], None]:
    def change(record: Record) -> None:
        inner: Any = record
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (setting("balance", "listed", to=11), "the balance is 10 listed = 2 scored"),
        (setting("balance", "errored", to=1), "the balance is 10 listed = 2 scored"),
        (setting("plan", "distinct", to=9), "the plan is {"),
        (setting("plan", "actions", "carried", to=9), "the plan is {"),
        (setting("changes", "deleted", to=0), "the changes are {"),
        (setting("previous_runs", to=[]), "the previous runs are ['first"),
        (setting("run_id", to="other"), "run.json is broken: it is that of run other"),
        (setting("parent", to=None), "the plan goes on from run first, but run.json says None"),
        (
            setting("parent", "sha256", to="00" * 32),
            "run first, which this one goes on from, has another run.json than then",
        ),
        (setting("files", to=[]), "the changes are {"),
        (setting("files", to=None), "run.json is broken: it is not what a commit writes (files: Input should be"),
        (setting("config", to={}), "run.json is broken: it is not what a commit writes (config.source: Field required"),
        (lambda record: record.pop("balance"), "run.json is broken: it is not what a commit writes (balance: Field"),
        (lambda record: record.clear(), "run.json is of version 1, written by an older nsfwscan"),
    ],
)
def test_an_edited_record(out: Path, change: Callable[[Record], None], words: str) -> None:
    """A count or a name that was changed in `run.json` is found against the files."""
    edit(out, change)
    found = findings(out)
    assert any(finding.startswith(words) for finding in found), found


def test_edited_counts(out: Path) -> None:
    """The counts of a snapshot's summary are those of its rows; a delta's are of more than it holds."""
    edit(out, setting("summary", "status", to={"ok": 10}))
    is_delta = json.loads((folder_of(out) / "run.json").read_text())["config"]["report"]["mode"] == "delta"
    said = "by status there are {'ok': 9, 'decode_error': 1}, but run.json says {'ok': 10}"
    assert sorted(findings(out)) == ([] if is_delta else [said])


@pytest.mark.parametrize("data", [None, b"", b"{", b"[1]"])
def test_a_lost_record(out: Path, data: bytes | None) -> None:
    """Without a record nothing can be checked, and that is said."""
    path = folder_of(out) / "run.json"
    path.unlink() if data is None else path.write_bytes(data)
    [finding] = findings(out)
    assert finding.startswith("run.json is absent" if data is None else "run.json is broken")


def test_a_commit_without_an_end(out: Path) -> None:
    """A run whose `_SUCCESS` is gone is whole, but not open to readers."""
    (folder_of(out) / "_SUCCESS").unlink()
    [finding] = findings(out)
    assert finding.startswith("_SUCCESS is absent: the commit was cut off at its very end")


def test_a_run_that_was_never_committed(tmp_path: Path) -> None:
    """A run in the making is no damaged one, but none that can be verified."""
    run, plan = begun(tmp_path, ["/a"])
    finished(run, plan.shards)
    [finding] = list(verify(run))
    assert "the run was not committed" in finding.text


def test_a_plan_that_was_forged(out: Path) -> None:
    """A plan that is no plan is named, although its digest was recorded."""
    for text in (b"{", b"{}", b'{"plan": {"ranges": 1}}'):
        forge(out, folder_of(out) / "plan.json", text)
        [finding] = findings(out)
        assert finding.startswith("a file that run.json names is not what a commit writes: BrokenRecord")


# --- the run before -------------------------------------------------------------------------------------------------


def test_the_run_before_was_edited(out: Path) -> None:
    """A record that was changed after its successor was committed shows in the successor, whatever it says now."""
    edit(out, lambda record: record, "first")  # nothing but its white space
    assert findings(out) == ["run first, which this one goes on from, has another run.json than then"]


def test_the_run_before_is_gone(out: Path) -> None:
    """A snapshot stands without the run before; that its record cannot be looked up any more is said."""
    rmtree(folder_of(out, "first"))
    assert findings(out) == ["run first, which this one goes on from, is gone: its rows may be here, its record is not"]
