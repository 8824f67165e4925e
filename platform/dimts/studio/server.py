"""The studio's server: who may ask, and errors as one line of JSON."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from dimts.core.errors import UserError
from dimts.plotting.fonts import SHIPPED

PAGE = Path(__file__).with_name("page")
FILES = {
    "/": PAGE / "studio.html",
    **{f"/{name}": PAGE / name for name in ("studio.js", "recorder.js")},
    **{f"/{font.name}": font for font in SHIPPED},
}
"""Address -> file; a device may have no font of a script."""
MAX_BODY = 32 * 2**20
"""Bytes of a request: a minute of recording, with room."""
COOKIE = "dimts_studio"
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src data:; media-src 'self' data: blob:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Action = Callable[[Mapping[str, Any]], Any]
"""Answers a request, given by its query or its JSON: bytes are a WAV file, the rest is JSON."""


class Guard:
    """Lets in requests with the token; without one, those that name this machine as their host.

    The latter keeps pages of other sites out whose name was made to point here, and a request that
    changes something must not come from a page of another site.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = Request(scope)
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        response: Response | None = None
        if origin and origin.partition("://")[2] != host:
            response = _refused(HTTPStatus.FORBIDDEN, "asked for by a page of another site")
        elif self.token is None:
            if host.rpartition(":")[0] not in LOOPBACK_NAMES and host not in LOOPBACK_NAMES:
                response = _refused(HTTPStatus.FORBIDDEN, "not the name of this machine")
        elif self._is_token(request.query_params.get("token")) and request.url.path == "/":
            response = RedirectResponse("/", HTTPStatus.SEE_OTHER, HEADERS)
            response.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
        elif not self._is_token(request.cookies.get(COOKIE)):
            response = _refused(HTTPStatus.UNAUTHORIZED, "open the address with its token")
        await (response or self.app)(scope, receive, send)

    def _is_token(self, given: str | None) -> bool:
        assert self.token is not None
        return secrets.compare_digest((given or "").encode(), self.token.encode())


def build_app(
    reads: Mapping[str, Action], changes: Mapping[str, Action], token: str | None
) -> Starlette:
    """The application.

    Args:
        reads: what ``GET /api/NAME`` answers, given its query.
        changes: what ``POST /api/NAME`` does, given its JSON object.
        token: asked for if there is one.
    """
    routes = [Route(address, _file(path)) for address, path in FILES.items()]
    routes += [Route(f"/api/{name}", _query(action)) for name, action in reads.items()]
    routes += [
        Route(f"/api/{name}", _json(action), methods=["POST"]) for name, action in changes.items()
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, token=token)])


def _file(path: Path) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return FileResponse(path, headers=HEADERS)

    return answer


def _query(action: Action) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return await _answer(action, dict(request.query_params))

    return answer


def _json(action: Action) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return _refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "must be application/json")
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY:
                return _refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {MAX_BODY} bytes")
        try:
            values = json.loads(body)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            return _refused(HTTPStatus.BAD_REQUEST, "not a JSON object")
        return await _answer(action, values)

    return answer


async def _answer(action: Action, values: Mapping[str, Any]) -> Response:
    try:
        result = await run_in_threadpool(action, values)
    except UserError as error:
        return _refused(HTTPStatus.BAD_REQUEST, str(error))
    if isinstance(result, bytes):
        return Response(result, media_type="audio/wav", headers=HEADERS)
    return JSONResponse(result, headers=HEADERS)


def _refused(status: HTTPStatus, why: str) -> Response:
    return JSONResponse({"error": why}, status, HEADERS)
