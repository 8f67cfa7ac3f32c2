"""One query as the service works on it, whichever way it came in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from serve.errors import Refusal
from serve.limits import UNLIKE_WEIGHT

Crop: TypeAlias = tuple[float, float, float, float]
Source: TypeAlias = bytes | np.ndarray | str | None
"""An encoded image, a unit vector float32 [D], an item_id; None where a query is by the items of `like` alone."""


@dataclass(frozen=True, eq=False)
class Asked:
    """What is searched by. place: its name in refusals, where it is one of a batch; crop: of an image.

    like, unlike: items that the results are to be like and not to be like, each once.
    """

    source: Source
    place: str = ""
    crop: Crop | None = None
    like: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    unlike_weight: float = UNLIKE_WEIGHT
    exclude_self: bool = False

    @property
    def positive(self) -> tuple[str, ...]:
        """Items whose vectors the query is made of."""
        return tuple(dict.fromkeys([*self.own, *self.like]))

    @property
    def own(self) -> tuple[str, ...]:
        return (self.source,) if isinstance(self.source, str) else ()

    @property
    def left_out(self) -> tuple[str, ...]:
        """Items that results don't hold."""
        if self.like or self.unlike:
            return (*self.positive, *self.unlike)
        return self.own if self.exclude_self else ()

    def check(self) -> Asked:
        """Itself. Raises Refusal where an item is on both sides."""
        both = [item for item in self.unlike if item in self.positive]
        if both:
            raise Refusal(
                422, "like_and_unlike", f"The results can't be both like and unlike the item {both[0]!r}; take one side."
            )
        return self
