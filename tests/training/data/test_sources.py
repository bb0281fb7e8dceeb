"""Labelled images are found wherever they lie, each once, and what makes training pointless is said before any is read."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError, SourceError
from nsfwscan.location import Location
from nsfwscan.storage.filesystems import filesystem
from tests.s3.servers import S3Endpoint
from tests.training.pictures import write
from training.config import DataConfig
from training.data.sources import Listing, check_classes, list_examples

LOCAL = StorageConfig()


def listed(*uris: Path | str, storage: StorageConfig = LOCAL, **settings: Any) -> Listing:
    return list_examples(DataConfig(uris=tuple(map(str, uris)), **settings), storage)


def labels_of(listing: Listing, root: Path | str) -> dict[str, str]:
    return {e.uri.removeprefix(f"{root}/"): str(e.label) for e in listing.examples}


def files(root: Path, *names: str) -> Path:
    for name in names:
        write(root / name, b"x" * (len(name) + 1))
    return root


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


def test_the_innermost_folder_that_is_known_is_the_class(tmp_path: Path) -> None:
    """Wrapping folders, nested folders, spellings of the alias table and given labels all lead to categories."""
    files(
        tmp_path,
        "train/porn/a.jpg",
        "train/Drawing/2026/11/b",
        "nsfw/sexy/c.png",
        "safe/sub folder/d.jpg",
        "cats/e.jpg",
    )
    found = listed(tmp_path, labels={"cats": "neutral"})
    assert labels_of(found, tmp_path) == {
        "train/porn/a.jpg": "porn",
        "train/Drawing/2026/11/b": "drawings",
        "nsfw/sexy/c.png": "sexy",
        "safe/sub folder/d.jpg": "neutral",
        "cats/e.jpg": "neutral",
    }
    assert found.labels == ("drawings", "neutral", "porn", "sexy")


def test_a_class_folder_itself_can_be_a_source(tmp_path: Path) -> None:
    """Files that lie directly in a source are of the class that its own name says."""
    files(tmp_path, "a/neutral/x.jpg", "b/porn/y.jpg")
    found = listed(tmp_path / "a/neutral", tmp_path / "b/porn")
    assert labels_of(found, tmp_path) == {"a/neutral/x.jpg": "neutral", "b/porn/y.jpg": "porn"}


def test_an_unknown_folder_is_named(tmp_path: Path) -> None:
    """A folder that no table knows stops the run, and the message says which, how many files, and what to do."""
    files(tmp_path, "train/neutral/a.jpg", "train/violence/x/b.jpg", "train/violence/c.jpg")
    with pytest.raises(
        SourceError, match=r"the folder 'violence' \(2 files, as 'train/violence/.*--label 'violence=CATEGORY'"
    ):
        listed(tmp_path)


def test_what_is_no_image_of_a_class(tmp_path: Path) -> None:
    """Hidden files and a Mac's leftovers are passed over; a file outside all class folders is listed."""
    files(
        tmp_path,
        "neutral/a.jpg",
        "porn/b.jpg",
        "neutral/.DS_Store",
        ".cache/x/y.jpg",
        "__MACOSX/neutral/._a.jpg",
        "README.md",
    )
    found = listed(tmp_path)
    assert labels_of(found, tmp_path) == {"neutral/a.jpg": "neutral", "porn/b.jpg": "porn"}
    assert [(u.uri, u.status, u.error) for u in found.unreadable] == [
        (f"{tmp_path}/README.md", "unsupported", "lies in no class folder")
    ]


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    """A class folder without any file is an error, not a class that is quietly missing."""
    files(tmp_path, "neutral/a.jpg", "porn/b.jpg")
    (tmp_path / "sexy" / "2026").mkdir(parents=True)
    with pytest.raises(SourceError, match=r"the class folder 'sexy.*' is empty"):
        listed(tmp_path)


def test_a_folder_without_class_folders(tmp_path: Path) -> None:
    """Where no file lies in a class folder, the message says so, with an example."""
    with pytest.raises(SourceError, match=r"no labelled image at all; 2 files have no label, as .*a\.jpg: lies in no"):
        listed(files(tmp_path, "a.jpg", "b.jpg"))


def test_one_class_only(tmp_path: Path) -> None:
    """There is nothing to tell apart."""
    found = listed(files(tmp_path, "neutral/a.jpg", "safe/b.jpg"))
    with pytest.raises(SourceError, match=r"all 2 images are 'neutral': a classifier needs two classes"):
        check_classes(found)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "absent", "no such file or directory"),
        (lambda root: root / "empty", "no labelled image at all"),
        (lambda root: write(root / "a.txt", b"x"), "not a folder of class folders"),
        (lambda root: write(root / "a.csv", b"uri,colour\na.jpg,red\n"), "no column `label`, nor `verdict`: its columns are colour, uri"),
        (lambda root: write(root / "b.csv", b"uri,label\na.jpg,neutral\nb.jpg,violence\n"), "row 2: unknown label 'violence'"),
        (lambda root: write(root / "c.csv", b"uri,label\na.jpg,\n"), "row 1: no `label`"),
        (lambda root: write(root / "d.jsonl", b'{"uri": "a.jpg", "verdict": "porn", "reviewed_at": "soon"}'), "'soon' is not an ISO 8601 time"),
        (lambda root: write(root / "e.jsonl", b'{"uri": "a.jpg", "verdict": "porn", "sha256": "abc"}'), "is not 64 hex digits"),
        (lambda root: write(root / "f.parquet", b"PAR1 no"), "cannot be read"),
        (lambda root: write(root / "g.zip", b"PK no"), "is not a whole zip"),
    ],
)  # fmt: skip
def test_sources_that_are_wrong(tmp_path: Path, make: Any, message: str) -> None:
    """What is wrong, and with which source, is in the message."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=message):
        listed(make(tmp_path))


def test_settings_that_are_wrong() -> None:
    """A label that means no category, and shares that leave nothing to train on, are refused by name."""
    with pytest.raises(ConfigError, match="'gore' cannot mean 'violence'"):
        DataConfig.of({"uris": ["x"], "labels": {"gore": "violence"}})
    with pytest.raises(ConfigError, match="leave nothing to train on"):
        DataConfig.of({"uris": ["x"], "validation_share": 0.5, "test_share": 0.5})


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_tables_of_labels(tmp_path: Path, suffix: str) -> None:
    """URIs are relative to the table, labels are understood by name, and sizes are asked for: they are versions."""
    files(tmp_path, "media/a.jpg", "media/b.jpg")
    found = listed(
        table(
            tmp_path / f"labels{suffix}",
            [{"uri": "media/a.jpg", "label": "Safe"}, {"uri": f"{tmp_path}/media/b.jpg", "label": "porn"}],
        )
    )
    assert labels_of(found, tmp_path) == {"media/a.jpg": "neutral", "media/b.jpg": "porn"}
    assert all(e.size and e.modified_at for e in found.examples)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_the_latest_verdict_counts(tmp_path: Path, suffix: str) -> None:
    """Of several verdicts the latest in time counts, whatever the order of the rows; disagreement is listed; a reviewer
    who passed says nothing."""
    rows = [
        {"uri": "a.jpg", "verdict": "porn", "reviewer": "ann", "reviewed_at": "2026-11-03T10:00:00Z"},
        {"uri": "a.jpg", "verdict": "sexy", "reviewer": "bob", "reviewed_at": "2026-11-01T10:00:00Z"},
        {"uri": "b.jpg", "verdict": "neutral", "reviewer": "ann", "reviewed_at": None},
        {"uri": "b.jpg", "verdict": None, "reviewer": "bob", "reviewed_at": None},
    ]
    found = listed(table(tmp_path / f"verdicts{suffix}", rows))
    assert labels_of(found, tmp_path) == {"a.jpg": "porn", "b.jpg": "neutral"}
    (disagreement,) = found.disagreements
    assert disagreement.taken == "porn"
    assert [(verdict, reviewer) for verdict, reviewer, _ in disagreement.verdicts] == [("sexy", "bob"), ("porn", "ann")]


def test_a_verdict_wins_over_a_folder_and_folders_contradict_each_other(tmp_path: Path) -> None:
    """A reviewer corrects a folder; two sources of one kind that disagree leave the image without a label."""
    files(tmp_path, "data/neutral/a.jpg", "data/porn/b.jpg", "data/porn/c.jpg")
    verdicts = table(tmp_path / "v.csv", [{"uri": "data/neutral/a.jpg", "verdict": "sexy"}])
    labels = table(
        tmp_path / "l.csv",
        [{"uri": "data/porn/b.jpg", "label": "neutral"}, {"uri": "data/porn/c.jpg", "label": "porn"}],
    )
    found = listed(tmp_path / "data", verdicts, labels)
    assert labels_of(found, tmp_path) == {"data/neutral/a.jpg": "sexy", "data/porn/c.jpg": "porn"}
    assert found.contradicted == {f"{tmp_path}/data/porn/b.jpg": ("neutral", "porn")}


def test_a_quick_look_draws_the_same_images_each_time(tmp_path: Path) -> None:
    """`max_per_class` takes so many of each class, the same ones, and others with another seed."""
    files(tmp_path, *(f"{c}/{i}.jpg" for c in ("neutral", "porn") for i in range(40)))
    first, again, other = (listed(tmp_path, max_per_class=5, seed=seed) for seed in (0, 0, 1))
    assert sorted(labels_of(first, tmp_path).values()) == ["neutral"] * 5 + ["porn"] * 5
    assert first.examples == again.examples != other.examples


def test_class_folders_on_s3(moto: S3Endpoint) -> None:
    """A prefix is listed with versions; a neighbour that only begins alike is not; an empty folder's marker is told of, and
    a list of labels there is read."""
    storage = StorageConfig(endpoint_url=moto.endpoint_url)
    fs = filesystem(Location.of("s3://training"), storage)
    fs.mkdir("training")
    for key in ("set/neutral/a.jpg", "set/porn/x/b.jpg", "set2/violence/c.jpg"):
        fs.pipe_file(f"s3://training/{key}", key.encode())
    found = listed("s3://training/set", storage=storage)
    assert labels_of(found, "s3://training") == {"set/neutral/a.jpg": "neutral", "set/porn/x/b.jpg": "porn"}
    assert all(e.etag for e in found.examples)
    by_table = table_on_s3(fs, [{"uri": "set/neutral/a.jpg", "label": "porn"}])
    (example,) = listed(by_table, storage=storage).examples
    assert (example.uri, example.size, example.etag) == (found.examples[0].uri, 17, found.examples[0].etag)
    fs.pipe_file("s3://training/set/porn/metadata.csv", b"file_name,label\nx/b.jpg,hentai\n")
    by_metadata = labels_of(listed("s3://training/set", storage=storage), "s3://training")
    assert by_metadata == {"set/neutral/a.jpg": "neutral", "set/porn/x/b.jpg": "hentai"}
    fs.pipe_file("s3://training/set/sexy/", b"")
    with pytest.raises(SourceError, match="the class folder 'sexy' is empty"):
        listed("s3://training/set/", storage=storage)


def table_on_s3(fs: Any, rows: list[dict[str, Any]]) -> str:
    fs.pipe_file(
        "s3://training/labels.csv", ("uri,label\n" + "".join(f"{r['uri']},{r['label']}\n" for r in rows)).encode()
    )
    return "s3://training/labels.csv"


def zipped(root: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            archive.write(path, path.relative_to(root))
    return target


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("kind", ["folder", "zip", "the list itself"])
def test_hugging_face_metadata_label_images(tmp_path: Path, suffix: str, kind: str) -> None:
    """`metadata.*` names images relative to its folder, and labels them; numbers mean what `--label` says."""
    root = files(tmp_path / "data", "images/1.jpg", "images/2.jpg", "images/deep/3.jpg")
    rows = [{"file_name": f"images/{name}.jpg", "label": label} for name, label in (("1", 0), ("2", 1), ("deep/3", 1))]
    list_of_labels = table(root / f"metadata{suffix}", rows)
    source = {"folder": root, "zip": tmp_path / "data.zip", "the list itself": list_of_labels}[kind]
    if kind == "zip":
        zipped(root, source)
    found = listed(source, labels={"0": "neutral", "1": "porn"})
    assert found.unreadable == []
    assert [(e.uri.split("::")[0].rsplit("/", 1)[-1], str(e.label)) for e in found.examples] == [
        ("1.jpg", "neutral"),
        ("2.jpg", "porn"),
        ("3.jpg", "porn"),
    ]
    assert all(e.size for e in found.examples)


def test_metadata_beside_class_folders(tmp_path: Path) -> None:
    """What metadata say of an image goes before its folder; other images keep their folder's class, each split has its
    own list, and captions alone label nothing."""
    files(tmp_path, "train/Neutral/a.jpg", "train/PORN/b.jpg", "train/PORN/c.jpg", "test/d.jpg", "sexy/e.jpg")
    table(tmp_path / "train" / "metadata.csv", [{"file_name": "PORN/b.jpg", "label": "hentai"}])
    table(tmp_path / "test" / "metadata.jsonl", [{"file_name": "d.jpg", "label": "drawings", "text": "a drawing"}])
    table(tmp_path / "sexy" / "metadata.csv", [{"file_name": "e.jpg", "text": "a caption"}])
    found = listed(tmp_path)
    assert found.unreadable == []
    assert labels_of(found, tmp_path) == {
        "train/Neutral/a.jpg": "neutral",
        "train/PORN/b.jpg": "hentai",
        "train/PORN/c.jpg": "porn",
        "test/d.jpg": "drawings",
        "sexy/e.jpg": "sexy",
    }


def test_metadata_that_do_not_fit(tmp_path: Path) -> None:
    """An image that no list names, one that is named and is not there, and one that is named twice: each is told of."""
    root = files(tmp_path, "images/1.jpg", "images/2.jpg", "images/3.jpg", "images/4.jpg")
    rows = [("1", "neutral"), ("2", "porn"), ("3", "porn"), ("3", "sexy"), ("5", "porn")]
    table(root / "metadata.csv", [{"file_name": f"images/{name}.jpg", "label": label} for name, label in rows])
    found = listed(root)
    assert labels_of(found, root) == {"images/1.jpg": "neutral", "images/2.jpg": "porn"}
    assert found.contradicted == {f"{root}/images/3.jpg": ("porn", "sexy")}
    assert [(u.uri, u.status, u.error) for u in found.unreadable] == [
        (f"{root}/images/4.jpg", "unsupported", "lies in no class folder, and metadata.csv does not name it"),
        (f"{root}/images/5.jpg", "not_found", "metadata.csv names it, but it is not there"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,label\na.jpg,violence\n", r"metadata\.csv, row 1: unknown label 'violence'; .*--label 'violence="),
        ("filename,label\na.jpg,porn\n", r"metadata\.csv, row 1: a label, but no `file_name`"),
    ],
)
def test_metadata_that_are_wrong(tmp_path: Path, text: str, message: str) -> None:
    """A label that nobody knows, or that belongs to no image, stops before any image is read."""
    files(tmp_path, "a.jpg")
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(SourceError, match=message):
        listed(tmp_path)
