"""Bundles as MLflow models: logging one, and finding one by its URI."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dimts
from dimts.bundles.bundle import MANIFEST
from dimts.bundles.fetch import keep_bundle, local_bundle
from dimts.core.errors import UserError
from dimts.core.home import shipped
from dimts.families.registry import SHIPPED_VOCODER
from dimts.tracking.card import described
from dimts.tracking.config import TrackingConfig, is_in_mlflow
from dimts.tracking.mlflow_client import connect, mlflow_environment, mlflow_key, reason, time_ms
from dimts.tracking.moved import moved_line
from dimts.tracking.registry import register

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.tracking import MlflowClient

MODEL_NAME = "voice"
DIGEST_TAG = "dimts.digest"
# Optimizer moments and the like: twice the model's size, needed to resume and for nothing else.
NOT_IN_MODELS = "trainer_state.pt"
# What `dimts.families.acoustic.speaker` needs; the library itself travels inside the model.
SYNTHESIS_PACKAGES = (
    "mlflow", "numba", "numpy", "pydantic", "pyyaml", "safetensors", "scipy", "soundfile",
    "tokenizers", "torch",
)  # fmt: skip


def log_bundle(
    client: MlflowClient,
    run_id: str,
    experiment_id: str,
    bundle: Path,
    event: Mapping[str, Any],
    registered_model: str | None,
) -> None:
    """Log a bundle as a model of a run, unless that run has it.

    A model that was begun and not ended, as the store went away, is gone on with.

    Args:
        client, run_id, experiment_id: connected; of the run it belongs to.
        bundle, event: its folder; its ``step``, ``time`` and ``metrics``.
        registered_model: also register it under this name, with its metrics as tags.
    """
    from mlflow.entities import LoggedModelStatus

    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / bundle.name
        shutil.copytree(bundle, kept, ignore=shutil.ignore_patterns(NOT_IN_MODELS))
        digest = _forget_checksum(kept)
        model = _begun(client, run_id, experiment_id, digest)
        if model is None:
            tags = {DIGEST_TAG: digest}
            model = client.create_logged_model(experiment_id, MODEL_NAME, run_id, tags)
        if model.status != LoggedModelStatus.READY:
            _save(Path(folder) / "model", kept, model, run_id)
            client.log_model_artifacts(model.model_id, str(Path(folder) / "model"))
            _finalize(client, run_id, str(model.model_id), event)
    if registered_model:
        tags = {mlflow_key(key): f"{value:.4g}" for key, value in event["metrics"].items()}
        card = described(bundle, registered_model, run_id, experiment_id)
        register(client, registered_model, str(model.model_id), run_id, tags, card)


def _finalize(client: MlflowClient, run_id: str, model_id: str, event: Mapping[str, Any]) -> None:
    """Link a filled model with its run and metrics, and say that it is ready."""
    from mlflow.entities import LoggedModelOutput, Metric

    outputs = client.get_run(run_id).outputs
    if outputs is None or model_id not in [o.model_id for o in outputs.model_outputs]:
        client.log_outputs(run_id, [LoggedModelOutput(model_id, event["step"])])
    metrics = [
        Metric(f"best/{mlflow_key(key)}", value, time_ms(event), event["step"], model_id)
        for key, value in event["metrics"].items()
    ]
    client.log_batch(run_id, metrics=metrics)
    client.finalize_logged_model(model_id, "READY")


def _begun(
    client: MlflowClient, run_id: str, experiment_id: str, digest: str
) -> LoggedModel | None:
    """The run's model of a bundle, if one was made before; of several the furthest is kept."""
    from mlflow.entities import LoggedModelStatus

    query = f"tags.`{DIGEST_TAG}` = '{digest}' AND source_run_id = '{run_id}'"
    found = list(client.search_logged_models([experiment_id], query))
    found.sort(key=lambda model: bool(model.status != LoggedModelStatus.READY))
    for twin in found[1:]:
        if twin.status != LoggedModelStatus.READY:
            client.delete_logged_model(twin.model_id)
    return found[0] if found else None


def resolve_model(uri_or_path: str | Path, config: TrackingConfig | None = None) -> Path:
    """The local bundle folder behind a path or an MLflow URI.

    Args:
        uri_or_path: a bundle's folder, a run's folder (its best bundle), either of them in object
            storage, ``runs:/RUN_ID`` (its newest model), ``runs:/RUN_ID/voice``,
            ``models:/m-ID``, ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``.
        config: says where MLflow is; the default settings when None.

    Raises:
        UserError: there is no such folder or model, or MLflow cannot be reached.
    """
    text = str(uri_or_path)
    if not is_in_mlflow(text):
        folder = local_bundle(shipped(text))
        if not folder.is_dir():
            raise UserError(
                f"{text}: no such bundle or run folder (or give runs:/... or models:/...)"
            )
        return folder
    config = (config or TrackingConfig()).absolute()
    config.check_store()
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    with mlflow_environment(), tempfile.TemporaryDirectory() as draft:
        try:
            # MLflow itself would look for the model in the process's default store.
            location = _location(connect(config), text)
            artifacts = download_artifacts(
                artifact_uri=location, dst_path=draft, tracking_uri=config.uri
            )
        except (MlflowException, OSError) as error:
            why = moved_line(config) or reason(error)
            raise UserError(f"{text}: cannot be had from MLflow: {why}") from error
        return keep_bundle(_bundle_in(Path(artifacts), text), text)


def _location(client: MlflowClient, uri: str) -> str:
    """Where the artifacts behind a model's URI lie."""
    scheme, _, rest = uri.partition(":/")
    first, _, second = rest.strip("/").partition("/")
    if scheme == "runs":
        return _location_in_run(client, uri, first, second)
    if second:
        version = client.get_model_version(first, second)
    elif "@" in first:
        version = client.get_model_version_by_alias(*first.split("@", 1))
    else:
        return str(client.get_logged_model(first).artifact_location)
    return str(client.get_model_version_download_uri(version.name, version.version))


def _location_in_run(client: MlflowClient, uri: str, run_id: str, path: str) -> str:
    """The newest finished model of a run, or what lies in a folder of the run."""
    from mlflow.entities import LoggedModelStatus

    info = client.get_run(run_id).info
    models = client.search_logged_models(
        [info.experiment_id],
        filter_string=f"source_run_id = '{run_id}'",
        order_by=[{"field_name": "creation_time", "ascending": False}],
    )
    for model in models:
        if model.status == LoggedModelStatus.READY and path in ("", model.name):
            return str(model.artifact_location)
    if not path:
        raise UserError(f"{uri}: the run has no logged model")
    return f"{info.artifact_uri}/{path}"


def _bundle_in(folder: Path, text: str) -> Path:
    """The bundle inside a downloaded model; a folder that is no model is the bundle itself."""
    if not (folder / "MLmodel").is_file():
        return folder
    for manifest in (folder / "artifacts").glob(f"*/{MANIFEST}"):
        return manifest.parent
    raise UserError(f"{text}: this MLflow model was not logged by dimts")


def _save(path: Path, bundle: Path, logged_model: Any, run_id: str) -> None:
    """Write MLflow's model folder: library, vocoder that ships, `voice_model.py` and bundle."""
    from mlflow import pyfunc
    from mlflow.models import Model

    # A local version such as 2.11.0+cpu exists on one index only.
    installed = {name: metadata.version(name).split("+")[0] for name in SYNTHESIS_PACKAGES}
    model = Model(
        artifact_path=logged_model.artifact_location,
        model_uuid=logged_model.model_id,
        model_id=logged_model.model_id,
        run_id=run_id,
    )
    code = [str(Path(dimts.__file__).parent)]
    if (vocoder := Path(shipped(SHIPPED_VOCODER))).is_dir():
        # Beside the library is where it looks for what it brings along.
        place = path.with_name("code") / SHIPPED_VOCODER
        shutil.copytree(vocoder, place)
        code.append(str(place.parent))
    pyfunc.save_model(
        path=str(path),
        mlflow_model=model,
        python_model=str(Path(__file__).with_name("voice_model.py")),
        artifacts={"bundle": str(bundle)},
        code_paths=code,
        pip_requirements=[f"{name}=={version}" for name, version in installed.items()],
    )


def _forget_checksum(bundle: Path) -> str:
    """Take the file that was left out of a copied bundle off its manifest's checksums.

    Returns:
        What tells the bundle from others, 32 hex digits: the manifest has all other checksums.
    """
    path = bundle / MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["sha256"].pop(NOT_IN_MODELS, None)
    text = json.dumps(manifest, indent=1)
    path.write_text(text, encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()[:32]
