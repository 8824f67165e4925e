"""Where runs are recorded: addresses, credentials, nothing at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dimts.core.config import build_config, to_yaml
from dimts.core.errors import ConfigError
from dimts.core.masking import mask_secrets
from dimts.tracking.config import TrackingConfig
from dimts.tracking.event_log import EVENTS
from dimts.tracking.tracker import Tracker

pytest_plugins = ("tracking_fixtures",)


def test_switched_off_there_is_the_event_log_and_nothing_else(tmp_path: Path) -> None:
    tracker = Tracker(TrackingConfig(enabled=False, tensorboard=True), tmp_path)
    tracker.start("run", {}, "")
    tracker.log_metrics({"a": 1.0}, 1)
    tracker.finish("FINISHED")
    assert [file.name for file in tmp_path.iterdir()] == [EVENTS]


def test_credentials_are_masked_wherever_settings_are_written() -> None:
    config = TrackingConfig(uri="https://bob:hun/ter2@host".replace("/t", "t"))
    assert "bob" not in to_yaml(config)
    assert "uri: https://***@host" in to_yaml(config)
    assert config.uri == "https://bob:hunter2@host"
    assert mask_secrets("at postgresql+x://a:b@c@db/m now") == "at postgresql+x://***@db/m now"
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_USERNAME"):
        build_config(TrackingConfig, {"uri": "https://***@host"})


@pytest.mark.parametrize("uri", ["mlruns", "file:///mlruns", "sqlite:///", "ftp://host/x"])
def test_unknown_stores_are_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="uri: must be sqlite:///FILE"):
        build_config(TrackingConfig, {"uri": uri})


def test_paths_become_absolute_and_servers_keep_their_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    local = TrackingConfig().absolute()
    assert local.uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert local.artifact_root == f"{tmp_path}/mlartifacts"
    monkeypatch.chdir("/")
    assert local.absolute() == local
    remote = TrackingConfig(uri="http://host:5000")
    assert remote.absolute() == remote
    assert remote.artifact_root is None
    assert TrackingConfig(artifacts="s3://b/a").absolute().artifact_root == "s3://b/a"


def test_the_users_own_mlflow_environment_is_kept(
    config: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    tracker = Tracker(config, tmp_path / "run")
    tracker.start("run", {}, "")
    during = (
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"],
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"],
    )
    tracker.finish("FINISHED")
    assert during == ("77", "1")
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ
