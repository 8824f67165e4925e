"""How we talk to MLflow: quickly failing, quiet, and without credentials in messages."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from dimts.core.environment import environment
from dimts.core.errors import UserError
from dimts.core.masking import mask_secrets
from dimts.tracking.config import TrackingConfig

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

# MLflow's defaults block a caller for four minutes when the server is away, and report usage.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # A server that is overloaded may ask for an hour of patience.
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_NOISY = ("alembic", "mlflow.pyfunc", "mlflow.utils.environment", "urllib3.connectionpool")
_NOT_IN_KEYS = re.compile(r"[^\w./ -]")


def mlflow_key(name: str) -> str:
    """A name of a metric, parameter or tag as MLflow allows it."""
    return _NOT_IN_KEYS.sub("_", name)[:250]


def time_ms(event: Mapping[str, Any]) -> int:
    """The time of an event of the log in MLflow's milliseconds."""
    return round(event["time"] * 1000)


def mlflow_environment() -> AbstractContextManager[None]:
    """Inside are settings of MLflow's client, where the user has none of his own."""
    return environment(_ENVIRONMENT)


def connect(config: TrackingConfig) -> MlflowClient:
    """A client of the configured store. Imports MLflow, which takes seconds."""
    from mlflow.tracking import MlflowClient

    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    # Each error of the database with its traceback; they are raised as well.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return MlflowClient(config.uri, registry_uri=config.uri)


@contextmanager
def connected(config: TrackingConfig) -> Iterator[MlflowClient]:
    """Inside, a command uses MLflow.

    Raises:
        UserError: in place of what MLflow raises, as for a database of another version.
    """
    from mlflow.exceptions import MlflowException

    with mlflow_environment():
        try:
            yield connect(config)
        except MlflowException as error:
            raise UserError(f"{config.shown}: {reason(error)}") from error


def check_database(config: TrackingConfig) -> None:
    """Refuse a database that MLflow refuses; raises like `connected`."""
    with connected(config) as client:
        client.search_experiments(max_results=1)


def reason(error: Exception) -> str:
    """The line of an error that says what is wrong, short and without credentials."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # SQLAlchemy's first line may tell only at which moment the database refused.
    told = next((line for line in lines if not line.startswith("(raised as a result")), lines[0])
    text = mask_secrets(told)
    return text if len(text) <= 200 else f"{text[:200]}..."
