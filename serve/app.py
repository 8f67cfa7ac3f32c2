"""The search service as one Ray Serve application.

    serve run serve.app:build workspace=/data/run
    serve run serve.app:build workspace=s3://bucket/run config=jobs/configs/demo.yaml shard_replicas=3
    serve deploy serve/config/laptop.yaml

Arguments: workspace, config (a YAML file with a section `serve`), and any setting of that section. Ingress replicas
decode and merge, encoder replicas hold the model, S x R shard actors hold the index.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from fashion_dml.config import JobSettings, Serve, read_config, validate
from fashion_dml.index.manifest import IndexManifest, index_root, require_current
from fashion_dml.storage import Location, UserError, require_manifest
from serve.api import create_api
from serve.auth import Tokens
from serve.catalogue import LiveCatalogue
from serve.encoder import EncoderDeployment
from serve.encoding import EncoderHandle, ModelInput
from serve.memory import give_back_large_blocks
from serve.service import SearchService
from serve.shards import shard_actors
from serve.writer import CatalogueWriter

APPLICATION, CATALOG = "search", "catalog"


class ServiceSettings(JobSettings):
    """Sections that the service reads."""

    serve: Serve = Serve()


@serve.deployment(name="search")
@serve.ingress()
class SearchDeployment:
    """The ingress. Its shard actors belong to it, so they come and go with it."""

    def __init__(
        self, manifest: IndexManifest, model: ModelInput, settings: Serve, encoder: DeploymentHandle, catalog: str
    ) -> None:
        give_back_large_blocks()
        catalogue = LiveCatalogue(Location.of(catalog), manifest, settings.catalog_poll_s)
        handle = EncoderHandle(encoder)
        self._service = SearchService(manifest, model, settings, handle, catalogue)
        self._writer = CatalogueWriter(manifest, model, settings, handle, catalogue)
        self._tokens = Tokens()

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_api(self._service, self._writer, self._tokens)


def read_settings(args: dict[str, Any]) -> ServiceSettings:
    """Settings from `key=value` arguments. Raises UserError at an unknown key or a bad value."""
    given = dict(args)
    workspace, config = str(given.pop("workspace", "")), given.pop("config", "")
    if not workspace:
        raise UserError("The service needs workspace=DIR-or-URI, the workspace in which jobs.build_index made an index.")
    section = (read_config(str(config)).get("serve") or {}) if config else {}
    return validate(ServiceSettings, {"workspace": workspace, "serve": section | given})


def matching(workspace: Location) -> tuple[IndexManifest, Location, ModelInput]:
    """The live index, its model's directory and input. Raises UserError if the index was made by another model."""
    index = require_current(index_root(workspace))
    directory = workspace / "unified" / "model"
    model = require_manifest(directory, made_by="python -m jobs.distill")
    if model["sha256"] != index.model:
        raise UserError(
            f"Index version {index.version} was made by model {index.model[:12]}, "
            f"{directory} holds {str(model['sha256'])[:12]}: run `python -m jobs.build_index --activate true` for this model."
        )
    config = (directory / "config.json").read_json()
    return index, directory, ModelInput(int(config["height"]), int(config["width"]))


def build(args: dict[str, Any]) -> Application:
    """The application, from the arguments of `serve run` or of a config file. Raises UserError before anything starts."""
    whole = read_settings(args)
    settings, workspace = whole.serve, Location.of(whole.workspace)
    index, model_dir, model = matching(workspace)
    encoder = EncoderDeployment.options(  # type: ignore[attr-defined]
        num_replicas=settings.encoder_replicas,
        max_ongoing_requests=2 * settings.encoder_batch,  # one batch at work, one gathering
        ray_actor_options={"num_cpus": settings.encoder_cpus, "num_gpus": settings.encoder_gpus},
    ).bind(str(model_dir), index.model, settings)
    application: Application = SearchDeployment.options(  # type: ignore[attr-defined]
        num_replicas=settings.ingress_replicas,
        max_ongoing_requests=settings.max_ongoing,
        max_queued_requests=settings.max_queued,
        ray_actor_options={"num_cpus": settings.ingress_cpus},
        deployment_actors=shard_actors(str(index_root(workspace)), str(workspace / CATALOG), index, settings),
    ).bind(index, model, settings, encoder, str(workspace / CATALOG))
    return application


def start(args: dict[str, Any]) -> str:
    """Serve on the cluster that this process has joined, at the settings' host and port; returns the address.

    Raises UserError before anything starts. HTTP options are the cluster's: if Serve runs already, its own stay.
    """
    settings = read_settings(args).serve
    application = build(args)
    serve.start(http_options={"host": settings.host, "port": settings.port})
    serve.run(application, name=APPLICATION, route_prefix="/")
    return f"http://{settings.host}:{settings.port}"
