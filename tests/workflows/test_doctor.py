"""What would fail in the night is said in the evening, with what to do about it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from nsfwscan.cli.main import main
from nsfwscan.config import ScanConfig
from nsfwscan.errors import NsfwscanError
from nsfwscan.images.formats.containers import INSTALL
from nsfwscan.models import registry
from nsfwscan.workflows import doctor
from nsfwscan.workflows.doctor import Finding, examine
from tests.checkpoints import make_vit
from tests.permissions import unprivileged
from tests.runs.rows import files


@pytest.fixture
def media(tmp_path: Path) -> Path:
    return files(tmp_path / "media", 3)


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the one check that takes seconds; it has a test of its own."""
    monkeypatch.setattr(doctor, "_ray", lambda config: iter(()))


def examined(media: Path | None, out: Path | None, **sections: Any) -> list[Finding]:
    given = {"source": {"uris": [] if media is None else [str(media)]}, "out": "" if out is None else str(out)}
    return list(examine(ScanConfig.load(None, {**given, **sections})))


def failures(findings: list[Finding]) -> dict[str, str]:
    return {finding.subject: finding.detail for finding in findings if finding.is_failure}


def left_in(store: Path) -> list[Path]:
    return [path for path in store.rglob("*") if path.is_file()]


# --- healthy --------------------------------------------------------------------------------------------------------


SUBJECTS = ["versions", "machine", "space", "space", "space", "decoder", "source", "source", "store", "policy", "model"]


def is_healthy(exit_code: int, said: str, complained: str, subjects: list[str]) -> None:
    lines = said.splitlines()
    assert (exit_code, complained) == (0, "")
    assert all(line.split()[0] in ("ok", "warn") for line in lines), said
    assert [line.split()[1] for line in lines] == subjects


@pytest.mark.usefixtures("without_ray")
def test_a_healthy_set_up(media: Path, tmp_path: Path) -> None:
    """Every check is a line that says what was found, the exit code is 0, and the store is as it was."""
    done = run(str(media), "--out", str(tmp_path / "out"))
    is_healthy(done.exit_code, done.stdout, done.stderr, SUBJECTS)
    assert f"ok    source    {media}: can be listed and read ({media}/0000.jpg, 1 bytes)" in done.stdout.splitlines()
    assert left_in(tmp_path / "out") == []


@pytest.mark.ray
@pytest.mark.long
def test_a_healthy_set_up_with_ray(media: Path, tmp_path: Path) -> None:
    """The command in a process of its own starts a Ray, says what runs there, and ends it."""
    command = [sys.executable, "-m", "nsfwscan", "doctor", str(media), "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, "--num-cpus", "1"], capture_output=True, text=True, check=False)
    is_healthy(done.returncode, done.stdout, done.stderr, [*SUBJECTS, "ray"])
    assert "a local Ray: 1 nodes, 1 CPUs, 0 GPUs; would use 1 CPU actors, the model in each" in done.stdout
    assert left_in(tmp_path / "out") == []


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("extra", [True, False])
def test_videos_are_warned_of_without_their_extra(tmp_path: Path, extra: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install; with the extra they are scanned, and nothing is wrong with a source of videos."""
    monkeypatch.setattr(doctor, "videos_are_decoded", lambda: extra)
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "clip.mp4").write_bytes(b"\0\0\0\x18ftypisom\0\0\2\0isomavc1" + bytes(600))
    warned = [f.detail for f in examined(folder, None) if f.subject == "source" and f.verdict == "warn"]
    assert warned[:1] == ([] if extra else [f"{folder}: of the first 1 objects, 1 are videos, which need: {INSTALL}"])


@pytest.mark.usefixtures("without_ray")
@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="there is a GPU")
def test_decoding_on_a_gpu_is_tried() -> None:
    """Where JPEGs are to be decoded on a GPU and are not, the check of the decoder says why."""
    found = failures(examined(None, None, decode={"mode": "gpu", "pdq": "off"}))
    assert found["decoder"].startswith("--decode gpu needs ")


@pytest.mark.usefixtures("without_ray")
def test_a_source_without_images_is_warned_of(tmp_path: Path) -> None:
    """By the beginnings of some objects, with what they are; not where images are among them, or nobody minds."""
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4" * 64 + b"\nsize 12345\n"
    folder = tmp_path / "pointers"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.jpg").write_bytes(pointer)
    (folder / "pipe.jpg").symlink_to("pipe")
    os.mkfifo(folder / "pipe")
    [warned] = [f for f in examined(folder, None) if f.subject == "source" and f.verdict == "warn"]
    assert "of the first 3 objects, 3 are no images (3 × a Git LFS pointer" in warned.detail
    Image.new("RGB", (8, 8)).save(folder / "image.png")
    assert not [f for f in examined(folder, None) if f.subject == "source" and f.verdict == "warn"]


@pytest.mark.usefixtures("without_ray")
def test_nothing_is_left_in_a_store_in_use(media: Path, tmp_path: Path) -> None:
    """A store that holds runs already holds exactly the same afterwards."""
    (tmp_path / "out" / "runs" / "a").mkdir(parents=True)
    (tmp_path / "out" / "runs" / "a" / "_SUCCESS").touch()
    before = sorted(left_in(tmp_path))
    assert failures(examined(media, tmp_path / "out")) == {}
    assert sorted(left_in(tmp_path)) == before


@pytest.mark.usefixtures("without_ray")
def test_without_sources_and_store() -> None:
    """What was not named is not checked, and that is said; it is no failure."""
    findings = examined(None, None)
    warned = {finding.subject: finding.detail for finding in findings if finding.verdict == "warn"}
    assert "name the sources" in warned["source"]
    assert "pass --out STORE" in warned["store"]
    assert failures(findings) == {}


# --- what fails -----------------------------------------------------------------------------------------------------


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *arguments])


@pytest.mark.usefixtures("without_ray")
def test_each_failure_is_said_and_exits_1(media: Path, tmp_path: Path) -> None:
    """A missing source, a store that cannot be written, and a model that is not there are one line each, the checks
    after a failed one still run, and the exit code is 1."""
    (tmp_path / "file").touch()
    done = run(str(tmp_path / "absent"), str(media), "--out", str(tmp_path / "file" / "out"), "--model", "/absent")
    assert done.exit_code == 1
    failed = [line for line in done.stdout.splitlines() if line.startswith("fail")]
    assert [line.split()[1] for line in failed] == ["source", "store", "model"]
    assert failed[0].endswith(f"{tmp_path / 'absent'}: no such file or directory")
    assert f"cannot write {tmp_path / 'file' / 'out'}" in failed[1]
    assert failed[2].endswith(
        "/absent: no such model directory (nor is it embedded:open-nsfw, a pack, a URI or a hub id)"
    )
    assert f"ok    source    {media}: can be listed and read" in done.stdout


@pytest.mark.usefixtures("without_ray")
def test_a_store_without_permission() -> None:
    """A store that this user may not write fails with the reason, and is left as it is."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        Path(name).chmod(0o555)
        with unprivileged():
            found = failures(examined(None, Path(name)))
        assert found["store"].startswith(f"cannot write {name}/staging/doctor-")
        assert found["store"].lower().endswith("permission denied")
        assert list(Path(name).iterdir()) == []


@pytest.mark.usefixtures("without_ray")
def test_a_source_that_lists_but_does_not_read(tmp_path: Path) -> None:
    """Objects that can be listed and not read are a failure before the night, with the example and the reason."""
    folder = tmp_path / "media"
    folder.mkdir()
    (folder / "dangling.jpg").symlink_to("nowhere")
    detail = failures(examined(folder, None))["source"]
    assert detail == f"{folder}: can be listed, but {folder}/dangling.jpg cannot be read: no such object"


@pytest.mark.usefixtures("without_ray")
def test_a_source_that_lists_nothing(media: Path) -> None:
    """Globs that leave nothing to scan are found."""
    found = failures(examined(media, None, source={"uris": [str(media)], "include": ["*.png"]}))
    assert found["source"] == f"{media}: lists nothing (with these --include/--exclude)"


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rules: [", "is not YAML"),
        ("version: 1\nrules: []\n", "otherwise: Field required"),
        (
            "version: 1\nrules: [{name: a, when: nsfw_scor > 0.5, decision: block}]\notherwise: {decision: allow}",
            "rule 'a'",
        ),
    ],
)
def test_a_bad_policy(tmp_path: Path, text: str, words: str) -> None:
    """A policy that does not bind fails with the file's name and what is wrong in it."""
    policy = tmp_path / "mine.yaml"
    policy.write_text(text)
    done = run("--policy", str(policy))
    assert done.exit_code == 1
    assert "fail" in done.stdout and str(policy) in done.stdout and words in done.stdout


@pytest.mark.usefixtures("without_ray")
def test_banks_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What each holds, what of it is malformed; and one that cannot be read fails."""
    monkeypatch.setenv("NSFWSCAN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "good.txt").write_text("a" * 32)
    (tmp_path / "odd.txt").write_text("a" * 32 + "\nx\n")
    banks = {name: {"uri": str(tmp_path / f"{name}.txt")} for name in ("good", "odd", "none")}
    config = ScanConfig.of({"source": {"uris": []}, "out": "", "banks": banks})
    found = [finding for finding in examine(config) if finding.subject == "banks"]
    assert [finding.verdict for finding in found] == ["ok", "warn", "fail"]
    assert (
        "1 md5" in found[0].detail and "1 malformed, e.g. line 2" in found[1].detail and "bank none" in found[2].detail
    )


@pytest.mark.usefixtures("without_ray")
def test_a_model_that_returns_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that overflows in its precision is found with one grey image, and the message says what to try."""
    monkeypatch.setattr(registry, "load", lambda *_: lambda batch: np.full((len(batch), 2), np.nan, np.float32))
    detail = failures(examined(None, None))["model"]
    assert detail.endswith("returns no numbers in float32: try --dtype float32")


@pytest.mark.usefixtures("without_ray")
def test_wrong_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dependency out of its range and one that is missing are named, with the command that mends it; extras that
    are not asked for do not matter."""
    wanted = ["numpy>=99", "no-such-package", "absent-extra; extra == 'dev'", "click>=8"]
    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    detail = failures(examined(None, None))["versions"]
    assert detail == (
        f"numpy {np.__version__} is not >=99; no-such-package is not installed: pip install -c constraints.txt nsfwscan"
    )


@pytest.mark.usefixtures("without_ray")
def test_little_space_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is nearly full is pointed out for each place that a scan writes to, and stops nothing."""
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(2**40, 2**40, 2**29))
    findings = [finding for finding in examined(None, tmp_path / "a" / "b") if finding.subject == "space"]
    assert [(finding.verdict, finding.detail.split(" (")[0]) for finding in findings] == [
        ("warn", "0.5 GiB free for temporary"),
        ("warn", "0.5 GiB free for models"),
        ("warn", "0.5 GiB free for reports"),
    ]


def test_a_cluster_that_does_not_answer() -> None:
    """An address at which nobody listens fails at once, and names itself."""
    found = failures(examined(None, None, engine={"address": "ray://127.0.0.1:1"}))
    assert list(found) == ["ray"]
    assert "cannot reach Ray at ray://127.0.0.1:1" in found["ray"]


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("error", [NsfwscanError("in words"), ZeroDivisionError("unforeseen")])
def test_a_check_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Whatever a check runs into is one failed line, and those after it are made."""

    def broken(config: ScanConfig) -> Iterator[Finding]:
        yield Finding("ok", "machine", "before")
        raise error

    monkeypatch.setattr(doctor, "_machine", broken)
    findings = examined(None, None)
    assert "unforeseen" in failures(findings)["machine"] or failures(findings)["machine"] == "in words"
    assert findings[-1].subject == "model"


def test_lines_are_aligned() -> None:
    """A finding is one line: verdict, subject, detail."""
    assert str(Finding("warn", "space", "0.5 GiB free")) == "warn  space     0.5 GiB free"


@pytest.mark.usefixtures("without_ray")
def test_every_model_is_tried(media: Path, tmp_path: Path) -> None:
    """Prefilter and detectors are loaded and asked as the model is; one that is not there fails by itself."""
    make_vit(tmp_path / "vit")
    vit = {"uri": str(tmp_path / "vit")}
    sections: dict[str, Any] = {"model": vit, "cascade": {"enabled": True}, "detectors": {"violence": dict(vit)}}
    found = {finding.subject: finding for finding in examined(media, None, **sections)}
    assert found["prefilter"].detail.startswith("open-nsfw@") and "sfw → neutral" in found["prefilter"].detail
    assert found["detector"].detail.startswith("violence@") and "drawings, hentai, neutral" in found["detector"].detail
    sections["detectors"]["violence"]["uri"] = str(tmp_path / "none")
    assert "none" in failures(examined(media, None, **sections))["model"]
