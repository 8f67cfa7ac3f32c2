import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fashion_dml.evaluation.bootstrap import intervals, macro_intervals, paired_difference, paired_ratio, resampled_means
from fashion_dml.storage import UserError


def rng():
    return np.random.default_rng(4)


def test_equals_a_plain_loop():
    values = np.random.default_rng(0).random((23, 2))
    (chunked,) = [np.concatenate(list(resampled_means(values, 9, rng(), 600)))]
    draws = rng()
    for mean in chunked:
        np.testing.assert_allclose(mean, values[draws.integers(23, size=23)].mean(axis=0))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), queries=st.integers(1, 40), memory=st.integers(1, 5000))
def test_memory_does_not_change_the_interval(seed, queries, memory):
    values = np.random.default_rng(seed).random((queries, 3))
    whole, chunked = (intervals(values, 50, rng(), memory_bytes=m) for m in (1 << 26, memory))
    for a, b in zip(whole, chunked, strict=True):
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high))
        assert a.low <= a.high


def test_coverage_is_near_95_percent():
    """300 samples of 100 coin flips of known probability; the interval should hold it in about 95 %."""
    draws = np.random.default_rng(12)
    held = 0
    for _ in range(300):
        (found,) = intervals((draws.random((100, 1)) < 0.7).astype(float), 300, draws)
        held += found.low <= 0.7 <= found.high
    assert 0.90 <= held / 300 <= 0.98


def test_bounds_agree_with_theory():
    """For the mean of many normal values the percentiles are those of a normal: 1.96 standard errors to each side."""
    values = np.random.default_rng(1).normal(size=(1000, 1))
    (found,) = intervals(values, 20_000, rng())
    error = values.std() / math.sqrt(1000)
    assert found.value == values.mean()
    assert (found.value - found.low) / error == pytest.approx(1.96, abs=0.06)
    assert (found.high - found.value) / error == pytest.approx(1.96, abs=0.06)


def test_macro_resamples_each_group():
    good, bad = np.ones((50, 1)), np.zeros((2, 1))
    (found,) = macro_intervals([good, bad, np.empty((0, 1))], 40, rng())
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_nothing_scored_is_nan():
    found = intervals(np.empty((0, 2)), 10, rng())
    assert len(found) == 2
    assert all(math.isnan(v) for v in (found[0].value, found[0].low, found[0].high))


def test_a_model_does_not_differ_from_itself():
    values = np.random.default_rng(2).random((60, 2))
    for found in paired_difference(values, values, 100, rng()):
        assert (found.value, found.low, found.high) == (0, 0, 0)


def test_pairing_sees_what_unpaired_intervals_hide():
    """Each query is 0.02 better, while queries differ by far more."""
    worse = np.random.default_rng(3).random((100, 1))
    (found,) = paired_difference(worse + 0.02, worse, 200, rng())
    assert (found.value, found.low, found.high) == pytest.approx((0.02, 0.02, 0.02))
    (a,), (b,) = intervals(worse + 0.02, 200, rng()), intervals(worse, 200, rng())
    assert a.low < b.high


def test_unscored_queries_are_left_out_of_a_difference():
    a, b = np.array([[1.0], [np.nan], [0.0]]), np.array([[0.0], [1.0], [0.0]])
    assert paired_difference(a, b, 20, rng())[0].value == 0.5


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="0 resamples"):
        intervals(np.ones((3, 1)), 0, rng())
    with pytest.raises(UserError, match="NaN"):
        intervals(np.array([[np.nan]]), 5, rng())
    with pytest.raises(UserError, match="same queries"):
        paired_difference(np.ones((3, 1)), np.ones((4, 1)), 5, rng())


def test_a_ratio_is_of_the_means_and_its_interval_of_the_resamples():
    a, b = (np.random.default_rng(s).integers(0, 2, 40).astype(float) for s in (1, 2))
    found = paired_ratio(a, b, 300, rng())
    draws = rng().integers(40, size=(300, 40))
    assert found.value == pytest.approx(a.mean() / b.mean())
    expected = np.quantile([a[d].mean() / b[d].mean() for d in draws], [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(tuple(expected))


def test_a_ratio_sees_pairing_and_leaves_out_what_is_not_scored():
    b = np.random.default_rng(3).random(50)
    found = paired_ratio(np.append(1.1 * b, np.nan), np.append(b, 1.0), 100, rng())
    assert (found.value, found.low, found.high) == pytest.approx((1.1, 1.1, 1.1))


def test_a_ratio_to_nothing_is_nan():
    for a, b in ((np.ones(4), np.zeros(4)), (np.empty(0), np.empty(0))):
        assert math.isnan(paired_ratio(a, b, 10, rng()).value)
    few = paired_ratio(np.ones(3), np.array([1.0, 0.0, 0.0]), 200, rng())  # some resamples hold no hit
    assert few.value == 3
    assert math.isnan(few.low)
    with pytest.raises(UserError, match="same queries"):
        paired_ratio(np.ones(3), np.ones(4), 5, rng())
