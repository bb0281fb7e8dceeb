"""The demo store is what it declares: other tests rely on its declarations instead of checking them again."""

from __future__ import annotations

import hashlib
import importlib.util
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image, ImageOps, UnidentifiedImageError

from nsfwscan.demo import media
from nsfwscan.demo.media import DemoObject

HAS_HEIF = importlib.util.find_spec("pillow_heif") is not None


@dataclass(frozen=True)
class Store:
    """A built store and its declarations."""

    root: Path
    objects: list[DemoObject]

    def with_status(self, status: str, *, cut: bool = False) -> list[tuple[DemoObject, Path]]:
        """Return the objects of one status, with their files; only those, or none, that are cut off and yet 'ok'."""
        chosen = [
            (demo, self.root / demo.path)
            for demo in self.objects
            if demo.status == status and cut == (status == "ok" and demo.path.startswith(media.BROKEN))
        ]
        assert chosen, f"the store holds nothing that is {status}"
        return chosen


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One store for all tests, which only read it."""
    if HAS_HEIF:
        import pillow_heif

        pillow_heif.register_heif_opener()
    root = tmp_path_factory.mktemp("store")
    return Store(root, media.build(root))


def digests(root: Path) -> dict[str, str]:
    """Return the hash of each file under `root`, by relative path."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_two_builds_give_identical_bytes(store: Store, tmp_path: Path) -> None:
    """A build elsewhere gives the same declarations and the same bytes, and holds no file that is not declared."""
    again = media.build(tmp_path)
    assert again == store.objects
    assert digests(tmp_path) == digests(store.root)
    assert sorted(digests(tmp_path)) == [demo.path for demo in again]


def test_building_twice_in_one_place_rewrites_only_what_changed(tmp_path: Path) -> None:
    """A second build leaves good files and strangers alone and repairs a file that was changed."""
    objects = media.build(tmp_path)
    before = digests(tmp_path)
    changed, untouched = tmp_path / objects[0].path, tmp_path / objects[1].path
    changed.write_bytes(b"changed")
    stranger = tmp_path / "stranger.txt"
    stranger.write_text("mine")
    time_before = untouched.stat().st_mtime_ns
    assert media.build(tmp_path) == objects
    assert untouched.stat().st_mtime_ns == time_before
    assert stranger.read_text() == "mine"
    stranger.unlink()
    assert digests(tmp_path) == before


def test_pillow_agrees_with_each_good_object(store: Store) -> None:
    """Pillow's own reading of each 'ok' object has the declared format, frames, displayed size and EXIF texts."""
    for demo, path in store.with_status("ok"):
        if demo.format == "SVG":  # which Pillow does not read
            continue
        with Image.open(path) as image:
            assert (image.format, getattr(image, "n_frames", 1)) == (demo.format, demo.frames), demo.path
            exif = image.getexif()
            names = [str(exif.get(tag, "")).strip() for tag in (media.EXIF_MAKE, media.EXIF_MODEL)]
            assert " ".join(names).strip() == (demo.camera or ""), demo.path
            assert exif.get(media.EXIF_SOFTWARE) == demo.software, demo.path
            for frame in range(demo.frames or 0):
                image.seek(frame)
                image.load()
            image.seek(0)
            assert ImageOps.exif_transpose(image).size == (demo.width, demo.height), demo.path


def test_damaged_objects_open_but_do_not_load(store: Store) -> None:
    """Each 'decode_error' object, and each that is only cut off, shows the declared format and size, and fails once its
    pixels are asked for."""
    for demo, path in [*store.with_status("decode_error"), *store.with_status("ok", cut=True)]:
        with Image.open(path) as image:
            assert (image.format, *image.size) == (demo.format, demo.width, demo.height), demo.path
            with pytest.raises((OSError, SyntaxError)):
                image.load()


def test_unsupported_objects_are_no_pictures(store: Store) -> None:
    """Each 'unsupported' object is unknown to Pillow and declares nothing about a picture."""
    for demo, path in store.with_status("unsupported"):
        assert (demo.format, demo.width, demo.height, demo.frames) == (None,) * 4, demo.path
        with pytest.raises(UnidentifiedImageError):
            Image.open(path)


def test_the_bomb_has_a_valid_header_and_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The 'too_large' object is refused at Pillow's default limit; without the limit its declared size shows."""
    for demo, path in store.with_status("too_large"):
        with pytest.raises(Image.DecompressionBombError):
            Image.open(path)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        with Image.open(path) as image:
            assert (image.format, *image.size) == (demo.format, demo.width, demo.height)


def test_each_kind_is_there(store: Store) -> None:
    """The store holds each format, each status, both classes, large pictures, and stays small as a whole."""
    formats = {"JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "SVG"} | ({"HEIF"} if HAS_HEIF else set())
    assert {demo.format for demo in store.objects if demo.status == "ok"} == formats
    assert {demo.status for demo in store.objects} == {"ok", "unsupported", "decode_error", "too_large"}
    many = {demo.format for demo in store.objects if (demo.frames or 0) > 1}
    assert many == {"MPO", "GIF", "WEBP", "PNG", "TIFF"}
    for demo in store.objects:
        folder = demo.path.split("/")[0]
        assert demo.truth == (folder if folder in ("neutral", "drawings") else None), demo.path
    photographs = [demo for demo in store.objects if demo.truth == "neutral"]
    assert any((demo.width or 0) * (demo.height or 0) >= 12_000_000 for demo in photographs)
    assert any(min(demo.width or 0, demo.height or 0) > 448 for demo in photographs)
    assert sum((store.root / demo.path).stat().st_size for demo in store.objects) < 15_000_000


def test_each_pixel_mode_is_there(store: Store) -> None:
    """The good objects cover colour, grey, CMYK, palette, one-bit, 16-bit and transparent pixels."""
    modes = set()
    for demo, path in store.with_status("ok"):
        if demo.format == "SVG":  # which Pillow does not read
            continue
        with Image.open(path) as image:
            modes.add((demo.format, image.mode))
    assert modes >= {
        ("JPEG", "RGB"),
        ("JPEG", "L"),
        ("JPEG", "CMYK"),
        ("TIFF", "CMYK"),
        ("TIFF", "I;16"),
        ("PNG", "I;16"),
        ("PNG", "1"),
        ("PNG", "P"),
        ("PNG", "RGBA"),
        ("PNG", "LA"),
    }


def test_special_markers_are_there(store: Store) -> None:
    """Adobe marker, progressive scan, ICC profile and palette transparency are really in the files that name them."""
    marks = (
        ("modes/cmyk.jpg", "adobe"),
        ("formats/cat_progressive.jpg", "progressive"),
        ("phone/wide_gamut.jpg", "icc_profile"),
        ("modes/palette_transparent.png", "transparency"),
    )
    for name, key in marks:
        with Image.open(store.root / media.UPLOADS / name) as image:
            assert key in image.info, name


def test_awkward_names_are_there(store: Store) -> None:
    """Each character and habit that trips a naive reader of names is in some good object's name."""
    names = [demo.path.rsplit("/", 1)[-1] for demo, _ in store.with_status("ok")]
    for character in " #%?'\"\n":
        assert any(character in name for name in names), repr(character)
    assert any(not name.isascii() for name in names)
    assert any("." not in name for name in names)
    assert any(name.startswith(".") for name in names)
    assert any(name.startswith("_") for name in names)
    assert any(name.endswith(".JPG") for name in names)
    misnamed = {(demo.format, Path(demo.path).suffix) for demo in store.objects}
    assert {("PNG", ".jpg"), ("JPEG", ".txt")} <= misnamed


def test_only_the_meant_copies_are_duplicates(store: Store) -> None:
    """One picture is there three times in different folders, and no other two files are the same."""
    counts = Counter(digests(store.root).values())
    assert [count for count in counts.values() if count > 1] == [3]
