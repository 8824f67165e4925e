"""From the event log to MLflow: one run whose id is known, each event once."""

from __future__ import annotations

import json
import logging
import posixpath
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimts.core.masking import mask_secrets
from dimts.tracking.config import TrackingConfig
from dimts.tracking.cursor import Cursor
from dimts.tracking.event_log import Entry
from dimts.tracking.mlflow_client import connect, mlflow_key, time_ms
from dimts.tracking.mlflow_run import RunIdentity
from dimts.tracking.moved import moved_line

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

REFUSED = "mlflow_refused.jsonl"
CHANGED_TAG = "dimts.changed_params"
METRICS_PER_CALL = 1000
MAX_PARAM = 6000
MAX_TAG = 8000
CUT = "... (cut, see config.yaml)"
# Answers that will be the same however often we ask; everything else is worth another try.
_FINAL = ("INVALID_PARAMETER_VALUE", "INVALID_STATE")
# What MLflow answers to most errors of its database, those that pass among them.
_DOUBTFUL = "BAD_REQUEST"
TRIES = 5


class Sender:
    """Sends the event log of one folder; `config` has absolute paths.

    Attributes:
        run_id: MLflow's; None until the store has answered.
        opened: set as soon as `run_id` is known.
        stopped: to be set where nobody waits any longer.
    """

    def __init__(self, config: TrackingConfig, run_dir: Path) -> None:
        self._config = config
        self._run_dir = run_dir
        self._identity = RunIdentity(config, run_dir)
        self.cursor = Cursor(run_dir)
        self._warned = False
        self._doubts: Counter[int] = Counter()
        self._trouble: Exception | None = None
        self._sent_files: dict[tuple[str, str], tuple[int, int]] = {}
        self._steps: dict[str, set[int]] = {}
        self._highest: dict[str, int] = {}
        self.run_id: str | None = None
        self.opened, self.stopped = threading.Event(), False

    def drain(self) -> bool:
        """Send everything that waits; False if another process is the sender, or it is `stopped`.

        Raises:
            Exception: whatever MLflow raised; what was not sent still waits.
        """
        if not self.cursor.lock():
            return False
        if self.run_id is None and self.cursor.n_waiting():
            self._open_run()
        self._trouble = None
        for batch in self._batches():
            if self.stopped:
                return False
            self._send(batch)
        for entry in self.cursor.postponed():
            if self._trouble:
                break
            if self.stopped:
                return False
            self._trouble = self._try([entry])
            if self._trouble is None:
                self.cursor.settle(entry)
        if self._trouble:
            raise self._trouble
        return True

    def _open_run(self) -> None:
        start = self.cursor.start()
        name = start.event["start"].get("run_name") if start else None
        begun = time_ms(start.event) if start else None
        self._run, self._experiment_id, self._is_new = self._identity.open(
            self._client, name or self._run_dir.name, begun
        )
        self.cursor.use_run(self._run)
        self.run_id = self._run
        self.opened.set()

    def _batches(self) -> Iterator[list[Entry]]:
        """Single events, or neighbours that hold metrics, of which a call takes so many."""
        batch: list[Entry] = []
        size = 0
        for entry in self.cursor.pending():
            n_values = len(entry.event.get("values", ()))
            if batch and (not n_values or size + n_values > METRICS_PER_CALL):
                yield batch
                batch, size = [], 0
            if n_values:
                batch.append(entry)
                size += n_values
            else:
                yield [entry]
        if batch:
            yield batch

    def _send(self, batch: list[Entry]) -> None:
        entry = batch[-1]
        error = self._try(batch)
        if error is None:
            self.cursor.move(entry)
        elif {"artifact", "model"} & entry.event.keys() and self._answers():
            # The artifacts' place is away or full: that does not concern the metrics.
            self._trouble = error
            self.cursor.move(entry, postpone=True)
        else:
            raise error

    def _try(self, batch: list[Entry]) -> Exception | None:
        """Send, and set aside what the store will never take; an error that may pass."""
        try:
            if "values" in batch[0].event:
                self._send_metrics(batch)
            else:
                self._send_one(batch[0].event)
        except Exception as error:
            if not self._is_final(batch[0], error):
                return error
            if len(batch) == 1:
                self._refused(batch[0], error)
            else:
                for single in batch:
                    self._send([single])
        return None

    def _is_final(self, entry: Entry, error: Exception) -> bool:
        """Whether the store will never take this.

        Raises:
            RuntimeError: it takes nothing of this run any more.
        """
        code = getattr(error, "error_code", None)
        if code == _DOUBTFUL:
            self._doubts[entry.end] += 1
            return self._doubts[entry.end] >= TRIES
        if code not in _FINAL:
            return False
        if self._client.get_run(self._run).info.lifecycle_stage != "active":
            raise RuntimeError(f"run {self.run_id} is deleted; a new one follows at the next start")
        return True

    def _answers(self) -> bool:
        """Whether the store itself is there."""
        try:
            self._client.get_run(self._run)
        except Exception:
            return False
        return True

    def _send_one(self, event: Mapping[str, Any]) -> None:
        if "start" in event:
            self._send_start(event["start"])
        elif "tags" in event:
            self._send_tags(event["tags"])
        elif "end" in event:
            self._identity.delete_twins(self._client)
            self._client.set_terminated(self._run, event["end"], end_time=time_ms(event))
        elif moved := moved_line(self._config):  # MLflow would make the old place anew
            raise FileNotFoundError(moved)
        elif "artifact" in event:
            self._send_artifact(event)
        else:
            self._send_model(event)

    def _send_start(self, start: Mapping[str, Any]) -> None:
        """Parameters and tags; a parameter cannot change, so a changed one becomes a tag."""
        from mlflow.entities import Param

        known = self._client.get_run(self._run).data.params
        params = start.get("params", {})
        wanted = {mlflow_key(name): _cut(value, MAX_PARAM) for name, value in params.items()}
        new = [Param(name, value) for name, value in wanted.items() if name not in known]
        self._client.log_batch(self._run, params=new)
        tags = dict(start.get("tags", {}))
        if changed := [
            f"{name}: {known[name]} -> {value}"
            for name, value in wanted.items()
            if known.get(name, value) != value
        ]:
            tags[CHANGED_TAG] = "; ".join(changed)
        self._send_tags(tags)
        self._client.update_run(self._run, status="RUNNING")

    def _send_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        listed = [RunTag(mlflow_key(name), _cut(text, MAX_TAG)) for name, text in tags.items()]
        self._client.log_batch(self._run, tags=listed)

    def _send_metrics(self, batch: Sequence[Entry]) -> None:
        """Values of steps that were not sent before.

        A point keeps the time at which it was measured, so a batch that the store took
        without our hearing of it is the same rows again, which the store counts once.
        """
        from mlflow.entities import Metric

        points: dict[tuple[str, int], Metric] = {}
        for _, _, event in batch:
            for name, value in event["values"].items():
                key, step = mlflow_key(name), int(event["step"])
                if (key, step) not in points and self._is_unknown(key, step):
                    points[key, step] = Metric(key, float(value), time_ms(event), step)
        self._client.log_batch(self._run, metrics=list(points.values()))
        for key, step in points:
            self._highest[key] = max(step, self._highest.get(key, -1))
            if key in self._steps:
                self._steps[key].add(step)

    def _is_unknown(self, key: str, step: int) -> bool:
        """Whether the store lacks a point: a run that is started again computes some anew.

        Of a run that was just made, what is above the highest step sent of a metric is new.
        """
        if self._is_new and step > self._highest.get(key, -1):
            return True
        if key not in self._steps:
            history = self._client.get_metric_history(self._run, key)
            self._steps[key] = {point.step for point in history}
        return step not in self._steps[key]

    def _send_artifact(self, event: Mapping[str, Any]) -> None:
        """Send a file as it is now; of several events that name it, the first one does."""
        name, folder = event["artifact"], event["folder"]
        if "content" in event:
            self._client.log_text(self._run, event["content"], posixpath.join(folder, name))
        elif (path := self._existing(name)) and path.is_file():
            status = path.stat()
            stamp = (status.st_size, status.st_mtime_ns)
            if self._sent_files.get((name, folder)) != stamp:
                self._client.log_artifact(self._run, str(path), folder or None)
                self._sent_files[name, folder] = stamp

    def _send_model(self, event: Mapping[str, Any]) -> None:
        from dimts.tracking.mlflow_model import log_bundle

        if bundle := self._existing(event["model"]):
            registered, experiment_id = self._config.registered_model, self._experiment_id
            log_bundle(self._client, self._run, experiment_id, bundle, event, registered)

    def _existing(self, name: str) -> Path | None:
        """A file or folder inside the run's, which is said not to be sent if it is not there."""
        path = self._run_dir / name
        if path.exists() and path.resolve().is_relative_to(self._run_dir.resolve()):
            return path
        log.warning("tracking: %s is not in %s any more, so it is not sent", name, self._run_dir)
        return None

    def _refused(self, entry: Entry, error: Exception) -> None:
        """Set an event aside that the store will never take, so that the rest can follow."""
        path = self._run_dir / REFUSED
        with path.open("a", encoding="utf-8") as file:
            line = {**entry.event, "reason": mask_secrets(str(error))}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if not self._warned:
            self._warned = True
            log.warning("tracking: MLflow refused an event; see %s", path)

    @cached_property
    def _client(self) -> MlflowClient:
        return connect(self._config)


def _cut(value: str, longest: int) -> str:
    return value if len(value) <= longest else value[: longest - len(CUT)] + CUT
