"""Measure what the nights after the first one cost (figures `nights.*`).

A store of small pictures is scanned three times by the command `nsfwscan scan`: as it is, again, and again with one new
object to a hundred others. The time is the CPU time of the command and of all its processes (each waits for those that
it started, also for the decode workers), since a night of few objects is mostly start-up, and machines are noisy.
Pictures are small so that the first night costs little: the share of the others is then the highest that is seen.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from jobs.benchmark.figures import SECONDS, Figure, figure
from jobs.benchmark.media import TINY, make_pictures, make_store
from jobs.benchmark.workload import Workload
from nsfwscan.errors import NsfwscanError
from nsfwscan.models.onnx_backend import EMBEDDED

_OBJECTS_A_SECOND = 200
"""Objects of the store for each second that a rate is measured: they take about twice as long on two cores."""
_DISTINCT = 200
_NEW = 100
"""One in so many objects comes after the first night."""
NIGHTS = {"first": "first night", "same": "the night after, nothing new", "second": "the night after, 1 % new"}


def measure_nights(workload: Workload) -> list[Figure]:
    """Measure the CPU seconds of three nights over one store."""
    objects = max(_NEW, int(workload.seconds * _OBJECTS_A_SECOND))
    objects = min(objects, workload.most_images or objects)
    store = make_store(workload.work, make_pictures(workload.work, TINY, _DISTINCT), objects + objects // _NEW)
    with tempfile.TemporaryDirectory(prefix="nsfwscan-bench-", dir=workload.work) as folder:
        took = nights(sorted(store.rglob("*.jpg")), objects, Path(folder), workload.cores)
    note = f"CPU time of `nsfwscan scan` over {objects:,} small pictures, {EMBEDDED}, without Ray"
    return [figure(f"nights.{night}", label, [took[night]], SECONDS, note) for night, label in NIGHTS.items()]


def nights(pictures: list[Path], first: int, folder: Path, cores: int) -> dict[str, float]:
    """Return the CPU seconds of each night.

    Args:
        pictures: those of the first night, then the new ones.
        first: how many there are in the first night.
        folder: an empty one, on the disk of the pictures.

    Raises:
        NsfwscanError: a scan failed; the message ends with its last output.
    """
    media, took = folder / "media", {}
    _link(pictures[:first], media)
    took["first"] = _scan(media, folder, cores)
    took["same"] = _scan(media, folder, cores)
    _link(pictures[first:], media)
    took["second"] = _scan(media, folder, cores)
    return took


def _scan(media: Path, folder: Path, cores: int) -> float:
    config = folder / "config.yaml"
    config.write_text("engine: {inline_rows: 1000000000}")  # what Ray itself takes is another figure
    command = [sys.executable, "-m", "nsfwscan", "scan", str(media), "--out", str(folder / "out"), "--model", EMBEDDED]
    before = _cpu_s()
    done = subprocess.run(
        [*command, "--config", str(config), "--num-cpus", str(cores)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise NsfwscanError(f"a night failed: {' '.join(done.stderr.split())[-500:]}")
    return _cpu_s() - before


def _cpu_s() -> float:
    """Return the CPU seconds of all child processes that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _link(pictures: list[Path], media: Path) -> None:
    """Put pictures among the media, new ones between the others as names go."""
    for picture in pictures:
        place = media / picture.stem[-2:] / picture.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.hardlink_to(picture)
