"""What every part of the benchmark is given: pictures, models, cores, and how long to measure.

In: options. Out: a `Workload`, light enough to travel to the process that a part runs in.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jobs.benchmark.media import Share, block_of, make_store, whole_blocks

_LEAST_IMAGES = 160
"""Twenty shards of eight: fewer show no steady state."""


@dataclass(frozen=True)
class Workload:
    """What is measured, on what, for how long."""

    work: Path
    """A folder for what is made once: pictures, stores, models."""
    mix: tuple[Share, ...]
    pictures: tuple[Path, ...]
    """Distinct ones, whole blocks of the mix."""
    model: Path
    """The checkpoint that figures are about."""
    free: Path
    """A checkpoint that costs nothing."""
    cores: int
    seconds: float
    """About how long each rate is measured."""
    repetitions: int = 3
    most_images: int | None = None
    """Objects of a store at most; None: as many as the time asks for."""

    def blocks(self) -> list[tuple[Path, ...]]:
        """The pictures, each block with the whole mix."""
        size = block_of(self.mix)
        return [self.pictures[i : i + size] for i in range(0, len(self.pictures), size)]

    def store_for(self, images_per_s: float) -> tuple[Path, int]:
        """A media store that lasts for the time to measure at that rate, or a little longer than a start takes, and how
        many objects are in it."""
        wanted = max(images_per_s * self.seconds, _LEAST_IMAGES)
        images = whole_blocks(self.mix, wanted if self.most_images is None else min(wanted, self.most_images))
        return make_store(self.work, self.pictures, images), images
