"""The metrics that the SDK of Temporal has of calls, workers and tasks (`temporal_…`).

The SDK's exporter has a server of its own. It listens on a port of this machine alone, and what it says is
told together with the metrics of the service, under their address.
"""

import asyncio
import http.client
import logging
import socket
from collections.abc import Awaitable, Callable

from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig

from ods.observability.logs import fault_name
from ods.observability.metrics.catalog import SCRAPE_ERRORS
from ods.settings.settings import ServiceSettings

_HOST = "127.0.0.1"
_SECONDS = 1
_ATTEMPTS = 3
"""Between the choice of a free port and its use, another process may take it."""

_logger = logging.getLogger(__name__)

SdkText = Callable[[], Awaitable[bytes]]
"""Gives the SDK's metrics in Prometheus' text format; nothing if they cannot be had."""


def measuring_runtime(settings: ServiceSettings) -> tuple[Runtime | None, SdkText]:
    """The part of the SDK that measures, and what it has measured; None and nothing if metrics are off."""
    if settings.metrics_port is None:
        return None, _nothing
    for _ in range(_ATTEMPTS):
        port = _free_port()
        # Units in seconds, and names with them, as Prometheus recommends.
        config = PrometheusConfig(
            bind_address=f"{_HOST}:{port}",
            counters_total_suffix=True,
            unit_suffix=True,
            durations_as_seconds=True,
        )
        try:
            return Runtime(telemetry=TelemetryConfig(metrics=config)), _Exporter(port).text
        except (RuntimeError, ValueError) as error:
            _logger.info("The SDK's exporter could not listen: %s", fault_name(error))
    _logger.warning("There are no metrics of Temporal's SDK: its exporter found no port to listen on.")
    return None, _nothing


async def _nothing() -> bytes:
    return b""


class _Exporter:
    """The SDK's own server."""

    def __init__(self, port: int) -> None:
        self._port = port
        SCRAPE_ERRORS.labels("sdk")  # so that it is there, at 0

    async def text(self) -> bytes:
        """What it tells; nothing if it does not answer within a second."""
        try:
            return await asyncio.to_thread(self._fetch)
        except (OSError, http.client.HTTPException):
            SCRAPE_ERRORS.labels("sdk").inc()
            return b""

    def _fetch(self) -> bytes:
        connection = http.client.HTTPConnection(_HOST, self._port, timeout=_SECONDS)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read()
        finally:
            connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
