"""A witness over HTTP (C2SP tlog-witness): `POST /add-checkpoint`, and `GET /<hash of the origin>/checkpoint` for monitors."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from agentguard.log.witness import MAX_REQUEST, Answer, Witness

#: How long somebody may take to send a request, in seconds.
_PATIENCE: Final = 10.0


def witness_app(witness: Witness) -> Starlette:
    """The ASGI application. It reads no more of a request than a checkpoint can have, and waits no longer for it than 10 s."""

    async def add_checkpoint(request: Request) -> Response:
        try:
            async with asyncio.timeout(_PATIENCE):
                body = await _body(request)
        except TimeoutError:
            return Response("the request did not come in time\n", 408)
        except ClientDisconnect:
            return Response(status_code=400)
        return _response(await run_in_threadpool(witness.add_checkpoint, body))

    async def latest(request: Request) -> Response:
        return _response(await run_in_threadpool(witness.latest, request.path_params["origin"]))

    routes = [Route("/add-checkpoint", add_checkpoint, methods=["POST"]), Route("/{origin}/checkpoint", latest, methods=["GET"])]
    return Starlette(routes=routes)


async def _body(request: Request) -> bytes:
    """At most one byte more than the witness takes; it refuses what is longer."""
    parts: list[bytes] = []
    room = MAX_REQUEST + 1
    async for part in request.stream():
        parts.append(part[:room])
        room -= len(parts[-1])
        if room <= 0:
            break
    return b"".join(parts)


def _response(answer: Answer) -> Response:
    headers = {"Cache-Control": "no-store", "Content-Type": answer.content_type}
    return Response(answer.body, answer.status, headers)
