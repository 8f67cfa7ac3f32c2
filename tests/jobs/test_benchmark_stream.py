"""The subject `stream`: how rates of workers become one."""

from __future__ import annotations

import pytest

from jobs.benchmarks.stream import rate, timed


def test_a_worker_is_timed_from_its_first_batch() -> None:
    images, seconds = timed(iter([[1] * 5, [2] * 3, [3] * 4]), len)
    assert images == 7
    assert seconds > 0


def test_the_slowest_workers_clock_is_that_of_all() -> None:
    """As a DataLoader's is, which has one for all its workers; the sum of their own rates would be 150."""
    assert rate([(100, 1.0), (100, 2.0)]) == pytest.approx(100)
    assert rate([(100, 2.0)]) == pytest.approx(50)
