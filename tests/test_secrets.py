"""Secrets reach neither what is printed nor any file that a job writes."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from examples import fuzz
from hypothesis import given
from hypothesis import strategies as st

from dimts.bundles.bundle import resolve_bundle
from dimts.cli import config_parser
from dimts.core.config import build_config, to_yaml
from dimts.core.errors import ConfigError, UserError
from dimts.core.masking import mask_secrets
from dimts.tracking.config import TrackingConfig

ROOT = Path(__file__).parents[1]
SECRET = "hunter2-Zx9"


@pytest.mark.parametrize(
    "text",
    [
        "https://bob:{}@host/x",
        "https://{}@host",
        "postgresql+psycopg2://a:{}@db:5432/mlflow?sslmode=require",
        "postgresql://a:x/{}@db/mlflow",
        "https://host/x?token={}&a=1",
        "https://host/x?a=1&sig={}",
        "https://s3/x?X-Amz-Credential=A%2F1&X-Amz-Signature={}",
        "https://s3/x?AWSAccessKeyId={}",
        "https://storage/x?X-Goog-Signature={}",
        "wasbs://c@a.net/x?sv=1&sig={}",
        "mysql://db/mlflow?user=a&password={}",
        "mssql+pyodbc:///?odbc_connect=Driver%3D%7Bx%7D%3BPWD%3D{}%3BEncrypt%3Dyes",
        "postgresql://db/mlflow?user=a&password=abc,;({{[{}#",
        "password={} host=db",
        "MLFLOW_TRACKING_TOKEN={}",
        "aws_secret_access_key={}",
        "api_key='{}'",
        '{{"password": "{}"}}',
        '{{"password": "a\\"{}"}}',
        "{{'token': '{}'}}",
        "Authorization: Bearer {}",
        "Authorization: Basic {}",
        "{{'Authorization': 'Basic {}', 'Accept': 'x'}}",
        "curl -H 'authorization: {}' http://host",
        "the header was Bearer {}",
        "first line\nhttps://bob:{}@host\nlast",
    ],
)
def test_secret_is_masked_wherever_it_stands(text: str) -> None:
    masked = mask_secrets(text.format(SECRET))
    assert SECRET not in masked
    assert "***" in masked
    assert mask_secrets(masked) == masked
    assert SECRET not in str(UserError(text.format(SECRET)))


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning",
        "models:/am@champion",
        "training.max_steps=500",
        "tokens=90, tokenizer=x",
        "runs/sample_am: no such bundle or run folder (or give runs:/... or models:/...)",
        "s3://bucket/folder/a.wav",
        "keys: one is there twice",
        "write to someone@example.org",
        "ሰላም ነው። 'password' is a word",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert mask_secrets(text) == text


@fuzz(2)
@given(st.text(alphabet="ab:/@?&=. '\"{}#tokenkeypassword\n", max_size=60))
def test_masking_twice_is_masking_once(text: str) -> None:
    once = mask_secrets(text)
    assert mask_secrets(once) == once


@pytest.mark.parametrize("part", ["a", "x://b:", "x://1:80/", "'token': ", "authorization:\n"])
def test_masking_takes_time_in_proportion_to_the_text(part: str) -> None:
    """A second at most; where each place is looked at again from each other, a minute."""
    text = part * (200_000 // len(part))
    before = time.process_time()
    mask_secrets(text)
    assert time.process_time() - before < 5


def test_address_behind_others_without_a_password_is_masked() -> None:
    others = "x://a:b/y://1:80/z://c:d/"
    assert mask_secrets(f"{others}' https://bob:{SECRET}@host") == f"{others}' https://***@host"
    assert mask_secrets(f"{others}x://a:'{SECRET}@host") == f"{others}x://***@host"


def test_secrets_of_the_environment_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "abc")
    assert mask_secrets(f"login with {SECRET} failed: abc") == "login with *** failed: abc"


def test_settings_are_written_without_secrets() -> None:
    config = TrackingConfig(
        uri=f"https://host?token={SECRET}", artifacts=f"s3://key:{SECRET}@bucket/x"
    )
    assert SECRET not in to_yaml(config)
    assert config.uri.endswith(SECRET)
    with pytest.raises(ConfigError, match="were masked"):
        build_config(TrackingConfig, {"uri": "https://host?token=***"})
    config = TrackingConfig(uri=f"postgresql://db/mlflow?of_some_driver={SECRET}&x=?{SECRET}")
    assert config.model_dump(mode="json")["uri"] == config.shown == "postgresql://db/mlflow?***"


def test_refused_setting_is_quoted_without_its_secret() -> None:
    """Also where the quotation ends in the middle of it."""
    long = f"{SECRET}{'x' * 100}"
    with pytest.raises(ConfigError) as caught:
        build_config(TrackingConfig, {"uri": f"ftp://bob:{long}@host"})
    assert SECRET not in str(caught.value)
    assert "ftp://***@host" in str(caught.value)


JOB = """
import logging, sys
from dimts.cli import run_job

def main():
    logging.getLogger("urllib3").warning("retrying https://bob:%s@host", sys.argv[1])
    raise RuntimeError(f"no answer from https://bob:{sys.argv[1]}@host\\nsecond line")

run_job(main)
"""


def test_forgotten_set_is_refused_without_its_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train.py", "--config", "x", f"tracking.uri=http://bob:{SECRET}@host"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit):
        config_parser("").parse_args()
    told = capsys.readouterr().err
    assert told.endswith("error: unrecognized arguments: tracking.uri=http://***@host\n")
    assert SECRET not in told


def test_unexpected_error_is_told_without_secrets(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", JOB, SECRET],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert SECRET not in done.stdout + done.stderr
    assert "WARNING urllib3: retrying https://***@host" in done.stderr
    assert "error: RuntimeError: no answer from https://***@host (traceback:" in done.stderr
    [log] = tmp_path.glob("dimts-error-*.log")
    assert SECRET not in log.read_text()
    assert "second line" in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == stat.S_IRUSR | stat.S_IWUSR


@pytest.mark.integration
def test_training_writes_its_secrets_nowhere(voice_file: Path, tmp_path: Path) -> None:
    """The server is away, so all that it would be told lies in the run's folder, too."""
    uri = f"http://bob:{SECRET}@127.0.0.1:1/x?token=query-{SECRET}"
    overrides = {
        "tracking.enabled": True,
        "tracking.uri": json.dumps(uri),
        "tracking.artifacts": f"s3://key:{SECRET}@bucket/folder",
        "tracking.flush_timeout_s": 1,
        "tracking.tensorboard": True,
        "run.storage": tmp_path / "runs",
        "training.max_steps": 2,
        "training.validate_every": 2,
    }
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), "--config", str(voice_file)]
    for key, value in overrides.items():
        command += ["--set", f"{key}={value}"]
    (tmp_path / "tmp").mkdir()
    environment = {
        **os.environ,
        "TMPDIR": str(tmp_path / "tmp"),
        "MLFLOW_TRACKING_PASSWORD": f"env-{SECRET}",
    }
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "records wait in" in done.stderr
    run = tmp_path / "runs" / "tiny"
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name in ("config.yaml", "metrics.jsonl", "result.json"):
        assert (run / name).is_file()
    assert (resolve_bundle(run / "checkpoint_latest") / "config.yaml").is_file()
    assert "http://***@127.0.0.1:1/x?***" in (run / "config.yaml").read_text()
    leaks = [path for path, content in written.items() if SECRET.encode() in content]
    assert not leaks
    assert SECRET not in done.stdout + done.stderr


def test_record_that_is_refused_leaves_no_secret_in_the_log(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    from dimts.tracking.tracker import Tracker

    config = TrackingConfig(uri=f"http://bob:{SECRET}@127.0.0.1:1", flush_timeout_s=1)
    tracker = Tracker(config, tmp_path)
    with caplog.at_level(logging.DEBUG, logger="dimts"):
        tracker.start("run", {"a": f"Bearer {SECRET}"}, f"uri: {config.uri}\n")
        tracker.set_tags({"note": f"https://host?sig={SECRET}"})
        tracker.finish("FAILED")
    assert SECRET not in caplog.text
    stored = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert stored and not [content for content in stored if SECRET.encode() in content]
