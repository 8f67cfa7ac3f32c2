"""Settings of what comes after training: embeddings, measurement, index and service."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from fashion_dml.config.section import Labels, Positive, Section

Replicas = Positive | tuple[Positive, Positive]


class Embed(Section):
    """Embedding a dataset with a pool of actors."""

    batch_images: Positive = Field(64, description="images of a forward pass")
    actors: Annotated[int, Field(ge=0)] = Field(
        0, description="actors of the pool; 0: one for each worker of the cluster section"
    )
    mirror: bool = Field(
        False, description="a teacher's embedding, stored or of a view, is the mean of an image's and its mirror image's"
    )


class Evaluate(Section):
    """What is measured, and how."""

    recall_at: tuple[Positive, ...] = Field((1, 5, 10, 20), description="K of R@K")
    bootstrap: Positive = Field(1000, description="resamples of the queries for the 95 % intervals")
    memory_bytes: Annotated[int, Field(ge=1 << 20)] = Field(256 << 20, description="bytes of a block of similarities")
    sheets: Annotated[int, Field(ge=0)] = Field(6, description="retrieval sheets of each model: worst queries first")
    split: str = Field(
        "test", description="split whose images search among themselves; test: query in gallery, where a dataset has those"
    )
    level: Literal["auto", "image", "product"] = Field(
        "auto", description="what is counted as a hit: images, or products by their best image; auto: as the dataset's protocol"
    )
    whole_list: bool = Field(
        True, description="also mAP and MRR, which need every rank; without them a large gallery is faster"
    )
    query_expansion: Annotated[int, Field(ge=0, le=1000)] = Field(
        0, description="neighbours of query expansion, measured beside the plain search; 0: none"
    )
    expansion_alpha: Annotated[float, Field(ge=0, le=100)] = Field(
        3.0, description="power of a neighbour's cosine that is its weight in query expansion; 0: plain average"
    )
    agreement: Annotated[int, Field(ge=0, le=1000)] = Field(
        10, description="first answers whose attributes are compared with the query's, where the dataset has some; 0: none"
    )
    map: Annotated[int, Field(ge=0, le=10_000)] = Field(
        1000, description="query images on the map of each model's embeddings; 0: none"
    )
    rerank: Literal["none", "k-reciprocal"] = Field("none", description="re-ranking, measured beside the plain search")
    rerank_top: Annotated[int, Field(ge=1, le=10_000)] = Field(100, description="nearest images of a query that are re-ranked")

    @field_validator("recall_at")
    @classmethod
    def _first(cls, given: tuple[int, ...]) -> tuple[int, ...]:
        """R@1 is what models are compared by: it is measured whether it is asked for or not."""
        return tuple(sorted({1, *given}))


class Export(Section):
    """A model for those without this package."""

    timm: bool = Field(True, description="weights and a config that timm loads")
    onnx: bool = Field(True, description="an ONNX model from uint8 photos to embeddings; asks for the extra `export`")


class Index(Section):
    """The search index."""

    shards: Annotated[int, Field(ge=1, le=4096)] = Field(
        2, description="index shards; each is one task when built and one actor when served"
    )
    kind: Literal["auto", "flat", "ivf", "ivf_pq", "hnsw"] = Field(
        "auto", description="flat: exact; others approximate; auto: the fastest measured on a sample of those that fit"
    )
    store: Literal["fp32", "fp16", "int8"] = Field(
        "fp32", description="how vectors are stored: fp16 half the bytes, int8 a quarter"
    )
    recall: Annotated[float, Field(gt=0, le=1)] = Field(0.95, description="least recall@10 of an approximate kind")
    memory_bytes: Annotated[int, Field(ge=1 << 20)] = Field(4 << 30, description="memory that a shard may need, for kind auto")
    sample: Annotated[int, Field(ge=1000)] = Field(100_000, description="vectors that the kinds are measured on, for kind auto")
    splits: tuple[str, ...] = Field(
        ("train", "validation", "test", "gallery"),
        description="splits that make the catalogue, of those that exist; query photos don't",
    )
    thumbnail_side: Annotated[int, Field(ge=32, le=512)] = Field(192, description="longest side of a thumbnail, pixels")
    keep_versions: Positive = Field(3, description="index versions kept beside the live one")
    leave_out_vectors: bool = Field(
        False, description="leave out items that came over HTTP as a vector of another model and without a picture, not refuse"
    )


class Serve(Section):
    """The search service."""

    host: str = Field("127.0.0.1", description="address the HTTP proxy listens on; 0.0.0.0: all")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="port the HTTP proxy listens on")
    proxy: Literal["haproxy", "python"] = Field(
        "haproxy",
        description="what takes the requests in where jobs.serve starts Ray: HAProxy (where it is installed), or Ray's own",
    )
    labels: Labels = Field(
        {}, description="labels of the nodes that shards, encoder and ingress replicas run on, as {role: serve}; empty: any"
    )
    shard_replicas: Annotated[int, Field(ge=1, le=16)] = Field(
        2, description="actors that hold each index shard; 2 or more survive a death"
    )
    shard_actors: Annotated[int, Field(ge=0, le=4096)] = Field(
        0,
        description="actors that index shards are dealt to, times shard_replicas; 0: as many as the index has shards at the start",
    )
    shard_cpus: Annotated[float, Field(ge=0)] = Field(0.1, description="CPUs a shard actor asks for")
    shard_threads: Positive = Field(1, description="FAISS threads of a shard actor")
    shard_gpus: Annotated[float, Field(ge=0)] = Field(
        0, description="GPUs a shard actor asks for; more than 0 searches an index of kind flat or ivf there"
    )
    ingress_replicas: Replicas = Field(
        1, description="replicas that decode images and merge answers; [2, 16]: as many of 2 to 16 as the load needs"
    )
    ingress_cpus: Annotated[float, Field(ge=0)] = Field(0.4, description="CPUs an ingress replica asks for")
    encoder: Literal["ingress", "deployment"] = Field(
        "ingress", description="where the model is: in the ingress replicas, or in replicas of its own, as a GPU's must be"
    )
    encoder_replicas: Replicas = Field(1, description="replicas that hold the model; [1, 4]: as many as the load needs")
    encoder_cpus: Annotated[float, Field(ge=0)] = Field(0.4, description="CPUs an encoder replica asks for")
    encoder_gpus: Annotated[float, Field(ge=0)] = Field(
        0, description="GPUs an encoder replica asks for; more than 0 runs the model there"
    )
    encoder_threads: Positive = Field(1, description="torch threads of an encoder replica")
    encoder_batch: Positive = Field(32, description="most images of one forward pass")
    deadline_s: Annotated[float, Field(gt=0)] = Field(
        10, description="seconds after which a request is answered with what is there"
    )
    hedge_s: Annotated[float, Field(gt=0)] = Field(
        0.5, description="seconds after which a silent shard's other replica is asked too"
    )
    index_poll_s: Annotated[float, Field(gt=0)] = Field(
        1, description="seconds between looks which index version is the live one"
    )
    keep_s: Annotated[float, Field(gt=0)] = Field(
        60, description="seconds that an index version, or a model, stays open after its last use once another one is live"
    )
    catalog_poll_s: Annotated[float, Field(gt=0)] = Field(
        1,
        description="seconds after which an ingress replica looks for changes that others committed; its own it knows at once",
    )
    max_ongoing: Positive = Field(64, description="requests an ingress replica works on at a time")
    max_queued: Positive = Field(256, description="requests that wait beyond those; more are answered 503")
    ingress_target: Positive = Field(16, description="requests at an ingress replica that autoscaling keeps it near")
    encoder_target: Annotated[int, Field(ge=0)] = Field(
        0, description="images at an encoder replica that autoscaling keeps it near; 0: encoder_batch"
    )
    scale_up_s: Annotated[float, Field(ge=0)] = Field(
        10, description="seconds of load above the target before replicas are added"
    )
    scale_down_s: Annotated[float, Field(ge=0)] = Field(300, description="seconds of load below the target before replicas go")
    rate_per_s: Annotated[float, Field(ge=0)] = Field(0, description="requests to /v1/ a second that a client may send; 0: any")
    rate_burst: Positive = Field(60, description="requests to /v1/ that a client may send at once, where rate_per_s is set")
    rate_client: Literal["address", "forwarded", "token"] = Field(
        "address",
        description="what tells clients apart; forwarded: last of X-Forwarded-For, behind a load balancer that writes it; token",
    )
    slow_s: Annotated[float, Field(gt=0)] = Field(1, description="seconds from which a request is logged as slow")
    log_requests: Literal["all", "problems"] = Field(
        "all", description="requests that get a log line; problems: those that fail or are slow"
    )
    watch_s: Annotated[float, Field(gt=0)] = Field(
        10, description="seconds between an ingress replica's looks whether all answer, for the metrics"
    )

    @model_validator(mode="after")
    def _gpu(self) -> Serve:
        if self.encoder == "ingress" and self.encoder_gpus > 0:
            raise ValueError("encoder_gpus are for an encoder of its own; set encoder = deployment")
        return self

    @model_validator(mode="after")
    def _scaling(self) -> Serve:
        for name, target in (
            ("ingress_replicas", self.ingress_target),
            ("encoder_replicas", self.encoder_target or self.encoder_batch),
        ):
            bounds, most = getattr(self, name), self.max_ongoing if name == "ingress_replicas" else 2 * self.encoder_batch
            if isinstance(bounds, int):
                continue
            if bounds[0] > bounds[1]:
                raise ValueError(f"{name} are from {bounds[0]} to {bounds[1]}; give the smaller number first")
            if target > most:  # a replica never holds so many, so that none would ever be added
                raise ValueError(
                    f"{name} should grow at {target} requests each, but one takes {most} at most; lower the target"
                )
        return self
