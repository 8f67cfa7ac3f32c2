"""From what shards found to what a reply says: for all queries of a request at once, since cell by cell it costs more than the search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
from fastapi import Response
from pydantic_core import to_json

from fashion_dml.index.merge import Found


class Describer:
    """Knows the names of one index version's attributes. `version` is part of the address of thumbnails."""

    def __init__(self, attributes: Sequence[str], version: str) -> None:
        self._names = [(column, value) for column, _, value in (a.partition("=") for a in attributes)]
        self._version = quote(version, safe="")

    def results(self, answers: Sequence[Found]) -> list[list[dict[str, Any]]]:
        """Results of each query."""
        attributes = self._attributes(np.concatenate([found.attributes for found in answers]))
        described, first = [], 0
        for found in answers:
            scores = np.round(found.scores.astype(np.float64), 6).tolist()
            columns = zip(found.item_ids, found.product_ids, found.verticals, scores, found.born.tolist(), strict=True)
            described.append([
                {
                    "item_id": item_id, "product_id": product_id, "vertical": vertical, "score": score,
                    "image_url": f"/v1/items/{item_id}/image?v={self.state(born)}", "attributes": attributes[first + i],
                }
                for i, (item_id, product_id, vertical, score, born) in enumerate(columns)
            ])  # fmt: skip
            first += len(found.item_ids)
        return described

    def item(self, found: Found) -> dict[str, Any]:
        """An Item, of the one that was found."""
        [[described]] = self.results([found])
        described.pop("score")
        return described

    def state(self, born: int) -> str:
        """Names what an item is now: another name after every change of it."""
        return f"{self._version}.{born}"

    def vocabulary(self) -> dict[str, list[str]]:
        """{column: values}."""
        found: dict[str, list[str]] = {}
        for column, value in self._names:
            found.setdefault(column, []).append(value)
        return found

    def _attributes(self, values: np.ndarray) -> list[dict[str, str]]:
        """{column: value} of what is known to hold, of attributes int8 [n, A]; several values of a column are joined by commas."""
        described: list[dict[str, str]] = [{} for _ in range(len(values))]
        for row, place in zip(*(where.tolist() for where in np.nonzero(values == 1)), strict=True):
            column, value = self._names[place]
            known = described[row]
            known[column] = f"{known[column]}, {value}" if column in known else value
        return described


def json_response(content: Any) -> Response:
    """The content as JSON, by pydantic's serializer: ten times as fast as the standard library's."""
    return Response(to_json(content), media_type="application/json")
