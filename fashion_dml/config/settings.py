"""The sections of a job, and of all jobs: what a config file may hold."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from fashion_dml.config.data import Data, Ingest
from fashion_dml.config.losses import Loss
from fashion_dml.config.search import Embed, Evaluate, Export, Index, Serve
from fashion_dml.config.training import Ablate, Baselines, Cluster, Distill, Finetune, Group, Model, Specialists, Tracking


def absolute(place: str) -> str:
    """A path as seen from this process's directory, a URI as it is: workers of a run have directories of their own."""
    return place if "://" in place else os.path.abspath(os.path.expanduser(place))


class JobSettings(BaseModel):
    """Base of every job's settings; a subclass names the sections that the job reads."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    workspace: Annotated[str, AfterValidator(absolute)] = Field(
        "workspace", validate_default=True, description="directory or URI (s3://, gs://) under which all results go"
    )
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = Field(0, description="every random choice derives from it")


class Settings(JobSettings):
    """All sections: what a config file may hold."""

    ingest: Ingest = Ingest()
    data: Data = Data()
    model: Model = Model()
    loss: Loss = Loss()
    specialists: Specialists = Specialists()
    distill: Distill = Distill()
    finetune: Finetune = Finetune()
    group: Group = Group()
    ablate: Ablate = Ablate()
    baselines: Baselines = Baselines()
    embed: Embed = Embed()
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    index: Index = Index()
    serve: Serve = Serve()
    cluster: Cluster = Cluster()
    tracking: Tracking = Tracking()
