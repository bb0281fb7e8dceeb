"""Batches on a GPU: the same scores, in the same order, however many are under way."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest

from tests.later import later

cuda = later("nsfwscan.models.cuda")
torch = later("torch")


pytestmark = pytest.mark.skipif("not torch.cuda.is_available()", reason="no CUDA device")

SHAPE = (4, 8, 8, 3)


def forward(pixels: torch.Tensor) -> torch.Tensor:
    """Slow enough that copies overtake it, if anything lets them."""
    busy = torch.ones(2048, 2048, device="cuda")
    for _ in range(20):
        busy = busy @ busy / 2048
    return pixels.float().flatten(1)[:, :2] + 0 * busy[0, 0]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 17])
def test_batches_come_back_in_order(count: int) -> None:
    """Each batch has its own scores, though the next ones are copied while it is worked on; the same once more."""
    batches = [np.random.default_rng(i).integers(0, 256, SHAPE, np.uint8) for i in range(count)]
    classify = cuda.Overlapped(forward, SHAPE, guard=nullcontext)
    for _ in range(2):
        found = list(classify.stream(iter(batches)))
        assert len(found) == count
        for batch, scores in zip(batches, found, strict=True):
            assert np.array_equal(scores, batch.reshape(4, -1)[:, :2].astype(np.float32))


def test_one_batch_at_a_time() -> None:
    """Called like a function, it scores one batch."""
    classify = cuda.Overlapped(forward, SHAPE, guard=nullcontext)
    for value in (1, 2):
        assert (classify(np.full(SHAPE, value, np.uint8)) == value).all()
