"""Curves of a training in MLflow too, under the names that TensorBoard has them by."""

from __future__ import annotations

import logging
import os
import time
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
        _experiment(_client(settings), settings)


class Run:
    """A training as a run of MLflow: the same one again where a training goes on.

    Its tags say the workspace, the training's name and the key of its model's manifest, so either leads to the other. What can't be sent
    is kept and sent with the next; a server that is away costs a warning.
    """

    def __init__(self, recipe: Recipe, home: Location) -> None:
        """home: the directory of the training. Raises UserError as `check`."""
        self._client = _client(recipe.tracking)
        experiment = _experiment(self._client, recipe.tracking)
        tags = {KEY: recipe.key, WORKSPACE: str(home.parent.parent), NAME: home.name}
        same = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        found = self._client.search_runs([experiment], filter_string=same, max_results=1)
        if found:
            self.id = found[0].info.run_id
            self._client.update_run(self.id, status="RUNNING")
        else:
            self.id = self._client.create_run(experiment, run_name=recipe.name, tags=tags).info.run_id
            self._client.log_batch(self.id, params=_params(recipe.config))
        self._waiting: list[Any] = []

    def add(self, name: str, value: float, step: int) -> None:
        """Note a value; `save` sends it."""
        from mlflow.entities import Metric

        self._waiting.append(Metric(_allowed(name), value, int(1000 * time.time()), step))

    def save(self) -> None:
        """Send what was noted."""
        from mlflow.exceptions import MlflowException

        try:
            while self._waiting:
                self._client.log_batch(self.id, metrics=self._waiting[:BATCH])
                del self._waiting[:BATCH]
        except MlflowException as error:
            logger.warning("MLflow didn't take %d values (%s); they are sent with the next.", len(self._waiting), _line(error))

    def close(self, *, done: bool) -> None:
        """Save and end the run; one that isn't done goes on another time."""
        from mlflow.exceptions import MlflowException

        self.save()
        try:
            self._client.set_terminated(self.id, "FINISHED" if done else "KILLED")
        except MlflowException as error:
            logger.warning("MLflow wasn't told that the run %s ended (%s).", self.id, _line(error))


def _client(settings: Tracking) -> Any:
    for name, value in MANNERS.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise UserError(
            "tracking.mlflow needs MLflow, which is not installed; run pip install 'fashion-dml[tracking]'."
        ) from error
    try:
        return MlflowClient(tracking_uri=settings.mlflow)
    except MlflowException as error:
        raise _unreachable(settings, error) from error


def _experiment(client: Any, settings: Tracking) -> str:
    """The id of the experiment, made if need be."""
    from mlflow.exceptions import MlflowException

    try:
        known = client.get_experiment_by_name(settings.experiment)
        return str(known.experiment_id if known is not None else client.create_experiment(settings.experiment))
    except MlflowException as error:
        raise _unreachable(settings, error) from error


def _unreachable(settings: Tracking, error: Exception) -> UserError:
    return UserError(
        f"tracking.mlflow = {settings.mlflow} can't be used ({_line(error)}); give a server's address, or leave it out."
    )


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
