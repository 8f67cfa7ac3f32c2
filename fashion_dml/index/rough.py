"""Exact answers from a quarter of the bytes: a copy of a shard's vectors of one byte a number, and how far its scores can be off.

One query reads each vector once, and memory gives them no faster. So it reads int8 codes instead of float32, and is made of such codes too:
FAISS then multiplies bytes. With x a row as stored, q the query, x' and q' what their codes stand for, and E the largest |x - x'| of all rows,

    <q, x>  <=  <q', x'> + |q| E + |q - q'| |x'|        (Cauchy and Schwarz, twice)

so once k rows are known, all that the scan left out can be told to be worse by its codes; the scores of the answer are
computed from the vectors as ever. Of the benchmark's embeddings three times as many candidates as are asked for settle all but a few
queries at once (tests/index/test_rough.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import faiss
import numpy as np

from fashion_dml.index.calls import faiss_search, set_codes
from fashion_dml.index.codes import byte_index, many_queries
from fashion_dml.storage import UserError

if TYPE_CHECKING:
    from fashion_dml.index.store import Store

LEVELS = 127  # codes are -127 to 127; the file has each 128 higher
LEAST_BYTES = 4 << 20  # of vectors: fewer come from a processor's cache, whatever their type
WIDER = 3  # times as many candidates are asked for as of the vectors themselves
ROWS_A_CANDIDATE = 200  # at least: scoring a candidate takes as long as scanning so many rows
LEAST_SHARE = 1 / 6  # of all rows: passing over the others takes longer than reading the vectors of fewer
TAIL = np.dtype([("scale", "<f4"), ("error", "<f4"), ("length", "<f4")])  # behind the codes
BLOCK = 1 << 14  # rows coded at a time


@dataclass(frozen=True)
class Rough:
    """The copy, mapped. index: a FAISS index of the codes, held: their memory, many: queries for which a matrix product is faster, scale:
    codes of a vector's number 1, error: E, length: the largest |x'|."""

    index: faiss.Index
    held: object
    many: int
    scale: float
    error: float
    length: float

    @classmethod
    def mapped(cls, file: Path, store: Store) -> Rough:
        """What `write` wrote of the same vectors. Raises UserError where the file isn't of as many numbers, or its tail can't be."""
        rows, dim = store.rows, store.dim
        size, wanted = file.stat().st_size, rows * dim + TAIL.itemsize
        if size != wanted:
            raise UserError(f"{file} has {size} bytes; the copy of {rows} vectors of {dim} dimensions has {wanted}.")
        content = np.memmap(file, np.uint8, "r")
        scale, error, length = (float(value) for value in content[rows * dim :].view(TAIL)[0])
        if not (0 < scale < np.inf and 0 <= error < np.inf and 0 <= length < np.inf):
            raise UserError(f"{file} ends with scale {scale:g}, error {error:g} and length {length:g}: it was damaged.")
        index = byte_index(dim)
        set_codes(index, content, rows, store.index.codes.owner)  # type: ignore[attr-defined]
        many = many_queries(dim, faiss.omp_get_max_threads(), store.stored, rough=True)
        return cls(index, content, many, scale, error, length)

    def suits(self, queries: int, width: int, kept: int) -> bool:
        """Whether it is faster than the vectors for so many queries and candidates among so many rows."""
        return queries < self.many and kept >= max(width * ROWS_A_CANDIDATE, LEAST_SHARE * self.index.ntotal)

    def search(self, queries: np.ndarray, width: int, params: faiss.SearchParameters | None) -> tuple[np.ndarray, np.ndarray]:
        """The `width` best rows by their codes, int64 [Q, width], and what the true scores of queries [Q, D] with these and with all that
        were left out can be at most, in that order, float32 [Q, width]."""
        wide = queries.astype(np.float64)
        largest = np.abs(wide).max(axis=1, keepdims=True)
        scale = LEVELS / np.where(largest > 0, largest, 1)
        codes = np.rint(wide * scale)
        scores, rows = faiss_search(self.index, codes, width, params)
        lengths, off = (np.linalg.norm(v, axis=1, keepdims=True) for v in (wide, wide - codes / scale))
        most = scores / (scale * self.scale) + lengths * self.error + off * self.length
        limit = np.finfo(np.float32).max  # of queries that are longer than any that float32 has scores of
        return most.clip(-limit, limit).astype(np.float32), rows


def worthwhile(store: Store) -> bool:
    """Whether exact searches of these vectors get the copy: those stored as int8 are as small already."""
    return store.stored != "int8" and 4 * store.rows * store.dim >= LEAST_BYTES


def write(file: Path, store: Store) -> None:
    """The copy of a store's vectors."""
    blocks = [slice(start, min(start + BLOCK, store.rows)) for start in range(0, store.rows, BLOCK)]
    scale = np.float32(LEVELS / max(float(np.abs(store.vectors(block)).max()) for block in blocks))
    error = length = 0.0
    with file.open("wb") as sink:
        for block in blocks:
            vectors = store.vectors(block).astype(np.float64)
            codes = np.rint(vectors * scale).clip(-LEVELS, LEVELS)
            sink.write((codes + 128).astype(np.uint8).data)
            error = max(error, float(np.linalg.norm(vectors - codes / scale, axis=1).max()))
            length = max(length, float(np.linalg.norm(codes / scale, axis=1).max()))
        rounded = 2 * store.dim * np.finfo(np.float32).eps  # of a sum of float32, where FAISS doesn't add whole numbers
        sink.write(np.array([(scale, error + rounded * length, length * (1 + rounded))], TAIL).tobytes())
