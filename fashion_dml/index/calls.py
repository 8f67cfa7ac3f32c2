"""FAISS called so that nothing else in the process changes what it does: by its C++ methods, mapped, with threads that are given back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np


def take_threads(threads: int) -> None:
    """FAISS gets so many threads for what the calling thread asks of it: OpenMP counts by thread."""
    faiss.omp_set_num_threads(max(1, threads))


def faiss_search(index: Any, queries: np.ndarray, k: int, params: Any) -> tuple[np.ndarray, np.ndarray]:
    """(scores float32 [Q, k], rows int64 [Q, k]) by faiss's C++ method.

    Not by its Python `search`: any library that imports faiss.contrib.torch_utils replaces that one for the whole process.
    """
    asked = np.ascontiguousarray(queries, np.float32)
    scores, rows = np.empty((len(asked), k), np.float32), np.empty((len(asked), k), np.int64)
    index.search_c(len(asked), faiss.swig_ptr(asked), k, faiss.swig_ptr(scores), faiss.swig_ptr(rows), params)
    return scores, rows


def read_faiss(file: Path) -> faiss.Index:
    """A FAISS file, mapped. No vector in it may claim to be longer than the file.

    (Nor than the table of distances that FAISS counts on for product codes, 16 floats for each cell and pair of dimensions, though
    inner products need none: a cell's centre alone, D floats, is in the file, so that is 8 times the file at most.)
    """
    faiss.set_deserialization_vector_byte_limit(8 * file.stat().st_size + 1024)
    return faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)


def set_codes(index: Any, codes: np.ndarray, rows: int, owner: Any) -> None:
    """Let an empty index search `codes`, uint8 [n] from their first byte on, as those of so many rows. They are the caller's to keep.

    owner: of the codes of an index that was read mapped, the only one that FAISS's Python makes; what it owns doesn't matter.
    """
    start = faiss.cast_integer_to_uint8_ptr(codes.ctypes.data)  # type: ignore[attr-defined]
    index.codes = faiss.MaybeOwnedVectorUInt8.create_view(start, rows * index.sa_code_size(), owner)  # type: ignore[attr-defined]
    index.ntotal = rows


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """FAISS has one thread meanwhile, in this thread: for many small pieces of work, after each of which several would wait."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
