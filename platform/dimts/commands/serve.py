"""Speak over HTTP, as OpenAI's speech service does, on Ray Serve.

dimts serve --model models:/am@champion
dimts serve --model runs/sample_am --port 8001 --set replicas=2

Where RAY_ADDRESS names a cluster the service runs there, until Ctrl-C ends it here. A bearer token
is asked for if DIMTS_SERVE_TOKEN, or DIMTS_SERVE_TOKEN_FILE, is set.
"""

from __future__ import annotations

import ipaddress
import logging
import signal
import threading
from contextlib import suppress

from dimts.cli import add_address, config_parser
from dimts.core.config import build_config, read_settings
from dimts.core.environment import environment
from dimts.core.errors import UserError
from dimts.core.ray_session import ray_session
from dimts.serving.config import ServingConfig


def main() -> int:
    """Serve until Ctrl-C or SIGTERM."""
    parser = config_parser(__doc__ or "", default="the settings of docs/serving.md")
    parser.add_argument("--model", help="bundle, run folder or MLflow URI; the setting `model`")
    add_address(parser, 8000)
    args = parser.parse_args()
    values, origins = read_settings(args.config or [], args.overrides)
    if args.model:
        values["model"], origins["model",] = args.model, "--model"
    config = build_config(ServingConfig, values, origins).absolute()
    return serve_until_stopped(config, str(args.host), args.port)


def serve_until_stopped(config: ServingConfig, host: str, port: int) -> int:
    """Start the service, say where it is, and end it with this process.

    Raises:
        UserError: the model is not there, others could use the service without a token, or Ray
            Serve is not installed or does not start it.
    """
    from dimts.serving.voice import newest
    from dimts.tracking.mlflow_model import resolve_model

    resolve_model(newest(config), config.tracking)
    try:
        from dimts.serving.connections import proxy_environment
    except ImportError as error:
        raise UserError(f"{error}; pip install 'dimts[serve]'") from error
    with environment(proxy_environment(config)), ray_session(logging.WARNING):
        from ray import serve

        from dimts.serving.ray_serve import APP, TOKEN, application, read_token, status_line

        digest = read_token()
        if digest is None and not ipaddress.IPv4Address(host).is_loopback:
            raise UserError(f"--host {host}: others could use it; set {TOKEN} to a token first")
        for name in ("ray.serve", "ray"):
            logging.getLogger(name).setLevel(logging.WARNING)
        options = {"host": host, "port": port, "request_timeout_s": config.timeout_s}
        serve.start(http_options=options)
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        try:
            serve.run(application(config, digest), name=APP)
        except RuntimeError as error:
            raise UserError(f"{config.model}: the service did not start: {error}") from error
        try:
            print(f"speaks at http://{host}:{port}/v1/audio/speech  (Ctrl-C stops it)", flush=True)
            with suppress(KeyboardInterrupt):
                told = ""
                while not stop.wait(config.follow_every_s):
                    if (line := status_line()) != told:
                        print(line, flush=True)
                    told = line
        finally:
            serve.delete(APP)  # others' applications on a cluster stay
    return 0
