"""*Health*: each part of the service, and what the doctor finds when it is asked."""

from fastapi import Request, Response

from console.page import render
from console.page_route import signed_in_router
from console.views.health import HealthViewDep

router = signed_in_router()


@router.get("/health")
async def show_health(request: Request, view: HealthViewDep) -> Response:
    """The page."""
    return render(request, "health.html", page=await view.page(), lines=None)


@router.get("/health/parts")
async def show_parts(request: Request, view: HealthViewDep) -> Response:
    """The parts alone."""
    return render(request, "_partials/health_parts.html", page=await view.page())


@router.get("/health/doctor")
async def ask_doctor(request: Request, view: HealthViewDep) -> Response:
    """The page with what the doctor finds now. It changes nothing, so every client may."""
    return render(request, "health.html", page=await view.page(), lines=await view.doctor())
