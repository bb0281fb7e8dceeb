"""A store with files that kill whoever decodes them, scanned on a real Ray: in one pass, and nobody else is harmed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from nsfwscan.config import ScanConfig
from nsfwscan.reports.progress import Silent
from nsfwscan.workflows.scan import ScanResult, run_scan
from tests.bombs import real_bmp
from tests.hostile_format import PLUGINS, hostile
from tests.later import later

ray_data = later("nsfwscan.execution.ray_data")


pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_local")]

_HOSTILE = {
    "03-segv": (hostile("segv"), "crashed", "SIGSEGV"),
    "04-abort": (hostile("abort"), "crashed", "SIGABRT"),
    "07-hang": (hostile("hang"), "timeout", "decode.timeout_s"),
    "11-stuck": (hostile("hang in C"), "timeout", "decode.timeout_s"),
    "12-memory": (hostile("eat memory"), "crashed", "decode.max_memory_bytes"),
    "13-bomb": (real_bmp(), "crashed", "decode.max_memory_bytes"),
    "17-exit": (hostile("exit"), "crashed", "exit code 3"),
}


def _scan(media: Path, out: Path) -> tuple[ScanResult, dict[str, dict[str, Any]]]:
    limits = {
        "timeout_s": 8.0,  # eating its memory takes a busy machine a while
        "max_memory_bytes": 2**27,
        "max_pixels": 500_000_000,
        "plugins": PLUGINS,
    }
    sections: dict[str, Any] = {"decode": limits, "engine": {"shard_rows": 8}, "report": {"max_error_rate": 1.0}}
    config = ScanConfig.load(None, {"source": {"uris": [str(media)]}, "out": str(out), **sections})
    result = run_scan(config, "test", ray_data.run_shards, Silent())
    rows = [row for uri in result.report_files for row in pq.read_table(io.BytesIO(Path(uri).read_bytes())).to_pylist()]
    return result, {Path(row["uri"]).name: row for row in rows}


@pytest.mark.long
def test_hostile_files_harm_nobody(tmp_path: Path) -> None:
    """Segfaults, hangs and memory bombs among good pictures end as `crashed` and `timeout` rows in the same pass; every
    other picture has the row, and the score to the bit, that it has without them."""
    media = tmp_path / "media"
    media.mkdir()
    for i in range(20):
        Image.linear_gradient("L").rotate(18 * i).convert("RGB").save(media / f"{i:02d}-good", "JPEG")
    _, alone = _scan(media, tmp_path / "alone")
    assert {row["status"] for row in alone.values()} == {"ok"}
    for name, (data, _, _) in _HOSTILE.items():
        (media / name).write_bytes(data)

    result, rows = _scan(media, tmp_path / "together")
    assert result.exit_code == 0
    assert sorted(rows) == sorted([*alone, *_HOSTILE])
    for name, (_, status, words) in _HOSTILE.items():
        row = rows.pop(name)
        assert (row["status"], row["accounted_as"], row["decision"]) == (status, "errored", "undetermined"), row
        assert words in row["error"]
        assert row["nsfw_score"] is None and row["format"] is not None
    for name, row in rows.items():
        assert {**row, "scanned_at": None} == {**alone[name], "scanned_at": None}
