"""*Drift*: where registry and server contradict each other, as of the last look."""

from fastapi import Request, Response

from ods.console.page import render, see_other
from ods.console.page_route import signed_in_router
from ods.console.views.drift import DriftViewDep

router = signed_in_router()


@router.get("/drift")
async def show_drift(request: Request, view: DriftViewDep) -> Response:
    """The page."""
    return render(request, "drift.html", page=await view.page())


@router.get("/drift/again")
async def look_again(request: Request, view: DriftViewDep) -> Response:
    """Compare registry and server now. It changes nothing, so every client may."""
    await view.look_again()
    return see_other(request, "/drift")
