"""The two stores of a chaos test: media behind a proxy that fails, and reports; and what two reports say.

In: an S3 server, and a folder. Out: configurations and runs over them, reports as tables. Two reports that differ are
told apart row by row.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nsfwscan.config import ScanConfig
from nsfwscan.runs.plan import Shard, ShardReader
from nsfwscan.runs.run import Run
from nsfwscan.runs.staging import staged_shards
from nsfwscan.storage.store import Store
from tests.chaos.media import media
from tests.s3.servers import S3Endpoint
from tests.s3.test_servers import client

RUN_ID = "chaos"
SOURCE = "s3://media/2026/"
_OF_THE_RUN = ["run_id", "scanned_at"]
"""Columns in which any two runs differ."""


class Stores:
    """Stores that a scan reads and writes, seen past the proxy.

    Attributes:
        out: of the disturbed scan.
    """

    def __init__(self, server: S3Endpoint, folder: Path, *, reports_on_s3: bool) -> None:
        self.server, self.folder = server, folder
        self.out = "s3://reports/chaos" if reports_on_s3 else str(folder / "disturbed")
        self._keys: list[str] = []
        self._shards: tuple[Shard, ...] = ()

    def fill(self, objects: int, seed: int) -> None:
        """Put so many objects into the media store."""
        s3 = client(self.server)
        s3.create_bucket(Bucket="media")
        s3.create_bucket(Bucket="reports")
        puts = []
        with ThreadPoolExecutor(4) as threads:
            for key, data in media(objects, seed):
                self._keys.append(key)
                puts.append(threads.submit(s3.put_object, Bucket="media", Key=f"2026/{key}", Body=data))
        for put in puts:
            put.result()

    @property
    def uris(self) -> list[str]:
        """Of all objects, sorted."""
        return sorted(SOURCE + key for key in self._keys)

    def config(self, out: str, **sections: Any) -> ScanConfig:
        """A scan of the media, straight from the server."""
        keys = {"key": self.server.access_key, "secret": self.server.secret_key}
        storage = {"endpoint_url": self.server.endpoint_url, "options": keys}
        return ScanConfig.load(None, {"source": {"uris": [SOURCE]}, "out": out, "storage": storage, **sections})

    @property
    def run(self) -> Run:
        """Return the disturbed run."""
        return self._run(self.out)

    def _run(self, out: str) -> Run:
        return Run(Store.at(out, self.config(out).storage), RUN_ID)

    def shards(self) -> tuple[Shard, ...]:
        """Of the disturbed run; none as long as it has no plan."""
        if not self._shards and (found := self.run.planned()) is not None:
            self._shards = found[0].shards
        return self._shards

    def staged(self) -> list[Shard]:
        """Return the shards that are done."""
        names = staged_shards(self.run.staging)
        return [shard for shard in self.shards() if shard.name in names]

    def staged_objects(self) -> list[str]:
        """Bucket and key of the objects whose rows are staged."""
        read = ShardReader(self.run.folder)
        return [uri.removeprefix("s3://") for shard in self.staged() for uri in read(shard)["uri"].to_pylist()]

    def report(self, out: str) -> pa.Table:
        """A committed report by URI, without what is the run's own."""
        run = self._run(out)
        paths = [file.path for file in run.record().files if file.path.startswith("report/")]
        table = pa.concat_tables([pq.read_table(io.BytesIO(run.folder.read(path))) for path in paths])
        return table.sort_by("uri").drop_columns(_OF_THE_RUN)


def differences(expected: pa.Table, found: pa.Table, most: int = 10) -> list[str]:
    """Return what another report says of the same objects, bit by bit, in words; nothing where it says the same."""
    if found.equals(expected):
        return []
    rows = [table.to_pylist() for table in (expected, found)]
    lost, twice = (
        {r["uri"] for r in rows[0]} - {r["uri"] for r in rows[1]},
        len(rows[1]) - len({r["uri"] for r in rows[1]}),
    )
    told = [f"{len(lost)} lost, {twice} twice, {found.num_rows} rows instead of {expected.num_rows}"]
    by_uri = {row["uri"]: row for row in rows[1]}
    for row in rows[0]:
        other = by_uri.get(row["uri"], {})
        wrong = [
            f"{name} {other.get(name)!r} instead of {value!r}"
            for name, value in row.items()
            if other.get(name) != value
        ]
        told += [f"{row['uri']}: {', '.join(wrong)}"] if wrong else []
    return told[: most + 1]
