"""Anchors in a bucket with object lock: nobody can take them away, and who tries is seen."""

from __future__ import annotations

from pathlib import Path

import botocore.exceptions
import pytest

from nsfwscan.config import ScanConfig, StorageConfig
from nsfwscan.errors import NsfwscanError
from nsfwscan.runs.finding import DAMAGED, TAMPERED, exit_code_of
from nsfwscan.storage.store import Store
from nsfwscan.workflows.doctor import _evidence
from nsfwscan.workflows.verify import verify_all
from tests.runs.rows import files, scanned
from tests.s3.servers import S3Endpoint
from tests.s3.test_servers import client

HERE = StorageConfig()
LOCK = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 400}}}


@pytest.mark.long
@pytest.mark.parametrize("compatibility", ["aws", "basic"])
def test_an_anchor_under_object_lock(moto: S3Endpoint, tmp_path: Path, compatibility: str) -> None:
    """It is written with the checksum that a lock wants; its version cannot be deleted; a delete marker does not hide it,
    nor that the run was deleted."""
    s3, bucket, anchors = client(moto), f"locked-{compatibility}", f"s3://locked-{compatibility}/nightly"
    s3.create_bucket(Bucket=f"{bucket}-reports")
    s3.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    s3.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration=LOCK)
    out, storage = f"s3://{bucket}-reports/out", {"s3_compatibility": compatibility}
    result = scanned(files(tmp_path / "media", 1), out, run_id="1", out_storage=storage, evidence={"anchor": anchors})
    assert (result.exit_code, result.unproved) == (0, None)

    def found() -> tuple[int, list[str]]:
        checked = list(verify_all(out, HERE, None, Store.at(anchors, HERE)))
        findings = [finding for one in checked for finding in one.findings]
        return exit_code_of(findings), list(map(str, findings))

    assert found() == (0, [])
    config = ScanConfig.of({"source": {"uris": []}, "out": out, "evidence": {"anchor": anchors}})
    assert [str(one) for one in _evidence(config)] == [
        f"ok    evidence  {anchors}: anchors can be listed; its bucket keeps new objects for 400 days (compliance mode)"
    ]
    [version] = s3.list_object_versions(Bucket=bucket)["Versions"]
    assert version["Key"] == f"nightly/1-{result.sha256}.json"
    with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
        s3.delete_object(Bucket=bucket, Key=version["Key"], VersionId=version["VersionId"])
    s3.delete_object(Bucket=bucket, Key=version["Key"])
    assert found() == (TAMPERED, [f"the anchor 1-{result.sha256}.json was deleted: a delete marker hides it"])
    Store.at(out, HERE).delete("runs")
    Store.at(out, HERE).delete("runs.parquet")
    exit_code, findings = found()
    assert exit_code == TAMPERED and findings[0].startswith("run 1 is gone: it was anchored")


def test_an_anchor_in_the_stores_own_bucket(moto: S3Endpoint, tmp_path: Path) -> None:
    """Another prefix of the bucket is taken, one below the store is not; a bucket that is not there stops the scan."""
    s3, media = client(moto), files(tmp_path / "media", 1)
    s3.create_bucket(Bucket="own")
    assert scanned(media, "s3://own/out", run_id="1", evidence={"anchor": "s3://own/out-anchors/"}).exit_code == 0
    for anchor, words in (("s3://own/out/anchors", "lies in the report store"), ("s3://none-such/x", "bucket")):
        with pytest.raises(NsfwscanError, match=words):
            scanned(media, "s3://own/out", run_id="2", evidence={"anchor": anchor})
    assert Store.at("s3://own/out", HERE).names("runs") == ["1"]
    checked = verify_all("s3://own/out", HERE, None, Store.at("s3://own/out-anchors", HERE))
    assert exit_code_of(finding for one in checked for finding in one.findings) == 0
    elsewhere = verify_all("s3://own/out", HERE, None, Store.at("s3://own/others", HERE))
    assert exit_code_of(finding for one in elsewhere for finding in one.findings) == DAMAGED
