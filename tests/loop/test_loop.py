"""The loop closes: from a scan to a policy that misses little and asks less of people, by the commands and a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.later import later
from tests.loop.loop import MISS, Loop, describe_outcome
from tests.training.conftest import Heard

worker = later("training.fit.worker")


if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

    from training.fit.worker import TrainJob


@pytest.mark.long
@pytest.mark.browser
def test_the_loop_closes(browser: BrowserContext, tmp_path: Path) -> None:
    """On pictures that nothing of it has seen, the share that is missed is within the bound that `policy solve` stated, and
    fewer originals are expected to be opened than by the first checkpoint and policy."""

    def in_process(job: TrainJob, _: Callable[[str], None]) -> None:  # as the other trainings of the suite, without Ray
        worker.work(job, Heard(), threads=1)

    said: list[str] = []
    found = Loop(tmp_path, browser.new_page(), said.append, in_process).run()
    assert found.closes, describe_outcome(found)
    assert found.open_rate > 0 and found.bound <= MISS, describe_outcome(found)
