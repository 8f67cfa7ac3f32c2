"""The files for `serve deploy`, and how settings become Serve's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import HTTPOptionsSchema, LoggingConfig, ServeApplicationSchema, ServeDeploySchema

from fashion_dml.config import Serve
from fashion_dml.storage import UserError
from serve.app import read_settings
from serve.scaling import fewest, replica_options

CONFIGS = sorted((Path(__file__).parents[2] / "serve" / "config").glob("*.yaml"))


def names(schema: type[BaseModel]) -> set[str]:
    return set(schema.model_fields)


def test_there_is_one_for_each_place():
    assert [file.stem for file in CONFIGS] == ["cluster", "gpu-node", "laptop"]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_serve_and_our_settings_accept_it(file: Path):
    given = yaml.safe_load(file.read_text())
    ServeDeploySchema.model_validate(given)
    assert set(given) <= names(ServeDeploySchema)  # Serve itself says nothing about a key that it doesn't know
    assert set(given["http_options"]) <= names(HTTPOptionsSchema)
    assert set(given["logging_config"]) <= names(LoggingConfig)
    (application,) = given["applications"]
    assert set(application) <= names(ServeApplicationSchema)
    settings = read_settings(application["args"]).serve
    for part, deployment in ((settings.ingress_replicas, "ingress"), (settings.encoder_replicas, "encoder")):
        assert replica_options(part, 8, settings), deployment


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_setting_misspelt_in_it_is_refused(file: Path):
    args = yaml.safe_load(file.read_text())["applications"][0]["args"]
    for name in set(args) - {"workspace"}:
        wrong = {k if k != name else f"{k}s": v for k, v in args.items()}
        with pytest.raises(UserError, match=f"no setting 'serve.{name}s'"):
            read_settings(wrong)


def test_settings_in_comments_exist():
    for file in CONFIGS:
        for name in re.findall(r"^\s+# (\w+): [\d.]+ ", file.read_text(), re.MULTILINE):
            assert name in Serve.model_fields, f"{file.name}: {name}"


def test_a_range_becomes_autoscaling():
    settings = read_settings({"workspace": "w", "ingress_replicas": [2, 8], "scale_up_s": 3, "scale_down_s": 60}).serve
    (options,) = replica_options(settings.ingress_replicas, settings.ingress_target, settings).values()
    assert isinstance(options, AutoscalingConfig)
    assert (options.min_replicas, options.max_replicas, options.target_ongoing_requests) == (2, 8, 16)
    assert (options.upscale_delay_s, options.downscale_delay_s) == (3, 60)
    assert replica_options(3, 16, settings) == {"num_replicas": 3}
    assert (fewest(settings.ingress_replicas), fewest(3)) == (2, 3)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"ingress_replicas": [8, 2]}, "ingress_replicas are from 8 to 2; give the smaller number first"),
        ({"ingress_replicas": [0, 2]}, "serve.ingress_replicas"),
        (
            {"ingress_replicas": [1, 2], "ingress_target": 65},
            "ingress_replicas should grow at 65 requests each, but one takes 64",
        ),
        (
            {"encoder_replicas": [1, 2], "encoder_target": 65},
            "encoder_replicas should grow at 65 requests each, but one takes 64",
        ),
        ({"rate_per_s": -1}, "serve.rate_per_s = -1"),
        ({"rate_client": "cookie"}, "serve.rate_client = 'cookie'"),
        ({"log_requests": "none"}, "serve.log_requests = 'none'"),
    ],
)
def test_bad_settings_are_named(args, says):
    with pytest.raises(UserError) as caught:
        read_settings({"workspace": "w"} | args)
    assert says in str(caught.value)
