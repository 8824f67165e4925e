"""Where runs are recorded."""

from __future__ import annotations

import argparse
import re
from importlib import metadata
from pathlib import Path
from typing import Annotated

from pydantic import Field, PlainSerializer, field_validator

from dimts.core.config import Config, build_config
from dimts.core.errors import UserError
from dimts.core.masking import MASK, mask_uri

SQLITE = "sqlite:///"
_STORE = re.compile(r"(https?|sqlite|postgresql|mysql|mssql)(\+\w+)?://.+")

_CLIENTS = {"s3": ("boto3", "aws"), "gs": ("google-cloud-storage", "gcp")}
"""Packages that MLflow needs for a bucket, and our extras that install them."""


class TrackingConfig(Config):
    """Settings of the record.

    Attributes:
        enabled: False leaves the record in the run's folder and sends it nowhere.
        uri: MLflow's store: an ``sqlite:///`` file, another database, or the ``http(s)://``
            address of a tracking server. Credentials and a query in it are masked wherever
            settings are written; ``MLFLOW_TRACKING_USERNAME`` and ``_PASSWORD`` are the better
            place.
        artifacts: folder or object-store URI for the plots, sounds and models of an
            experiment that does not exist yet. None: a server decides for itself, a
            database gets the folder ``mlartifacts``.
        experiment: name of the MLflow experiment; made when it does not exist.
        registered_model: registers the best bundle under this name, alias ``candidate``.
        licence: of the voice; stands in the model card of the registered version.
        tensorboard: also writes event files to ``<run folder>/tensorboard``.
        send_every_s: pause between two batches sent to the store, in seconds.
        flush_timeout_s: the longest that the end of a run waits for the store, in seconds.
    """

    enabled: bool = True
    uri: Annotated[str, PlainSerializer(mask_uri, return_type=str, when_used="json")] = (
        "sqlite:///mlflow.db"
    )
    artifacts: str | None = None
    experiment: str = Field(default="dimts", min_length=1, max_length=500)
    registered_model: str | None = Field(default=None, pattern=r"^[^/:]+$")
    licence: str | None = Field(default=None, max_length=200)
    tensorboard: bool = False
    send_every_s: float = Field(default=1.5, gt=0)
    flush_timeout_s: float = Field(default=30.0, ge=0)

    @field_validator("uri")
    @classmethod
    def _known_store(cls, uri: str) -> str:
        if MASK in uri:
            raise ValueError(
                "credentials were masked; --set tracking.uri=... names it anew, best without them "
                "and with MLFLOW_TRACKING_USERNAME and _PASSWORD set"
            )
        if not _STORE.fullmatch(uri) or uri == SQLITE:
            raise ValueError("must be sqlite:///FILE, another database's URI or http(s)://SERVER")
        return uri

    @property
    def shown(self) -> str:
        """`uri` as it may be written and said."""
        return mask_uri(self.uri)

    @property
    def database(self) -> Path | None:
        """The SQLite file, if it is one."""
        return Path(self.uri.removeprefix(SQLITE)) if self.uri.startswith(SQLITE) else None

    @property
    def is_server(self) -> bool:
        """True when `uri` is a tracking server, False when it is a database."""
        return self.uri.startswith(("http://", "https://"))

    @property
    def artifact_root(self) -> str | None:
        """Location for a new experiment's artifacts; None lets the server decide."""
        return self.artifacts or (None if self.is_server else "mlartifacts")

    def check_store(self) -> None:
        """A `UserError` for an SQLite file that is not there, which reading from it would make."""
        if (file := self.database) and not file.exists():
            raise UserError(f"{file}: no run was recorded here yet; tracking.uri says where")

    def check_client(self) -> None:
        """A `UserError` if MLflow has no client for the bucket that artifacts are to go to."""
        scheme = (self.artifacts or "").split("://")[0]
        if not self.enabled or scheme not in _CLIENTS:
            return
        library, extra = _CLIENTS[scheme]
        try:
            metadata.version(library)
        except metadata.PackageNotFoundError:
            raise UserError(
                f"tracking.artifacts={self.artifacts}: {scheme}:// needs {library}; "
                f"pip install 'dimts[{extra}]'"
            ) from None

    def absolute(self) -> TrackingConfig:
        """The same settings with paths that no longer depend on the current directory.

        A driver calls this before it hands settings to processes that start elsewhere.
        """
        changed: dict[str, str] = {}
        if self.database:
            changed["uri"] = f"{SQLITE}{self.database.absolute()}"
        if (root := self.artifact_root) and "://" not in root:
            changed["artifacts"] = str(Path(root).absolute())
        return self.model_copy(update=changed)


def tracking_at(uri: str | None) -> TrackingConfig:
    """The default settings, of another store if one is named; a `ConfigError` if it is none."""
    return build_config(TrackingConfig, {"uri": uri} if uri else {}, {("uri",): "--tracking-uri"})


def add_tracking_uri(parser: argparse.ArgumentParser) -> None:
    """Add the option `--tracking-uri`, which gives `arguments.tracking`."""
    parser.add_argument(
        "--tracking-uri", type=tracking_at, default=TrackingConfig(), dest="tracking",
        metavar="URI", help=f"MLflow store of an MLflow URI (default: {TrackingConfig().uri})",
    )  # fmt: skip


def is_in_mlflow(text: str) -> bool:
    """Whether what names a bundle is an MLflow URI, not a path or a place in object storage."""
    return text.startswith(("runs:/", "models:/"))
