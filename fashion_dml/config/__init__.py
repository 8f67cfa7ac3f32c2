"""Every setting of every job: typed, with unit and default, validated once, printed whole, saved beside every result.

One YAML file holds the sections of all jobs, so the same file serves each of them:

    python -m jobs.train_specialists --config jobs/configs/demo.yaml --workspace s3://bucket/run --specialists.steps 500

The command line wins over the file, the file over the defaults. A job reads only the sections it names.
"""

from __future__ import annotations

from fashion_dml.config.data import Augment, Columns, Data, Generated, Ingest
from fashion_dml.config.load import load_settings, read_config, validate
from fashion_dml.config.losses import Cascade, FocusRanking, Granularity, Loss, Memory, MultiObjective
from fashion_dml.config.search import Embed, Evaluate, Export, Index, Serve
from fashion_dml.config.section import Labels, Positive, Section, Share
from fashion_dml.config.settings import JobSettings, Settings
from fashion_dml.config.training import (
    Ablate,
    Baselines,
    Cluster,
    Distill,
    Finetune,
    Group,
    Model,
    Optim,
    Specialists,
    Tracking,
)

__all__ = [
    "Ablate",
    "Augment",
    "Baselines",
    "Cascade",
    "Cluster",
    "Columns",
    "Data",
    "Distill",
    "Embed",
    "Evaluate",
    "Export",
    "Finetune",
    "FocusRanking",
    "Generated",
    "Granularity",
    "Group",
    "Index",
    "Ingest",
    "JobSettings",
    "Labels",
    "Loss",
    "Memory",
    "Model",
    "MultiObjective",
    "Optim",
    "Positive",
    "Section",
    "Serve",
    "Settings",
    "Share",
    "Specialists",
    "Tracking",
    "load_settings",
    "read_config",
    "validate",
]
