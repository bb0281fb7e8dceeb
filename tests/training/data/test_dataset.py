"""Three sides that share nothing, on disk and lazy, the same each time; and clear words for data that are none."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError, SourceError, StoreError
from nsfwscan.location import Location
from nsfwscan.storage.filesystems import filesystem
from tests.later import later
from tests.s3.servers import S3Endpoint
from tests.training.pictures import blobs, encoded, photographs, variants, write, write_classes
from training.config import DataConfig
from training.data.splits import SIDES

if TYPE_CHECKING:
    from training.data.dataset import Prepared

catalog = later("training.data.catalog")
dataset = later("training.data.dataset")


FIVE = ("drawings", "hentai", "neutral", "porn", "sexy")
LOCAL = StorageConfig()


def prepared(cache: Path, *uris: Path | str, storage: StorageConfig = LOCAL, **settings: Any) -> Prepared:
    config = DataConfig.of({"uris": [str(uri) for uri in uris], "cache": str(cache), **settings})
    return dataset.prepare(config, storage)


def places(found: Prepared) -> dict[str, str]:
    """Return the side of each URI."""
    return {uri: side for side in SIDES for uri in found.splits[side]["uri"]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with thirty pictures each, and what a real one has beside them: copies, conflicts, broken files."""
    root = write_classes(tmp_path_factory.mktemp("data"), dict.fromkeys(FIVE, 30))
    for name, image in photographs().items():
        write(root / "neutral" / name / "original.jpg", encoded(image.resize((360, 300))))
        for what, file in variants(image):
            write(root / "neutral" / name / f"{what}.jpg", file)
    write(root / "porn" / "copy.jpg", (root / "porn" / "0001.jpg").read_bytes())
    write(root / "sexy" / "conflict.jpg", (root / "porn" / "0002.jpg").read_bytes())
    write(root / "sexy" / "near.jpg", encoded(blobs(30_003).resize((100, 90))))  # porn/0003.jpg, smaller
    write(root / "hentai" / "cut off.jpg", (root / "hentai" / "0001.jpg").read_bytes()[:900])
    write(root / "hentai" / "notes.jpg", b"no image at all")
    return root


@pytest.fixture(scope="module")
def found(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepared(tmp_path_factory.mktemp("cache"), data)


def test_every_readable_image_is_on_exactly_one_side(data: Path, found: Prepared) -> None:
    """Splits, conflicts and unreadable files together are all files; bytes are the files' own; labels are the folders'."""
    conflicts = {uri for c in found.conflicts if c.kind == "exact" for uri, _ in c.members}
    listed = [str(path) for path in data.rglob("*") if path.is_file()]
    uris = [uri for side in SIDES for uri in found.splits[side]["uri"]]
    assert sorted([*uris, *conflicts, *(u.uri for u in found.unreadable)]) == sorted(listed)
    assert found.splits["train"].features["label"].names == list(FIVE) == list(found.labels)
    for side in SIDES:
        for row in found.splits[side]:
            assert row["bytes"] == Path(row["uri"]).read_bytes()
            assert row["sha256"] == hashlib.sha256(row["bytes"]).hexdigest()
            assert FIVE[row["label"]] == row["uri"].removeprefix(f"{data}/").split("/")[0]


def test_nothing_of_test_was_seen_in_training(data: Path, found: Prepared) -> None:
    """All copies of a photograph, and a near-duplicate under another label, are on one side."""
    sides = defaultdict(set)
    for uri, side in places(found).items():
        path = Path(uri).relative_to(data)
        sides[path.parent if len(path.parts) == 3 else path].add(side)
    assert {name: len(on) for name, on in sides.items() if len(on) > 1} == {}
    where = places(found)
    for one, other in (("porn/copy.jpg", "porn/0001.jpg"), ("sexy/near.jpg", "porn/0003.jpg")):
        assert where[f"{data}/{one}"] == where[f"{data}/{other}"]


def test_shares(found: Prepared) -> None:
    """Each class has its tenths, as nearly as groups of eleven allow."""
    for label in FIVE:
        total = sum(found.counts[side][label] for side in SIDES)
        for side in ("validation", "test"):
            assert abs(found.counts[side][label] - total / 10) <= (6 if label == "neutral" else 1)
    assert found.counts == {
        side: {n: found.splits[side]["label"].count(i) for i, n in enumerate(FIVE)} for side in SIDES
    }


def test_what_is_left_out_is_listed(data: Path, found: Prepared) -> None:
    """Unreadable files with their status, and the same content under two labels, in lists on disk, too."""
    unreadable = {Path(u.uri).name: (str(u.status), str(u.label)) for u in found.unreadable}
    assert unreadable == {"cut off.jpg": ("decode_error", "hentai"), "notes.jpg": ("unsupported", "hentai")}
    conflicts = [(c.kind, [Path(uri).name for uri, _ in c.members]) for c in found.conflicts]
    assert conflicts == [("exact", ["0002.jpg", "conflict.jpg"]), ("similar", ["0003.jpg", "near.jpg"])]
    assert f"{data}/hentai/notes.jpg,hentai,unsupported" in (found.folder / "unreadable.csv").read_text("utf-8")
    assert f"0,exact,{data}/sexy/conflict.jpg,sexy" in (found.folder / "conflicts.csv").read_text("utf-8")


def test_images_stay_on_disk(found: Prepared) -> None:
    """The splits are mapped files; what is held in memory of them is which rows are theirs."""
    for side in SIDES:
        split = found.splits[side]
        assert split.cache_files and all(Path(file["filename"]).is_file() for file in split.cache_files)
        assert split.with_format("arrow")[:1].nbytes < 100_000


def test_a_second_time_reads_nothing(data: Path, found: Prepared) -> None:
    """The same data are taken from the cache, for little CPU time; another seed divides them anew without reading them."""
    cache = found.folder.parent.parent
    images = sorted((path, path.stat().st_mtime_ns) for path in cache.rglob("images-*.arrow"))
    began = time.process_time()
    again = prepared(cache, data)
    assert time.process_time() - began < 5
    assert again.fingerprint == found.fingerprint and places(again) == places(found)
    assert again.conflicts == found.conflicts and again.unreadable == found.unreadable
    other = prepared(cache, data, seed=1)
    assert other.fingerprint != found.fingerprint and places(other) != places(found)
    assert images == sorted((path, path.stat().st_mtime_ns) for path in cache.rglob("images-*.arrow"))


@pytest.mark.long
def test_elsewhere_and_as_a_zip_they_are_the_same(data: Path, found: Prepared, tmp_path: Path) -> None:
    """Moved, renamed and packed, in another order, the same images fall on the same sides: content decides."""
    path = tmp_path / "nsfw_dataset_v1.zip"
    with zipfile.ZipFile(path, "w") as file:
        for image in sorted(data.rglob("*.jpg"), key=lambda p: hashlib.md5(p.name.encode()).digest()):
            name = image.relative_to(data)
            file.write(image, f"{name.parts[0]}/x{hashlib.md5(str(name).encode()).hexdigest()}.jpg")
    packed = prepared(tmp_path / "cache", path)
    assert packed.fingerprint == found.fingerprint
    assert packed.counts == found.counts
    assert len(packed.unreadable) == len(found.unreadable)
    assert packed.splits["test"][0]["uri"].endswith(f"::{path}")


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    """A version is size and time: another picture under the same name is another data set."""
    root = write_classes(tmp_path / "data", {"neutral": 6, "porn": 6})
    before = prepared(tmp_path / "cache", root)
    write(root / "porn" / "0001.jpg", encoded(blobs(99)))
    after = prepared(tmp_path / "cache", root)
    assert before.fingerprint != after.fingerprint


def test_a_cache_that_lost_a_file_is_mended(tmp_path: Path) -> None:
    """What somebody deleted from the cache is made again."""
    root = write_classes(tmp_path / "data", {"neutral": 6, "porn": 6})
    before = prepared(tmp_path / "cache", root)
    next((tmp_path / "cache").rglob("images-*.arrow")).unlink()
    after = prepared(tmp_path / "cache", root)
    assert after.fingerprint == before.fingerprint and after.splits["test"][0] == before.splits["test"][0]


def test_a_stopped_build_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read before a crash is not read again, and the result is the same."""
    monkeypatch.setattr("training.data.catalog._PART_ROWS", 4)
    root = write_classes(tmp_path / "data", {"neutral": 12, "porn": 12})
    whole = prepared(tmp_path / "whole", root)

    def crash(what: str, done: int, total: int) -> None:
        if done >= 12:
            raise KeyboardInterrupt

    config = DataConfig(uris=(str(root),), cache=str(tmp_path / "cache"))
    with pytest.raises(KeyboardInterrupt):
        dataset.prepare(config, LOCAL, crash)
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("images-*.arrow")}
    assert len(parts) == 3
    assert dataset.prepare(config, LOCAL).fingerprint == whole.fingerprint
    assert all(path.stat().st_mtime_ns == at for path, at in parts.items())


def test_class_folders_on_s3(moto: S3Endpoint, tmp_path: Path) -> None:
    """The same images in a bucket fall on the same sides."""
    root = write_classes(tmp_path / "data", {"neutral": 8, "porn": 8})
    storage = StorageConfig(endpoint_url=moto.endpoint_url)
    fs = filesystem(Location.of("s3://dataset"), storage)
    fs.mkdir("dataset")
    fs.put(f"{root}/", "s3://dataset/v1/", recursive=True)
    here, there = prepared(tmp_path / "a", root), prepared(tmp_path / "b", "s3://dataset/v1", storage=storage)
    assert there.fingerprint == here.fingerprint
    assert {uri.removeprefix("s3://dataset/v1/"): side for uri, side in places(there).items()} == {
        uri.removeprefix(f"{root}/"): side for uri, side in places(here).items()
    }


def test_a_verdict_on_other_content_is_no_label(tmp_path: Path) -> None:
    """A reviewer's SHA-256 that is not the file's any more leaves the file out, with the reason."""
    root = write_classes(tmp_path / "data", {"neutral": 4, "porn": 4})
    rows = [
        (path, path.parent.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in sorted(root.rglob("*.jpg"))
    ]
    write(root / "porn" / "0001.jpg", encoded(blobs(77)))
    text = "uri,verdict,sha256\n" + "".join(f"{path},{label},{digest}\n" for path, label, digest in rows)
    got = prepared(tmp_path / "cache", write(tmp_path / "verdicts.csv", text.encode()))
    assert [(u.uri, u.error) for u in got.unreadable] == [
        (f"{root}/porn/0001.jpg", "not what was reviewed: its SHA-256 is another one")
    ]
    assert sum(len(got.splits[side]) for side in SIDES) == 7


def test_files_that_kill_their_decoder(tmp_path: Path) -> None:
    """An image of more pixels than memory should hold is a row of the list, and the others are there."""
    root = write_classes(tmp_path / "data", {"neutral": 4, "porn": 4})
    write(root / "porn" / "bomb.png", encoded(blobs(1).resize((3000, 3000)), "PNG"))
    got = prepared(tmp_path / "cache", root, decode={"max_pixels": 1_000_000})
    assert [(Path(u.uri).name, str(u.status)) for u in got.unreadable] == [("bomb.png", "too_large")]


@pytest.mark.long
def test_two_processes_prepare_the_same_data_at_once(tmp_path: Path) -> None:
    """As two workers of one machine do: the images are read once, and both get the same splits."""
    root = write_classes(tmp_path / "data", {"neutral": 12, "porn": 12})
    script = (
        "import sys; from training.config import DataConfig; from training.data.dataset import prepare\n"
        "from nsfwscan.config import StorageConfig\n"
        "seen = []\n"
        "found = prepare(DataConfig(uris=(sys.argv[1],), cache=sys.argv[2]), StorageConfig(), lambda *a: seen.append(a))\n"
        "print(found.fingerprint, any(what == 'examined' for what, _, _ in seen))"
    )
    command = [sys.executable, "-c", script, str(root), str(tmp_path / "cache")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0].split() for process in both]
    assert said[0][0] == said[1][0]
    assert sorted(reads for _, reads in said) == ["False", "True"]


def test_what_failed_to_be_read_is_tried_again_when_asked(tmp_path: Path) -> None:
    """A failure that may pass is kept, so that a resumed training finds the same images, and noted; asked for, it is
    tried again, and the splits are those of data that were never unreadable."""
    root = write_classes(tmp_path / "data", {"neutral": 6, "porn": 6})
    rows = [f"{path},{path.parent.name},{path.stat().st_size}\n" for path in sorted(root.rglob("*.jpg"))]
    table = write(tmp_path / "labels.csv", f"uri,label,size\n{''.join(rows)}".encode())
    whole = prepared(tmp_path / "whole", table)
    image = root / "porn" / "0003.jpg"
    image.rename(tmp_path / "away.jpg")
    before = prepared(tmp_path / "cache", table)
    assert [str(u.status) for u in before.unreadable] == ["not_found"]
    assert any("1 images could not be read (not_found)" in note for note in before.notes)
    (tmp_path / "away.jpg").rename(image)
    assert prepared(tmp_path / "cache", table).fingerprint == before.fingerprint
    after = prepared(tmp_path / "cache", table, retry_unreadable=True)
    assert after.fingerprint == whole.fingerprint != before.fingerprint and not after.unreadable


def test_all_broken(tmp_path: Path) -> None:
    """Nothing but broken files is an error with an example."""
    for name in ("neutral/a.jpg", "porn/b.jpg"):
        write(tmp_path / "data" / name, b"no image")
    with pytest.raises(SourceError, match=r"none of the 2 images can be read, as .*neutral/a\.jpg: not a format"):
        prepared(tmp_path / "cache", tmp_path / "data")


def test_a_class_without_readable_images(tmp_path: Path) -> None:
    """The class is named, with an example of what is wrong."""
    root = write_classes(tmp_path / "data", {"neutral": 4, "porn": 4})
    write(root / "sexy" / "a.jpg", b"no image")
    with pytest.raises(SourceError, match=r"none of the 1 images of the class 'sexy' can be read, as .*sexy/a\.jpg"):
        prepared(tmp_path / "cache", root)


def test_a_class_that_is_a_copy_of_another(tmp_path: Path) -> None:
    """Where every image of a class has another label, too, nothing of it is left to learn."""
    root = write_classes(tmp_path / "data", {"neutral": 5, "porn": 5})
    shutil.copytree(root / "porn", root / "sexy")
    with pytest.raises(SourceError, match="every readable image of the class 'porn' stands under another label"):
        prepared(tmp_path / "cache", root)


def test_no_room(small_disk: Path, tmp_path: Path) -> None:
    """A disk that is too small is told of before anything is read, with the bytes it takes; one that fills up, too."""
    root = write_classes(tmp_path / "data", {"neutral": 4, "porn": 4})
    write(root / "porn" / "large.bmp", encoded(blobs(1).resize((1500, 1200)), "BMP"))
    with pytest.raises(StoreError, match=r"need about \d+ MiB in the cache .*--cache"):
        prepared(small_disk / "cache", root)
    (root / "porn" / "large.bmp").unlink()

    def fill(what: str, done: int, total: int) -> None:
        (small_disk / "other").write_bytes(b"\0" * (shutil.disk_usage(small_disk).free - 8192))

    with pytest.raises(StoreError, match="the store is full"):
        dataset.prepare(DataConfig(uris=(str(root),), cache=str(small_disk / "cache")), LOCAL, fill)
    (small_disk / "other").unlink()
    assert sum(prepared(small_disk / "cache", root).counts["train"].values()) == 4


def test_a_cache_elsewhere_is_refused(tmp_path: Path) -> None:
    """Images are mapped from the cache, so it must be local."""
    root = write_classes(tmp_path / "data", {"neutral": 4, "porn": 4})
    with pytest.raises(ConfigError, match="is not a local folder"):
        dataset.prepare(DataConfig(uris=(str(root),), cache="s3://bucket/cache"), LOCAL)
