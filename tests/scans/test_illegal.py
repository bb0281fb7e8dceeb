"""An illegal match leaves no pixel anywhere on disk: what was encoded and what was decoded is searched for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nsfwscan.config import ScanConfig, StorageConfig
from nsfwscan.execution.deadline import Deadline
from nsfwscan.execution.inline import run_inline
from nsfwscan.execution.layout import Layout
from nsfwscan.execution.pipeline import Job
from nsfwscan.images.decoder import to_pixels
from nsfwscan.images.pdq import pdq_of
from nsfwscan.models.registry import resolve
from nsfwscan.reports.progress import Silent
from nsfwscan.runs import previous
from nsfwscan.runs.escalations import ESCALATION_SCHEMA
from nsfwscan.runs.plan import Shard
from nsfwscan.runs.run import find_run
from nsfwscan.runs.staging import ShardResult
from nsfwscan.runs.verify import verify
from nsfwscan.workflows.scan import Engine, ScanResult, run_scan

_WINDOW = 48
"""Bytes; of noise, so many are nowhere by chance."""
ALL = "version: '1'\nrules:\n  - {name: all, when: 'true', decision: block}\notherwise: {decision: allow}\n"


def noise(seed: int) -> Image.Image:
    """A picture of coarse noise: much for PDQ to go by, and no two bytes of it alike for long."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize(
        (300, 260), Image.Resampling.BICUBIC
    )
    fine = random.integers(-12, 13, (260, 300, 3))
    return Image.fromarray((np.asarray(coarse, np.int16) + fine).clip(0, 255).astype(np.uint8))


def needles(data: bytes) -> list[bytes]:
    """Pieces of a file, and of the pixels that the model would have got."""
    geometry = resolve(ScanConfig.of({"source": {"uris": ["/"]}, "out": ""}).model, StorageConfig()).geometry
    _, pixels = to_pixels(data, geometry, max_pixels=10**8)
    return [
        whole[at : at + _WINDOW]
        for whole in (data, pixels)
        for at in range(1000, len(whole) - _WINDOW, len(whole) // 9)
    ]


def found_in(folder: Path, wanted: list[bytes]) -> set[str]:
    """Files under a folder that hold any of the pieces, Parquet as it is and as it was before it was compressed."""
    hits = set()
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        held = path.read_bytes()
        if path.suffix == ".parquet":
            for column in pq.read_table(path).columns:
                if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
                    held += b"".join(value or b"" for value in column.to_pylist())
        if any(needle in held for needle in wanted):
            hits.add(str(path.relative_to(folder)))
    return hits


class Case:
    """Two illegal pictures, one known by its bytes and one by its looks, among others; and where they are looked for."""

    def __init__(self, folder: Path) -> None:
        self.media, self.out, self.temporary = folder / "media", folder / "out", folder / "tmp"
        for place in (self.media, self.temporary):
            place.mkdir()
        for seed in range(12):
            noise(seed).save(self.media / f"{seed:02}.png")
        noise(1).resize((260, 230)).save(self.media / "01-copy.jpg", quality=80)
        first = (self.media / "00.png").read_bytes()
        (folder / "illegal.txt").write_text(f"sha256 {hashlib.sha256(first).hexdigest()}\npdq {pdq_of(noise(1))[0]}\n")
        (folder / "all.yaml").write_text(ALL)
        self.illegal = {f"{name}" for name in ("00.png", "01.png", "01-copy.jpg")}
        self.wanted = [n for name in sorted(self.illegal) for n in needles((self.media / name).read_bytes())]
        self.folder = folder

    def scan(self, run: Engine, *, banks: bool = True) -> tuple[ScanResult, set[str]]:
        """Return the result, and where the pictures were found while it ran."""
        sections = {
            "source": {"uris": [str(self.media)]},
            "out": str(self.out),
            "policy": str(self.folder / "all.yaml"),
            "report": {"save_images": True},
            "engine": {"shard_rows": 4, "inline_rows": 0},
            "banks": {"csam": {"uri": str(self.folder / "illegal.txt"), "kind": "illegal"}} if banks else {},
        }
        seen: set[str] = set()

        def watched(job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
            for result in run(job, shards, deadline):
                seen.update(found_in(self.out, self.wanted) | found_in(self.temporary, self.wanted))
                yield result

        result = run_scan(ScanConfig.of(sections), "one", watched, Silent())
        return result, seen | found_in(self.out, self.wanted) | found_in(self.temporary, self.wanted)


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setenv("NSFWSCAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    return Case(tmp_path)


def check(case: Case, result: ScanResult, seen: set[str]) -> None:
    assert seen == set()
    rows = [row for path in result.report_files for row in pq.read_table(path).to_pylist()]
    illegal = [row for row in rows if row["match_kind"] == "illegal"]
    assert {Path(row["uri"]).name for row in illegal} == case.illegal
    assert {(row["decision"], row["shield"], row["severity"], row["queue"]) for row in illegal} == {
        ("escalate", "hidden", 4, "legal")
    }
    assert all(row["nsfw_score"] is None and row["accounted_as"] == "matched" for row in illegal)
    assert [row["width"] for row in illegal if row["match_hash"] == "sha256"] == [None]  # not even its header was read
    assert result.record.balance.matched == 3
    [file] = [f for f in result.record.files if f.path.startswith("escalations/")]
    escalated = pq.read_table(f"{result.uri}/{file.path}")
    assert escalated.schema == ESCALATION_SCHEMA
    assert {Path(uri).name for uri in escalated["uri"].to_pylist()} == case.illegal
    page = Path(result.uri, "summary.html").read_text(encoding="utf-8")
    assert not [name for name in case.illegal if name in page]
    assert list(verify(find_run(result.uri, StorageConfig()))) == []


def test_nothing_is_left_of_it_inline(case: Case) -> None:
    """Neither in the store, staged, committed or copied, nor in temporary files; and the specialist is told where it is."""
    result, seen = case.scan(run_inline)
    check(case, result, seen)
    copies = [path for path in Path(result.uri, "false_positives").rglob("*") if path.suffix != ".parquet"]
    assert len([path for path in copies if path.is_file()]) == 10  # of all others


def test_what_is_searched_for_would_be_found(case: Case) -> None:
    """Without the bank, the same scan copies the same pictures, and the search finds the copies."""
    _, seen = case.scan(run_inline, banks=False)
    assert len({name for name in seen if name.endswith((".png", ".jpeg"))}) == 3


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(Layout("fused", 1), id="fused", marks=pytest.mark.full),
        pytest.param(Layout("split", 1, 1), id="split", marks=pytest.mark.long),
    ],
)
def test_nothing_is_left_of_it_on_ray(case: Case, layout: Layout) -> None:
    """In either layout; Ray's own folder, where objects are spilled and logs are kept, is searched, too."""
    import ray

    from nsfwscan.execution.ray_data import run_shards

    session = Path(ray._private.worker._global_node.get_session_dir_path())
    result, seen = case.scan(partial(run_shards, layout=layout))
    check(case, result, seen | found_in(session, case.wanted))


@pytest.mark.long
def test_a_later_night_does_not_decode_it_either(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """At another precision all else is read again; what is illegal is carried, also where the bank was left out."""
    monkeypatch.setattr(previous, "_SETTLED", timedelta(days=-1))
    case.scan(run_inline)
    bank = {"csam": {"uri": str(case.folder / "illegal.txt"), "kind": "illegal"}}
    for run_id, banks, dtype in (("two", bank, "float32"), ("three", {}, "auto")):
        sections = {"source": {"uris": [str(case.media)]}, "out": str(case.out), "model": {"dtype": dtype}}
        result = run_scan(ScanConfig.of({**sections, "banks": banks}), run_id, run_inline, Silent())
        assert (result.record.balance.scored, result.record.balance.carried) == (10, 3)
        rows = [row for part in result.report_files for row in pq.read_table(part).to_pylist()]
        illegal = {Path(row["uri"]).name: row for row in rows if row["match_kind"] == "illegal"}
        assert set(illegal) == case.illegal
        assert {(row["accounted_as"], row["decision"], row["carried_from"]) for row in illegal.values()} == {
            ("carried", "escalate", "one")
        }
