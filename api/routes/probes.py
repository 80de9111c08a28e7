"""Probes for load balancers; the reasons are told on the port for metrics alone."""

from enum import StrEnum
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from api.readiness import ReadinessDep
from api.schemas.base import ResponseModel

router = APIRouter(tags=["Information"])


class ProbeStatus(StrEnum):
    """What a probe says."""

    ALIVE = "alive"
    READY = "ready"
    NOT_READY = "not ready"


class Probe(ResponseModel):
    """What the process says of itself."""

    status: ProbeStatus


_UNREADY: dict[int | str, dict[str, Any]] = {HTTPStatus.SERVICE_UNAVAILABLE.value: {"model": Probe}}


@router.head("/livez", operation_id="head_livez")
@router.get("/livez")
async def get_livez() -> Probe:
    """Whether the process answers: no other part is asked."""
    return Probe(status=ProbeStatus.ALIVE)


@router.head("/readyz", response_model=Probe, responses=_UNREADY, operation_id="head_readyz")
@router.get("/readyz", response_model=Probe, responses=_UNREADY)
async def get_readyz(readiness: ReadinessDep) -> Probe | Response:
    """Whether the process may get traffic; 503 if it is stopping, or no request can be accepted."""
    if await readiness.obstacles():
        return JSONResponse({"status": ProbeStatus.NOT_READY}, HTTPStatus.SERVICE_UNAVAILABLE)
    return Probe(status=ProbeStatus.READY)
