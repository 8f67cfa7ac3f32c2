"""What an ablation trains: for each method its baseline, each step of it, and the control that could refute it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Changes = dict[str, Any]


@dataclass(frozen=True)
class Rung:
    """One variant; `changes` are dotted settings that differ from the run's."""

    name: str
    changes: Changes


@dataclass(frozen=True)
class Claim:
    """`better` is above `worse` in `metric`: holds if the paired interval of the difference lies above 0."""

    says: str
    better: str
    worse: str
    metric: str = "R@1"


@dataclass(frozen=True)
class Ladder:
    """All variants of a method; `shared` settings make their batches and embeddings the same. The first is the baseline."""

    rungs: tuple[Rung, ...]
    claims: tuple[Claim, ...]
    shared: Changes = field(default_factory=dict)


# What the run's settings may hold for a loss of their own: every rung sets it, so that it is what its name says whatever they hold.
OWN: Changes = {"loss.soft_margin": False, "loss.miner": "", "loss.arguments": {}, "loss.miner_arguments": {}}


def _triplet(mining: str, **more: Any) -> Changes:
    return {**OWN, "loss.name": "triplet", "loss.mining": mining, **{f"loss.{n}": v for n, v in more.items()}}


def _granularity(form: str, g: str, head: float, columns: tuple[str, ...] = ()) -> Changes:
    return {
        **OWN, "loss.name": "granularity", "loss.granularity.form": form, "loss.granularity.g": g,
        "loss.granularity.head_weight": head, "loss.granularity.columns": list(columns),
    }  # fmt: skip


def _objective(*terms: str, start: str = "photos", **more: Any) -> Changes:
    """These terms with the weights of the run's settings; the others are 0."""
    off = {f"loss.multi_objective.{term}_weight": 0 for term in ("pair", "proxy", "proxy_proxy") if term not in terms}
    return {**OWN, "loss.name": "multi_objective", "loss.multi_objective.proxy_start": start, **off, **more}


def _cascade(ranking: str, shares: tuple[float, ...], taps: tuple[int, ...] = (2, 3)) -> Changes:
    return {
        **OWN,
        "loss.name": "cascade",
        "loss.cascade.ranking": ranking,
        "loss.cascade.shares": list(shares),
        "model.taps": list(taps),
    }


def _focus(form: str, **more: Any) -> Changes:
    return {
        **OWN,
        "loss.name": "focus_ranking",
        "loss.focus_ranking.form": form,
        **{f"loss.focus_ranking.{n}": v for n, v in {"rank_weight": False, **more}.items()},
    }


LOOK = ("category", "garment_group_name", "section_name")  # what names the look; colour differs within a product
COLOUR = ("colour", "perceived_colour_master_name")

HARD: Changes = {"specialists.batches": "hard-classes", "specialists.refresh_every": 50}

LADDERS: dict[str, Ladder] = {
    "triplet": Ladder(
        (
            Rung("all triplets", _triplet("all")),
            Rung("semi-hard", _triplet("semi-hard")),
            Rung("batch-hard", _triplet("batch-hard")),
            Rung("batch-hard, soft margin", _triplet("batch-hard", soft_margin=True)),
        ),
        (
            Claim("mining semi-hard negatives helps", "semi-hard", "all triplets"),
            Claim("the hardest negatives help more", "batch-hard", "semi-hard"),
            Claim("a soft margin helps", "batch-hard, soft margin", "batch-hard"),
        ),
    ),
    "granularity": Ladder(
        (
            Rung("deviance", _granularity("deviance", "labels", 0)),
            Rung("+ attribute head", _granularity("deviance", "labels", 1)),
            Rung("+ g of the look", _granularity("A", "labels", 1, LOOK)),
            Rung("+ g of colour", _granularity("A", "labels", 1, COLOUR)),
            Rung("+ g predicted", _granularity("A", "predicted", 1, LOOK)),
            Rung("g shuffled", _granularity("A", "shuffled", 1, LOOK)),
        ),
        (
            Claim("an attribute head helps", "+ attribute head", "deviance"),
            Claim("granularity from labels of the look helps", "+ g of the look", "+ attribute head"),
            Claim("granularity from predicted attributes helps", "+ g predicted", "+ attribute head"),
            Claim("which attributes make g matters: the look, not the colour", "+ g of the look", "+ g of colour"),
            Claim("control: the gain is the attributes' own, shuffled ones don't give it", "+ g of the look", "g shuffled"),
        ),
    ),
    # Proxy-proxy alone, or beside pairs, doesn't reach the model: nothing ties proxies to images there.
    "multi_objective": Ladder(
        (
            Rung("pair", _objective("pair")),
            Rung("proxy", _objective("proxy")),
            Rung("pair + proxy", _objective("pair", "proxy")),
            Rung("pair + proxy, random start", _objective("pair", "proxy", start="random")),
            Rung("proxy + proxy-proxy", _objective("proxy", "proxy_proxy")),
            Rung("all three", _objective("pair", "proxy", "proxy_proxy")),
            Rung("all three, hard classes", _objective("pair", "proxy", "proxy_proxy", **HARD)),
        ),
        (
            Claim("proxies add to pairs", "pair + proxy", "pair"),
            Claim("proxies that start at their photos beat random ones", "pair + proxy", "pair + proxy, random start"),
            Claim("proxy-proxy adds to pair and proxy", "all three", "pair + proxy"),
            Claim("proxy-proxy adds at the tail of the list", "all three", "pair + proxy", "R@10"),
            Claim("batches of near classes help", "all three, hard classes", "all three"),
        ),
        {"specialists.batches": "vertical-wise"},  # hard classes are these, with near products together
    ),
    "cascade": Ladder(
        (
            Rung("one head, all pairs", _cascade("all", (1.0,), ())),
            Rung("one head, hardest 20 %", _cascade("own-rank", (0.2,), ())),
            Rung("three heads, all pairs", _cascade("all", (1.0, 1.0, 1.0))),
            Rung("HDC, own rank", _cascade("own-rank", (1.0, 0.5, 0.2))),
            Rung("HDC, nested", _cascade("nested", (1.0, 0.5, 0.2))),
        ),
        (
            Claim("hard pairs help a single head", "one head, hardest 20 %", "one head, all pairs"),
            Claim("heads at three depths help", "three heads, all pairs", "one head, all pairs"),
            Claim("the cascade adds to plain deep supervision", "HDC, own rank", "three heads, all pairs"),
            Claim("nested ranking beats own rank", "HDC, nested", "HDC, own rank"),
        ),
        {"model.dim": 384},
    ),
    "focus_ranking": Ladder(
        (
            Rung("triplet", _triplet("all")),
            Rung("focus, hinge", _focus("hinge")),
            Rung("focus, softplus", _focus("softplus", temperature=0.1)),
            Rung("focus, hinge, rank weights", _focus("hinge", rank_weight=True)),
            Rung("InfoNCE", _focus("info-nce", temperature=0.1)),
        ),
        (
            Claim("ranking a whole unit beats triplets", "focus, hinge", "triplet"),
            Claim("softplus beats the hinge", "focus, softplus", "focus, hinge"),
            Claim("rank weights help the head of the list", "focus, hinge, rank weights", "focus, hinge"),
            Claim("focus ranking beats InfoNCE on the same units", "focus, softplus", "InfoNCE"),
        ),
        {"specialists.images_per_product": 4, "specialists.products_per_batch": 8},
    ),
}  # fmt: skip
