"""Tell the demo's story: two nights over a small media store, with a hash list, a policy, and something to find.

All files lie in one folder: `media/` (see `media.py`), `known-bad.csv`, `policy.yaml` and the report store
`reports/`. A second call begins from the start.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from nsfwscan.api import scan
from nsfwscan.demo.drawings import drawing
from nsfwscan.demo.media import build
from nsfwscan.errors import ConfigError
from nsfwscan.images.pdq import pdq_of

if TYPE_CHECKING:
    from nsfwscan.reports.progress import Progress
    from nsfwscan.workflows.scan import ScanResult

_MARK = ".nsfwscan-demo"
KNOWN = "neutral/coffee.png"
"""A harmless picture that the demo's hash list calls known-bad. The list holds its PDQ hash, which also matches other
sizes and formats of it."""
_AGE_S = 3600
"""Age of the files, in seconds, when the first night begins."""
GONE, NEW = "drawings/poster.jpg", "uploads/2026/12/new_today.png"
"""Between the nights, one object is deleted and one is added."""

POLICY = """\
# The demo's policy: the first rule that is true wins.
version: demo
thresholds: {explicit: 0.8, borderline: 0.1}   # 0.1 is far too low for a real store: here, something is to be found
rules:
  - {name: known-bad,  when: "match_kind = 'block'", decision: block, queue: known, shield: blur, severity: 3}
  - {name: explicit,   when: "nsfw_score >= $explicit", decision: block, queue: adult, shield: blur, severity: 3}
  - {name: borderline, when: "nsfw_score >= $borderline", decision: review, queue: adult, shield: blur, severity: 2}
  - {name: no-image,   when: "status = 'unsupported'", decision: undetermined, queue: none}
  - {name: unreadable, when: "status <> 'ok'", decision: undetermined, queue: ingest, severity: 1}
otherwise: {decision: allow}
"""


class Demo:
    """A folder with the demo's media store, hash list, policy and report store."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.media, self.bank = folder, folder / "media", folder / "known-bad.csv"
        self.policy, self.reports = folder / "policy.yaml", folder / "reports"

    def prepare(self) -> int:
        """Make the folder anew and return how many objects its media store has. Raises ConfigError where the folder
        holds other files than a demo's."""
        mark = self.folder / _MARK
        if self.folder.is_dir() and any(self.folder.iterdir()) and not mark.exists():
            raise ConfigError(f"{self.folder} is not empty, and no demo: name another folder")
        for old in (self.media, self.reports):
            shutil.rmtree(old, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        mark.write_text("made by `nsfwscan demo`, which removes media/ and reports/ beside this file\n")
        objects = build(self.media)
        for path in self.media.rglob("*"):  # night 2 would read files again that are about as new as night 1
            os.utime(path, (time.time() - _AGE_S,) * 2)
        with Image.open(self.media / KNOWN) as image:
            self.bank.write_text(f"id,pdq\ncup-of-coffee,{pdq_of(image)[0]}\n")
        self.policy.write_text(POLICY)
        return len(objects)

    def nights(self, progress: Progress | None = None) -> Iterator[ScanResult]:
        """Scan the store twice; between the nights an object is deleted, and another one is added."""
        yield self._scan("night-1", progress)
        (self.media / GONE).unlink()
        (self.media / NEW).parent.mkdir(parents=True, exist_ok=True)
        drawing("smiley.gif").transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(self.media / NEW)
        yield self._scan("night-2", progress)

    def _scan(self, run_id: str, progress: Progress | None) -> ScanResult:
        return scan(
            self.media,
            self.reports,
            run_id=run_id,
            policy=str(self.policy),
            banks={"known-bad": {"uri": str(self.bank), "kind": "block"}},
            report={"max_error_rate": 0.1},  # its media store is worse than a real one
            progress=progress,
        )
