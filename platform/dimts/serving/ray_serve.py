"""The service on Ray Serve: a deployment that speaks, of as many replicas as needed, and one
process that speaks HTTP before them.

`build` is what Serve's configuration files and KubeRay's RayService name.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve import Application
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.applications import Starlette

from dimts.core.config import build_config
from dimts.core.errors import UserError
from dimts.serving.api import Busy, NobodySpeaks, create_app, token_digest
from dimts.serving.config import ServingConfig
from dimts.serving.voice import Chunk, Order, Refused, Status, VoiceServer

APP = "dimts"
VOICE, API = "voice", "api"
TOKEN, TOKEN_FILE = "DIMTS_SERVE_TOKEN", "DIMTS_SERVE_TOKEN_FILE"
MIN_TOKEN = 16
PAUSE_S = 0.2
MAX_DIED = 3
"""Replicas under a request: it may be what they die of."""
STATUS_TIMEOUT_S = 5.0
AWAY = (RayError, RuntimeError, TimeoutError, DeploymentUnavailableError)
API_CONNECTIONS = 2000
"""Requests that the process before the replicas holds at once; those that are to wait or be refused
among them."""


class RayVoice:
    """The replicas of the deployment that speaks, as one `Backend`."""

    def __init__(self) -> None:
        self._handle: Any = serve.get_deployment_handle(VOICE, APP)

    async def speak(self, order: Order) -> AsyncGenerator[Chunk | Refused]:
        """The chunks; where a replica dies another one goes on with the sample that is next."""
        n_had = n_died = 0  # samples, replicas
        while True:
            stream = self._handle.options(method_name="speak", stream=True).remote(order)
            try:
                to_skip = n_had
                async for chunk in stream:
                    if isinstance(chunk, Chunk):
                        left = chunk.samples[to_skip:]
                        to_skip -= len(chunk.samples) - len(left)
                        if not len(left):
                            continue
                        n_had += len(left)
                        chunk = chunk._replace(samples=left)
                    yield chunk
                return
            except BackPressureError:
                if not n_died:  # else it had its place among those that wait
                    raise Busy from None
                await asyncio.sleep(PAUSE_S)
            except DeploymentUnavailableError as error:
                raise NobodySpeaks(str(error)) from error
            except RayActorError as error:
                n_died += 1
                if n_died > MAX_DIED:
                    raise NobodySpeaks("replicas die over this request") from error
                await asyncio.sleep(PAUSE_S)
            except (GeneratorExit, asyncio.CancelledError):  # nobody listens any more
                stream.cancel()
                raise

    async def status(self) -> Sequence[Status]:
        """Of each replica that answers."""
        try:
            found = self._handle.broadcast("status")
            return _answers(
                await found.results_async(timeout_s=STATUS_TIMEOUT_S, return_exceptions=True)
            )
        except AWAY:
            return ()


def status_line() -> str:
    """What the replicas speak with, and why not with what they should."""
    try:
        found = serve.get_deployment_handle(VOICE, APP).broadcast("status")
        each = _answers(found.results(timeout_s=STATUS_TIMEOUT_S, return_exceptions=True))
    except AWAY:
        each = []
    told = {status.warning or f"{status.version} speaks" for status in each}
    return "; ".join(sorted(told)) or "no replica answers"


def _answers(each: Sequence[Any]) -> list[Status]:
    """Of replicas that answered; the others gave errors."""
    return [status for of in each if isinstance(of, list) for status in of]


def application(config: ServingConfig, digest: str | None) -> Application:
    """The deployments; `digest` is of the token that requests have to bring."""
    config = config.absolute()

    def http() -> Starlette:
        return create_app(config, RayVoice(), digest)

    scale: dict[str, Any] = {"num_replicas": config.replicas}
    if config.max_replicas:
        scale = {
            "autoscaling_config": {
                "min_replicas": config.replicas,
                "max_replicas": config.max_replicas,
                "target_ongoing_requests": max(1, config.concurrent / 2),
                "upscale_delay_s": config.grow_after_s,
                "downscale_delay_s": config.shrink_after_s,
            }
        }
    voice = serve.deployment(
        name=VOICE,
        max_ongoing_requests=config.concurrent,
        max_queued_requests=config.queue,
        # At most one core, and so one thread: what torch and OpenMP start is bounded by Ray.
        ray_actor_options={"num_cpus": config.replica_cpus},
        graceful_shutdown_timeout_s=config.timeout_s,
        max_constructor_retry_count=2,
        **scale,
    )(VoiceServer)
    api = serve.deployment(
        name=API,
        max_ongoing_requests=API_CONNECTIONS,
        max_queued_requests=API_CONNECTIONS,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=config.timeout_s,
        backpressure_config={"status_code": 429, "retry_after_s": config.retry_after_s},
    )(serve.ingress(http)())
    return api.bind(voice.bind(config))


def build(values: Mapping[str, Any]) -> Application:
    """The service by `args` of an application in Serve's configuration: keys of `ServingConfig`.

    Raises:
        UserError: a setting is wrong, or there is no token, without which whoever reaches a cluster
            could use it.
    """
    if not (digest := read_token()):
        raise UserError(f"set {TOKEN} or {TOKEN_FILE}: a service on a cluster needs a token")
    return application(build_config(ServingConfig, values), digest)


def read_token() -> str | None:
    """The digest of the token of the environment, or of the file that it names; None without one.

    Raises:
        UserError: the file cannot be read, or the token is too short to be kept secret.
    """
    token = os.environ.get(TOKEN)
    if file := os.environ.get(TOKEN_FILE):
        try:
            token = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{TOKEN_FILE}={file}: cannot be read: {error}") from error
    if token is None:
        return None
    if len(token) < MIN_TOKEN:
        raise UserError(f"{TOKEN}: has {len(token)} characters, at least {MIN_TOKEN} are needed")
    return token_digest(token)
