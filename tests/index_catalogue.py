"""A small catalogue as arrays, its brute-force answers, and an index version on disk made of it."""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import numpy as np

from fashion_dml.index import rough
from fashion_dml.index.filters import EVERYTHING, Filter
from fashion_dml.index.manifest import KIND, Effort, activate, shard_name, version_dir
from fashion_dml.index.segment import write_segment
from fashion_dml.index.train import train
from fashion_dml.storage import Location, write_manifest

VERTICALS = ("bags", "dresses", "shoes")
VOCABULARY = ("colour=Black", "pattern=Solid")


@contextlib.contextmanager
def rough_copies(made: bool) -> Iterator[None]:
    """Shards that are written get a copy of one byte a number, however small they are, and searches use it for any k; or none gets it."""
    least = 1 if made else 1 << 60
    with (
        mock.patch.object(rough, "LEAST_BYTES", least),
        mock.patch.object(rough, "ROWS_A_CANDIDATE", 0),
        mock.patch.object(rough, "LEAST_SHARE", 0),
    ):
        yield


@dataclass(frozen=True)
class Catalogue:
    """vectors float32 [N, D] unit, attributes int8 [N, 2], and the text columns."""

    vectors: np.ndarray
    item_ids: list[str]
    product_ids: list[str]
    verticals: list[str]
    attributes: np.ndarray

    @classmethod
    def random(cls, n: int, dim: int, seed: int, *, distinct: int | None = None) -> Catalogue:
        """`distinct` vectors only, so that many scores tie."""
        rng = np.random.default_rng(seed)
        pool = rng.standard_normal((distinct or n, dim)).astype(np.float32)
        pool /= np.linalg.norm(pool, axis=1, keepdims=True)
        products = [int(p) for p in rng.integers(0, max(1, n // 3), n)]
        return cls(
            pool[rng.integers(0, len(pool), n)] if distinct else pool,
            [f"item:{i:04d}" for i in rng.permutation(n)],
            [f"p{p}" for p in products],
            [VERTICALS[(p + (i % 5 == 0)) % len(VERTICALS)] for i, p in enumerate(products)],  # some products in two verticals
            rng.integers(-1, 2, (n, 2)).astype(np.int8),
        )

    def brute(
        self, query: np.ndarray, k: int, where: Filter = EVERYTHING, grouped: bool = False, dead: Container[str] = ()
    ) -> list[tuple[str, float]]:
        """(item_id, score) of the true neighbours, by the plainest means."""
        scores = (self.vectors.astype(np.float64) * query.astype(np.float64)).sum(1).astype(np.float32)
        rows = [i for i in range(len(self.item_ids)) if self._admitted(i, where) and self.item_ids[i] not in dead]
        rows.sort(key=lambda i: (-scores[i], self.item_ids[i]))
        if grouped:
            seen: set[str] = set()
            rows = [i for i in rows if not (self.product_ids[i] in seen or seen.add(self.product_ids[i]))]  # type: ignore[func-returns-value]
        return [(self.item_ids[i], float(scores[i])) for i in rows[:k]]

    def _admitted(self, i: int, where: Filter) -> bool:
        if where.verticals and self.verticals[i] not in where.verticals:
            return False
        known = {name for name, value in zip(VOCABULARY, self.attributes[i], strict=True) if value == 1}
        return all(known & {*group} for group in where.attributes)

    def write(
        self, index: Location, version: str, *, shards: int = 1, kind: str = "flat", store: str = "fp32",
        effort: Effort = Effort(8, 50), model: str = "a" * 64, folded: int = 0,
    ) -> None:  # fmt: skip
        """Make it an index version, products spread over shards, and CURRENT."""
        directory, files, sizes, counts = version_dir(index, version), {}, [], {}
        trained = train(kind, store, self.vectors.shape[1], len(self.vectors) // shards, self.vectors)
        for shard in range(shards):
            rows = [i for i, p in enumerate(self.product_ids) if int(p[1:]) % shards == shard]
            place = Path((directory / shard_name(shard)).path)
            place.mkdir(parents=True)
            found = write_segment(
                place, vectors=self.vectors[rows], item_ids=[self.item_ids[i] for i in rows], trained=trained,
                product_ids=[self.product_ids[i] for i in rows], verticals=[self.verticals[i] for i in rows],
                attributes=self.attributes[rows], thumbnails=[f"jpeg of {self.item_ids[i]}".encode() for i in rows],
            )  # fmt: skip
            for vertical, numbers in found.counts.items():
                total = counts.setdefault(vertical, {"items": 0, "products": 0})
                for name, value in numbers.items():
                    total[name] += value
            sizes.append(len(rows))
            for file in place.iterdir():
                files[f"{shard_name(shard)}/{file.name}"] = {"sha256": Location.of(file).sha256(), "bytes": file.stat().st_size}
        write_manifest(
            directory, kind=KIND, config={}, inputs={}, seconds=0, model=model, dim=self.vectors.shape[1], index=kind,
            store=store, effort=asdict(effort), catalog=folded, shards=sizes,
            products=len({*self.product_ids}), verticals=counts, attributes=list(VOCABULARY), files=files,
        )  # fmt: skip
        activate(index, version)
