"""Bundles as MLflow models: logging one, and finding one by its URI."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dimts
from dimts.errors import UserError
from dimts.tracking.config import TrackingConfig
from dimts.tracking.mlflow_client import connect, mlflow_environment, reason

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

MODEL_NAME = "voice"
REGISTERED_ALIAS = "best"  # MLflow keeps "latest" to itself.
# What `dimts.synthesis` needs; the library itself travels inside the model.
SYNTHESIS_PACKAGES = (
    "librosa",
    "mlflow",
    "numba",
    "numpy",
    "pydantic",
    "pyyaml",
    "safetensors",
    "soundfile",
    "soxr",
    "torch",
)


def log_bundle(
    client: MlflowClient,
    run_id: str,
    experiment_id: str,
    bundle: Path,
    fields: Mapping[str, Any],
    logged: dict[str, str],
    registered_model: str | None,
) -> None:
    """Log a bundle as a model of a run.

    Args:
        client: connected.
        run_id: the run it belongs to.
        experiment_id: that run's experiment.
        bundle: the folder that `dimts.synthesis.Synthesizer.load` takes.
        fields: ``step``, ``time_ms`` and the ``metrics`` of the bundle.
        logged: digest of a bundle -> id of its model; what is in it is not logged again.
        registered_model: also register it under this name.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric
    from mlflow.exceptions import MlflowException

    digest = _digest(bundle)
    model_id = logged.get(digest)
    if model_id is not None:
        try:
            if client.get_logged_model(model_id).status == LoggedModelStatus.READY:
                return
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            model_id = None
    if model_id is None:
        model = client.create_logged_model(
            experiment_id, MODEL_NAME, run_id, tags={"dimts.digest": digest}
        )
        logged[digest] = model_id = model.model_id
    with tempfile.TemporaryDirectory() as folder:
        _save(Path(folder) / "model", bundle, client.get_logged_model(model_id), run_id)
        client.log_model_artifacts(model_id, str(Path(folder) / "model"))
    client.log_outputs(run_id, [LoggedModelOutput(model_id, fields["step"])])
    metrics = [
        Metric(f"best/{key}", value, fields["time_ms"], fields["step"], model_id=model_id)
        for key, value in fields["metrics"].items()
    ]
    client.log_batch(run_id, metrics=metrics)
    client.finalize_logged_model(model_id, "READY")
    if registered_model:
        _register(client, registered_model, model_id, run_id)


def resolve_model(uri_or_path: str | Path, config: TrackingConfig | None = None) -> Path:
    """The local bundle folder behind a path or an MLflow URI.

    Args:
        uri_or_path: a bundle's folder, ``runs:/RUN_ID`` (its newest model),
            ``runs:/RUN_ID/voice``, ``models:/m-ID``, ``models:/NAME@ALIAS``,
            ``models:/NAME/VERSION``.
        config: says where MLflow is; the default settings when None.

    Raises:
        UserError: there is no such folder or model, or MLflow cannot be reached.
    """
    text = str(uri_or_path)
    if not text.startswith(("runs:/", "models:/")):
        path = Path(uri_or_path)
        if not path.is_dir():
            raise UserError(f"{path}: no such bundle folder (or give runs:/... or models:/...)")
        return path
    config = (config or TrackingConfig()).absolute()
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    with mlflow_environment():
        try:
            uri = _newest_model(text, config)
            folder = Path(
                download_artifacts(
                    artifact_uri=uri, tracking_uri=config.uri, registry_uri=config.uri
                )
            )
        except (MlflowException, OSError) as error:
            raise UserError(f"{text}: cannot be had from MLflow: {reason(error)}") from error
    return _bundle_in(folder, text)


def _newest_model(uri: str, config: TrackingConfig) -> str:
    """``runs:/RUN_ID`` as the URI of the run's newest finished model; other URIs unchanged."""
    run_id = uri.removeprefix("runs:/").strip("/")
    if not uri.startswith("runs:/") or "/" in run_id:
        return uri
    from mlflow.entities import LoggedModelStatus

    client = connect(config)
    experiment = client.get_run(run_id).info.experiment_id
    models = client.search_logged_models(
        [experiment],
        filter_string=f"source_run_id = '{run_id}'",
        order_by=[{"field_name": "creation_time", "ascending": False}],
    )
    ready = [model for model in models if model.status == LoggedModelStatus.READY]
    if not ready:
        raise UserError(f"{uri}: the run has no logged model")
    return f"models:/{ready[0].model_id}"


def _bundle_in(folder: Path, text: str) -> Path:
    """The bundle inside a downloaded model; a folder that is no model is the bundle itself."""
    import yaml

    description = folder / "MLmodel"
    if not description.is_file():
        return folder
    model = yaml.safe_load(description.read_text(encoding="utf-8"))
    try:
        inside = model["flavors"]["python_function"]["artifacts"]["bundle"]["path"]
    except (KeyError, TypeError):
        raise UserError(f"{text}: this MLflow model was not logged by dimts") from None
    return folder / str(inside)


def _save(path: Path, bundle: Path, logged_model: Any, run_id: str) -> None:
    """Write MLflow's model folder: our library, `voice_model.py` and the bundle."""
    from mlflow import pyfunc
    from mlflow.models import Model

    model = Model(
        artifact_path=logged_model.artifact_location,
        model_uuid=logged_model.model_id,
        model_id=logged_model.model_id,
        run_id=run_id,
    )
    pyfunc.save_model(
        path=str(path),
        mlflow_model=model,
        python_model=str(Path(__file__).with_name("voice_model.py")),
        artifacts={"bundle": str(bundle)},
        code_paths=[str(Path(dimts.__file__).parent)],
        pip_requirements=requirements(),
    )


def requirements() -> list[str]:
    """The installed versions of what a logged voice needs, as pip writes them."""
    # A local version such as 2.11.0+cpu exists on one index only.
    return [f"{name}=={metadata.version(name).split('+')[0]}" for name in SYNTHESIS_PACKAGES]


def _register(client: MlflowClient, name: str, model_id: str, run_id: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(
        name, f"models:/{model_id}", run_id=run_id, model_id=model_id, await_creation_for=0
    )
    client.set_registered_model_alias(name, REGISTERED_ALIAS, version.version)


def _digest(bundle: Path) -> str:
    """Names and bytes of all files, as 32 hex digits."""
    digest = hashlib.sha256()
    for path in sorted(file for file in bundle.rglob("*") if file.is_file()):
        digest.update(f"{path.relative_to(bundle)}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()[:32]
