"""What a source left out and why, and what it says about its protocol: both go into the dataset's manifest.

A source hands on a plain table, so these ride in the table's schema metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

FIRST = 20
KEY = b"fashion_dml.left_out"


@dataclass
class LeftOut:
    """Counts by reason, with the first names of each. `damage` is what ingest.max_unreadable bounds: files that should be
    there and readable. The other reasons are what a protocol prescribes, however many they are."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, list[str]] = field(default_factory=dict)
    damage: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    def add(self, reason: str, what: str, *, damage: bool = False) -> None:
        """Count one image (or pair) that is left out."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        named = self.first.setdefault(reason, [])
        if len(named) < FIRST:
            named.append(what)
        if damage and reason not in self.damage:
            self.damage.append(reason)

    @property
    def damaged(self) -> int:
        """How many were left out because of damage."""
        return sum(self.counts[reason] for reason in self.damage)

    def first_damaged(self) -> str:
        """The first damaged one by name, with its reason."""
        reason = self.damage[0]
        return f"{self.first[reason][0]}: {reason}"

    def dropped(self) -> dict[str, dict[str, Any]]:
        """The manifest's `dropped`."""
        return {r: {"count": n, "first": self.first[r]} for r, n in sorted(self.counts.items())}


def attach(table: pa.Table, left_out: LeftOut) -> pa.Table:
    """The table with what was left out in its metadata."""
    return table.replace_schema_metadata({KEY: json.dumps(vars(left_out)).encode()})


def attached(table: pa.Table) -> LeftOut:
    """What rides in a table's metadata; nothing where a source attached nothing."""
    found: Mapping[bytes, bytes] = table.schema.metadata or {}
    return LeftOut(**json.loads(found[KEY])) if KEY in found else LeftOut()
