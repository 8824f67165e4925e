"""From the spool to MLflow: one run whose id is known, each record once."""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimts.core.masking import mask_secrets
from dimts.tracking.config import TrackingConfig
from dimts.tracking.mlflow_client import connect
from dimts.tracking.mlflow_run import RunIdentity
from dimts.tracking.moved import moved_line
from dimts.tracking.points import Points
from dimts.tracking.spool import Record, Spool

if TYPE_CHECKING:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

CHANGED_TAG = "dimts.changed_params"
DROPPED_TAG = "dimts.dropped_records"
METRICS_PER_CALL = 1000
PARAMS_PER_CALL = 100
LONGEST_PARAM = 6000
LONGEST_TAG = 8000
CUT = "... (cut, see config.yaml)"
# Answers that will be the same however often we ask; everything else is worth another try.
_FINAL = ("INVALID_PARAMETER_VALUE", "INVALID_STATE")
# What MLflow answers to most errors of its database, those that pass among them.
_DOUBTFUL = "BAD_REQUEST"
TRIES = 5


class Sender:
    """Sends one run's spool.

    Args:
        config: with absolute paths.
        run_dir: where ``mlflow_run.json`` lies.
        spool: what is sent.

    Attributes:
        run_id: MLflow's; None until the store has answered.
        opened: set as soon as `run_id` is known.
    """

    def __init__(self, config: TrackingConfig, run_dir: Path, spool: Spool) -> None:
        self._config = config
        self._identity = RunIdentity(config, run_dir)
        self._spool = spool
        self._points = Points(spool, self._history)
        self._client: MlflowClient | None = None
        self._told_refused = False
        self._doubts: Counter[tuple[str, int]] = Counter()
        self._trouble: Exception | None = None
        self.run_id: str | None = None
        self.opened = threading.Event()
        self.experiment_id = ""

    def drain(self, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Send everything that waits.

        Returns:
            False when another process is the sender, or `stopped` became true.

        Raises:
            Exception: whatever MLflow raised; what was not sent still waits.
        """
        if not self._spool.lock():
            return False
        self._trouble = None
        for batch in self._batches():
            if stopped():
                return False
            self._send(batch)
        for record in self._spool.postponed():
            if stopped():
                return False
            self._send_postponed(record)
        self._tell_dropped()
        self._spool.sweep()
        if self._trouble:
            raise self._trouble
        return True

    def _batches(self) -> Iterator[list[Record]]:
        """Single records, or neighbours that hold metrics and fit into one call."""
        batch: list[Record] = []
        size = 0
        for record in self._spool.pending():
            n_values = len(record.fields["values"]) if record.kind == "metrics" else 0
            joins = n_values and batch and batch[-1].segment == record.segment
            if batch and not (joins and size + n_values <= METRICS_PER_CALL):
                yield batch
                batch, size = [], 0
            batch.append(record)
            size += n_values
            if record.kind != "metrics":
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _send(self, batch: list[Record]) -> None:
        from mlflow.exceptions import MlflowException

        record = batch[-1]
        if record.kind == "start":
            self._spool.memory["start"] = record.fields
        if record.kind == "start" or self.run_id is None:
            self._open_run()
            self.opened.set()
        try:
            if record.kind == "metrics":
                self._send_metrics(batch)
            else:
                self._send_one(record)
        except Exception as error:
            if isinstance(error, MlflowException) and self._is_final(batch[0], error):
                if len(batch) > 1:
                    for single in batch:
                        self._send([single])
                    return
                self._refused(record, error)
            elif "file" in record.fields and self._answers():
                # The artifacts' place is away or full: that does not concern the metrics.
                self._trouble = error
                self._spool.postpone(record)
                return
            else:
                raise
        self._spool.commit(record)

    def _send_postponed(self, record: Record) -> None:
        """Try again, once between two batches."""
        from mlflow.exceptions import MlflowException

        if self._trouble:
            return
        if self.run_id is None:
            self._open_run()
            self.opened.set()
        try:
            self._send_one(record)
        except Exception as error:
            if not (isinstance(error, MlflowException) and self._is_final(record, error)):
                self._trouble = error
                return
            self._refused(record, error)
        self._spool.settle(record)

    def _is_final(self, record: Record, error: MlflowException) -> bool:
        """Whether the store will never take this.

        Raises:
            RuntimeError: it takes nothing of this run any more.
        """
        if error.error_code == _DOUBTFUL:
            self._doubts[record.segment, record.end] += 1
            return self._doubts[record.segment, record.end] >= TRIES
        if error.error_code not in _FINAL:
            return False
        assert self.run_id is not None
        if self._connected.get_run(self.run_id).info.lifecycle_stage != "active":
            raise RuntimeError(f"run {self.run_id} is deleted; a new one follows at the next start")
        return True

    def _answers(self) -> bool:
        """Whether the store itself is there."""
        assert self.run_id is not None
        try:
            self._connected.get_run(self.run_id)
        except Exception:
            return False
        return True

    def _tell_dropped(self) -> None:
        """Say in the record itself how much of it is missing."""
        n, memory = self._spool.dropped.n, self._spool.memory
        if self.run_id is not None and n != memory.get("told_dropped", 0):
            self._send_tags({DROPPED_TAG: f"{n}: {self._spool.dropped}"})
            memory["told_dropped"] = n
            self._spool.remember()

    def _send_one(self, record: Record) -> None:
        fields, client = record.fields, self._connected
        assert self.run_id is not None
        # MLflow would make the old place anew.
        if "file" in fields and (moved := moved_line(self._config)):
            raise FileNotFoundError(moved)
        if record.kind == "start":
            self._send_start(fields)
        elif record.kind == "tags":
            self._send_tags(fields["tags"])
        elif record.kind == "finish":
            self._identity.delete_twins(client)
            client.set_terminated(self.run_id, fields["status"], end_time=fields["time_ms"])
        elif not self._spool.kept(fields["file"]).exists():
            self._refused(record, FileNotFoundError(f"{fields['file']} is no longer in the spool"))
        elif record.kind == "artifact":
            path = self._spool.kept(fields["file"])
            client.log_artifact(self.run_id, str(path), fields["folder"] or None)
        elif record.kind == "model":
            from dimts.tracking.mlflow_model import log_bundle

            log_bundle(
                client,
                self.run_id,
                self.experiment_id,
                self._spool.kept(fields["file"]),
                fields,
                self._spool.memory.setdefault("models", {}),
                self._config.registered_model,
            )

    def _send_start(self, fields: Mapping[str, Any]) -> None:
        """Parameters and tags; a parameter cannot change, so a changed one becomes a tag."""
        from mlflow.entities import Param

        client, run_id = self._connected, self.run_id
        assert run_id is not None
        known = client.get_run(run_id).data.params
        wanted = {name: _cut(value, LONGEST_PARAM) for name, value in fields["params"].items()}
        new = [Param(name, value) for name, value in wanted.items() if name not in known]
        for first in range(0, len(new), PARAMS_PER_CALL):
            client.log_batch(run_id, params=new[first : first + PARAMS_PER_CALL])
        tags = dict(fields["tags"])
        changed = [
            f"{name}: {known[name]} -> {value}"
            for name, value in wanted.items()
            if known.get(name, value) != value
        ]
        if changed:
            tags[CHANGED_TAG] = "; ".join(changed)
        self._send_tags(tags)
        client.update_run(run_id, status="RUNNING")

    def _send_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        assert self.run_id is not None
        listed = [RunTag(name, _cut(value, LONGEST_TAG)) for name, value in tags.items()]
        for first in range(0, len(listed), PARAMS_PER_CALL):
            self._connected.log_batch(self.run_id, tags=listed[first : first + PARAMS_PER_CALL])

    def _send_metrics(self, batch: list[Record]) -> None:
        """Values of steps that were not sent before.

        A point keeps the time at which it was measured, so a batch that the store took
        without our hearing of it is the same rows again, which the store counts once.
        """
        from mlflow.entities import Metric

        points = self._points.new(batch)
        if points:
            assert self.run_id is not None
            self._connected.log_batch(self.run_id, metrics=[Metric(*point) for point in points])
        self._points.were_sent(points)

    def _refused(self, record: Record, error: Exception) -> None:
        """Set a record aside that the store will never take, so that the rest can follow."""
        path = self._spool.folder / "refused.txt"
        with path.open("a", encoding="utf-8") as file:
            line = {"kind": record.kind, **record.fields, "reason": mask_secrets(str(error))}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if not self._told_refused:
            self._told_refused = True
            log.warning("tracking: MLflow refused a record; see %s", path)

    # The run

    @property
    def _connected(self) -> MlflowClient:
        if self._client is None:
            self._client = connect(self._config)
        return self._client

    def _open_run(self) -> None:
        run = self._identity.open(self._connected, self._spool.memory.get("start", {}))
        memory = self._spool.memory
        if run.is_another:
            for key in ("models", "told_dropped"):
                memory.pop(key, None)
        self._points = Points(self._spool, self._history, in_doubt=not run.is_new)
        self.run_id, self.experiment_id = run.run_id, run.experiment_id

    def _history(self, key: str) -> set[int]:
        assert self.run_id is not None
        return {point.step for point in self._connected.get_metric_history(self.run_id, key)}


def _cut(value: str, longest: int) -> str:
    return value if len(value) <= longest else value[: longest - len(CUT)] + CUT
