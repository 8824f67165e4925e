"""Open MLflow's pages over the recorded runs, or send what a run could not send.

dimts ui
dimts ui --config jobs/configs/sample_am.yaml --port 5001
dimts ui --host 0.0.0.0 --auth
dimts ui --sync runs/sample_am
dimts ui --moved
"""

from __future__ import annotations

import ipaddress
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from dimts.cli import add_address, config_parser
from dimts.core.config import Config, load_config
from dimts.core.errors import UserError
from dimts.launch.names import CONFIG_FILE
from dimts.tracking.config import TrackingConfig
from dimts.tracking.mlflow_client import check_database, reason
from dimts.tracking.mlflow_run import RunIdentity
from dimts.tracking.mlflow_thread import sync
from dimts.tracking.moved import follow_move, moved_line
from dimts.tracking.ui import EVERYWHERE, LOOPBACK, page, start_ui, stop


class UiConfig(Config):
    """The settings of this job when no voice's config is named."""

    tracking: TrackingConfig = TrackingConfig()


class RecordedConfig(UiConfig):
    """Of the settings of a voice, a run or a sweep, those that concern its record."""

    model_config = ConfigDict(extra="ignore")

    run: dict[str, Any] = Field(default_factory=dict)
    sweep: dict[str, Any] | None = None


def main() -> int:
    """Run the job; returns the exit code."""
    parser = config_parser(__doc__ or "", default="sqlite:///mlflow.db in this folder")
    add_address(parser, 5000, f"; {EVERYWHERE}: every one of this machine")
    parser.add_argument(
        "--auth", action="store_true", help="ask for a name and a password; docs/security.md"
    )
    parser.add_argument("--new", action="store_true", help="begin a record where there is none")
    parser.add_argument(
        "--moved", action="store_true",
        help="the project folder was moved: have the database name the artifacts where they are",
    )  # fmt: skip
    parser.add_argument(
        "--sync", type=Path, metavar="RUN_DIR",
        help="send what waits in this run's folder, by the run's own settings",
    )  # fmt: skip
    args = parser.parse_args()
    if args.sync and not args.config:
        return send(recorded_config(args.sync, args.overrides), args.sync)
    config = tracking_config(args.config or [], args.overrides)
    if args.sync:
        return send(config, args.sync)
    if args.moved:
        return follow(config)
    if line := moved_line(config.absolute()):
        print(f"warning: {line}", file=sys.stderr)
    return serve(config, args.port, str(args.host), args.auth, args.new)


def tracking_config(files: Sequence[str | Path], overrides: Sequence[str]) -> TrackingConfig:
    """How runs are recorded by settings of a voice, a run or a sweep, or by the defaults."""
    load_config(UiConfig, [], overrides)  # refuses keys that would be ignored below
    config = load_config(RecordedConfig, files, overrides)
    if config.sweep is None or config.tracking.registered_model:
        return config.tracking
    return config.tracking.model_copy(update={"registered_model": config.run["name"]})


def recorded_config(run_dir: Path, overrides: Sequence[str]) -> TrackingConfig:
    """What a run was to be recorded with, where `overrides` say nothing else."""
    file = run_dir / CONFIG_FILE
    return tracking_config([file] if file.exists() or not overrides else [], overrides)


def serve(
    config: TrackingConfig, port: int, host: str = LOOPBACK, auth: bool = False, new: bool = False
) -> int:
    """Show the pages until Ctrl-C or SIGTERM."""
    if not (auth or ipaddress.IPv4Address(host).is_loopback):
        print(
            f"warning: everyone who reaches port {port} of {host} can read and delete runs; "
            "docs/security.md says how to ask them for a password",
            file=sys.stderr,
        )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print("starting MLflow ...", flush=True)
    server = start_ui(config, port, host, auth, new)
    try:
        with suppress(KeyboardInterrupt):
            print(f"MLflow: {page(config, port, host)}  (Ctrl-C stops it)", flush=True)
            code = server.wait()
            raise UserError(f"mlflow server ended with code {code}; its messages are above")
    finally:
        stop(server)
    return 0


def follow(config: TrackingConfig) -> int:
    """Have the database name the artifacts where they are."""
    config.check_store()
    check_database(config)
    moved = follow_move(config.absolute())
    for old, new in moved.items():
        print(f"{config.shown}: {old} is now {new}")
    if not moved:
        print(f"{config.shown}: names no folder of artifacts that was moved; nothing is changed")
    return 0


def send(config: TrackingConfig, run_dir: Path) -> int:
    """Send what waits in a run's folder, to the store that has the rest of the run."""
    if store := RunIdentity(config.absolute(), run_dir).elsewhere():
        raise UserError(
            f"{run_dir}: is recorded in {store}, not in {config.absolute().shown}; "
            "--set tracking.uri=... names that store"
        )
    try:
        n_sent = sync(config, run_dir)
    except UserError:
        raise
    except Exception as error:
        why = reason(error)
        raise UserError(
            f"{config.shown} does not take records ({why}); they still wait in {run_dir}"
        ) from error
    print(f"sent {n_sent} records of {run_dir} to {config.shown}")
    return 0
