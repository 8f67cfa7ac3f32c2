"""Curves of a training in MLflow too, under the names that TensorBoard has them by."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

from fashion_dml.config import Tracking
from fashion_dml.storage import Location, UserError
from fashion_dml.training.recipe import Recipe

logger = logging.getLogger(__name__)
KEY, WORKSPACE, NAME = "fashion_dml.key", "fashion_dml.workspace", "fashion_dml.training"
BATCH = 1000  # metrics of a request, MLflow's limit
VALUE = 500  # characters of a parameter; MLflow's limit is 6,000
# A server that is away holds a training up for seconds, not for the minutes that MLflow would try; and nobody else is told of a run.
MANNERS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_DISABLE_TELEMETRY": "true"}


def check(settings: Tracking) -> None:
    """Raises UserError where MLflow is asked for and isn't installed or can't be reached."""
    if settings.mlflow:
        mlflow = _mlflow()
        try:
            _experiment(_client(settings), settings)
        except mlflow.exceptions.MlflowException as error:
            raise UserError(
                f"tracking.mlflow = {settings.mlflow} can't be used ({_line(error)}); give a server's address, or leave it out."
            ) from error


class Run:
    """A training as a run of MLflow: the same one again where a training goes on.

    Its tags say the workspace, the training's name and the key of its model's manifest, so either leads to the other. What can't be sent
    is kept and sent with the next; a server that is away, at the start too, costs a warning.
    """

    def __init__(self, recipe: Recipe, home: Location) -> None:
        """home: the directory of the training. Raises UserError where MLflow isn't installed."""
        self._recipe, self._home = recipe, home
        self._client: Any = None
        self._id = ""
        self._waiting: list[Any] = []
        self.save()

    def add(self, name: str, value: float, step: int) -> None:
        """Note a value; `save` sends it."""
        from mlflow.entities import Metric

        self._waiting.append(Metric(_allowed(name), value, int(1000 * time.time()), step))

    def save(self) -> None:
        """Send what was noted."""
        self._tell(self._send, "its values")

    def close(self, *, done: bool) -> None:
        """Save and end the run; one that isn't done goes on another time."""
        self.save()
        self._tell(lambda: self._client.set_terminated(self._id, "FINISHED" if done else "KILLED"), "the end")

    def _tell(self, send: Callable[[], None], what: str) -> None:
        mlflow = _mlflow()
        try:
            self._open()
            send()
        except mlflow.exceptions.MlflowException as error:
            logger.warning("%s: MLflow wasn't told %s (%s); the training goes on.", self._recipe.name, what, _line(error))

    def _open(self) -> None:
        """Find or make the run, once."""
        if self._id:
            return
        self._client = _client(self._recipe.tracking)
        experiment = _experiment(self._client, self._recipe.tracking)
        tags = {KEY: self._recipe.key, WORKSPACE: str(self._home.parent.parent), NAME: self._home.name}
        same = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        found = self._client.search_runs([experiment], filter_string=same, max_results=1)
        if found:
            self._client.update_run(found[0].info.run_id, status="RUNNING")
        else:
            found = [self._client.create_run(experiment, run_name=self._recipe.name, tags=tags)]
            self._client.log_batch(found[0].info.run_id, params=_params(self._recipe.config))
        self._id = found[0].info.run_id

    def _send(self) -> None:
        while self._waiting:
            self._client.log_batch(self._id, metrics=self._waiting[:BATCH])
            del self._waiting[:BATCH]


def _mlflow() -> Any:
    """The package. Raises UserError where it isn't installed."""
    for name, value in MANNERS.items():
        os.environ.setdefault(name, value)
    try:
        import mlflow
    except ImportError as error:
        raise UserError(
            "tracking.mlflow needs MLflow, which is not installed; run pip install 'fashion-dml[tracking]'."
        ) from error
    return mlflow


def _client(settings: Tracking) -> Any:
    return _mlflow().MlflowClient(tracking_uri=settings.mlflow)


def _experiment(client: Any, settings: Tracking) -> str:
    """The id of the experiment, made if need be."""
    known = client.get_experiment_by_name(settings.experiment)
    return str(known.experiment_id if known is not None else client.create_experiment(settings.experiment))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _allowed(name: str) -> str:
    """MLflow's names have no @."""
    return name.replace("@", "_at_")


def _params(config: dict[str, Any], prefix: str = "") -> list[Any]:
    """Settings as parameters, by dotted name."""
    from mlflow.entities import Param

    found: list[Any] = []
    for name, value in config.items():
        found += _params(value, f"{prefix}{name}.") if isinstance(value, dict) else [Param(prefix + name, str(value)[:VALUE])]
    return found
