"""From the spool to MLflow: one run whose id is known, each record once."""

from __future__ import annotations

import getpass
import json
import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimts.tracking.config import TrackingConfig, mask_secrets
from dimts.tracking.mlflow_client import connect
from dimts.tracking.spool import Record, Spool, write_json

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

RUN_FILE = "mlflow_run.json"
KEY_TAG = "dimts.run_key"
CHANGED_TAG = "dimts.changed_params"
METRICS_PER_CALL = 1000
PARAMS_PER_CALL = 100
LONGEST_PARAM = 6000
LONGEST_TAG = 8000
CUT = "... (cut, see config.yaml)"
# Answers that will be the same however often we ask; everything else is worth another try.
_FINAL = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE")


class Sender:
    """Sends one run's spool.

    Args:
        config: with absolute paths.
        run_dir: where ``mlflow_run.json`` lies.
        spool: what is sent; its ``memory`` holds the highest step sent of each metric.

    Attributes:
        run_id: MLflow's; None until the store has answered.
        opened: set as soon as `run_id` is known.
    """

    def __init__(self, config: TrackingConfig, run_dir: Path, spool: Spool) -> None:
        self._config = config
        self._run_file = run_dir / RUN_FILE
        self._run_name = run_dir.name
        self._spool = spool
        self._client: MlflowClient | None = None
        self._told_refused = False
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
        for batch in self._batches():
            if stopped():
                return False
            self._send(batch)
        self._spool.sweep()
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
        except MlflowException as error:
            if error.error_code not in _FINAL:
                raise
            if len(batch) > 1:
                for single in batch:
                    self._send([single])
                return
            self._refused(record, error)
        self._spool.commit(record)

    def _send_one(self, record: Record) -> None:
        fields, client = record.fields, self._connected
        assert self.run_id is not None
        if record.kind == "start":
            self._send_start(fields)
        elif record.kind == "tags":
            self._send_tags(fields["tags"])
        elif record.kind == "finish":
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

        sent: dict[str, int] = self._spool.memory.setdefault("steps", {})
        highest: dict[str, int] = {}
        metrics = []
        for record in batch:
            step, time_ms = record.fields["step"], record.fields["time_ms"]
            for key, value in record.fields["values"].items():
                if step > highest.get(key, sent.get(key, -1)):
                    metrics.append(Metric(key, value, time_ms, step))
                    highest[key] = step
        if metrics:
            assert self.run_id is not None
            self._connected.log_batch(self.run_id, metrics=metrics)
        sent |= highest

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
        """Find the run that ``mlflow_run.json`` names, or make one.

        The key in the file is drawn before the run is made, and the run carries it as a
        tag: killed in between, we find that run again instead of making a second one.
        """
        from mlflow.exceptions import MlflowException

        client, uri = self._connected, mask_secrets(self._config.uri)
        saved: dict[str, str] = {}
        with suppress(FileNotFoundError):
            saved = json.loads(self._run_file.read_text(encoding="utf-8"))
        if saved.get("uri") == uri and saved.get("run_id"):
            try:
                info = client.get_run(saved["run_id"]).info
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
            else:
                if info.lifecycle_stage == "active":
                    self.run_id, self.experiment_id = info.run_id, info.experiment_id
                    return
        if saved.get("uri") != uri or saved.get("run_id"):
            saved = {"uri": uri, "key": uuid.uuid4().hex}
            write_json(self._run_file, saved)
            self._spool.memory.pop("steps", None)
            self._spool.memory.pop("models", None)
        self._make_run(saved)

    def _make_run(self, saved: dict[str, str]) -> None:
        client = self._connected
        self.experiment_id = self._experiment()
        query = f"tags.`{KEY_TAG}` = '{saved['key']}'"
        found = client.search_runs([self.experiment_id], query, max_results=1)
        start = self._spool.memory.get("start", {})
        if found:
            run = found[0]
        else:
            tags = {KEY_TAG: saved["key"], "mlflow.source.name": "dimts"}
            with suppress(OSError, KeyError, ImportError):
                tags["mlflow.user"] = getpass.getuser()
            run = client.create_run(
                self.experiment_id,
                start_time=start.get("time_ms"),
                tags=tags,
                run_name=start.get("run_name", self._run_name),
            )
        saved |= {"run_id": run.info.run_id, "experiment_id": self.experiment_id}
        write_json(self._run_file, saved)
        self.run_id = run.info.run_id

    def _experiment(self) -> str:
        """The experiment's id; runs that start together may all try to make it."""
        from mlflow.exceptions import MlflowException

        client, name = self._connected, self._config.experiment
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            root = self._config.artifact_root
            location = None if root is None or "://" in root else Path(root).as_uri()
            location = root if root is not None and "://" in root else location
            try:
                kind = {"mlflow.experimentKind": "custom_model_development"}  # Not GenAI.
                return str(client.create_experiment(name, location, kind))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            experiment = client.get_experiment_by_name(name)
        assert experiment is not None
        if experiment.lifecycle_stage != "active":
            raise RuntimeError(f"experiment '{name}' is deleted; restore it or name another one")
        return str(experiment.experiment_id)


def _cut(value: str, longest: int) -> str:
    return value if len(value) <= longest else value[: longest - len(CUT)] + CUT
