import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fashion_dml.evaluation.neighbours import TIE, nearest, normalised, similarity_blocks
from fashion_dml.storage import UserError


def brute_force(queries, gallery, k, exclude):
    scores = np.full((len(queries), k), -np.inf)
    rows = np.full((len(queries), k), -1)
    for q in range(len(queries)):
        items = [
            (-float(queries[q].astype(float) @ gallery[n].astype(float)), n) for n in range(len(gallery)) if n != exclude[q]
        ]
        for place, (score, row) in enumerate(sorted(items)[:k]):
            scores[q, place], rows[q, place] = -score, row
    return scores, rows


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 12),
    items=st.integers(1, 30),
    k=st.integers(1, 35),
    memory=st.sampled_from([1, 500, 1 << 20]),
    whole=st.booleans(),
)
def test_equals_brute_force(seed, queries, items, k, memory, whole):
    """Small whole numbers give exact scores with many ties; normal ones give none."""
    rng = np.random.default_rng(seed)
    draw = (lambda n: rng.integers(-1, 2, (n, 3))) if whole else (lambda n: rng.normal(size=(n, 3)))
    q, g = draw(queries).astype(np.float32), draw(items).astype(np.float32)
    exclude = rng.integers(-1, items, queries)
    scores, rows = nearest(q, g, k, exclude=exclude, memory_bytes=memory)
    expected_scores, expected_rows = brute_force(q, g, k, exclude)
    assert scores.dtype == np.float32
    assert rows.dtype == np.int64
    np.testing.assert_allclose(scores, expected_scores, atol=4 * TIE)
    if whole:
        np.testing.assert_array_equal(rows, expected_rows)


def test_block_size_does_not_change_the_answer():
    rng = np.random.default_rng(0)
    gallery = normalised(rng.normal(size=(700, 64)).astype(np.float32))
    gallery[300:400] = gallery[:100]
    own = np.arange(700)
    scores, rows = nearest(gallery, gallery, 15, exclude=own)
    for memory in (1, 10_000, 1 << 20):
        other_scores, other_rows = nearest(gallery, gallery, 15, exclude=own, memory_bytes=memory)
        np.testing.assert_array_equal(rows, other_rows)
        np.testing.assert_array_equal(scores, other_scores)
    np.testing.assert_array_equal(rows[:100, 0], own[300:400])


def test_duplicates_stand_in_row_order_and_self_is_left_out():
    point = normalised(np.random.default_rng(1).normal(size=(1, 128)).astype(np.float32))
    gallery = np.repeat(point, 60, axis=0)
    _, rows = nearest(gallery, gallery, 5, exclude=np.arange(60))
    np.testing.assert_array_equal(rows[0], [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(rows[3], [0, 1, 2, 4, 5])
    np.testing.assert_array_equal(rows[59], [0, 1, 2, 3, 4])


def test_too_few_rows_are_filled_up():
    vectors = np.eye(2, dtype=np.float32)
    scores, rows = nearest(vectors, vectors, 3, exclude=np.arange(2))
    np.testing.assert_array_equal(rows, [[1, -1, -1], [0, -1, -1]])
    np.testing.assert_array_equal(scores, [[0, -np.inf, -np.inf]] * 2)
    scores, rows = nearest(vectors, np.empty((0, 2), np.float32), 2)
    assert (rows == -1).all()
    assert np.isneginf(scores).all()


def test_torch_gives_the_same():
    rng = np.random.default_rng(2)
    vectors = normalised(rng.normal(size=(90, 16)).astype(np.float32))
    ours, theirs = nearest(vectors, vectors, 7), nearest(vectors, vectors, 7, device="cpu", memory_bytes=2000)
    np.testing.assert_array_equal(ours[1], theirs[1])


def test_numpy_path_needs_no_torch():
    code = "import sys, fashion_dml.evaluation.protocol, fashion_dml.evaluation.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_blocks_stay_in_the_budget():
    gallery = np.ones((1000, 4), np.float32)
    sizes = [block.nbytes for _, block in similarity_blocks(gallery, gallery, 50_000)]
    assert max(sizes) <= 50_000
    assert sum(sizes) == 4 * 1000 * 1000


def test_normalised_survives_extreme_lengths():
    vectors = np.array([[3e38, 3e38], [1e-38, 0], [0, 0], [3, 4]], np.float32)
    np.testing.assert_allclose(normalised(vectors), [[0.5**0.5] * 2, [1, 0], [0, 0], [0.6, 0.8]], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k is 0"),
        ({"queries": np.ones((2, 3), np.float32)}, "3 dimensions and the gallery 2"),
        ({"queries": np.ones(2, np.float32)}, r"shape \[2\]"),
        ({"gallery": np.ones((4, 2), np.int64)}, "int64"),
        ({"gallery": np.array([[1, np.nan], [np.inf, 0]], np.float32)}, "2 of 2 gallery vectors hold NaN or infinity"),
        ({"exclude": np.array([0, 4])}, "from 0 to 4"),
        ({"exclude": np.array([0])}, "give 2 integers"),
        ({"exclude": np.array([0.0, 1.0])}, "float64"),
    ],
)
def test_bad_input_is_refused(change, message):
    good = {"queries": np.ones((2, 2), np.float32), "gallery": np.ones((4, 2), np.float32), "k": 1, "exclude": None}
    with pytest.raises(UserError, match=message):
        nearest(**{**good, **change})


def test_unknown_device_is_refused():
    with pytest.raises(UserError, match="can't hold the gallery"):
        nearest(np.ones((1, 2), np.float32), np.ones((1, 2), np.float32), 1, device="nowhere")
