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
from fashion_dml.data.placement import placed
from fashion_dml.index.manifest import index_root, require_current
from fashion_dml.storage import Location, UserError
from serve.api import create_api
from serve.auth import Tokens
from serve.catalogue import LiveCatalogue
from serve.encoder import EncoderDeployment
from serve.encoding import EncoderHandle, RemoteModels
from serve.live_index import LiveIndex, read_version
from serve.memory import give_back_large_blocks
from serve.models import Models
from serve.scaling import BACKPRESSURE, LOGGING, most, replica_options
from serve.service import SearchService
from serve.shards import ShardPool, shard_actors
from serve.stack import operated
from serve.translator import Translator
from serve.writer import CatalogueWriter

APPLICATION, CATALOG = "search", "catalog"


class ServiceSettings(JobSettings):
    """Sections that the service reads."""

    serve: Serve = Serve()


@serve.deployment(name="search")
@serve.ingress()
class SearchDeployment:
    """The ingress. Its shard actors belong to it, so they come and go with it."""

    def __init__(self, index: str, catalog: str, slots: int, settings: Serve, encoder: DeploymentHandle | None) -> None:
        give_back_large_blocks()
        root, changes = Location.of(index), Location.of(catalog)
        handle = EncoderHandle(
            Models(index, require_current(root).model, settings)
            if encoder is None
            else RemoteModels(encoder, settings.encoder_batch, most(settings.encoder_replicas))
        )
        catalogue = LiveCatalogue(changes, require_current(root), settings.catalog_poll_s)
        pool = ShardPool(slots, settings.shard_replicas, settings.hedge_s)
        self._versions = LiveIndex(
            root, settings, pool, handle, catalogue, Translator(changes, handle), self._look_everywhere
        )  # fmt: skip
        self._service = SearchService(self._versions, settings, catalogue)
        self._writer = CatalogueWriter(self._versions, settings, catalogue)
        self._tokens, self._settings = Tokens(), settings

    def __serve_build_asgi_app__(self) -> FastAPI:
        api = create_api(self._service, self._writer, self._tokens)
        return operated(api, self._service, self._settings, self._tokens)

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """The deployment's `user_config`, when a replica starts and whenever it changes: {"index": a version to pin, or ""}."""
        if set(config) - {"index"} or not isinstance(config.get("index", ""), str):
            raise UserError(f"user_config of the deployment `search` may hold `index: VERSION`, not {str(config)[:200]}.")
        await self._versions.pin(config.get("index", ""))

    async def look(self) -> None:
        """Change to the live version now, if it is another one."""
        await self._versions.look()

    async def _look_everywhere(self) -> None:
        me = serve.get_replica_context()
        await serve.get_deployment_handle(me.deployment, me.app_name).broadcast("look").results_async()


def read_settings(args: dict[str, Any]) -> ServiceSettings:
    """Settings from `key=value` arguments. Raises UserError at an unknown key or a bad value."""
    given = dict(args)
    workspace, config = str(given.pop("workspace", "")), given.pop("config", "")
    if not workspace:
        raise UserError("The service needs workspace=DIR-or-URI, the workspace in which jobs.build_index made an index.")
    section = (read_config(str(config)).get("serve") or {}) if config else {}
    return validate(ServiceSettings, {"workspace": workspace, "serve": section | given})


def build(args: dict[str, Any]) -> Application:
    """The application, from the arguments of `serve run` or of a config file. Raises UserError before anything starts."""
    whole = read_settings(args)
    settings, workspace = whole.serve, Location.of(whole.workspace)
    index, catalog = index_root(workspace), str(workspace / CATALOG)
    manifest, _ = read_version(index, require_current(index).version)
    where = placed(settings.labels, "serve.labels")
    slots = settings.shard_actors or len(manifest.shards)
    encoder = (
        None
        if settings.encoder == "ingress"
        else EncoderDeployment.options(  # type: ignore[attr-defined]
            **replica_options(settings.encoder_replicas, settings.encoder_target or settings.encoder_batch, settings),
            logging_config=LOGGING,
            max_ongoing_requests=2 * settings.encoder_batch,  # one batch at work, one gathering
            ray_actor_options={"num_cpus": settings.encoder_cpus, "num_gpus": settings.encoder_gpus} | where,
        ).bind(str(index), manifest.model, settings)
    )
    application: Application = SearchDeployment.options(  # type: ignore[attr-defined]
        **replica_options(settings.ingress_replicas, settings.ingress_target, settings),
        logging_config=LOGGING,
        backpressure_config=BACKPRESSURE,
        max_ongoing_requests=settings.max_ongoing,
        max_queued_requests=settings.max_queued,
        ray_actor_options={"num_cpus": settings.ingress_cpus} | where,
        deployment_actors=shard_actors(str(index), catalog, slots, settings),
    ).bind(str(index), catalog, slots, settings, encoder)
    return application


def start(args: dict[str, Any]) -> str:
    """Serve on the cluster that this process has joined, at the settings' host and port; returns the address.

    Raises UserError before anything starts. HTTP options are the cluster's: if Serve runs already, its own stay.
    """
    settings = read_settings(args).serve
    application = build(args)
    serve.start(http_options={"host": settings.host, "port": settings.port}, logging_config=LOGGING)
    serve.run(application, name=APPLICATION, route_prefix="/")
    return f"http://{settings.host}:{settings.port}"
