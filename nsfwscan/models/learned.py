"""Know which contents a checkpoint learned from, by the list beside its weights (`learned.parquet`).

What a model says of a picture that it learned from does not tell how good it is on others. So estimates of a run leave
such pictures out, where its models say which they are. A changed copy of one (cut, encoded anew) still counts.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nsfwscan.config import StorageConfig
from nsfwscan.errors import NsfwscanError
from nsfwscan.storage.store import Store, from_parquet
from nsfwscan.text import plural, redacted

LEARNED = "learned.parquet"
"""Name of the list in a checkpoint's folder."""
LEARNED_SCHEMA = pa.schema([pa.field("sha256", pa.string()), pa.field("split", pa.string())])
"""Hex SHA-256 of each content, as in reports, and its split: `train`; `validation`, by which epoch and temperature were
chosen; or `backbone`, of what the checkpoint learned from that it was made of."""
_MADE_ELSEWHERE = ("embedded:", "pack:")


@dataclass(frozen=True)
class Learned:
    """Contents that the models of a run learned from.

    Attributes:
        contents: hex SHA-256 of each.
        unknown: models of which nothing says what they learned from. Those that come with the package, and packs, are
            not among them: they were made elsewhere, of other pictures.
    """

    contents: pa.Array
    unknown: tuple[str, ...] = ()

    def without(self, rows: pa.Table) -> tuple[pa.Table, int]:
        """Return the rows of other contents, by `sha256`, and how many contents are left out."""
        is_learned = pc.is_in(rows["sha256"], self.contents)
        return rows.filter(pc.invert(is_learned)), pc.count_distinct(rows["sha256"].filter(is_learned)).as_py()


def learned_parquet(splits: Mapping[str, Iterable[str]]) -> bytes:
    """Return the list of a checkpoint.

    Args:
        splits: hex SHA-256 of the contents of each.
    """
    rows = [
        {"sha256": sha256, "split": split} for split, contents in splits.items() for sha256 in sorted(set(contents))
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, LEARNED_SCHEMA), buffer, compression="zstd")
    return buffer.getvalue()


def learned_by(models: Iterable[str], storage: StorageConfig) -> Learned:
    """Return what models learned from. Nothing is raised: what cannot be read is not known.

    Args:
        models: their URIs, as in `run.json`.
    """
    lists = {uri: _list_of(uri, storage) for uri in dict.fromkeys(models)}
    known = [found for found in lists.values() if found is not None]
    unknown = tuple(redacted(uri) for uri, found in lists.items() if found is None)
    return Learned(pa.concat_arrays([pa.array([], pa.string()), *known]), unknown)


def in_words(contents: int, unknown: Iterable[str]) -> Iterator[str]:
    """Yield what a person should know of an estimate.

    Args:
        contents: drawn ones that were left out.
        unknown: as in `Learned`.
    """
    if contents:
        yield f"left out: {plural(contents, 'drawn content')} that a model of the run learned from"
    for uri in unknown:
        yield (
            f"nothing says what {uri} learned from (it has no {LEARNED}): if drawn objects are among it, the model is "
            "worse on others than it seems here"
        )


def _list_of(uri: str, storage: StorageConfig) -> pa.Array | None:
    """Return the list of one model: empty where it was made elsewhere; None where there is none that can be read."""
    if uri.startswith(_MADE_ELSEWHERE):
        return pa.array([], pa.string())
    folder = uri.rpartition("/")[0] if uri.endswith(".onnx") else uri
    with suppress(NsfwscanError, FileNotFoundError, pa.ArrowException, KeyError):
        return from_parquet(Store.at(folder, storage).read(LEARNED), ["sha256"])["sha256"].combine_chunks()
    return None
