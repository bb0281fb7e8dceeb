"""Fixtures that are dear, and so shared by the whole session: the demo store, an S3 server, a small Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.demo_store import DemoObject, build
from tests.s3.servers import S3Endpoint, moto_server


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[DemoObject]]:
    """The demo media store: its folder, and what is in it."""
    root = tmp_path_factory.mktemp("demo")
    return root, build(root)


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Endpoint]:
    """An S3 server over HTTP, and the AWS environment that leads to it."""
    with moto_server() as endpoint:
        before = dict(os.environ)
        os.environ.update(endpoint.environment())
        try:
            yield endpoint
        finally:
            os.environ.clear()
            os.environ.update(before)


@pytest.fixture(scope="session")
def ray_local(moto: S3Endpoint) -> Iterator[None]:
    """A Ray on two cores; its workers have the S3 server's environment."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=256 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()
