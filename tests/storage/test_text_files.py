"""Policies, configurations, prices and rates from wherever a bank may come from."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest

from nsfwscan.api import load_config
from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError, PolicyError
from nsfwscan.policy.rules import load_policy
from nsfwscan.storage.text_files import read_text
from nsfwscan.workflows.cost import PRICES, Prices
from tests.s3.servers import S3Endpoint

POLICY = "version: '1'\nrules: []\notherwise: {decision: allow}\n"


def test_files_are_read_from_a_store(moto: S3Endpoint) -> None:
    """The text of an object is that of a file; a policy's name is the object's."""
    client = boto3.client("s3")
    client.create_bucket(Bucket="settings")
    files = {"strict.yaml": POLICY, "scan.yaml": "read: {max_bytes: 7}\n", "prices.yaml": PRICES.read_text()}
    for name, text in files.items():
        client.put_object(Bucket="settings", Key=name, Body=text.encode())
    assert load_policy("s3://settings/strict.yaml").name == "strict"
    config = load_config(None, "S3://settings/scan.yaml", {"source": {"uris": ["/m"]}, "out": "/o"})
    assert config.read.max_bytes == 7
    assert Prices.load("s3://settings/prices.yaml") == Prices.load()
    with pytest.raises(PolicyError, match=r"cannot read the policy s3://settings/absent.yaml: .*presets: "):
        load_policy("s3://settings/absent.yaml")


@pytest.mark.parametrize("uri", ["", "s3:/b/x", "S3://", "-", "/absent", "https://user:word@host/x"])
def test_what_cannot_be_read_is_named(uri: str, tmp_path: Path) -> None:
    """No place, no file, or a password in a URI: each is wrong usage."""
    with pytest.raises(ConfigError, match=r"the prices|password"):
        read_text(uri, StorageConfig(), "the prices")
