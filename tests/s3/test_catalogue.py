"""A store on S3 is asked in SQL as one on disk, by nsfwscan's own way to S3."""

from __future__ import annotations

from pathlib import Path

from nsfwscan.config import StorageConfig
from nsfwscan.reports.store_query import query_store, store_sql
from nsfwscan.runs.catalogue import CATALOGUE
from nsfwscan.storage.store import Store
from tests.runs.rows import files, scanned
from tests.s3.servers import S3Endpoint
from tests.s3.test_servers import client


def test_a_store_on_s3_in_sql(moto: S3Endpoint, tmp_path: Path) -> None:
    """Its rows of all runs, and the SQL that opens it elsewhere; without `runs.parquet`, too."""
    client(moto).create_bucket(Bucket="asked")
    for run_id in "12":
        scanned(files(tmp_path / f"media{run_id}", 2), "s3://asked/out", run_id=run_id)
    store = Store.at("s3://asked/out", StorageConfig())
    question = (
        "SELECT run_id, run_kind, count(*) AS objects FROM rows JOIN runs USING (run_id) GROUP BY ALL ORDER BY ALL"
    )
    want = [{"run_id": run_id, "run_kind": "scan", "objects": 2} for run_id in "12"]
    assert query_store(store, question).to_pylist() == want
    assert "FROM read_parquet('s3://asked/out/runs.parquet')" in store_sql(store) and "CREATE SECRET" in store_sql(
        store
    )
    store.delete(CATALOGUE)
    assert query_store(store, question).to_pylist() == want and not store.exists(CATALOGUE)
