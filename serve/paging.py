"""Pages of one ranking: what shards are asked for, what of their answer is the page, and where the next one begins.

A page is cut out of the ranking of all results up to its end, as of one commit of the catalogue. So pages of an exact index have neither
gaps nor anything twice, whatever changes meanwhile; an approximate kind may find more when it is asked for more.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fashion_dml.index.merge import Found
from serve.errors import Refusal
from serve.limits import PAGE_DEPTH
from serve.schema import Options


def depth(options: Options, left_out: int) -> int:
    """How many results to ask for, so that the page is whole without those that are left out."""
    return options.offset + options.k + left_out


def cut(ranking: Found, options: Options, items: Collection[str], products: Collection[str]) -> Found:
    """The page of a ranking of `depth` results, without these items; with group_by=product without these products."""
    names, without = (ranking.product_ids, products) if options.group_by == "product" else (ranking.item_ids, items)
    if not without and not options.offset and len(names) <= options.k:
        return ranking
    kept = [place for place, name in enumerate(names) if name not in without] if without else range(len(names))
    return ranking.take(kept[options.offset : options.offset + options.k])


def following(options: Options, catalog: int, index: str, *, more: bool) -> dict[str, Any] | None:
    """A Next; None at the end of the list, or of what may be paged through. more: a page of this batch is full."""
    offset = options.offset + options.k
    if not more or offset >= PAGE_DEPTH:
        return None
    return {"offset": offset, "k": min(options.k, PAGE_DEPTH - offset), "catalog_at": catalog, "index": index}


def least_commit(options: Options) -> int:
    """The commit that must be known."""
    return options.catalog_at_least if options.catalog_at is None else options.catalog_at


def check_state(options: Options, index: str, oldest: int, at: int) -> None:
    """Raises Refusal where the index isn't the one that the page is of, or can't be searched as of the commit that is asked for.

    oldest: the commit that the index version holds; at: the newest known one.
    """
    if options.index is not None and options.index != index:
        raise Refusal(
            409, "index_changed", f"Version {index} of the index is live, not {options.index!r}; begin again with the first page.",
            limit=index,
        )  # fmt: skip
    if options.catalog_at is not None and options.catalog_at < oldest:
        raise Refusal(
            409, "catalog_gone", f"The index holds the catalogue from commit {oldest} on, so it can't be searched as of "
            f"{options.catalog_at}; begin again with the first page.", limit=oldest,
        )  # fmt: skip
    if at < (least := least_commit(options)):
        raise Refusal(409, "catalog_behind", f"The catalogue is at commit {at}, before {least}.", limit=at)
