"""Which MLflow run is ours: found again after any interruption, and only one."""

from __future__ import annotations

import getpass
import json
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dimts.core.masking import MASK, mask_uri
from dimts.tracking.config import SQLITE, TrackingConfig
from dimts.tracking.files import write_json

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

RUN_FILE = "mlflow_run.json"
KEY_TAG = "dimts.run_key"


class OpenedRun(NamedTuple):
    """A run of the store.

    Attributes:
        run_id: MLflow's.
        experiment_id: MLflow's.
        is_new: it was just made, so nothing is in it.
    """

    run_id: str
    experiment_id: str
    is_new: bool = False


class RunIdentity:
    """The run that ``mlflow_run.json`` names.

    The key in the file is drawn before the run is made, and the run carries it as a tag:
    killed in between, we find that run again instead of making a second one.

    Args:
        config: with absolute paths.
        run_dir: where the file lies.
    """

    def __init__(self, config: TrackingConfig, run_dir: Path) -> None:
        self._config = config
        self._file = run_dir / RUN_FILE

    def elsewhere(self) -> str | None:
        """The store that the file names, if that is another one than the configured one."""
        uri = self._saved().get("uri")
        return uri if uri and not self._is_here(uri) else None

    def open(self, client: MlflowClient, name: str, start_ms: int | None) -> OpenedRun:
        """Find the run, or make one.

        Args:
            client: connected.
            name: of one that is made.
            start_ms: when it began.
        """
        from mlflow.exceptions import MlflowException

        saved, uri = self._saved(), self._config.shown
        is_there = self._is_here(saved.get("uri", ""))
        if is_there and saved.get("run_id"):
            try:
                info = client.get_run(saved["run_id"]).info
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
            else:
                if info.lifecycle_stage == "active":
                    if saved["uri"] != uri:
                        write_json(self._file, {**saved, "uri": uri})
                    return OpenedRun(info.run_id, info.experiment_id)
        if not is_there or saved.get("run_id"):
            saved = {"uri": uri, "key": uuid.uuid4().hex}
            write_json(self._file, saved)
        experiment_id = self._experiment(client)
        found = self._runs(client, experiment_id, saved["key"])
        run = found[0] if found else self._make(client, experiment_id, saved["key"], name, start_ms)
        run_id = str(run.info.run_id)
        write_json(self._file, {**saved, "run_id": run_id, "experiment_id": experiment_id})
        return OpenedRun(run_id, experiment_id, is_new=not found)

    def delete_twins(self, client: MlflowClient) -> None:
        """Delete empty runs of our key that are not ours.

        A store that went silent while it made our run may have made it twice: MLflow's client
        asks again by itself, and each request may be carried out when the store goes on.
        """
        saved = self._saved()
        if not saved.get("run_id"):
            return
        for run in self._runs(client, saved["experiment_id"], saved["key"]):
            if run.info.run_id != saved["run_id"] and not run.data.metrics:
                client.delete_run(run.info.run_id)

    def _is_here(self, uri: str) -> bool:
        """Whether a store is the configured one; so is an SQLite file that was moved since."""
        if _place(uri) == _place(self._config.uri):
            return True
        both_files = uri.startswith(SQLITE) and self._config.uri.startswith(SQLITE)
        return both_files and not Path(uri.removeprefix(SQLITE)).exists()

    def _saved(self) -> dict[str, str]:
        saved: dict[str, str] = {}
        with suppress(FileNotFoundError, NotADirectoryError):
            saved = json.loads(self._file.read_text(encoding="utf-8"))
        return saved

    def _runs(self, client: MlflowClient, experiment_id: str, key: str) -> list[Run]:
        return list(client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{key}'"))

    def _make(
        self, client: MlflowClient, experiment_id: str, key: str, name: str, start_ms: int | None
    ) -> Run:
        tags = {KEY_TAG: key, "mlflow.source.name": "dimts"}
        with suppress(OSError, KeyError, ImportError):
            tags["mlflow.user"] = getpass.getuser()
        return client.create_run(experiment_id, start_time=start_ms, tags=tags, run_name=name)

    def _experiment(self, client: MlflowClient) -> str:
        """The experiment's id; runs that start together may all try to make it."""
        from mlflow.exceptions import MlflowException

        name = self._config.experiment
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


def _place(uri: str) -> str:
    """A store's address alone: credentials may come from elsewhere the next time."""
    return mask_uri(uri).partition("?")[0].replace(f"//{MASK}@", "//")
