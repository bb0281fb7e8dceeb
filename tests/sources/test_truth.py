"""What a person said an image is: from class folders, or from a file that names every object it judges."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.errors import SourceError
from nsfwscan.location import Location
from nsfwscan.schema import Category
from nsfwscan.sources.truth import TRUTH_SCHEMA, read_truth, truth_from_path
from nsfwscan.warning import WarningKind, Warnings

LOCAL = StorageConfig()


def judged(path: str | Path) -> list[tuple[str, str]]:
    batches = list(read_truth(Location.of(str(path)), LOCAL))
    assert all(batch.schema == TRUTH_SCHEMA for batch in batches)
    table = pa.Table.from_batches(batches, TRUTH_SCHEMA)
    return list(zip(table["uri"].to_pylist(), table["truth"].to_pylist(), strict=True))


@pytest.mark.parametrize(
    ("uri", "truth"),
    [
        ("/media/neutral/a.jpg", "neutral"),
        ("s3://bucket/Porn/2026/11/a.jpg", "porn"),
        ("s3://bucket/porn/2026/neutral/a.jpg", "neutral"),
        ("neutral/a.jpg", "neutral"),
        ("/media/neutral", None),
        ("/media/neutral.jpg", None),
        ("/media/not-neutral/a.jpg", None),
        ("/media/safe/a.jpg", None),
        ("s3://porn-bucket/a.jpg", None),
        ("", None),
    ],
)
def test_the_innermost_class_folder_counts(uri: str, truth: str | None) -> None:
    """A folder called like a category, in any case; never a file's own name, a part of a name, or an alias."""
    assert truth_from_path(uri) == truth


def test_every_category_has_a_folder() -> None:
    """All six categories' own names are class folders."""
    assert [truth_from_path(f"/x/{category}/a") for category in Category] == [str(category) for category in Category]


def test_a_truth_file_names_objects_and_categories(tmp_path: Path) -> None:
    """CSV, with the spellings of public labels, and URIs relative to the file."""
    path = tmp_path / "truth.csv"
    path.write_text("uri,truth,who\ns3://b/a.jpg,Normal or Safe,ann\nb.jpg,PORN,bob\n")
    assert judged(path) == [("s3://b/a.jpg", "neutral"), (f"{tmp_path}/b.jpg", "porn")]


def test_a_truth_file_named_relatively_meets_the_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its relative URIs become the absolute paths that a listing of the same files has."""
    (tmp_path / "truth.jsonl").write_text('{"uri": "media/a.jpg", "truth": "sexy"}\n')
    monkeypatch.chdir(tmp_path)
    assert judged("truth.jsonl") == [(f"{tmp_path}/media/a.jpg", "sexy")]


def test_long_truth_files_come_in_batches(tmp_path: Path) -> None:
    """No row is lost at the border of a batch."""
    path = tmp_path / "truth.csv"
    path.write_text("uri,truth\n" + "".join(f"s3://b/{i},neutral\n" for i in range(9000)))
    assert [uri for uri, _ in judged(path)] == [f"s3://b/{i}" for i in range(9000)]


def test_a_row_without_truth_is_counted(tmp_path: Path) -> None:
    """What nobody judged yet is passed over, and counted with an example; a file that judges nothing is refused."""
    path, warnings = tmp_path / "truth.csv", Warnings()
    path.write_text("uri,truth\ns3://b/a,neutral\ns3://b/b,\ns3://b/c,NaN\ns3://b/d,rude\n")
    found = [row for batch in read_truth(Location.of(str(path)), LOCAL, warnings) for row in batch.to_pylist()]
    assert found == [{"uri": "s3://b/a", "truth": "neutral"}]
    assert (warnings.count(WarningKind.NO_TRUTH), warnings.count(WarningKind.LISTED_TRUTH)) == (2, 1)
    path.write_text("uri,label\ns3://b/a,neutral\n")
    with pytest.raises(SourceError, match="none of its 1 rows has a `truth`"):
        judged(path)


def test_an_unknown_category_is_an_error(tmp_path: Path) -> None:
    """A category that we do not know is named, with those that we do."""
    path = tmp_path / "truth.csv"
    path.write_text("uri,truth\ns3://b/a,rude\n")
    with pytest.raises(SourceError, match="unknown truth 'rude'; one of drawings"):
        judged(path)


def test_a_missing_truth_file_is_an_error(tmp_path: Path) -> None:
    """It is named, as what it is: the truth file."""
    with pytest.raises(SourceError, match=r"cannot read the truth file .*absent\.csv: No such"):
        judged(tmp_path / "absent.csv")
