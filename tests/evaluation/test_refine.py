"""Query expansion and k-reciprocal re-ranking against double loops over their definitions, and the ranks that come of them."""

import numpy as np
import pytest

from fashion_dml.evaluation.columns import FAR
from fashion_dml.evaluation.expansion import expanded
from fashion_dml.evaluation.metrics import measure
from fashion_dml.evaluation.neighbours import normalised
from fashion_dml.evaluation.refine import Refinement, relisted
from fashion_dml.evaluation.rerank import k_reciprocal
from fashion_dml.storage import UserError

from .reference import values_of


def clusters(seed: int, count: int = 60, products: int = 12, noise: float = 0.8):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, products, count)
    vectors = rng.normal(size=(products, 8))[labels] + noise * rng.normal(size=(count, 8))
    return vectors.astype(np.float32), labels


@pytest.mark.parametrize("alpha", [0.0, 3.0])
@pytest.mark.parametrize("own", [True, False])
def test_expansion_equals_a_plain_loop(alpha, own):
    gallery, _ = clusters(1, 20)
    queries = gallery if own else clusters(2, 7)[0]
    exclude = np.arange(20) if own else None
    found = expanded(queries, gallery, 4, alpha, exclude=exclude, memory_bytes=1000)
    for q, query in enumerate(normalised(queries).astype(float)):
        cosines = {g: float(query @ x) for g, x in enumerate(normalised(gallery).astype(float)) if not (own and g == q)}
        nearest = sorted(cosines, key=lambda g: -cosines[g])[:4]
        total = query + sum(max(0, cosines[g]) ** alpha * normalised(gallery)[g] for g in nearest)
        np.testing.assert_allclose(found[q], total / np.linalg.norm(total), atol=1e-6)


def test_expansion_with_fewer_images_than_asked():
    gallery = normalised(clusters(1, 2)[0])
    np.testing.assert_allclose(expanded(gallery, gallery, 5, 0.0), normalised(gallery + gallery.sum(axis=0)), atol=1e-6)
    np.testing.assert_allclose(expanded(gallery, gallery[:0], 5), gallery, atol=1e-6)


def distances_by_definition(queries, gallery, own, k1, k2, weight):
    """d* of every query and gallery row [Q, N], as sets and dense vectors over all images."""
    images = list(normalised(gallery).astype(float))
    place = []
    for q, row in enumerate(own):
        place.append(row if row >= 0 else len(images))
        if row < 0:
            images.append(normalised(queries)[q].astype(float))
    total = np.array(images)
    distance = 1 - total @ total.T
    order = [sorted(range(len(total)), key=lambda g: (g != p, distance[p, g])) for p in range(len(total))]

    def near(p, k):
        return set(order[p][: k + 1])

    def mutual(p, k):
        return {g for g in near(p, k) if p in near(g, k)}

    weights = np.zeros_like(distance)
    for p in range(len(total)):
        whole = set(mutual(p, k1))
        for c in mutual(p, k1):
            theirs = mutual(c, round(k1 / 2))
            if len(theirs & mutual(p, k1)) > 2 / 3 * len(theirs):
                whole |= theirs
        for g in whole:
            weights[p, g] = np.exp(-distance[p, g])
        weights[p] /= weights[p].sum()
    mean = np.array([weights[order[p][:k2]].mean(axis=0) for p in range(len(total))])
    found = np.zeros((len(queries), len(gallery)))
    for q, p in enumerate(place):
        for g in range(len(gallery)):
            jaccard = 1 - np.minimum(mean[p], mean[g]).sum() / np.maximum(mean[p], mean[g]).sum()
            found[q, g] = (1 - weight) * jaccard + weight * distance[p, g]
    return found


@pytest.mark.parametrize("own", ["all", "some", "none"])
@pytest.mark.parametrize("k2", [1, 3])
def test_k_reciprocal_equals_the_definition(own, k2):
    gallery, _ = clusters(3, 40)
    queries = gallery[:9] if own == "all" else np.concatenate([gallery[:4], clusters(4, 5)[0]])
    exclude = {"all": np.arange(9), "some": np.array([0, 1, 2, 3, *[-1] * 5]), "none": np.full(9, -1)}[own]
    if own == "none":
        queries = clusters(4, 9)[0]
    scores, rows = k_reciprocal(queries, gallery, 12, exclude=exclude, k1=7, k2=k2, weight=0.3)
    expected = distances_by_definition(queries, gallery, exclude, 7, k2, 0.3)
    cosine = normalised(queries) @ normalised(gallery).T
    for q in range(9):
        head = [g for g in np.argsort(-cosine[q]) if g != exclude[q]][:12]
        assert sorted(rows[q].tolist()) == sorted(head)
        np.testing.assert_allclose(-scores[q], expected[q, rows[q]], atol=1e-5)
        assert (np.diff(scores[q]) <= 0).all()


def test_weight_one_keeps_the_order():
    gallery, _ = clusters(5)
    own = np.arange(60)
    _, rows = k_reciprocal(gallery, gallery, 59, exclude=own, weight=1.0)
    cosine = normalised(gallery) @ normalised(gallery).T
    cosine[own, own] = -2
    np.testing.assert_array_equal(rows, np.argsort(-cosine, axis=1)[:, :59])
    short_scores, short = k_reciprocal(gallery[:3], gallery[:3], 5, exclude=np.arange(3))
    assert (short[:, 2:] == -1).all()
    assert np.isneginf(short_scores[:, 2:]).all()


@pytest.mark.parametrize("level", ["image", "product"])
def test_ranks_of_a_new_order(level):
    labels = np.array([[5, 7, 5, 8, 7], [1, 1, 2, 3, 3]])
    scores = np.array([[0.9, 0.8, 0.7, 0.7, 0.1], [0.5, 0.4, 0.3, -np.inf, -np.inf]])
    before = np.array([[2, 3, 9], [7, FAR, FAR]])
    if level == "image":
        # Own label 5: first and, behind a tie, fourth; the third stays behind the head. Own label 3 isn't in the head.
        expected = [[1, 4, 9], [7, FAR, FAR]]
    else:
        before, expected = before[:, :1], [[1], [7]]
    np.testing.assert_array_equal(relisted(before, np.array([5, 3]), labels, scores, level), expected)


@pytest.mark.parametrize("level", ["image", "product"])
def test_measure_ranks_the_new_lists(level):
    """Against the whole list by d*, when the head is the whole list."""
    vectors, labels = clusters(6, noise=1.2)
    own = np.arange(60)
    found = measure(vectors, labels, vectors, labels, exclude=own, level=level, refinement=Refinement("k-reciprocal", top=59))
    distance = distances_by_definition(vectors, vectors, own, 20, 6, 0.3)
    for q in range(60):
        items = sorted((distance[q, g], g) for g in range(60) if g != q)
        names = [int(labels[g]) for _, g in items]
        if level == "product":
            names = list(dict.fromkeys(names))
        ranks = [i for i, name in enumerate(names, start=1) if name == labels[q]]
        expected = values_of(ranks, (1, 5, 10, 20))
        assert {n: v[q] for n, v in found.values.items()} == pytest.approx(expected, nan_ok=True)


def test_a_short_head_leaves_the_tail_and_helps_where_the_lists_agree():
    vectors, labels = clusters(8, 300, 50, noise=0.9)
    own = np.arange(300)
    plain = measure(vectors, labels, vectors, labels, exclude=own)
    for refinement in (Refinement("k-reciprocal", top=30), Refinement(expansion=3), Refinement("k-reciprocal", 30, 3, 0.0)):
        found = measure(vectors, labels, vectors, labels, exclude=own, refinement=refinement)
        assert found.summary()["mAP"] > plain.summary()["mAP"]
        np.testing.assert_array_equal(found.relevant, plain.relevant)
    one = measure(vectors, labels, vectors, labels, exclude=own, refinement=Refinement("k-reciprocal", top=1))
    assert one.summary() == pytest.approx(plain.summary())


def test_names_and_bad_input():
    assert Refinement().name == ""
    assert Refinement("k-reciprocal", 50, 5).name == "alpha-QE 5, k-reciprocal 50"
    assert Refinement(expansion=3, alpha=0).name == "average QE 3"
    vectors, _ = clusters(1, 5)
    with pytest.raises(UserError, match="1 <= k2 <= k1"):
        k_reciprocal(vectors, vectors, 5, k1=3, k2=4)
    with pytest.raises(UserError, match="0 neighbours"):
        expanded(vectors, vectors, 0)
