"""*Health*: each part of the service, charts, and what the doctor finds when it is asked."""

from fastapi import Request, Response

from ods.console.page import render
from ods.console.page_route import signed_in_router
from ods.console.views.health import HealthViewDep
from ods.console.views.trends import TrendsViewDep

router = signed_in_router()


@router.get("/health")
async def show_health(request: Request, view: HealthViewDep, trends: TrendsViewDep) -> Response:
    """The page."""
    return render(request, "health.html", page=await view.page(), trends=await trends.trends(), lines=None)


@router.get("/health/parts")
async def show_parts(request: Request, view: HealthViewDep) -> Response:
    """The parts alone."""
    return render(request, "_partials/health_parts.html", page=await view.page())


@router.get("/health/doctor")
async def ask_doctor(request: Request, view: HealthViewDep, trends: TrendsViewDep) -> Response:
    """The page with what the doctor finds now. It changes nothing, so every client may."""
    lines = await view.doctor()
    return render(request, "health.html", page=await view.page(), trends=await trends.trends(), lines=lines)
