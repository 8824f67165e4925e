"""HTTP as OpenAI's speech service has it, over whatever speaks.

    POST /v1/audio/speech   JSON -> sound, sent while it is spoken; GET with a query, for players
    GET  /v1/models, /v1/voices, /health, /metrics

Errors are JSON as OpenAI's: ``{"error": {"message": ...}}``.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Literal, Protocol
from urllib.parse import quote

import pydantic_core
from pydantic import Field
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from dimts.core.config import Config, build_config
from dimts.core.errors import ConfigError
from dimts.serving.audio import FORMATS, Encoder
from dimts.serving.config import ServingConfig
from dimts.serving.connections import WholeBodies, refusal
from dimts.serving.metrics import Metrics
from dimts.serving.voice import ALIAS, Chunk, Order, Refused, Status
from dimts.tracking.config import is_in_mlflow

STOCK_MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
"""Names that clients of OpenAI's service send."""
SPEECH = "/v1/audio/speech"
STATUS_AGE_S = 1.0
"""Who asks for the health more often gets the same answer."""
CLIENT_GONE = 499


class Busy(Exception):
    """As many requests wait as may."""


class NobodySpeaks(Exception):
    """No process that speaks can be reached."""


class Backend(Protocol):
    """What speaks; raises `Busy` before the first chunk, and `NobodySpeaks`."""

    def speak(self, order: Order) -> AsyncGenerator[Chunk | Refused]:
        """See `dimts.serving.voice.VoiceServer.speak`."""

    async def status(self) -> Sequence[Status]:
        """Of each process."""


class SpeechRequest(Config):
    """A request for speech; `language` and `pitch` are ours, the rest is OpenAI's.

    `instructions` has no effect: no model here takes any.
    """

    model: str = Field(STOCK_MODELS[0], max_length=500)
    input: str = Field(min_length=1)
    voice: str = Field("default", max_length=500)
    response_format: Literal["mp3", "opus", "flac", "wav", "pcm"] = "mp3"
    speed: float = Field(1.0, ge=0.25, le=4.0)
    instructions: str | None = None
    stream_format: Literal["audio"] | None = None
    language: str | None = Field(None, max_length=100)
    pitch: float = Field(1.0, ge=0.25, le=4.0)

    @property
    def order(self) -> Order:
        """What is to be said."""
        return Order(self.input, self.language, self.voice, self.speed, self.pitch)


def token_digest(token: str) -> str:
    """What a service keeps of its token."""
    return hashlib.sha256(token.encode()).hexdigest()


def shown(version: str) -> str:
    """A version as those who ask may see it: of a folder its name alone."""
    return version if is_in_mlflow(version) else version.rstrip("/").rpartition("/")[2]


def create_app(config: ServingConfig, backend: Backend, digest: str | None = None) -> Starlette:
    """The service over a backend.

    Args:
        config, backend: its settings, and what speaks.
        digest: `token_digest` of the token that requests have to bring; without it /health alone
            answers, in one word. None: there is no token.
    """
    api = _Api(config, backend, digest)
    return Starlette(
        routes=[
            Route(SPEECH, api.guarded(api.speech), methods=["GET", "POST"]),
            Route("/v1/models", api.guarded(api.models)),
            Route("/v1/voices", api.guarded(api.voices)),
            Route("/metrics", api.guarded(api.metrics_text)),
            Route("/health", api.health),
        ],
        middleware=[Middleware(WholeBodies, config.body_timeout_s, config.max_body)],
        exception_handlers={HTTPException: _as_json, NobodySpeaks: _unavailable},
    )


Handler = Callable[[Request], Awaitable[Response]]


class _Api:
    def __init__(self, config: ServingConfig, backend: Backend, digest: str | None) -> None:
        self._config, self._backend, self._digest = config, backend, digest
        self._metrics = Metrics()
        self._status: tuple[float, Sequence[Status]] = (-STATUS_AGE_S, ())
        alias = ALIAS.fullmatch(config.model)
        self._name = alias[1] if alias else shown(config.model)

    def guarded(self, handler: Handler) -> Handler:
        """The handler for those who bring the token."""

        async def answer(request: Request) -> Response:
            if not self._may(request):
                bearer = {"WWW-Authenticate": "Bearer"}
                raise HTTPException(401, "a bearer token is needed, and this is none", bearer)
            return await handler(request)

        return answer

    def _may(self, request: Request) -> bool:
        """Whether it brings the token, if one is asked for."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        given = token_digest(token.strip() if scheme.lower() == "bearer" else "")
        return self._digest is None or hmac.compare_digest(given, self._digest)

    async def speech(self, request: Request) -> Response:
        begun = time.perf_counter()
        self._metrics.in_progress.inc()
        status, is_streaming = CLIENT_GONE, False
        try:
            wanted = await self._wanted(request)
            chunks = self._backend.speak(wanted.order)
            async with asyncio.timeout(self._config.timeout_s):
                first = await anext(chunks, None)
            if first is None:
                raise HTTPException(400, "input: holds nothing to say")
            if isinstance(first, Refused):
                raise HTTPException(400, first.message)
            body = self._body(begun, wanted.response_format, first, chunks)
            headers = {"X-Voice-Version": quote(shown(first.version), safe=":/")}
            kind = FORMATS[wanted.response_format].media_type
            status, is_streaming = 200, True
            return _Sound(body, headers, kind, then=self._metrics.in_progress.dec)
        except HTTPException as error:
            status = error.status_code
            raise
        except Busy:
            status = 429
            wait = {"Retry-After": str(self._config.retry_after_s)}
            raise HTTPException(429, "too many requests wait; ask again later", wait) from None
        except NobodySpeaks as error:
            status = 503
            raise HTTPException(503, str(error)) from None
        except TimeoutError:
            status = 408
            raise HTTPException(408, f"nothing was said in {self._config.timeout_s:g} s") from None
        except Exception:
            status = 500
            raise
        finally:
            self._metrics.answered.labels(str(status)).inc()
            if not is_streaming:
                self._metrics.in_progress.dec()

    async def _body(
        self, begun: float, name: str, first: Chunk,
        chunks: AsyncGenerator[Chunk | Refused],
    ) -> AsyncGenerator[bytes]:  # fmt: skip
        """The sound; where a client has left, nothing more is spoken."""
        encoder = Encoder(name, first.sample_rate)
        chunk: Chunk | Refused | None = first
        async with aclosing(chunks):
            while chunk is not None:
                # A voice's own mistake, or another one's rate: what was sent is no whole.
                if isinstance(chunk, Refused) or chunk.sample_rate != first.sample_rate:
                    raise RuntimeError(f"speech broke off: {chunk}")
                if data := await asyncio.to_thread(encoder.encode, chunk.samples):
                    yield data
                if chunk is first:
                    self._metrics.first_sound.observe(time.perf_counter() - begun)
                self._metrics.spoken.inc(len(chunk.samples) / chunk.sample_rate)
                chunk = await anext(chunks, None)
        if data := await asyncio.to_thread(encoder.finish):
            yield data
        self._metrics.whole.observe(time.perf_counter() - begun)

    async def models(self, request: Request) -> Response:
        entry = {"id": self._name, "object": "model", "created": 0, "owned_by": "dimts"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def voices(self, request: Request) -> Response:
        status = (await self._statuses())[0]
        names = list(status.voices) or ["default"]
        data = [{"id": name, "object": "voice", "languages": status.languages} for name in names]
        return JSONResponse({"object": "list", "data": data})

    async def metrics_text(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def health(self, request: Request) -> Response:
        try:
            found = await self._statuses()
        except NobodySpeaks:
            return JSONResponse({"status": "unavailable"}, 503)
        versions = sorted({shown(status.version) for status in found})
        warnings = sorted({status.warning for status in found if status.warning})
        told: dict[str, object] = {"status": "warning" if warnings else "ok"}
        if self._may(request):
            told |= {"replicas": len(found), "versions": versions, "warnings": warnings}
        return JSONResponse(told)

    async def _statuses(self) -> Sequence[Status]:
        if time.monotonic() - self._status[0] >= STATUS_AGE_S:
            self._status = (time.monotonic(), await self._backend.status())
        if not self._status[1]:
            raise NobodySpeaks("no replica answers yet; ask again later")
        return self._status[1]

    async def _wanted(self, request: Request) -> SpeechRequest:
        """The request, checked.

        Raises:
            HTTPException: with what is wrong.
        """
        values: object = dict(request.query_params)
        if request.method == "POST":
            # Of other types a page of anyone could have a browser send it, without asking first.
            if request.headers.get("content-type", "").partition(";")[0] != "application/json":
                raise HTTPException(415, "send JSON, as content type application/json")
            try:
                values = pydantic_core.from_json(await request.body())
            except ValueError as error:
                raise HTTPException(400, f"the body is not valid JSON: {error}") from None
        if not isinstance(values, dict):
            raise HTTPException(400, "the body must be a JSON object, with a text as `input`")
        try:
            wanted = build_config(SpeechRequest, values)
        except ConfigError as error:
            raise HTTPException(400, str(error)) from None
        if len(wanted.input) > self._config.max_chars:
            most = self._config.max_chars
            raise HTTPException(400, f"input: has {len(wanted.input)} characters, at most {most}")
        if wanted.model not in (self._name, *STOCK_MODELS):
            raise HTTPException(404, f"model: there is none of this name; there is {self._name}")
        return wanted


class _Sound(StreamingResponse):
    """An answer that calls `then` when it was sent, or cannot be, even if nothing of it was."""

    def __init__(
        self, body: AsyncGenerator[bytes], headers: Mapping[str, str], media_type: str,
        then: Callable[[], None],
    ) -> None:  # fmt: skip
        super().__init__(body, 200, headers, media_type)
        self._then = then

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._then()


async def _unavailable(request: Request, error: Exception) -> Response:
    return refusal(503, str(error))


async def _as_json(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return refusal(error.status_code, error.detail, error.headers)
