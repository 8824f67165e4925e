"""Which MLflow run is ours: found again after any interruption, and only one."""

from __future__ import annotations

import getpass
import json
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dimts.core.masking import MASK, mask_uri
from dimts.storage.files import write_text
from dimts.tracking.config import SQLITE, TrackingConfig

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

RUN_FILE = "mlflow_run.json"
KEY_TAG = "dimts.run_key"


class RunIdentity:
    """The run that ``mlflow_run.json`` names, a file in a run's folder.

    The key in the file is drawn before the run is made, and the run carries it as a tag:
    killed in between, we find that run again instead of making a second one.
    """

    def __init__(self, config: TrackingConfig, run_dir: Path) -> None:
        self._config = config
        self._file = run_dir / RUN_FILE

    def elsewhere(self) -> str | None:
        """The store that the file names, if that is another one than the configured one."""
        uri = self._saved().get("uri")
        return uri if uri and not self._is_here(uri) else None

    def open(self, client: MlflowClient, name: str, start_ms: int | None) -> tuple[str, str, bool]:
        """Find the run, or make one of this name that began then.

        Returns:
            MLflow's ids of the run and its experiment; whether it was just made.
        """
        saved, uri = self._saved(), self._config.shown
        is_there = self._is_here(saved.get("uri", ""))
        if is_there and saved.get("run_id"):
            found = self._runs(client, saved)
            if any(run.info.run_id == saved["run_id"] for run in found):
                self._save({**saved, "uri": uri})
                return saved["run_id"], saved["experiment_id"], False
        if not is_there or saved.get("run_id"):
            saved = {"uri": uri, "key": uuid.uuid4().hex}
            self._save(saved)
        saved["experiment_id"] = self._experiment(client)
        found = self._runs(client, saved)
        run = found[0] if found else self._make(client, saved, name, start_ms)
        self._save({**saved, "run_id": run.info.run_id})
        return run.info.run_id, saved["experiment_id"], not found

    def delete_twins(self, client: MlflowClient) -> None:
        """Delete empty runs of our key that are not ours.

        A store that went silent while it made our run may have made it twice: MLflow's client
        asks again by itself, and each request may be carried out when the store goes on.
        """
        saved = self._saved()
        for run in self._runs(client, saved) if "run_id" in saved else ():
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

    def _save(self, saved: dict[str, str]) -> None:
        write_text(self._file, json.dumps(saved, indent=1))

    def _runs(self, client: MlflowClient, saved: dict[str, str]) -> list[Run]:
        """Those with our key that are not deleted."""
        query = f"tags.`{KEY_TAG}` = '{saved['key']}'"
        return list(client.search_runs([saved["experiment_id"]], query))

    def _make(
        self, client: MlflowClient, saved: dict[str, str], name: str, start_ms: int | None
    ) -> Run:
        tags = {KEY_TAG: saved["key"], "mlflow.source.name": "dimts"}
        with suppress(OSError, KeyError, ImportError):
            tags["mlflow.user"] = getpass.getuser()
        return client.create_run(saved["experiment_id"], start_ms, tags, name)

    def _experiment(self, client: MlflowClient) -> str:
        """The experiment's id; runs that start together may all try to make it."""
        from mlflow.exceptions import MlflowException

        name, root = self._config.experiment, self._config.artifact_root
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            if root is not None and "://" not in root:
                root = Path(root).as_uri()
            kind = {"mlflow.experimentKind": "custom_model_development"}  # Not GenAI.
            try:
                return str(client.create_experiment(name, root, kind))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            experiment = client.get_experiment_by_name(name)
        assert experiment is not None
        return str(experiment.experiment_id)


def _place(uri: str) -> str:
    """A store's address alone: credentials may come from elsewhere the next time."""
    return mask_uri(uri).partition("?")[0].replace(f"//{MASK}@", "//")
