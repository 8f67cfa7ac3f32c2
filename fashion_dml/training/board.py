"""What is logged of a training: TensorBoard files, in an object store too, and MLflow where that is asked for."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from fashion_dml.storage import Location
from fashion_dml.training import tracking


class Board:
    """Scalars under `logs`, a context that ends them. TensorBoard appends to its file, which an object store can't: there a copy goes up
    with each save."""

    def __init__(self, logs: Location, run: tracking.Run | None = None) -> None:
        self._logs, self._run = logs, run
        self._aside = None if logs.is_local else tempfile.TemporaryDirectory(prefix="fashion-dml-logs-")
        self._writer = SummaryWriter(logs.path if self._aside is None else self._aside.name)

    def add(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step)
        if self._run is not None:
            self._run.add(name, value, step)

    def step(self, values: dict[str, float], rate: float, waited: float, step: int) -> None:
        """A training step: the loss and its parts, the learning rate, and the seconds it waited for its images."""
        for name, value in values.items():
            self.add(f"train/{name}", value, step)
        self.add("train/learning_rate", rate, step)
        self.add("train/waited_ms", 1000 * waited, step)

    def save(self) -> None:
        """Make what was added so far readable where the logs belong."""
        self._writer.flush()
        for file in sorted(Path(self._aside.name).iterdir()) if self._aside is not None else ():
            (self._logs / file.name).write_bytes(file.read_bytes())
        if self._run is not None:
            self._run.save()

    def __enter__(self) -> Board:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Save and end; after an exception the training isn't done, and may go on another time."""
        self._writer.close()
        self.save()
        if self._aside is not None:
            self._aside.cleanup()
        if self._run is not None:
            self._run.close(done=kind is None)
