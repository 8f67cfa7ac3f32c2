"""Settings of the losses of specialists and joint model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fashion_dml.config.section import Positive, Section


class Granularity(Section):
    """Soft-binomial deviance: attributes say how alike two products are."""

    form: Literal["deviance", "A", "B", "C"] = Field(
        "A",
        description="deviance: no attributes; A: alike negatives are pushed less; B: also alike positives pulled more; C: soft labels",
    )
    g: Literal["labels", "predicted", "shuffled"] = Field(
        "labels",
        description="likeness from attribute labels, the attribute head, or labels of other images of the batch (control)",
    )
    likeness: Literal["cosine", "jaccard"] = Field("cosine", description="similarity of two images' attributes")
    columns: tuple[str, ...] = Field((), description="attribute columns that make the likeness, as colour; empty: all")
    head_weight: Annotated[float, Field(ge=0)] = Field(
        1.0, description="weight of the attribute head's own loss; 0: no attribute head"
    )
    slope: Annotated[float, Field(gt=0, le=100)] = Field(2.0, description="b1: slope of the deviance")
    centre: Annotated[float, Field(ge=-1, le=1)] = Field(0.5, description="b2: cosine between positives and negatives")
    negative_weight: Annotated[float, Field(gt=0, le=1000)] = Field(25.0, description="C: slope of negatives over positives'")

    @model_validator(mode="after")
    def _predicted(self) -> Granularity:
        if self.form != "deviance" and self.g == "predicted" and self.head_weight == 0:
            raise ValueError("g = predicted needs the attribute head; set head_weight above 0")
        return self


class MultiObjective(Section):
    """Pair, proxy and proxy-proxy terms."""

    pair_weight: Annotated[float, Field(ge=0)] = Field(1.0, description="l1: weight of Multi-Similarity")
    proxy_weight: Annotated[float, Field(ge=0)] = Field(1.0, description="l2: weight of Proxy-Anchor")
    proxy_proxy_weight: Annotated[float, Field(ge=0)] = Field(1.0, description="l3: weight of the proxies' own distances")
    pair_alpha: Annotated[float, Field(gt=0)] = Field(2.0, description="a: sharpness over positives")
    pair_beta: Annotated[float, Field(gt=0)] = Field(50.0, description="b: sharpness over negatives")
    pair_centre: Annotated[float, Field(ge=-1, le=1)] = Field(0.5, description="lam: cosine between positives and negatives")
    pair_epsilon: Annotated[float, Field(ge=0, le=2)] = Field(
        0.1, description="cosine by which a pair may miss its anchor's hardest opposite pair and still count; 2: all pairs"
    )
    proxy_margin: Annotated[float, Field(ge=0, le=1)] = Field(0.1, description="margin of Proxy-Anchor, cosine")
    proxy_alpha: Annotated[float, Field(gt=0)] = Field(32.0, description="sharpness of Proxy-Anchor")
    proxy_proxy_beta: Annotated[float, Field(gt=0)] = Field(50.0, description="b': sharpness over other proxies")
    proxy_proxy_centre: Annotated[float, Field(ge=-1, le=1)] = Field(
        0.5, description="lam': cosine above which two proxies count as near"
    )
    near_classes: Positive = Field(32, description="nearest other classes of a batch class that its proxy is pushed from")
    proxy_rate: Annotated[float, Field(gt=0)] = Field(100.0, description="learning rate of the proxies over the trunk's")
    proxy_start: Literal["photos", "random"] = Field(
        "photos",
        description="where proxies start; photos: at the mean embedding of their product's, by one pass over the photos",
    )

    @model_validator(mode="after")
    def _some_term(self) -> MultiObjective:
        if self.pair_weight + self.proxy_weight + self.proxy_proxy_weight == 0:
            raise ValueError("all three weights are 0; set one above 0")
        return self


class Cascade(Section):
    """Hard-aware cascade: each level of the embedding learns from harder pairs."""

    ranking: Literal["own-rank", "nested", "all"] = Field(
        "own-rank",
        description="what a level ranks; own-rank: all pairs; nested: those the level before kept; all: nothing, it keeps every pair",
    )
    shares: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1, max_length=8)] = Field(
        (1.0, 0.5, 0.2), description="share of the ranked pairs that a level keeps, hardest first; as many as levels"
    )
    negative_weight: Annotated[float, Field(gt=0)] = Field(10.0, description="weight of negative pairs over positive ones")
    margin: Annotated[float, Field(gt=0, le=4)] = Field(1.0, description="squared distance beyond which negatives rest, 0-4")


class FocusRanking(Section):
    """Disorder of a query's list: negatives that stand before a positive."""

    form: Literal["hinge", "softplus", "info-nce"] = Field(
        "hinge", description="penalty of a negative before a positive; info-nce: softplus of all of a positive's terms together"
    )
    margin: Annotated[float, Field(ge=0, le=2)] = Field(0.1, description="cosine by which positives must lead, 0-2")
    temperature: Annotated[float, Field(gt=0)] = Field(
        1.0, description="divides the terms of softplus and info-nce; less is sharper"
    )
    rank_weight: bool = Field(False, description="weigh disorder at the head of the list more; not with info-nce")

    @model_validator(mode="after")
    def _summed(self) -> FocusRanking:
        if self.rank_weight and self.form == "info-nce":
            raise ValueError("rank_weight has no meaning with form = info-nce; choose hinge or softplus")
        return self


class Memory(Section):
    """Cross-batch memory: embeddings of past batches as further positives and negatives."""

    size: Annotated[int, Field(ge=0, le=1 << 20)] = Field(
        0, description="embeddings kept, fewer than the training images; 0: none. Not with cascade and pml losses"
    )
    start: Annotated[int, Field(ge=0)] = Field(0, description="batches before they are used: a young model drifts fast")


class Loss(Section):
    """The loss of specialists and joint model."""

    name: str = Field(
        "triplet",
        description="triplet, hard_triplet, granularity, multi_objective, cascade, focus_ranking, or pml:NAME, any loss of PyTorch Metric Learning",
    )
    margin: Annotated[float, Field(gt=0, le=4)] = Field(
        0.2, description="of triplet: squared distance of unit vectors, 0-4; of hard_triplet: distance, 0-2"
    )
    mining: Literal["semi-hard", "batch-hard", "all"] = Field(
        "semi-hard", description="which negatives of the batch make triplets"
    )
    soft_margin: bool = Field(
        False, description="softplus of a triplet instead of its hinge; margin then only bounds the mined negatives"
    )
    granularity: Granularity = Granularity()
    multi_objective: MultiObjective = MultiObjective()
    cascade: Cascade = Cascade()
    focus_ranking: FocusRanking = FocusRanking()
    memory: Memory = Memory()
    miner: str = Field("", description="a miner's name, with pml:NAME only; empty: none")
    arguments: dict[str, bool | int | float | str] = Field(
        {}, description="arguments of the pml loss, as {alpha: 2}; classes and dimension are filled in"
    )
    miner_arguments: dict[str, bool | int | float | str] = Field({}, description="arguments of the miner")
