"""Whatever bytes a store holds, every object ends in exactly one true row."""

from __future__ import annotations

import hashlib
import io
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nsfwscan.config import ScanConfig
from nsfwscan.errors import Status
from nsfwscan.execution.inline import run_inline
from nsfwscan.reports.progress import Silent
from nsfwscan.schema import Accounted
from nsfwscan.workflows.scan import run_scan


def _encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((40, 30)).convert("RGB").save(buffer, format=kind)
    return buffer.getvalue()


_IMAGES = {kind: _encoded(kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF")}


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid file, cut somewhere and with some of its bytes replaced."""
    data = bytearray(_IMAGES[draw(st.sampled_from(sorted(_IMAGES)))])
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


contents = st.lists(st.one_of(st.binary(max_size=300), damaged()), min_size=1, max_size=12)


@pytest.mark.long
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(contents)
def test_any_bytes_end_in_one_row(files: list[bytes]) -> None:
    """Random bytes and damaged images alike: one row an object, its digest true, a score or an error and never both."""
    with tempfile.TemporaryDirectory() as folder:
        media, out = Path(folder, "media"), Path(folder, "out")
        media.mkdir()
        for i, data in enumerate(files):
            (media / f"{i:03d}").write_bytes(data)
        config = ScanConfig.load(None, {"source": {"uris": [str(media)]}, "out": str(out)})
        result = run_scan(config, "any", run_inline, Silent())
        [part] = result.report_files
        rows = pq.read_table(io.BytesIO(Path(part).read_bytes())).sort_by("uri").to_pylist()
    assert [Path(row["uri"]).name for row in rows] == [f"{i:03d}" for i in range(len(files))]
    for data, row in zip(files, rows, strict=True):
        assert row["sha256"] == hashlib.sha256(data).hexdigest() and row["size"] == len(data)
        scored = row["status"] == Status.OK
        assert (row["nsfw_score"] is not None) == scored and (row["error"] is None) == scored
        copied = row["duplicate_of"] is not None
        assert row["accounted_as"] == (
            Accounted.DUPLICATE if copied else Accounted.SCORED if scored else Accounted.ERRORED
        )
        assert scored or row["decision"] == "undetermined"
