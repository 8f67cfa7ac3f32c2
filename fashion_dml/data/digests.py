"""Digests of what is written and stored: of a file while it is written, and 8-byte ones that millions of images can be compared by."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np


class Hashed(io.RawIOBase):
    """Hands on to a stream what is written to it; `sha256` is the digest of all of it. The stream stays open."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream, self._digest = stream, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._digest.update(data)
        self._stream.write(data)
        return memoryview(data).nbytes

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def short_digests(values: list[bytes]) -> np.ndarray:
    """uint64 [N]: equal values have equal digests; among n values two others do by a chance of n^2 / 2^65."""
    return np.array([int.from_bytes(hashlib.blake2b(v, digest_size=8).digest(), "little") for v in values], np.uint64)
