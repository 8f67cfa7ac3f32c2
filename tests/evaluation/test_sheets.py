import numpy as np
import pytest

from fashion_dml.evaluation.neighbours import normalised
from fashion_dml.evaluation.protocol import evaluate, searched
from fashion_dml.evaluation.sheets import worst_queries

from .conftest import make_verticals


@pytest.mark.parametrize("protocol", ["separate", "merged"])
def test_worst_come_first_one_of_each_product(protocol):
    verticals = make_verticals(2.0)
    measured = evaluate(verticals, protocol)
    hits = worst_queries(verticals, measured, 8, k=6)
    ranks = [h.first_rank for h in hits]
    assert len(hits) == 8
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[0] == measured.queries.first_rank.max()
    assert len({h.query_label for h in hits}) == 8
    for h in hits:
        vertical = next(v for v in verticals if v.name == h.vertical)
        index, _ = searched(verticals, vertical, protocol)
        assert vertical.queries.image_ids[h.query_row] == h.query_id
        assert h.query_id not in h.neighbour_ids
        assert [str(i) for i in index.image_ids[h.neighbour_rows]] == h.neighbour_ids
        assert h.scores == sorted(h.scores, reverse=True)
        query, found = normalised(vertical.queries.vectors[[h.query_row]]), normalised(index.vectors[h.neighbour_rows])
        np.testing.assert_allclose(h.scores, found @ query[0], atol=1e-5)
        assert h.right == [label == h.query_label for label in index.labels[h.neighbour_rows]]
        assert (h.right.index(True) + 1 if True in h.right else 99) >= min(h.first_rank, 7)


def test_more_than_there_are():
    verticals = make_verticals(1.0, products=2)
    hits = worst_queries(verticals, evaluate(verticals, "separate"), 100, k=50)
    assert len(hits) == 6
    assert all(len(h.neighbour_rows) == 5 for h in hits)
    assert worst_queries(verticals, evaluate(verticals, "separate"), 0) == []
