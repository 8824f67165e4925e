"""Connections that stop in the middle of a request, on a real socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from dimts.serving.config import ServingConfig
from dimts.serving.connections import (
    LIMITS,
    PromptHeads,
    WholeBodies,
    middlewares,
    proxy_environment,
)

HEAD = b"GET / HTTP/1.1\r\nHost: here\r\n"
BODY = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\nsp"
STALLED: dict[str, Sequence[bytes]] = {
    "nothing": [b""],
    "half a head": [HEAD],
    "half a second head": [HEAD + b"\r\n", HEAD],
    "half a body": [BODY],
}


def test_stalled_connections_end_beside_a_request_that_takes_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(PromptHeads, "timeout_s", 0.1)
    ended = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        if scope["path"] == "/slow":
            await ended.wait()
        await PlainTextResponse(b"heard " + message["body"])(scope, receive, send)

    async def talk(port: int, parts: Sequence[bytes]) -> bytes:
        """What is answered until the connection is closed; a part is sent after each answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answered = b""
        for n, part in enumerate(parts):
            if n:
                answered += await reader.readuntil(b"heard ")
            writer.write(part)
        answered += await reader.read()
        writer.close()
        return answered

    async def run() -> tuple[list[bytes], bytes]:
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            port = listening.getsockname()[1]
            server = uvicorn.Server(
                uvicorn.Config(
                    WholeBodies(app, 0.1, 100), http=PromptHeads, lifespan="off", log_config=None
                )
            )
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            slow = b"POST /slow HTTP/1.1\r\nConnection: close\r\nContent-Length: 6\r\n\r\nspeech"
            answer = asyncio.create_task(talk(port, [slow]))
            stalled = await asyncio.gather(*(talk(port, parts) for parts in STALLED.values()))
            ended.set()
            await answer
            server.should_exit = True
            await serving
            return stalled, answer.result()

    stalled, answer = asyncio.run(run())
    for name, told in zip(STALLED, stalled, strict=True):
        assert told.count(b"HTTP/1.1 408 ") == 1, name
        assert told.count(b"HTTP/1.1 200 ") == (name == "half a second head"), name
    assert b"HTTP/1.1 200 " in answer and answer.endswith(b"heard speech")


def test_the_proxy_is_told_the_limits_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dimts.serving.connections.HTTP_PROTOCOLS", {})
    monkeypatch.setattr(PromptHeads, "timeout_s", 0)
    config = ServingConfig(model="hum", body_timeout_s=2.5, max_chars=10)
    monkeypatch.setenv(LIMITS, proxy_environment(config)[LIMITS])
    (before,) = middlewares()
    assert before.args == (2.5, config.max_body)
    assert PromptHeads.timeout_s == 2.5
