"""Filters of a search: verticals are ranges of rows, attributes are masks over them.

A mask is computed from the attribute column once and kept while it is among the last that were asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fashion_dml.storage import UserError

MASKS_KEPT = 32
MOST_VALUES = 256  # values of a filter: more is no filter that a person asked for


class TooManyValues(UserError):
    """A filter of more than MOST_VALUES verticals and values."""


@dataclass(frozen=True)
class Filter:
    """What an answer must be: of one of these verticals (none named: of any), and in every group known to have one of its values.

    attributes: groups of `column=value` as the manifest's vocabulary has them.
    """

    verticals: tuple[str, ...] = ()
    attributes: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def of(cls, verticals: Sequence[str] = (), attributes: Mapping[str, Sequence[str]] | None = None) -> Filter:
        """attributes: {column: values, one of which must hold}."""
        groups = sorted((attributes or {}).items())
        return cls(
            tuple(sorted(set(verticals))),
            tuple(tuple(f"{c}={v}" for v in sorted(set(values))) for c, values in groups if values),
        )

    def check(self, verticals: Collection[str], vocabulary: Sequence[str]) -> None:
        """Raises UserError at a vertical or value that the index doesn't know, naming some that it does."""
        count = len(self.verticals) + sum(len(group) for group in self.attributes)
        if count > MOST_VALUES:
            raise TooManyValues(f"The filter names {count} verticals and values; at most {MOST_VALUES} may be named.")
        for name in self.verticals:
            if name not in verticals:
                raise UserError(f"The index holds no vertical {name[:64]!r}; known are {', '.join(sorted(verticals))}.")
        for value in (value for group in self.attributes for value in group):
            if value not in vocabulary:
                column = value.partition("=")[0]
                known = [v for v in vocabulary if v.startswith(f"{column}=")] or sorted(
                    {v.partition("=")[0] for v in vocabulary}
                )
                raise UserError(
                    f"The index knows no attribute {value[:64]!r}; known are {', '.join(known[:20])}{', ...' if len(known) > 20 else '.'}"
                )


EVERYTHING = Filter()


def holds(attributes: np.ndarray, vocabulary: Sequence[str], groups: Sequence[Sequence[str]]) -> np.ndarray:
    """Where attributes, int8 [N, A], have a value of each group (1: known to hold), bool [N]."""
    mask = np.ones(len(attributes), bool)
    for group in groups:
        mask &= (attributes[:, [vocabulary.index(value) for value in group]] == 1).any(axis=1)
    return mask


class Masks:
    """Masks of attribute filters over a shard's attributes, int8 [n, A] a batch of rows; the last used ones are kept."""

    def __init__(self, batches: Sequence[np.ndarray], vocabulary: Sequence[str]) -> None:
        self._batches, self._vocabulary = batches, vocabulary
        self._kept: OrderedDict[tuple[tuple[str, ...], ...], np.ndarray] = OrderedDict()

    def of(self, groups: tuple[tuple[str, ...], ...]) -> np.ndarray | None:
        """bool [N]; None for no filter."""
        if not groups:
            return None
        mask = self._kept.pop(groups, None)
        if mask is None:
            mask = np.concatenate([np.empty(0, bool), *(holds(batch, self._vocabulary, groups) for batch in self._batches)])
            mask.setflags(write=False)
        self._kept[groups] = mask
        while len(self._kept) > MASKS_KEPT:
            self._kept.popitem(last=False)
        return mask
