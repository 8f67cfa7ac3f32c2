"""The metrics once more, as double loops straight from their definitions; slow and obvious."""

from __future__ import annotations

import numpy as np

from fashion_dml.evaluation.neighbours import TIE


def ranks_of_relevant(
    query: np.ndarray, label: int, gallery: np.ndarray, labels: np.ndarray, itself: int, level: str = "image"
) -> list[int]:
    """Pessimistic ranks of one query's relevant items: unit vectors [D], [N, D]; float64 cosines."""
    items: list[tuple[float, int]] = []
    for row in range(len(gallery)):
        if row != itself:
            items.append((float(np.dot(query.astype(np.float64), gallery[row].astype(np.float64))), int(labels[row])))
    if level == "product":
        best: dict[int, float] = {}
        for score, item_label in items:
            best[item_label] = max(score, best.get(item_label, -2.0))
        items = [(score, item_label) for item_label, score in best.items()]
    right = sorted((score for score, item_label in items if item_label == label), reverse=True)
    ranks = []
    for place, mine in enumerate(right, start=1):
        rivals = 0
        for score, item_label in items:
            if item_label != label and score >= mine - TIE:
                rivals += 1
        ranks.append(place + rivals)
    return ranks


def values_of(ranks: list[int], recall_at: tuple[int, ...]) -> dict[str, float]:
    """Every metric of one query; NaN without a relevant item."""
    count = len(ranks)
    if not count:
        return dict.fromkeys([*(f"R@{k}" for k in recall_at), "mAP", "MAP@R", "R-Precision", "P@1", "MRR"], float("nan"))
    values = {f"R@{k}": float(any(r <= k for r in ranks)) for k in recall_at}
    precision_at = {r: sum(other <= r for other in ranks) / r for r in ranks}
    values["mAP"] = sum(precision_at.values()) / count
    values["MAP@R"] = sum(p for r, p in precision_at.items() if r <= count) / count
    values["R-Precision"] = sum(r <= count for r in ranks) / count
    values["P@1"] = float(1 in ranks)
    values["MRR"] = 1 / min(ranks)
    return values
