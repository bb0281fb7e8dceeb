"""The arithmetic of the limit, by hand."""

from __future__ import annotations

import pytest

from jobs.benchmark.limits import (
    core_seconds,
    cores_to_feed,
    least_core_seconds,
    limit_on_cores,
    limit_with_gpu,
)


def test_combined_limit_on_cores() -> None:
    """Two cores, a model of 40 images a second on both and a decoder of 200 a second on one: 2 / (0.05 + 0.005)."""
    model_s, decode_s = core_seconds(40, 2), core_seconds(200, 1)
    assert (model_s, decode_s) == (0.05, 0.005)
    assert limit_on_cores(2, model_s, decode_s) == pytest.approx(36.3636, abs=1e-4)


def test_limit_with_gpu_is_the_slower_of_the_two() -> None:
    """A GPU waits for too few cores, and cores wait for a slow GPU."""
    assert limit_with_gpu(8000, 16, 0.005) == 3200
    assert limit_with_gpu(1000, 16, 0.005) == 1000
    assert cores_to_feed(8000, 0.005) == 40


def test_the_better_way_is_the_limit() -> None:
    """Of two measurements of the same work the cheaper one counts; one that is missing does not."""
    assert least_core_seconds((10.0, 2), (12.5, 2)) == 0.16
    assert least_core_seconds((None, 2), (12.5, 2)) == 0.16
    assert least_core_seconds((None, 2)) is None


@pytest.mark.parametrize(("rate", "cores"), [(0, 1), (-1, 1), (5, 0)])
def test_no_rate_is_refused(rate: float, cores: int) -> None:
    """A rate of nothing, or on no core, is no measurement."""
    with pytest.raises(ValueError, match="is none"):
        core_seconds(rate, cores)
