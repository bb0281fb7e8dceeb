"""Read the embeddings of a committed run, for what looks for contents that are alike, or unlike all that was seen.

    for found in embeddings_of(Run(store, run_id)):
        nearest = found.vectors @ known.T          # cosines, since vectors have length 1

Each file is compared with its record first. Tombstones of forgotten objects are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nsfwscan.errors import ConfigError
from nsfwscan.runs.beside import EMBEDDINGS
from nsfwscan.runs.run import Run

_BATCH_ROWS = 16_384


@dataclass(frozen=True)
class Embeddings:
    """Some embeddings by one detector.

    Attributes:
        uris: of the objects; one of several views has several.
        sha256s: of their bytes.
        views: int32 [n], the frame or page, from 0.
        vectors: float32 [n, dimensions], each of length 1.
    """

    uris: list[str]
    sha256s: list[str]
    views: NDArray[np.int32]
    vectors: NDArray[np.float32]


def embeddings_of(run: Run, detector: str | None = None) -> Iterator[Embeddings]:
    """Yield the embeddings of a run by one detector, some thousand at a time, ordered by URI within a file; nothing
    where it has none. A snapshot has those of carried rows, too; a delta only those of its own rows.

    Args:
        detector: its name; unset: the only one.

    Raises:
        ConfigError: `detector` is unset, and the run has embeddings of several.
        StoreError: a file is absent or was changed.
    """
    chosen = detector
    for file in run.record().files_in(EMBEDDINGS.folder):
        for batch in run.parquet(file).iter_batches(_BATCH_ROWS, use_threads=False):
            rows = pa.Table.from_batches([batch])
            rows = rows.filter(pc.is_valid(rows["vector"]))
            names = [] if detector is not None else rows["detector"].unique().to_pylist()
            for name in names:
                if name != (chosen := chosen or name):
                    raise ConfigError(f"run {run.run_id} has embeddings of {chosen} and of {name}: name one of them")
            if (mine := rows.filter(pc.equal(rows["detector"], chosen or ""))).num_rows:
                yield _embeddings(mine)


def _embeddings(rows: pa.Table) -> Embeddings:
    vectors = pc.list_flatten(rows["vector"].combine_chunks()).to_numpy()
    return Embeddings(
        rows["uri"].to_pylist(),
        rows["sha256"].to_pylist(),
        rows["view"].to_numpy(),
        vectors.reshape(rows.num_rows, -1),
    )
