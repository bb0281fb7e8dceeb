"""A listing has every object of its sources once each, whatever their names, or says what it could not see."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest

from nsfwscan.errors import ConfigError, SourceError
from nsfwscan.location import Location
from nsfwscan.storage.objects import fetch
from nsfwscan.warning import Warnings
from tests.permissions import unprivileged
from tests.sources.listings import LOCAL, fill, names_in, noticed, rows, tables, uris_in

# Local folders


def test_every_file_is_an_object(tmp_path: Path) -> None:
    """Hidden names, `_`-names, names without an extension and foreign ones are all listed, at any depth."""
    names = [".hidden/.a.jpg", "_SUCCESS", "_x/b", "README", "c.txt", "deep/er/still/d.JPG"]
    assert sorted(names_in(fill(tmp_path, *names))) == sorted(names)


def test_order_is_by_name_folder_by_folder(tmp_path: Path) -> None:
    """Two listings of one folder are alike."""
    fill(tmp_path, "b/2", "b/1", "a", "c")
    assert names_in(tmp_path) == names_in(tmp_path) == ["a", "b/1", "b/2", "c"]


def test_a_row_has_size_and_time_of_the_file(tmp_path: Path) -> None:
    """`size` in bytes and `modified_at` in UTC, to the microsecond; a local file has no version tag."""
    path = fill(tmp_path, "a.jpg") / "a.jpg"
    os.utime(path, ns=(0, 1_700_000_000_123_456_000))
    [row] = rows(tmp_path)
    moment = datetime(2023, 11, 14, 22, 13, 20, 123456, UTC)
    assert row == {
        "uri": str(path),
        "size": 5,
        "etag": None,
        "modified_at": row["modified_at"],
        "truth": None,
        "refused": None,
    }
    assert abs(row["modified_at"].replace(tzinfo=UTC) - moment) <= timedelta(microseconds=1)


@pytest.mark.parametrize(
    "name",
    [
        b"line\nbreak",
        b" ",
        b"100%25 real#1?.jpg",
        "写真 📷.jpg".encode(),
        b"caf\xe9.jpg",
        b"\xff\xfe",
        b"a\\b",
        b"\x01",
    ],
)
def test_any_name_is_listed_and_read_again(tmp_path: Path, name: bytes) -> None:
    """Newlines, percent signs, emoji and bytes that are no text: the listed URI is text and leads to the file."""
    with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
        file.write(name)
    [uri] = uris_in(tmp_path)
    assert fetch(Location.of(uri), LOCAL, max_bytes=100, timeout_s=1, attempts=1).data == name


def test_a_folder_whose_name_is_no_text_is_entered(tmp_path: Path) -> None:
    """Undecodable bytes in a folder's name concern all files in it."""
    folder = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    os.mkdir(folder)
    with open(os.path.join(folder, b"a.jpg"), "wb") as file:
        file.write(b"x")
    assert uris_in(tmp_path) == [f"file://{tmp_path}/caf%E9/a.jpg"]


def test_one_file_is_a_source(tmp_path: Path) -> None:
    """A source may be a file; its name, relative or absolute, decides nothing."""
    path = fill(tmp_path, "a.bin") / "a.bin"
    assert uris_in(path) == [str(path)]
    assert uris_in(f"file://{path}") == [str(path)]


def test_relative_sources_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are found again from any folder."""
    fill(tmp_path, "media/a.jpg")
    monkeypatch.chdir(tmp_path)
    assert uris_in("media") == uris_in("./media/") == [str(tmp_path / "media/a.jpg")]


def test_an_empty_folder_lists_nothing(tmp_path: Path) -> None:
    """Nothing is listed, and nothing raised: another source may have the objects."""
    assert tables(tmp_path) == []


# Links and what is no file


def test_linked_folders_are_entered_and_loops_are_not(tmp_path: Path) -> None:
    """A link to a folder is followed; one that leads back to where we are ends there, and listing ends."""
    fill(tmp_path / "elsewhere", "b.jpg")
    root = fill(tmp_path / "media", "a.jpg")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "self").symlink_to(root)
    (tmp_path / "elsewhere" / "up").symlink_to(root)
    assert names_in(root) == ["a.jpg", "linked/b.jpg"]


def test_where_a_link_leads_that_is_not_followed(tmp_path: Path) -> None:
    """To the system's places, and with `within` out of the sources: it is one refused row, of which nothing but the link is
    known."""
    fill(tmp_path / "elsewhere", "secret.jpg", "deep/x.jpg")
    root = fill(tmp_path / "media", "a.jpg", "own/b.jpg")
    links = {"file.jpg": tmp_path / "elsewhere/secret.jpg", "folder": tmp_path / "elsewhere", "zero": "/dev/zero"}
    links |= {"mem": "/proc/self/mem", "etc": "/etc", "inside": "own/b.jpg", "up": "../elsewhere"}
    for name, target in links.items():
        (root / name).symlink_to(target)
    (root / "gone").symlink_to(tmp_path / "nowhere")

    def refused(**options: Any) -> dict[str, dict[str, Any]]:
        listed = {os.path.relpath(row.pop("uri"), root): row for row in rows(root, **options)}
        found = {name: row for name, row in listed.items() if row["refused"]}
        assert {"a.jpg", "own/b.jpg", "inside"} <= listed.keys() - found.keys()
        assert all(row["size"] is None and row["modified_at"] is None for row in found.values())
        return found

    assert refused().keys() == {"zero", "mem", "etc"}
    assert refused()["etc"]["refused"] == (
        "not read: a symbolic link leads to /etc, which is the system's; --allow-source PREFIX allows more"
    )
    strict = refused(links="within")
    assert strict.keys() == {"file.jpg", "folder", "zero", "mem", "etc", "gone", "up"}
    assert strict["up"]["refused"] == (
        f"not read: a symbolic link leads to {tmp_path}/elsewhere, out of the sources; --allow-source PREFIX allows more"
    )
    assert refused(links="within", allow=[f"{tmp_path}/elsewhere"]).keys() == {"zero", "mem", "etc", "gone"}
    assert "folder/deep/x.jpg" in names_in(root, links="within", allow=[f"{tmp_path}/elsewhere"])
    both = uris_in(root, tmp_path / "elsewhere", links="within")
    assert "folder/deep/x.jpg" in [os.path.relpath(uri, root) for uri in both]


def test_a_source_may_be_a_link_itself(tmp_path: Path) -> None:
    """A person named it; what lies behind it is within it."""
    fill(tmp_path / "disk", "a.jpg")
    (tmp_path / "disk" / "b.jpg").symlink_to("a.jpg")
    (tmp_path / "media").symlink_to("disk")
    assert names_in(tmp_path / "media") == ["a.jpg", "b.jpg"]
    assert not any(row["refused"] for row in rows(tmp_path / "media"))


def test_a_link_to_a_folder_elsewhere_is_a_row_where_something_below_it_may_be_wanted(tmp_path: Path) -> None:
    """`--include '*.jpg'` may want what it leads to; `--exclude` of all below it asks for no row."""
    fill(tmp_path / "elsewhere", "x.jpg")
    root = fill(tmp_path / "media", "own.jpg")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    strict = {"links": "within"}
    assert names_in(root, include=["*.jpg"], **strict) == ["linked", "own.jpg"]
    assert names_in(root, include=["own*"], **strict) == names_in(root, exclude=["linked/*"], **strict) == ["own.jpg"]


def test_a_broken_link_is_listed(tmp_path: Path) -> None:
    """What a link promised and is not there must not vanish: it ends as a `not_found` row."""
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "absent")
    assert rows(tmp_path) == [
        {"uri": f"{tmp_path}/gone.jpg", "size": None, "etag": None, "modified_at": None, "truth": None, "refused": None}
    ]


def test_a_link_to_itself_is_listed(tmp_path: Path) -> None:
    """A link that never resolves is one object, which cannot be read, and does not end the listing."""
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    fill(tmp_path, "z.jpg")
    assert names_in(tmp_path) == ["loop.jpg", "z.jpg"]


def test_pipes_and_sockets_are_no_objects(tmp_path: Path) -> None:
    """What has no content is not listed, and not opened; it is counted."""
    os.mkfifo(tmp_path / "pipe")
    warnings = Warnings()
    assert names_in(fill(tmp_path, "a.jpg"), warnings=warnings) == ["a.jpg"]
    assert noticed(warnings) == {"special_file": (1, f"{tmp_path}/pipe")}


def test_a_folder_is_as_deep_as_it_likes(tmp_path: Path) -> None:
    """1,200 folders, each in the other, are walked like any, with their file at the bottom."""
    folders = [os.path.join(tmp_path, *["d"] * depth) for depth in range(1, 1201)]
    for folder in folders:
        os.mkdir(folder)
    bottom = os.path.join(folders[-1], "a.jpg")
    Path(bottom).touch()
    try:
        assert uris_in(tmp_path) == [bottom]
    finally:  # pytest's own clearing up is recursive
        os.unlink(bottom)
        for folder in reversed(folders):
            os.rmdir(folder)


def test_many_links_are_not_many_more_objects(tmp_path: Path) -> None:
    """Forty links that make a million paths of twenty folders lead into each folder once, and the rest is counted."""
    root = tmp_path / "media"
    for level in range(20):
        fill(tmp_path / f"level{level}", "a.jpg")
        for name in ("left", "right"):
            (tmp_path / f"level{level}" / name).symlink_to(tmp_path / f"level{level + 1}")
    fill(tmp_path / "level20", "a.jpg")
    root.symlink_to(tmp_path / "level0")
    warnings = Warnings()
    assert len(uris_in(root, warnings=warnings)) == 21
    assert noticed(warnings)["linked_again"][0] == 20


def test_a_link_that_is_not_wanted_hides_no_other(tmp_path: Path) -> None:
    """Of two links to one folder, the one that --include or --exclude leaves out is not the one that is entered."""
    fill(tmp_path / "elsewhere", "x.jpg")
    root = fill(tmp_path / "media", "own.jpg")
    for name in ("a", "b"):
        (root / name).symlink_to(tmp_path / "elsewhere")
    assert names_in(root, exclude=["a/*"]) == ["b/x.jpg", "own.jpg"]
    assert names_in(root, include=["b/*"]) == ["b/x.jpg"]


# What cannot be seen


def test_a_missing_source_is_an_error(tmp_path: Path) -> None:
    """A path that is not there stops the run, even where another source has objects."""
    fill(tmp_path, "media/a.jpg")
    with pytest.raises(SourceError, match=r"absent: no such file or directory"):
        tables(tmp_path / "media", tmp_path / "absent")


def test_an_unreadable_folder_is_an_error() -> None:
    """A folder that may not be listed is named: the report must not pass over what it could not see."""
    root = Path(tempfile.mkdtemp())  # tmp_path lies in a folder that only its owner may enter
    try:
        root.chmod(0o755)
        fill(root, "a.jpg", "deep/locked/b.jpg")
        (root / "deep/locked").chmod(0)
        with unprivileged(), pytest.raises(SourceError, match=r"deep/locked: Permission denied") as refused:
            tables(root)
        assert "right to read it, or leave it out with --exclude 'deep/locked/*'" in str(refused.value)
        for pattern in ("deep/locked/*", "deep/*", "*lock*", "deep/locked/", "{deep,shallow}/locked/*"):
            with unprivileged():
                assert names_in(root, exclude=[pattern]) == ["a.jpg"], pattern
        for pattern in ("deep/locked", "*.jpg", "locked/*"):  # these leave something in it
            with unprivileged(), pytest.raises(SourceError):
                tables(root, exclude=[pattern])
    finally:
        shutil.rmtree(root)


def test_files_that_only_their_names_are_known_of_are_listed() -> None:
    """In a folder that may be listed but not entered, each file ends as a row that says `denied`."""
    root = Path(tempfile.mkdtemp())
    try:
        root.chmod(0o755)
        fill(root, "closed/a.jpg", "closed/b.jpg")
        (root / "closed").chmod(0o744)
        with unprivileged():
            assert names_in(root) == ["closed/a.jpg", "closed/b.jpg"]
    finally:
        shutil.rmtree(root)


# Choosing


def test_globs_choose_by_the_place_within_the_source(tmp_path: Path) -> None:
    """`*` crosses `/`; what lies above the source is not matched; excluding wins over including."""
    root = fill(tmp_path / "x.jpg", "a.jpg", "b.png", "deep/c.jpg", "thumbs/d.jpg", "E.JPG")
    assert names_in(root, include=["*.jpg"]) == ["a.jpg", "deep/c.jpg", "thumbs/d.jpg"]
    assert names_in(root, include=["*.jpg"], exclude=["thumbs/*"]) == ["a.jpg", "deep/c.jpg"]
    assert names_in(root, exclude=["*.jpg", "*.JPG"]) == ["b.png"]
    assert names_in(root, include=["deep/*", "[ab].*"]) == ["a.jpg", "b.png", "deep/c.jpg"]


def test_brackets_and_braces(tmp_path: Path) -> None:
    """Braces are alternatives, brackets a set, and both stand for themselves as well: folders are called `[2024] trip`."""
    root = fill(tmp_path, "[2024] trip/b.jpg", "a.jpg", "b.jpeg", "c.png", "{x,y}.gif", "x.gif", "20.jpg")
    assert names_in(root, include=["[2024] trip/*"]) == ["[2024] trip/b.jpg"]
    assert names_in(root, include=["*.{jpeg,p{n,s}g}"]) == ["b.jpeg", "c.png"]
    assert names_in(root, include=["[ab].*"]) == ["a.jpg", "b.jpeg"]
    assert names_in(root, include=["**/[ab].jpg"]) == ["[2024] trip/b.jpg", "a.jpg"]
    assert names_in(root, include=["{x,y}.gif"]) == ["x.gif", "{x,y}.gif"]
    with pytest.raises(ConfigError, match="stands for more than 1,000"):
        tables(root, include=["{a,b}" * 12])


def test_what_include_leaves_out_is_counted(tmp_path: Path) -> None:
    """How many, one of them, and how most of them end: `.JPG` is not `.jpg`."""
    root = fill(tmp_path, "a.jpg", "B.JPG", "C.JPG", "d.jpeg", "README", ".hidden", "out/e.JPG")
    warnings = Warnings()
    assert names_in(root, include=["*.jpg"], exclude=["out/*"], warnings=warnings) == ["a.jpg"]
    [entry] = warnings.as_json()
    assert (entry["name"], entry["count"], entry["example"]) == ("not_included", 5, f"{root}/.hidden")
    assert entry["detail"] == "their endings: no ending 2, .JPG 2, .jpeg 1"


def test_a_pattern_that_matched_nothing_is_told(tmp_path: Path) -> None:
    """Of include and exclude, but not where a limit ended the listing, or in a tree that was not looked into."""
    root = fill(tmp_path, "a.jpg", "b.jpg", "out/deep/c.jpg")
    warnings = Warnings()
    names_in(root, include=["*.jpg", "/*.jpg"], exclude=["thumbs/*", "out/*", "out/deep/*"], warnings=warnings)
    assert noticed(warnings) == {"idle_pattern": (2, "/*.jpg")}
    assert warnings.as_json()[0]["detail"] == "/*.jpg, thumbs/*"
    warnings = Warnings()
    names_in(root, exclude=["thumbs/*"], limit=1, warnings=warnings)
    assert noticed(warnings) == {}


def test_a_limit_counts_what_was_chosen(tmp_path: Path) -> None:
    """`limit` is over all sources together, after the globs."""
    fill(tmp_path, "one/a.txt", "one/b.jpg", "two/c.jpg", "two/d.jpg")
    chosen = uris_in(tmp_path / "one", tmp_path / "two", include=["*.jpg"], limit=2)
    assert chosen == [f"{tmp_path}/one/b.jpg", f"{tmp_path}/two/c.jpg"]


def test_the_report_store_is_no_media(tmp_path: Path) -> None:
    """A report store within a source is left out; a folder whose name only begins alike is not."""
    fill(tmp_path, "a.jpg", "reports/runs/1/summary.html", "reports-old/b.jpg")
    assert names_in(tmp_path, store=str(tmp_path / "reports")) == ["a.jpg", "reports-old/b.jpg"]


def test_overlapping_sources_list_twice(tmp_path: Path) -> None:
    """Listing does not make distinct; the plan does, and counts."""
    fill(tmp_path, "deep/a.jpg")
    assert uris_in(tmp_path, tmp_path / "deep") == [f"{tmp_path}/deep/a.jpg"] * 2


def test_class_folders_give_the_truth_unless_told_otherwise(tmp_path: Path) -> None:
    """With `truth: path` a class folder names the category; with `none`, or a file, nothing does."""
    root = fill(tmp_path, "neutral/a.jpg", "misc/b.jpg")
    assert [row["truth"] for row in rows(root)] == [None, "neutral"]
    assert [row["truth"] for row in rows(root, truth="none")] == [None, None]


def test_long_listings_come_in_tables_of_bounded_length(tmp_path: Path) -> None:
    """Ten thousand rows of a manifest are three tables, so a listing is never held whole."""
    path = tmp_path / "many.csv"
    path.write_text("uri\n" + "".join(f"/media/{i}\n" for i in range(10_000)))
    assert [table.num_rows for table in tables(path)] == [4096, 4096, 1808]


# Manifests as sources


def test_manifests_are_sources(tmp_path: Path) -> None:
    """A manifest lists what it names, with its truth before the path's; globs are over its URIs."""
    path = tmp_path / "list.csv"
    path.write_text("uri,size,truth\ns3://b/neutral/a.jpg,5,porn\ns3://b/neutral/b.png,,\n")
    assert [(r["uri"], r["size"], r["truth"]) for r in rows(path)] == [
        ("s3://b/neutral/a.jpg", 5, "porn"),
        ("s3://b/neutral/b.png", None, "neutral"),
    ]
    assert uris_in(path, include=["*.png"]) == ["s3://b/neutral/b.png"]


def test_manifests_within_a_folder_are_objects(tmp_path: Path) -> None:
    """Only a source that names a manifest is read as one: a folder's CSV is a foreign file like any other."""
    assert names_in(fill(tmp_path, "list.csv")) == ["list.csv"]


# Any other fsspec filesystem


@pytest.fixture
def memory() -> Iterator[Any]:
    fs = fsspec.filesystem("memory")
    yield fs
    fs.rm("/listing-tests", recursive=True)


def test_any_fsspec_filesystem_is_listed(memory: Any) -> None:
    """Folders, hidden names and a single file of a filesystem that is neither local nor S3; each can be read."""
    for name in ("a", "deep/_b", "deep/.c"):
        memory.pipe_file(f"/listing-tests/{name}", b"12345")
    found = rows("memory://listing-tests")
    assert [(row["uri"].removeprefix("memory:///listing-tests/"), row["size"]) for row in found] == [
        ("a", 5),
        ("deep/.c", 5),
        ("deep/_b", 5),
    ]
    assert found[0]["modified_at"] is not None
    for row in found:
        assert fetch(Location.of(row["uri"]), LOCAL, max_bytes=9, timeout_s=1, attempts=1).data == b"12345"
    assert uris_in("memory://listing-tests/deep/_b") == ["memory:///listing-tests/deep/_b"]
    assert uris_in("memory://listing-tests", include=["deep/*"], exclude=["*/.c"]) == [
        "memory:///listing-tests/deep/_b"
    ]


def test_two_colons_in_a_name_are_a_part_of_it(memory: Any) -> None:
    """Of a store that is not S3, too: such an object is no member of an archive, and is read as it was listed."""
    memory.pipe_file("/listing-tests/a::b.jpg", b"12345")
    [row] = rows("memory://listing-tests")
    assert row["uri"] == "memory:///listing-tests/a::b.jpg"
    assert fetch(Location.of(row["uri"]), LOCAL, max_bytes=9, timeout_s=1, attempts=1).data == b"12345"


def test_excluded_folders_of_any_filesystem_are_not_listed(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left out is not asked for."""
    for name in ("a", "out/b", "deep/out/c", "deep/d"):
        memory.pipe_file(f"/listing-tests/{name}", b"1")
    asked, ls = [], type(memory).ls

    def watched(fs: Any, path: str, detail: bool = True, **options: Any) -> Any:
        asked.append(path)
        return ls(fs, path, detail=detail, **options)

    monkeypatch.setattr(type(memory), "ls", watched)
    found = uris_in("memory://listing-tests", exclude=["out/*", "*/out/*"])
    assert [uri.partition("listing-tests/")[2] for uri in found] == ["a", "deep/d"]
    assert [path for path in asked if path.endswith("out")] == []


def test_odd_times_of_any_filesystem_are_counted(memory: Any) -> None:
    """What tells no time, or one that no calendar has, is an object like any other, without a time."""
    for name in ("good", "odd", "none"):
        memory.pipe_file(f"/listing-tests/{name}", b"12345")
    memory.store["/listing-tests/odd"].created = SimpleNamespace(timestamp=lambda: 2.0**40)
    memory.store["/listing-tests/none"].created = SimpleNamespace(timestamp=lambda: None)
    warnings = Warnings()
    found = {
        row["uri"].rsplit("/")[-1]: row["modified_at"] for row in rows("memory://listing-tests", warnings=warnings)
    }
    assert found["good"] is not None and found["odd"] is None and found["none"] is None
    [entry] = warnings.as_json()
    assert (entry["name"], entry["count"], entry["example"]) == ("odd_time", 1, "memory:///listing-tests/odd")


def test_a_missing_folder_of_any_filesystem_is_an_error(memory: Any) -> None:
    """A URI that is not there is a SourceError with the URI; so is a scheme that nobody knows."""
    memory.pipe_file("/listing-tests/a", b"")
    with pytest.raises(SourceError, match="memory://listing-tests/b: no such file or directory"):
        tables("memory://listing-tests/b")
