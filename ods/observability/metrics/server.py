"""The port for Prometheus and for probes, which API and worker have beside their own work.

It is a port of its own so that what it tells reaches no client of the API. Its server runs in the process's
event loop: an answer to `/livez` shows that the loop answers.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Protocol

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from ods.observability.metrics.exposition import CONTENT_TYPE
from ods.settings.settings import InvalidSettingsError, ServiceSettings

_JSON = "application/json"
_READING = ("GET", "HEAD")
_STRICT = b"strict"
"""In the query of `/readyz`: a process about which there are concerns is not ready."""
_IDLE_SECONDS = 75
"""How long a connection is kept between two scrapes."""


class Probes(Protocol):
    """What a process says of itself. Each reason is a sentence for the operator."""

    async def start_obstacles(self) -> Sequence[str]:
        """Why the process has not started yet; none once it has."""

    async def obstacles(self) -> Sequence[str]:
        """Why the process must get no traffic, or gets no tasks, now."""

    async def concerns(self) -> Sequence[str]:
        """What is away though the process may get traffic."""


@asynccontextmanager
async def serving(
    settings: ServiceSettings, metrics: Callable[[], Awaitable[bytes]], probes: Probes
) -> AsyncIterator[None]:
    """Serve `/metrics`, `/livez`, `/readyz` and `/startupz` while the body runs, if there is a port for it.

    Raises:
        InvalidSettingsError: nothing can listen there.
    """
    if settings.metrics_port is None:
        yield
        return
    config = Config(
        _application(metrics, probes),
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_keep_alive=_IDLE_SECONDS,
    )
    config.load()
    state = ServerState()
    # Not `uvicorn.Server`: that takes over the signals of the process.
    try:
        server = await asyncio.get_running_loop().create_server(
            lambda: H11Protocol(config=config, server_state=state, app_state={}),
            settings.metrics_host,
            settings.metrics_port,
        )
    except OSError as error:
        raise InvalidSettingsError(
            f"ODS_METRICS_PORT, ODS_METRICS_HOST: nothing can listen on {settings.metrics_host}, port"
            f" {settings.metrics_port} ({type(error).__name__}). Each API and worker process of a machine"
            " needs a port of its own."
        ) from None
    try:
        yield
    finally:
        server.close()
        for connection in list(state.connections):
            connection.shutdown()


def _application(metrics: Callable[[], Awaitable[bytes]], probes: Probes) -> Callable[..., Awaitable[None]]:
    """The ASGI application."""

    async def answer(path: str, query: bytes) -> tuple[HTTPStatus, str, bytes]:
        match path:
            case "/metrics":
                return HTTPStatus.OK, CONTENT_TYPE, await metrics()
            case "/livez":
                return _probe("alive", [])
            case "/readyz":
                obstacles, concerns = await asyncio.gather(probes.obstacles(), probes.concerns())
                if _STRICT in query.split(b"&"):
                    return _probe("ready", [*obstacles, *concerns])
                return _probe("ready", obstacles, concerns)
            case "/startupz":
                return _probe("started", await probes.start_obstacles())
            case _:
                return _json(
                    HTTPStatus.NOT_FOUND,
                    {"message": "There are /metrics, /livez, /readyz and /startupz here."},
                )

    async def application(
        scope: dict[str, Any],
        _receive: Callable[[], Awaitable[object]],
        send: Callable[[dict[str, object]], Awaitable[None]],
    ) -> None:
        if scope["method"] in _READING:
            status, media_type, body = await answer(str(scope["path"]), bytes(scope["query_string"]))
        else:
            status, media_type, body = _json(
                HTTPStatus.METHOD_NOT_ALLOWED, {"message": "Only GET and HEAD are answered here."}
            )
        headers = [(b"content-type", media_type.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status.value, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return application


def _probe(
    state: str, obstacles: Sequence[str], concerns: Sequence[str] = ()
) -> tuple[HTTPStatus, str, bytes]:
    told = {"concerns": list(concerns)} if concerns else {}
    if obstacles:
        reasons = {"reasons": list(obstacles)}
        return _json(HTTPStatus.SERVICE_UNAVAILABLE, {"status": f"not {state}", **reasons, **told})
    return _json(HTTPStatus.OK, {"status": state, **told})


def _json(status: HTTPStatus, content: dict[str, object]) -> tuple[HTTPStatus, str, bytes]:
    return status, _JSON, json.dumps(content).encode()
