"""Requests reach Ray once they are whole: who sends slowly keeps a connection and nothing else.

Ray Serve's proxy calls `middlewares` where `proxy_environment` is that of its process.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping

from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dimts.serving.config import ServingConfig

CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
LIMITS = "DIMTS_SERVE_LIMITS"
CLOSE = {"connection": "close"}
LATE = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def proxy_environment(config: ServingConfig) -> dict[str, str]:
    """Variables of the processes that listen."""
    return {
        CALLBACK: f"{__name__}:middlewares",
        LIMITS: f"{config.body_timeout_s} {config.max_body}",
    }


def middlewares() -> list[Middleware]:
    """What Ray Serve puts before its applications; the connections are watched from now on."""
    timeout_s, max_body = os.environ[LIMITS].split()
    PromptHeads.timeout_s = float(timeout_s)
    HTTP_PROTOCOLS["auto"] = f"{__name__}:{PromptHeads.__name__}"
    return [Middleware(WholeBodies, float(timeout_s), int(max_body))]


class WholeBodies:
    """Takes a request in before the application sees it; 408 if it is late, 413 if too large.

    Args:
        app: the application.
        timeout_s: the longest that a body may take to arrive, in seconds.
        max_body: bytes.
    """

    def __init__(self, app: ASGIApp, timeout_s: float, max_body: int) -> None:
        self._app, self._timeout_s, self._max_body = app, timeout_s, max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(self._timeout_s):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    if len(body) > self._max_body:
                        told = f"at most {self._max_body} bytes are taken"
                        await refusal(413, told, CLOSE)(scope, receive, send)
                        return
                    more = message.get("more_body", False)
        except TimeoutError:
            told = "the body took too long to arrive"
            await refusal(408, told, CLOSE)(scope, receive, send)
            return
        waiting: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return waiting.pop() if waiting else await receive()

        await self._app(scope, replay, send)


class PromptHeads(HttpToolsProtocol):
    """HTTP of a connection, which is closed, with 408, if a request's head is late.

    uvicorn itself waits for a head for ever.
    """

    timeout_s = 10.0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._rest()

    def _watch(self) -> None:
        """Begin to wait for a head unless that was begun; end it where one has come."""
        is_http = self.transport.get_protocol() is self  # not so of what became a web socket
        if not is_http or not (self.cycle is None or self.cycle.response_complete):
            self._rest()
        elif self._late is None:
            self._late = self.loop.call_later(self.timeout_s, self._refuse)

    def _rest(self) -> None:
        if self._late:
            self._late.cancel()
        self._late = None

    def _refuse(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(LATE)
            self.transport.close()


def refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A refusal as OpenAI's service words it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    told = {"message": message, "type": kind, "param": None, "code": None}
    return JSONResponse({"error": told}, status, headers=headers)
