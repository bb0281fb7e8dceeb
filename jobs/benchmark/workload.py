"""Input of every part of the benchmark: pictures, models, cores, and the time to measure.

A `Workload` is small, because it travels to the process that runs a part.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jobs.benchmark.media import Share, block_of, make_store, whole_blocks

_LEAST_IMAGES = 160
"""Twenty shards of eight: fewer show no steady state."""


@dataclass(frozen=True)
class Workload:
    """Pictures, models and cores to measure with, and for how long."""

    work: Path
    """A folder for pictures, stores and models, which are made once."""
    mix: tuple[Share, ...]
    pictures: tuple[Path, ...]
    """Distinct pictures: whole blocks of the mix."""
    model: Path
    """The checkpoint to measure."""
    free: Path
    """A checkpoint that costs almost nothing."""
    cores: int
    seconds: float
    """Approximate time to measure each rate."""
    repetitions: int = 3
    most_images: int | None = None
    """Largest number of objects of a store; None: as many as the time to measure needs."""

    def blocks(self) -> list[tuple[Path, ...]]:
        """Return the pictures in blocks; each block has the whole mix."""
        size = block_of(self.mix)
        return [self.pictures[i : i + size] for i in range(0, len(self.pictures), size)]

    def store_for(self, images_per_s: float) -> tuple[Path, int]:
        """Return a media store that lasts for the time to measure at that rate, and its number of objects.

        The store has at least `_LEAST_IMAGES` images, unless `most_images` is less.
        """
        wanted = max(images_per_s * self.seconds, _LEAST_IMAGES)
        images = whole_blocks(self.mix, wanted if self.most_images is None else min(wanted, self.most_images))
        return make_store(self.work, self.pictures, images), images
